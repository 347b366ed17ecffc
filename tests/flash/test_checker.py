"""Every rule of the checker, tripped by a legal log that was changed by hand in one place."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from simulator.flash.checker import violations
from tests.flash.drives import PAGE, drive

READ, PROGRAM, ERASE, OUT, DONE, INSTANT, PLACED, PROGRAMMED, ERASED, TRIMMED = range(10)
USER, MOVE = 0, 1
DRIVE = drive()
MOVED = 3 * PAGE
"""Bus time of a page."""
PER_PLANE = 128
Rows = list[list[int]]


class Log:
    """Writes down what a drive may do, one thing after the other."""

    def __init__(self) -> None:
        self.rows: Rows = []
        self.now = 0
        self.writes = 0

    def add(
        self, what: int, page: int, logical: int, took: int = 0, source: int = USER, **other: int
    ) -> None:
        """A row; a command's unit is that of its page."""
        unit = other.get("unit", page // PER_PLANE // 2 if what <= OUT else 0)
        self.rows.append(
            [self.now, self.now + took, what, unit, page, logical, source, other.get("stamp", 0)]
        )

    def write(self, page: int, logical: int) -> None:
        """A request of one page, from its place to its end."""
        self.writes += 1
        self.add(PLACED, page, logical, unit=self.writes, stamp=self.writes)
        self.program(page, logical)
        self.add(DONE, logical * PAGE, PAGE, unit=1, stamp=self.writes)

    def program(self, page: int, logical: int, source: int = USER) -> None:
        """A program and its end."""
        self.add(PROGRAM, page, logical, 361 + MOVED, source)
        self.now += 361 + MOVED + 300_000
        self.add(PROGRAMMED, page, logical, source=source)

    def read(self, page: int, logical: int, source: int = USER) -> None:
        """A read and its page's way over the bus."""
        self.add(READ, page, logical, 290, source)
        self.now += 290 + 25_000 + 20
        self.add(OUT, page, logical, MOVED, source)
        self.now += MOVED

    def erase(self, page: int) -> None:
        """An erase and its end."""
        self.add(ERASE, page, -1, 220, MOVE)
        self.now += 220 + 2_000_000
        self.add(ERASED, page, -1, source=MOVE)


def legal() -> Rows:
    """Two pages are written to block 0, one of them again and the other moved, and block 0 is erased."""
    log = Log()
    log.write(0, 10)
    log.write(1, 11)
    log.write(8, 10)
    log.read(1, 11)
    log.read(1, 11, MOVE)
    log.program(16, 11, MOVE)
    log.erase(0)
    log.write(0, 12)
    log.read(0, 12)
    log.add(INSTANT, 9, 13)
    log.read(9, 13)
    log.add(TRIMMED, 0, 12)
    log.erase(0)
    return log.rows


def broken(rows: Rows, made=DRIVE, **options) -> set[str]:
    return {violation.rule for violation in violations(made, np.array(rows, np.int64), **options)}


def at(rows: Rows, what: int, number: int = 0) -> int:
    """The place of the nth row of a kind."""
    return [index for index, row in enumerate(rows) if row[2] == what][number]


def changed(what: int, number: int, **columns: int) -> Callable[[Rows], Rows]:
    """A log in which columns of one row are raised."""
    names = ("time", "end", "what", "unit", "page", "logical", "source", "stamp")

    def change(rows: Rows) -> Rows:
        row = rows[at(rows, what, number)]
        for name, more in columns.items():
            row[names.index(name)] += more
        return rows

    return change


def without(what: int, number: int) -> Callable[[Rows], Rows]:
    """A log that lacks one row."""

    def drop(rows: Rows) -> Rows:
        del rows[at(rows, what, number)]
        return rows

    return drop


def sooner(first: int, by: int) -> Callable[[Rows], Rows]:
    """A log in which all from the nth row on happens ``by`` ns sooner."""

    def move(rows: Rows) -> Rows:
        for row in rows[first:]:
            row[0] -= by
            row[1] -= by
        return rows

    return move


def twice(what: int, number: int) -> Callable[[Rows], Rows]:
    """A log in which one row comes a second time, right after its end."""

    def repeat(rows: Rows) -> Rows:
        place = at(rows, what, number)
        row = rows[place].copy()
        length = row[1] - row[0]
        rows.insert(place + 1, [row[1], row[1] + length, *row[2:]])
        return rows

    return repeat


def swapped(what: int, number: int, other: int) -> Callable[[Rows], Rows]:
    """A log in which two rows change their order, not their times."""

    def swap(rows: Rows) -> Rows:
        one, two = at(rows, what, number), at(rows, other, 0)
        rows[one], rows[two] = rows[two], rows[one]
        return rows

    return swap


def test_the_legal_log_is_legal():
    assert violations(DRIVE, np.array(legal(), np.int64)) == []


CASES = {
    "a row before the one in front of it": ("order", changed(DONE, 0, time=-1)),
    "a command that ends before it begins": ("order", changed(PROGRAM, 0, end=-20_000)),
    "a page beyond the drive": ("address", changed(READ, 0, page=8 * PER_PLANE)),
    "a command to another unit": ("address", changed(READ, 0, unit=1)),
    "two transfers at once": ("bus", changed(OUT, 0, end=1)),
    "a read's cycles one ns short": ("bus time", changed(READ, 0, end=-1)),
    "an erase's cycles one ns short": ("bus time", changed(ERASE, 0, end=-1)),
    "a program without data": ("bus time", changed(PROGRAM, 0, end=-MOVED)),
    "a program with more than its page": ("bus time", changed(PROGRAM, 0, end=100_000)),
    "a page that takes no bus time": ("bus time", changed(OUT, 0, end=-MOVED)),
    "a page larger than a page": ("bus time", changed(OUT, 0, end=1)),
    "a program of one ns": ("array time", sooner(2, 299_999)),
    "a program one ns short": ("array time", sooner(2, 1)),
    "a read one ns short": ("array time", sooner(at(legal(), OUT), 1)),
    "an erase one ns short": ("array time", sooner(at(legal(), ERASED), 1)),
    "a program that ends twice": ("end", twice(PROGRAMMED, 0)),
    "a page that goes out twice": ("end", twice(OUT, 0)),
    "an erase that was never sent": ("end", without(ERASE, 0)),
    "a program that was never sent": ("end", without(PROGRAM, 0)),
    "a page that was never read": ("end", without(READ, 0)),
    "a page from before that was written": ("once", changed(INSTANT, 0, page=-1)),
    "a program to a written page": ("once", changed(PROGRAM, 1, page=-1)),
    "a block that was not erased": ("once", without(ERASED, 0)),
    "pages of a block out of order": ("sequence", changed(PROGRAM, 0, page=2)),
    "a read of an empty page": ("content", changed(READ, 0, page=1)),
    "a read of another's page": ("content", changed(READ, 0, logical=1)),
    "a block erased while it is programmed": ("erase", without(PROGRAMMED, 1)),
    "a block erased while it is read": ("erase", without(OUT, 0)),
    "a block erased twice at once": ("erase", twice(ERASE, 0)),
    "a program into a block that is erased": ("erase", without(ERASED, 0)),
    "a move of what was not read": ("move", changed(OUT, 1, source=-MOVE)),
    "the only copy erased": ("live", changed(PROGRAM, 3, logical=3)),
    "what was not trimmed erased": ("live", without(TRIMMED, 0)),
    "the older copy kept": ("live", changed(ERASE, 0, page=8)),
    "a write done before its program": ("early", swapped(DONE, 0, PROGRAMMED)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_broken_rule_is_named(case):
    rule, change = CASES[case]
    assert rule in broken(change(legal()))


def test_a_page_is_read_or_written_while_its_block_is_erased():
    for what in (READ, PROGRAM):
        log = Log()
        log.add(INSTANT, 128, 1)
        log.add(TRIMMED, 128, 1)
        log.add(ERASE, 128, -1, 220, MOVE)
        log.now += 220
        log.add(what, 129 if what == PROGRAM else 128, 1, 290 if what == READ else 361 + MOVED)
        assert "erase" in broken(log.rows)


def overlapping(what: int, behind: int) -> Rows:
    """A command to a unit that still works, to another plane of it; all ends as late as anyone could ask."""
    log = Log()
    log.add(INSTANT, 0, 1)
    log.add(INSTANT, PER_PLANE, 2)
    took = {READ: 290, PROGRAM: 361 + MOVED, ERASE: 220}
    pages = {READ: 0, PROGRAM: 1, ERASE: 8}
    log.add(what, pages[what], 1, took[what])
    log.now += took[what]
    log.add(behind, PER_PLANE + pages[behind], 2, took[behind])
    return log.rows


@pytest.mark.parametrize("what", [READ, PROGRAM, ERASE])
@pytest.mark.parametrize("behind", [READ, PROGRAM, ERASE])
def test_two_array_operations_at_once(what, behind):
    rows = overlapping(what, behind)
    assert broken(rows) == {"busy"}
    # On another chip, behind another bus, the same is no fault.
    rows[-1][3], rows[-1][4] = 2, rows[-1][4] + 3 * PER_PLANE
    rows[1][4] += 3 * PER_PLANE
    assert broken(rows) == set()


@pytest.mark.parametrize("what", [PROGRAM, ERASE])
def test_a_read_stops_what_can_be_suspended(what):
    rows = overlapping(what, READ)
    able = {PROGRAM: replace(DRIVE, suspend_program=True), ERASE: replace(DRIVE, suspend_erase=True)}
    slow = replace(able[what], suspend_ns=3_000, resume_ns=2_000)
    assert broken(rows, slow) == set()
    assert broken(rows, able[PROGRAM if what == ERASE else ERASE]) == {"busy"}
    # The read takes its own time and both changes of what runs from the program or the erase.
    log = Log()
    log.rows, log.now = rows, rows[-1][1] + 25_020
    log.add(OUT, PER_PLANE, 2, MOVED)
    began = rows[2]
    whole = {PROGRAM: 300_000, ERASE: 2_000_000}[what]
    log.now = began[1] + whole + 290 + 25_000 + 3_000 + 2_000
    log.add(PROGRAMMED if what == PROGRAM else ERASED, began[4], 1)
    assert broken(rows, slow) == set()
    rows[-1][0] -= 1
    assert broken(rows, slow) == {"array time"}


def test_a_program_waits_behind_another_with_cache_commands_only():
    rows = overlapping(PROGRAM, PROGRAM)
    cached = replace(DRIVE, cache_commands=True)
    assert broken(rows, cached) == set()
    log = Log()
    log.rows, log.now = rows, rows[-1][1]
    first, second = rows[2], rows[3]
    third = [*second]
    third[0], third[1], third[4] = second[1], second[1] + 361 + MOVED, second[4] + 8
    assert broken([*rows, third], cached) == {"busy"}
    log.now = first[1] + 300_000
    log.add(PROGRAMMED, first[4], 1)
    log.now += 300_000
    log.add(PROGRAMMED, second[4], 2)
    assert broken(log.rows, cached) == set()
    # The second cannot begin before the first has ended.
    log.rows[-1][0] -= 1
    assert broken(log.rows, cached) == {"array time"}


@pytest.mark.parametrize("what", [READ, PROGRAM, ERASE])
def test_a_register_that_holds_a_page_is_taken(what):
    rows = overlapping(READ, what)
    rows[-1][0] += 30_000
    rows[-1][1] += 30_000
    assert broken(rows) == {"register"}
    cached = replace(DRIVE, cache_commands=True)
    assert broken(rows, cached) == (set() if what == READ else {"register"})
    # While the page crosses the bus it still lies in the register.
    log = Log()
    log.rows, log.now = rows[:-1], rows[-2][1] + 25_020
    log.add(OUT, 0, 1, MOVED)
    begins = log.now + MOVED
    for sooner_ns, rule in ((0, set()), (1, {"register", "bus"})):
        late = [*rows[-1]]
        late[0], late[1] = begins - sooner_ns, begins - sooner_ns + rows[-1][1] - rows[-1][0]
        assert broken([*log.rows, late]) == rule


def multi_plane() -> Rows:
    """One program of both planes of a die."""
    log = Log()
    for page in (0, PER_PLANE):
        log.add(PLACED, page, page, unit=-1)
    for page in (0, PER_PLANE):
        log.add(PROGRAM, page, page, 361 + 816 + 2 * MOVED)
    log.now += 361 + 816 + 2 * MOVED + 300_000
    for page in (0, PER_PLANE):
        log.add(PROGRAMMED, page, page)
    return log.rows


def test_pages_of_one_command_lie_in_planes_of_one_die():
    assert broken(multi_plane()) == set()
    assert "planes" in broken(multi_plane(), replace(DRIVE, multi_plane=False))
    same = multi_plane()
    same[3][4] = 8
    assert "planes" in broken(same)
    other = multi_plane()
    other[3][4] += 1
    assert "planes" in broken(other)
    dies = replace(DRIVE, dies_per_chip=2, chips_per_channel=1)
    apart = multi_plane()
    apart[3][4] = 2 * PER_PLANE
    assert "planes" in broken(apart, dies)
    apart_in_time = multi_plane()
    apart_in_time[-1][0] += 1
    assert "end" in broken(apart_in_time)
    short = multi_plane()
    for row in short[2:4]:
        row[1] = 361 + 816
    assert "bus time" in broken(short)


def test_pages_from_before_the_log_are_guarded_too():
    log = Log()
    log.erase(0)
    assert broken(log.rows) == set()
    assert broken(log.rows, before={0: 5}) == {"live"}
    assert broken(log.rows, before={0: 5, 8: 5}) == set()


def test_reads_of_pages_on_their_way_are_a_fault_only_where_the_controller_holds_them():
    log = Log()
    log.read(3, 1)
    assert broken(log.rows) == {"content"}
    assert broken(log.rows, reads_held=False) == set()


def test_a_write_buffer_owes_no_page():
    log = Log()
    log.add(PLACED, 0, 1, unit=-1)
    log.add(DONE, PAGE, PAGE, unit=1, stamp=1)
    log.program(0, 1)
    assert broken(log.rows) == set()
