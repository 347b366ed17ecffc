"""The independent checker of a problem's rules: does a plan keep what it must beside lives and capacity?

Plain Python over pairs, written from the rules' meaning (:mod:`mapping.allocation.rules`) and not from any engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mapping.allocation.problem import AllocationProblem
from mapping.allocation.result import Move
from mapping.allocation.violation import Violation

__all__ = ["overlaps_under_rules", "places_of", "rule_breaches"]

_Place = tuple[int, int, int, int]
"""From time, to time, first byte, byte after the last."""


def places_of(problem: AllocationProblem, i: int, offset: int, moves: Sequence[Move]) -> list[_Place]:
    """The bytes that a buffer uses, and when: with moves both places at the moment of a copy."""
    own = sorted((move for move in moves if move.buffer == i), key=lambda move: move.time)
    places: list[_Place] = []
    for span in problem.spans(i):
        begin, at = span.lower, offset
        for move in own:
            places.append((begin, move.time + 1, at + span.window_lower, at + span.window_upper))
            begin, at = move.time, move.offset
        places.append((begin, span.upper, at + span.window_lower, at + span.window_upper))
    return places


def rule_breaches(
    problem: AllocationProblem, offsets: Sequence[int], moves: Sequence[Move]
) -> Iterator[Violation]:
    """Every rule that a plan breaks, overlaps in time aside."""
    rules, ids, size = problem.rules, problem.ids, problem.size
    at = [int(offset) for offset in offsets]
    for group in rules.alias:
        for i in group[1:]:
            if at[i] != at[group[0]]:
                told = f"buffers {ids[group[0]]!r} and {ids[i]!r} are aliases but lie at {at[group[0]]} and {at[i]}"
                yield Violation("alias", (group[0], i), told)
    for out, into in rules.inside:
        if not at[into] <= at[out] <= at[into] + int(size[into]) - int(size[out]):
            told = f"buffer {ids[out]!r} does not lie inside {ids[into]!r}"
            yield Violation("inside", (out, into), told)
    for move in moves:
        if move.time not in rules.moves.get(move.buffer, ()):
            told = f"buffer {ids[move.buffer]!r} moves at {move.time}, which is not allowed"
            yield Violation("moves", (move.buffer,), told)
        if move.offset < 0 or move.offset % int(problem.alignment[move.buffer]):
            told = f"buffer {ids[move.buffer]!r} moves to {move.offset}, which is not aligned"
            yield Violation("alignment", (move.buffer,), told)
    starts = [[(i, offset)] for i, offset in enumerate(at)]
    for move in moves:
        starts[move.buffer].append((move.buffer, move.offset))
    for i, step in rules.boundary.items():
        for _, offset in starts[i]:
            if size[i] > 0 and offset // step != (offset + int(size[i]) - 1) // step:
                told = f"buffer {ids[i]!r} at {offset} crosses a multiple of {step}"
                yield Violation("boundary", (i,), told)
    for a, b in rules.separate:
        for _, low in starts[a]:
            for _, other in starts[b]:
                used = problem.spans(a) and problem.spans(b)
                if used and low < other + int(size[b]) and other < low + int(size[a]):
                    told = f"buffers {ids[a]!r} and {ids[b]!r} share bytes and may never"
                    yield Violation("separate", (a, b), told)


def overlaps_under_rules(
    problem: AllocationProblem, offsets: Sequence[int], moves: Sequence[Move], limit: int
) -> list[Violation]:
    """Pairs that use a byte at one time and may not."""
    n = len(problem)
    places = [places_of(problem, i, int(offsets[i]), moves) for i in range(n)]
    kin = _Kin(problem)
    order = sorted((i for i in range(n) if places[i]), key=lambda i: places[i][0][0])
    found: list[Violation] = []
    alive: list[int] = []
    for i in order:
        alive = [k for k in alive if places[k][-1][1] > places[i][0][0]]
        for k in alive:
            for a in places[i]:
                for b in places[k]:
                    met = max(a[0], b[0]) < min(a[1], b[1]) and max(a[2], b[2]) < min(a[3], b[3])
                    if met and not kin.share(i, k):
                        told = f"buffers {problem.ids[k]!r} and {problem.ids[i]!r} share bytes"
                        found.append(Violation("overlap", (k, i), f"{told} at time {max(a[0], b[0])}"))
                        break
                else:
                    continue
                break
            if len(found) >= limit:
                return found
        alive.append(i)
    return found


class _Kin:
    """Which buffers may share bytes: named pairs, aliases, and an output with all that it lies inside of."""

    def __init__(self, problem: AllocationProblem) -> None:
        rules = problem.rules
        self._named = {frozenset(pair) for pair in rules.shared}
        group = list(range(len(problem)))
        members = {i: [i] for i in group}
        for listed in rules.alias:
            for i in listed:
                small, large = sorted((group[i], group[listed[0]]), key=lambda g: len(members[g]))
                if small != large:
                    for k in members[small]:
                        group[k] = large
                    members[large] += members.pop(small)
        self._group = group
        self._into: dict[int, set[int]] = {}
        for out, into in rules.inside:
            self._into.setdefault(group[out], set()).add(group[into])

    def share(self, i: int, k: int) -> bool:
        one, two = self._group[i], self._group[k]
        return one == two or frozenset((i, k)) in self._named or self._lies(one, two) or self._lies(two, one)

    def _lies(self, one: int, two: int) -> bool:
        """Whether a group lies inside another one, step by step."""
        reached, waiting = {one}, [one]
        for at in waiting:
            for other in self._into.get(at, ()):
                if other == two:
                    return True
                if other not in reached:
                    reached.add(other)
                    waiting.append(other)
        return False
