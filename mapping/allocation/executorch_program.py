"""Reads the planned memory of an ExecuTorch programme (``.pte``): sizes and offsets of tensors, lives from
instructions.

A tensor is planned where it has ``allocation_info``: a memory and an offset. It lives from the first instruction that
names it to the last, inputs from the beginning, outputs to the end. The file names a kernel's results twice at the end
of its arguments (its ``out`` arguments and what it returns). A tensor that is read before any instruction has written
it is a view of the last one written at its bytes, and both are one buffer; where nothing was written there it is a
state, which lives throughout. The programme's own offsets are hints, and they must be a plan of what was read, or the
file is refused.

Inputs without a plan, constants, and what delegates use inside lie outside. Programmes with a backward jump, with
moves of planned tensors, and with tensors that the runtime allocates are refused. Alignment is 16 bytes, the default
of ``MemoryPlanningPass``. Fields: schema/program.fbs (github.com/pytorch/executorch).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Final

from hw_configs.problems import bad_input
from mapping.allocation.check import check
from mapping.allocation.flat_table import FlatTable, carries, read_whole
from mapping.allocation.problem import AllocationProblem, Buffer

__all__ = ["is_executorch", "parse_executorch", "read_executorch"]

ALIGNMENT: Final = 16
_BYTES: Final = {
    0: 1, 1: 1, 2: 2, 3: 4, 4: 8, 5: 2, 6: 4, 7: 8, 11: 1, 12: 1, 13: 1, 14: 4, 15: 2, 22: 2, 23: 1, 24: 1, 25: 1,
    26: 1, 27: 2, 28: 4, 29: 8,
}  # fmt: skip
"""Bytes of an element by its number in ScalarType."""
_TENSOR, _TENSOR_LIST, _OPTIONAL_LIST = 5, 10, 11
_KERNEL, _DELEGATE, _MOVE, _JUMP, _FREE = 1, 2, 3, 4, 5


@dataclass(frozen=True)
class _Tensor:
    """A planned tensor: its place in a memory."""

    number: int
    memory: int
    low: int
    size: int

    @property
    def high(self) -> int:
        return self.low + self.size


@dataclass
class _Reading:
    """What is known while instructions are walked."""

    tensors: dict[int, _Tensor]
    lists: dict[int, tuple[int, ...]]
    first: dict[int, int] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)
    written: dict[int, int] = field(default_factory=dict)
    parent: dict[int, int] = field(default_factory=dict)
    states: set[int] = field(default_factory=set)

    def named(self, values: Sequence[int]) -> list[int]:
        """Planned tensors among values, members of lists included."""
        flat = [k for value in values for k in self.lists.get(value, (value,))]
        return [k for k in flat if k in self.tensors]


def is_executorch(path: Path) -> bool:
    """Whether a file carries the identifier of the format."""
    return carries(path, b"ET12")


def read_executorch(path: Path, memory: int | None = None, method: int | None = None) -> AllocationProblem:
    """The problem of one memory of one method of a file."""
    return parse_executorch(read_whole(path), str(path), path.stem, memory, method)


def parse_executorch(
    data: bytes, file: str | None = None, name: str = "", memory: int | None = None, method: int | None = None
) -> AllocationProblem:
    """The problem of a programme given as bytes. Raises ``InputError`` where it is damaged or cannot be told whole."""
    try:
        plans = FlatTable(data, struct.unpack_from("<I", data, 0)[0]).tables(1)
        plan = plans[_chosen(method, len(plans), [plan.text(0) for plan in plans], file)]
        reading = _Reading(*_values(plan, file))
        ends = plan.integers(3), plan.integers(4)
        end = _walk(plan, reading, ends, file)
        room = _memory_sizes(plan)
    except (struct.error, IndexError) as error:
        raise bad_input(f"is not a whole .pte file: {error}", file=file) from None
    used = sorted({reading.tensors[k].memory for k in reading.first})
    if memory is None and len(used) > 1:
        raise bad_input(f"plans the memories {used}; choose one with --memory-space", file=file)
    chosen = memory if memory is not None else (used[0] if used else 1)
    if chosen not in used and (memory is not None):
        raise bad_input(f"found {memory}; the file plans {used}", path="--memory-space")
    problem = AllocationProblem.of(_buffers(reading, chosen, end), name)
    wrong = check(problem, problem.hint.tolist(), room.get(chosen), limit=1)
    if wrong:
        raise bad_input(
            f"its own plan does not hold for the lives that its instructions tell: {wrong[0]}", file=file
        )
    return problem


def _chosen(method: int | None, count: int, names: Sequence[str], file: str | None) -> int:
    if method is None and count != 1:
        raise bad_input(
            f"holds {count} methods ({', '.join(names[:10])}); choose one with --pack-index", file=file
        )
    if method is not None and method >= count:
        raise bad_input(f"found {method}; the file holds {count} methods", path="--pack-index")
    return method or 0


def _memory_sizes(plan: FlatTable) -> dict[int, int]:
    at, count = plan.vector(8, 8)
    return dict(enumerate(struct.unpack_from(f"<{count}q", plan.data, at)))


def _values(plan: FlatTable, file: str | None) -> tuple[dict[int, _Tensor], dict[int, tuple[int, ...]]]:
    """Planned tensors and lists of tensors, by the number of the value."""
    tensors: dict[int, _Tensor] = {}
    lists: dict[int, tuple[int, ...]] = {}
    for number, value in enumerate(plan.tables(2)):
        kind, table = value.number(0, "B"), value.table(1)
        if table is None:
            continue
        if kind in (_TENSOR_LIST, _OPTIONAL_LIST):
            lists[number] = table.integers(0)
        if kind != _TENSOR:
            continue
        place, shape, element = table.table(6), table.integers(2), table.number(0, "b")
        if place is None:
            if table.number(8, "b") == 2:
                told = (
                    f"tensor {number} has an unbounded shape, and the runtime allocates it; expected a plan"
                )
                raise bad_input(told, file=file, path=f"values.{number}")
            continue
        if element not in _BYTES or min(shape, default=0) < 0 or table.number(1, "i"):
            told = f"tensor {number} has elements of type {element}, shape {list(shape)}"
            raise bad_input(
                f"{told}; expected a known size from offset 0", file=file, path=f"values.{number}"
            )
        low = place.number(1, "I") + (place.number(2, "I") << 32)
        tensors[number] = _Tensor(number, place.number(0, "I"), low, prod(shape) * _BYTES[element])
    return tensors, lists


def _walk(
    plan: FlatTable, reading: _Reading, ends: tuple[Sequence[int], Sequence[int]], file: str | None
) -> int:
    """Walk the instructions; returns how many there are."""
    chains = plan.tables(5)
    if len(chains) != 1:
        raise bad_input(f"has {len(chains)} chains; expected one (several have no fixed order)", file=file)
    for k in reading.named(ends[0]):
        reading.first[k], reading.last[k], reading.written[k] = 0, 0, -1
    instructions = chains[0].tables(2)
    for moment, instruction in enumerate(instructions):
        kind, table = instruction.number(0, "B"), instruction.table(1)
        where = f"chains.0.instructions.{moment}"
        if table is None or kind not in (_KERNEL, _DELEGATE, _MOVE, _JUMP, _FREE):
            raise bad_input(f"found an instruction of kind {kind}, which is not known", file=file, path=where)
        if kind in (_KERNEL, _DELEGATE):
            args = table.integers(1)
            written = _results(args, reading.lists) if kind == _KERNEL else None
            if (
                kind == _KERNEL
                and written is None
                and any(k not in reading.first for k in reading.named(args))
            ):
                told = "names tensors for the first time and does not tell which of them it writes"
                raise bad_input(told, file=file, path=where)
            _step(reading, moment, args, () if kind == _KERNEL and written is None else written, file, where)
        elif kind == _MOVE and reading.named((table.number(0, "i"), table.number(1, "i"))):
            raise bad_input("moves a planned tensor; expected straight instructions", file=file, path=where)
        elif kind == _JUMP and table.number(1, "i") <= moment:
            raise bad_input("jumps back; expected instructions that run once", file=file, path=where)
        elif kind == _JUMP:
            _step(reading, moment, (table.number(0, "i"),), (), file, where)
    end = max(len(instructions), 1)
    for k in reading.named(ends[1]):
        if k not in reading.first:
            raise bad_input(f"gives tensor {k} out, which nothing has written", file=file, path="outputs")
        reading.last[k] = end
    for k in reading.states:
        reading.first[k], reading.last[k] = 0, end
    return end


def _results(args: Sequence[int], lists: Mapping[int, tuple[int, ...]]) -> tuple[int, ...] | None:
    """What a kernel writes anew: its last arguments that the list names again as what is returned.

    One result stands there twice, several are followed by a list of them, a list by its like. A kernel that returns an
    argument of its own (in place) writes nothing anew; None where neither is so.
    """
    if not args:
        return ()
    last, before = args[-1], args[:-1]
    if last in lists:
        made = lists[last]
        twin = bool(before) and lists.get(before[-1]) == made
        return made if twin or (made and tuple(before[-len(made) :]) == made) else None
    if before and before[-1] == last:
        return (last,)
    return () if last in before else None


def _step(
    reading: _Reading,
    moment: int,
    args: Sequence[int],
    written: Sequence[int] | None,
    file: str | None,
    where: str,
) -> None:
    """Take one instruction; ``written`` is None where the file does not tell (delegates)."""
    results = set(reading.named(written or ()))
    for k in dict.fromkeys(reading.named(args)):
        if k not in reading.first:
            reading.first[k] = moment
            if k not in results:
                base = _base(reading, k, file, where)
                if written is None and base is not None:
                    told = f"tensor {k} lies where tensor {base} was; a delegate may write it or read that"
                    raise bad_input(f"{told}, and the file does not tell", file=file, path=where)
                if written is None:
                    results.add(k)
                elif base is None:
                    reading.states.add(k)
                else:
                    reading.parent[k] = base
        reading.last[k] = moment + 1
    for k in results:
        reading.written[k] = moment


def _base(reading: _Reading, k: int, file: str | None, where: str) -> int | None:
    """The tensor that was last written at the bytes of one; None where none was."""
    own = reading.tensors[k]
    over = [
        (time, other)
        for other, time in reading.written.items()
        if (place := reading.tensors[other]).memory == own.memory
        and place.low < own.high
        and own.low < place.high
    ]
    if not over:
        return None
    base = max(over)[1]
    place = reading.tensors[base]
    if not (place.low <= own.low and own.high <= place.high):
        told = f"tensor {k} is read at bytes {own.low} to {own.high}, of which tensor {base} wrote a part"
        raise bad_input(told, file=file, path=where)
    return base


def _buffers(reading: _Reading, memory: int, end: int) -> list[Buffer]:
    """One buffer for each tensor with its views, named after it."""
    groups: dict[int, list[int]] = {}
    for k in sorted(reading.first):
        if reading.tensors[k].memory == memory:
            root = k
            while root in reading.parent:
                root = reading.parent[root]
            groups.setdefault(root, []).append(k)
    found = []
    for root, members in groups.items():
        low = min(reading.tensors[k].low for k in members)
        high = max(reading.tensors[k].high for k in members)
        lower, upper = min(reading.first[k] for k in members), max(reading.last[k] for k in members)
        upper = max(upper, lower + 1)
        found.append(Buffer(str(root), lower, min(upper, end), high - low, ALIGNMENT, None, low))
    return sorted(found, key=lambda buffer: (buffer.lower, int(buffer.id)))
