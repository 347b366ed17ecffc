"""Validation kind ``loopnest``: mappings of layers onto spatial accelerators, count by count, and proven optima.

A folder holds ``architectures.json`` and ``layers.json``, and any of ``evaluations.csv`` with ``counts.csv`` and
``levels.csv`` (mappings and what they move), ``validity.csv`` (which single rule a mapping breaks) and ``optima.csv``
(least energy, latency or energy-delay product). Words have to be the same numbers; energies, cycles and optima agree
to 1e-9.
"""

from __future__ import annotations

import csv
import fnmatch
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import InputError, bad_input
from hw_configs.spatial import OPERANDS, MemoryLevel, SpatialAxis, WordBits
from offchip.validation.registry import Options, RowResult, find_file
from workloads.einsum import Einsum, read_einsum
from workloads.json_file import read_json, read_json_text

__all__ = ["reference_accelerator", "run"]

WITHIN: Final = 1e-9
_PICO: Final = 1e-12
_WORDS: Final = ("reads_down", "fills", "updates", "reads_up")
_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "evaluations.csv": (
        "id", "arch", "layer", "mapping", "compute_cycles", "latency_cycles", "utilisation", "spatial_utilisation",
        "energy_pj",
    ),
    "counts.csv": ("id", "level", "tensor", "occupancy_words", *_WORDS),
    "levels.csv": (
        "id", "level", "instances_used", "occupancy_bytes", "busiest_read_bytes", "busiest_write_bytes",
        "level_cycles", "energy_pj",
    ),
    "validity.csv": ("id", "arch", "layer", "mapping", "verdict"),
    "optima.csv": ("id", "arch", "layer", "constraints", "metric", "value"),
}  # fmt: skip


@dataclass(frozen=True)
class _Folder:
    """The inputs of a folder, by name."""

    accelerators: Mapping[str, Mapping[str, Any]]
    layers: Mapping[str, Einsum]


def run(folder: Path, rows: str, options: Options) -> Iterator[RowResult]:
    """Every row whose id matches the glob: evaluations, then validity, then optima."""
    layers_file = find_file(folder, "layers.json")
    inputs = _Folder(
        _named(find_file(folder, "architectures.json")),
        {name: read_einsum(entry, str(layers_file)) for name, entry in _named(layers_file).items()},
    )
    pattern = rows or "*"
    counts = _by_row(folder, "counts.csv")
    levels = _by_row(folder, "levels.csv")
    for name, check in (
        ("evaluations.csv", _evaluation),
        ("validity.csv", _validity),
        ("optima.csv", _optimum),
    ):
        for record in _records(folder, name):
            if not fnmatch.fnmatchcase(record["id"], pattern):
                continue
            own = record | {"counts": counts.get(record["id"], []), "levels": levels.get(record["id"], [])}
            try:
                yield check(own, inputs, options)
            except InputError as error:
                text = str(error).splitlines()[0]
                yield RowResult(record["id"], {}, {}, 0.0, "unsupported", None, text, _groups(record))


