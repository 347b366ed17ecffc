"""Bytes that are alive beside an operator in every order: a minimum cut, and what that costs in a scratchpad.

When operator v runs, some set of operators is done: all that v waits for, none that waits for v, and with each operator
all that it waits for. What such a set has made and the others still read is alive. The set with the fewest bytes alive
is a minimum cut of a network with an edge for each tensor (wavefronts: Elango et al., "On characterizing the data
access complexity of programs", POPL 2015), so it is found exactly. The highest of them bounds the least peak; what of
a cut does not fit beside v is off-chip at that time. What is made or read only after an operator u was not dropped
for u's sake: so along a path of operators such costs add up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mapping.deadline import Budget
from mapping.scheduling.instance import WORD_BITS, Instance

__all__ = ["LiveCuts", "highest_cut", "path_of_cuts"]

Ints = NDArray[np.int64]
_MOST: Final = 1 << 30
"""More than all tensors together: capacities of scipy's maximum flow are 32 bits wide."""
_ON_PATH: Final = 24
"""Operators with the highest cuts, between which a path is looked for."""


@dataclass(frozen=True, eq=False)
class LiveCuts:
    """The network of an instance: nodes are operators, the beginning and the end of each tensor, and a source.

    An operator on the source's side is done. ``unit_bytes`` of a tensor are one unit of capacity, rounded down.
    """

    instance: Instance
    unit_bytes: int
    tail: Ints
    head: Ints
    capacity: Ints
    tensor: Ints
    """The tensor whose bytes an edge has; -1 for edges that say what must be done before what."""

    @classmethod
    def of(cls, instance: Instance) -> LiveCuts:
        """Build the edges, once for all operators."""
        n, m = instance.operators, len(instance.size)
        unit = max(instance.unit, -(-int(instance.size.sum()) // (_MOST - 1)))
        edges: list[tuple[int, int, int, int]] = []
        for t in range(m):
            tensor = instance.problem.tensors[int(instance.tracked[t])]
            begin, end = n + t, n + m + t
            edges.append((begin, end, int(instance.size[t]) // unit, t))
            begins = [tensor.producer] if tensor.producer >= 0 else list(tensor.consumers)
            edges += [(o, begin, _MOST, -1) for o in begins]
            edges += [(end, o, _MOST, -1) for o in tensor.consumers]
        for o, before in enumerate(instance.problem.predecessors):
            edges += [(o, w, _MOST, -1) for w in before]
        rows = np.array(edges, np.int64).reshape(-1, 4)
        return cls(instance, unit, rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3])

    def least_alive(self, operator: int, counted: NDArray[np.bool_] | None = None) -> int:
        """Bytes of tensors that ``operator`` does not touch, alive while it runs in every order.

        ``counted``: the tensors that count (tracked ones); all without it.
        """
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import maximum_flow

        inst = self.instance
        n, m = inst.operators, len(inst.size)
        free = np.zeros(m + 1, np.bool_) if counted is None else np.append(~counted, False)
        free[inst.inputs[inst.input_at[operator] : inst.input_at[operator + 1]]] = True
        capacity = np.where(free[self.tensor] & (self.tensor >= 0), 0, self.capacity)
        before = _members(inst.ancestors[operator], n)
        if len(before) == 0:
            return 0
        source = n + 2 * m
        graph = csr_matrix(
            (
                np.concatenate((capacity, np.full(len(before), _MOST))).astype(np.int32),
                (
                    np.concatenate((self.tail, np.full(len(before), source))),
                    np.concatenate((self.head, before)),
                ),
            ),
            shape=(source + 1, source + 1),
        )
        return int(maximum_flow(graph, source, operator).flow_value) * self.unit_bytes

    def least_need(self, operator: int) -> int:
        """Bytes that are needed or alive while an operator runs, in every order without a drop."""
        return int(self.instance.least[operator]) + self.least_alive(operator)


def _members(row: Ints, n: int) -> Ints:
    """The operators of a bit set."""
    bits = (row[:, None] >> np.arange(WORD_BITS)) & 1
    return np.flatnonzero(bits.ravel()[:n])


def highest_cut(cuts: LiveCuts, needs: Iterable[tuple[int, int]], bound: int, budget: Budget) -> int:
    """A lower bound on every order's peak, from ``bound`` upwards.

    ``needs``: operators and what each needs in some order, which no cut is above; the highest are looked at first. Ends
    early once the budget is spent.
    """
    for need, operator in sorted(((need, o) for o, need in needs), reverse=True):
        if need <= bound or budget.spent:
            break
        bound = max(bound, cuts.least_need(operator))
    return bound


def path_of_cuts(cuts: LiveCuts, capacity: int, needs: Iterable[tuple[int, int]], budget: Budget) -> int:
    """Bytes that every schedule in a scratchpad of ``capacity`` bytes moves beyond the compulsory ones.

    Operators one after another, at each what is alive of tensors made after the one before, and does not fit: it was
    dropped and comes back, and was written where it had no copy.
    """
    inst = cuts.instance
    one_way, other_way = np.ones(len(inst.size), np.bool_), inst.copy_free == 0
    best = 0
    looked: list[tuple[int, int]] = []
    for need, operator in sorted(((need, o) for o, need in needs), reverse=True):
        if need <= capacity or budget.spent or len(looked) >= 4 * _ON_PATH:
            break
        above = cuts.least_need(operator) - capacity
        if above > 0:
            looked.append((above, operator))
    chosen = sorted(operator for _, operator in sorted(looked, reverse=True)[:_ON_PATH])
    paid: dict[int, int] = {}
    for operator in sorted(chosen, key=lambda o: len(_members(inst.ancestors[o], inst.operators))):
        room = capacity - int(inst.least[operator])
        paid[operator] = _paid(cuts, operator, one_way, other_way, room)
        for earlier in list(paid):
            if budget.spent:
                return best
            if earlier == operator or not _has(inst.descendants[earlier], operator):
                continue
            made, read = _since(inst, earlier, operator)
            more = _paid(cuts, operator, made | read, made & other_way, room)
            paid[operator] = max(paid[operator], paid[earlier] + more)
        best = max(best, paid[operator])
    return best


def _paid(
    cuts: LiveCuts, operator: int, one_way: NDArray[np.bool_], other_way: NDArray[np.bool_], room: int
) -> int:
    """Bytes moved for what is off at an operator: each comes back once, or is written and comes back."""
    once = cuts.least_alive(operator, one_way) - room
    if once <= 0:
        return 0
    return max(once, 2 * (cuts.least_alive(operator, other_way) - room))


def _since(inst: Instance, earlier: int, later: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tensors made after one operator, and tensors that are read between two, in every order."""
    after, between = inst.descendants[earlier], inst.descendants[earlier] & inst.ancestors[later]
    word, bit = np.divmod(np.maximum(inst.producer, 0), WORD_BITS)
    made: NDArray[np.bool_] = ((after[word] >> bit) & 1 != 0) & (inst.producer >= 0)
    read: NDArray[np.bool_] = (inst.readers & between).any(axis=1)
    return made, read


def _has(row: Ints, bit: int) -> bool:
    return bool((int(row[bit // WORD_BITS]) >> (bit % WORD_BITS)) & 1)
