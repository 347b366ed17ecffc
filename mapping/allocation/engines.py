"""Runs the exact kernels on one component: which engine, which rank, how many nodes.

A :class:`Probe` asks one question, "is there a packing below this capacity?", of a component. Its engines take
turns with a node limit that the caller doubles, so that an engine that does not suit the instance costs no more
than a constant factor. Ranks decide the order among equals: the static ones of the literature first (T: bytes
of the fullest section, A: area, W: sections of the life), then seeded random mixtures.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mapping.allocation.by_offset import FOUND, LIMIT, NONE, search_by_offset
from mapping.allocation.by_valley import FITTING, LOWEST, TIGHTEST, Bounds, search_by_valley
from mapping.allocation.greedy import pack, peak_units, section_totals
from mapping.allocation.instance import Component, highest_offsets, section_ceilings
from mapping.allocation.pairwise import search_by_pairs
from mapping.allocation.state import PACES
from mapping.deadline import Budget

__all__ = ["FOUND", "LIMIT", "NONE", "Prober"]

Ints = NDArray[np.int64]

_LONG_CALL_NODES = 4000
_TRAIL_ROWS = 1 << 20
_ABREAST = 2
"""Tries at a time: each is bound by the memory it walks through."""
_DRAWS = 8
_PACE = 0.6
"""Share of the slack that is spread over the height in every second of those tries."""


@dataclass(slots=True)
class Answer:
    """What a probe found: FOUND with offsets in units, NONE (proved), or LIMIT.

    With LIMIT, ``offsets`` may hold a plan above the capacity: the fullest partial packing, filled up.
    """

    status: int
    offsets: Ints | None = None
    engine: str = ""


class _Try(NamedTuple):
    """One call of an engine in a round; ``pace``: the share of the slack that is spread over the height."""

    engine: str
    rank: str
    style: int
    nodes: int
    pace: float = 0.0


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Prober:
    """Asks one component whether it fits below a capacity."""

    def __init__(self, component: Component, budget: Budget, seed: int) -> None:
        self.component = component
        self._budget = budget
        self._seed = seed
        self._ranks: dict[str, Ints] = {}
        self._by_size: Ints | None = None
        self._called: set[str] = set()
        inst = component.instance
        self._valley_ok = not component.windowed and bool((inst.align == 1).all())

    @property
    def size(self) -> int:
        """Buffers in the component."""
        return len(self.component.index)

    def probe(self, capacity: int, nodes: int, turn: int) -> Answer:
        """One round over the engines with ``nodes`` nodes each; ``turn`` picks this round's random rank."""
        component = self.component
        highest = highest_offsets(component, capacity)
        if (highest < 0).any() or bool((highest < component.instance.fixed).any()):
            return Answer(NONE)
        ceiling = section_ceilings(component.instance, highest)
        pinned = component.instance.fixed >= 0
        highest = np.where(pinned, np.minimum(highest, component.instance.fixed), highest)
        exhausted = False
        rough = Answer(LIMIT)
        slack = self._slack(ceiling)

        def run(item: _Try, limit: int, stop: Ints) -> tuple[int, Ints]:
            inst, ranks = component.instance, self._rank(item.rank)
            long = nodes > _LONG_CALL_NODES
            if item.engine == "valley":
                bounds = Bounds(highest, ceiling, ranks, item.style)
                return self._call(search_by_valley, (inst, bounds, int(slack * item.pace)), limit, long, stop)
            return self._call(search_by_offset, (inst, highest, ceiling, ranks), limit, long, stop)

        for item, status, offsets in self._outcomes(self._line_up(nodes, turn), run, nodes):
            name, rank = item.engine, item.rank
            if status == FOUND:
                return Answer(FOUND, offsets.copy(), f"{name}/{rank}")
            if status == NONE and slack * item.pace < 1:
                if name == "valley" or component.complete_by_offset:
                    return Answer(NONE, engine=f"{name}/{rank}")
                exhausted = True
            elif name == "valley" and status == LIMIT:
                rough = self._completed(offsets, rough, f"{name}/{rank}/greedy")
            if exhausted or self._budget.spent:
                break
        if self._budget.spent:
            return rough
        if not component.complete_by_offset:
            limit = self._budget.allow(nodes)
            status, used, offsets = self._budget.call(
                search_by_pairs, component.instance, highest, limit, self._budget.stop, long=True
            )
            self._budget.nodes += used
            return Answer(status, offsets.copy() if status == FOUND else None, "pairs")
        return rough

    def _outcomes(
        self, tries: Iterable[_Try], run: Callable[[_Try, int, Ints], tuple[int, Ints]], nodes: int
    ) -> Iterator[tuple[_Try, int, Ints]]:
        """What each try finds, in turn; under a clock alone and with cores to spare several long ones at a time."""
        budget = self._budget
        by_clock = budget.max_nodes is None and budget.seconds_left() is not None
        abreast = min(_ABREAST, _processors()) if by_clock and nodes > _LONG_CALL_NODES else 1
        waiting = list(tries)
        while waiting and not budget.spent:
            # An engine's first call may have to load or compile it, which two threads must not do at once.
            together = all(item.engine in self._called for item in waiting[:abreast])
            now, waiting = (waiting[:abreast], waiting[abreast:]) if together else (waiting[:1], waiting[1:])
            limit = budget.allow(now[0].nodes)
            if limit == 0:
                return
            if len(now) == 1:
                found_alone = run(now[0], limit, budget.stop)
                self._called.add(now[0].engine)
                yield (now[0], *found_alone)
                continue
            for item in now:
                self._rank(item.rank)
            calls = [partial(run, item, item.nodes) for item in now]
            found = budget.race(calls, lambda outcome: outcome[0] == FOUND)
            yield from ((item, *outcome) for item, outcome in zip(now, found, strict=True))

    def _slack(self, ceiling: Ints) -> float:
        """Bytes to spare per byte in use in the fullest section, in parts of :data:`PACES`."""
        totals = section_totals(self.component.instance)
        fullest = int(totals.argmax())
        return PACES * max(int(ceiling[fullest] - totals[fullest]), 0) / int(totals[fullest])

    def _completed(self, partial: Ints, best: Answer, engine: str) -> Answer:
        """A partial packing filled up greedily, when that is lower than the best such plan."""
        component, inst = self.component, self.component.instance
        if self._by_size is None:
            self._by_size = np.lexsort((np.arange(self.size), -inst.size))
        fixed = np.where(inst.fixed >= 0, inst.fixed, partial)
        plan = pack(inst.first, inst.last, inst.size, inst.align, fixed, self._by_size, False, 1 << 62)
        if best.offsets is not None and peak_units(component, best.offsets) <= peak_units(component, plan):
            return best
        return Answer(LIMIT, plan, engine)

    def _call(
        self, kernel: Callable[..., Any], args: tuple[Any, ...], limit: int, long: bool, stop: Ints
    ) -> tuple[int, Ints]:
        rows = _TRAIL_ROWS
        while True:
            status, used, offsets = self._budget.call(kernel, *args, limit, rows, stop, long=long)
            self._budget.nodes += used
            if status != LIMIT or used >= limit or stop[0] or rows >= 1 << 26:
                return status, offsets
            rows *= 8  # the trail was too short: once more, from the start

    def _line_up(self, nodes: int, turn: int) -> Iterator[_Try]:
        """The engines of one round, each with ``nodes`` nodes or a part of them."""
        if self._valley_ok:
            yield _Try("valley", "WAT", FITTING, nodes)
            yield _Try("valley", "TAW", FITTING, nodes)
            yield _Try("valley", "WAT", 0, nodes)
            yield _Try("valley", "TAW", FITTING + LOWEST, nodes)
            yield _Try("valley", "TAW", TIGHTEST, nodes)
            # Good luck comes early or not at all: many short tries with mixed ranks.
            for draw in range(_DRAWS if turn > 0 else 0):
                style = (FITTING, TIGHTEST, FITTING, 0)[draw % 4]
                share = max(nodes // _DRAWS, 4 * self.size)
                yield _Try("valley", f"random{turn * _DRAWS + draw}", style, share, _PACE * (draw % 2))
        for rank in ("TWA", "TAW", "WAT"):
            yield _Try("offset", rank, 0, nodes)

    def _rank(self, name: str) -> Ints:
        """Position of each buffer in an order; lower goes first."""
        if name not in self._ranks:
            if len(self._ranks) > 16:
                self._ranks.clear()
            self._ranks[name] = self._make_rank(name)
        return self._ranks[name]

    def _make_rank(self, name: str) -> Ints:
        inst = self.component.instance
        life = inst.last - inst.first
        totals = section_totals(inst)
        fullest = np.array(
            [totals[a:b].max() for a, b in zip(inst.first, inst.last, strict=True)], dtype=np.int64
        )
        columns = {"W": life, "A": inst.size * life, "T": fullest}
        n = len(life)
        if name.startswith("random"):
            draw = np.random.default_rng((self._seed, int(name[6:]), n))
            weight = draw.random(3)
            score = sum(
                w * (np.argsort(np.argsort(-column, kind="stable"), kind="stable") / n)
                for w, column in zip(weight, columns.values(), strict=True)
            )
            order = np.argsort(score + draw.random(n) * draw.random(), kind="stable")
        else:
            order = np.lexsort((np.arange(n), *(-columns[letter] for letter in reversed(name))))
        rank = np.empty(n, np.int64)
        rank[order] = np.arange(n)
        return rank
