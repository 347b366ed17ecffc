"""Is this log of a drive's commands possible? Plain Python over the rows, sharing no code with the engine.

The checker knows the description of the drive and the rows alone. It replays them in order and says what no flash,
and no controller that keeps its promises, could have done. Its rules:

``order``
    Rows come in order of time, and none ends before it begins.
``address``
    A page lies in the drive, and a command goes to the unit (die, or chip where dies do not interleave) of its page.
``bus``
    A channel's bus carries one command or one page at a time.
``bus time``
    A command takes its cycles, a page at least a byte's time and at most a whole page's.
``planes``
    Pages of one command lie in different planes of one die (only where the drive has multi-plane commands), at the
    same place of their blocks unless they are erased.
``busy``
    A unit does one thing at a time. A read may stop a program or an erase that the drive can suspend; with cache
    commands one program may wait behind another.
``register``
    A unit whose register holds pages that were read takes no command, but for reads with cache commands.
``array time``
    A read, program or erase takes at least its array time, and as much longer as reads have stopped it.
``end``
    What ends has begun: a program, an erase, and the read whose page goes over the bus, each once.
``once``
    A page is programmed once between two erases of its block.
``sequence``
    Pages of a block are programmed in order.
``content``
    A read finds a programmed page of the logical page it is for.
``erase``
    A block is not erased while it is read, programmed or erased, nor read or programmed while it is erased.
``move``
    Collection programs only what it has read.
``live``
    The only copy of what a logical page holds is never erased: another on flash is as new, or it was trimmed.
``early``
    Without a write buffer a write is done when all its pages are on flash, not before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from simulator.flash.drive import Drive, page_types

__all__ = ["Violation", "violations"]

_READ, _PROGRAM, _ERASE, _OUT, _DONE, _INSTANT, _PLACED, _PROGRAMMED, _ERASED, _TRIMMED = range(10)
_COMMANDS: Final = ("read", "program", "erase")
_WRITE: Final = 1
"""Operation of a completed request (the column ``unit`` of its row)."""
_COLLECTION: Final = 1
"""The source of pages that collection moves."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule: its name, the row of the log that breaks it, and what is wrong."""

    rule: str
    index: int
    message: str

    def __str__(self) -> str:
        return f"row {self.index} breaks {self.rule!r}: {self.message}"


