"""The data of a run's page, read from the folder that ``offchip simulate --out`` wrote.

Times go into the page as whole picoseconds, which keeps it small and exact.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import bad_input
from offchip.report.packing import stack
from offchip.report.sankey import Flow, layout
from simulator.result import without_numbers

__all__ = ["MAX_EVENTS", "Folder", "read_folder", "run_page"]

MAX_EVENTS: Final = 250_000
"""Tasks and stays that a page carries; what is beyond is left out, and the page says so."""
MAX_FILE_BYTES: Final = 2**31
MAX_POINTS: Final = 3000
PICOSECONDS: Final = 1e12

Folder = dict[str, Any]


def read_folder(folder: Path) -> tuple[Folder, Folder]:
    """``result.json`` and ``detail.json.gz`` of a run; ``InputError`` when one is missing or something else."""
    result = _read(folder / "result.json", "offchip-result-1")
    detail = _read(folder / "detail.json.gz", "offchip-detail-1")
    return result, detail


def _read(path: Path, form: str) -> Folder:
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                content = file.read(MAX_FILE_BYTES + 1)
        else:
            with path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise bad_input(f"has more than {MAX_FILE_BYTES} bytes", file=str(path))
        data = json.loads(content)
    except FileNotFoundError:
        raise bad_input(
            "no such file; 'offchip simulate MODEL --hw SYSTEM --out DIR' writes it", file=str(path)
        ) from None
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise bad_input(f"cannot be read: {error}", file=str(path)) from None
    if not isinstance(data, dict) or data.get("format") != form:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise bad_input(f"found {found!r}; expected {form!r}", file=str(path), path="format")
    return data


def run_page(result: Mapping[str, Any], detail: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the page of a run shows, as plain data."""
    columns = detail["columns"]
    record = detail["record"] or {}
    return {
        "kind": "run",
        "title": f"{result['model']} on {result['system']}",
        "model": result["model"],
        "system": result["system"],
        "mapper": result["mapper"],
        "summary": result["summary"],
        "phases": [
            {**phase, "start": _ps(phase["start_s"]), "end": _ps(phase["end_s"])}
            for phase in result["phases"]
        ],
        "end": _ps(result["summary"]["makespan_s"]),
        "timeline": _timeline(columns, record),
        "memories": [
            {
                "name": name,
                **{key: use[key] for key in _MEMORY_KEYS},
                "time": [_ps(time) for time in detail["curves"][name][0]],
                "bytes": [int(size) for size in detail["curves"][name][1]],
                "live": use["live_at_peak"],
                "live_count": use["live_at_peak_count"],
            }
            for name, use in result["memories"].items()
        ],
        "packing": _packing(record),
        "packing_left_out": record.get("placements_left_out", 0),
        "flows": {"bytes": byte_flows(result, record), "energy": energy_flows(result, record)},
        "roofline": roofline(columns, record),
        "operators": operators(columns),
        "devices": list(result["devices"].values()),
        "links": list(result["links"].values()),
        "recorded": bool(record),
        "warnings": result["warnings"],
        "provenance": result["provenance"],
    }


_MEMORY_KEYS: Final = (
    "technology", "capacity_bytes", "usable_bytes", "resident_bytes", "peak_bytes", "peak_time_s", "read_bytes",
    "written_bytes",
)  # fmt: skip


def _ps(seconds: float) -> int:
    return round(seconds * PICOSECONDS)


def _numbers(values: Sequence[str]) -> tuple[list[str], list[int]]:
    """Distinct values in order of appearance, and for each value its place among them."""
    names: dict[str, int] = {}
    codes = [names.setdefault(value, len(names)) for value in values]
    return list(names), codes


