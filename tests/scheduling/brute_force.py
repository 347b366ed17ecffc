"""Plain oracles for small scheduling problems: every order, every address, every replacement. Shares no code."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from functools import cache
from typing import Any

from mapping.scheduling import ScheduleProblem

Place = tuple[tuple[int, int], ...]


def least_peak_of(problem: ScheduleProblem) -> int:
    """The least peak of bytes over all orders without a drop, by recursion over sets of operators done."""
    n = len(problem.operators)
    memo: dict[int, int] = {(1 << n) - 1: 0}

    def best(done: int) -> int:
        if done not in memo:
            memo[done] = min(
                max(_during(problem, done, o), best(done | 1 << o)) for o in _ready(problem, done)
            )
        return memo[done]

    return best(0)


def _ready(problem: ScheduleProblem, done: int) -> Iterator[int]:
    for o in range(len(problem.operators)):
        if not done >> o & 1 and all(done >> w & 1 for w in problem.predecessors[o]):
            yield o


def _live(problem: ScheduleProblem, done: int, t: int) -> bool:
    """Made (or brought in) and still wanted."""
    tensor = problem.tensors[t]
    began = any(done >> c & 1 for c in tensor.consumers)
    exists = done >> tensor.producer & 1 if tensor.producer >= 0 else began
    return bool(exists) and any(not done >> c & 1 for c in tensor.consumers)


def _during(problem: ScheduleProblem, done: int, o: int) -> int:
    op = problem.operators[o]
    needed = {*op.inputs, *op.outputs}
    beside = [t for t in range(len(problem.tensors)) if t not in needed and _live(problem, done, t)]
    apart = {
        t
        for pair in op.in_place
        for t in [pair.output]
        if any(not _live(problem, done | 1 << o, i) for i in pair.inputs)
    }
    sizes = sum(problem.tensors[t].size_bytes for t in (*needed, *beside) if t not in apart)
    return op.workspace_bytes + sizes


def least_cost(problem: ScheduleProblem, capacity: int) -> int | None:
    """The least non-compulsory bytes with addresses; None when no schedule exists.

    The bytes alone are searched first: where a schedule of that cost finds addresses, nothing can be cheaper, but
    finding out takes the search over addresses, which is slow. Use it on few and small tensors.
    """
    return _dijkstra(problem, capacity, _steps_with_addresses, (0, (), 0))


def least_cost_of_bytes(problem: ScheduleProblem, capacity: int) -> int | None:
    """The same with bytes counted and addresses left out: a lower bound, and equal but in rare cases."""
    return _dijkstra(problem, capacity, _steps_of_bytes, (0, 0, 0))


def _dijkstra(problem: ScheduleProblem, capacity: int, steps: Any, start: Any) -> int | None:
    full = (1 << len(problem.operators)) - 1
    best = {start: 0}
    queue = [(0, start)]
    while queue:
        cost, state = heapq.heappop(queue)
        if cost > best[state]:
            continue
        if state[0] == full:
            return int(cost)
        for more, following in steps(problem, capacity, state):
            if cost + more < best.get(following, 1 << 60):
                best[following] = cost + more
                heapq.heappush(queue, (cost + more, following))
    return None


def _price(problem: ScheduleProblem, done: int, written: int, gone: list[int], fetch: list[int]) -> int:
    """Bytes to write what leaves for the first time and to fetch what an operator lacks."""
    tensors = problem.tensors
    cost = sum(tensors[t].size_bytes for t in gone if not tensors[t].copy_free and not written >> t & 1)
    for t in fetch:
        first = tensors[t].producer < 0 and not any(done >> c & 1 for c in tensors[t].consumers)
        cost += 0 if first else tensors[t].size_bytes
    return cost


def _overwrites(problem: ScheduleProblem, o: int) -> Iterator[dict[int, int]]:
    """Every way to write outputs of an operator over inputs: output to input."""
    pairs = problem.operators[o].in_place
    for chosen in itertools.product(*((None, *pair.inputs) for pair in pairs)):
        yield {pair.output: over for pair, over in zip(pairs, chosen, strict=True) if over is not None}


def _steps_of_bytes(problem: ScheduleProblem, capacity: int, state: tuple[int, int, int]) -> Iterator[Any]:
    done, held, written = state
    size = [tensor.size_bytes for tensor in problem.tensors]
    residents = [t for t in range(len(size)) if held >> t & 1]
    for o in _ready(problem, done):
        op = problem.operators[o]
        after = done | 1 << o
        wanted = sum(1 << t for t in range(len(size)) if _live(problem, after, t))
        for kept in range(1 << len(residents)):
            stay = [t for i, t in enumerate(residents) if kept >> i & 1]
            gone = [t for t in residents if t not in stay]
            beside = sum(size[t] for t in stay if t not in op.inputs)
            fetch = [t for t in op.inputs if t not in stay]
            for over in _overwrites(problem, o):
                lasting = [t for t in op.outputs if t not in over]
                mine = sum(size[t] for t in (*op.inputs, *lasting)) + op.workspace_bytes
                if beside + mine > capacity:
                    continue
                lost = [t for t in over.values() if wanted >> t & 1]
                cost = _price(problem, done, written, [*gone, *lost], fetch)
                now = sum(1 << t for t in {*stay, *op.inputs, *op.outputs} - set(lost)) & wanted
                copies = (written | sum(1 << t for t in (*gone, *lost))) & wanted
                yield cost, (after, now, copies)


def _steps_with_addresses(
    problem: ScheduleProblem, capacity: int, state: tuple[int, Place, int]
) -> Iterator[Any]:
    done, place, written = state
    for o in _ready(problem, done):
        op = problem.operators[o]
        after = done | 1 << o
        lives = [_live(problem, after, t) for t in range(len(problem.tensors))]
        wanted = sum(1 << t for t, live in enumerate(lives) if live)
        for kept in range(1 << len(place)):
            stay = [place[i] for i in range(len(place)) if kept >> i & 1]
            gone = [place[i][0] for i in range(len(place)) if not kept >> i & 1]
            inside = {t for t, _ in stay}
            fetch = [t for t in op.inputs if t not in inside]
            taken = 0
            for t, offset in stay:
                taken |= ((1 << problem.tensors[t].size_bytes) - 1) << offset
            for over in _overwrites(problem, o):
                lost = [t for t in over.values() if lives[t]]
                cost = _price(problem, done, written, [*gone, *lost], fetch)
                copies = (written | sum(1 << t for t in (*gone, *lost))) & wanted
                under = {i: t for t, i in over.items()}
                items = [(t, problem.tensors[t].size_bytes) for t in (*fetch, *op.outputs) if t not in over]
                # Where an input lies matters when it stays, or when what is written over it does.
                placed = {t for t, _ in items if lives[t] or (t in under and lives[under[t]])}
                passing = [size for t, size in items if t not in placed] + [op.workspace_bytes]
                lasting = [(t, size) for t, size in items if t in placed]
                seen = set()
                for found, cells in _placements(lasting, taken, capacity):
                    if _fits(tuple(sorted(passing)), cells, capacity):
                        there = dict((*stay, *found))
                        there |= {t: there[i] for t, i in over.items() if i in there}
                        rest = [(t, at) for t, at in there.items() if lives[t] and t not in lost]
                        seen.add(_upright(problem, rest, capacity))
                for residents in seen:
                    yield cost, (after, residents, copies)


def _upright(problem: ScheduleProblem, place: list[tuple[int, int]], capacity: int) -> Place:
    """A placement or its mirror image, whichever sorts first: they are equally good."""
    mirrored = [(t, capacity - at - problem.tensors[t].size_bytes) for t, at in place]
    return min(tuple(sorted(place)), tuple(sorted(mirrored)))


def _placements(items: list[tuple[int, int]], taken: int, capacity: int) -> Iterator[tuple[Place, int]]:
    if not items:
        yield (), taken
        return
    (t, size), rest = items[0], items[1:]
    for at in range(capacity - size + 1):
        cells = ((1 << size) - 1) << at
        if not taken & cells:
            for others, all_taken in _placements(rest, taken | cells, capacity):
                yield ((t, at), *others), all_taken


@cache
def _fits(sizes: tuple[int, ...], taken: int, capacity: int) -> bool:
    """Whether pieces of these sizes fit beside what is taken."""
    if not sizes:
        return True
    *rest, size = sizes
    return any(
        not taken & ((1 << size) - 1) << at and _fits(tuple(rest), taken | ((1 << size) - 1) << at, capacity)
        for at in range(capacity - size + 1)
    )
