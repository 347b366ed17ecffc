"""ZeRO-Offload: the largest model on one V100 and on sixteen, and its speed beside a model that fits.

Ren et al., ZeRO-Offload, arXiv:2101.06840. Sizes between those of OPT are had by changing the number of layers of a
shipped OPT model: the largest one is found to a layer.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from hw_configs.library import load_system
from mapping.training.estimate import Estimator
from mapping.training.pricing import Prices
from mapping.training.setup import TrainingSetup
from mapping.training.state_tiers import StateTiers, TieredEstimate, tiered
from mapping.training.training_plan import execute, plan_of
from offchip.studies.study import Claim, ClaimResult, Outcome, Study, StudyTable, compare
from workloads import models
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["STUDY", "fastest", "largest"]

HARDWARE: Final = "dgx-2"
DEVICES: Final = 16
SEQUENCE: Final = 1024
MODELS: Final = ("opt-1.3b", "opt-2.7b", "opt-6.7b", "opt-13b", "opt-30b")
MICRO_BATCHES: Final = (1, 2, 4, 8, 16, 32)
MOST_LAYERS: Final = 1024
EXECUTED_MICRO_BATCH: Final = 8
"""Sequences per device of the steps that are executed: the most of a power of two that fits."""
_PAPER: Final = "ZeRO-Offload, arXiv:2101.06840, abstract"
RESIDENT: Final = StateTiers(optimizer="device")
HOST: Final = StateTiers()


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


def largest(shape: str, tiers: StateTiers, estimator: Estimator, folder: Path, tensor: int = 1) -> float:
    """Parameters of the deepest model of a shipped model's width that trains with one sequence, found by halving.

    ``folder`` is where the models of other depths are written.
    """

    def fits(layers: int) -> bool:
        setup = TrainingSetup(
            _with_layers(shape, layers, folder), SEQUENCE, 1, 1, dtype="fp16", tensor=tensor, recompute="full"
        )
        return tiered(setup, tiers, estimator).estimate.fits

    return _parameters(_with_layers(shape, _last(fits), folder))


def _last(holds: Callable[[int], bool]) -> int:
    """The largest number from 1 for which it holds; it holds for all below."""
    low, high = 1, 2
    while high <= MOST_LAYERS and holds(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _with_layers(shape: str, layers: int, folder: Path) -> str:
    """The path of a shipped model's config with another number of layers."""
    config: dict[str, Any] = json.loads((Path(models.__file__).parent / f"{shape}.json").read_text("utf-8"))
    path = folder / f"{shape}-{layers}.json"
    path.write_text(json.dumps({**config, "num_hidden_layers": layers}), encoding="utf-8")
    return str(path)


def _parameters(model: str) -> float:
    graph = load_workload(model, WorkloadOptions(phase="decode", prompt=1)).phases[0].graph
    return float(graph.parameters())


def _sizes(estimator: Estimator) -> list[ClaimResult]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone, offloaded = (
            max(largest(shape, tiers, estimator, folder) for shape in shapes)
            for tiers, shapes in ((RESIDENT, ("opt-1.3b", "opt-2.7b")), (HOST, ("opt-13b", "opt-30b")))
        )
        parted, both = (
            largest("opt-175b", tiers, estimator, folder, tensor=DEVICES) for tiers in (RESIDENT, HOST)
        )
    method = (
        "The deepest model of OPT's widths in FP16 that trains with one sequence of 1024 tokens and full "
        "recomputation, found to a layer; states as ZeRO-Offload divides them."
    )
    bound = (
        "The paper says 'more than', for the sizes it tried; a planned memory without fragments holds more."
    )
    claims = (
        ("largest", "largest model on one V100, more than", 13e9, "parameters", offloaded,
         f"{method} Widths of OPT-13B and OPT-30B.", bound),
        ("times", "times the largest model that fits without it", 10.0, "x", offloaded / alone,
         f"{method} Without it: everything on the device, {alone / 1e9:.2f} billion, widths of OPT-1.3B and OPT-2.7B.",
         "The paper's PyTorch holds 1.4 billion parameters; planned memory and full recomputation hold more."),
        ("node", "largest model on one DGX-2 with model parallelism, more than", 70e9, "parameters", both,
         f"{method} Tensor parallelism over {DEVICES} devices, the width of OPT-175B.", bound),
        ("node-times", "times the largest model that model parallelism alone holds", 4.5, "x", both / parted,
         f"{method} Tensor parallelism over {DEVICES} devices with and without the host, the width of OPT-175B.",
         "Which degree of model parallelism the paper's baseline had is not in the abstract."),
    )  # fmt: skip
    return [
        compare(Claim(key, words, value, unit, _PAPER, "published", "mechanism"), ours, how, differences)
        for key, words, value, unit, ours, how, differences in claims
    ]


