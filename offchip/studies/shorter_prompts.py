"""Prompts made shorter: chunks as single embeddings (REFRAG), trained caches (Cartridges), adapters for a history.

REFRAG, arXiv:2509.01092; Cartridges, arXiv:2506.06266; GenerativeAdapter, arXiv:2411.05877. Time, bytes and
operations; that answers stay good is the papers' affair.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from offchip.studies.phase_times import cache_bytes, phase_times, usable_bytes, weight_bytes
from offchip.studies.study import Claim, Outcome, Study, StudyTable, compare

__all__ = ["CARTRIDGES", "GENERATIVE_ADAPTER", "REFRAG"]

CONTEXTS: Final = (2048, 4096, 8192, 16384)
RATES: Final = (8, 16, 32)
SERVED: Final = "llama-3-8b"
CARD: Final = "h100-sxm"
ROOM: Final = 0.9
"""Share of device memory that an engine uses."""
ASKED: Final = 256
"""Tokens of a question and its answer beside the shared text: assumption."""
MOST: Final = 256
"""Requests of a batch at most: an engine's usual bound of the time."""
CORPORA: Final = (16384, 32768, 65536, 98304, 131072)
CARTRIDGE_SIZES: Final = (512, 1024, 2048, 4096, 8192)
_REFRAG: Final = "REFRAG, arXiv:2509.01092"
_CARTRIDGES: Final = "Cartridges, arXiv:2506.06266"
_ADAPTER: Final = "GenerativeAdapter, arXiv:2411.05877"


