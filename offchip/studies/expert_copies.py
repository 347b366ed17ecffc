"""ExpertWeave: many fine-tuned variants of a mixture of experts that share what is the same.

ExpertWeave, arXiv:2508.17624. An adapter brings some experts of each layer; merged models repeat everything, padded
tables repeat the largest number of experts in every layer, pages of virtual memory hold just what there is.
"""

from __future__ import annotations

from typing import Final

from hw_configs.library import load_system
from offchip.studies.phase_times import cache_bytes, phase_times, weight_bytes
from offchip.studies.study import Claim, ClaimResult, Outcome, Study, StudyTable, compare

__all__ = ["STUDY", "distinct_experts"]

MODEL: Final = "deepseek-v2-lite"
MEMORY: Final = 64 * 2**30
SHARE: Final = 0.92
"""Of the memory: what vLLM takes by default."""
LAYERS, EXPERTS, CHOSEN = 26, 64, 6
EXPERT_BYTES: Final = 3 * 2048 * 1408 * 2
PAGED: Final = 2.8 * 2**30
"""Bytes of an adapter's experts: the paper's first one."""
PADDED: Final = 4.7 * 2**30
"""The same with every layer padded to the most experts of any."""
CARD: Final = "a100-80gb"
_PAPER: Final = "ExpertWeave, arXiv:2508.17624"


def distinct_experts(batch: int, adapters: int) -> float:
    """Expected expert copies that a step of a layer touches, tokens spread evenly over adapters and experts.

    >>> round(distinct_experts(1, 0), 6)
    6.0
    """
    chosen, own = CHOSEN / EXPERTS, PAGED / EXPERT_BYTES / LAYERS
    if not adapters:
        return EXPERTS * (1 - (1 - chosen) ** batch)
    shared: float = EXPERTS * (1 - (1 - chosen) ** (batch * (1 - own / EXPERTS)))
    copies: float = adapters * own * (1 - (1 - chosen) ** (batch / adapters))
    return shared + copies


def cached_tokens(held: float) -> float:
    """Tokens whose cache fits beside so many bytes of weights; below 0: the weights do not fit."""
    return (SHARE * MEMORY - held) / cache_bytes(MODEL)


def _latency(batch: int, adapters: int) -> float:
    """Decode step with adapters over one without, by the bytes of the experts that are touched."""
    system = load_system(CARD)
    node = system.workers()[0]
    base = phase_times(MODEL, CARD, "decode", batch, 1024).seconds
    more = distinct_experts(batch, adapters) - distinct_experts(batch, 0)
    bandwidth = system.memories[node.memory or node.name].read_bandwidth
    return 1 + LAYERS * more * EXPERT_BYTES / bandwidth / base


def _capacity_claims(base: float) -> list[ClaimResult]:
    method = (
        f"{SHARE:.0%} of 64 GiB less the weights of {MODEL} in 16 bits and 2.8 GiB an adapter, over the bytes "
        "of a token."
    )
    note = (
        "The first adapter's bytes are the paper's; all are taken to be as large, and twenty of that size do not "
        "fit. Activations are left out. The published tokens fall faster from one to two adapters than the "
        "published bytes do, so that something "
        "else took memory."
    )
    merged = cached_tokens(2 * base)
    rows = (
        ("tokens-1", "tokens of cache beside one adapter", 810e3, cached_tokens(base + PAGED)),
        ("tokens-2", "tokens of cache beside two adapters", 572e3, cached_tokens(base + 2 * PAGED)),
        ("tokens-3", "tokens of cache beside three adapters", 477e3, cached_tokens(base + 3 * PAGED)),
        ("tokens-merged", "tokens of cache beside two merged models", 6e3, merged),
        ("capacity", "cache over two merged models, at most", 94.4, cached_tokens(base + 2 * PAGED) / merged),
    )
    return [
        compare(Claim(i, words, value, "", _PAPER, "published", "construction"), ours, method, note)
        for i, words, value, ours in rows
    ]


