"""Kernel: a beam over sets of operators done, which looks for orders that keep few bytes alive.

A state is the set of operators done; with nothing dropped that says what is alive. Of all ways to run one operator
more, so many sets of the least score are kept, each once. An order is scored by its highest step (for the least peak),
or by what its steps need above a capacity, summed (for few bytes moved: what does not fit has to wait off-chip, and the
longer the more of it is wanted in between), and by the bytes that are alive after it. Beams over down-sets with such
scores: Ahn et al., arXiv:2003.02369, who keep all sets and look at the peak alone.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from mapping.scheduling.instance import WORD_BITS, Instance, lists_of
from mapping.scheduling.state_bits import inlined

__all__ = ["Aim", "Links", "beam_order", "links_of"]

Ints = NDArray[np.int64]
_LOOKED: Final = 4
"""So many children of the least score are looked through for each state that is kept; more are seldom equal sets."""


class Links(NamedTuple):
    """Who waits for whom and who reads what, as lists: entries ``at[i]`` to ``at[i + 1]`` belong to i."""

    wait_at: Ints
    waits: Ints
    follower_at: Ints
    followers: Ints
    reader_at: Ints
    readers: Ints


class Aim(NamedTuple):
    """What is looked for: orders with little above ``capacity`` bytes, at every step (``summed``) or at the highest.

    ``live_weight``: of a byte that stays alive after the last step, against one above the capacity at a step.
    """

    capacity: int
    width: int
    summed: bool
    live_weight: float
    seed: int


class _Beam(NamedTuple):
    """States: operators done, operators ready, bytes alive, score so far without those alive, and a hash."""

    done: Ints
    ready: NDArray[np.int32]
    ready_count: Ints
    live: Ints
    over: Ints
    key: Ints


def links_of(instance: Instance) -> Links:
    """The lists of an instance."""
    problem = instance.problem
    followers: list[list[int]] = [[] for _ in problem.operators]
    for o, before in enumerate(problem.predecessors):
        for w in before:
            followers[w].append(o)
    return Links(
        *lists_of([list(before) for before in problem.predecessors]),
        *lists_of(followers),
        *lists_of([list(problem.tensors[t].consumers) for t in instance.tracked.tolist()]),
    )


@inlined
def _is_done(done: Any, s: int, o: int) -> Any:
    return (done[s, o // WORD_BITS] >> (o % WORD_BITS)) & 1 != 0


@inlined
def _began(g: Any, links: Any, done: Any, s: int, t: int) -> bool:
    """Whether a tensor is there before its next reader: made, or brought in by an earlier one."""
    if g.producer[t] >= 0:
        return True
    for k in range(links.reader_at[t], links.reader_at[t + 1]):  # noqa: SIM110 (numba)
        if _is_done(done, s, links.readers[k]):
            return True
    return False


@inlined
def _ends(links: Any, done: Any, s: int, o: int, t: int) -> bool:
    """Whether operator o is the last to read a tensor."""
    for k in range(links.reader_at[t], links.reader_at[t + 1]):
        reader = links.readers[k]
        if reader != o and not _is_done(done, s, reader):
            return False
    return True


@inlined
def _step(g: Any, links: Any, beam: Any, s: int, o: int) -> Any:
    """Bytes that running o needs in a state, and bytes alive after it."""
    live, inside, saved = beam.live[s], 0, 0
    after = live
    for i in range(g.input_at[o], g.input_at[o + 1]):
        t = g.inputs[i]
        if _began(g, links, beam.done, s, t):
            inside += g.size[t]
            if _ends(links, beam.done, s, o, t):
                after -= g.size[t]
        elif not _ends(links, beam.done, s, o, t):
            after += g.size[t]
    for k in range(g.output_at[o], g.output_at[o + 1]):
        after += g.size[g.outputs[k]]
    for p in range(g.pair_at[o], g.pair_at[o + 1]):
        for k in range(g.over_at[p], g.over_at[p + 1]):
            if _ends(links, beam.done, s, o, g.over[k]):
                saved += g.pair_bytes[p]
                break
    return live - inside + g.need[o] - saved, after


@compiled
def _new_beam(width: int, n: int, words: int) -> Any:
    return _Beam(
        np.zeros((width, words), np.int64), np.zeros((width, n), np.int32), np.zeros(width, np.int64),
        np.zeros(width, np.int64), np.zeros(width, np.int64), np.zeros(width, np.int64),
    )  # fmt: skip


@inlined
def _follow(links: Any, beam: Any, s: int, o: int, following: Any, at: int) -> None:
    """Write the sets of a state after operator o into a row of the next beam."""
    for w in range(beam.done.shape[1]):
        following.done[at, w] = beam.done[s, w]
    following.done[at, o // WORD_BITS] |= 1 << (o % WORD_BITS)
    count = 0
    for r in range(beam.ready_count[s]):
        if beam.ready[s, r] != o:
            following.ready[at, count] = beam.ready[s, r]
            count += 1
    for k in range(links.follower_at[o], links.follower_at[o + 1]):
        follower = links.followers[k]
        free = True
        for i in range(links.wait_at[follower], links.wait_at[follower + 1]):
            if not _is_done(following.done, at, links.waits[i]):
                free = False
                break
        if free:
            following.ready[at, count] = follower
            count += 1
    following.ready_count[at] = count


@compiled
def beam_order(g: Any, links: Any, aim: Any, stop: Any) -> Any:
    """The order of the least score that a beam finds; empty once ``stop`` is set. The same seed, the same order."""
    np.random.seed(aim.seed)
    n, words = g.before.shape
    width = aim.width
    hashes = np.zeros(n, np.int64)
    for o in range(n):
        hashes[o] = np.random.randint(1, 1 << 62)
    beam, following = _new_beam(width, n, words), _new_beam(width, n, words)
    for o in range(n):
        if links.wait_at[o] == links.wait_at[o + 1]:
            beam.ready[0, beam.ready_count[0]] = o
            beam.ready_count[0] += 1
    parent, operator = np.zeros((n, width), np.int32), np.zeros((n, width), np.int32)
    states = 1
    for depth in range(n):
        if stop[0] != 0:
            return np.zeros(0, np.int64)
        children = beam.ready_count[:states].sum()
        of, by = np.zeros(children, np.int32), np.zeros(children, np.int32)
        live, over = np.zeros(children, np.int64), np.zeros(children, np.int64)
        score = np.zeros(children, np.float64)
        c = 0
        for s in range(states):
            for r in range(beam.ready_count[s]):
                o = beam.ready[s, r]
                during, after = _step(g, links, beam, s, o)
                above = max(during - aim.capacity, 0)
                of[c], by[c], live[c] = s, o, after
                over[c] = beam.over[s] + above if aim.summed else max(beam.over[s], above)
                # Less than a byte: chance decides among equals.
                score[c] = over[c] + aim.live_weight * after + 0.5 * np.random.random()
                c += 1
        states = _keep_best(
            links, beam, following, (of, by, live, over, score), hashes, parent[depth], operator[depth]
        )
        beam, following = following, beam
    order = np.zeros(n, np.int64)
    at = 0
    for depth in range(n - 1, -1, -1):
        order[depth] = operator[depth, at]
        at = parent[depth, at]
    return order


@compiled
def _keep_best(
    links: Any, beam: Any, following: Any, children: Any, hashes: Any, parent: Any, operator: Any
) -> Any:
    """The children of the least score become the next beam, each set of operators once; how many they are."""
    of, by, live, over, score = children
    width = len(parent)
    most = min(_LOOKED * width, len(score))
    chosen = np.arange(len(score))
    if most < len(score):
        chosen = np.flatnonzero(score <= np.partition(score, most - 1)[most - 1])
    chosen = chosen[np.argsort(score[chosen], kind="mergesort")]
    seen = {np.int64(0)}
    kept = 0
    for c in chosen:
        s, o = of[c], by[c]
        key = beam.key[s] ^ hashes[o]
        if key in seen:
            continue
        seen.add(key)
        _follow(links, beam, s, o, following, kept)
        following.live[kept], following.over[kept], following.key[kept] = live[c], over[c], key
        parent[kept], operator[kept] = s, o
        kept += 1
        if kept == width:
            break
    return kept
