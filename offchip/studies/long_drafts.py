"""Drafts for long contexts: a draft of one layer with a constant cache (LongSpec), a drafter of equal size that reads
a short, retrieved context (RAPID).

LongSpec, arXiv:2502.17421; RAPID, arXiv:2502.20330. The chance that a draft token is accepted is an input.
"""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

from offchip.studies.phase_times import operator_seconds, phase_times
from offchip.studies.study import Claim, Outcome, Study, StudyTable, compare

__all__ = ["LONGSPEC", "RAPID", "accepted_tokens"]

CARD: Final = "a100-80gb"
EAGER: Final = "by-device-eager"
CHANCES: Final = (0.6, 0.7, 0.8, 0.9)
TYPICAL: Final = 0.8
"""The chance at which claims are held: assumption, the middle of what drafts of one layer are reported to reach."""
DEPTHS: Final = (2, 4, 6, 8, 12)
WINDOW: Final = 512
"""Tokens of LongSpec's draft cache: assumption; its cost hardly depends on it."""
RETRIEVED: Final = 4096
"""Tokens that RAPID's drafter reads: assumption."""
_LONGSPEC: Final = "LongSpec, arXiv:2502.17421"
_RAPID: Final = "RAPID, arXiv:2502.20330"


def accepted_tokens(chance: float, depth: int) -> float:
    """Tokens of a round: those accepted in a row, and the target's own.

    >>> accepted_tokens(0.5, 2)
    1.75
    """
    return sum(chance**i for i in range(depth + 1))


@cache
def step_seconds(model: str, tokens: int, context: int) -> float:
    """A pass over ``tokens`` in a row after ``context``: products of so many rows, the cache read once."""
    rows = phase_times(model, CARD, "decode", tokens, 1, EAGER)
    one = phase_times(model, CARD, "decode", 1, context, EAGER)
    return rows.other_s + one.attention_s


class Best(NamedTuple):
    """The best depth of drafts and what it gains."""

    depth: int
    speed: float


def best_of(target: str, context: int, draft_s: float, chance: float) -> Best:
    """The depth with the most tokens a second over decoding one by one."""
    one = step_seconds(target, 1, context)
    found = [
        Best(d, accepted_tokens(chance, d) * one / (step_seconds(target, d + 1, context) + d * draft_s))
        for d in DEPTHS
    ]
    return max(found, key=lambda best: best.speed)


@cache
def one_layer(model: str, layers: int) -> float:
    """Seconds of a draft of one of a model's layers and its output projection, with a window in the cache."""
    whole = phase_times(model, CARD, "decode", 1, WINDOW, EAGER)
    head = operator_seconds(model, CARD, "lm_head", EAGER)
    return (whole.seconds - head) / layers + head


def _run_longspec() -> Outcome:
    models = (("llama-2-7b", 32), ("llama-2-13b", 40), ("llama-3.1-8b", 32))
    contexts = (8192, 16384, 32768)
    best = {
        (m, c, chance): best_of(m, c, one_layer(m, layers), chance)
        for m, layers in models for c in contexts for chance in CHANCES
    }  # fmt: skip
    top = max((key for key in best if key[2] == TYPICAL), key=lambda key: best[key].speed)
    method = (
        "Rounds of d drafts by one layer with a constant window and the output projection, and one pass of the "
        "target over "
        "d + 1 tokens, eager kernels on an A100, batch 1: the most over models and contexts at a chance of "
        f"{TYPICAL:g}."
    )
    draft = ("speed", "speed over FlashAttention baselines, at most", 3.26)
    results = [
        compare(Claim(*draft, "", _LONGSPEC, "published", "mechanism"), best[top].speed, method,
                f"The chance is an assumption; the paper drafts trees. Found with {top[0]} after {top[1]} tokens."),
        compare(Claim("aime", "wall clock less on AIME24 (QwQ)", 2.25, "", _LONGSPEC, "published", "mechanism"), None,
                "Not run.", "The lengths of the answers and the acceptance on them were not found."),
    ]  # fmt: skip
    rows = tuple(
        (m, float(c), chance, accepted_tokens(chance, b.depth), float(b.depth), b.speed)
        for (m, c, chance), b in best.items()
    )  # fmt: skip
    columns = ("model", "context", "chance", "tokens a round", "drafts", "speed")
    return Outcome(results, [StudyTable("The best depth of drafts", columns, rows)])


def _run_rapid() -> Outcome:
    model, contexts = "llama-3.1-8b", (8192, 16384, 32768, 65536, 131072)
    draft = step_seconds(model, 1, RETRIEVED)
    best = {(c, chance): best_of(model, c, draft, chance) for c in contexts for chance in CHANCES}
    bound = {c: step_seconds(model, 1, c) / draft for c in contexts}
    beyond = max(best[c, TYPICAL].speed for c in contexts if c > 32768)
    method = (
        f"Drafts by the same model after {RETRIEVED} retrieved tokens, one pass of {model} over them after the whole "
        f"context, eager kernels on an A100, batch 1: the most beyond 32,768 tokens at a chance of {TYPICAL:g}."
    )
    results = [
        compare(Claim("speed", "speed beyond 32K, more "
                               "than", 2.0, "", _RAPID, "published", "mechanism"), beyond, method,
                "A drafter of equal size reads the same weights: with every draft accepted and verification "
                "free, no more "
                f"than {bound[131072]:.2f}x is possible after 131,072 tokens here. The paper's baseline keeps "
                "the cache "
                "of grouped heads in a slower attention, and its figures may hold prefill; neither was found."),
        compare(Claim("quality", "InfiniteBench, LLaMA-3.1-8B", 42.83, "", _RAPID, "published", "mechanism"), None,
                "Not run.", "A quality."),
    ]  # fmt: skip
    rows = tuple(
        (float(c), chance, accepted_tokens(chance, b.depth), float(b.depth), b.speed, bound[c])
        for (c, chance), b in best.items()
    )
    columns = (
        "context",
        "chance",
        "tokens a round",
        "drafts",
        "speed",
        "with free verification, all accepted",
    )
    return Outcome(results, [StudyTable("The best depth of drafts", columns, rows)])


LONGSPEC: Final = Study(
    "longspec",
    "LongSpec: a draft whose cache does not grow",
    "Yang et al., LongSpec: Long-Context Lossless Speculative Decoding with Efficient Drafting and Verification, "
    "arXiv:2502.17421",
    "Decode after 8,192 to 32,768 tokens with drafts of one layer, the chance of acceptance an input.",
    _run_longspec,
)
RAPID: Final = Study(
    "rapid",
    "RAPID: a drafter of equal size with a short context",
    "Chen et al., RAPID: Long-Context Inference with Retrieval-Augmented Speculative Decoding, arXiv:2502.20330",
    "Decode of Llama-3.1-8B after 8,192 to 131,072 tokens with drafts of the same model after 4,096.",
    _run_rapid,
)