def first_token(context: int, rate: int) -> float:
    """Seconds of LLaMA-2-7B's prefill of a context with one embedding for each ``rate`` tokens."""
    return phase_times("llama-2-7b", "a100-80gb", "prefill", 1, context // rate).seconds


def _run_refrag() -> Outcome:
    gains = {(c, k): first_token(c, 1) / first_token(c, k) for c in CONTEXTS for k in RATES}
    method = (
        "Prefill of LLaMA-2-7B on an A100 of a context whose chunks of k tokens are one embedding each, the "
        "embeddings from a store, against all tokens: the most over contexts to 16,384 and k to 32."
    )
    differences = (
        "The question's tokens, the projection of the embeddings and the chunks that stay whole are left out; each "
        "lowers the gain. The paper's machine was not found."
    )
    results = [
        compare(Claim("first-token", "time to first token, times shorter, at most", 30.85, "", _REFRAG, "published",
                      "mechanism"), max(gains.values()), method, differences),
        compare(Claim("earlier", "gain over earlier work (3.75x over it), so that has", 30.85 / 3.75, "", _REFRAG,
                      "derived", "mechanism"), None, "Not run.", "How CEPE compresses was not found in our sources."),
        compare(Claim("context", "context, times longer", 16.0, "", _REFRAG, "published", "counting"), 16.0,
                "A cache of as many entries holds k times the tokens; k = 16."),
    ]  # fmt: skip
    rows = tuple(
        (float(c), float(k), first_token(c, 1) * 1e3, first_token(c, k) * 1e3, gains[c, k],
         cache_bytes("llama-2-7b") * c / k / 1e6)
        for c in CONTEXTS for k in RATES
    )  # fmt: skip
    columns = ("context", "k", "all tokens, ms", "chunks, ms", "times shorter", "cache, MB")
    return Outcome(results, [StudyTable("Time to first token, LLaMA-2-7B on an A100", columns, rows)])


class Served(NamedTuple):
    """Requests at work, and their tokens a second."""

    batch: int
    tokens_per_s: float


def served(context: int) -> Served:
    """Decode with a text of so many tokens in each request's own cache."""
    room = ROOM * usable_bytes(CARD) - weight_bytes(SERVED)
    batch = min(int(room / ((context + ASKED) * cache_bytes(SERVED))), MOST)
    return Served(batch, batch / phase_times(SERVED, CARD, "decode", batch, context + ASKED // 2).seconds)


def _run_cartridges() -> Outcome:
    corpus = {context: served(context) for context in CORPORA}
    small = {size: served(size) for size in CARTRIDGE_SIZES}
    ratio = 38.6
    closest = {c: served(round(c / ratio)).tokens_per_s / found.tokens_per_s for c, found in corpus.items()}
    method = (
        f"{SERVED} in FP16 on one H100: as many requests as fit, each with its own copy of the text, of {ASKED} "
        "tokens beside it; decode steps of both."
    )
    results = [
        compare(Claim("memory", "memory less than the whole text's", ratio, "", _CARTRIDGES, "published",
                      "construction"), ratio, "Taken as the ratio of the text's tokens to the trained cache's."),
        compare(Claim("throughput", "throughput over the whole text in the cache, at most", 26.4, "", _CARTRIDGES,
                      "published", "mechanism"), max(closest.values()),
                f"{method} The trained cache has 1 / {ratio} of the text's tokens; the most over texts to 131,072.",
                "Where few requests fit with the text, their number is small and whole; the paper's text lengths at "
                f"the figure were not found. At most {MOST} requests."),
        compare(Claim("context", "effective context on MTOB", 484_000 / 128_000, "", _CARTRIDGES, "derived",
                      "construction"), None, "Not run.",
                "It follows from training on chunks: a quality, no cost of ours."),
    ]  # fmt: skip
    rows = tuple(
        (float(c), float(s), c / s, float(corpus[c].batch), corpus[c].tokens_per_s, float(small[s].batch),
         small[s].tokens_per_s, small[s].tokens_per_s / corpus[c].tokens_per_s)
        for c in CORPORA for s in CARTRIDGE_SIZES
    )  # fmt: skip
    columns = (
        "text", "trained cache", "memory", "requests, text", "tokens/s", "requests, trained", "tokens/s", "throughput",
    )  # fmt: skip
    return Outcome(results, [StudyTable(f"Decode of {SERVED} on one H100", columns, rows)])


def _run_adapter() -> Outcome:
    model, turn = "mistral-7b", 256
    rows = []
    for history in (256, 512, 768, 1024, 2048, 4096, 8192):
        whole = phase_times(model, "a100-80gb", "prefill", 1, history + turn)
        alone = phase_times(model, "a100-80gb", "prefill", 1, turn)
        memory = (history + turn) / turn
        rows.append(
            (float(history), whole.flops / alone.flops, whole.seconds / alone.seconds, memory,
             cache_bytes(model) * history / 1e6)
        )  # fmt: skip
    reason = (
        "The histories' and turns' lengths of MSC and the rank were not found, and the ratio is theirs: 4 where the "
        "history is three times the turn, as the table shows."
    )
    results = [
        compare(Claim("compute", "compute and memory less than with the full history (MSC)", 4.0, "", _ADAPTER,
                      "published", "mechanism"), None, "Swept over the history's length.", reason),
        compare(Claim("compute-three", "compute where the history is three turns long", 4.0, "", _ADAPTER, "derived",
                      "construction"), rows[2][1], f"Operations of a prefill of history and a turn of {turn} "
                                                   "tokens over "
                f"those of the turn, {model}.", "The length is implied by the claim. Making the adapter is one "
                                                "pass over "
                "the history, not counted, and neither are the adapter's own products."),
    ]  # fmt: skip
    columns = ("history, tokens", "operations", "time", "cache entries", "cache of the history, MB")
    return Outcome(
        results, [StudyTable(f"A turn of {turn} tokens: with its history over without", columns, tuple(rows))]
    )


REFRAG: Final = Study(
    "refrag",
    "REFRAG: chunks of a retrieved context as single embeddings",
    "Lin et al., REFRAG: Rethinking RAG based Decoding, arXiv:2509.01092",
    "Prefill of LLaMA-2-7B with contexts to 16,384 tokens, compressed 8, 16 and 32 to one.",
    _run_refrag,
)
CARTRIDGES: Final = Study(
    "cartridges",
    "Cartridges: a small trained cache in place of a text",
    "Eyuboglu et al., Cartridges: Lightweight and general-purpose long context representations via self-study, "
    "arXiv:2506.06266",
    "Decode of Llama-3-8B on one H100 with as many requests as fit, a text or a trained cache in front of each.",
    _run_cartridges,
)
GENERATIVE_ADAPTER: Final = Study(
    "generative-adapter",
    "GenerativeAdapter: a history as an adapter instead of a prompt",
    "Chen et al., Generative Adapter: Contextualizing Language Models in Parameters with A Single Forward Pass, "
    "arXiv:2411.05877",
    "A turn of a conversation with and without its history in the prompt, Mistral-7B on an A100.",
    _run_adapter,
)
