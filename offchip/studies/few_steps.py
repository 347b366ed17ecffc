"""Pictures in few denoising steps: a text encoder, a diffusion transformer so many times, a decoder of latents.

PIXART-delta (Chen et al., arXiv:2401.05252) distils PIXART-alpha from 14 guided steps to 4 without guidance. All three
parts are priced operator by operator by the GPU model, which saw no row of any of them.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from hw_configs.library import load_system
from offchip.studies.study import Basis, Claim, ClaimResult, Outcome, Study, StudyTable, compare
from simulator.cost.model import COST_MODELS, DEFAULT_COST_MODEL
from workloads.graph import Graph, Role
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["STUDY", "part_graph", "picture_seconds"]

_PAPER: Final = "PIXART-delta, arXiv:2401.05252, abstract"
_CARD: Final = "PixArt-alpha/PixArt-LCM-XL-2-1024-MS, model card"
_BENCHMARK: Final = "sayakpaul/sample-datasets, collated_results_pixart.csv (A100, 30 steps)"
EAGER: Final = "by-device-eager"
SIDE: Final = 1024
TEXT: Final = 120
TRANSFORMER: Final[dict[str, Any]] = {
    "_class_name": "PixArtTransformer2DModel", "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4,
    "out_channels": 8, "num_layers": 28, "cross_attention_dim": 1152, "patch_size": 2, "sample_size": 128,
    "caption_channels": 4096, "attention_bias": True, "norm_type": "ada_norm_single",
    "activation_fn": "gelu-approximate", "norm_elementwise_affine": False,
}  # fmt: skip
"""PixArt-XL-2-1024-MS, as diffusers states it."""
ENCODER: Final[dict[str, Any]] = {
    "model_type": "t5", "architectures": ["T5EncoderModel"], "d_model": 4096, "d_kv": 64, "d_ff": 10240,
    "num_layers": 24, "num_heads": 64, "vocab_size": 32128, "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 32, "tie_word_embeddings": False, "is_encoder_decoder": True,
}  # fmt: skip
"""T5 v1.1 XXL."""
CARD: Final = (
    ("a100-80gb", "A100", 0.51, 2.2), ("v100-32gb", "V100", 0.8, 5.5), ("t4", "T4", 3.3, 16.0),
)  # fmt: skip
"""GPU, its name on the card, seconds in 4 steps and in 14 guided ones."""


@dataclass(frozen=True, slots=True)
class Picture:
    """So many steps, guided (each sees the picture with and without the text) or not; priced by a cost model."""

    steps: int
    guided: bool
    prices: str = EAGER

    @property
    def batch(self) -> int:
        """Pictures that the transformer sees for one."""
        return 2 if self.guided else 1


@cache
def part_graph(part: str, batch: int, dtype: str = "fp16", fused: bool = True) -> Graph:
    """The graph of ``encoder``, ``transformer`` or ``decoder`` for a picture of 1024 x 1024."""
    if part == "decoder":
        sides = {"height": SIDE, "width": SIDE}
        options = WorkloadOptions(batch=batch, dtype=dtype, fused=fused, dims=sides)
        return load_workload("sd-vae-decoder", options).phases[0].graph
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(TRANSFORMER if part == "transformer" else ENCODER), encoding="utf-8")
        options = WorkloadOptions(batch=batch, dtype=dtype, prompt=TEXT)
        if part == "transformer":
            options = WorkloadOptions(batch=batch, dtype=dtype, dims={"text": TEXT})
        return load_workload(str(path), options).phases[0].graph


@cache
def part_seconds(part: str, batch: int, device: str, prices: str) -> float:
    """Seconds of one run of a part on one GPU."""
    system = load_system(device)
    node = system.workers()[0]
    memory = system.memories[node.memory or node.name]
    graph = part_graph(part, batch, fused=prices != EAGER)
    costs = [COST_MODELS.get(prices).cost(operator, node, memory) for operator in graph.operators]
    return sum(cost.seconds + cost.launch_seconds for cost in costs)


def picture_seconds(picture: Picture, device: str) -> dict[str, float]:
    """Seconds of one picture by part."""
    return {
        "encoder": part_seconds("encoder", picture.batch, device, picture.prices),
        "transformer": picture.steps * part_seconds("transformer", picture.batch, device, picture.prices),
        "decoder": part_seconds("decoder", 1, device, picture.prices),
    }


def _bytes(part: str, dtype: str) -> int:
    graph = part_graph(part, 1, dtype)
    return sum(tensor.size_bytes for tensor in graph.tensors.values() if tensor.role is Role.WEIGHT)


def _claim(
    id: str, statement: str, published: float | str, unit: str, source: str, ours: float | str, words: tuple[str, str],
    basis: Basis = "mechanism",
) -> ClaimResult:  # fmt: skip
    return compare(Claim(id, statement, published, unit, source, "published", basis), ours, *words)


def _run() -> Outcome:
    few, many = Picture(4, guided=False), Picture(14, guided=True)
    times = {
        (p, device): sum(picture_seconds(p, device).values()) for p in (few, many) for device, *_ in CARD
    }
    method = (
        f"T5-XXL over {TEXT} tokens, PixArt's transformer, the decoder of latents to {SIDE} x {SIDE}; FP16, eager "
        "operators, one picture."
    )
    host = (
        "The published runs are of a Python pipeline: its host time, copies and scheduler are not in ours, nor is the "
        "kernel that attention had then."
    )
    claims = [
        _claim("seconds", "a picture of 1024 pixels", 0.5, "s", _PAPER, times[few, "a100-80gb"],
               (f"{method} 4 steps on an A100.", f"The GPU is not in the abstract. {host}")),
        _claim("faster", "faster than PIXART-alpha", 7.0, "x", _PAPER,
               times[many, "a100-80gb"] / times[few, "a100-80gb"],
               (f"{method} 14 guided steps against 4 on an A100.",
                "The abstract does not say how many steps PIXART-alpha takes; the model card has 14.")),
    ]  # fmt: skip
    for device, name, short, long in CARD:
        claims += [
            _claim(f"{name}-4", f"{name}, 4 steps", short, "s", _CARD, times[few, device], (method, host)),
            _claim(f"{name}-14", f"{name}, 14 guided steps", long, "s", _CARD, times[many, device], (method, host)),
            _claim(f"{name}-ratio", f"{name}, 14 guided steps over 4", long / short, "x", _CARD,
                   times[many, device] / times[few, device], (method, host)),
        ]  # fmt: skip
    for label, prices, published in (("eager", EAGER, 3.085), ("compiled", DEFAULT_COST_MODEL, 2.658)):
        found = sum(picture_seconds(Picture(30, True, prices), "a100-80gb").values())
        claims.append(
            _claim(f"thirty-{label}", f"A100, 30 guided steps, {label}", published, "s", _BENCHMARK, found,
                   (method if label == "eager" else method.replace("eager", "fused"),
                    "The published run is in BF16 with the attention kernels of PyTorch."))
        )  # fmt: skip
    kept = {
        "encoder, int8": _bytes("encoder", "int8"), "transformer, fp16": _bytes("transformer", "fp16"),
        "decoder, fp16": _bytes("decoder", "fp16"),
    }  # fmt: skip
    claims.append(
        _claim("memory", "runs with 8-bit inference in 8 GB", "fits", "", _PAPER,
               "fits" if sum(kept.values()) < 8e9 else "does not fit",
               (f"Weights: {', '.join(f'{name} {size / 1e9:.2f} GB' for name, size in kept.items())}.",
                "Activations are not counted; those of the decoder are the largest."),
               "counting")
    )  # fmt: skip
    rows: list[tuple[str | float, ...]] = []
    for device, name, *_ in CARD:
        for picture in (few, many):
            parts = picture_seconds(picture, device)
            words = f"{name}, {picture.steps} {'guided ' if picture.guided else ''}steps"
            rows.append((words, *(1e3 * seconds for seconds in parts.values()), 1e3 * sum(parts.values())))
    columns = ("GPU and steps", "encoder, ms", "transformer, ms", "decoder, ms", "all, ms")
    return Outcome(claims, [StudyTable("A picture of 1024 x 1024 by part", columns, tuple(rows))])


STUDY: Final = Study(
    "pixart-delta",
    "PIXART-delta: a picture in four steps",
    "Chen et al., PIXART-delta: Fast and Controllable Image Generation with Latent Consistency Models, "
    "arXiv:2401.05252",
    "Text encoder, diffusion transformer and decoder on an A100, a V100 and a T4: 4 steps, and 14 or 30 guided ones.",
    _run,
)
