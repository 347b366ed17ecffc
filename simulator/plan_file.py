"""Plans as JSON files of the format ``offchip-plan-1``: written whole or not at all, read as untrusted input.

What is checked here is a plan's form, each problem with its line; whether a plan fits a graph and a system is for
:func:`simulator.check.check` to say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, Final

from hw_configs.output_file import replacing
from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.whole_number import is_whole
from simulator.plan import (
    FORMAT,
    TASK_CLASSES,
    TASK_FIELDS,
    Division,
    ExpertGroups,
    Home,
    NotesOfFile,
    Pieces,
    Plan,
    PlanNotes,
    Sparsity,
    Split,
    Task,
    Tiling,
)
from workloads.graph import Attribute
from workloads.json_file import JsonDocument, JsonPath, read_json

__all__ = ["plan_from_json", "read_plan", "write_plan"]

MAX_FILE_BYTES: Final = 2**30
MAX_BYTES: Final = 2**60
"""More of anything than a task can move."""
MOST_SECONDS: Final = 1e6
"""That software may take before a transfer."""


def write_plan(plan: Plan, path: str | Path) -> None:
    """Write a plan as JSON, through a temporary name; ``InputError`` when it cannot be written."""
    with replacing(path) as part:
        part.write_text(json.dumps(plan.to_json(), indent=1) + "\n", encoding="utf-8")


def read_plan(path: str | Path) -> Plan:
    """The plan in a JSON file; raises ``InputError`` with every problem of its form, and the line of each."""
    document = read_json(path, MAX_FILE_BYTES)
    try:
        return plan_from_json(document.data, document.file)
    except InputError as error:
        raise InputError(_located(problem, document) for problem in error.problems) from None


def _located(problem: Problem, document: JsonDocument) -> Problem:
    """The problem with the line of its field, or of the nearest part of the field that stands in the file."""
    path: JsonPath = ()
    data, rest = document.data, (problem.path or "").split(".")
    while rest:
        # Names of tensors hold dots, so that a key may be several parts of the path.
        for count in range(len(rest), 0, -1):
            name = ".".join(rest[:count])
            key: str | int = name
            if isinstance(data, list) and is_whole(name) and int(name) < len(data):
                key = int(name)
            elif not isinstance(data, dict) or key not in data:
                continue
            path, data, rest = (*path, key), data[key], rest[count:]
            break
        else:
            break
    return replace(problem, line=document.line_of(path))


_PLAN_FIELDS: Final = (
    "format",
    "graph",
    "system",
    "mapper",
    "notes",
    "homes",
    "splits",
    "precision",
    "divisions",
    "pieces",
    "experts",
    "kernels",
    "appends",
    "sparsity",
    "views",
    "tiles",
    "tasks",
)


def plan_from_json(data: Any, file: str) -> Plan:
    """The plan that :meth:`Plan.to_json` made plain data; ``InputError`` names ``file`` and every problem."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise bad_input(f"found {found!r}; expected a plan of format {FORMAT!r}", file=file, path="format")
    problems = [
        Problem(f"unknown key {key!r}", file, None, key, nearest(key, _PLAN_FIELDS))
        for key in data
        if key not in _PLAN_FIELDS
    ]
    for key, kind in (
        ("homes", dict),
        ("splits", dict),
        ("precision", dict),
        ("notes", dict),
        ("divisions", dict),
        ("pieces", dict),
        ("experts", dict),
        ("kernels", dict),
        ("appends", list),
        ("sparsity", dict),
        ("views", dict),
        ("tiles", dict),
        ("tasks", list),
    ):
        if not isinstance(data.get(key, kind()), kind):
            problems.append(Problem(f"expected a {kind.__name__}", file, None, key))
            data[key] = kind()
    tasks = [_task_from(entry, index, file, problems) for index, entry in enumerate(data.get("tasks", []))]
    homes = _homes_from(data.get("homes", {}), file, problems)
    splits = _splits_from(data.get("splits", {}), file, problems)
    divisions = _divisions_from(data.get("divisions", {}), file, problems)
    pieces = _pieces_from(data.get("pieces", {}), file, problems)
    experts = _experts_from(data.get("experts", {}), file, problems)
    kernels = _kernels_from(data.get("kernels", {}), file, problems)
    sparsity = _sparsity_from(data.get("sparsity", {}), file, problems)
    tiles = _tiles_from(data.get("tiles", {}), file, problems)
    if problems:
        raise InputError(problems)
    return Plan(
        str(data.get("graph", "")),
        str(data.get("system", "")),
        str(data.get("mapper", "")),
        tuple(task for task in tasks if task is not None),
        homes,
        splits,
        {str(tensor): str(dtype) for tensor, dtype in data.get("precision", {}).items()},
        NotesOfFile(data["notes"]) if data.get("notes") else PlanNotes(),
        divisions,
        pieces,
        tuple(str(name) for name in data.get("appends", [])),
        {str(tensor): str(source) for tensor, source in data.get("views", {}).items()},
        tiles,
        sparsity,
        kernels=kernels,
        experts=experts,
    )


