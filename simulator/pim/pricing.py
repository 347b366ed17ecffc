"""What the programs of a recipe cost on a PIM device: by the engine, command by command, or by a closed form.

Every program starts and ends with all rows closed and all timers run out, so its time does not depend on what
ran before, and equal programs are run once. The engine runs them without refresh; refreshes stand between
programs, which is how a host that announces whole products places them (Newton, He et al., MICRO 2020).
A program is cut into chunks so short that no refresh is postponed by more than JEDEC's eight intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from hw_configs.device import Pim
from hw_configs.problems import PhysicsError
from simulator.pim.engine import PimEngine
from simulator.pim.lowering import ONE_CHANNEL, Lowering
from simulator.pim.matrix_layout import Step
from simulator.pim.product_counts import ProductCounts
from simulator.pim.program import Instruction, Program
from simulator.pim.recipes import Share
from simulator.pim.result import PimResult

__all__ = ["FIGURES", "Pace", "Pricer", "Work"]

FIGURES: Final = (
    "column_accesses", "row_misses", "activations", "macs", "vector_bytes", "result_bytes", "read_bytes",
    "written_bytes", "activate_j", "column_j", "mac_j", "buffer_j", "access_j", "io_j",
)  # fmt: skip
"""What a program is asked for beside its time, of one channel."""
POSTPONED: Final = 4
"""Refresh intervals that a chunk may last; half of what JEDEC allows to postpone."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one channel does in a share: cycles of each chunk, and its figures in the order of FIGURES."""

    chunks: tuple[int, ...]
    figures: tuple[float, ...]

    @property
    def cycles(self) -> int:
        """Cycles of all chunks, without refresh."""
        return sum(self.chunks)


def _figures(result: PimResult) -> tuple[float, ...]:
    pins, energy = result.bytes_over_pins, result.energy
    return (
        result.column_accesses, result.row_misses, result.activations, result.macs,
        pins["vector"] + pins["bias"], pins["result"], pins["read"], pins["write"],
        energy.activate, energy.column, energy.mac, energy.buffer, energy.read + energy.write, energy.io,
    )  # fmt: skip