def reference_accelerator(
    entry: Mapping[str, Any], constraints: Mapping[str, Any] | None = None
) -> SpatialAccelerator:
    """An accelerator as a reference folder writes it: bytes a cycle, picojoules a byte, a clock of 1 Hz.

    ``constraints`` overrides ``capacity_bytes`` by level, ``axis_size`` and ``axis_dims`` by axis.
    """
    changed = constraints or {}
    levels = []
    for level in entry["levels"]:
        axes = tuple(
            SpatialAxis(
                axis=axis["axis"],
                size=changed.get("axis_size", {}).get(axis["axis"], axis["size"]),
                dims=_dims(changed.get("axis_dims", {}).get(axis["axis"], axis["dims"])),
                multicast=tuple(axis["multicast"]),
                reduce=tuple(axis["reduce"]),
            )
            for axis in level["fanout"]
        )
        capacity = changed.get("capacity_bytes", {}).get(level["name"], level["capacity_bytes"])
        levels.append(
            MemoryLevel(
                name=level["name"],
                capacity=None if capacity is None else float(capacity),
                holds=tuple(level["holds"]),
                read_energy=level["read_pj_per_byte"] * _PICO,
                write_energy=level["write_pj_per_byte"] * _PICO,
                read_width=float(level["read_bytes_per_cycle"]),
                write_width=float(level["write_bytes_per_cycle"]),
                fanout=axes,
            )
        )
    if entry.get("macs_per_cycle_per_unit", 1) != 1:
        raise bad_input(
            "found several multiply-accumulates per unit and cycle; expected 1", path=str(entry["name"])
        )
    word = {operand: round(8 * entry["word_bytes"][operand]) for operand in OPERANDS}
    return SpatialAccelerator(
        kind="spatial", name=entry["name"], clock=1.0, word_bits=WordBits(**word),
        mac_energy=entry["mac_pj"] * _PICO, levels=tuple(levels),
    )  # fmt: skip


def _dims(found: Any) -> Any:
    return tuple(found) if isinstance(found, list) else found


def _named(file: Path) -> dict[str, Mapping[str, Any]]:
    """The entries of a list in a JSON file, by name."""
    data = read_json(file).data
    if not isinstance(data, list) or not all(isinstance(entry, dict) and "name" in entry for entry in data):
        raise bad_input("expected a list of objects, each with a name", file=str(file), line=1)
    return {str(entry["name"]): entry for entry in data}


def _records(folder: Path, name: str) -> list[dict[str, str]]:
    """The rows of a table; none where the folder has no such table."""
    found = sorted(folder.rglob(name), key=lambda path: (len(path.parts), str(path)))
    if not found:
        return []
    with found[0].open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = [column for column in _COLUMNS[name] if column not in (reader.fieldnames or ())]
        if missing:
            raise bad_input(f"the columns {', '.join(missing)} are missing", file=str(found[0]), line=1)
        return list(reader)


def _by_row(folder: Path, name: str) -> dict[str, list[dict[str, str]]]:
    grouped: dict[str, list[dict[str, str]]] = {}
    for record in _records(folder, name):
        grouped.setdefault(record["id"], []).append(record)
    return grouped


def _groups(record: Mapping[str, Any]) -> dict[str, str]:
    names = ("arch", "kind", "metric")
    return {name: str(record[name]) for name in names if record.get(name)}


def _inputs(record: Mapping[str, Any], inputs: _Folder) -> tuple[SpatialAccelerator, Einsum]:
    for what, known in (("arch", inputs.accelerators), ("layer", inputs.layers)):
        if record[what] not in known:
            raise bad_input(f"{record[what]!r} is in no file of the folder", path=what)
    constraints = read_json_text(record.get("constraints") or "{}", "constraints").data
    try:
        device = reference_accelerator(inputs.accelerators[record["arch"]], constraints)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise bad_input(
            f"is no architecture: {type(error).__name__} {error!s:.80}", path=record["arch"]
        ) from None
    return device, inputs.layers[record["layer"]]


