"""Where the elements of a matrix lie in the banks of a PIM memory, and in which steps a channel multiplies it.

A processing unit stands beside every bank of a channel. One all-bank access multiplies ``lanes`` elements of the
open row of each bank with the same ``lanes`` elements of the channel's vector buffer and adds to one sum per bank.
So the banks of a channel hold different outputs (rows of the matrix) at the same address, and a product is a
list of steps: fill the buffer, clear the sums, multiply a run of columns of one DRAM row, read the sums.

Three layouts follow from that, after PIM-GPT (arXiv:2310.09385, "mapping"): weights, cut into tiles with their
vector, whose partial sums the host adds; keys, row-major, with the heads of a token side by side so that they
fill a DRAM row; values, column-major, with space reserved for tokens to come. What the paper fixes is a choice
here: over how many channels outputs and inputs are dealt, how wide a tile is, and whether the outputs of a
row's remainder start in the same DRAM row (``flat``) or in the next one (``aligned``).

Rows are counted from 0 within the region of one matrix; a region takes the same rows in every bank.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Addresses", "Geometry", "KeyLayout", "Packing", "Step", "ValueLayout", "WeightLayout", "Write"]

Packing = Literal["aligned", "flat"]
Integers = NDArray[np.int64]
Count = TypeVar("Count", int, Integers)


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a layout needs of a PIM memory; sizes in elements of the type that its units multiply."""

    channels: int
    banks: int
    """Banks of a channel that multiply together."""
    row_elements: int
    lanes: int
    """Elements of one column access, which is what a unit multiplies at once."""
    buffer_elements: int
    """Elements of the vector that a channel's buffer holds."""
    rows: int
    """Rows of one bank."""
    open_rows: int = 1
    """Rows that may be open at once: banks that share a unit appear as one, neighbouring rows in different ones."""

    @property
    def accesses(self) -> int:
        """Column accesses of a row."""
        return self.row_elements // self.lanes


class Step(NamedTuple):
    """One step of a channel; which of the numbers it has depends on its kind.

    ``vector``: elements [``at``, ``at + length``) of vector ``first`` go into the buffer, zeros behind them.
    ``clear``: the sums become zero. ``mac``: ``length`` column accesses from access ``at`` of ``row`` are
    multiplied with the buffer's accesses from ``first``. ``read``: the sums go to the host; that of bank b
    belongs to output ``first + b`` for vector ``row``, for the first ``length`` banks.
    """

    kind: Literal["vector", "clear", "mac", "read"]
    first: int = 0
    row: int = 0
    at: int = 0
    length: int = 0


class Write(NamedTuple):
    """The host writes ``length`` accesses from column access ``at`` of ``row`` in ``banks`` banks from ``bank``.

    ``masked``: of each access only one element, the others stay.
    """

    bank: int
    banks: int
    row: int
    at: int
    length: int
    masked: bool


class Addresses(NamedTuple):
    """Where elements lie: arrays of equal shape. ``element`` counts within the DRAM row."""

    channel: Integers
    bank: Integers
    row: Integers
    element: Integers


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _runs(g: Geometry, at: int, accesses: int) -> Iterator[tuple[int, int, int]]:
    """Row, column access and count of the runs that accesses take from ``at`` on, rows laid end to end."""
    end = at + accesses
    while at < end:
        row, column = divmod(at, g.accesses)
        count = min(end - at, g.accesses - column)
        yield row, column, count
        at += count


