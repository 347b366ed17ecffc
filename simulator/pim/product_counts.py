"""How many accesses, row openings and results a product takes, in closed form from its layout.

These are the figures a mapper plans with and says it expects. The engine counts the commands it issues; a test
holds the two against each other, and so does every plan that is checked.
"""

from __future__ import annotations

from dataclasses import dataclass

from simulator.pim.matrix_layout import Geometry, KeyLayout, ValueLayout, WeightLayout

__all__ = ["ProductCounts", "key_counts", "value_counts", "weight_counts"]


@dataclass(frozen=True, slots=True)
class ProductCounts:
    """What one or more channels do in a product, in lock-step commands of a channel."""

    vector_accesses: int = 0
    """Bursts of the vector into the buffers."""
    column_accesses: int = 0
    """All-bank column accesses that multiply."""
    rows: int = 0
    """Times that all banks of a channel open a row."""
    reads: int = 0
    """Bursts of results to the host."""
    last_columns: int = 0
    """Column accesses in the row that is opened last."""

    def plus(self, other: ProductCounts, times: int = 1) -> ProductCounts:
        """The sum with ``times`` the other."""
        return ProductCounts(
            self.vector_accesses + times * other.vector_accesses,
            self.column_accesses + times * other.column_accesses,
            self.rows + times * other.rows,
            self.reads + times * other.reads,
            other.last_columns,
        )

    @property
    def row_hit_rate(self) -> float:
        """Share of column accesses that find their row open."""
        return 1 - self.rows / self.column_accesses if self.column_accesses else 1.0


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _opened(rows: int, passes: int, g: Geometry) -> int:
    """Row openings of walks over so many neighbouring rows, one walk after another.

    A row stays open until another of its bank is opened, so a row that has its bank to itself is opened once. Of
    rows dealt over ``open_rows`` banks those are all when there are no more rows than banks, and those of banks
    without a second row otherwise.
    """
    alone = rows if rows <= g.open_rows else max(0, 2 * g.open_rows - rows)
    return alone + (rows - alone) * passes


def weight_counts(layout: WeightLayout, g: Geometry, part_m: int, part_k: int) -> ProductCounts:
    """Of the channel with these parts, for one vector."""
    groups, total, row_open = layout.part_groups(g, part_m), ProductCounts(), -1
    for first, _, count in layout.tiles(g, part_k):
        accesses = _ceil(count, g.lanes)
        if layout.packing == "flat":
            rows = _ceil(groups * accesses, g.accesses)
        else:
            rows = _ceil(groups, g.accesses // accesses)
        # A tile always starts in a row of its own, so no row stays open from tile to tile.
        assert first != row_open
        row_open = first + rows - 1
        total = total.plus(ProductCounts(accesses, groups * accesses, rows, groups))
    return total


def key_counts(
    layout: KeyLayout, g: Geometry, part_t: int, part_h: int, tokens: int, queries: int = 1
) -> ProductCounts:
    """Of the channel with these parts, with ``tokens`` tokens in the cache."""
    each = _ceil(layout.width, g.lanes)
    groups = max(0, _ceil(_ceil(tokens, g.banks) - part_t, layout.token_parts))
    heads, total = len(layout.part_heads(part_h)), ProductCounts()
    opened = ProductCounts(rows=_opened(layout.group_rows(g, groups), queries, g))
    for start in range(0, heads, layout.heads_per_row):
        here = min(layout.heads_per_row, heads - start)
        product = ProductCounts(here * each, groups * here * each, 0, groups * here)
        total = total.plus(product, queries).plus(opened)
    return total


def value_counts(
    layout: ValueLayout, g: Geometry, part_m: int, part_t: int, tokens: int, queries: int = 1
) -> ProductCounts:
    """Of the channel with these parts, with ``tokens`` tokens in the cache."""
    each, fit = _ceil(layout.width, g.banks), g.row_elements // layout.tile
    groups, total = layout.part_groups(g, part_m), ProductCounts()
    for tile in range(part_t, _ceil(tokens, layout.tile), layout.token_parts):
        accesses = _ceil(min(layout.tile, tokens - tile * layout.tile), g.lanes)
        row = -1
        for head in range(groups.start // each, _ceil(groups.stop, each)):
            first = max(groups.start, head * each) - groups.start
            last = min(groups.stop, (head + 1) * each) - 1 - groups.start
            rows = range(first // fit, last // fit + 1)
            # The first row may still be open from the head before.
            opened = _opened(len(rows), queries, g) - int(rows.start == row)
            row = rows.stop - 1
            count = last - first + 1
            product = ProductCounts(accesses, count * accesses, 0, count)
            total = total.plus(product, queries).plus(ProductCounts(0, 0, opened, 0))
    return total
