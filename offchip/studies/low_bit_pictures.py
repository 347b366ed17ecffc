"""Four bits for weights and activations of a picture model, with a branch of low rank, fused or beside.

SVDQuant and its engine Nunchaku (Li et al., arXiv:2411.05007) on FLUX.1: 12 billion parameters on a laptop's RTX 4090.
Every form is a graph of its own operators (:mod:`workloads.low_rank`), priced by the GPU model.
"""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Final

from hw_configs.library import load_system
from offchip.studies.study import Basis, Claim, ClaimResult, Outcome, Study, StudyTable, compare
from simulator.cost.model import COST_MODELS, DEFAULT_COST_MODEL
from workloads.graph import Graph, Operator, Role
from workloads.importers import load_workload
from workloads.low_rank import LowRank, narrow_weights, with_low_rank
from workloads.operators import Product
from workloads.workload import WorkloadOptions

__all__ = ["STUDY", "forms", "step"]

LAPTOP: Final = "rtx-4090-laptop"
SIDE: Final = 1024
TEXT: Final = 512
RANK: Final = 32
FLUX: Final[dict[str, Any]] = {
    "_class_name": "FluxTransformer2DModel", "attention_head_dim": 128, "guidance_embeds": True, "in_channels": 64,
    "joint_attention_dim": 4096, "num_attention_heads": 24, "num_layers": 19, "num_single_layers": 38, "patch_size": 1,
    "pooled_projection_dim": 768,
}  # fmt: skip
"""FLUX.1-dev, as diffusers states it."""
WIDE_COST: Final = 8.0
"""Rate of 4-bit over 16-bit products with 32-bit sums on that GPU."""
_PAPER: Final = "SVDQuant, arXiv:2411.05007, abstract"
_CARD: Final = "mit-han-lab/svdq-int4-flux.1-schnell, model card"


def _in_blocks(operator: Operator) -> bool:
    layer = operator.place.layer
    return layer is not None and layer >= 0


def _of_tokens(operator: Operator) -> bool:
    """Products over all tokens; those of the conditioning have one row, and read a weight to use it once."""
    return _in_blocks(operator) and isinstance(operator.work, Product) and operator.work.m > 8


def _of_the_condition(operator: Operator) -> bool:
    return _in_blocks(operator) and not _of_tokens(operator)


@cache
def forms() -> dict[str, Graph]:
    """One denoising step in every form."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(FLUX), encoding="utf-8")
        options = WorkloadOptions(dtype="bf16", dims={"height": SIDE, "width": SIDE, "text": TEXT})
        whole = load_workload(str(path), options).phases[0].graph
    base = narrow_weights(whole, "int4", _of_the_condition)
    ranks = {
        "4 bits, no branch": LowRank(rank=0),
        "4 bits, branch beside": LowRank(rank=RANK, fused=False),
        "4 bits, branch fused": LowRank(rank=RANK, wide_cost=WIDE_COST),
        "4 bits, branch of 64 fused": LowRank(rank=2 * RANK, wide_cost=WIDE_COST),
    }
    found = {"16 bits": whole, "NF4 weights, 16-bit products": narrow_weights(whole, "nf4", _in_blocks)}
    return found | {words: with_low_rank(base, form, _of_tokens) for words, form in ranks.items()}


@cache
def step(form: str, device: str = LAPTOP) -> dict[str, float]:
    """Milliseconds of one step by kind of operator, those of the products' own additions apart."""
    system = load_system(device)
    node = system.workers()[0]
    memory = system.memories[node.memory or node.name]
    whole = forms()["16 bits"].operator_by_name
    found: dict[str, float] = {}
    for operator in forms()[form].operators:
        cost = COST_MODELS.get(DEFAULT_COST_MODEL).cost(operator, node, memory)
        added = operator.name not in whole and operator.kind != "quantize"
        kind = "branch" if added else operator.kind
        found[kind] = found.get(kind, 0.0) + 1e3 * (cost.seconds + cost.launch_seconds)
    return found


def _linear(form: str) -> float:
    """Milliseconds of products, of quantising for them and of branches."""
    parts = step(form)
    return sum(parts.get(kind, 0.0) for kind in ("matmul", "quantize", "branch"))


def weight_bytes(form: str) -> int:
    """Bytes of the transformer's weights."""
    return sum(tensor.size_bytes for tensor in forms()[form].tensors.values() if tensor.role is Role.WEIGHT)


def _claim(
    id: str, statement: str, published: float, unit: str, source: str, ours: float | None, words: tuple[str, str],
    basis: Basis = "mechanism",
) -> ClaimResult:  # fmt: skip
    return compare(Claim(id, statement, published, unit, source, "published", basis), ours, *words)


def _run() -> Outcome:
    whole = {form: sum(step(form).values()) for form in forms()}
    beside = _linear("4 bits, branch beside") / _linear("4 bits, no branch") - 1
    fused = _linear("4 bits, branch fused") / _linear("4 bits, no branch") - 1
    sizes = {form: weight_bytes(form) for form in forms()}
    method = f"One step of FLUX.1 at {SIDE} x {SIDE} with {TEXT} text tokens on {LAPTOP}, rank {RANK}, groups of 64."
    claims = [
        _claim("memory", "memory less than the 16-bit model", 3.5, "x", _PAPER,
               sizes["16 bits"] / sizes["4 bits, branch fused"],
               (f"Weights of the transformer. {method}", "Activations are in neither; the model card says 3.6."),
               "counting"),
        _claim("weight-only", "faster than 4-bit weights alone", 3.0, "x", _PAPER,
               whole["NF4 weights, 16-bit products"] / whole["4 bits, branch fused"],
               (method,
                "The published baseline widens its weights to 16 bits in memory before each product, and its attention "
                "is of another library; ours widens them on the way. Attention is the same in both.")),
        _claim("beside", "latency that a branch beside adds", 0.57, "", _CARD, beside,
               (f"Products over tokens with their quantising and branches. {method}",
                "Which layers the figure is of is not on the card.")),
        _claim("offload", "faster than the 16-bit model with offloading", 8.7, "x", _CARD, None,
               ("Not covered.", "How the 16-bit model was moved between host and GPU is not on the card.")),
    ]  # fmt: skip
    kinds = ("matmul", "quantize", "branch", "attention", "norm", "elementwise", "activation", "copy")
    rows = tuple(
        (form, sizes[form] / 1e9, *(step(form).get(kind, 0.0) for kind in kinds), whole[form])
        for form in forms()
    )
    table = StudyTable("One step, ms", ("form", "weights, GB", *kinds, "all"), rows)
    added = StudyTable(
        "What the branch adds to products over tokens", ("branch", "%"),
        (("beside", 100 * beside), ("fused", 100 * fused)),
    )  # fmt: skip
    return Outcome(claims, [table, added])


STUDY: Final = Study(
    "svdquant",
    "SVDQuant: 4-bit products with a branch of low rank",
    "Li et al., SVDQuant: Absorbing Outliers by Low-Rank Components for 4-Bit Diffusion Models, arXiv:2411.05007",
    "FLUX.1 in 16 bits, with 4-bit weights alone, and in 4 bits with a branch beside its products or fused into them.",
    _run,
)
