"""Is this log of a drive's commands possible? Plain Python over the rows, sharing no code with the engine.

The checker knows the drive and the rows alone: it replays them in order and says what no flash could have done.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from simulator.flash.drive import Drive

__all__ = ["violations"]

_READ, _PROGRAM, _ERASE, _OUT, _DONE, _INSTANT, _PLACED, _PROGRAMMED, _ERASED = range(9)


def violations(drive: Drive, rows: npt.NDArray[np.int64], reads_held: bool = True) -> list[str]:
    """What is wrong with a log (columns: time, end, what, unit, physical page, logical page, source, stamp).

    ``reads_held``: the controller answers reads of pages that are not on flash yet, so no read command goes to
    one.
    """
    return [*_buses(drive, rows), *_pages(drive, rows, reads_held)]


def _buses(drive: Drive, rows: npt.NDArray[np.int64]) -> Iterator[str]:
    """Two transfers on one bus at once; pages of one command share their time."""
    per_channel = drive.pages_per_plane * drive.planes // drive.channels
    until: dict[int, tuple[int, int]] = {}
    for time, end, what, _, page, *_ in sorted(rows.tolist(), key=lambda row: row[0]):
        if what in (_READ, _PROGRAM, _ERASE, _OUT):
            channel = page // per_channel
            begun, busy = until.get(channel, (-1, -1))
            together = (time, end) == (begun, busy) and what != _OUT
            if time < busy and not together:
                yield f"bus {channel} is taken twice at {time} ns"
            if end > busy:
                until[channel] = (time, end)


def _pages(drive: Drive, rows: npt.NDArray[np.int64], reads_held: bool) -> Iterator[str]:
    """Pages programmed twice or out of order, blocks erased with work open, reads of what is not there."""
    sent: dict[int, int] = {}
    written: set[int] = set()
    open_programs: dict[int, int] = {}
    pages = drive.pages_per_block
    for time, _, what, _, page, *_ in rows.tolist():
        block = page // pages
        if what == _INSTANT:
            written.add(page)
        elif what == _PROGRAM:
            if page in written:
                yield f"page {page} is programmed twice without an erase at {time} ns"
            if page % pages <= sent.get(block, -1):
                yield f"page {page} is programmed out of order at {time} ns"
            sent[block] = page % pages
            open_programs[block] = open_programs.get(block, 0) + 1
        elif what == _PROGRAMMED:
            written.add(page)
            open_programs[block] -= 1
        elif what == _READ and page not in written and reads_held:
            yield f"page {page} is read at {time} ns before it is programmed"
        elif what == _ERASE and open_programs.get(block, 0):
            yield f"block {block} is erased at {time} ns while it is programmed"
        elif what == _ERASED:
            sent.pop(block, None)
            written.difference_update(range(block * pages, (block + 1) * pages))
