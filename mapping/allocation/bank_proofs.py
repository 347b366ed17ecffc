"""Why buffers fit no assignment to several banks: proofs that do not rest on a MIP solver.

Cheap ones first, each with a reason of its own: a storage that fits none of the banks it may go to; more buffers that
go to different banks than there are banks for them; for every set of banks, more live bytes of buffers confined to it
than it holds; the buffers of one bank alone without a plan there. Then a search over all assignments, by the buffer
with the fewest banks left; a bank's live bytes, pairs kept apart, and subsets that have no plan in a bank rule banks
out. A whole assignment is placed as the master's ones are. Only a search that ends is a proof.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from mapping.allocation.bank_choice import BankChoice
from mapping.allocation.problem import AllocationProblem
from mapping.allocation.solving import solve

if TYPE_CHECKING:
    from mapping.allocation.banks import Bank

__all__ = ["Place", "why_no_assignment"]

Ints = NDArray[np.int64]
Cut = tuple[int, list[int]]
Place = Callable[[Sequence[int]], tuple[bool, list[Cut], bool]]
"""Whether an assignment has a plan; else banks with buffers that never lie there together, and if that is proved."""

_MOST_BANKS: Final = 10
"""Banks of which every set is looked at (a thousand sweeps); of more only single ones and all together."""
_MOST_CELLS: Final = 4_000_000
"""Storages x moments of the search over assignments."""
_MOST_STORAGES: Final = 300
_CLIQUE_STEPS: Final = 20_000


def why_no_assignment(
    choice: BankChoice, banks: Sequence[Bank], place: Place, max_nodes: int, seconds: float, seed: int
) -> str | None:
    """The reason why no assignment of a choice has a plan, or None where none was proved.

    ``place`` plans whole assignments; ``max_nodes`` and ``seconds`` bound the search, the cheap proofs run in any case.
    """
    end = time.perf_counter() + seconds
    storages = _Storages.of_choice(choice, banks)
    cheap = (_misfits, _crowds_apart, _crowds_alive)
    for proof in cheap:
        told = next(proof(choice, banks, storages), None)
        if told is not None:
            return told
    for b in range(len(banks)):
        told = _alone(choice, banks, storages, b, max_nodes, seed) if time.perf_counter() < end else None
        if told is not None:
            return told
    return _Search(choice, banks, storages, place, max_nodes, end).proof()


@dataclass(frozen=True)
class _Storages:
    """Buffers that go to one bank together: ``of`` each buffer its storage, ``allowed`` banks that hold all members."""

    members: tuple[tuple[int, ...], ...]
    of: tuple[int, ...]
    allowed: tuple[frozenset[int], ...]

    @classmethod
    def of_choice(cls, choice: BankChoice, banks: Sequence[Bank]) -> _Storages:
        """The storages of a choice."""
        root = dict(enumerate(range(len(choice.problem)))) | {i: low for low, i in choice.together}
        number = {low: s for s, low in enumerate(dict.fromkeys(root.values()))}
        of = tuple(number[low] for low in root.values())
        groups: list[list[int]] = [[] for _ in number]
        for i, s in enumerate(of):
            groups[s].append(i)
        top = _tops(choice.problem)
        allowed = tuple(
            frozenset(
                b
                for b, bank in enumerate(banks)
                if all(b in choice.allowed[i] and top[i] <= bank.capacity for i in group)
            )
            for group in groups
        )
        return cls(tuple(map(tuple, groups)), of, allowed)


def _tops(problem: AllocationProblem) -> list[int]:
    """The lowest end that each buffer can have in a bank: its size, above its pin where it has one."""
    ends = problem.size + np.maximum(problem.fixed, 0)
    return [int(end) if problem.spans(i) else 0 for i, end in enumerate(ends.tolist())]


def _misfits(choice: BankChoice, banks: Sequence[Bank], storages: _Storages) -> Iterator[str]:
    """Storages that no bank holds."""
    problem, largest = choice.problem, max(bank.capacity for bank in banks)
    top = _tops(problem)
    for group, allowed in zip(storages.members, storages.allowed, strict=True):
        if allowed:
            continue
        i = max(group, key=lambda k: top[k])
        kind = "ends at byte" if problem.fixed[i] > 0 else "has"
        needs = f"buffer {problem.ids[i]!r} {kind} {top[i]}{' bytes' * (kind == 'has')}"
        if top[i] > largest:
            yield f"{needs}, the largest bank {largest}"
        held = frozenset.intersection(*(choice.allowed[k] for k in group))
        if held:
            yield f"{needs}, of the banks it may go to ({_named(banks, held)}) none holds it"
        if len(group) > 1:
            names = _listed(str(problem.ids[k]) for k in group)
            yield f"buffers {names} go to one bank, and there is none that all may go to"
        yield f"buffer {problem.ids[i]!r} may go to no bank"


def _crowds_apart(choice: BankChoice, banks: Sequence[Bank], storages: _Storages) -> Iterator[str]:
    """More buffers that go to different banks, two by two, than there are banks they may go to."""
    other: dict[int, set[int]] = {}
    for a, b in choice.apart:
        s, t = storages.of[a], storages.of[b]
        other.setdefault(s, set()).add(t)
        other.setdefault(t, set()).add(s)
    for some in _sets(len(banks)) if other else ():
        inside = sorted(s for s in other if storages.allowed[s] <= some)
        found = _clique(inside, other, len(some) + 1)
        if found:
            names = _listed(str(choice.problem.ids[storages.members[s][0]]) for s in found)
            yield f"buffers {names} all go to different banks, and only to {_named(banks, some)}"


def _clique(nodes: Sequence[int], other: dict[int, set[int]], size: int) -> list[int]:
    """So many nodes that are all neighbours; empty where there are none, or none was found in the steps there are."""
    steps = _CLIQUE_STEPS

    def grow(kept: list[int], left: list[int]) -> list[int]:
        nonlocal steps
        if len(kept) == size:
            return kept
        while len(kept) + len(left) >= size and steps > 0:
            steps -= 1
            first, *left = left
            found = grow([*kept, first], [s for s in left if s in other[first]])
            if found:
                return found
        return []

    return grow([], list(nodes))


def _crowds_alive(choice: BankChoice, banks: Sequence[Bank], storages: _Storages) -> Iterator[str]:
    """More bytes alive at once, of buffers confined to some banks, than these hold; all banks together come last."""
    problem = choice.problem
    for some in _sets(len(banks)):
        confined = [i for i in range(len(problem)) if storages.allowed[storages.of[i]] <= some]
        room = sum(banks[b].capacity for b in some)
        if sum(int(problem.size[i]) for i in confined) <= room:
            continue
        when, most = _most_alive(choice, confined)
        if most <= room:
            continue
        if len(some) == len(banks):
            yield f"{most} bytes are live at once, all banks together have {room}"
        yield (
            f"at time {when}, {most} bytes are live of buffers that may go to {_named(banks, some)} alone, "
            f"with {room} bytes"
        )


def _most_alive(choice: BankChoice, members: Sequence[int]) -> tuple[int, int]:
    """When the most bytes are alive of which no two may be the same, and how many."""
    rows = sorted((span.lower, span.upper, i, span.window_upper - span.window_lower)
                  for i in members for span in choice.problem.spans(i))  # fmt: skip
    change: dict[int, int] = {}
    best = (0, 0)
    if not choice.shared:
        for low, high, _, height in rows:
            change[low] = change.get(low, 0) + height
            change[high] = change.get(high, 0) - height
        live = 0
        for at in sorted(change):
            live += change[at]
            best = max(best, (at, live), key=lambda pair: pair[1])
        return best
    alive: list[tuple[int, int, int, int]] = []
    for k, row in enumerate(rows):
        alive = [old for old in alive if old[1] > row[0]] + [row]
        if k + 1 == len(rows) or rows[k + 1][0] > row[0]:
            kept = choice.disjoint([one[2] for one in alive], [one[3] for one in alive])
            best = max(best, (row[0], sum(height for _, height in kept)), key=lambda pair: pair[1])
    return best


def _alone(
    choice: BankChoice, banks: Sequence[Bank], storages: _Storages, b: int, max_nodes: int, seed: int
) -> str | None:
    """The buffers that may go to one bank alone, where they have no plan in it."""
    members = [i for i in range(len(choice.problem)) if storages.allowed[storages.of[i]] == {b}]
    if not members:
        return None
    found = solve(choice.problem.subset(members), banks[b].capacity, max_nodes=max_nodes, seed=seed)
    if found.status != "infeasible":
        return None
    told = f"the buffers that may go to {banks[b].name} alone have no plan below {banks[b].capacity} bytes"
    return told if found.explanation is None else f"{told}: {found.explanation.message}"


def _sets(count: int) -> Iterator[frozenset[int]]:
    """Sets of banks, the small ones first."""
    sizes = range(1, count + 1) if count <= _MOST_BANKS else (1, count)
    for size in sizes:
        yield from map(frozenset, combinations(range(count), size))


def _named(banks: Sequence[Bank], some: Iterable[int]) -> str:
    return ", ".join(banks[b].name for b in sorted(some))


def _listed(names: Iterable[str]) -> str:
    found = [repr(name) for name in names]
    return ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")


class _EndedError(Exception):
    """The search ended before it had seen everything, or found a plan."""


@dataclass
class _Search:
    """All assignments of storages to banks, depth first; whole only where none has a plan."""

    choice: BankChoice
    banks: Sequence[Bank]
    storages: _Storages
    place: Place
    max_nodes: int
    end: float
    nodes: int = 0
    tried: int = 0
    _cuts: list[tuple[int, frozenset[int]]] = field(default_factory=list)

    def proof(self) -> str | None:
        """The reason, where every assignment was ruled out."""
        self._live = _live_bytes(self.choice, self.storages)
        count = len(self.storages.members)
        if self._live is None:
            return None
        self._room = np.array([bank.capacity for bank in self.banks], np.int64)
        self._apart: list[list[int]] = [[] for _ in range(count)]
        for a, b in self.choice.apart:
            s, t = self.storages.of[a], self.storages.of[b]
            self._apart[s].append(t)
            self._apart[t].append(s)
        self._forbid_pairs()
        self._bank = [-1] * count
        left = np.array([[b in own for b in range(len(self.banks))] for own in self.storages.allowed], bool)
        load = np.zeros((len(self.banks), self._live.shape[1]), np.int64)
        try:
            self._descend(left.reshape(count, len(self.banks)), load)
        except _EndedError:
            return None
        told = "no assignment of the buffers to the banks has a plan"
        return f"{told}; all were searched ({self.nodes} nodes, {self.tried} assignments placed)"

    def _forbid_pairs(self) -> None:
        """Two buffers that never share a byte do not go to a bank that is smaller than both."""
        problem = self.choice.problem
        for i, k in problem.rules.separate:
            if problem.spans(i) and problem.spans(k):
                both = int(problem.size[i] + problem.size[k])
                pair = frozenset((self.storages.of[i], self.storages.of[k]))
                self._cuts += [(b, pair) for b, bank in enumerate(self.banks) if bank.capacity < both]

    def _descend(self, left: NDArray[np.bool_], load: Ints) -> None:
        self.nodes += 1
        if self.nodes > self.max_nodes or time.perf_counter() > self.end:
            raise _EndedError
        open_ones = [s for s, b in enumerate(self._bank) if b < 0]
        if not open_ones:
            self._try()
            return
        s = min(open_ones, key=lambda k: (int(left[k].sum()), -int(self._live[k].max(initial=0)), k))  # type: ignore[index]
        seen: set[int] = set()
        for b in np.flatnonzero(left[s]).tolist():
            # An empty bank is as good as another empty one that holds as much and that all may go to alike.
            kind = self._kind(b, left)
            if b in self._bank or kind not in seen:
                if b not in self._bank:
                    seen.add(kind)
                self._assign(s, b, left, load)

    def _kind(self, b: int, left: NDArray[np.bool_]) -> int:
        """The first bank like this one: empty, as large, and left to the same storages."""
        cuts = {members for where, members in self._cuts if where == b}
        for other in range(b):
            empty = other not in self._bank and self._room[other] == self._room[b]
            alike = empty and (left[:, other] == left[:, b]).all()
            if alike and cuts == {members for where, members in self._cuts if where == other}:
                return other
        return b

    def _assign(self, s: int, b: int, left: NDArray[np.bool_], load: Ints) -> None:
        assert self._live is not None
        self._bank[s] = b
        left, load = left.copy(), load.copy()
        load[b] += self._live[s]
        left[self._apart[s], b] = False
        left[:, b] &= (self._live + load[b] <= self._room[b]).all(axis=1)
        whole = True
        for where, members in self._cuts:
            missing = [k for k in members if self._bank[k] != where]
            whole = whole and bool(missing)
            if len(missing) == 1:
                left[missing[0], where] = False
        if whole and all(left[k].any() for k, at in enumerate(self._bank) if at < 0):
            self._descend(left, load)
        self._bank[s] = -1

    def _try(self) -> None:
        self.tried += 1
        fits, cuts, exact = self.place([self._bank[s] for s in self.storages.of])
        if fits or not exact or not cuts:
            raise _EndedError
        for b, members in cuts:
            some = frozenset(self.storages.of[i] for i in members)
            # What has no plan in a bank has none in a smaller one.
            self._cuts += [(k, some) for k in range(len(self.banks)) if self._room[k] <= self._room[b]]


def _live_bytes(choice: BankChoice, storages: _Storages) -> Ints | None:
    """Bytes that each storage takes at each moment, at least; None where the table is too large for a search.

    Of two storages that may share bytes one counts as nothing.
    """
    problem, count = choice.problem, len(storages.members)
    spans = [(storages.of[i], span) for i in range(len(problem)) for span in problem.spans(i)]
    times = sorted({span.lower for _, span in spans})
    if count > _MOST_STORAGES or count * len(times) > _MOST_CELLS:
        return None
    live = np.zeros((count, len(times)), np.int64)
    for s, span in spans:
        first, last = np.searchsorted(times, [span.lower, span.upper])
        here = live[s, first:last]
        np.maximum(here, span.window_upper - span.window_lower, out=here)
    for i, k in problem.rules.shared:
        s, t = storages.of[i], storages.of[k]
        if s != t and live[s].any() and live[t].any():
            live[s if live[s].sum() <= live[t].sum() else t] = 0
    return live
