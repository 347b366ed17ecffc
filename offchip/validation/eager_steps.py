"""One forward pass or training step of eager PyTorch in FP32 on one GPU, operator by operator.

What frameworks do without a serving engine: unfused operators one after another, logits for every token, no optimizer
in the step that is timed (NeuSight's labels, ASPLOS 2025). The host is not in it: at these sizes the device is late.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final

from offchip.validation.reference_gpu import shipped_gpu
from workloads.graph import Operator

__all__ = ["KINDS", "MODELS", "predict_step"]

KINDS: Final = ("inference (one forward, fp32)", "training step (fwd+bwd, fp32)")
"""The kinds of rows that this module answers."""
MODELS: Final = {
    "bert_large": "bert-large-uncased",
    "gpt2_large": "gpt2-large",
    "opt_13": "opt-1.3b",
    "gpt3_27": "opt-2.7b",
}
"""Built-in models by the source's names; GPT-3 2.7B has the shape of OPT-2.7B. ``gpt3_xl`` is left out: its times are
those of a model twice the size of GPT-3 XL, and the source does not give its shape."""


def predict_step(row: Mapping[str, str], batch: int, tokens: int) -> tuple[float | None, str]:
    """Seconds of a row's pass or step, and what was run; None with the reason when it cannot be run."""
    if row["n_devices"] != "1" or row["framework"] != "PyTorch 2.1":
        return None, f"no scenario for {row['framework']!r} on {row['n_devices']} devices"
    gpu, model = shipped_gpu(row["hardware"]), MODELS.get(row["model"].lower())
    if gpu is None:
        return None, f"no device file for {row['hardware']!r}"
    if model is None:
        return None, f"no built-in model for {row['model']!r}"
    forward, backward = _seconds(model, gpu.name, batch, tokens)
    training = row["kind"] == KINDS[1]
    return forward + backward * training, f"{model} on {gpu.name}, eager FP32, unfused"


@cache
def _seconds(model: str, board: str, batch: int, tokens: int) -> tuple[float, float]:
    """Forward and backward seconds, without the optimizer."""
    from offchip.api import load_model, load_system
    from simulator.cost.model import COST_MODELS

    system = load_system(board)
    node = system.workers()[0]
    memory = system.memories[node.memory or node.name]
    cost = COST_MODELS.get("by-device-eager")
    workload = load_model(model, phase="train", batch=batch, prompt=tokens, dtype="fp32", fused=False)
    forward = backward = 0.0
    for operator in workload.phases[0].graph.operators:
        if operator.kind in ("optimizer", "view"):
            continue
        found = cost.cost(operator, node, memory)
        if _is_backward(operator):
            backward += found.seconds + found.launch_seconds
        else:
            forward += found.seconds + found.launch_seconds
    return forward, backward


def _is_backward(operator: Operator) -> bool:
    return ".backward" in operator.name or operator.name.endswith(".grad_sum")
