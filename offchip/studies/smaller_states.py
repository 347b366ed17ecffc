"""Training with smaller states: activations in 8 bits (Mesa) and optimizer states of low rank (GaLore).

Mesa, arXiv:2111.11124; GaLore, Zhao et al., arXiv:2403.03507. Both as memory rules: bytes, not quality.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from hw_configs.library import load_system
from mapping.training.estimate import Estimator
from mapping.training.pricing import Prices
from mapping.training.setup import TrainingSetup
from mapping.training.smaller_states import adam_moment_elements, low_rank_states
from mapping.training.state_types import FRAMEWORKS, StateTypes, with_fields
from offchip.studies.study import Claim, ClaimResult, Outcome, Study, StudyTable, compare
from workloads.graph import Role
from workloads.importers import load_workload
from workloads.step_types import StepTypes
from workloads.trained_parts import TrainedParts, WeightMethod
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
    method_of = WeightMethod("low-rank", rank=rank, layerwise=True)
    parts = TrainedParts((("*", WeightMethod()), ("layers.*.weight", method_of)))
    types = StateTypes("galore", StepTypes(weights="", master="none", moments="int8"))
    whole_step = card.estimate(
        TrainingSetup("llama-7b", TOKENS, types=types, parts=parts, recompute="full"), exact=False
    ).memory
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
    ledger = StudyTable(
        f"A step of LLaMA-7B at {TOKENS} tokens by the training ledger, BF16 weights, layers recomputed",
        ("part", "GB"),
        (
            ("weights", whole_step.weights / 1e9), ("gradients held", whole_step.gradients / 1e9),
            ("states, 8 bits", whole_step.optimizer_state / 1e9),
            ("activations and passing gradients", (whole_step.skeletal + whole_step.transient) / 1e9),
        ),
    )  # fmt: skip
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
    return Outcome(results, [table, ledger])


_PACKED: Final = tuple((kind, 8.0) for kind in ("matmul", "norm", "softmax", "activation"))
"""The operators whose saved activations Mesa keeps in 8 bits (section 4)."""


def _run_mesa() -> Outcome:
    estimator = Estimator(Prices(load_system("a100-80gb")))
    types = with_fields(FRAMEWORKS["hf-trainer"], {"saved": "eager"})
    rows, saved = [], []
    for model, micro in (("vit-b-16", 128), ("vit-l-16", 64), ("gpt2", 16), ("gpt2-medium", 16)):
        tokens = 197 if model.startswith("vit") else 1024
        setup = TrainingSetup(model, tokens, micro, micro, dtype="fp16", types=types)
        plain = estimator.estimate(setup, exact=False).memory
        small = estimator.estimate(replace(setup, parts=TrainedParts(saved_bits=_PACKED)), exact=False).memory
        less = 1 - small.device_bytes / plain.device_bytes
        saved.append(less)
        rows.append((model, float(micro), plain.device_bytes / 1e9, small.device_bytes / 1e9, 100 * less))
    claim = Claim("memory", "training memory saved, at most", 0.5, "", _MESA, "published", "mechanism")
    result = compare(
        claim, max(saved), "Device memory of a mixed-precision step of eager code with materialised scores; what "
        "products, norms, softmax and non-linearities keep is packed into 8 bits, a scale and offset per 256, behind "
        "the operator that reads it first, and unpacked before its backward pass.",
        "The paper's models are DeiT, Swin and PVT on V100; ViT-B/16 and ViT-L/16 stand for them, batches are ours. "
        "Kernels of the paper pack in place; ours holds one unpacked tensor at a time.",
    )  # fmt: skip
    columns = ("model", "sequences", "as kept, GB", "in 8 bits, GB", "saved, %")
    return Outcome([result], [StudyTable("Memory of a training step", columns, tuple(rows))])


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
    "Training steps of ViT and GPT-2 models on one A100 in eager code, activations saved as they are or in 8 bits.",
    _run_mesa,
)
