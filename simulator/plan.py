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

Plans are JSON files of the format ``offchip-plan-1`` (see ``docs/plan-format.md``), read and written by
:mod:`simulator.plan_file`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Final, Literal, TypeAlias

from workloads.graph import Attribute

__all__ = [
    "FORMAT",
    "TASK_CLASSES",
    "TASK_FIELDS",
    "Collective",
    "Compute",
    "Division",
    "ExpertGroups",
    "Home",
    "NotesOfFile",
    "Pieces",
    "Plan",
    "PlanNotes",
    "Sparsity",
    "Split",
    "Task",
    "Tiling",
    "Transfer",
]

FORMAT: Final = "offchip-plan-1"

PieceAxis = Literal["batch", "head"]
TileAxis = Literal["row", "channel"]
SplitAxis = Literal["column", "row", "head", "split", "vocab", "sum", "replicated"]


@dataclass(frozen=True, slots=True)
class Compute:
    """Run ``operator`` on ``device``; naming an operator twice recomputes it.

    ``addresses`` fixes the byte offset of copies that the task makes, as it does of any task.
    """

    kind: ClassVar[Literal["compute"]] = "compute"
    name: str
    stream: str
    operator: str
    device: str
    after: tuple[str, ...] = field(default=(), kw_only=True)
    frees: tuple[tuple[str, str], ...] = field(default=(), kw_only=True)
    """Copies (tensor, memory) dropped once this task and their users so far have finished."""
    addresses: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    streamed: tuple[str, ...] = field(default=(), kw_only=True)
    """Inputs that come from the memory ``source`` while the task computes, and of which no copy is made: into a
    scratchpad machine by a path beside its scratchpad (weights through a FIFO), into a GPU in requests over its link
    (zero-copy)."""
    source: str = field(default="", kw_only=True)
    measured: bool = field(default=False, kw_only=True)
    """Whether it takes the time that was measured of its operator, beside what else its device does, instead of a
    predicted one in turn."""
    in_place: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    """Outputs written over an input, which goes with this task: output -> input, at the same address."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Copy ``tensor`` from the memory ``source`` to the memory ``target``."""

    kind: ClassVar[Literal["transfer"]] = "transfer"
    operator: ClassVar[str] = ""
    device: ClassVar[str] = ""
    name: str
    stream: str
    tensor: str
    source: str
    target: str
    after: tuple[str, ...] = field(default=(), kw_only=True)
    frees: tuple[tuple[str, str], ...] = field(default=(), kw_only=True)
    addresses: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    chunk_bytes: int = field(default=0, kw_only=True)
    """Of a transfer from a drive: the bytes that lie together on it. 0: all of the tensor."""
    readers: int = field(default=0, kw_only=True)
    """Reads of such chunks in flight; 0: as many as :data:`simulator.system.costs.CHUNK_READERS`."""
    faults: bool = field(default=False, kw_only=True)
    """Whether a GPU's page faults bring it (unified memory), instead of a copy engine."""
    touched_bytes: int = field(default=0, kw_only=True)
    """Bytes of the tensor that come: those that its readers touch (the weights of experts that some token reaches,
    rows of a table). The copy holds so many. Into a memory that has such a part already they come beside it. 0: all
    of the tensor."""
    wait_s: float = field(default=0.0, kw_only=True)
    """Seconds of software before the first byte: a hand-over between CPU and GPU that a host thread waits for."""
    pageable: bool = field(default=False, kw_only=True)
    """Whether the host's end is not pinned, so that a core copies it through the driver's buffer."""
    mapped: bool = field(default=False, kw_only=True)
    """Whether cores touch it in a file that is mapped from the drive ``source``: page faults bring what is not in the
    page cache, ``readers`` at a time (0: one)."""


@dataclass(frozen=True, slots=True)
class Collective:
    """One rank's part of the collective ``operator``: it starts when all of ``group`` have reached theirs."""

    kind: ClassVar[Literal["collective"]] = "collective"
    name: str
    stream: str
    operator: str
    device: str
    group: tuple[str, ...]
    after: tuple[str, ...] = field(default=(), kw_only=True)
    frees: tuple[tuple[str, str], ...] = field(default=(), kw_only=True)
    addresses: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    measured: bool = field(default=False, kw_only=True)
    """Whether it takes no less than the time that was measured of its operator."""


Task: TypeAlias = Compute | Transfer | Collective
"""One entry of a plan. A transfer's ``operator`` and ``device`` are empty: it has none."""

