"""Hierarchical memories: what it costs to fetch the parameters of a context from a drive or from host memory.

Pouransari et al., arXiv:2510.02375. The abstract's sizes; how the fetched parameters are divided among levels, and
which contexts come how often, were not published, and both are swept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hw_configs.library import load_system
from offchip.studies.line_figure import draw_lines
from offchip.studies.study import Basis, Claim, ClaimResult, Figure, Outcome, Study, StudyTable, compare
from simulator.memory_bank.bank import BankOptions, simulate_bank
from simulator.memory_bank.result import BankResult
from workloads.memory_bank import HierarchicalBank, load_bank

__all__ = ["STUDY"]

HARDWARE: Final = "laptop"
MACHINES: Final = ("laptop", "desktop", "workstation")
CONTEXTS: Final = 2000
EXPONENTS: Final = (0.0, 0.6, 1.0, 1.4)
_PAPER: Final = "Pretraining with hierarchical memories, arXiv:2510.02375, abstract"


def _bank(**changes: object) -> HierarchicalBank:
    bank = load_bank("hierarchical-160m")
    assert isinstance(bank, HierarchicalBank)
    return HierarchicalBank.model_validate(bank.model_dump() | changes)


def fetched(bank: HierarchicalBank, machine: str = HARDWARE) -> BankResult:
    """Contexts that come to a bank."""
    return simulate_bank(bank, load_system(machine), BankOptions(contexts=CONTEXTS))


def _claim(id: str, statement: str, published: float, unit: str, basis: Basis) -> Claim:
    return Claim(id, statement, published, unit, _PAPER, "published", basis)


def _claims() -> list[ClaimResult]:
    bank, whole = _bank(), fetched(_bank())
    taken = sum(level.parameters for level in bank.levels)
    split = "Blocks of 16, 256 and 4096 clusters; their sizes were chosen so that the two totals are the abstract's."
    cost = (
        f"Not worked out: accuracy. What it costs: {whole.context_bytes / 1e6:.0f} MB a context, "
        f"{whole.caches[0].latency_mean_s * 1e3:.1f} ms from the drive of a {HARDWARE} without a cache, "
        f"{whole.point.latency_mean_s * 1e3:.1f} ms with 512 MiB of it."
    )
    return [
        compare(_claim("fetched", "parameters that a context takes", 18e6, "", "construction"), float(taken), split),
        compare(_claim("bank", "parameters of the bank", 4.6e9, "", "construction"), 1.0 * bank.bank_parameters, split),
        compare(
            _claim("quality", "parameters of a regular model that does as well, over those used", 2.0, "", "mechanism"),
            None, cost, "Offchip does not train or evaluate models.",
        ),
    ]  # fmt: skip


def _places() -> StudyTable:
    rows = []
    for machine in MACHINES:
        for place in ("drive", "memory", "gpu"):
            for cache in (0.0, 512.0 * 2**20):
                found = fetched(_bank(place=place, cache=cache), machine)
                point = found.point
                rows.append(
                    (machine, place, cache / 2**20, point.fetched_bytes / 1e6, 100 * point.hit_rate,
                     point.latency_mean_s * 1e3, point.latency_p99_s * 1e3, found.token_s * 1e3,
                     100 * found.fetch_share)
                )  # fmt: skip
    columns = (
        "machine", "bank in", "cache, MiB", "fetched, MB", "hits, %", "fetch, ms", "p99, ms", "token at least, ms",
        "fetch over 512 tokens, %",
    )  # fmt: skip
    return StudyTable("A context's fetch by place and cache", columns, tuple(rows))


def _splits() -> StudyTable:
    """The same totals, divided in other ways: all in the last level, or nearly all in the first."""
    ways: dict[str, list[dict[str, int]]] = {
        "three levels, equal first two": [level.model_dump() for level in _bank().levels],
        "one level of 256 clusters": [{"blocks": 256, "parameters": 18_000_000}],
        "two levels, 16 and 4096": [
            {"blocks": 16, "parameters": 16_942_000}, {"blocks": 4096, "parameters": 1_057_000},
        ],
        "four levels to 65536 clusters": [
            {"blocks": 16, "parameters": 9_800_000}, {"blocks": 256, "parameters": 7_700_000},
            {"blocks": 4096, "parameters": 430_000}, {"blocks": 65536, "parameters": 10_900},
        ],
    }  # fmt: skip
    rows = []
    for name, levels in ways.items():
        bank = _bank(levels=levels)
        found = fetched(bank)
        hits = ", ".join(f"{100 * level.hit_rate:.0f}" for level in found.levels)
        rows.append(
            (name, bank.context_bytes / 2e6, bank.bank_parameters / 1e9, hits, found.point.fetched_bytes / 1e6,
             found.caches[0].latency_mean_s * 1e3, found.point.latency_mean_s * 1e3)
        )  # fmt: skip
    columns = (
        "levels", "taken, M", "bank, B", "hits by level, %", "fetched, MB", "without cache, ms", "with 512 MiB, ms",
    )  # fmt: skip
    return StudyTable(f"The same totals in other levels, drive of a {HARDWARE}", columns, tuple(rows))


def _larger() -> StudyTable:
    """The bank grown to over 21 B parameters, as the abstract says it was."""
    rows = []
    for factor in (1, 2, 4, 4.6):
        levels = [
            {"blocks": level.blocks, "parameters": int(level.parameters * factor)} for level in _bank().levels
        ]
        bank = _bank(levels=levels)
        found = fetched(bank)
        rows.append(
            (bank.bank_parameters / 1e9, bank.context_bytes / 1e6, 100 * found.point.hit_rate,
             found.caches[0].latency_mean_s * 1e3, found.point.latency_mean_s * 1e3)
        )  # fmt: skip
    columns = ("bank, B", "taken, MB", "hits, %", "fetch without cache, ms", "with 512 MiB, ms")
    return StudyTable(f"Larger blocks, drive of a {HARDWARE}", columns, tuple(rows))


def _caches() -> tuple[StudyTable, Figure]:
    lines, rows = {}, []
    for exponent in EXPONENTS:
        found = fetched(_bank(zipf=exponent))
        lines[f"exponent {exponent:g}"] = [
            (p.cache_bytes / 2**20, p.latency_mean_s * 1e3) for p in found.caches
        ]
        rows += [
            (exponent, p.cache_bytes / 2**20, 100 * p.hit_rate, p.fetched_bytes / 1e6, p.latency_mean_s * 1e3)
            for p in found.caches
        ]
    columns = ("Zipf exponent", "cache, MiB", "hits, %", "fetched, MB", "fetch, ms")
    caption = f"Mean fetch of a context from the drive of a {HARDWARE}, by the cache and by how unequal contexts are."

    def draw(path: Path) -> None:
        draw_lines(path, lines, "cache (MiB)", "mean fetch (ms)")

    return StudyTable("Caches by how unequal contexts are", columns, tuple(rows)), Figure(
        "cache", caption, draw
    )


def _run() -> Outcome:
    table, figure = _caches()
    return Outcome(_claims(), [_places(), _splits(), _larger(), table], [figure])


STUDY: Final = Study(
    "hierarchical-memories",
    "Hierarchical memories: parameters that come by context",
    "Pouransari et al., Pretraining with hierarchical memories: separating long-tail and common knowledge, "
    "arXiv:2510.02375",
    "A model of 160 M parameters takes 18 M by context from a bank of 4.6 B. The bank lies on a drive, in host memory "
    "or beside the model; a cache of blocks drops the least recently used.",
    _run,
)
