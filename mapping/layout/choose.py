"""The best layout of each matrix on a PIM memory, under the capacity of its banks.

Candidates are every way to deal outputs and inputs over the channels, tiles that cut the inputs evenly, and both
packings; for a cache, every way to deal tokens, heads and outputs, and every width of a value tile. Each is
priced by the closed form of its counts; the best few are run on the engine, which decides. When the best of
all do not fit the rows of a bank together, the cheapest combination that does is found by trying every
combination of the candidates that are not worse than another in both rows and cost.

``published`` is the recipe of PIM-GPT (arXiv:2310.09385): outputs over all channels, tiles as wide as a row,
every output in a row of its own start, heads side by side in a row, a value row per output.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from hw_configs.problems import InfeasibleError
from hw_configs.vector_unit import VectorUnit
from simulator.pim.asic import clocks, partial_sum_stages
from simulator.pim.matrix_layout import Geometry, KeyLayout, ValueLayout, WeightLayout
from simulator.pim.pricing import FIGURES, Pricer, Work
from simulator.pim.product_counts import ProductCounts
from simulator.pim.recipes import Share, key_shares, value_shares, weight_shares, write_shares

__all__ = ["Bench", "Choice", "Objective", "cache_choices", "fit_rows", "weight_choices"]

Objective = Literal["time", "energy"]

TRIED_ON_ENGINE: Final = 3
"""Candidates whose closed form is best and which the engine then runs."""
CUTS: Final = 3
"""How many more tiles than the fewest are tried."""
MOST_READS: Final = 6000
"""Results of a channel above which a product is not tried on the engine: writing its program takes longer than the
difference between candidates is worth, and the closed form is at its best for long runs."""
MAX_FRONT: Final = 6
MAX_COMBINATIONS: Final = 200_000
JOULES: Final = tuple(FIGURES.index(name) for name in FIGURES if name.endswith("_j"))


@dataclass(frozen=True)
class Choice:
    """A layout of one matrix (or of keys and values together): kernel keys, rows it takes, what it costs."""

    kernel: Mapping[str, int | str]
    rows: int
    seconds: float
    joules: float
    counts: ProductCounts
    """Expected, over all channels, of one product (for caches: at the capacity)."""

    def cost(self, objective: Objective) -> float:
        """What the objective minimises."""
        return self.seconds if objective == "time" else self.joules


def _grids(channels: int) -> list[tuple[int, int]]:
    return [(channels // k, k) for k in range(1, channels + 1) if channels % k == 0]


@dataclass(frozen=True)
class Bench:
    """What candidates are tried on: the memory's prices, and the host that adds partial sums and draws power."""

    pricer: Pricer
    unit: VectorUnit
    host_hz: float
    host_w: float
    """Power of the vector unit while it works."""
    idle_w: float
    """Power of memory and host at rest, which runs on as long as the product takes."""

    @property
    def geometry(self) -> Geometry:
        """The memory's geometry."""
        return self.pricer.lowering.geometry

    def priced(
        self, shares: Sequence[Share], exact: bool, sums: int = 0
    ) -> tuple[float, float, ProductCounts]:
        """Seconds and joules of shares that run side by side and of the host's clocks after them, and counts.

        ``exact``: by the engine, otherwise by the closed form, which long products always take.
        """
        exact = exact and all(s.counts is not None and s.counts.reads <= MOST_READS for s in shares)
        longest, joules, total = 0, 0.0, ProductCounts()
        for share in shares:
            assert share.counts is not None
            work = self.pricer.work(share) if exact else self.pricer.pace.work(share.counts)
            longest = max(longest, work.cycles)
            joules += share.channels * _joules(work)
            total = total.plus(share.counts, share.channels)
        seconds = longest * self.pricer.device.tick_s + sums / self.host_hz
        return seconds, joules + self.idle_w * seconds + self.host_w * sums / self.host_hz, total


def _joules(work: Work) -> float:
    return sum(work.figures[place] for place in JOULES)


def _front(rough: list[Choice], exact: Callable[[int], Choice], objective: Objective) -> list[Choice]:
    """Of candidates in order of cost, those that no other beats in both rows and cost, cheapest first.

    ``exact`` puts the figures of a candidate right; it is asked for the best few and for those that save rows.
    """
    found: list[Choice] = []
    for place, choice in enumerate(rough):
        saves = not found or choice.rows < min(c.rows for c in found)
        if place < TRIED_ON_ENGINE or (saves and len(found) < MAX_FRONT):
            found.append(exact(place))
    found.sort(key=lambda c: (c.cost(objective), c.rows))
    kept: list[Choice] = []
    for choice in found:
        if not kept or choice.rows < kept[-1].rows:
            kept.append(choice)
    return kept