def _timeline(columns: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    events = len(columns["task"])
    shown = min(events, MAX_EVENTS)
    cut = {name: values[:shown] for name, values in columns.items()}
    lanes: dict[tuple[str, str], int] = {}
    lane = [lanes.setdefault(pair, len(lanes)) for pair in zip(cut["device"], cut["stream"], strict=True)]
    groups = [without_numbers(op or task) for op, task in zip(cut["operator"], cut["task"], strict=True)]
    data: dict[str, Any] = {"events": events, "shown": shown, "lane": lane}
    data["lanes"] = [{"device": device, "stream": stream} for device, stream in lanes]
    for name, values in (
        ("task", cut["task"]),
        ("group", groups),
        ("kind", [kind or "other" for kind in cut["operator_kind"]]),
        ("bound", cut["bound_by"]),
    ):
        data[f"{name}s"], data[name] = _numbers(values)
    data["phase"] = cut["phase"]
    data["start"] = [_ps(time) for time in cut["start"]]
    data["length"] = [_ps(end) - _ps(start) for start, end in zip(cut["start"], cut["end"], strict=True)]
    for name in ("flops", "bytes", "energy"):
        data[name] = [float(f"{value:.5g}") for value in cut[name]]
    data["critical"] = [index for index in record.get("critical", []) if index < shown]
    data["waited"] = [index for index in record.get("waited_for_memory", []) if index < shown]
    return data


def _packing(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The stays in each memory. Where the plan fixes addresses they are shown; the rest is stacked."""
    by_memory: dict[str, list[Any]] = defaultdict(list)
    for entry in record.get("placements", [])[:MAX_EVENTS]:
        by_memory[entry[0]].append(entry)
    maps = []
    for memory, entries in by_memory.items():
        placed = [entry for entry in entries if entry[4] is not None]
        planned = bool(placed)
        shown = placed if planned else entries
        starts, ends = [e[5] for e in shown], [e[6] for e in shown]
        sizes = [e[3] for e in shown]
        offsets = [e[4] for e in shown] if planned else stack(sizes, starts, ends)
        tensors, tensor = _numbers([e[1] for e in shown])
        roles, role = _numbers([e[2] for e in shown])
        maps.append(
            {
                "memory": memory, "planned": planned, "unplanned": len(entries) - len(placed),
                "tensors": tensors, "tensor": tensor, "roles": roles, "role": role, "size": sizes,
                "offset": offsets, "start": [_ps(t) for t in starts],
                "length": [_ps(b) - _ps(a) for a, b in zip(starts, ends, strict=True)],
            }
        )  # fmt: skip
    return maps


def _group(name: str, groups: Mapping[str, str]) -> str:
    """Members of one group of devices share a box in the flow diagrams."""
    group = groups.get(name, name)
    return group if sum(1 for other in groups.values() if other == group) > 1 else name


def byte_flows(result: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes read from memories, by what, and written to which: boxes and ribbons.

    What a memory read and wrote beyond its operators' traffic went over links.
    """
    groups = record.get("groups", {})
    reads: dict[tuple[str, str], float] = defaultdict(float)
    writes: dict[tuple[str, str], float] = defaultdict(float)
    for key, totals, entries in (
        ("read_bytes", reads, record.get("reads", [])),
        ("written_bytes", writes, record.get("writes", [])),
    ):
        left = {name: use[key] for name, use in result["memories"].items()}
        for memory, kind, amount in entries:
            totals[_group(memory, groups), kind] += amount
            left[memory] = left.get(memory, 0.0) - amount
        for memory, amount in left.items():
            if amount > 0.5:
                totals[_group(memory, groups), "over links" if record else "everything"] += amount
    return layout(
        [
            [Flow(memory, kind, amount) for (memory, kind), amount in reads.items()],
            [Flow(kind, f"{memory} ", amount) for (memory, kind), amount in writes.items()],
        ]
    )


def energy_flows(result: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Joules by component, and by the kind of operator they were spent on; the sum is the run's energy."""
    groups = record.get("groups", {})
    spent: dict[tuple[str, str], float] = defaultdict(float)
    left = {name: joules for name, joules in result["energy_j"].items() if name != "total"}
    for part in ("compute", "memory"):
        for owner, kind, joules in record.get(f"{part}_energy", []):
            spent[f"{_group(owner, groups)} {part}", kind] += joules
            left[f"{owner} {part}"] -= joules
    total = result["energy_j"]["total"]
    rest = {"memory": "over links", "link": "over links", "idle": "idle power", "compute": "other"}
    for name, joules in left.items():
        owner, _, part = name.rpartition(" ")
        # A link's name holds its two ends (nvlink:gpu0-switch0); its kind stands before the colon.
        box = f"{owner.partition(':')[0]} links" if part == "link" else f"{_group(owner, groups)} {part}"
        if joules > total * 1e-12:
            spent[box, rest.get(part, part)] += joules
    first: dict[str, float] = defaultdict(float)
    for (box, _), joules in spent.items():
        first[box] += joules
    return layout(
        [
            [Flow("energy", box, joules) for box, joules in first.items()],
            [Flow(box, kind, joules) for (box, kind), joules in spent.items()],
        ]
    )


def roofline(columns: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Every operator by arithmetic intensity and rate reached; operators that coincide are one point."""
    points: dict[tuple[str, str, str, float, float], list[float]] = {}
    total = 0
    for index, flops in enumerate(columns["flops"]):
        seconds = columns["end"][index] - columns["start"][index] - columns["launch"][index]
        moved = columns["bytes"][index]
        if flops and moved and seconds > 0:
            total += 1
            key = (
                columns["device"][index],
                columns["operator_kind"][index],
                without_numbers(columns["operator"][index]),
                float(f"{flops / moved:.3g}"),
                float(f"{flops / seconds:.3g}"),
            )
            entry = points.setdefault(key, [0.0, 0.0])
            entry[0] += 1
            entry[1] += seconds
    ranked = sorted(points.items(), key=lambda item: (-item[1][1], item[0]))
    return {
        "operators": total,
        "distinct": len(ranked),
        "devices": [
            {"name": name, **roof, "rates": _distinct(roof["rates"])}
            for name, roof in record.get("roofs", {}).items()
        ],
        "points": [
            {"device": device, "kind": kind, "group": group, "intensity": x, "rate": y, "calls": int(calls),
             "seconds": seconds}
            for (device, kind, group, x, y), (calls, seconds) in ranked[:MAX_POINTS]
        ],
    }  # fmt: skip


def _distinct(rates: Mapping[str, float]) -> dict[str, float]:
    """Kinds of arithmetic that run at one rate share a roof."""
    names: dict[float, list[str]] = defaultdict(list)
    for name, rate in rates.items():
        names[rate].append(name)
    return {", ".join(sorted(group)): rate for rate, group in names.items()}


def operators(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per operator, summed over layers, devices and phases; most time first."""
    rows: dict[str, dict[str, Any]] = {}
    bounds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for index, operator in enumerate(columns["operator"]):
        key = without_numbers(operator or columns["task"][index])
        kind = columns["operator_kind"][index] or "other"
        row = rows.setdefault(
            key,
            {
                "operator": key,
                "kind": kind,
                "calls": 0,
                "seconds": 0.0,
                "flops": 0.0,
                "bytes": 0.0,
                "energy": 0.0,
            },
        )
        seconds = columns["end"][index] - columns["start"][index]
        row["calls"] += 1
        row["seconds"] += seconds
        for name in ("flops", "bytes", "energy"):
            row[name] += columns[name][index]
        bounds[key][columns["bound_by"][index]] += seconds
    whole = sum(row["seconds"] for row in rows.values()) or 1.0
    for key, row in rows.items():
        row["share"] = row["seconds"] / whole
        row["rate"] = row["flops"] / row["seconds"] if row["seconds"] else 0.0
        row["intensity"] = row["flops"] / row["bytes"] if row["bytes"] else 0.0
        row["bound"] = max(bounds[key].items(), key=lambda item: item[1])[0]
    return sorted(rows.values(), key=lambda row: (-row["seconds"], row["operator"]))
