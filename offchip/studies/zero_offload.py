"""ZeRO-Offload: the largest model on one V100, and its speed beside a model that fits.

Ren et al., ZeRO-Offload, arXiv:2101.06840.
"""

from __future__ import annotations

from typing import Final

from hw_configs.library import load_system
from mapping.training.estimate import Estimator
from mapping.training.pricing import Prices
from mapping.training.setup import TrainingSetup
from mapping.training.state_tiers import StateTiers, TieredEstimate, tiered
from offchip.studies.study import Claim, ClaimResult, Outcome, Study, StudyTable, compare
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["STUDY", "fastest"]

HARDWARE: Final = "dgx-2"
SEQUENCE: Final = 1024
MODELS: Final = ("opt-1.3b", "opt-2.7b", "opt-6.7b", "opt-13b", "opt-30b")
MICRO_BATCHES: Final = (1, 2, 4, 8, 16, 32)
_PAPER: Final = "ZeRO-Offload, arXiv:2101.06840"


def fastest(model: str, tiers: StateTiers, estimator: Estimator, devices: int = 1) -> TieredEstimate | None:
    """The micro-batch with the most FLOP/s per device that fits; None when not even one sequence does."""
    best: TieredEstimate | None = None
    for micro in MICRO_BATCHES:
        setup = TrainingSetup(
            model, SEQUENCE, micro * devices, micro, dtype="fp16", data=devices, recompute="full",
            zero_stage=2 if devices > 1 else 0,
        )  # fmt: skip
        found = tiered(setup, tiers, estimator)
        if found.estimate.fits and (best is None or found.device_flops_per_s > best.device_flops_per_s):
            best = found
    return best


def _parameters(model: str) -> float:
    graph = load_workload(model, WorkloadOptions(phase="decode", prompt=1)).phases[0].graph
    return float(graph.parameters())


def _run() -> Outcome:
    estimator = Estimator(Prices(load_system(HARDWARE)))
    resident, host = StateTiers(optimizer="device"), StateTiers()
    late = StateTiers(delayed=True)
    alone = {model: fastest(model, resident, estimator) for model in MODELS}
    offloaded = {model: fastest(model, host, estimator) for model in MODELS}
    delayed = {model: fastest(model, late, estimator) for model in MODELS}
    largest = max((model for model in MODELS if offloaded[model]), key=_parameters)
    kept = max((model for model in MODELS if alone[model]), key=_parameters)
    big, small = offloaded["opt-13b"], alone["opt-1.3b"]
    assert big is not None
    assert small is not None
    method = (
        f"OPT models in FP16, {SEQUENCE} tokens, full recomputation, the micro-batch of 1 to 32 with the most "
        "FLOP/s, on one "
        "of the V100 32 GB of a DGX-2; states as ZeRO-Offload divides them."
    )
    rates = (
        "Rates count recomputation, as such reports do. The GPU model's products reach nine tenths of a V100's "
        "peak (its FP16 "
        "rows have none of that chip), where frameworks of 2020 reached a third to a half; the paper's 10 "
        "billion are between "
        "two sizes of OPT."
    )
    results: list[ClaimResult] = [
        compare(Claim("largest", "largest model on one V100, at least", 13e9, "parameters", _PAPER, "published"),
                _parameters(largest), method, "Sizes are those of OPT; the next one, 30 billion, does not fit."),
        compare(Claim("times", "times the largest model that fits without it", 10.0, "x", _PAPER, "published"),
                _parameters(largest) / _parameters(kept), method,
                "The paper's PyTorch holds 1.4 billion parameters; planned memory and full recomputation hold more."),
        compare(Claim("rate", "rate at 10 billion parameters", 40e12, "FLOP/s", _PAPER, "published"),
                big.device_flops_per_s, f"{method} At 13 billion.", rates),
        compare(Claim("alone", "rate of a model of 1.4 billion that fits", 30e12, "FLOP/s", _PAPER, "published"),
                small.device_flops_per_s, f"{method} At 1.3 billion, everything on the device.", rates),
        compare(Claim("ratio", "rate with offload over rate without", 40 / 30, "x", _PAPER, "published"),
                big.device_flops_per_s / small.device_flops_per_s, method, rates),
    ]  # fmt: skip
    many = fastest("opt-13b", host, estimator, 16)
    assert many is not None
    results.append(
        compare(
            Claim("scaling", "rate per device on 16 devices over one", 1.0, "x", _PAPER, "published"),
            many.device_flops_per_s / big.device_flops_per_s, f"{method} ZeRO stage 2 over 16 devices.",
            "The paper calls it near linear up to 128 devices.",
        )
    )  # fmt: skip
    columns = ("model", "on the device", "offloaded", "offloaded, delayed update")
    rows = tuple((model, *(_rate(table[model]) for table in (alone, offloaded, delayed))) for model in MODELS)
    return Outcome(results, [StudyTable("TFLOP/s per device, recomputation included", columns, rows)])


def _rate(found: TieredEstimate | None) -> str | float:
    return "does not fit" if found is None else found.device_flops_per_s / 1e12


STUDY: Final = Study(
    "zero-offload",
    "ZeRO-Offload: training with the optimizer on the host",
    "Ren et al., ZeRO-Offload: Democratizing Billion-Scale Model Training, arXiv:2101.06840, ATC 2021",
    "OPT models on one V100 32 GB of a DGX-2 and on all 16: everything on the device, or gradients and "
    "optimizer state on "
    "the host, whose processors update.",
    _run,
)