def _evaluation(record: Mapping[str, Any], inputs: _Folder, options: Options) -> RowResult:  # noqa: ARG001
    from simulator.accelerator.loop_nest.evaluate import evaluate
    from simulator.accelerator.loop_nest.nest import read_nest
    from simulator.accelerator.loop_nest.sharing import evaluate_sharing

    device, layer = _inputs(record, inputs)
    nest = read_nest(read_json_text(record["mapping"], "mapping").data, device, layer, record["id"])
    started = time.process_time()
    found = evaluate(nest, device, layer)
    seconds = time.process_time() - started
    expected: dict[str, float] = {}
    ours: dict[str, float] = {}

    def compare(name: str, text: str, value: float) -> None:
        if text:
            expected[name], ours[name] = float(text), value

    compare("compute_cycles", record["compute_cycles"], found.compute_cycles)
    compare("latency_cycles", record["latency_cycles"], found.latency_cycles)
    compare("utilisation", record["utilisation"], found.utilisation)
    compare("spatial_utilisation", record["spatial_utilisation"], found.spatial_utilisation)
    compare("energy_pj", record["energy_pj"], found.energy_j / _PICO)
    uses = {use.name: use for use in found.levels}
    for row in record["counts"]:
        use, operand = uses[row["level"]], row["tensor"]
        compare(f"{use.name}.{operand}.occupancy", row["occupancy_words"], use.occupancy_words[operand])
        for name in _WORDS:
            compare(f"{use.name}.{operand}.{name}", row[name], getattr(use.traffic[operand], name))
    for row in record["levels"]:
        use = uses[row["level"]]
        compare(f"{use.name}.instances", row["instances_used"], use.instances)
        compare(f"{use.name}.occupancy_bytes", row["occupancy_bytes"], use.occupancy_bytes)
        compare(f"{use.name}.busiest_read_bytes", row["busiest_read_bytes"], use.busiest_read_bytes)
        compare(f"{use.name}.busiest_write_bytes", row["busiest_write_bytes"], use.busiest_write_bytes)
        compare(f"{use.name}.level_cycles", row["level_cycles"], use.cycles)
        compare(f"{use.name}.energy_pj", row["energy_pj"], use.energy_j / _PICO)
    if record.get("energy_pj_delta"):
        shared = evaluate_sharing(nest, device, layer)
        compare("energy_pj_delta", record["energy_pj_delta"], shared.energy_j / _PICO)
        compare("latency_cycles_delta", record["latency_cycles_delta"], shared.latency_cycles)
        uses = {use.name: use for use in shared.levels}
        for row in record["counts"]:
            for name in _WORDS:
                own = uses[row["level"]].traffic[row["tensor"]]
                compare(
                    f"{row['level']}.{row['tensor']}.delta_{name}", row[f"delta_{name}"], getattr(own, name)
                )
    return _verdict(record, expected, ours, seconds)


def _validity(record: Mapping[str, Any], inputs: _Folder, options: Options) -> RowResult:  # noqa: ARG001
    from simulator.accelerator.loop_nest.nest import breach, read_nest

    device, layer = _inputs(record, inputs)
    found = (
        breach(
            read_nest(read_json_text(record["mapping"], "mapping").data, device, layer, record["id"]),
            device,
            layer,
        )
        or "ok"
    )
    same = found == record["verdict"]
    return RowResult(
        record["id"], {"verdict": record["verdict"]}, {"verdict": found}, 0.0, "ok" if same else "off",
        0.0 if same else 1.0, "" if same else "another rule is broken first", _groups(record),
    )  # fmt: skip


def _optimum(record: Mapping[str, Any], inputs: _Folder, options: Options) -> RowResult:
    from mapping.loop_nest.search import best_mapping

    device, layer = _inputs(record, inputs)
    metric = record["metric"]
    started = time.process_time()
    answer = best_mapping(device, layer, metric, time_limit_s=options.time_limit_s)
    seconds = time.process_time() - started
    scale = {"energy": 1 / _PICO, "latency": 1.0, "edp": 1 / _PICO}[metric]
    ours = {metric: answer.value * scale, "bound": answer.bound * scale}
    expected = {metric: float(record["value"]), "bound": float(record["value"])}
    return _verdict(record, expected, ours, seconds)


def _verdict(
    record: Mapping[str, Any], expected: dict[str, float], ours: dict[str, float], seconds: float
) -> RowResult:
    errors = {name: abs(ours[name] - value) / max(abs(value), 1e-30) for name, value in expected.items()}
    worst = max(errors, key=errors.__getitem__)
    ok = errors[worst] <= WITHIN
    note = "" if ok else f"{worst}: {ours[worst]:.12g} for {expected[worst]:.12g}"
    return RowResult(
        record["id"], expected, ours, seconds, "ok" if ok else "off", errors[worst], note, _groups(record)
    )