class Pricer:
    """Prices shares for one device under one choice of rules; remembers equal ones.

    ``exact``: by the engine; otherwise products by the closed form of :attr:`pace`.
    """

    def __init__(self, device: Pim, *, honest: bool = False, exact: bool = True) -> None:
        self.device, self.exact = device, exact
        self.lowering = Lowering(device)
        self.engine = PimEngine(device, honest=honest, refresh="off")
        self.interval = self.refresh_cycles = 0
        self.refresh_j = 0.0
        self._read_refresh(honest)
        self._known: dict[object, Work] = {}
        self._pace: Pace | None = None

    def _read_refresh(self, honest: bool) -> None:
        """Interval, duration and energy of a refresh under the device's rules; zeros when it has none."""
        rules = self.device.rules.honest if honest else self.device.rules.published
        if rules.refresh == "off":
            return
        clocks = self.device.clocks(rules)
        per_clock = round(self.device.dram.clock_period / self.device.tick_s)
        self.interval = clocks["nREFI"] * per_clock
        self.refresh_cycles = clocks.get("nRFCab", clocks.get("nRFC", 0)) * per_clock
        waiting = PimEngine(self.device, honest=honest, refresh="immediate")
        idle = waiting.run(Program((Instruction("WAIT", 3 * self.interval, channels=ONE_CHANNEL),
                                    Instruction("SYNC", channels=ONE_CHANNEL))))  # fmt: skip
        if idle.refreshes:
            self.refresh_j = idle.energy.refresh / idle.refreshes

    @property
    def pace(self) -> Pace:
        """The device's pace, measured once on small programs."""
        if self._pace is None:
            self._pace = measure_pace(self)
        return self._pace

    def work(self, share: Share) -> Work:
        """The work of one channel of a share."""
        known = self._known.get(share.key)
        if known is None:
            if share.counts is not None and not self.exact:
                known = self.pace.work(share.counts)
            else:
                program = share.write()
                known = self.run(program)
                if share.counts is not None:
                    _insist(share.counts, known, self.reopened(program), share.key)
            self._known[share.key] = known
        return known

    def run(self, program: Program) -> Work:
        """A program on the engine, chunk by chunk."""
        chunks, total = [], [0.0] * len(FIGURES)
        for chunk in self.chunks(program):
            result = self.engine.run(chunk, settle=True)
            chunks.append(int(result.cycles))
            total = [a + b for a, b in zip(total, _figures(result), strict=True)]
        return Work(tuple(chunks), tuple(total))

    def reopened(self, program: Program) -> int:
        """Rows that are opened once more because chunks end with all rows closed."""
        undivided: dict[int, int] = {}
        more = 0
        for chunk in self.chunks(program):
            open_rows: dict[int, int] = {}
            for entry in chunk.body:
                if isinstance(entry, Instruction) and entry.op == self.lowering.multiply:
                    hit = undivided.get(entry.bank) == entry.row
                    more += hit and open_rows.get(entry.bank) != entry.row
                    undivided[entry.bank] = open_rows[entry.bank] = entry.row
        return more

    def chunks(self, program: Program) -> Iterator[Program]:
        """The program cut where a row has been used up, into chunks of some intervals of column accesses."""
        if not self.interval:
            yield program
            return
        most = max(1, POSTPONED * self.interval // 4)
        body: list[Instruction] = []
        columns, row = 0, None
        close = program.body[-1]
        for entry in program.body[:-1]:
            assert isinstance(entry, Instruction)
            fresh = entry.op == self.lowering.multiply and (entry.row, entry.bank) != row
            if fresh and columns >= most and body[-1].op == self.lowering.result:
                yield Program((*body, close), program.name)
                body, columns = [], 0
            if entry.op == self.lowering.multiply:
                columns, row = columns + entry.n, (entry.row, entry.bank)
            body.append(entry)
        yield Program((*body, close), program.name)


def _insist(counts: ProductCounts, work: Work, reopened: int, key: tuple[object, ...]) -> None:
    """Hold what a layout expects, and what refreshes between chunks add, against what the engine issued.

    Raises ``PhysicsError`` where they differ.
    """
    seen = tuple(int(work.figures[FIGURES.index(name)]) for name in ("column_accesses", "row_misses"))
    rows = counts.rows + reopened
    if seen != (counts.column_accesses, rows):
        raise PhysicsError(
            f"a layout expects {counts.column_accesses} column accesses and {rows} rows opened, the engine "
            f"counts {seen[0]} and {seen[1]}: {key}"
        )


@dataclass(frozen=True)
class Pace:
    """Cycles and figures per vector burst, column access, row and read: the closed form of a product.

    A row takes ``row`` and its columns and reads, and never less than ``row_least``; ``start`` is there once.
    """

    start: float
    vector: float
    column: float
    row: float
    row_least: float
    read: float
    per_column: tuple[float, ...]
    per_row: tuple[float, ...]
    per_vector: tuple[float, ...]
    per_read: tuple[float, ...]

    def cycles(self, counts: ProductCounts) -> int:
        """Cycles of a product with these counts on one channel."""
        if not counts.rows:
            return 0
        inside = (counts.column_accesses * self.column + counts.reads * self.read) / counts.rows
        rows = counts.rows * max(self.row + inside, self.row_least)
        return round(self.start + counts.vector_accesses * self.vector + rows)

    def work(self, counts: ProductCounts) -> Work:
        """The work of a product with these counts on one channel."""
        figures = tuple(
            counts.column_accesses * c + counts.rows * r + counts.vector_accesses * v + counts.reads * d
            for c, r, v, d in zip(self.per_column, self.per_row, self.per_vector, self.per_read, strict=True)
        )
        return Work((self.cycles(counts),), figures)


def _product(lowering: Lowering, rows: int, columns: int, reads: int, vector: int) -> Program:
    """A product of so many rows, each of ``columns`` accesses in ``reads`` sums, after ``vector`` bursts."""
    steps = [Step("vector", length=vector * lowering.geometry.lanes)]
    for row in range(rows):
        for index in range(reads):
            start, end = index * columns // reads, (index + 1) * columns // reads
            steps += [Step("mac", 0, row, start, end - start), Step("read")]
    return lowering.product(steps)


_Measured = tuple[float, Mapping[str, float]]


def measure_pace(pricer: Pricer) -> Pace:
    """The pace from differences between small products on the engine, where it has settled."""
    lowering, full = pricer.lowering, pricer.lowering.geometry.accesses
    shared = pricer.device.units.banks_per_unit

    def run(rows: int, columns: int, reads: int = 1, vector: int = 1) -> _Measured:
        result = pricer.engine.run(_product(lowering, rows * shared, columns, reads, vector), settle=True)
        return float(result.cycles), dict(zip(FIGURES, _figures(result), strict=True))

    def slope(one: _Measured, other: _Measured, steps: int) -> tuple[float, tuple[float, ...]]:
        figures = tuple((other[1][name] - one[1][name]) / steps for name in FIGURES)
        return (other[0] - one[0]) / steps, figures

    half = full // 2
    column, per_column = slope(run(4, half), run(4, full), 4 * shared * (full - half))
    read, per_read = slope(run(4, full), run(4, full, 2), 4 * shared)
    row, row_figures = slope(run(4, full), run(8, full), 4 * shared)
    least, _ = slope(run(4, 1), run(8, 1), 4 * shared)
    most = lowering.geometry.buffer_elements // lowering.geometry.lanes
    vector, per_vector = (
        slope(run(4, full, 1, 1), run(4, full, 1, most), most - 1)
        if most > 1
        else (0.0, (0.0,) * len(FIGURES))
    )
    row -= full * column + read
    per_row = tuple(f - full * c - r for f, c, r in zip(row_figures, per_column, per_read, strict=True))
    whole, _ = run(4, full)
    start = whole - vector - 4 * shared * max(row + full * column + read, least)
    return Pace(start, vector, column, row, least, read, per_column, per_row, per_vector, per_read)
