"""LeMo: fine-tuning on long contexts by leaving uninformative tokens out of the layers.

LeMo (published as JENGA, arXiv:2501.09767) eliminates tokens that a predictor calls uninformative, layer by layer,
so that activations shrink with the tokens that are kept. Which share can go is a property of data; what a share is
worth in bytes and seconds is counted here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hw_configs.library import load_system
from mapping.training.estimate import Estimator
from mapping.training.pricing import Prices
from mapping.training.setup import TrainingSetup
from offchip.studies.line_figure import draw_lines
from offchip.studies.study import Claim, ClaimResult, Figure, Outcome, Study, StudyTable, compare
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["STUDY", "standard_activation_bytes"]

MODEL: Final = "llama-2-7b"
HARDWARE: Final = "a800-node"
K: Final = 1024
BLOCK: Final = 64
KEPT: Final = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
LENGTHS: Final = (4 * K, 8 * K, 16 * K, 32 * K, 64 * K)
_PAPER: Final = "LeMo, arXiv:2501.09767"
_REVIEW: Final = "LeMo, arXiv:2501.09767, as reported by a review"
STATE_BYTES: Final = 16
"""Bytes of model states per parameter under mixed-precision Adam (ZeRO, arXiv:1910.02054, section 3.1)."""


def standard_activation_bytes(layers: int, hidden: int, heads: int, tokens: int) -> float:
    """Activations that a layer without FlashAttention saves: s b h (34 + 5 a s / h) per layer, one sequence.

    Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models, arXiv:2205.05198, equation 1.
    """
    return layers * float(tokens) * hidden * (34 + 5 * heads * tokens / hidden)


def _run() -> Outcome:
    estimator = Estimator(Prices(load_system(HARDWARE)))
    points = {length: {kept: _point(estimator, length, kept) for kept in KEPT} for length in LENGTHS}
    results = [_states_claim(), *_data_claims()]
    table = StudyTable(
        "Activations of Llama-2-7B per sequence, GiB, by the share of tokens kept",
        ("tokens", *(f"{100 * kept:.0f} %" for kept in KEPT)),
        tuple((f"{n // K}K", *(points[n][kept][0] / 2**30 for kept in KEPT)) for n in LENGTHS),
    )
    speed = StudyTable(
        "Step time against keeping all tokens",
        ("tokens", *(f"{100 * kept:.0f} %" for kept in KEPT)),
        tuple((f"{n // K}K", *(points[n][kept][1] / points[n][1.0][1] for kept in KEPT)) for n in LENGTHS),
    )

    def draw(path: Path) -> None:
        lines = {
            f"{n // K}K tokens": [(100 * kept, points[n][kept][1] / points[n][1.0][1]) for kept in KEPT]
            for n in LENGTHS
        }
        draw_lines(path, lines, "tokens kept (%)", "step time against all tokens")

    caption = (
        "Step time of Llama-2-7B at TP 8 on A800: linear in the tokens kept while products dominate, falling faster "
        "once attention does."
    )
    return Outcome(results, [table, speed], [Figure("time", caption, draw)])


def _point(estimator: Estimator, length: int, kept: float) -> tuple[int, float]:
    """Skeletal bytes of one sequence over all devices, and seconds of a step, with so many tokens kept.

    Tokens go in blocks, as the paper's do, and evenly from all layers.
    """
    tokens = max(round(length * kept / BLOCK), 1) * BLOCK
    estimate = estimator.estimate(TrainingSetup(MODEL, tokens, tensor=8), exact=False)
    step = estimator.rank_step(TrainingSetup(MODEL, tokens, tensor=8))
    sequence = estimator.requests(step)
    return 8 * int(sequence.size[sequence.skeletal].sum()), estimate.time.step_s


def _states_claim() -> ClaimResult:
    graph = load_workload("gpt3-175b", WorkloadOptions(phase="prefill", prompt=128)).phases[0].graph
    activations = standard_activation_bytes(96, 12288, 96, 64 * K)
    ratio = activations / (STATE_BYTES * graph.parameters())
    return compare(
        Claim("states", "activations over model states, GPT-3 175B at 64K tokens", 71.6, "", _REVIEW,
              "second-hand", "counting"),
        ratio,
        "Saved activations of attention that writes its scores out, one sequence, by the published count, over 16 "
        "bytes per parameter of Offchip's own count of parameters.",
        "The figure holds for attention without FlashAttention only; with it the second term of the count goes away "
        "and activations are about as large as the states.",
    )  # fmt: skip


def _data_claims() -> list[ClaimResult]:
    """Claims that rest on which tokens are uninformative, or on a framework's batch and copies."""
    predictor = "Not run: which tokens can go follows from attention scores of real text, which Offchip does not have."
    differences = (
        "The tables below say what a share of kept tokens is worth in bytes and seconds; the share itself is an "
        "input."
    )
    lora = (
        "Not run: the batch size and the framework's copies behind the published gigabytes were not found, and "
        "adapters beside frozen weights have no workload here."
    )
    rows = (
        ("memory", "memory saved, at most", 1.93, "", f"{_PAPER}, abstract", predictor),
        ("speed", "speed-up, at most", 1.36, "", f"{_PAPER}, abstract", predictor),
        ("lora", "activations of LoRA, Llama-2-7B at 4K", 39.2, "GB", _REVIEW, lora),
        ("jenga", "activations of JENGA, Llama-2-7B at 4K", 31.3, "GB", _REVIEW, lora),
        ("saving", "mean saving over LoRA at 8K", 0.505, "", _REVIEW, predictor),
        ("offload", "speed-up of sparsity-aware offloading", 1.22, "", _REVIEW, predictor),
    )
    return [
        compare(Claim(key, words, value, unit, source, certainty, "mechanism"), None, method, differences)
        for key, words, value, unit, source, method in rows
        for certainty in ("second-hand" if source is _REVIEW else "published",)
    ]


STUDY: Final = Study(
    "lemo",
    "LeMo: activations and step time against the tokens kept",
    "LeMo (published as JENGA, ATC 2025), arXiv:2501.09767",
    "Llama-2-7B in bf16 on 8 A800 at TP 8, one sequence of 4K to 64K tokens per step, all parameters trained. Tokens "
    "are left out evenly from all layers, in blocks of 64. No data are involved: the share of tokens kept "
    "is an input.",
    _run,
)