def _rates(
    alone: dict[str, TieredEstimate | None],
    offloaded: dict[str, TieredEstimate | None],
    executed: dict[int, float],
) -> list[ClaimResult]:
    big, small = offloaded["opt-13b"], alone["opt-1.3b"]
    assert big is not None
    assert small is not None
    method = (
        f"OPT models in FP16, {SEQUENCE} tokens, full recomputation, the micro-batch of 1 to 32 with the most FLOP/s, "
        "on one of the V100 32 GB of a DGX-2; states as ZeRO-Offload divides them."
    )
    rates = (
        "Rates count recomputation, as such reports do. The GPU model's products reach nine tenths of a V100's peak "
        "(its FP16 rows have none of that chip), where frameworks of 2020 reached a third to a half; the paper's 10 "
        "billion are between two sizes of OPT."
    )
    executing = (
        f"The step executed event by event: OPT-13B, {EXECUTED_MICRO_BATCH} sequences of {SEQUENCE} tokens per "
        "device and "
        "step, full recomputation, gradients and updated weights over the links as they are made, update not delayed."
    )
    shared = (
        "More devices share the optimizer's state and the update, and a machine has two processors for 16 devices "
        "in any "
        "case, so a device's rate rises; the paper's baseline of one device is not in the abstract."
    )
    claims = (
        ("rate", "rate at 10 billion parameters", 40e12, "FLOP/s", big.device_flops_per_s,
         f"{method} At 13 billion.", rates),
        ("alone", "rate of a model of 1.4 billion that fits", 30e12, "FLOP/s", small.device_flops_per_s,
         f"{method} At 1.3 billion, everything on the device.", rates),
        ("ratio", "rate with offload over rate without", 40 / 30, "x",
         big.device_flops_per_s / small.device_flops_per_s, method, rates),
        ("scaling", "rate per device on 16 devices over one (near linear: 1)", 1.0, "x",
         executed[16] / executed[1], f"{executing} ZeRO stage 2 over 16 devices.", shared),
        ("scaling-128", "rate per device on 128 devices over one (near linear: 1)", 1.0, "x",
         executed[128] / executed[1],
         f"{executing} 128 devices are eight DGX-2 on their InfiniBand ports.", shared),
    )  # fmt: skip
    return [
        compare(Claim(key, words, value, unit, _PAPER, "published", "mechanism"), ours, how, differences)
        for key, words, value, unit, ours, how, differences in claims
    ]


def _executed(devices: int) -> float:
    """FLOP/s of one of so many devices in the executed step, recomputation counted."""
    machines = max(devices // DEVICES, 1)
    estimator = Estimator(Prices(load_system(HARDWARE if machines == 1 else f"{HARDWARE}*{machines}")))
    setup = TrainingSetup(
        "opt-13b", SEQUENCE, EXECUTED_MICRO_BATCH * devices, EXECUTED_MICRO_BATCH, dtype="fp16", data=devices,
        recompute="full", zero_stage=2, states="host",
    )  # fmt: skip
    step = execute(plan_of(estimator.rank_step(setup), estimator), estimator)
    assert step.peak_bytes <= step.usable_bytes
    return step.model_flops * 4 / 3 / devices / step.step_s


def _run() -> Outcome:
    estimator = Estimator(Prices(load_system(HARDWARE)))
    alone = {model: fastest(model, RESIDENT, estimator) for model in MODELS}
    offloaded = {model: fastest(model, HOST, estimator) for model in MODELS}
    delayed = {model: fastest(model, StateTiers(delayed=True), estimator) for model in MODELS}
    executed = {devices: _executed(devices) for devices in (1, DEVICES, 128)}
    results = [*_sizes(estimator), *_rates(alone, offloaded, executed)]
    columns = ("model", "on the device", "offloaded", "offloaded, delayed update")
    rows = tuple((model, *(_rate(table[model]) for table in (alone, offloaded, delayed))) for model in MODELS)
    return Outcome(results, [StudyTable("TFLOP/s per device, recomputation included", columns, rows)])


def _rate(found: TieredEstimate | None) -> str | float:
    return "does not fit" if found is None else found.device_flops_per_s / 1e12


STUDY: Final = Study(
    "zero-offload",
    "ZeRO-Offload: training with the optimizer on the host",
    "Ren et al., ZeRO-Offload: Democratizing Billion-Scale Model Training, arXiv:2101.06840, ATC 2021",
    "OPT models, and OPT models of other depths, on one V100 32 GB of a DGX-2 and on all 16: everything on the device, "
    "or gradients and optimizer state on the host, whose processors update.",
    _run,
)
