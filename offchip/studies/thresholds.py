"""Decoding on a CPU with channels below a threshold skipped.

CHESS (He et al., arXiv:2409.01366). Its model file takes sparse inputs at 0.5 for the products of queries, of
attention's output and of the MLP's way up and down; keys, values and the gate stay dense. Skipping is a form of the
graph (:mod:`workloads.active_channels`), priced by the CPU's model.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from hw_configs.library import load_system
from offchip.studies.study import Claim, Outcome, Study, StudyTable, compare
from simulator.cost.model import COST_MODELS, DEFAULT_COST_MODEL
from workloads.active_channels import read_share, with_active_channels
from workloads.graph import Graph, Role
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["STUDY", "decode", "weight_bytes"]

MODEL: Final = "llama-3.1-8b"
SYSTEM, DEVICE = "desktop", "cpu"
PROMPT: Final = 512
KEPT: Final = 0.5
MLP: Final = ("mlp.up", "mlp.down")
ATTENTION: Final = ("attention.q", "attention.out")
_PAPER: Final = "CHESS, arXiv:2409.01366, abstract"


@cache
def decode(batch: int, kept: float, attention: bool = True) -> Graph:
    """One step of decoding, with a share ``kept`` of the channels of the MLP's products and, chosen, attention's."""
    options = WorkloadOptions(phase="decode", batch=batch, prompt=PROMPT, fused=False)
    graph = load_workload(MODEL, options).phases[0].graph
    ends = MLP + (ATTENTION if attention else ())
    return with_active_channels(graph, kept, lambda operator: operator.name.endswith(ends))


def seconds(graph: Graph) -> float:
    """Of one step, operator after operator."""
    system = load_system(SYSTEM)
    node = system.nodes[DEVICE]
    memory = system.memories[node.memory or node.name]
    costs = (COST_MODELS.get(DEFAULT_COST_MODEL).cost(operator, node, memory) for operator in graph.operators)
    return sum(cost.seconds + cost.launch_seconds for cost in costs)


def weight_bytes(graph: Graph) -> int:
    """Bytes of weights that the products of a step read."""
    return sum(
        read
        for operator in graph.operators
        if operator.kind == "matmul"
        for name, read in zip(operator.inputs, operator.reads, strict=False)
        if graph.tensors[name].role is Role.WEIGHT
    )


def _run() -> Outcome:
    dense = seconds(decode(1, 1.0))
    method = f"One sequence of {MODEL} in 16 bits after {PROMPT} tokens, {DEVICE} of {SYSTEM}; half of the channels."
    claim = Claim(
        "speed", "faster than the dense model, at most", 1.27, "x", _PAPER, "published", "mechanism"
    )
    result = compare(
        claim, dense / seconds(decode(1, KEPT)), method,
        "The abstract names no machine, and no number of channels: half is what the authors' model file keeps. Finding "
        "the channels costs nothing in ours.",
    )  # fmt: skip
    rows = tuple(
        (
            kept,
            *(
                figure
                for attention in (False, True)
                for figure in (
                    weight_bytes(decode(1, kept, attention)) / 1e9,
                    dense / seconds(decode(1, kept, attention)),
                )
            ),
        )
        for kept in (1.0, 0.75, 0.5, 0.25)
    )
    swept = StudyTable(
        "Share of the channels that stay, one sequence",
        ("kept", "MLP: weights read, GB", "speed, x", "and attention: weights read, GB", "speed, x"), rows,
    )  # fmt: skip
    together = StudyTable(
        "Sequences at once, half of the channels of each", ("sequences", "share of channels read", "speed, x"),
        tuple(
            (batch, read_share(KEPT, batch), seconds(decode(batch, 1.0)) / seconds(decode(batch, KEPT)))
            for batch in (1, 2, 4, 8)
        ),
    )  # fmt: skip
    return Outcome([result], [swept, together])


STUDY: Final = Study(
    "chess",
    "CHESS: channels below a threshold skipped",
    "He et al., CHESS: Optimizing LLM Inference via Channel-Wise Thresholding and Selective Sparsification, "
    "arXiv:2409.01366",
    "Decoding on a desktop's CPU with a share of the channels read, for one sequence and for several at once.",
    _run,
)
