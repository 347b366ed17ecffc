"""Cores beside DRAM banks (UPMEM): one core's pipeline and bank, and streams of the PrIM workloads on it.

Gomez-Luna et al., Benchmarking a New Paradigm, arXiv:2105.03814 (PrIM). Programs of tasklets run instruction by
instruction (:mod:`simulator.upmem.engine`). The published figures are recalled; the paper was not at hand.
"""

from __future__ import annotations

from typing import Final

from offchip.studies.study import Basis, Claim, ClaimResult, Outcome, Study, StudyTable, compare
from simulator.upmem.engine import CoreRun, run
from simulator.upmem.kernels import PRIM, Mix, streamed
from simulator.upmem.program import Core, Phase, Step

__all__ = ["STUDY"]

_SOURCE: Final = "PrIM, arXiv:2105.03814, section 3"
TASKLETS: Final = 16
ELEMENTS: Final = 100_000
_COUNTED: Final = (
    "Instructions of the loop as the paper counts them, each issued by its tasklet's turn; {} tasklets."
)
_OVERHEAD: Final = "Loops are taken as unrolled; what the compiler adds is not known."
_FITTED: Final = (
    "The fixed cycles and cycles per byte of a transfer were fitted in the paper to latencies of the same "
    "transfers, so that this is another view of one measurement; why it lies below its own fit is not known."
)


def _loop(instructions: int, tasklets: int = TASKLETS) -> CoreRun:
    """A thousand rounds of a loop body in every tasklet."""
    return run(((Phase((Step("run", instructions),), 1000),),) * tasklets, Core())


def _per_s(instructions: int, each: float) -> float:
    """``each`` per round of a loop, per second, of all tasklets."""
    return TASKLETS * 1000 * each / _loop(instructions).seconds


def _copy(block: int, tasklets: int = TASKLETS) -> CoreRun:
    """The bank copied onto itself through the scratchpad, without touching it."""
    return run(streamed(Mix((8,), (8,), 0), ELEMENTS, tasklets, Core(), block), Core())


def _claims() -> list[ClaimResult]:
    def claim(name: str, words: str, figure: float, unit: str, basis: Basis) -> Claim:
        return Claim(name, words, figure, unit, _SOURCE, "recalled", basis)

    read, write = (
        run(((Phase((step,), 100),),), Core()) for step in (Step("read", 2048), Step("write", 2048))
    )
    words = run(((Phase((Step("read", 8), Step("run", 6), Step("write", 8)), 1000),),) * TASKLETS, Core())
    least = next(n for n in range(1, 25) if n * 1000 / _loop(6, n).cycles > 0.999 * 16_000 / _loop(6).cycles)
    counted = _COUNTED.format(TASKLETS)
    return [
        compare(claim("add-32", "32-bit additions of one core", 58.56e6, "op/s", "counting"), _per_s(6, 1),
                counted + " Six: load, add, store, address, compare, jump.", _OVERHEAD),
        compare(claim("add-64", "64-bit additions of one core", 50.16e6, "op/s", "counting"), _per_s(7, 1),
                counted + " Seven: a second addition with carry.", _OVERHEAD),
        compare(claim("scratchpad-copy", "copy within the scratchpad", 2818.98e6, "B/s", "counting"), _per_s(2, 16),
                counted + " Two for 16 bytes: load and store of 8.", _OVERHEAD),
        compare(claim("scratchpad-add", "addition of two streams within the scratchpad", 1682.46e6, "B/s", "counting"),
                _per_s(5, 24), counted + " Five for 24 bytes: two loads, two additions, a store.", _OVERHEAD),
        compare(claim("tasklets", "tasklets that fill the pipeline", 11.0, "", "construction"), float(least),
                "The fewest with 99.9 % of the rate of 16.",
                "Eleven cycles between a tasklet's instructions are given."),
        compare(claim("bank-read", "bank to scratchpad, 2048 bytes, one tasklet", 628.23e6, "B/s", "construction"),
                read.bytes_per_s, "Transfers one after another.", _FITTED),
        compare(claim("bank-write", "scratchpad to bank, 2048 bytes, one tasklet", 633.22e6, "B/s", "construction"),
                write.bytes_per_s, "Transfers one after another.", _FITTED),
        compare(claim("bank-copy", "copy of the bank onto itself by transfers alone", 624.02e6, "B/s", "mechanism"),
                _copy(1024).bytes_per_s,
                f"Blocks of 1024 bytes read and written in turn by {TASKLETS} tasklets that share one transfer engine.",
                "Bytes read and written together."),
        compare(claim("words", "words of 8 bytes read and written anywhere in the bank", 72.58e6, "B/s", "mechanism"),
                words.bytes_per_s,
                f"A read, six instructions and a write of 8 bytes in each of {TASKLETS} tasklets; bytes of both.",
                "A transfer's fixed cycles keep the engine here; in the machine part of them lie beside the next "
                "one's, which no figure at hand divides. Workloads that fetch single words (SpMV, BFS, TRNS) are too "
                "slow here by as much."),
    ]  # fmt: skip


def _run() -> Outcome:
    kernels, tasklets = [], []
    for name, mix in PRIM.items():
        found = run(streamed(mix, ELEMENTS, TASKLETS, Core()), Core())
        kernels.append(
            (name, float(mix.instructions), ELEMENTS / found.seconds / 1e6, found.bytes_per_s / 1e6,
             100 * found.instructions / found.cycles, 100 * found.transfer_cycles / found.cycles)
        )  # fmt: skip
    for count in (1, 2, 4, 8, 11, 16, 24):
        add = run(streamed(PRIM["VA"], ELEMENTS, count, Core(), 512), Core())
        copy = _copy(512, count)
        rate = count * 1000 / _loop(6, count).seconds
        tasklets.append((float(count), rate / 1e6, copy.bytes_per_s / 1e6, ELEMENTS / add.seconds / 1e6))
    columns = ("workload", "instructions an element (assumption)", "million elements/s", "bank, MB/s",
               "pipeline busy, %", "transfers busy, %")  # fmt: skip
    return Outcome(
        _claims(),
        [
            StudyTable(f"One core, {ELEMENTS:,} elements, {TASKLETS} tasklets", columns, tuple(kernels)),
            StudyTable(
                "By tasklets, blocks of 512 bytes",
                ("tasklets", "32-bit additions, M/s", "copy of the bank, MB/s", "VA, million elements/s"),
                tuple(tasklets),
            ),
        ],
    )


STUDY: Final = Study(
    "bank-cores",
    "UPMEM: cores of tasklets beside DRAM banks",
    "Gomez-Luna, El Hajj, Fernandez, Giannoula, Oliveira, Mutlu, Benchmarking a New Paradigm: An Experimental Analysis "
    "of a Real Processing-in-Memory Architecture (PrIM), arXiv:2105.03814",
    "One core of 350 MHz, instruction by instruction: eleven cycles between instructions of a tasklet, one transfer "
    "engine between bank and scratchpad. Nine PrIM workloads as streams with assumed instructions an element. Many "
    "cores work without each other; transfers from and to the host, mutexes and the rest of PrIM are not modelled.",
    _run,
)
