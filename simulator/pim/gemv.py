"""Matrix-vector products as PIM programs: y = W x with the rows of W over channels, units and lanes.

With an adder tree (GDDR6-AiM, AttAcc) a unit multiplies a column of a weight row with as much of the vector
and sums up: K is cut into tiles as large as the buffer and one DRAM row, and for each tile every unit works
through its rows of W, one sum at a time. Without one (HBM-PIM) a scalar of the vector multiplies a column
that holds one weight for each lane, and the sums stay in the lanes until all of K is done.
"""

from __future__ import annotations

import math
from typing import Final

from hw_configs.pim import PimDetail
from hw_configs.problems import bad_input, nearest
from simulator.pim.program import ALL, Entry, Instruction, Loop, Program

__all__ = ["VARIANTS", "gemv_program"]

VARIANTS: Final = ("full", "nobias", "noreuse")


def gemv_program(
    device: PimDetail, m: int, k: int, channels: int = ALL, variant: str = "full", name: str = ""
) -> Program:
    """The program of an ``m`` x ``k`` product in the channels of a mask, ended by EOC.

    ``variant``: ``full``; ``nobias`` leaves the accumulators as they are before each group of rows; ``noreuse``
    writes the vector tile again for every group. Raises ``InputError`` for sizes that do not fit the memory.
    """
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise bad_input(f"unknown variant {variant!r}; known: {known}", suggestion=nearest(variant, VARIANTS))
    if m < 1 or k < 1:
        raise bad_input(f"found a matrix of {m} x {k}; expected at least 1 x 1")
    used = device.channels if channels == ALL else bin(channels).count("1")
    if not used:
        raise bad_input("found no channel in the mask", path="channels")
    lanes = 1 if device.units.adder_tree else device.units.lanes
    groups = math.ceil(m / (device.units_per_channel * lanes * used))
    build = _summed if device.units.adder_tree else _per_lane
    body = build(device, groups, k, channels, variant)
    return Program((*body, Instruction("EOC")), name or f"gemv {m} x {k}, {variant}")


def _summed(device: PimDetail, groups: int, k: int, channels: int, variant: str) -> list[Entry]:
    """Tiles of K outside, groups of rows inside; DRAM row = tile x groups + group, over all banks of a unit."""
    mac = device.commands.lockstep
    banks = device.units.banks_per_unit
    tile = min(
        device.global_buffer_bytes // device.element_bytes, device.columns * device.elements_per_column
    )
    tiles = math.ceil(k / tile)
    needed = math.ceil(tiles * groups / banks)
    if needed > device.rows:
        raise bad_input(f"the matrix needs {needed} rows of every bank; there are {device.rows}")
    full = k // tile
    loops: list[Entry] = []
    if full:
        loops += _tiles(device, mac, full, tile, 0, groups, channels, variant)
    if k % tile:
        loops += _tiles(device, mac, 1, k % tile, full, groups, channels, variant)
    return loops


def _tiles(
    device: PimDetail, mac: str, count: int, elements: int, first: int, groups: int, channels: int, variant: str
) -> list[Entry]:  # fmt: skip
    """``count`` tiles of so many elements, from tile ``first`` on."""
    banks = device.units.banks_per_unit
    n = math.ceil(elements / device.elements_per_column)
    results = math.ceil(device.units_per_channel * device.element_bytes / device.column_bytes)
    vector = Instruction("WR_GB", n=n, channels=channels)
    bias = [] if variant == "nobias" else [Instruction("WR_BIAS", n=results, channels=channels)]
    read = Instruction("RD_MAC", n=results, channels=channels)
    again = [vector] if variant == "noreuse" else []
    if banks == 1:
        one = Instruction(mac, n=n, row=first * groups, channels=channels, row_steps=(1, groups))
        inner = Loop(groups, (*again, *bias, one, read))
        return [Loop(count, (inner,) if again else (vector, inner))]
    # A unit has several banks: groups of rows go round them, and a tile begins where the last one ended.
    body: list[Entry] = []
    for index in range(count):
        start = (first + index) * groups
        body += [] if again else [vector]
        for group in range(start, start + groups):
            one = Instruction(mac, n=n, row=group // banks, bank=group % banks, channels=channels)
            body += [*again, *bias, one, read]
    return body


def _per_lane(device: PimDetail, groups: int, k: int, channels: int, variant: str) -> list[Entry]:
    """Groups outside, K inside: a few scalars are written, then each multiplies one column."""
    mac = device.commands.lockstep
    per_row = device.lockstep_columns
    scalars = device.global_buffer_bytes // device.element_bytes
    rows = math.ceil(k / per_row)
    if rows * groups > device.rows:
        raise bad_input(f"the matrix needs {rows * groups} rows of every bank; there are {device.rows}")
    units = device.units_per_channel
    results = math.ceil(units * device.units.lanes * device.element_bytes / device.column_bytes)

    def row(elements: int, index: int, steps: tuple[int, ...]) -> list[Entry]:
        entries: list[Entry] = []
        for col in range(0, elements, scalars):
            n = min(scalars, elements - col)
            bursts = math.ceil(n / device.elements_per_column)
            entries.append(Instruction("WR_GB", n=bursts, channels=channels))
            entries.append(Instruction(mac, n=n, row=index, col=col, channels=channels, row_steps=steps))
        return entries

    full, rest = divmod(k, per_row)
    inner: list[Entry] = [] if variant == "nobias" else [Instruction("WR_BIAS", n=results, channels=channels)]
    if full:
        inner.append(Loop(full, tuple(row(per_row, 0, (1, rows)))))
    if rest:
        inner += row(rest, full, (rows,))
    return [Loop(groups, (*inner, Instruction("RD_MAC", n=results, channels=channels)))]
