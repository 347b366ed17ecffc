"""Training with smaller states: activations in 8 bits (Mesa) and optimizer states of low rank (GaLore).

Mesa, arXiv:2111.11124; GaLore, Zhao et al., arXiv:2403.03507. Both as memory rules: bytes, not quality.
"""

from __future__ import annotations

import math
from typing import Final

from hw_configs.library import load_system
from mapping.training.estimate import Estimator
from mapping.training.pricing import Prices
from mapping.training.setup import TrainingSetup
from mapping.training.smaller_states import adam_moment_elements, low_rank_states, with_saved_bits
from offchip.studies.study import Claim, ClaimResult, Outcome, Study, StudyTable, compare
from workloads.graph import Role
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["GALORE", "MESA"]

CARD: Final = "rtx-4090"
TOKENS: Final = 256
"""A sequence of the paper's pre-training, as recalled."""
RANKS: Final = (128, 256, 512, 1024, 2048)
_GALORE: Final = "GaLore, arXiv:2403.03507"
_MESA: Final = "Mesa, arXiv:2111.11124"


def _shapes(model: str) -> tuple[list[tuple[int, ...]], frozenset[int]]:
    """Shapes of a model's weights, and which are embeddings or heads."""
    graph = load_workload(model, WorkloadOptions(phase="decode", prompt=1)).phases[0].graph
    weights = [t for t in graph.tensors.values() if t.role is Role.WEIGHT]
    whole = frozenset(i for i, t in enumerate(weights) if t.name.startswith(("embedding", "lm_head")))
    return [tuple(int(side) for side in t.shape) for t in weights], whole


def _run_galore() -> Outcome:
    shapes, whole = _shapes("llama-7b")
    adam = adam_moment_elements(shapes)
    rank = 1024
    low = low_rank_states(shapes, rank, whole)
    weights = adam // 2
    saved = 1 - low.bytes(16) / (adam * 2)
    saved_8bit = 1 - low.bytes(8) / (adam * 2)
    # One weight's gradient at a time, in BF16, until its update is done.
    gradient = 2 * max(math.prod(shape) for shape in shapes)
    held = weights + low.bytes(8) + gradient
    total = held / (2 * weights + 2 * weights + adam * 2)
    method = (
        f"LLaMA-7B's weights in BF16, moments counted: Adam keeps two elements per weight, the projected form 2 "
        "n r + m r per "
        f"matrix at rank {rank}; embeddings, head and norms stay whole."
    )
    rank_open = "The paper's rank for 7B is recalled as 1024; the abstract says 'up to'."
    layerwise = (
        "Weights in 8 bits, and updates weight by weight, so that no more than the largest weight's BF16 gradient "
        f"({gradient / 1e9:.2f} GB) is kept: the paper's 8-bit form."
    )
    card = Estimator(Prices(load_system(CARD)))
    step = card.of_step(card.rank_step(TrainingSetup("llama-7b", TOKENS)), exact=False).memory
    activations = step.skeletal + step.transient
    fits = held + activations <= card.prices.memory.usable_bytes
    results: list[ClaimResult] = [
        compare(Claim("states", "optimizer states less than Adam's, at most", 0.655, "", _GALORE, "published",
                      "counting"),
                saved, method, rank_open),
        compare(Claim("states-8bit", "8-bit states less than BF16 Adam's, at most", 0.825, "", _GALORE, "published",
                      "counting"),
                saved_8bit, f"{method} Moments in 8 bits, projections in 16.", rank_open),
        compare(Claim("total", "8-bit training memory less than BF16's", 0.633, "", _GALORE, "published",
                      "counting"),
                1 - total, f"Weights, gradients and states; BF16 training keeps all gradients in BF16. {layerwise}",
                f"{rank_open} Activations are left "
                "out on both sides."),
        compare(Claim("adam", "BF16 Adam's states at 7B", 28e9, "B", _GALORE, "derived", "counting"),
                adam * 2.0, method),
        compare(Claim("fits", f"pre-training of 7B on a card of 24 GB ({CARD})", "fits", "", _GALORE, "published",
                      "mechanism"),
                "fits" if fits else "does not fit",
                f"Weights, states, the gradient and the activations of one sequence of {TOKENS} tokens without "
                f"recomputation "
                f"({activations / 1e9:.1f} GB) against the card's usable bytes. {layerwise}",
                f"{TOKENS} tokens are recalled; with 2048 it takes recomputation."),
    ]  # fmt: skip
    rows = []
    for r in RANKS:
        found = low_rank_states(shapes, r, whole)
        rows.append(
            (float(r), found.bytes(16) / 1e9, found.bytes(8) / 1e9, 100 * (1 - found.bytes(16) / (adam * 2)))
        )
    table = StudyTable(
        "Optimizer states of LLaMA-7B by rank",
        ("rank", "16 bits, GB", "8 bits, GB", "less than Adam, %"),
        tuple(rows),
    )
    return Outcome(results, [table])


def _run_mesa() -> Outcome:
    estimator = Estimator(Prices(load_system("a100-80gb")))
    rows, saved = [], []
    for model in ("gpt2", "gpt2-medium", "gpt2-large"):
        for micro in (4, 16, 32):
            setup = TrainingSetup(model, 1024, micro, micro, dtype="fp16")
            budget = estimator.of_step(estimator.rank_step(setup), exact=False).memory
            small = with_saved_bits(budget, 16, 8)
            less = 1 - small.device_bytes / budget.device_bytes
            saved.append(less)
            rows.append(
                (model, float(micro), budget.device_bytes / 1e9, small.device_bytes / 1e9, 100 * less)
            )
    claim = Claim("memory", "training memory saved, at most", 0.5, "", _MESA, "published", "mechanism")
    result = compare(
        claim, max(saved), "Device memory of a mixed-precision step with every saved activation in 8 bits with "
        "a scale per 256, "
        "the most over GPT-2 models and batches.",
        "The paper trains vision transformers, in which layer norms and softmax save FP32 under automatic mixed "
        "precision; "
        "here everything saved has 16 bits, so 8 bits cannot halve the total.",
    )  # fmt: skip
    columns = ("model", "sequences", "16 bits, GB", "8 bits, GB", "saved, %")
    return Outcome([result], [StudyTable("Memory of a training step of 1024 tokens", columns, tuple(rows))])


GALORE: Final = Study(
    "galore",
    "GaLore: optimizer states of low rank",
    "Zhao et al., GaLore, arXiv:2403.03507, ICML 2024",
    "LLaMA-7B: elements of Adam's moments, whole and projected.",
    _run_galore,
)
MESA: Final = Study(
    "mesa",
    "Mesa: activations saved in 8 bits",
    "Mesa, arXiv:2111.11124",
    "Training steps of GPT-2 models on one A100, activations saved in 16 or 8 bits.",
    _run_mesa,
)
