"""The plan: everything that is decided before a run, and the language the simulator executes.

A plan is a list of tasks over the operators and tensors of one graph and the nodes of one system. The list
is a valid sequential order; tasks of the same ``stream`` run in that order, tasks of different streams run at
the same time as soon as what they need is there. What a task needs follows from the list: a reader waits for
the task that made the copy it reads, a writer for the readers before it. ``after`` adds waits that no data
flow demands, which is how a plan bounds prefetching or builds double buffers.

Copies and lifetimes. A tensor may have a copy in several memories. ``homes`` says where tensors without a
producer live at the start. A compute task makes the copies of its outputs in its device's memory, a transfer
one in its target. A copy that is not a home is dropped when its last user in the list has finished; ``frees``
drops one earlier (to evict a tensor and bring it back later). Persistent tensors must be at home and up to
date at the end, so that the plan can run again.

Plans are JSON files of the format ``offchip-plan-1`` (see ``docs/plan-format.md``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from hw_configs.output_file import replacing
from hw_configs.problems import InputError, Problem, bad_input, nearest
from workloads.graph import Attribute

__all__ = [
    "FORMAT",
    "Division",
    "Home",
    "Pieces",
    "Plan",
    "Sparsity",
    "Split",
    "Task",
    "Tiling",
    "plan_from_json",
    "read_plan",
    "write_plan",
]

FORMAT: Final = "offchip-plan-1"
MAX_FILE_BYTES: Final = 2**30

TaskKind = Literal["compute", "transfer", "collective"]
PieceAxis = Literal["batch", "head"]
TileAxis = Literal["row", "channel"]
SplitAxis = Literal["column", "row", "head", "split", "vocab", "replicated"]


@dataclass(frozen=True, slots=True)
class Task:
    """One entry of a plan.

    ``compute`` runs ``operator`` on ``device``; naming an operator twice recomputes it. ``transfer`` copies
    ``tensor`` from the memory ``source`` to the memory ``target``. ``collective`` is one rank's part of the
    collective ``operator``; it starts when every rank named in ``group`` has reached its part.
    ``addresses`` fixes the byte offset of copies that the task makes.
    """

    name: str
    kind: TaskKind
    stream: str
    operator: str = ""
    device: str = ""
    tensor: str = ""
    source: str = ""
    target: str = ""
    group: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    frees: tuple[tuple[str, str], ...] = ()
    """Copies (tensor, memory) dropped once this task and their users so far have finished."""
    addresses: Mapping[str, int] = field(default_factory=dict)
    streamed: tuple[str, ...] = ()
    """Inputs that a scratchpad machine takes from the memory ``source`` while it computes, by a path beside its
    scratchpad (weights through a FIFO): no copy is made of them."""
    chunk_bytes: int = 0
    """Of a transfer from a drive: the bytes that lie together on it. 0: all of the tensor."""
    readers: int = 0
    """Reads of such chunks in flight; 0: as many as :data:`simulator.system.costs.CHUNK_READERS`."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where a tensor without a producer lives at the start, and at which address if that is planned."""

    memory: str
    address: int | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """One operator divided over devices along an axis (see :mod:`simulator.system.split`)."""

    axis: SplitAxis
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Division:
    """A tensor cut along ``axis`` into parts in proportion to ``counts``; see :mod:`simulator.system.divide`.

    ``read`` says of each part whether operators read it. A part that none reads still takes up its bytes.
    """

    axis: int
    counts: tuple[int, ...]
    read: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Pieces:
    """One operator run in pieces, each for its share of the sequences or of the heads."""

    axis: PieceAxis
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tiling:
    """Operators (or graph inputs) whose outputs are cut into ``parts`` strips of rows or channels each."""

    axis: TileAxis
    parts: int
    operators: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sparsity:
    """Attention that keeps a share of the head's channels and of the tokens; 1 is dense.

    ``groups`` is the share of a drive's token groups that hold a kept token (see
    :class:`simulator.csd.kv_layout.SparseChoice`), None when tokens are chosen independently.
    """

    kept: float
    groups: float | None = None