def _tiles(length: int, most: int, lanes: int) -> list[int]:
    """Widths that cut a length into equal tiles: as few as possible, and some more; and the widest."""
    fewest = -(-length // most)
    widths = {min(most, math.ceil(length / cuts / lanes) * lanes) for cuts in range(fewest, fewest + CUTS)}
    return sorted({most if length > most else -(-length // lanes) * lanes, *widths})


def weight_choices(
    outputs: int, inputs: int, bench: Bench, objective: Objective = "time", published: bool = False
) -> list[Choice]:
    """Layouts of a weight matrix that are worth having, best first; at least one."""
    g = bench.geometry
    widest = min(g.row_elements, g.buffer_elements)
    found: list[tuple[Choice, Sequence[Share], int]] = []
    for layout in _weight_layouts(outputs, inputs, g, widest, published):
        kernel: dict[str, int | str] = {
            "kind": "weights", "output_parts": layout.output_parts, "input_parts": layout.input_parts,
            "tile": layout.tile, "packing": layout.packing,
        }  # fmt: skip
        shares = weight_shares(layout, bench.pricer.lowering)
        tiles = layout.input_parts * sum(1 for _ in layout.tiles(g, 0))
        sums = clocks(partial_sum_stages(outputs, tiles, bias=True), bench.unit)
        found.append((Choice(kernel, layout.rows(g), *bench.priced(shares, False, sums)), shares, sums))
    found.sort(key=lambda item: (item[0].cost(objective), item[0].rows, str(item[0].kernel)))

    def exact(place: int) -> Choice:
        choice, shares, sums = found[place]
        return Choice(choice.kernel, choice.rows, *bench.priced(shares, True, sums))

    return _front([choice for choice, _, _ in found], exact, objective)


def _weight_layouts(
    outputs: int, inputs: int, g: Geometry, widest: int, published: bool
) -> Iterator[WeightLayout]:
    if published:
        yield WeightLayout(outputs, inputs, g.channels, 1, widest, "aligned")
        return
    for output_parts, input_parts in _grids(g.channels):
        part = -(-inputs // input_parts)
        for tile in _tiles(part, widest, g.lanes):
            yield WeightLayout(outputs, inputs, output_parts, input_parts, tile, "aligned")
            yield WeightLayout(outputs, inputs, output_parts, input_parts, tile, "flat")


def cache_choices(
    heads: int,
    width: int,
    value_width: int,
    capacity: int,
    queries: int,
    bench: Bench,
    objective: Objective = "time",
    published: bool = False,
) -> list[Choice]:
    """Layouts of keys and values that are worth having, best first, for contexts up to the capacity.

    A layout has to serve every context, so its cost is the mean over four of them: a quarter, a half, three
    quarters and all of the capacity. Writing a token's keys and values is part of it.
    """
    contexts = sorted({max(1, capacity * quarter // 4) for quarter in (1, 2, 3, 4)})
    g = bench.geometry
    key_layouts = _key_layouts(heads, width, capacity, g, published)
    value_layouts = _value_layouts(heads, value_width, capacity, g, published)
    keys = _mean_choices(key_layouts, contexts, bench, objective, queries)
    values = _mean_choices(value_layouts, contexts, bench, objective, queries)
    both = [
        Choice({"kind": "attention", "capacity": capacity, **k.kernel, **v.kernel}, k.rows + v.rows,
               k.seconds + v.seconds, k.joules + v.joules, k.counts.plus(v.counts))
        for k, v in itertools.product(keys[:MAX_FRONT], values[:MAX_FRONT])
    ]  # fmt: skip
    both.sort(key=lambda c: (c.cost(objective), c.rows))
    kept: list[Choice] = []
    for choice in both:
        if not kept or choice.rows < kept[-1].rows:
            kept.append(choice)
    return kept


def _key_layouts(heads: int, width: int, capacity: int, g: Geometry, published: bool) -> Iterator[KeyLayout]:
    each = -(-width // g.lanes) * g.lanes
    if each > g.buffer_elements:
        raise InfeasibleError(f"a head of {width} elements is wider than a buffer of {g.buffer_elements}")
    most = max(1, min(g.row_elements, g.buffer_elements) // each)
    for token_parts, head_parts in [(g.channels, 1)] if published else _grids(g.channels):
        if head_parts > heads:
            continue
        part = -(-heads // head_parts)
        counts = {min(part, most), -(-part // -(-part // most)), *(() if published else (1,))}
        for per_row in sorted(counts):
            yield KeyLayout(heads, width, capacity, token_parts, head_parts, per_row)
            if published:
                return


def _value_layouts(
    heads: int, width: int, capacity: int, g: Geometry, published: bool
) -> Iterator[ValueLayout]:
    widest = min(g.row_elements, g.buffer_elements) // g.lanes * g.lanes
    if published:
        yield ValueLayout(heads, width, capacity, g.channels, 1, widest)
        return
    groups = heads * -(-width // g.banks)
    for output_parts, token_parts in _grids(g.channels):
        if output_parts > groups or token_parts > -(-capacity // g.lanes):
            continue
        tile = widest
        while tile >= 4 * g.lanes:
            yield ValueLayout(heads, width, capacity, output_parts, token_parts, tile)
            tile = tile // 2 // g.lanes * g.lanes


Cache = KeyLayout | ValueLayout


def _mean_choices(
    layouts: Iterator[KeyLayout] | Iterator[ValueLayout],
    contexts: list[int],
    bench: Bench,
    objective: Objective,
    queries: int,
) -> list[Choice]:
    """Choices for a cache: the closed form over the contexts, for the best few put right by the engine."""
    rough = [(_mean(layout, contexts, bench, queries), layout) for layout in layouts]
    rough.sort(key=lambda item: (item[0].cost(objective), item[0].rows, str(item[1])))
    middle = contexts[len(contexts) // 2]
    return _front(
        [choice for choice, _ in rough],
        lambda place: _put_right(*rough[place], middle, bench, queries),
        objective,
    )


def _mean(layout: Cache, contexts: list[int], bench: Bench, queries: int) -> Choice:
    """A layout's mean cost of a product over contexts, with the writing of a token, by the closed form."""
    seconds = joules = 0.0
    counts = ProductCounts()
    for tokens in contexts:
        sums = 0
        if isinstance(layout, ValueLayout):
            outputs = layout.heads * queries * layout.width
            sums = clocks(partial_sum_stages(outputs, -(-tokens // layout.tile), bias=False), bench.unit)
        product = bench.priced(_cache_shares(layout, bench, tokens, queries), False, sums)
        shares = write_shares(layout, bench.pricer.lowering, tokens - 1)
        works = [bench.pricer.work(share) for share in shares]
        writing = max(work.cycles for work in works) * bench.pricer.device.tick_s
        seconds += product[0] + writing
        joules += product[1] + bench.idle_w * writing
        joules += sum(s.channels * _joules(w) for s, w in zip(shares, works, strict=True))
        counts = product[2]
    rows = layout.rows(bench.geometry)
    return Choice(_cache_kernel(layout), rows, seconds / len(contexts), joules / len(contexts), counts)


def _put_right(choice: Choice, layout: Cache, tokens: int, bench: Bench, queries: int) -> Choice:
    """The choice with the engine's time at one context in place of the closed form's."""
    shares = _cache_shares(layout, bench, tokens, queries)
    late = bench.priced(shares, True)[0] - bench.priced(shares, False)[0]
    return replace(choice, seconds=choice.seconds + late, joules=choice.joules + bench.idle_w * late)


def _cache_shares(layout: Cache, bench: Bench, tokens: int, queries: int) -> Sequence[Share]:
    if isinstance(layout, KeyLayout):
        return key_shares(layout, bench.pricer.lowering, tokens, queries)
    return value_shares(layout, bench.pricer.lowering, tokens, queries)


def _cache_kernel(layout: Cache) -> dict[str, int | str]:
    if isinstance(layout, KeyLayout):
        return {"token_parts": layout.token_parts, "head_parts": layout.head_parts,
                "heads_per_row": layout.heads_per_row}  # fmt: skip
    return {"output_parts": layout.output_parts, "value_parts": layout.token_parts, "value_tile": layout.tile}


def fit_rows(
    wanted: Mapping[str, tuple[int, Sequence[Choice]]], rows: int, objective: Objective
) -> dict[str, Choice]:
    """One choice for each matrix, of which there are so many, so that all fit the rows of a bank.

    The cheapest sum of cost over all; ``InfeasibleError`` when even the smallest choices do not fit.
    """
    names = list(wanted)
    best = {name: choices[0] for name, (_, choices) in wanted.items()}
    if sum(count * best[name].rows for name, (count, _) in wanted.items()) <= rows:
        return best
    least = sum(count * min(c.rows for c in choices) for count, choices in wanted.values())
    if least > rows:
        raise InfeasibleError(f"the matrices need {least} rows of every bank at least; there are {rows}")
    combinations = 1
    for _, choices in wanted.values():
        combinations *= len(choices)
    few = combinations <= MAX_COMBINATIONS
    lists = [choices if few else (choices[0], choices[-1]) for _, choices in wanted.values()]
    counts = [count for count, _ in wanted.values()]
    found: tuple[float, tuple[Choice, ...]] | None = None
    for combination in itertools.product(*lists):
        if sum(n * c.rows for n, c in zip(counts, combination, strict=True)) > rows:
            continue
        cost = sum(n * c.cost(objective) for n, c in zip(counts, combination, strict=True))
        if found is None or cost < found[0]:
            found = (cost, combination)
    assert found is not None
    return dict(zip(names, found[1], strict=True))