def _task_from(entry: Any, index: int, file: str, problems: list[Problem]) -> Task | None:
    where = f"tasks.{index}"
    if not isinstance(entry, dict):
        problems.append(Problem("expected a task object", file, None, where))
        return None
    cls = TASK_CLASSES.get(str(entry.get("kind")))
    if cls is None:
        near = nearest(str(entry.get("kind")), TASK_CLASSES)
        message = f"found {entry.get('kind')!r}; expected compute, transfer or collective"
        problems.append(Problem(message, file, None, f"{where}.kind", near))
        return None
    found = [
        replace(problem, file=file, path=f"{where}.{problem.path}" if problem.path else where)
        for problem in (*_stray_fields(entry, cls), *_wrong_values(entry), *_missing_fields(entry, cls))
    ]
    if found:
        problems.extend(found)
        return None
    values = {key: value for key, value in entry.items() if key != "kind"}
    for key in ("group", "after", "streamed"):
        if key in values:
            values[key] = tuple(str(item) for item in values[key])
    if "frees" in values:
        values["frees"] = tuple((str(tensor), str(memory)) for tensor, memory in values["frees"])
    if "wait_s" in values:
        values["wait_s"] = float(values["wait_s"])
    return cls(**values)


def _stray_fields(entry: dict[str, Any], cls: type[Task]) -> Iterator[Problem]:
    """Keys that no task has, and keys that a task of another kind has."""
    own = {item.name for item in fields(cls)}
    kind = entry["kind"]
    for key in entry:
        if key == "kind" or key in own:
            continue
        if key not in TASK_FIELDS:
            yield Problem(f"unknown key {key!r}", path=key, suggestion=nearest(key, (*own, "kind")))
            continue
        others = [name for name, other in TASK_CLASSES.items() if key in {f.name for f in fields(other)}]
        yield Problem(f"a {kind} task has no {key!r}; a {' or '.join(others)} task has", path=key)
    if kind == "compute" and entry.get("source") and not entry.get("streamed"):
        yield Problem("names a source; a compute task has one only for 'streamed' inputs", path="source")


def _missing_fields(entry: dict[str, Any], cls: type[Task]) -> Iterator[Problem]:
    for item in fields(cls):
        if item.default is MISSING and item.default_factory is MISSING and not entry.get(item.name):
            yield Problem(f"missing key {item.name!r}")


def _wrong_values(entry: dict[str, Any]) -> Iterator[Problem]:
    """Values of the wrong type or range; the keys that are right are left for the other checks."""
    for key, value in entry.items():
        kind = TASK_FIELDS.get(key)
        if kind is int:
            if not _is_address(value) or value > MAX_BYTES:
                yield Problem("expected a whole number of at least 0", path=key)
        elif kind is float:
            if not _is_seconds(value):
                yield Problem(f"found {value!r}; expected seconds, 0 to {MOST_SECONDS:g}", path=key)
        elif kind is not None and not isinstance(value, kind):
            yield Problem(f"found {value!r}; expected {kind.__name__}", path=key)
    frees = entry.get("frees", [])
    if isinstance(frees, list) and not all(isinstance(pair, list) and len(pair) == 2 for pair in frees):
        yield Problem("expected pairs [tensor, memory]", path="frees")
    addresses = entry.get("addresses", {})
    if isinstance(addresses, dict) and not all(_is_address(a) for a in addresses.values()):
        yield Problem("addresses must be integers of at least 0", path="addresses")
    over = entry.get("in_place", {})
    if isinstance(over, dict) and not all(isinstance(name, str) for name in over.values()):
        yield Problem("expected an input by output", path="in_place")


def _homes_from(data: dict[str, Any], file: str, problems: list[Problem]) -> dict[str, tuple[Home, ...]]:
    homes: dict[str, tuple[Home, ...]] = {}
    for tensor, entries in data.items():
        try:
            homes[tensor] = tuple(Home(str(e["memory"]), e.get("address")) for e in entries)
            if not all(home.address is None or _is_address(home.address) for home in homes[tensor]):
                raise ValueError
        except (TypeError, KeyError, AttributeError, ValueError):
            message = f"found {entries!r}; expected a list of {{memory, address}}"
            problems.append(Problem(message, file, None, f"homes.{tensor}"))
    return homes


def _splits_from(data: dict[str, Any], file: str, problems: list[Problem]) -> dict[str, Split]:
    splits: dict[str, Split] = {}
    for operator, entry in data.items():
        axes = ("column", "row", "head", "split", "vocab", "sum", "replicated")
        devices = entry.get("devices") if isinstance(entry, dict) else None
        if not (isinstance(devices, list) and devices and entry.get("axis") in axes):
            message = f"found {entry!r}; expected {{axis, devices}} with axis one of {', '.join(axes)}"
            problems.append(Problem(message, file, None, f"splits.{operator}"))
        else:
            splits[operator] = Split(entry["axis"], tuple(str(device) for device in devices))
    return splits