TASK_CLASSES: Final[Mapping[str, type[Compute] | type[Transfer] | type[Collective]]] = {
    cls.kind: cls for cls in (Compute, Transfer, Collective)
}


@dataclass(frozen=True, slots=True)
class Home:
    """Where a tensor without a producer lives at the start, and at which address if that is planned."""

    memory: str
    address: int | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """One operator divided over devices along an axis (see :mod:`simulator.rewrite.split`)."""

    axis: SplitAxis
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Division:
    """A tensor cut along ``axis`` into parts in proportion to ``counts``; see :mod:`simulator.rewrite.divide`.

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
class ExpertGroups:
    """The experts of a block cut into groups, those wanted most first; see :mod:`simulator.rewrite.expert_groups`.

    ``counts``: experts in each group. ``shares``: share of the routed rows that goes to each. ``touched``: experts of
    each that some token of a step reaches, on average; empty: as of groups within which all are wanted alike.
    """

    counts: tuple[int, ...]
    shares: tuple[float, ...]
    touched: tuple[float, ...] = ()


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
class PlanNotes:
    """What a mapper says about its decision: bound, gap, options; the simulator does not read it.

    A mapper declares a subclass with a field for each thing it says, in SI units. A field that is None was not
    said and is left out of files.
    """

    def to_json(self) -> dict[str, Any]:
        """The notes as plain data."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class NotesOfFile(PlanNotes):
    """The notes of a plan that was read from a file, as they stand there.

    :func:`mapping.notes.typed_notes` gives them as the class that the plan's mapper declares.
    """

    values: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The notes as they stood in the file."""
        return dict(self.values)


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
    notes: PlanNotes = field(default_factory=PlanNotes)
    divisions: Mapping[str, Division] = field(default_factory=dict)
    pieces: Mapping[str, Pieces] = field(default_factory=dict)
    appends: tuple[str, ...] = ()
    """Operators whose additions to a cache are tensors of their own."""
    views: Mapping[str, str] = field(default_factory=dict)
    """Output of a reshape to the tensor whose bytes it is: the reshape takes no place in the plan."""
    tiles: Mapping[str, Tiling] = field(default_factory=dict)
    """Operators that run in strips, by a name for each such cut; see :mod:`simulator.rewrite.tile`."""
    sparsity: Mapping[str, Sparsity] = field(default_factory=dict)
    """Decode attention that leaves out channels and tokens."""
    kernels: Mapping[str, Mapping[str, Attribute]] = field(default_factory=dict)
    """How operators are laid out on a PIM memory; see :mod:`simulator.pim.recipes`."""
    experts: Mapping[str, ExpertGroups] = field(default_factory=dict)
    """Blocks of experts, by their first product, that run in groups."""

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data, defaults left out."""
        return {
            "format": FORMAT,
            "graph": self.graph,
            "system": self.system,
            "mapper": self.mapper,
            "notes": self.notes.to_json(),
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
        if self.experts:
            found["experts"] = {name: _groups_json(groups) for name, groups in self.experts.items()}
        if self.kernels:
            found["kernels"] = {name: dict(kernel) for name, kernel in self.kernels.items()}
        return found


TASK_FIELDS: Final[dict[str, type]] = {
    "name": str, "kind": str, "stream": str, "operator": str, "device": str, "tensor": str, "source": str,
    "target": str, "group": list, "after": list, "frees": list, "addresses": dict, "streamed": list, "chunk_bytes": int,
    "readers": int, "faults": bool, "touched_bytes": int, "wait_s": float, "pageable": bool, "mapped": bool,
    "measured": bool, "in_place": dict,
}  # fmt: skip
"""The keys of tasks in a file, in the order in which they are written, and the type of each."""


def _task_json(task: Task) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key in TASK_FIELDS:
        value = getattr(task, key, None)
        if value:
            data[key] = [list(pair) for pair in value] if key == "frees" else value
            if isinstance(value, tuple) and key != "frees":
                data[key] = list(value)
    return data


def _groups_json(groups: ExpertGroups) -> dict[str, Any]:
    data: dict[str, Any] = {"counts": list(groups.counts), "shares": list(groups.shares)}
    return data | {"touched": list(groups.touched)} if groups.touched else data


def _home_json(home: Home) -> dict[str, Any]:
    return (
        {"memory": home.memory} if home.address is None else {"memory": home.memory, "address": home.address}
    )
