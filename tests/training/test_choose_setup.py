"""The chooser against pricing everything, and what it says of what does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hw_configs.library import load_system
from hw_configs.problems import InfeasibleError, InputError
from hw_configs.system import System
from mapping.offload.policy import OffloadRequest
from mapping.training.choose_setup import Family, TrainingSettings, choose
from mapping.training.estimate import Estimator
from mapping.training.policies import DEEPSPEED, EVERYTHING, MEGATRON, MEMO
from mapping.training.pricing import Prices
from mapping.training.setup import TrainingSetup
from mapping.training.training_plan import execute
from tests.training.small_models import gpt_config


@pytest.fixture(scope="module")
def system() -> System:
    return load_system("a800-node")


@pytest.fixture(scope="module")
def estimator(system: System) -> Estimator:
    return Estimator(Prices(system))


def request_for(model: str, system: System, tokens: int, **settings: object) -> OffloadRequest:
    return OffloadRequest(model, system, "train", tokens, 1, settings=TrainingSettings(**settings))


def test_nothing_priced_one_by_one_is_faster(tmp_path: Path, system: System, estimator: Estimator) -> None:
    model = gpt_config(tmp_path, layers=4, hidden=1024)
    choice = choose(request_for(model, system, 2**17, devices=4), Family(), estimator)
    times = []
    for tensor, ulysses, context, pipeline in (
        (t, u, c, 4 // (t * u * c))
        for t in (1, 2, 4)
        for u in (1, 2, 4)
        for c in (1, 2, 4)
        if 4 % (t * u * c) == 0
    ):
        shards = ulysses * context
        for stage in (1, 2, 3) if shards > 1 else (0,):
            base = TrainingSetup(
                model, 2**17, tensor=tensor, ulysses=ulysses, context=context, pipeline=pipeline, zero_stage=stage
            )  # fmt: skip
            for setup in (
                base, replace(base, recompute="pointwise"), replace(base, recompute="full"),
                replace(base, swap_tokens=1.0),
            ):  # fmt: skip
                estimate = estimator.estimate(setup)
                if estimate.fits:
                    times.append(estimate.time.step_s)
    assert choice.best.time.step_s == pytest.approx(min(times), rel=1e-9)


def test_short_sequences_keep_everything_and_long_ones_swap(system: System) -> None:
    short = MEMO.solve(request_for("memo-7b", system, 2**14, tp=8)).report
    long = EVERYTHING.solve(request_for("memo-7b", system, 2**19, tp=8, ulysses=1, cp=1)).report
    kept = EVERYTHING.solve(request_for("memo-7b", system, 2**14, tp=8)).report
    assert kept["setup"]["swap_tokens"] is None
    assert kept["setup"]["recompute"] == "none"
    assert long["setup"]["swap_tokens"] == 1.0
    assert short["setup"]["swap_tokens"] < 1.0, "the link cannot keep up with short layers"
    for report in (short, long, kept):
        assert report["fits"]
        assert report["memory"]["device_bytes"] <= system.memories["gpu0"].usable_bytes


def test_as_few_layers_as_fit_are_recomputed(system: System, estimator: Estimator) -> None:
    settings = {"tp": 8, "ulysses": 1, "cp": 1}
    choice = choose(request_for("memo-7b", system, 2**17, **settings), Family(ways=("full",)), estimator)
    layers = choice.best.setup.recompute_layers
    assert layers is not None
    assert 0 < layers < 32
    fewer = replace(choice.best.setup, recompute_layers=layers - 1)
    assert not estimator.estimate(fewer).fits


def test_the_baselines_use_what_their_frameworks_have(system: System) -> None:
    megatron = MEGATRON.solve(request_for("memo-7b", system, 2**17)).report["setup"]
    deepspeed = DEEPSPEED.solve(request_for("memo-7b", system, 2**17)).report["setup"]
    assert megatron["ulysses"] == 1
    assert megatron["allocator"] == deepspeed["allocator"] == "caching"
    assert (deepspeed["tensor"], deepspeed["context"], deepspeed["zero_stage"]) == (1, 1, 3)
    assert megatron["swap_tokens"] is None
    assert deepspeed["swap_tokens"] is None


def test_what_does_not_fit_says_by_how_much(system: System) -> None:
    with pytest.raises(InfeasibleError, match=r"short by .* of 79 GiB"):
        EVERYTHING.solve(request_for("memo-65b", system, 2**20, tp=8, recompute="none"))
    with pytest.raises(InputError, match="multiply"):
        EVERYTHING.solve(request_for("memo-7b", system, 2**14, tp=3))
    with pytest.raises(InputError, match="no ulysses"):
        MEGATRON.solve(request_for("memo-7b", system, 2**14, ulysses=2))
    with pytest.raises(InputError, match="share"):
        MEMO.solve(request_for("memo-7b", system, 2**14, alpha="2"))


def test_the_same_request_gives_the_same_report(system: System) -> None:
    request = request_for("memo-7b", system, 2**16, tp=8)
    first, second = (json.dumps(MEMO.solve(request).report, sort_keys=True) for _ in range(2))
    assert first == second


def test_one_device_without_host_memory() -> None:
    alone = load_system("a100-80gb")
    request = request_for("gpt2", alone, 512)
    assert DEEPSPEED.solve(request).report["setup"]["zero_stage"] == 0
    report = EVERYTHING.solve(request).report
    assert report["setup"]["swap_tokens"] is None
    assert "swap" not in report["alternatives"]
    with pytest.raises(InputError, match="no host memory"):
        MEMO.solve(request)


def test_the_plan_that_is_chosen_is_the_plan_that_runs(
    tmp_path: Path, system: System, estimator: Estimator
) -> None:
    model = gpt_config(tmp_path, layers=3, hidden=1024)
    answer = EVERYTHING.solve(request_for(model, system, 2**15, devices=4))
    assert answer.training is not None
    assert answer.training.setup.to_json() == answer.report["setup"]
    step = execute(answer.training, estimator)
    assert step.step_s == pytest.approx(answer.report["time"]["step_s"], rel=0.1)
    alone = EVERYTHING.solve(request_for(model, system, 2**13, devices=2, tp=2))
    assert alone.plan is not None, "with one degree there are addresses too"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": "9+x"}, r"--set stages: found '9\+x'"), ({"order": "tp,dp"}, "--set order: found 'tp,dp'"),
        ({"tp": 1, "dp": 2, "devices": 2, "ep": 3}, "expert: found 3; expected a divisor of the 2 ranks"),
        ({"tp": 1, "cp": 4, "devices": 4, "shard": 3}, "shard_ranks: found 3; expected a divisor of the 4 ranks"),
        ({"pp": 2, "devices": 2, "schedule": "1f1c"}, "'1f1c'.*did you mean '1f1b'"),
        ({"pp": 2, "devices": 2, "stages": "1+1"}, "found 1.1 layers; expected 2 stages that share the 3 layers"),
    ],
)  # fmt: skip
def test_what_does_not_divide_is_one_line(
    tmp_path: Path, system: System, settings: dict[str, object], message: str
) -> None:
    model = gpt_config(tmp_path, layers=3, hidden=1024)
    request = replace(request_for(model, system, 2**13, **settings), batch=2)
    with pytest.raises(InputError, match=message) as caught:
        EVERYTHING.solve(request)
    assert len(str(caught.value).splitlines()) == 1