def _divisions_from(data: dict[str, Any], file: str, problems: list[Problem]) -> dict[str, Division]:
    divisions: dict[str, Division] = {}
    for tensor, entry in data.items():
        counts = _counts(entry)
        read = entry.get("read", [True] * len(counts)) if isinstance(entry, dict) else None
        axis = entry.get("axis", 0) if isinstance(entry, dict) else None
        flags = isinstance(read, list) and len(read) == len(counts) and all(isinstance(x, bool) for x in read)
        if not (counts and flags and _is_address(axis)):
            message = f"found {entry!r}; expected {{axis, counts, read}}: an axis, whole numbers of 1 or more, flags"
            problems.append(Problem(message, file, None, f"divisions.{tensor}"))
        else:
            divisions[tensor] = Division(int(axis), counts, tuple(read))  # type: ignore[arg-type]
    return divisions


def _pieces_from(data: dict[str, Any], file: str, problems: list[Problem]) -> dict[str, Pieces]:
    pieces: dict[str, Pieces] = {}
    for operator, entry in data.items():
        counts = _counts(entry)
        if not counts or entry.get("axis") not in ("batch", "head"):
            message = (
                f"found {entry!r}; expected {{axis, counts}} with axis batch or head, counts of 1 or more"
            )
            problems.append(Problem(message, file, None, f"pieces.{operator}"))
        else:
            pieces[operator] = Pieces(entry["axis"], counts)
    return pieces


def _experts_from(data: dict[str, Any], file: str, problems: list[Problem]) -> dict[str, ExpertGroups]:
    experts: dict[str, ExpertGroups] = {}
    for block, entry in data.items():
        where = f"experts.{block}"
        counts = _counts(entry)
        if not counts:
            message = (
                f"found {entry!r}; expected {{counts, shares, touched}}: whole numbers of 1 or more, shares"
            )
            problems.append(Problem(message, file, None, where))
            continue
        shares, touched = _figures(entry.get("shares")), _figures(entry.get("touched", []))
        stray = [key for key in entry if key not in ("counts", "shares", "touched")]
        problems.extend(
            Problem(f"unknown key {key!r}", file, None, where, nearest(key, ("counts", "shares", "touched")))
            for key in stray
        )
        if shares is None or touched is None or len(shares) != len(counts):
            message = "expected as many shares as counts, and touched as finite figures of at least 0"
            problems.append(Problem(message, file, None, where))
        elif not stray:
            experts[block] = ExpertGroups(counts, shares, touched)
    return experts


def _figures(values: Any) -> tuple[float, ...] | None:
    """A list of finite figures of at least 0; None for anything else."""
    if not isinstance(values, list):
        return None
    good = all(
        isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < float("inf") for v in values
    )
    return tuple(float(value) for value in values) if good else None


def _tiles_from(data: dict[str, Any], file: str, problems: list[Problem]) -> dict[str, Tiling]:
    tiles: dict[str, Tiling] = {}
    for name, entry in data.items():
        known = isinstance(entry, dict) and entry.get("axis") in ("row", "channel")
        parts, chain = (entry.get("parts"), entry.get("operators")) if known else (0, None)
        if not (isinstance(parts, int) and parts >= 2 and isinstance(chain, list) and chain):
            message = (
                f"found {entry!r}; expected {{axis, parts, operators}}: row or channel, 2 or more, names"
            )
            problems.append(Problem(message, file, None, f"tiles.{name}"))
        else:
            tiles[name] = Tiling(entry["axis"], parts, tuple(str(item) for item in chain))
    return tiles


def _sparsity_from(data: dict[str, Any], file: str, problems: list[Problem]) -> dict[str, Sparsity]:
    sparsity: dict[str, Sparsity] = {}
    for operator, entry in data.items():
        kept = entry.get("kept") if isinstance(entry, dict) else None
        groups = entry.get("groups") if isinstance(entry, dict) else None
        if not _is_share(kept) or not (groups is None or _is_share(groups)):
            message = f"found {entry!r}; expected {{kept, groups}}: shares above 0, at most 1"
            problems.append(Problem(message, file, None, f"sparsity.{operator}"))
        else:
            sparsity[operator] = Sparsity(float(kept), None if groups is None else float(groups))  # type: ignore[arg-type]
    return sparsity


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1


def _kernels_from(
    data: dict[str, Any], file: str, problems: list[Problem]
) -> dict[str, dict[str, Attribute]]:
    kernels: dict[str, dict[str, Attribute]] = {}
    for operator, entry in data.items():
        if not isinstance(entry, dict) or not all(isinstance(v, int | float | str) for v in entry.values()):
            message = f"found {entry!r}; expected an object of numbers, words and flags"
            problems.append(Problem(message, file, None, f"kernels.{operator}"))
        else:
            kernels[operator] = entry
    return kernels


def _counts(entry: Any) -> tuple[int, ...]:
    """The counts of a division or of pieces; empty when they are not whole numbers of 1 or more."""
    counts = entry.get("counts") if isinstance(entry, dict) else None
    if not isinstance(counts, list) or not all(_is_address(count) and count >= 1 for count in counts):
        return ()
    return tuple(counts)


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST_SECONDS


def _is_address(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