def _memory_claims(base: float) -> list[ClaimResult]:
    method = (
        "Weights counted from the graph; adapters as large as the first one, which is the paper's figure."
    )
    gib = 2.0**30
    rows = [
        ("merged-2", "weights of two merged models", 58.6 * gib, 2 * base, "counting"),
        ("merged-3", "weights of three merged models", 88 * gib, 3 * base, "counting"),
    ]
    for count, padded, paged in ((2, 39.0, 36.2), (3, 44.3, 38.7)):
        rows += [
            (
                f"padded-{count}",
                f"weights with {count} adapters, padded",
                padded * gib,
                base + count * PADDED,
                "",
            ),
            (
                f"paged-{count}",
                f"weights with {count} adapters, in pages",
                paged * gib,
                base + count * PAGED,
                "",
            ),
        ]
    results = [
        compare(Claim(i, words, value, "B", _PAPER, "published", "counting" if basis else "construction"), ours, method,
                "Published in GB; the figures agree with the model's size in GiB.")
        for i, words, value, ours, basis in rows
    ]  # fmt: skip
    fits = "fits" if cached_tokens(3 * base) > 0 else "does not fit"
    claim = Claim(
        "fit-3", "three merged models on 64 GB", "does not fit", "", _PAPER, "published", "mechanism"
    )
    return [*results, compare(claim, fits, "Weights against the memory that the engine takes.")]


def _run() -> Outcome:
    base = float(weight_bytes(MODEL))
    slowest = max(_latency(batch, 20) for batch in (1, 4, 16, 64))
    latency = Claim(
        "decode", "decode over a merged model's, at most", 0.18, "", _PAPER, "published", "construction"
    )
    results = [
        *_capacity_claims(base), *_memory_claims(base),
        compare(latency, slowest - 1,
                "Bytes of the expert copies that a step touches more with 20 adapters, over the memory's bandwidth, "
                "against a decode step after 1024 tokens; the most over batches to 64.",
                "On an A100, for want of the NPU; tokens choose experts evenly, while adapters' tokens prefer "
                "their own; "
                "the number of experts follows from the paper's bytes. The paper's rate of requests was not found: at "
                "batch 1 nothing is added."),
        compare(Claim("throughput", "throughput, at most", 0.18, "", _PAPER, "published", "mechanism"), None,
                "Not run.", "Against merged models on devices of their own at skewed loads, which were not found."),
        compare(Claim("kernel", "fused rerouting kernel, at most", 0.01, "", _PAPER, "published", "mechanism"), None,
                "Not run.", "The NPU's kernels are not modelled."),
    ]  # fmt: skip
    rows = []
    for count in (1, 2, 3, 5, 10, 20):
        paged, padded = (cached_tokens(base + count * size) for size in (PAGED, PADDED))
        merged = cached_tokens((count + 1) * base)
        rows.append(
            (float(count), *(max(tokens, 0.0) / 1e3 for tokens in (paged, padded, merged)),
             *(_latency(batch, count) for batch in (1, 16, 64)))
        )  # fmt: skip
    columns = (
        "adapters", "in pages, K tokens", "padded, K tokens", "merged beside the base, K tokens", "decode, batch 1",
        "batch 16", "batch 64",
    )  # fmt: skip
    table = StudyTable(
        "Cache that is left, and a decode step over one without adapters", columns, tuple(rows)
    )
    return Outcome(results, [table])


STUDY: Final = Study(
    "expertweave",
    "ExpertWeave: expert copies of many adapters",
    "ExpertWeave: Efficiently Serving Expert-Specialized Fine-Tuned Adapters at Scale, arXiv:2508.17624",
    "DeepSeek-V2-Lite in 16 bits on 64 GiB with 1 to 20 adapters: merged, padded, in pages.",
    _run,
)