@dataclass(frozen=True, slots=True)
class WeightLayout:
    """A matrix of ``outputs`` x ``inputs`` whose elements do not change.

    Outputs go to ``output_parts`` parts of the channels in turn, a group (one output per bank) at a time;
    inputs to ``input_parts`` in equal runs. ``tile`` inputs are summed before the sums are read.
    """

    outputs: int
    inputs: int
    output_parts: int
    input_parts: int
    tile: int
    packing: Packing

    def part_inputs(self, g: Geometry, part: int) -> range:
        """The inputs of a part; empty when the parts are more than the inputs fill."""
        width = _ceil(_ceil(self.inputs, self.input_parts), g.lanes) * g.lanes
        return range(min(part * width, self.inputs), min((part + 1) * width, self.inputs))

    def part_groups(self, g: Geometry, part: int) -> int:
        """Groups of outputs that a part has."""
        groups = _ceil(self.outputs, g.banks)
        return max(0, _ceil(groups - part, self.output_parts))

    def tiles(self, g: Geometry, part: int) -> Iterator[tuple[int, int, int]]:
        """First row, first input and inputs of each tile of a part of the inputs."""
        inputs, row = self.part_inputs(g, part), 0
        for start in range(inputs.start, inputs.stop, self.tile):
            count = min(self.tile, inputs.stop - start)
            yield row, start, count
            row += self._tile_rows(g, _ceil(count, g.lanes))

    def _tile_rows(self, g: Geometry, accesses: int) -> int:
        groups = self.part_groups(g, 0)
        if self.packing == "flat":
            return _ceil(groups * accesses, g.accesses)
        return _ceil(groups, g.accesses // accesses)

    def rows(self, g: Geometry) -> int:
        """Rows of the region, the same in every bank."""
        row = 0
        for first, _, count in self.tiles(g, 0):
            row = first + self._tile_rows(g, _ceil(count, g.lanes))
        return row

    def _pieces(self, g: Geometry, group: int, accesses: int) -> Iterator[tuple[int, int, int]]:
        """Row (from the tile's first), column access and count of the runs that hold a group's tile."""
        if self.packing == "aligned":
            fit = g.accesses // accesses
            yield group // fit, group % fit * accesses, accesses
            return
        yield from _runs(g, group * accesses, accesses)

    def shares(self, g: Geometry) -> Iterator[tuple[int, int, int]]:
        """Channel, part of the outputs and part of the inputs of every channel that has work."""
        for part_k in range(self.input_parts):
            for part_m in range(self.output_parts):
                if self.part_inputs(g, part_k) and self.part_groups(g, part_m):
                    yield part_k * self.output_parts + part_m, part_m, part_k

    def steps(self, g: Geometry, part_m: int, part_k: int, vectors: int = 1) -> Iterator[Step]:
        """The steps of the channel with these parts; ``vectors`` products with the same matrix."""
        for vector in range(vectors):
            for first, start, count in self.tiles(g, part_k):
                accesses = _ceil(count, g.lanes)
                yield Step("vector", vector, 0, start, count)
                for local in range(self.part_groups(g, part_m)):
                    output = (local * self.output_parts + part_m) * g.banks
                    yield Step("clear")
                    buffer = 0
                    for row, column, run in self._pieces(g, local, accesses):
                        yield Step("mac", buffer, first + row, column, run)
                        buffer += run
                    yield Step("read", output, vector, length=min(g.banks, self.outputs - output))

    def addresses(self, g: Geometry) -> Addresses:
        """Where every element lies, as arrays of shape (outputs, inputs)."""
        m, k = np.meshgrid(np.arange(self.outputs), np.arange(self.inputs), indexing="ij")
        group, bank = m // g.banks, m % g.banks
        local = group // self.output_parts
        width = _ceil(_ceil(self.inputs, self.input_parts), g.lanes) * g.lanes
        channel = k // width * self.output_parts + group % self.output_parts
        row, element = np.zeros_like(m), np.zeros_like(m)
        for part in range(self.input_parts):
            for first, start, count in self.tiles(g, part):
                here = (k >= start) & (k < start + count)
                accesses = _ceil(count, g.lanes)
                inner = k[here] - start
                if self.packing == "aligned":
                    fit = g.accesses // accesses
                    row[here] = first + local[here] // fit
                    element[here] = local[here] % fit * accesses * g.lanes + inner
                else:
                    linear = local[here] * accesses * g.lanes + inner
                    row[here] = first + linear // g.row_elements
                    element[here] = linear % g.row_elements
        return Addresses(channel, bank, row, element)


@dataclass(frozen=True, slots=True)
class KeyLayout:
    """The keys of ``heads`` heads of ``width`` elements, with space for ``capacity`` tokens.

    A DRAM row holds the keys of ``heads_per_row`` heads of one token in each bank, side by side; where that
    leaves space for more, those of further tokens too. A head wider than a row stands alone, and tokens follow
    one another over row ends. Tokens go to ``token_parts`` parts of the channels in turn, a group (one per bank)
    at a time; heads to ``head_parts`` in equal runs.
    """

    heads: int
    width: int
    capacity: int
    token_parts: int
    head_parts: int
    heads_per_row: int

    def _head_accesses(self, g: Geometry) -> int:
        return _ceil(self.width, g.lanes)

    def part_heads(self, part: int) -> range:
        """The heads of a part."""
        size = _ceil(self.heads, self.head_parts)
        return range(min(part * size, self.heads), min((part + 1) * size, self.heads))

    def _groups(self, g: Geometry, tokens: int, part: int) -> int:
        return max(0, _ceil(_ceil(tokens, g.banks) - part, self.token_parts))

    def group_rows(self, g: Geometry, groups: int) -> int:
        """Rows that so many groups of tokens take."""
        side = self.heads_per_row * self._head_accesses(g)
        fit = g.accesses // side
        return _ceil(groups, fit) if fit else _ceil(groups * side, g.accesses)

    def _tile_rows(self, g: Geometry) -> int:
        return self.group_rows(g, self._groups(g, self.capacity, 0))

    def _start(self, g: Geometry, local: Count) -> Count:
        """Column access at which a group of tokens begins, rows laid end to end."""
        side = self.heads_per_row * self._head_accesses(g)
        fit = g.accesses // side
        return local // fit * g.accesses + local % fit * side if fit else local * side

    def rows(self, g: Geometry) -> int:
        """Rows of the region, the same in every bank."""
        return _ceil(len(self.part_heads(0)), self.heads_per_row) * self._tile_rows(g)

    def shares(self, g: Geometry, tokens: int) -> Iterator[tuple[int, int, int]]:
        """Channel, part of the tokens and part of the heads of every channel that has work."""
        for part_h in range(self.head_parts):
            for part_t in range(self.token_parts):
                if self.part_heads(part_h) and self._groups(g, tokens, part_t):
                    yield part_h * self.token_parts + part_t, part_t, part_h

    def _tiles(self, g: Geometry, part: int) -> Iterator[tuple[int, range]]:
        heads, row = self.part_heads(part), 0
        for start in range(heads.start, heads.stop, self.heads_per_row):
            yield row, range(start, min(start + self.heads_per_row, heads.stop))
            row += self._tile_rows(g)

    def steps(self, g: Geometry, part_t: int, part_h: int, tokens: int, queries: int = 1) -> Iterator[Step]:
        """The steps of a channel for ``queries`` query heads a key head; vector q is the q-th of each.

        A read's ``first`` is ``head * capacity + token``.
        """
        each = self._head_accesses(g)
        for first, heads in self._tiles(g, part_h):
            for query in range(queries):
                # The buffer takes each head at a multiple of a whole access.
                yield Step("vector", query, 0, heads.start * each * g.lanes, len(heads) * each * g.lanes)
                for local in range(self._groups(g, tokens, part_t)):
                    token = (local * self.token_parts + part_t) * g.banks
                    start = self._start(g, local)
                    for place, head in enumerate(heads):
                        yield Step("clear")
                        buffer = place * each
                        for row, column, run in _runs(g, start + place * each, each):
                            yield Step("mac", buffer, first + row, column, run)
                            buffer += run
                        outputs = min(g.banks, tokens - token)
                        yield Step("read", head * self.capacity + token, query, length=outputs)

    def write_channels(self, g: Geometry, token: int) -> Iterator[tuple[int, int]]:
        """Channel and part of the heads of every channel that gets keys of a new token."""
        group = token // g.banks
        for part in range(self.head_parts):
            if self.part_heads(part):
                yield part * self.token_parts + group % self.token_parts, part

    def write(self, g: Geometry, token: int, part_h: int) -> Iterator[Write]:
        """The writes of a new token's keys for a part of the heads: runs of whole accesses."""
        group, bank = divmod(token, g.banks)
        start, each = self._start(g, group // self.token_parts), self._head_accesses(g)
        for first, heads in self._tiles(g, part_h):
            for row, column, run in _runs(g, start, len(heads) * each):
                yield Write(bank, 1, first + row, column, run, False)

    def addresses(self, g: Geometry) -> Addresses:
        """Where every element lies, as arrays of shape (capacity, heads, width)."""
        shape = (self.capacity, self.heads, self.width)
        t, h, e = np.meshgrid(*(np.arange(side) for side in shape), indexing="ij")
        group, bank = t // g.banks, t % g.banks
        each, size = self._head_accesses(g), _ceil(self.heads, self.head_parts)
        part, inside = h // size, h % size
        tile, place = inside // self.heads_per_row, inside % self.heads_per_row
        channel = part * self.token_parts + group % self.token_parts
        linear = (self._start(g, group // self.token_parts) + place * each) * g.lanes + e
        row = tile * self._tile_rows(g) + linear // g.row_elements
        return Addresses(channel, bank, row, linear % g.row_elements)


@dataclass(frozen=True, slots=True)
class ValueLayout:
    """The values of ``heads`` heads of ``width`` elements, with space for ``capacity`` tokens.

    A bank holds one element of a head's output; its row holds that element of ``tile`` tokens, and as many
    further outputs as fit. Groups of outputs (one per bank) go to ``output_parts`` parts of the channels in
    equal runs, tiles of tokens to ``token_parts`` in turn, whose partial sums the host adds.
    """

    heads: int
    width: int
    capacity: int
    output_parts: int
    token_parts: int
    tile: int

    def _head_groups(self, g: Geometry) -> int:
        return _ceil(self.width, g.banks)

    def part_groups(self, g: Geometry, part: int) -> range:
        """The groups of a part, counted over all heads."""
        groups = self.heads * self._head_groups(g)
        size = _ceil(groups, self.output_parts)
        return range(min(part * size, groups), min((part + 1) * size, groups))

    def _tile_rows(self, g: Geometry) -> int:
        return _ceil(len(self.part_groups(g, 0)), g.row_elements // self.tile)

    def rows(self, g: Geometry) -> int:
        """Rows of the region, the same in every bank."""
        return _ceil(_ceil(self.capacity, self.tile), self.token_parts) * self._tile_rows(g)

    def shares(self, g: Geometry, tokens: int) -> Iterator[tuple[int, int, int]]:
        """Channel, part of the outputs and part of the tokens of every channel that has work."""
        for part_t in range(min(self.token_parts, _ceil(tokens, self.tile))):
            for part_m in range(self.output_parts):
                if self.part_groups(g, part_m):
                    yield part_t * self.output_parts + part_m, part_m, part_t

    def steps(self, g: Geometry, part_m: int, part_t: int, tokens: int, queries: int = 1) -> Iterator[Step]:
        """The steps of a channel; a vector's ``first`` is ``query * heads + head``, as is a read's ``row``.

        A read's ``first`` is the output, ``head * width`` and on.
        """
        groups, each = self.part_groups(g, part_m), self._head_groups(g)
        fit, slot = g.row_elements // self.tile, self.tile // g.lanes
        tiles = range(part_t, _ceil(tokens, self.tile), self.token_parts)
        for count, tile in enumerate(tiles):
            start = tile * self.tile
            used = min(self.tile, tokens - start)
            for head in range(groups.start // each, _ceil(groups.stop, each)):
                mine = range(max(groups.start, head * each), min(groups.stop, (head + 1) * each))
                for query in range(queries):
                    vector = query * self.heads + head
                    yield Step("vector", vector, 0, start, used)
                    for group in mine:
                        row, place = divmod(group - groups.start, fit)
                        row += count * self._tile_rows(g)
                        output = (group - head * each) * g.banks
                        yield Step("clear")
                        yield Step("mac", 0, row, place * slot, _ceil(used, g.lanes))
                        banks = min(g.banks, self.width - output)
                        yield Step("read", head * self.width + output, vector, length=banks)

    def write_channels(self, g: Geometry, token: int) -> Iterator[tuple[int, int]]:
        """Channel and part of the outputs of every channel that gets values of a new token."""
        for part in range(self.output_parts):
            if self.part_groups(g, part):
                yield token // self.tile % self.token_parts * self.output_parts + part, part

    def write(self, g: Geometry, token: int, part_m: int) -> Iterator[Write]:
        """The writes of a new token's values for a part: one element in each bank, group after group."""
        tile, inside = divmod(token, self.tile)
        fit, slot, each = g.row_elements // self.tile, self.tile // g.lanes, self._head_groups(g)
        groups, base = self.part_groups(g, part_m), tile // self.token_parts * self._tile_rows(g)
        for local, group in enumerate(groups):
            row, place = divmod(local, fit)
            banks = min(g.banks, self.width - group % each * g.banks)
            yield Write(0, banks, base + row, place * slot + inside // g.lanes, 1, True)

    def addresses(self, g: Geometry) -> Addresses:
        """Where every element lies, as arrays of shape (capacity, heads, width)."""
        shape = (self.capacity, self.heads, self.width)
        t, h, e = np.meshgrid(*(np.arange(side) for side in shape), indexing="ij")
        fit, each = g.row_elements // self.tile, self._head_groups(g)
        group, bank = h * each + e // g.banks, e % g.banks
        size = _ceil(self.heads * each, self.output_parts)
        part, local = group // size, group % size
        tile, inside = t // self.tile, t % self.tile
        channel = tile % self.token_parts * self.output_parts + part
        row = tile // self.token_parts * self._tile_rows(g) + local // fit
        element = local % fit * self.tile + inside
        return Addresses(channel, bank, row, element)
