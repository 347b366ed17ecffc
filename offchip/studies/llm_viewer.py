"""LLM-Viewer's roofline of Llama-2-7B on an A6000: operations, bytes, intensity and bound of each layer.

LLM-Viewer (Yuan et al., LLM Inference Unveiled, arXiv:2402.16363) counts every layer of a transformer by hand
and puts it under the roofline of a data sheet. Offchip counts the same layers from the model's own
configuration, unfused, and prices them with the lossless roofline.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hw_configs.library import load_system
from offchip.studies.roofline_figure import draw_roofline
from offchip.studies.study import Claim, ClaimResult, Figure, Outcome, Study, StudyTable, compare
from simulator.cost.model import COST_MODELS, peak_rate
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["STUDY", "LayerPoint", "layer_points"]

MODEL: Final = "llama-2-7b"
HARDWARE: Final = "a6000"
TOKENS: Final = 2048
_TABLE = "LLM-Viewer, analysis of Llama-2-7B on A6000 at sequence 2048, batch 1 (arXiv:2402.16363)"
_SHEET = "LLM-Viewer, hardwares/hardware_params.py, nvidia_A6000"


@dataclass(frozen=True, slots=True)
class LayerPoint:
    """One operator of a layer under the roofline; ``rate`` is operations per second at the roof."""

    phase: str
    name: str
    operations: float
    bytes: int
    intensity: float
    rate: float
    bound: str


def layer_points(phase: str) -> list[LayerPoint]:
    """The operators of the first layer, and the output projection, in program order.

    ``phase`` is prefill (2048 tokens) or decode (one token after 2048).
    """
    system = load_system(HARDWARE)
    node = system.workers()[0]
    memory = system.memories[node.memory or node.name]
    model = COST_MODELS.get("roofline-peak")
    options = WorkloadOptions(phase=phase, batch=1, prompt=TOKENS, dtype="fp16", fused=False)
    graph = load_workload(MODEL, options).phases[0].graph
    points = []
    for operator in graph.operators:
        if not operator.name.startswith(("layers.0.", "lm_head")) or operator.kind == "view":
            continue
        cost = model.cost(operator, node, memory)
        moved = operator.read_bytes + operator.write_bytes
        points.append(
            LayerPoint(
                phase,
                operator.name.removeprefix("layers.0."),
                operator.flops,
                moved,
                operator.flops / moved,
                operator.flops / cost.seconds if cost.seconds else 0.0,
                cost.bound_by,
            )
        )
    return points


def _claims() -> list[tuple[Claim, str, str]]:
    """Every claim, with the phase and the attribute of the q projection that answers it."""
    rows: list[tuple[str, str, str, float | str, str]] = [
        ("prefill", "operations", "operations", 68.7e9, "FLOP"),
        ("prefill", "bytes", "bytes moved", 67.1e6, "B"),
        ("prefill", "intensity", "arithmetic intensity", 1024.0, "FLOP/B"),
        ("prefill", "rate", "performance at the roof", 154.8e12, "FLOP/s"),
        ("prefill", "bound", "bound", "compute", ""),
        ("decode", "operations", "operations", 33.6e6, "FLOP"),
        ("decode", "bytes", "bytes moved", 33.6e6, "B"),
        ("decode", "intensity", "arithmetic intensity", 1.0, "FLOP/B"),
        ("decode", "rate", "performance at the roof", 768e9, "FLOP/s"),
        ("decode", "bound", "bound", "memory", ""),
    ]
    return [
        (
            Claim(
                f"{phase}-{key}",
                f"q projection, {phase}: {words}",
                value,
                unit,
                _TABLE,
                "derived",
                "counting",
            ),
            phase,
            key,
        )
        for phase, key, words, value, unit in rows
    ]


def _run() -> Outcome:
    points = {phase: layer_points(phase) for phase in ("prefill", "decode")}
    method = (
        "Counted from the model's configuration: 2mnk operations, and each matrix moved once. "
        "The rate is operations over the time of the roofline without losses on the shipped A6000."
    )
    differences = (
        "The published counts follow the same formula, so that agreement shows equal counting, not accuracy "
        "on a real board. LLM-Viewer halves nothing for the causal mask, and neither does this unfused form; "
        "its fused decode attention charges the KV cache once per query head, Offchip once per KV head "
        "(equal for this model). Another published roofline of Llama-7B takes 181 TFLOP/s for this board "
        "instead of 154.8; the two must not be mixed."
    )
    results: list[ClaimResult] = []
    for claim, phase, key in _claims():
        point = next(p for p in points[phase] if p.name == "attention.q")
        results.append(compare(claim, getattr(point, key), method, differences))
    system = load_system(HARDWARE)
    node = system.workers()[0]
    memory = system.memories[node.memory or node.name]
    sheet = "Read from the shipped A6000, whose figures come from NVIDIA's data sheet, as the paper's do."
    assert node.compute is not None
    for identity, statement, published, ours, unit in (
        ("bandwidth", "A6000 memory bandwidth", 768e9, memory.read_bandwidth, "B/s"),
        ("fp16", "A6000 FP16 rate", 154.8e12, peak_rate(node.compute, "matmul", "fp16"), "FLOP/s"),
    ):
        claim = Claim(identity, statement, published, unit, _SHEET, "published", "construction")
        results.append(compare(claim, ours, sheet))
    tables = [_table(phase, points[phase]) for phase in points]
    ridge = peak_rate(node.compute, "matmul", "fp16") / memory.read_bandwidth
    caption = (
        f"Operators of a Llama-2-7B layer under the A6000's roofline; the ridge is at {ridge:.0f} FLOP/B. "
        "Softmax, norms, rotary and pointwise work run on vector units, under the lower roof."
    )
    everything = [*points["prefill"], *points["decode"]]
    rates = {
        f"FP16 {unit} units": peak_rate(node.compute, kind, "fp16")
        for unit, kind in (("matrix", "matmul"), ("vector", "norm"))
    }
    figure = Figure("roofline", caption, lambda path: _draw(path, everything, memory.read_bandwidth, rates))
    return Outcome(results, tables, [figure])


def _table(phase: str, points: list[LayerPoint]) -> StudyTable:
    return StudyTable(
        f"Layers in {phase}, {TOKENS} tokens, batch 1",
        ("operator", "GFLOP", "MB", "FLOP/B", "TFLOP/s at the roof", "bound"),
        tuple(
            (f"`{p.name}`", p.operations / 1e9, p.bytes / 1e6, p.intensity, p.rate / 1e12, p.bound)
            for p in points
        ),
    )


def _draw(path: Path, points: list[LayerPoint], bandwidth: float, rates: dict[str, float]) -> None:
    groups = {
        phase: [(p.intensity, p.rate, p.name) for p in points if p.phase == phase and p.operations]
        for phase in ("prefill", "decode")
    }
    draw_roofline(path, groups, bandwidth, rates)


STUDY: Final = Study(
    "llm-viewer",
    "LLM-Viewer: the roofline of Llama-2-7B on an A6000",
    "Yuan et al., LLM Inference Unveiled: Survey and Roofline Model Insights, arXiv:2402.16363",
    "Llama-2-7B in FP16 on one RTX A6000, batch 1: prefill of 2048 tokens, and one decode step after 2048 "
    "tokens. Every projection and every step of attention is an operator of its own. Each operator's bytes "
    "are its inputs, weights and outputs moved once; nothing stays in a cache between operators.",
    _run,
)
