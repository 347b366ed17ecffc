"""A buffer that may move, as parts: one for each stretch between moves, so that each may lie in a bank of its own.

A part lives to the end of the moment at which its copy is made; the next one from that moment on. Parts that follow
each other in one bank are one run there: a buffer of its own with the moves inside it, which the search of one arena
knows. Rules of a buffer hold for each of its parts. A pinned buffer does not move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hw_configs.problems import bad_input
from mapping.allocation.problem import AllocationProblem
from mapping.allocation.result import AllocationResult, Move
from mapping.allocation.rules import Rules

__all__ = ["Parts", "refuse_gaps_and_moves"]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Parts:
    """``problem``: the parts as buffers, those of one buffer in order of time; ``owner``: the buffer of each.

    ``begin``: when a part begins by a move, None for the first one of a buffer. ``share``: how much of its buffer's
    life it takes, the moment of a copy counted once.
    """

    problem: AllocationProblem
    owner: tuple[int, ...]
    begin: tuple[int | None, ...]
    share: tuple[float, ...]

    @classmethod
    def of(cls, problem: AllocationProblem) -> Parts:
        """The parts of a problem. Raises ``InputError`` for a buffer with both gaps and moves."""
        refuse_gaps_and_moves(problem)
        rules = problem.rules
        owner: list[int] = []
        begin: list[int | None] = []
        share: list[float] = []
        lives: list[tuple[int, int]] = []
        for i in range(len(problem)):
            times = rules.moves.get(i, ()) if problem.fixed[i] < 0 and problem.size[i] > 0 else ()
            low, high = int(problem.lower[i]), int(problem.upper[i])
            starts, ends = [low, *times], [*times, high]
            for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
                owner.append(i)
                begin.append(start if k else None)
                share.append((end - start) / (high - low) if times else 1.0)
                lives.append((start, end + (k < len(times))))
        whole = problem.subset(owner)
        ids = [
            str(problem.ids[i]) if at is None else f"{problem.ids[i]} from {at}"
            for i, at in zip(owner, begin, strict=True)
        ]
        life = np.array(lives, np.int64).reshape(-1, 2)
        parts = replace(
            whole, lower=life[:, 0].copy(), upper=life[:, 1].copy(), ids=ids, rules=_lifted(rules, owner)
        )
        return cls(parts, tuple(owner), tuple(begin), tuple(share))

    @property
    def follows(self) -> list[int]:
        """Parts that follow the one before them in the list by a move."""
        return [p for p, at in enumerate(self.begin) if at is not None]

    def without_copies(self, problem: AllocationProblem) -> AllocationProblem:
        """The parts with lives that end before the copy: less than any plan has to place."""
        upper = problem.upper.copy()
        upper[[p - 1 for p in self.follows]] -= 1
        return replace(problem, upper=upper)

    def runs(
        self, problem: AllocationProblem, members: Sequence[int]
    ) -> tuple[AllocationProblem, list[list[int]]]:
        """Some parts of ``problem`` as buffers with moves, and the parts of each; ``members`` in order."""
        listed: list[list[int]] = []
        for p in members:
            if listed and self.begin[p] is not None and listed[-1][-1] == p - 1:
                listed[-1].append(p)
            else:
                listed.append([p])
        some = problem.subset([run[0] for run in listed])
        moves = {r: tuple(self._time(p) for p in run[1:]) for r, run in enumerate(listed) if len(run) > 1}
        upper = np.array([int(problem.upper[run[-1]]) for run in listed], np.int64)
        return replace(some, upper=upper, rules=replace(some.rules, moves=moves)), listed

    def spread(self, runs: Sequence[Sequence[int]], result: AllocationResult, offsets: Ints) -> None:
        """Write the places of runs into those of parts."""
        assert result.offsets is not None
        moved = {(move.buffer, move.time): move.offset for move in result.moves}
        for r, run in enumerate(runs):
            at = int(result.offsets[r])
            for k, p in enumerate(run):
                at = moved.get((r, self._time(p)), at) if k else at
                offsets[p] = at

    def folded(
        self, names: Sequence[str], bank: Sequence[int], offsets: Ints
    ) -> tuple[tuple[int, ...], Ints, tuple[Move, ...]]:
        """Bank and offset of each buffer, and its moves, of a plan of the parts."""
        first = [p for p, at in enumerate(self.begin) if at is None]
        moves = tuple(
            Move(self.owner[p], self._time(p), int(offsets[p]), names[bank[p]])
            for p in self.follows
            if bank[p] != bank[p - 1] or offsets[p] != offsets[p - 1]
        )
        return tuple(bank[p] for p in first), offsets[first], moves

    def _time(self, part: int) -> int:
        time = self.begin[part]
        assert time is not None
        return time


def _lifted(rules: Rules, owner: Sequence[int]) -> Rules:
    """The rules of buffers over their parts, without moves."""
    of: dict[int, list[int]] = {}
    for p, i in enumerate(owner):
        of.setdefault(i, []).append(p)

    def pairs(listed: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        return tuple((p, q) for a, b in listed for p in of[a] for q in of[b])

    return Rules(
        tuple(tuple(p for i in group for p in of[i]) for group in rules.alias),
        pairs(rules.inside),
        pairs(rules.separate),
        pairs(rules.shared),
        {p: names for i, names in rules.banks.items() for p in of[i]},
        pairs(rules.apart),
        {p: step for i, step in rules.boundary.items() for p in of[i]},
        {},
        rules.pools,
    )


def refuse_gaps_and_moves(problem: AllocationProblem) -> None:
    """Raise ``InputError`` for a buffer that has both: whether its copy is in use in a gap, nothing says."""
    for i in problem.rules.moves:
        if i in problem.gaps:
            raise bad_input(
                f"buffer {problem.ids[i]!r} has gaps and moves; expected one of the two", path="moves"
            )