@dataclass(frozen=True)
class Plan:
    """Tasks, homes, and what is rewritten before they run: splits over devices, parts, narrower storage."""

    graph: str
    system: str
    mapper: str
    tasks: tuple[Task, ...]
    homes: Mapping[str, tuple[Home, ...]]
    splits: Mapping[str, Split] = field(default_factory=dict)
    precision: Mapping[str, str] = field(default_factory=dict)
    """Element type in which a tensor is stored instead of its own."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What the mapper says about its decision: bound, gap, options; not read by the simulator."""
    divisions: Mapping[str, Division] = field(default_factory=dict)
    pieces: Mapping[str, Pieces] = field(default_factory=dict)
    appends: tuple[str, ...] = ()
    """Operators whose additions to a cache are tensors of their own."""
    views: Mapping[str, str] = field(default_factory=dict)
    """Output of a reshape to the tensor whose bytes it is: the reshape takes no place in the plan."""
    tiles: Mapping[str, Tiling] = field(default_factory=dict)
    """Operators that run in strips, by a name for each such cut; see :mod:`simulator.system.tile`."""
    sparsity: Mapping[str, Sparsity] = field(default_factory=dict)
    """Decode attention that leaves out channels and tokens."""
    kernels: Mapping[str, Mapping[str, Attribute]] = field(default_factory=dict)
    """How operators are laid out on a PIM memory; see :mod:`simulator.pim.recipes`."""

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data, defaults left out."""
        return {
            "format": FORMAT,
            "graph": self.graph,
            "system": self.system,
            "mapper": self.mapper,
            "notes": dict(self.notes),
            "homes": {t: [_home_json(home) for home in homes] for t, homes in self.homes.items()},
            "splits": {o: {"axis": s.axis, "devices": list(s.devices)} for o, s in self.splits.items()},
            "precision": dict(self.precision),
            **self._rewrites_json(),
            "tasks": [_task_json(task) for task in self.tasks],
        }

    def _rewrites_json(self) -> dict[str, Any]:
        """Divisions, pieces and appends; left out where a plan has none."""
        found: dict[str, Any] = {}
        if self.divisions:
            found["divisions"] = {
                t: {"axis": d.axis, "counts": list(d.counts), "read": list(d.read)}
                for t, d in self.divisions.items()
            }
        if self.pieces:
            found["pieces"] = {o: {"axis": p.axis, "counts": list(p.counts)} for o, p in self.pieces.items()}
        if self.appends:
            found["appends"] = list(self.appends)
        if self.sparsity:
            found["sparsity"] = {o: {"kept": s.kept, "groups": s.groups} for o, s in self.sparsity.items()}
        if self.views:
            found["views"] = dict(self.views)
        if self.tiles:
            found["tiles"] = {
                name: {"axis": t.axis, "parts": t.parts, "operators": list(t.operators)}
                for name, t in self.tiles.items()
            }
        if self.kernels:
            found["kernels"] = {name: dict(kernel) for name, kernel in self.kernels.items()}
        return found


def _task_json(task: Task) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key in _TASK_FIELDS:
        value = getattr(task, key)
        if value:
            data[key] = [list(pair) for pair in value] if key == "frees" else value
            if isinstance(value, tuple) and key != "frees":
                data[key] = list(value)
    return data


def write_plan(plan: Plan, path: str | Path) -> None:
    """Write a plan as JSON, through a temporary name; ``InputError`` when it cannot be written."""
    with replacing(path) as part:
        part.write_text(json.dumps(plan.to_json(), indent=1) + "\n", encoding="utf-8")


def read_plan(path: str | Path) -> Plan:
    """The plan in a JSON file; raises ``InputError`` with every problem of its form.

    Whether it fits a graph and a system is for :func:`simulator.check.check` to say.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise bad_input(f"a plan may have at most {MAX_FILE_BYTES} bytes", file=str(path))
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique_keys)
    except FileNotFoundError:
        raise bad_input("no such file", file=str(path)) from None
    except json.JSONDecodeError as error:
        raise bad_input(f"not valid JSON: {error.msg}", file=str(path), line=error.lineno) from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise bad_input(f"cannot be read: {error}", file=str(path)) from None
    return plan_from_json(data, str(path))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate key {twice!r}")
    return result


_TASK_FIELDS: Final[dict[str, type]] = {
    "name": str, "kind": str, "stream": str, "operator": str, "device": str, "tensor": str, "source": str,
    "target": str, "group": list, "after": list, "frees": list, "addresses": dict, "streamed": list, "chunk_bytes": int,
    "readers": int,
}  # fmt: skip
_NEEDED: Final = {
    "compute": ("operator", "device"),
    "transfer": ("tensor", "source", "target"),
    "collective": ("operator", "device", "group"),
}
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
        data.get("notes", {}),
        divisions,
        pieces,
        tuple(str(name) for name in data.get("appends", [])),
        {str(tensor): str(source) for tensor, source in data.get("views", {}).items()},
        tiles,
        sparsity,
        kernels=kernels,
    )


def _task_from(entry: Any, index: int, file: str, problems: list[Problem]) -> Task | None:
    where = f"tasks.{index}"
    if not isinstance(entry, dict):
        problems.append(Problem("expected a task object", file, None, where))
        return None
    before = len(problems)
    for key, value in entry.items():
        kind = _TASK_FIELDS.get(key)
        if kind is None:
            message, near = f"unknown key {key!r}", nearest(key, _TASK_FIELDS)
            problems.append(Problem(message, file, None, f"{where}.{key}", near))
        elif not isinstance(value, kind):
            problems.append(
                Problem(f"found {value!r}; expected {kind.__name__}", file, None, f"{where}.{key}")
            )
    kind_name = str(entry.get("kind"))
    if kind_name not in _NEEDED:
        near = nearest(kind_name, _NEEDED)
        message = f"found {entry.get('kind')!r}; expected compute, transfer or collective"
        problems.append(Problem(message, file, None, f"{where}.kind", near))
    for key in ("name", "stream", *_NEEDED.get(kind_name, ())):
        if not entry.get(key):
            problems.append(Problem(f"missing key {key!r}", file, None, where))
    frees = entry.get("frees", [])
    for key in ("chunk_bytes", "readers"):
        if not _is_address(entry.get(key, 0)) or entry.get(key, 0) > MAX_FILE_BYTES:
            problems.append(Problem("expected a whole number of at least 0", file, None, f"{where}.{key}"))
    if not isinstance(frees, list):
        frees = []
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in frees):
        problems.append(Problem("expected pairs [tensor, memory]", file, None, f"{where}.frees"))
    addresses = entry.get("addresses", {})
    if isinstance(addresses, dict) and not all(_is_address(a) for a in addresses.values()):
        problems.append(Problem("addresses must be integers of at least 0", file, None, f"{where}.addresses"))
    if len(problems) > before:
        return None
    lists = {key: tuple(str(item) for item in entry.get(key, ())) for key in ("group", "after", "streamed")}
    pairs = tuple((str(tensor), str(memory)) for tensor, memory in frees)
    return Task(**{**entry, **lists, "frees": pairs, "addresses": dict(entry.get("addresses", {}))})


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
        axes = ("column", "row", "head", "split", "vocab", "replicated")
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


def _is_address(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _home_json(home: Home) -> dict[str, Any]:
    return (
        {"memory": home.memory} if home.address is None else {"memory": home.memory, "address": home.address}
    )
