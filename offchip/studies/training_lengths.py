"""A 7B model on 8 A800, trained at growing lengths of sequence in the ways that MEMO compares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hw_configs.problems import InfeasibleError
from mapping.offload.policy import OffloadRequest
from mapping.training.choose_setup import Family, TrainingSettings, choose
from mapping.training.estimate import Estimator
from mapping.training.plan import training_plan
from mapping.training.policies import DEEPSPEED, MEGATRON, MEMO
from mapping.training.setup import TrainingEstimate, TrainingSetup
from mapping.training.token_swap import TokenShare
from offchip.studies.line_figure import draw_lines
from offchip.studies.study import Figure, StudyTable
from simulator.simulate import simulate
from workloads.workload import Phase, Workload

__all__ = [
    "HARDWARE",
    "LENGTHS",
    "K",
    "Length",
    "at_length",
    "length_figures",
    "lengths_table",
    "longest",
    "setup_at_tp8",
    "simulated_mfu",
]  # fmt: skip

MODEL: Final = "memo-7b"
HARDWARE: Final = "a800-node"
K: Final = 1024
LENGTHS: Final = tuple(K * n for n in (64, 128, 192, 256, 384, 512, 768, 1024))
LONGEST: Final = 4 * K * K
STEP: Final = 64 * K
WAYS: Final = {
    "memo": "MEMO",
    "at_tp8": "MEMO at TP 8",
    "megatron": "Megatron-LM-like, full recomputation",
    "deepspeed": "DeepSpeed-like, full recomputation",
    "as_needed": "either, recomputing as needed",
}


@dataclass(frozen=True)
class Length:
    """What a length of sequence gives under each way to train it; None where nothing fits.

    ``at_tp8`` is MEMO in the paper's layout; ``memo`` and the baselines take the fastest layout of their family.
    The baselines recompute every layer, as the paper's do; ``as_needed`` is the faster of the two families when
    they may recompute as little as fits.
    """

    tokens: int
    share: TokenShare
    at_tp8: TrainingEstimate | None
    memo: TrainingEstimate | None
    megatron: TrainingEstimate | None
    deepspeed: TrainingEstimate | None
    as_needed: TrainingEstimate | None


def setup_at_tp8(tokens: int, **more: object) -> TrainingSetup:
    """The paper's layout for 8 GPUs."""
    return TrainingSetup(MODEL, tokens, tensor=8, **more)  # type: ignore[arg-type]


_FREE: Final = TrainingSettings()


def _chosen(
    estimator: Estimator, tokens: int, family: Family, settings: TrainingSettings = _FREE
) -> TrainingEstimate | None:
    request = OffloadRequest(MODEL, estimator.prices.system, "train", tokens, settings=settings)
    try:
        return choose(request, family, estimator).best
    except InfeasibleError:
        return None


def at_length(estimator: Estimator, tokens: int) -> Length:
    """One length under all ways."""
    free = [_chosen(estimator, tokens, family) for family in (MEGATRON.family, DEEPSPEED.family)]
    fitting = [estimate for estimate in free if estimate is not None]
    return Length(
        tokens,
        estimator.token_bounds(setup_at_tp8(tokens))[1],
        _chosen(estimator, tokens, MEMO.family, TrainingSettings(tp=8)),
        _chosen(estimator, tokens, MEMO.family),
        _chosen(estimator, tokens, MEGATRON.family, TrainingSettings(recompute="full")),
        _chosen(estimator, tokens, DEEPSPEED.family, TrainingSettings(recompute="full")),
        min(fitting, key=lambda estimate: estimate.time.step_s, default=None),
    )


def simulated_mfu(estimator: Estimator) -> float:
    """MFU of the plan for a million tokens, run event by event."""
    step = estimator.rank_step(setup_at_tp8(K * K, swap_tokens=1.0))
    plan = training_plan(step, estimator.prices)
    workload = Workload(MODEL, (Phase("train", "train", step.graph, K * K),))
    result = simulate(workload, estimator.prices.system, lambda _graph, _system: plan)
    flops = estimator.of_step(step).model_flops
    return flops / (result.makespan_s * step.setup.devices * estimator.prices.peak("bf16"))


def longest(estimator: Estimator, family: Family, settings: TrainingSettings) -> int | None:
    """The longest sequence, in steps of 64K, for which some setup of a family fits; None when none does."""
    low, high = 0, LONGEST // STEP + 1
    while high - low > 1:
        middle = (low + high) // 2
        if _chosen(estimator, middle * STEP, family, settings) is None:
            high = middle
        else:
            low = middle
    return low * STEP or None


def lengths_table(lengths: list[Length]) -> StudyTable:
    """MFU, alpha and memory at each length."""
    rows: list[tuple[str | float, ...]] = []
    for item in lengths:
        cells: list[str | float] = [f"{item.tokens // K}K"]
        cells += [(item.at_tp8.setup.swap_tokens or 0.0) if item.at_tp8 else "-", item.share.bound_by]
        for estimate in (item.at_tp8, item.memo, item.megatron, item.deepspeed, item.as_needed):
            cells.append("does not fit" if estimate is None else 100 * estimate.mfu)
        cells.append("-" if item.at_tp8 is None else item.at_tp8.memory.device_bytes / 2**30)
        cells.append("-" if item.as_needed is None else item.as_needed.setup.words())
        rows.append(tuple(cells))
    return StudyTable(
        "7B on 8 A800",
        ("tokens", "alpha, TP 8", "bounded by", "MFU %: MEMO at TP 8", "MEMO", "Megatron-LM-like", "DeepSpeed-like",
         "recomputing as needed", "GiB per device, MEMO at TP 8", "the setup that recomputes as needed"),
        tuple(rows),
    )  # fmt: skip


def length_figures(lengths: list[Length]) -> list[Figure]:
    """MFU and alpha against length."""

    def mfu(path: Path) -> None:
        lines = {
            word: [
                (item.tokens / K, 100 * estimate.mfu)
                for item in lengths
                if (estimate := getattr(item, name)) is not None
            ]
            for name, word in WAYS.items()
        }
        draw_lines(path, lines, "tokens per sequence (K)", "MFU (%)", log_x=True)

    def alpha(path: Path) -> None:
        lines = {"alpha": [(item.tokens / K, item.share.alpha) for item in lengths]}
        draw_lines(path, lines, "tokens per sequence (K)", "share of tokens swapped", log_x=True)

    return [
        Figure("mfu", "MFU of the 7B model on 8 A800 against the length of its sequences.", mfu),
        Figure(
            "alpha",
            "The share of tokens swapped: the link bounds it while layers are short, host memory once they are long.",
            alpha,
        ),
    ]
