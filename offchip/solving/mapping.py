"""Loop nests of a layer or of every layer of a model on a spatial accelerator, with proofs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

import yaml

from hw_configs.problems import InputError, Problem, bad_input
from hw_configs.shown import Shown, Table
from hw_configs.typed_fields import wrong_types
from hw_configs.units import format_quantity
from hw_configs.yaml_file import read_yaml
from offchip.keywords import from_keywords
from offchip.progress import Reporter, silent
from offchip.solving.mapping_input import YAML, plain_file, read_accelerator, read_decisions, read_layers
from workloads.workload import WorkloadOptions

if TYPE_CHECKING:
    from hw_configs.device import SpatialAccelerator
    from mapping.loop_nest.search import BestMapping, MappingAnswer
    from workloads.einsum import Einsum

__all__ = ["MappedLayer", "MappingOptions", "MappingSolution", "solve_mapping"]


METHODS: Final = ("proof", "mip", "random")


@dataclass(frozen=True, slots=True)
class MappingOptions:
    """What is asked of a mapping.

    ``objective``: energy, latency or edp. ``fix``: decisions taken already, as LEVEL.DIM=COUNT (a temporal loop),
    AXIS.DIM=COUNT (a spatial one) or LEVEL.order=DIM,DIM,... (outer to inner). ``density``: shares of nonzero words as
    OPERAND=X or LAYER.OPERAND=X, where X is a number, N:M@DIM or band:ROWS,COLUMNS,BELOW,ABOVE. ``top``: so many
    mappings of a layer.
    ``evaluate``: a file with a mapping (JSON, YAML, or Timeloop's YAML), whose cost is wanted instead of the best.
    ``sharing``: windows of neighbouring tiles share words (moderate layers). ``time_limit``: seconds for a layer.
    ``method``: proof, or for comparison mip (factors by integer programming) or random (the best of ``samples``, which
    ``seed`` decides), both with their gap to what is proven. ``out``: a file for the mappings; ``plot``: a picture of
    loops and energy. From ``phase`` on: which layers a model has.
    """

    objective: str = "energy"
    fix: Sequence[str] | None = None
    density: Sequence[str] | None = None
    top: int = 1
    evaluate: str | Path | None = None
    sharing: bool = False
    time_limit: float = 60.0
    method: str = "proof"
    samples: int = 100_000
    seed: int = 0
    out: str | Path | None = None
    plot: str | Path | None = None
    phase: str | None = None
    batch: int = 1
    prompt: int = 512
    dtype: str | None = None

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        if not problems and not self.time_limit > 0:
            found = f"found {self.time_limit:g}; expected seconds above zero"
            problems.append(Problem(found, path="--time-limit"))
        if not problems and self.method not in METHODS:
            problems.append(Problem(f"found {self.method!r}; expected {', '.join(METHODS)}", path="--method"))
        if not problems and self.method != "proof" and (self.fix or self.top != 1):
            problems.append(
                Problem(f"--fix and --top go with --method proof, not {self.method}", path="--method")
            )
        if not problems and self.plot is not None and Path(self.plot).suffix.lower() not in (".svg", ".png"):
            found = f"found {Path(self.plot).suffix!r}; expected a file that ends in .svg or .png"
            problems.append(Problem(found, path="--plot"))
        if problems:
            raise InputError(problems)


class MappingChoices(TypedDict, total=False):
    """The fields of :class:`MappingOptions`, as keywords."""

    objective: str
    fix: Sequence[str] | None
    density: Sequence[str] | None
    top: int
    evaluate: str | Path | None
    sharing: bool
    time_limit: float
    method: str
    samples: int
    seed: int
    out: str | Path | None
    plot: str | Path | None
    phase: str | None
    batch: int
    prompt: int
    dtype: str | None


@dataclass(frozen=True, slots=True)
class MappedLayer:
    """A layer, how often the model has it, and its answer (None where a given mapping was priced)."""

    layer: Einsum
    count: int
    best: BestMapping
    answer: MappingAnswer | None

    def to_json(self, device: SpatialAccelerator) -> dict[str, Any]:
        """Plain data."""
        own: dict[str, Any] = {"layer": self.layer.name, "dims": dict(self.layer.sizes), "count": self.count}
        if self.layer.densities:
            own["nonzero"] = {operand: density.text() for operand, density in self.layer.densities.items()}
        if self.answer is None:
            return own | {
                "mappings": [{"mapping": self.best.nest.to_json(device), **self.best.evaluation.to_json()}]
            }
        return own | self.answer.to_json(device)


@dataclass(frozen=True)
class MappingSolution(Shown):
    """Every layer's mapping on an accelerator; ``unmapped`` counts operators that multiply no matrices, by kind."""

    device: SpatialAccelerator
    objective: str
    layers: tuple[MappedLayer, ...]
    unmapped: tuple[tuple[str, int], ...] = ()

    @property
    def energy_j(self) -> float:
        """Joules of all layers."""
        return sum(item.count * item.best.evaluation.energy_j for item in self.layers)

    @property
    def latency_s(self) -> float:
        """Seconds of all layers, one after another."""
        return sum(item.count * item.best.evaluation.latency_s for item in self.layers)

    @property
    def area_by_component_m2(self) -> dict[str, float]:
        """Square metres estimated of each memory and of the units; empty without a process."""
        from hw_configs.spatial_area import area_by_component

        return area_by_component(self.device)

    def as_json(self) -> dict[str, Any]:
        """Totals, and each layer with its mappings."""
        return {
            "accelerator": self.device.name,
            "objective": self.objective,
            "energy_j": self.energy_j,
            "latency_s": self.latency_s,
            "area_m2": dict(self.area_by_component_m2),
            "layers": [item.to_json(self.device) for item in self.layers],
            "not_mapped": dict(self.unmapped),
        }

    def shown_tables(self) -> tuple[Table, ...]:
        """One layer: its loop nest and what each level moves. Several: a line each, and the totals."""
        tables = self._of_layer(self.layers[0]) if len(self.layers) == 1 else self._of_model()
        return (*tables, *self._area())

    def _area(self) -> list[Table]:
        found = self.area_by_component_m2
        if not found:
            return []
        rows = [(name, format_quantity(area, "area")) for name, area in found.items()]
        rows.append(("all", format_quantity(sum(found.values()), "area")))
        title = "Area estimated, without networks, control and pads"
        return [Table(title, ("", ""), tuple(rows))]

    def _of_layer(self, item: MappedLayer) -> list[Table]:
        found = item.best.evaluation
        sizes = " ".join(f"{dim} {size}" for dim, size in item.layer.sizes.items())
        if item.layer.densities:
            sizes += "; nonzero: " + ", ".join(f"{o} {d.text()}" for o, d in item.layer.densities.items())
        title = f"{item.layer.name} ({sizes}) on {self.device.name}"
        nest = tuple((line,) for line in item.best.nest.text(self.device).splitlines())
        head = [
            ("energy", format_quantity(found.energy_j, "energy")),
            ("cycles", f"{found.latency_cycles:.6g} (bound by {', '.join(found.bound_by)})"),
            ("time", format_quantity(found.latency_s, "time")),
            ("utilisation", f"{100 * found.utilisation:.1f} %"),
        ]
        if item.answer is not None:
            answer = item.answer
            head.append(("status", f"{answer.status}, gap {100 * answer.gap:.2f} %, {answer.seconds:.3f} s"))
        tables = [Table(title, ("",), nest), Table("", ("", ""), tuple(head)), self._levels(item)]
        if item.answer is not None and len(item.answer.best) > 1:
            rows = tuple(
                (number, format_quantity(one.evaluation.energy_j, "energy"), f"{one.evaluation.latency_cycles:.6g}",
                 one.nest.short(self.device))
                for number, one in enumerate(item.answer.best, 1)
            )  # fmt: skip
            tables.append(Table("The best mappings", ("", "energy", "cycles", "loops, outer to inner"), rows))
        return tables

    def _levels(self, item: MappedLayer) -> Table:
        found = item.best.evaluation
        rows: list[tuple[object, ...]] = []
        for use in found.levels:
            for operand, moved in use.traffic.items():
                rows.append(
                    (
                        use.name, operand, use.occupancy_words[operand], moved.reads_down, moved.fills, moved.updates,
                        moved.reads_up, *(format_quantity(b, "size") for b in use.moved_bytes[operand]),
                        _percent(use.energy_by_operand_j[operand], found.energy_j),
                    )
                )  # fmt: skip
        rows.append(("units", *[""] * 8, _percent(found.mac_energy_j, found.energy_j)))
        columns = (
            "level", "", "tile words", "read down", "filled", "updated", "read up", "read", "written", "energy",
        )  # fmt: skip
        title = "Words moved, over all instances" + (
            ", before zeros are left out" if item.layer.densities else ""
        )
        return Table(title, columns, tuple(rows))

    def _of_model(self) -> list[Table]:
        rows = []
        for item in self.layers:
            found = item.best.evaluation
            status = "given" if item.answer is None else item.answer.status
            rows.append(
                (
                    item.layer.name, item.count, f"{item.layer.macs:.4g}", format_quantity(found.energy_j, "energy"),
                    format_quantity(found.latency_s, "time"), f"{100 * found.utilisation:.1f} %",
                    found.bound_by[0], status,
                )
            )  # fmt: skip
        columns = ("layer", "times", "MACs", "energy", "time", "utilisation", "bound by", "mapping")
        totals = [
            ("energy", format_quantity(self.energy_j, "energy")),
            ("time", format_quantity(self.latency_s, "time")),
        ]
        if self.unmapped:
            totals.append(("not mapped", ", ".join(f"{count} {kind}" for kind, count in self.unmapped)))
        return [
            Table(f"Layers on {self.device.name}, least {self.objective} each", columns, tuple(rows)),
            Table("All layers, one after another", ("", ""), tuple(totals)),
        ]


def solve_mapping(
    model: str | Path, hw: str | Path, *, progress: Reporter = silent, **options: Unpack[MappingChoices]
) -> MappingSolution:
    """The best loop nests of a layer (JSON with ``dims`` and ``tensors``, or Timeloop's problem) or of a model.

    Equal layers are solved once, several at a time. Options are the fields of :class:`MappingOptions`. Raises
    ``InputError`` for bad
    input, ``InfeasibleError`` where no mapping is legal, ``NoAnswerError`` where the time was over before one is found.

    >>> found = solve_mapping("alexnet", "eyeriss", objective="energy")
    >>> found.energy_j > 0
    True
    """
    from mapping.deadline import Budget
    from mapping.loop_nest.by_mip import mapping_by_mip
    from mapping.loop_nest.sampled import mapping_by_sampling
    from mapping.loop_nest.search import best_mapping

    chosen = from_keywords(MappingOptions, options)
    read = read_layers(
        str(model), chosen.density or (),
        WorkloadOptions(phase=chosen.phase, batch=chosen.batch, prompt=chosen.prompt, dtype=chosen.dtype),
    )  # fmt: skip
    layers, unmapped = read.counted, read.others
    device = read_accelerator(hw, read.bits)
    fixed = {layer.name: read_decisions(chosen.fix or (), device, layer, read.kinds) for layer, _ in layers}
    if chosen.evaluate is not None:
        mapped = (_priced(layers, device, chosen),)
        return _written(MappingSolution(device, chosen.objective, mapped), chosen)
    solved = []

    def best(layer: Einsum) -> MappingAnswer:
        if chosen.method == "mip":
            return mapping_by_mip(device, layer, chosen.objective, time_limit_s=chosen.time_limit)
        if chosen.method == "random":
            return mapping_by_sampling(
                device, layer, chosen.objective, samples=chosen.samples, seed=chosen.seed,
                time_limit_s=chosen.time_limit,
            )  # fmt: skip
        return best_mapping(
            device,
            layer,
            chosen.objective,
            fixed=fixed[layer.name],
            top=chosen.top,
            time_limit_s=chosen.time_limit,
        )

    # The kernels hold no lock. Each layer stands under one budget for all, which an interrupt ends.
    with (
        progress("layers", len(layers)) as tally,
        Budget().running(),
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        running = [pool.submit(copy_context().run, best, layer) for layer, _ in layers]
        try:
            for (layer, count), future in zip(layers, running, strict=True):
                answer = future.result()
                solved.append(MappedLayer(layer, count, answer.best[0], answer))
                tally.advance()
        finally:
            for future in running:
                future.cancel()
    return _written(MappingSolution(device, chosen.objective, tuple(solved), unmapped), chosen)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _priced(
    layers: list[tuple[Einsum, int]], device: SpatialAccelerator, chosen: MappingOptions
) -> MappedLayer:
    from mapping.loop_nest.search import BestMapping
    from simulator.accelerator.loop_nest.evaluate import evaluate
    from simulator.accelerator.loop_nest.nest import read_nest
    from simulator.accelerator.loop_nest.sharing import evaluate_sharing
    from simulator.accelerator.loop_nest.timeloop_mapping import is_timeloop_mapping, read_timeloop_mapping

    if len(layers) != 1:
        raise bad_input(f"a mapping is of one layer; the model has {len(layers)}", path="--evaluate")
    layer, count = layers[0]
    file = str(chosen.evaluate)
    data = read_yaml(file).data if Path(file).suffix in YAML else plain_file(Path(file))
    read = read_timeloop_mapping if is_timeloop_mapping(data) else read_nest
    nest = read(data, device, layer, file)
    price = evaluate_sharing if chosen.sharing else evaluate
    return MappedLayer(layer, count, BestMapping(nest, price(nest, device, layer)), None)


def _written(solution: MappingSolution, chosen: MappingOptions) -> MappingSolution:
    if chosen.plot is not None:
        from offchip.solving.nest_picture import draw_mapping

        draw_mapping(solution, Path(chosen.plot))
    if chosen.out is not None:
        from hw_configs.output_file import replacing

        with replacing(Path(chosen.out)) as part:
            written = solution.as_json()
            if Path(chosen.out).suffix in YAML:
                text = yaml.safe_dump(written, sort_keys=False, default_flow_style=None)
            else:
                text = json.dumps(written, indent=1) + "\n"
            part.write_text(text, encoding="utf-8")
    return solution
