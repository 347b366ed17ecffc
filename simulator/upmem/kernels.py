"""Programs for cores beside banks: streams over the bank in blocks, with so many instructions an element.

A :class:`Mix` says of one element which bytes come in block by block, which go back, which single words are fetched
where the data points, and how many instructions it takes. Elements are dealt over the tasklets in blocks, in turn.
Of the PrIM workloads (arXiv:2105.03814, section 4) bytes follow from their types; instructions are counted from the
loops' arithmetic and addressing, as no compiled listing was at hand, and so are assumptions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hw_configs.problems import bad_input
from simulator.upmem.program import Core, Phase, Step, Tasklet

__all__ = ["PRIM", "Mix", "streamed"]


@dataclass(frozen=True, slots=True)
class Mix:
    """What one element takes. ``read`` and ``written``: bytes of each stream; ``fetched``: single words of 8 bytes."""

    read: tuple[int, ...]
    written: tuple[int, ...]
    instructions: int
    fetched: int = 0
    meets: bool = False
    """Tasklets meet at the end, and a second walk adds what the first one left."""


PRIM: Final[dict[str, Mix]] = {
    # Two loads, an addition, a store, two steps of addresses, a jump.
    "VA": Mix((4, 4), (4,), 7),
    # A 32-bit product is emulated in up to 32 steps, beside two loads, a sum, addresses and a jump.
    "GEMV": Mix((4,), (), 38),
    # A column and a value in 8 bytes, the vector's word where the column points.
    "SpMV": Mix((8,), (), 42, fetched=1),
    # An edge in, the visited bit of its end looked at and set.
    "BFS": Mix((4,), (), 12, fetched=1),
    # 64-bit: load, compare, store of what stays (half of it), addresses, jump.
    "SEL": Mix((8,), (4,), 8),
    # A pixel: load, shift, load, add and store of its bin, address, jump.
    "HST": Mix((4,), (), 8),
    # 64-bit: load, two parts of the addition, address, jump.
    "RED": Mix((8,), (), 5, meets=True),
    # As RED, a store besides, and the second walk adds the sums of those before.
    "SCAN": Mix((8,), (8,), 7, meets=True),
    # A word of 8 bytes from one place to another, with the place to be found.
    "TRNS": Mix((), (8,), 20, fetched=1),
}
"""The PrIM workloads that are streams, by their names; instructions are assumptions."""


def streamed(mix: Mix, elements: int, tasklets: int, core: Core, block: int = 1024) -> tuple[Tasklet, ...]:
    """The program of so many elements, in blocks of ``block`` bytes of the widest stream.

    ``InputError`` where blocks of all tasklets do not fit the scratchpad, or the streams not the bank.
    """
    widths = (*mix.read, *mix.written)
    if elements < 1 or tasklets < 1 or not core.least_transfer <= block <= core.most_transfer:
        raise bad_input(
            f"found {elements} elements, {tasklets} tasklets and blocks of {block} bytes; expected 1 or more, and "
            f"blocks of {core.least_transfer} to {core.most_transfer} bytes"
        )
    each = max(1, block // max(widths, default=8))
    held = tasklets * sum(_whole(width * each, core) for width in widths)
    if held > core.scratchpad_bytes:
        raise bad_input(f"{tasklets} tasklets hold {held} bytes of blocks; there are {core.scratchpad_bytes}")
    stored = elements * sum(widths)
    if stored > core.bank_bytes:
        raise bad_input(f"{elements} elements take {stored} bytes; the bank has {core.bank_bytes}")
    full, rest = divmod(elements, each)
    program = []
    for number in range(tasklets):
        walk = [Phase(_steps(mix, each, core), full // tasklets + (number < full % tasklets))]
        if rest and number == full % tasklets:
            walk.append(Phase(_steps(mix, rest, core)))
        meeting = [Phase((Step("barrier"),))] if mix.meets else []
        second = walk if mix.meets and mix.written else []
        program.append(tuple(phase for phase in (*walk, *meeting, *second) if phase.times))
    return tuple(program)


def _whole(size: int, core: Core) -> int:
    return -(-size // core.least_transfer) * core.least_transfer


def _steps(mix: Mix, elements: int, core: Core) -> tuple[Step, ...]:
    steps = [Step("read", _whole(width * elements, core)) for width in mix.read]
    if mix.fetched:
        one = (*[Step("read", 8)] * mix.fetched, Step("run", mix.instructions))
        steps += one * elements
    elif mix.instructions:
        steps.append(Step("run", mix.instructions * elements))
    return (*steps, *(Step("write", _whole(width * elements, core)) for width in mix.written))
