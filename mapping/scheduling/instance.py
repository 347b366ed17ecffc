"""A scheduling problem as flat arrays for the kernels: bit sets of operators and tensors, bounds prepared.

Only tensors that can stay over a step boundary are tracked: those that are made and read, and those from
off-chip that several operators read. Everything else counts in the need of its operators alone. Bit sets hold
62 bits to a word, so that plain signed arithmetic is safe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mapping.scheduling.problem import ScheduleProblem

__all__ = ["WORD_BITS", "Instance", "Pressure", "Tables", "build_instance", "build_pressure", "lists_of"]

WORD_BITS: Final = 62
Ints = NDArray[np.int64]


class Tables(NamedTuple):
    """What the kernels read of an :class:`Instance`; its fields have the meanings they have there."""

    need: Ints
    size: Ints
    producer: Ints
    copy_free: Ints
    input_at: Ints
    inputs: Ints
    output_at: Ints
    outputs: Ints
    before: Ints
    ancestors: Ints
    readers: Ints
    least: Ints
    pair_at: Ints
    pair_bytes: Ints
    over_at: Ints
    over: Ints


@dataclass(frozen=True, eq=False)
class Instance:
    """Arrays over n operators and m tracked tensors; ``tracked[t]`` is the problem's index of tensor t.

    ``before``, ``ancestors``, ``descendants``: one bit set of operators per operator (direct waits, all before,
    all after). ``readers``: one per tensor. ``producer`` is -1 for tensors from off-chip. ``inputs`` and
    ``outputs`` are lists of tracked tensors behind the pointers ``input_at`` and ``output_at``.

    In place: ``need`` counts what an operator always saves, ``least`` all that it can. Pairs ``pair_at[o]`` to
    ``pair_at[o + 1]`` are what lies between: pair p saves ``pair_bytes[p]`` when one of the tracked inputs
    ``over[over_at[p] : over_at[p + 1]]`` ends its stay with the operator.
    """

    problem: ScheduleProblem
    tracked: Ints
    need: Ints
    size: Ints
    producer: Ints
    copy_free: Ints
    input_at: Ints
    inputs: Ints
    output_at: Ints
    outputs: Ints
    before: Ints
    ancestors: Ints
    descendants: Ints
    readers: Ints
    least: Ints
    pair_at: Ints
    pair_bytes: Ints
    over_at: Ints
    over: Ints

    @property
    def operators(self) -> int:
        """Number of operators."""
        return len(self.need)

    @property
    def tables(self) -> Tables:
        """The arrays that kernels take."""
        return Tables(
            self.need, self.size, self.producer, self.copy_free, self.input_at, self.inputs, self.output_at,
            self.outputs, self.before, self.ancestors, self.readers, self.least, self.pair_at, self.pair_bytes,
            self.over_at, self.over,
        )  # fmt: skip

    @property
    def unit(self) -> int:
        """Greatest common divisor of all tracked sizes."""
        return max(int(np.gcd.reduce(self.size)), 1) if len(self.size) else 1


class Pressure(NamedTuple):
    """Which tensors are certainly alive while an operator runs, for operators that may not fit beside them.

    For each ``operators[c]``, entries ``at[c]`` to ``at[c + 1]`` list tensors that it does not touch and that
    some operator certainly after it reads; ``sure`` marks those that certainly exist by then in every order.
    """

    operators: Ints
    at: Ints
    tensor: Ints
    sure: Ints


def build_instance(problem: ScheduleProblem) -> Instance:
    """The arrays of a problem."""
    n = len(problem.operators)
    tracked = [
        t
        for t, tensor in enumerate(problem.tensors)
        if tensor.size_bytes > 0 and len(tensor.consumers) >= (1 if tensor.producer >= 0 else 2)
    ]
    new = {t: index for index, t in enumerate(tracked)}
    input_at, inputs = lists_of([[new[t] for t in op.inputs if t in new] for op in problem.operators])
    output_at, outputs = lists_of([[new[t] for t in op.outputs if t in new] for op in problem.operators])
    words = max((n + WORD_BITS - 1) // WORD_BITS, 1)
    before = np.zeros((n, words), np.int64)
    ancestors = np.zeros((n, words), np.int64)
    descendants = np.zeros((n, words), np.int64)
    for o, waits in enumerate(problem.predecessors):
        for w in waits:
            _set(before[o], w)
            ancestors[o] |= ancestors[w]
        ancestors[o] |= before[o]
    for o in range(n - 1, -1, -1):
        for w in problem.predecessors[o]:
            descendants[w] |= descendants[o]
            _set(descendants[w], o)
    readers = np.zeros((len(tracked), words), np.int64)
    for index, t in enumerate(tracked):
        for consumer in problem.tensors[t].consumers:
            _set(readers[index], consumer)
    chosen = [problem.tensors[t] for t in tracked]
    need = list(problem.apart_bytes)
    pairs: list[list[int]] = [[] for _ in problem.operators]
    over: list[list[int]] = []
    for o, op in enumerate(problem.operators):
        for pair in op.in_place:
            size = problem.tensors[pair.output].size_bytes
            if any(problem.tensors[t].consumers == (o,) for t in pair.inputs):
                # Nobody else reads that input: it ends here in every schedule.
                need[o] -= size
            elif size > 0:
                pairs[o].append(size)
                over.append([new[t] for t in pair.inputs])
    pair_at, pair_bytes = lists_of(pairs)
    over_at, overs = lists_of(over)
    return Instance(
        problem,
        _ints(tracked),
        _ints(need),
        _ints(tensor.size_bytes for tensor in chosen),
        _ints(tensor.producer for tensor in chosen),
        _ints(tensor.copy_free for tensor in chosen),
        input_at,
        inputs,
        output_at,
        outputs,
        before,
        ancestors,
        descendants,
        readers,
        _ints(problem.need_bytes),
        pair_at,
        pair_bytes,
        over_at,
        overs,
    )


def build_pressure(instance: Instance, capacity: int) -> Pressure:
    """The operators whose need plus all that may be alive beside them is above a capacity."""
    touched = [
        {*instance.inputs[a:b].tolist(), *instance.outputs[c:d].tolist()}
        for a, b, c, d in zip(
            instance.input_at, instance.input_at[1:], instance.output_at, instance.output_at[1:], strict=False
        )
    ]
    operators: list[int] = []
    lists: list[list[int]] = []
    sure: list[int] = []
    for o in range(instance.operators):
        after = instance.descendants[o]
        later = (instance.readers & after).any(axis=1)
        beside = [
            t
            for t in np.flatnonzero(later).tolist()
            if t not in touched[o] and _may_exist(instance, t, after)
        ]
        if instance.least[o] + instance.size[beside].sum() <= capacity:
            continue
        operators.append(o)
        lists.append(beside)
        for t in beside:
            made = int(instance.producer[t])
            if made >= 0:
                sure.append(_has(instance.ancestors[o], made))
            else:
                sure.append(int((instance.readers[t] & instance.ancestors[o]).any()))
    at, tensor = lists_of(lists)
    return Pressure(_ints(operators), at, tensor, _ints(sure))


def _may_exist(instance: Instance, t: int, after: Ints) -> bool:
    """Whether a tensor can be there before operators of the set ``after`` have run."""
    made = int(instance.producer[t])
    if made >= 0:
        return not _has(after, made)
    return bool((instance.readers[t] & ~after).any())


def _set(row: Ints, bit: int) -> None:
    row[bit // WORD_BITS] |= np.int64(1) << np.int64(bit % WORD_BITS)


def _has(row: Ints, bit: int) -> int:
    return int((int(row[bit // WORD_BITS]) >> (bit % WORD_BITS)) & 1)


def lists_of(rows: list[list[int]]) -> tuple[Ints, Ints]:
    """Lists as one flat array, and where in it each begins (and the last ends)."""
    ends = np.zeros(len(rows) + 1, np.int64)
    ends[1:] = np.cumsum([len(row) for row in rows]) if rows else []
    return ends, _ints(item for row in rows for item in row)


def _ints(values: object) -> Ints:
    return np.array(list(values), dtype=np.int64)  # type: ignore[call-overload]
