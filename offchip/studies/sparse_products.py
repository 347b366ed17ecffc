"""Products of sparse matrices on many threads: rows merged in a scratchpad, outer products, inner products.

Shivdikar (SMASH, arXiv:2105.14156) merges rows by atomics in a hash table in the scratchpad of Intel's PIUMA. Here all
three ways are executed on the same R-MAT matrices and run on one machine of the same kind, event by event.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from offchip.studies.study import Basis, Claim, ClaimResult, Outcome, Study, StudyTable, compare
from offchip.tracing.product import trace_product
from simulator.threads.result import ProductResult
from simulator.threads.sparse_product import WAYS

__all__ = ["STUDY", "multiplied"]

HARDWARE: Final = "piuma-like"
ROWS: Final = 16384
SIZES: Final = (1024, 4096, ROWS)
EACH: Final = 4
"""Values drawn a row."""
_PAPER: Final = "SMASH, arXiv:2105.14156, abstract"


@cache
def multiplied(rows: int, each: int = EACH, **options: Any) -> ProductResult:
    """The product of two R-MAT matrices of so many rows, with so many values drawn a row."""
    one, other = (f"rmat:{rows}:{rows * each}:{seed}" for seed in (1, 2))
    return trace_product(one, HARDWARE, right=other, **options)


def _claim(
    id: str, statement: str, published: float | str, basis: Basis, ours: float | str, differences: str
) -> ClaimResult:
    method = (
        f"R-MAT matrices of {ROWS} rows, {EACH} values drawn a row, executed three ways and run on {HARDWARE}, event "
        "by event."
    )
    unit = "x" if isinstance(published, float) else ""
    return compare(
        Claim(id, statement, published, unit, _PAPER, "published", basis), ours, method, differences
    )


def _run() -> Outcome:
    found = {way: multiplied(ROWS, way=way) for way in WAYS}
    best = found["row-hash"].run.time_s
    slower = {way: result.run.time_s / best for way, result in found.items()}

    def most(figure: str) -> str:
        return max(WAYS, key=lambda way: getattr(found[way], figure))

    inputs = {way: found[way].input_bytes for way in WAYS}
    unread = (
        "Which approaches are meant, and on which matrices, is not in the abstract; the machine's figures could not be "
        "read and are assumptions."
    )
    claims = [
        _claim("speed", "faster than competing approaches, at most", 9.4, "mechanism", max(slower.values()),
               f"{unread} Against the outer product it is {slower['outer']:.2f}; the inner product's factor grows with "
               "the number of rows (table)."),
        _claim("fetches", "way with the most fetches of input elements", "inner", "mechanism", most("input_bytes"),
               "None known."),
        _claim("fewest", "way with the fewest fetches of input elements", "outer", "mechanism",
               min(inputs, key=lambda way: inputs[way]), "None known."),
        _claim("partial", "way with the most accesses for partial products", "outer", "construction",
               most("partial_bytes"), "The other two ways have none by their rules."),
        _claim("bound", "what the inner product saturates", "memory", "mechanism", found["inner"].run.bound_by,
               f"Pipelines are busy for {100 * found['inner'].run.busy['pipelines']:.0f} % of its time, memory for "
               f"{100 * found['inner'].run.busy['memory']:.0f} %: which comes first hangs on the instructions of a "
               "look-up, an assumption."),
    ]  # fmt: skip
    sizes = []
    for rows in SIZES:
        runs = {way: multiplied(rows, way=way) for way in WAYS}
        base = runs["row-hash"]
        sizes.append(
            (float(rows), float(base.multiplications), *(1e3 * runs[w].run.time_s for w in WAYS),
             *(runs[w].run.work.memory_bytes / 1e6 for w in WAYS))
        )  # fmt: skip
    columns = ("rows", "multiplications", *(f"{w}, ms" for w in WAYS), *(f"{w}, MB" for w in WAYS))
    tables = [StudyTable("Three ways by size", columns, tuple(sizes)), _dealing()]
    return Outcome(claims, tables)


def _dealing() -> StudyTable:
    """What dealing and hashing are worth to the row-wise product."""
    ways: tuple[tuple[str, dict[str, Any]], ...] = (
        ("rows dealt in turn", {"tasks": "row", "dealt": "static"}),
        ("rows taken by free threads", {"tasks": "row"}),
        ("stored values taken by free threads", {}),
        ("the same, tables filled to the last slot", {"load": 1.0}),
        ("the same, slots by the lowest bits", {"hashing": "low"}),
    )
    rows = []
    for words, options in ways:
        result = multiplied(4096, **options)
        busy, waits = result.run.busy, result.run.waits
        probes = result.probes / result.multiplications
        rows.append(
            (words, 1e3 * result.run.time_s, probes, 100 * busy["pipelines"], 100 * waits["pipeline"])
        )
    columns = (
        "row-hash, 4096 rows",
        "ms",
        "probes a product",
        "pipelines busy, %",
        "threads wait for them, %",
    )
    return StudyTable("Dealing and hashing", columns, tuple(rows))


STUDY: Final = Study(
    "smash",
    "SMASH: sparse products merged in a scratchpad",
    "Shivdikar, SMASH: Sparse Matrix Atomic Scratchpad Hashing, arXiv:2105.14156",
    "Products of R-MAT matrices by rows in a hash table, by outer and by inner products, on 64 in-order threads with a "
    "scratchpad and memory of 8-byte granules.",
    _run,
)
