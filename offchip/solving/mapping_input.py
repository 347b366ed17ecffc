"""What ``solve mapping`` is given: an accelerator, layers and decisions, from files of several programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hw_configs.problems import bad_input
from hw_configs.yaml_file import read_yaml
from offchip.solving.densities import read_densities
from workloads.einsum import read_einsum
from workloads.json_file import read_json
from workloads.timeloop_problem import is_problem, read_problem
from workloads.workload import WorkloadOptions
from workloads.zigzag_layers import is_zigzag_workload, read_zigzag_workload

if TYPE_CHECKING:
    from hw_configs.device import SpatialAccelerator
    from hw_configs.spatial import Operand
    from mapping.loop_nest.space import Fixed
    from offchip.solving.densities import SaidDensities
    from workloads.einsum import Einsum

__all__ = [
    "YAML",
    "Layers",
    "holds_layers",
    "plain_file",
    "read_accelerator",
    "read_decisions",
    "read_fixed",
    "read_layers",
]

MOST_FILE_BYTES: Final = 16 << 20
YAML: Final = (".yaml", ".yml")


@dataclass(frozen=True)
class Layers:
    """Layers, each with how often it comes; how many operators multiply no matrices, by kind.

    Of ZigZag's workloads also the bits of their words, and the kind of operator by layer.
    """

    counted: list[tuple[Einsum, int]]
    others: tuple[tuple[str, int], ...] = ()
    bits: Mapping[Operand, int] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)


def read_accelerator(hw: str | Path, bits: Mapping[Operand, int]) -> SpatialAccelerator:
    """The accelerator of a name or file: Offchip's own, Timeloop's architecture, ZigZag's hardware.

    ``bits`` of words are those of the workload, for files that do not state them.
    """
    from hw_configs.device import SpatialAccelerator
    from hw_configs.library import load_device
    from hw_configs.timeloop_architecture import (
        TIMELOOP_TAGS,
        is_timeloop_architecture,
        read_timeloop_architecture,
    )
    from hw_configs.zigzag_architecture import is_zigzag_architecture, read_zigzag_architecture

    if Path(hw).suffix in YAML:
        document = read_yaml(hw, TIMELOOP_TAGS)
        if is_timeloop_architecture(document.data):
            return read_timeloop_architecture(document)
        if is_zigzag_architecture(document.data):
            return read_zigzag_architecture(document, bits)
    device = load_device(hw)
    if not isinstance(device, SpatialAccelerator):
        raise bad_input(
            f"{device.name!r} is of kind {device.kind!r}; expected one of kind 'spatial', with its memory levels "
            "(offchip hw list)",
            path="--hw",
        )
    return device


def read_layers(model: str, densities: Sequence[str], options: WorkloadOptions) -> Layers:
    """The layers of a model, a layer's file, Timeloop's problem or ZigZag's workload; equal ones once."""
    said = read_densities(densities)
    found = _own_layers(model)
    layers = found or _of_model(model, said, options)
    if found is not None:
        layers = Layers(
            [(said.of(layer), count) for layer, count in found.counted], found.others, found.bits, found.kinds
        )
    said.all_used()
    return layers


def read_decisions(
    entries: Sequence[str], device: SpatialAccelerator, layer: Einsum, kinds: Mapping[str, str]
) -> Fixed:
    """What is decided of a layer: :func:`read_fixed`, or ZigZag's mapping where the only entry is a file's name."""
    if len(entries) == 1 and Path(entries[0]).suffix in YAML and "=" not in entries[0]:
        from offchip.solving.zigzag_mapping import is_zigzag_mapping, zigzag_decisions

        data = read_yaml(entries[0]).data
        if not is_zigzag_mapping(data):
            raise bad_input("expected a list of entries with spatial_mapping", file=entries[0])
        return zigzag_decisions(data, kinds.get(layer.name, ""), layer, device, entries[0])
    return read_fixed(entries, device)


def read_fixed(entries: Sequence[str], device: SpatialAccelerator) -> Fixed:
    """Decisions as :class:`MappingOptions` describes them; what does not read is refused."""
    from mapping.loop_nest.space import Fixed

    levels = {memory.name for memory in device.levels}
    temporal: dict[tuple[str, str], int] = {}
    spatial: dict[tuple[str, str], int] = {}
    order: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        target, equals, value = entry.partition("=")
        name, dot, what = target.partition(".")
        if not (equals and dot and name and what and value):
            raise bad_input(
                f"found {entry!r:.60}; expected LEVEL.DIM=COUNT, AXIS.DIM=COUNT or LEVEL.order=DIM,DIM",
                path="--fix",
            )
        if what == "order":
            order[name] = tuple(value.split(","))
            continue
        if not (value.isascii() and value.isdigit() and len(value) < 12):
            raise bad_input(f"found {value!r:.40}; expected a count", path=f"--fix {target}")
        (temporal if name in levels else spatial)[name, what] = int(value)
    return Fixed(temporal, spatial, order)


def _of_model(model: str, said: SaidDensities, options: WorkloadOptions) -> Layers:
    from simulator.accelerator.loop_nest.layers import layers_of
    from workloads.importers import load_workload

    found: dict[tuple[Any, ...], tuple[Einsum, int]] = {}
    unmapped: dict[str, int] = {}
    for phase in load_workload(model, options).phases:
        for operator in phase.graph.operators:
            own = layers_of(operator)
            if not own:
                unmapped[operator.kind] = unmapped.get(operator.kind, 0) + 1
            for dense in own:
                layer = said.of(dense)
                key = (
                    tuple(layer.sizes.items()), tuple(sorted(layer.operands.items())),
                    tuple(sorted((o, d.text()) for o, d in layer.densities.items())),
                )  # fmt: skip
                known, count = found.get(key, (layer, 0))
                found[key] = (known, count + 1)
    if not found:
        raise bad_input(f"{model} has no operator that multiplies matrices", path="MODEL")
    return Layers(list(found.values()), tuple(unmapped.items()))


def holds_layers(model: str) -> bool:
    """Whether a file holds layers, rather than a model. Raises ``InputError`` for one that does not read."""
    return _own_layers(model) is not None


def _own_layers(model: str) -> Layers | None:
    """The layers of a file that holds layers; None for a model."""
    if Path(model).suffix in YAML:
        data = read_yaml(model).data
        if is_problem(data):
            return Layers([(read_problem(data, model), 1)])
        if is_zigzag_workload(data):
            read = read_zigzag_workload(data, model)
            others = tuple((kind, read.others.count(kind)) for kind in dict.fromkeys(read.others))
            return Layers([(layer, 1) for layer in read.layers], others, read.bits, read.types)
    if Path(model).suffix == ".json" and (data := plain_file(Path(model))).keys() >= {"dims", "tensors"}:
        return Layers([(read_einsum(data, model), 1)])
    return None


def plain_file(path: Path) -> dict[str, Any]:
    """A JSON object; ``InputError`` for anything else."""
    data = read_json(path, MOST_FILE_BYTES).data
    if not isinstance(data, dict):
        raise bad_input("expected an object", file=str(path), line=1)
    return data