def violations(
    drive: Drive,
    rows: npt.NDArray[np.int64],
    reads_held: bool = True,
    before: Mapping[int, int] | None = None,
) -> list[Violation]:
    """Every broken rule of a log (columns: time, end, what, unit, physical page, logical page, source, stamp).

    ``reads_held``: the controller answers reads of pages that are not on flash yet, so no read command goes to
    one. ``before``: the logical page of every physical page that held one before the first row (default: none).
    """
    replay = _Replay(drive, reads_held)
    for page, logical in (before or {}).items():
        replay.hold(page, logical, 0)
        replay.begun(page)
    found: list[Violation] = []
    for index, values in enumerate(rows.tolist()):
        row = _Row(*values)
        found += (Violation(rule, index, message) for rule, message in replay.take(row))
    return found


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of the log. ``unit`` and ``stamp`` mean other things in rows that are no commands."""

    time: int
    end: int
    what: int
    unit: int
    page: int
    logical: int
    source: int
    stamp: int


@dataclass(slots=True)
class _Command:
    """A command under way on a unit: pages of one multi-plane command together."""

    what: int
    time: int
    begins: int
    """When the array can begin: the end of the bus transfer, or of the program in front."""
    array_ns: int
    open_pages: set[int]
    stopped_ns: int = 0
    """Time that reads took from it (suspension)."""

    @property
    def ends(self) -> int:
        """The first moment at which the array can be done."""
        return self.begins + self.array_ns + self.stopped_ns


@dataclass(slots=True)
class _Unit:
    """What a unit does: reads whose pages are not all out yet; programs and erases that have not ended."""

    reads: list[_Command] = field(default_factory=list)
    changes: list[_Command] = field(default_factory=list)
    ended: _Command | None = None
    """The last program or erase that ended: pages of one command end together, in rows of their own."""
    ended_at: int = 0
    out_until: int = 0


@dataclass(slots=True)
class _Block:
    sent: int = -1
    """The last page that a program was sent to."""
    reads: int = 0
    programs: int = 0
    erasing: bool = False


class _Replay:
    def __init__(self, drive: Drive, reads_held: bool) -> None:
        self.drive, self.reads_held = drive, reads_held
        types = page_types(drive.pages_per_block, len(drive.read_ns)).tolist()
        self.read_ns = [drive.read_ns[kind] for kind in types]
        self.program_ns = [drive.program_ns[kind] for kind in types]
        self.cycles = drive.commands.table(max(drive.planes_per_die, 1)).tolist()
        self.planes_per_unit = drive.planes_per_die * (1 if drive.die_interleaving else drive.dies_per_chip)
        self.now = 0
        self.buses: dict[int, tuple[int, int]] = {}
        self.units: dict[int, _Unit] = {}
        self.blocks: dict[int, _Block] = {}
        self.group: tuple[_Row, list[int], _Command] | None = None
        self.content: dict[int, tuple[int, int]] = {}
        """Programmed pages: their logical page and the number of the write that made it."""
        self.copies: dict[int, set[int]] = {}
        self.version: dict[int, int] = {}
        """Physical pages that were given to a write or a move: the number of the write."""
        self.written = 0
        self.trimmed: dict[int, int] = {}
        """Logical pages that were trimmed: the number of the last write before."""
        self.programming: set[int] = set()
        self.moved: dict[int, int] = {}
        self.owed: dict[int, set[int]] = {}
        """Requests that write: their pages that are not on flash yet."""

    def take(self, row: _Row) -> Iterator[tuple[str, str]]:
        """Broken rules of the next row."""
        if row.time < self.now:
            yield "order", f"{row.time} ns after a row at {self.now} ns"
        if row.end < row.time:
            yield "order", f"ends at {row.end} ns, before it begins at {row.time} ns"
        self.now = max(self.now, row.time)
        if row.what == _DONE:
            yield from self._done(row)
            return
        if not 0 <= row.page < self.drive.physical_pages:
            yield "address", f"page {row.page} of {self.drive.physical_pages}"
            return
        if row.what <= _OUT:
            yield from self._bus(row)
        if row.what <= _ERASE:
            yield from self._command(row)
        elif row.what == _OUT:
            yield from self._out(row)
        elif row.what == _INSTANT:
            if row.page in self.content:
                yield "once", f"page {row.page} was there already"
            self.written += 1
            self.hold(row.page, row.logical, self.written)
        elif row.what == _PLACED:
            self.written += 1
            self.version[row.page] = self.written
            if row.unit >= 0:
                self.owed.setdefault(row.unit, set()).add(row.page)
        elif row.what == _PROGRAMMED:
            yield from self._programmed(row)
        elif row.what == _ERASED:
            yield from self._erased(row)
        elif row.what == _TRIMMED:
            self.trimmed[row.logical] = self.written

    # ---- where and when

    def _unit(self, row: _Row) -> int:
        return row.page // self.drive.pages_per_plane // self.planes_per_unit

    def _bus(self, row: _Row) -> Iterator[tuple[str, str]]:
        """Rules ``address`` (unit) and ``bus``."""
        if row.unit != self._unit(row):
            yield "address", f"page {row.page} is in unit {self._unit(row)}, not {row.unit}"
        channel = row.page // (self.drive.pages_per_plane * self.drive.planes // self.drive.channels)
        begun, busy = self.buses.get(channel, (-1, -1))
        joins = self.group is not None and self._joins(self.group[0], row)
        if row.time < busy and not joins:
            yield "bus", f"bus {channel} is taken from {begun} to {busy} ns, and again at {row.time} ns"
        if row.end > busy:
            self.buses[channel] = (row.time, row.end)

    @staticmethod
    def _joins(first: _Row, row: _Row) -> bool:
        """Whether a row is a further page of the command of the row before."""
        return row.what != _OUT and (first.time, first.end, first.what, first.unit) == (
            row.time, row.end, row.what, row.unit,
        )  # fmt: skip

    def _block(self, row: _Row) -> _Block:
        return self.blocks.setdefault(row.page // self.drive.pages_per_block, _Block())

    # ---- commands

    def _command(self, row: _Row) -> Iterator[tuple[str, str]]:
        unit = self.units.setdefault(row.unit, _Unit())
        if self.group is not None and self._joins(self.group[0], row):
            first, planes, command = self.group
            yield from self._plane(row, first, planes)
            command.open_pages.add(row.page)
        else:
            command = _Command(row.what, row.time, row.end, self._array_ns(row), {row.page})
            planes = []
            yield from self._begin(row, unit, command)
            self.group = (row, planes, command)
        planes.append(row.page // self.drive.pages_per_plane)
        yield from self._bus_time(row, len(planes))
        yield from (self._read, self._program, self._erase)[row.what](row)

    def _plane(self, row: _Row, first: _Row, planes: list[int]) -> Iterator[tuple[str, str]]:
        """Rule ``planes``."""
        plane = row.page // self.drive.pages_per_plane
        per_die, pages = self.drive.planes_per_die, self.drive.pages_per_block
        if not self.drive.multi_plane:
            yield "planes", "the drive has no multi-plane commands"
        if plane in planes or plane // per_die != planes[0] // per_die:
            yield "planes", f"planes {[*planes, plane]} in one command"
        if row.what != _ERASE and row.page % pages != first.page % pages:
            yield "planes", f"pages {first.page % pages} and {row.page % pages} of blocks in one command"

    def _bus_time(self, row: _Row, planes: int) -> Iterator[tuple[str, str]]:
        """Rule ``bus time``. Rows of one command come one by one; the last knows how many planes there are."""
        took = row.end - row.time
        cycles = self.cycles[row.what][min(planes, len(self.cycles[row.what]) - 1)]
        data = planes if row.what == _PROGRAM else 0
        if took < cycles + data * self.drive.transfer_ns(1):
            yield "bus time", f"{took} ns for {planes} pages; the command alone takes {cycles}"
        most = self.cycles[row.what][-1]
        pages = self.drive.planes_per_die if row.what == _PROGRAM else 0
        if took > most + pages * self.drive.transfer_ns(self.drive.page_bytes):
            yield "bus time", f"{took} ns are longer than any {_COMMANDS[row.what]} takes"

    def _array_ns(self, row: _Row) -> int:
        page = row.page % self.drive.pages_per_block
        return (self.read_ns[page], self.program_ns[page], self.drive.erase_ns)[row.what]

    def _begin(self, row: _Row, unit: _Unit, command: _Command) -> Iterator[tuple[str, str]]:
        """Rules ``busy`` and ``register``."""
        what, cached = row.what, self.drive.cache_commands
        working = [read for read in unit.reads if row.time < read.ends]
        if working:
            yield "busy", f"unit {row.unit} still reads until {working[0].ends} ns"
        if (unit.reads or row.time < unit.out_until) and not working and not (cached and what == _READ):
            yield "register", f"unit {row.unit} holds a page that was read"
        for change in unit.changes:
            if what == _READ:
                yield from self._suspend(row, change)
            elif not (what == change.what == _PROGRAM and cached and len(unit.changes) == 1):
                yield "busy", f"unit {row.unit} is in a {_COMMANDS[change.what]} since {change.time} ns"
        if what == _READ:
            unit.reads.append(command)
        else:
            unit.changes.append(command)

    def _suspend(self, row: _Row, change: _Command) -> Iterator[tuple[str, str]]:
        """A read while a unit programs or erases: allowed where that can be suspended, and it takes longer."""
        drive = self.drive
        if not (drive.suspend_program if change.what == _PROGRAM else drive.suspend_erase):
            yield "busy", f"unit {row.unit} cannot suspend its {_COMMANDS[change.what]} for a read"
        if not change.stopped_ns:
            change.stopped_ns = drive.suspend_ns + drive.resume_ns
        change.stopped_ns += row.end - row.time + self._array_ns(row)

    def _read(self, row: _Row) -> Iterator[tuple[str, str]]:
        """Rule ``content``."""
        block = self._block(row)
        block.reads += 1
        if block.erasing:
            yield "erase", f"page {row.page} is read while its block is erased"
        held = self.content.get(row.page)
        if held is None and self.reads_held:
            yield "content", f"page {row.page} is read before it is programmed"
        elif held is not None and held[0] != row.logical:
            yield "content", f"page {row.page} holds logical page {held[0]}, not {row.logical}"

    def _program(self, row: _Row) -> Iterator[tuple[str, str]]:
        """Rules ``once``, ``sequence`` and ``move``."""
        block, place = self._block(row), row.page % self.drive.pages_per_block
        if block.erasing:
            yield "erase", f"page {row.page} is programmed while its block is erased"
        if row.page in self.content or row.page in self.programming:
            yield "once", f"page {row.page} is programmed twice without an erase"
        elif place <= block.sent:
            yield "sequence", f"page {place} of a block is programmed after page {block.sent}"
        block.sent = max(block.sent, place)
        block.programs += 1
        self.programming.add(row.page)
        if row.source == _COLLECTION:
            if row.logical in self.moved:
                self.version[row.page] = self.moved.pop(row.logical)
            else:
                yield (
                    "move",
                    f"logical page {row.logical} is moved to page {row.page} without having been read",
                )

    def _erase(self, row: _Row) -> Iterator[tuple[str, str]]:
        """Rules ``erase`` and ``live``."""
        block = self._block(row)
        if block.reads or block.programs or block.erasing:
            yield "erase", f"the block of page {row.page} is still read, programmed or erased"
        block.erasing = True
        first = row.page // self.drive.pages_per_block * self.drive.pages_per_block
        inside = range(first, first + self.drive.pages_per_block)
        for page in inside:
            held = self.content.get(page)
            if held is None:
                continue
            logical, number = held
            if number <= self.trimmed.get(logical, -1):
                continue
            others = (self.content[copy][1] for copy in self.copies[logical] if copy not in inside)
            if max(others, default=-1) < number:
                yield "live", f"page {page} is the only copy of logical page {logical}"

    # ---- ends

    def _out(self, row: _Row) -> Iterator[tuple[str, str]]:
        """Rules ``end``, ``array time`` and ``bus time`` of a page that was read."""
        took = row.end - row.time
        if not self.drive.transfer_ns(1) <= took <= self.drive.transfer_ns(self.drive.page_bytes):
            yield "bus time", f"{took} ns for a page"
        unit = self.units.setdefault(row.unit, _Unit())
        unit.out_until = max(unit.out_until, row.end)
        read = next((one for one in unit.reads if row.page in one.open_pages), None)
        if read is None:
            yield "end", f"page {row.page} goes out and was not read"
            return
        noticed = read.ends + self.drive.commands.ready_delay_read
        if row.time < noticed:
            yield "array time", f"page {row.page} goes out before {noticed} ns"
        read.open_pages.remove(row.page)
        if not read.open_pages:
            unit.reads.remove(read)
        self._block(row).reads -= 1
        if row.source == _COLLECTION:
            self.moved[row.logical] = self.content.get(row.page, (0, 0))[1]

    def _close(self, row: _Row, what: int) -> Iterator[tuple[str, str]]:
        """Rules ``end`` and ``array time`` of a program or an erase."""
        unit = self.units.setdefault(self._unit(row), _Unit())
        if unit.ended is not None and row.time == unit.ended_at and row.page in unit.ended.open_pages:
            unit.ended.open_pages.remove(row.page)
            return
        command = next((one for one in unit.changes if one.what == what and row.page in one.open_pages), None)
        if command is None:
            yield "end", f"page {row.page} ends a {_COMMANDS[what]} that was not sent"
            return
        if row.time < command.ends:
            yield "array time", f"the {_COMMANDS[what]} of page {row.page} ends before {command.ends} ns"
        command.open_pages.remove(row.page)
        unit.changes.remove(command)
        unit.ended, unit.ended_at = command, row.time
        for behind in unit.changes:
            behind.begins = max(behind.begins, row.time)

    def _programmed(self, row: _Row) -> Iterator[tuple[str, str]]:
        yield from self._close(row, _PROGRAM)
        self._block(row).programs -= 1
        if row.page in self.programming:
            self.programming.remove(row.page)
            self.hold(row.page, row.logical, self.version.get(row.page, 0))
        for pages in self.owed.values():
            pages.discard(row.page)

    def _erased(self, row: _Row) -> Iterator[tuple[str, str]]:
        yield from self._close(row, _ERASE)
        pages = self.drive.pages_per_block
        first = row.page // pages * pages
        for page in range(first, first + pages):
            held = self.content.pop(page, None)
            if held is not None:
                self.copies[held[0]].discard(page)
        self.blocks[first // pages] = _Block()

    def _done(self, row: _Row) -> Iterator[tuple[str, str]]:
        """Rule ``early``."""
        missing = self.owed.pop(row.stamp, None)
        if row.unit == _WRITE and missing:
            yield "early", f"request {row.stamp} is done before page {min(missing)} is on flash"

    def begun(self, page: int) -> None:
        """Note that a page, and so all before it in its block, was programmed before the log."""
        block = self.blocks.setdefault(page // self.drive.pages_per_block, _Block())
        block.sent = max(block.sent, page % self.drive.pages_per_block)

    def hold(self, page: int, logical: int, number: int) -> None:
        """Note that a physical page holds a logical one, as the write of that number left it."""
        self.content[page] = (logical, number)
        self.copies.setdefault(logical, set()).add(page)
