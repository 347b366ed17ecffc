"""FlexSP: sequences of long-tailed lengths in groups of several degrees of sequence parallelism, against one degree.

Wang et al., FlexSP: Accelerating Large Language Model Training via Flexible Sequence Parallelism, arXiv:2412.01523,
ASPLOS 2025. Costs are our own prices of a GPT of 7 billion parameters on 64 A100.
"""

from __future__ import annotations

from typing import Final

from hw_configs.library import load_system
from hw_configs.problems import InfeasibleError
from mapping.training.pricing import Prices
from mapping.training.sequence_group_policy import log_normal_lengths
from mapping.training.sequence_groups import degree_costs, grouped_step, static_step
from offchip.studies.study import Claim, ClaimResult, Outcome, Study, StudyTable, compare

__all__ = ["STUDY", "ratio", "sampled_lengths"]

HARDWARE: Final = "dgx-a100*8"
MODEL: Final = "memo-7b"
DEVICES: Final = 64
BATCH: Final = 512
CONTEXT: Final = 192 * 1024
ROOM_BYTES: Final = 40e9 * 0.9 - 16 * 6.7e9 / DEVICES - 2e9
"""Of an A100 with 40 GB: nine tenths of it, without ZeRO-3's share of the states and two gathered layers."""
BYTES_PER_TOKEN: Final = 4
"""Of text: assumption."""
SPREAD: Final = 2.0
"""Standard deviation of the logarithm of lengths: assumption."""
DATA: Final = (("GitHub", 5.25, 1.63), ("CommonCrawl", 4.33, 1.77), ("Wikipedia", 1.11, 1.98))
"""Mean size of a document in KiB (The Pile, arXiv:2101.00027, table 1), and the published speed-up."""
MICRO_BATCHES: Final = (1, 2, 3, 4, 6)
_PAPER: Final = "FlexSP, arXiv:2412.01523"


def sampled_lengths(mean_kib: float, spread: float = SPREAD, seed: int = 0) -> list[int]:
    """Tokens of a batch's documents, log-normal around a mean size, cut at the context; at least 16."""
    mean = mean_kib * 1024 / BYTES_PER_TOKEN
    return log_normal_lengths(mean, spread, BATCH, CONTEXT, seed)


def ratio(lengths: list[int], prices: Prices) -> tuple[float, int, float, str]:
    """Seconds under the best one degree and which, seconds in groups, and the groups of the first micro-batch."""
    costs = degree_costs(MODEL, DEVICES, prices)
    best, which = float("inf"), 0
    for degree, cost in costs.items():
        try:
            seconds = static_step(lengths, cost, DEVICES, ROOM_BYTES, CONTEXT)
        except InfeasibleError:
            continue
        if seconds < best:
            best, which = seconds, degree
    grouped, words = float("inf"), ""
    for count in MICRO_BATCHES:
        try:
            seconds, plans = grouped_step(lengths, costs, DEVICES, ROOM_BYTES, count)
        except InfeasibleError:
            continue
        if seconds < grouped:
            grouped = seconds
            degrees = sorted((degree for degree, _ in plans[0].groups), reverse=True)
            words = " ".join(f"{d}x{degrees.count(d)}" for d in sorted(set(degrees), reverse=True))
    return best, which, grouped, words


def _run() -> Outcome:
    prices = Prices(load_system(HARDWARE))
    rows, results = [], list[ClaimResult]()
    for name, mean, published in DATA:
        best, which, grouped, words = ratio(sampled_lengths(mean), prices)
        rows.append((name, float(which), best, grouped, best / grouped, words))
        results.append(
            compare(
                Claim(name.lower(), f"groups of several degrees over one degree, lengths as {name}", published, "x",
                      _PAPER, "published", "mechanism"),
                best / grouped,
                f"{BATCH} documents of log-normal lengths around the mean size of {name}'s in The Pile ({mean} "
                f"KiB), {MODEL} on "
                f"{DEVICES} A100 with 40 GB each, context {CONTEXT // 1024}K: Ulysses groups by integer programming "
                "per "
                f"micro-batch against the best one degree that holds the context, {which}.",
                f"The spread of the logarithm ({SPREAD}) and {BYTES_PER_TOKEN} bytes per token are assumptions, not "
                "the paper's "
                "data; the paper's base is Megatron-LM, ours Ulysses at its best, whose groups wait for each other "
                "only at "
                "the end of a step.",
            )
        )  # fmt: skip
    columns = (
        "lengths",
        "one degree",
        "its step, s",
        "groups' step, s",
        "ratio",
        "first micro-batch's groups",
    )
    return Outcome(results, [StudyTable("One degree against groups", columns, tuple(rows))])


STUDY: Final = Study(
    "sequence-groups",
    "FlexSP: groups of sequence parallelism by length",
    "Wang et al., FlexSP: Accelerating Large Language Model Training via Flexible Sequence Parallelism, "
    "arXiv:2412.01523, "
    "ASPLOS 2025",
    "A 7B GPT on 64 A100 with long-tailed lengths: one degree of Ulysses parallelism, or groups of several per "
    "micro-batch.",
    _run,
)
