"""vAttention: a contiguous cache in virtual memory, and what its page size wastes.

vAttention, arXiv:2405.04437. A page holds keys or values of one layer, so that a request grows by one page in each of
them at once: with pages of 2 MiB by 1024 tokens of Llama-3-8B, with pages of 64 KiB by 32.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from offchip.studies.graph_pricer import GraphPricer
from offchip.studies.phase_times import cache_bytes, phase_times, usable_bytes, weight_bytes
from offchip.studies.study import Claim, ClaimResult, Outcome, Study, StudyTable, compare
from simulator.serving.cluster import run_service
from simulator.serving.replica import Worker
from simulator.serving.scheduler import SCHEDULERS, KvSpace
from simulator.serving.service import Service
from simulator.serving.settings import EngineSettings
from workloads.requests import Requests, make_requests

__all__ = ["STUDY"]

MODEL, CARD = "llama-3-8b", "a100-80gb"
BUFFERS: Final = 64
"""Keys and values of 32 layers."""
QUERY_HEADS_PER_GROUP: Final = 4
PAGES: Final = (65536, 131072, 262144, 2097152)
MAP_S: Final = 40e-6
"""Of a call of cuMemMap."""
ROOM: Final = 0.9
REQUESTS: Final = 200
_PAPER: Final = "vAttention, arXiv:2405.04437"


class Served(NamedTuple):
    """A run with one size of blocks."""

    block_tokens: int
    waste: float
    """Share of the requests' blocks that holds nothing at their ends."""
    sequences: float
    tokens_per_s: float


def requests() -> Requests:
    """Long prompts and short answers, all at once; lengths drawn with a seed (assumption: medians of 3000 and 200)."""
    random = np.random.default_rng(9)
    prompt = np.clip(random.lognormal(np.log(3000), 0.8, REQUESTS), 64, 16384).astype(np.int64)
    answer = np.clip(random.lognormal(np.log(200), 0.5, REQUESTS), 16, 1024).astype(np.int64)
    return make_requests(prompt, answer)


def served(asked: Requests, block_tokens: int) -> Served:
    """Serve the requests with blocks of so many tokens."""
    token = cache_bytes(MODEL)
    room = ROOM * usable_bytes(CARD) - weight_bytes(MODEL)
    space = KvSpace(int(room / (block_tokens * token)), block_tokens, float(block_tokens * token))
    settings = EngineSettings(
        block_size=block_tokens, max_num_batched_tokens=2048, max_num_seqs=256, enable_prefix_caching=False
    )
    pricer = GraphPricer(MODEL, CARD)
    record = run_service(asked, Service((Worker("gpu", SCHEDULERS.get("vllm"), settings, space, pricer),)))
    tokens = asked.prompt_tokens + asked.output_tokens
    held = -(-tokens // block_tokens) * block_tokens
    weights = record.steps.seconds / record.steps.seconds.sum()
    return Served(
        block_tokens,
        float(1 - tokens.sum() / held.sum()),
        float(record.steps.running @ weights),
        float(record.requests.tokens.sum() / record.end_s),
    )


def _tokens(page: int) -> int:
    """Tokens by which a request grows with a page in each buffer."""
    return page * BUFFERS // cache_bytes(MODEL)


def _pages_table(runs: dict[int, Served]) -> StudyTable:
    rows = tuple(
        (f"{page // 1024} KiB" if page else "blocks of 16", float(r.block_tokens), 100 * r.waste, r.sequences,
         r.tokens_per_s)
        for page, r in runs.items()
    )  # fmt: skip
    columns = ("page", "tokens", "waste, %", "requests at work", "tokens/s")
    return StudyTable(f"{REQUESTS} requests at once, {MODEL} on {CARD}", columns, rows)


def _mapping() -> list[tuple[float, float, float, float]]:
    """Batch, page in KiB, milliseconds of mapping a step, milliseconds of a step."""
    rows = []
    for batch in (1, 8, 32):
        step = phase_times(MODEL, CARD, "decode", batch, 8192).seconds
        for page in (65536, 2097152):
            calls = batch * BUFFERS / _tokens(page)
            rows.append((float(batch), page / 1024, 1e3 * calls * MAP_S, 1e3 * step))
    return rows


def _decode() -> list[tuple[float, float, float]]:
    """Batch, context, and how much longer a step takes whose attention reads the cache once a query head."""
    rows = []
    for batch in (1, 8, 32):
        for context in (2048, 8192, 16384):
            t = phase_times(MODEL, CARD, "decode", batch, context)
            rows.append(
                (
                    float(batch),
                    float(context),
                    (t.other_s + QUERY_HEADS_PER_GROUP * t.attention_s) / t.seconds,
                )
            )
    return rows


def _missing() -> list[ClaimResult]:
    reason = (
        "The extra instructions of the paged prefill kernels were not found, and would be the claim itself."
    )
    rows = (
        ("prefill-flash", "prefill over the paged FlashAttention, at most", 3.92),
        ("prefill-flashinfer", "prefill over the paged FlashInfer, at most", 1.45),
        ("prefill-later", "prefill, later version", 1.26),
        ("end-to-end-later", "end to end, later version", 1.23),
    )
    return [
        compare(Claim(i, words, value, "", _PAPER, "published", "mechanism"), None, "Not run.", reason)
        for i, words, value in rows
    ]


def _run() -> Outcome:
    asked = requests()
    runs = {0: served(asked, 16)} | {page: served(asked, _tokens(page)) for page in PAGES}
    mapping, decode = _mapping(), _decode()
    hidden = all(row[2] < row[3] for row in mapping)
    results = [
        compare(Claim("generation", "generation over vLLM's, at most", 1.97, "", _PAPER, "published", "mechanism"),
                max(row[2] for row in decode),
                f"{MODEL} on one A100: vLLM's paged kernel of the time reads a group's keys and values once for "
                "each of its "
                "four query heads, the other once; the most over batches to 32 and contexts to 16,384.",
                "That rule is recalled; what the level-2 cache catches of the repeated reads is not counted, "
                "which makes "
                "ours an upper bound. The paper's models are Yi and Llama-3 on one and two A100."),
        compare(Claim("token", "keys and values of a token, Llama-3-8B", 128 * 1024.0, "B", _PAPER, "published",
                      "counting"), float(cache_bytes(MODEL)), "Counted from the model's graph in FP16."),
        compare(Claim("hidden", "mapping of pages in the background", "hidden", "", _PAPER, "published", "mechanism"),
                "hidden" if hidden else "not hidden",
                f"Calls of {MAP_S * 1e6:g} us (the paper's) that a decode step needs on average, against the "
                "step, batches "
                "to 32."),
        *_missing(),
    ]  # fmt: skip
    tables = [
        _pages_table(runs),
        StudyTable("Mapping in a decode step after 8192 tokens",
                   ("batch", "page, KiB", "mapping, ms", "step, ms"), tuple(mapping)),
        StudyTable("A cache that is read once a query "
                   "head", ("batch", "context", "step, times as long"), tuple(decode)),
    ]  # fmt: skip
    return Outcome(results, tables)


STUDY: Final = Study(
    "vattention",
    "vAttention: contiguous caches in virtual memory",
    "Prabhu et al., vAttention: Dynamic Memory Management for Serving LLMs without PagedAttention, arXiv:2405.04437, "
    "ASPLOS 2025",
    "Llama-3-8B on one A100: pages of 64 KiB to 2 MiB under vLLM's scheduler, and decode steps by how often attention "
    "reads the cache.",
    _run,
)
