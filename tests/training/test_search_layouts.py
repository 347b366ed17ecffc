"""The search for all degrees against trying everything, and its floors against what was executed."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

import mapping.training.search_layouts as search_module
from hw_configs.library import load_system
from hw_configs.problems import InfeasibleError, InputError, PhysicsError
from hw_configs.system import System
from mapping.deadline import Budget, watching
from mapping.offload.policy import OffloadRequest
from mapping.training.choose_setup import Family, TrainingSettings
from mapping.training.estimate import Estimator
from mapping.training.layer_profile import picked_layers, rank_profile, seconds_of, with_recomputation
from mapping.training.layout_floor import LayoutCost, PassSeconds, Wires, layout_cost, stage_bounds
from mapping.training.policies import EVERYTHING
from mapping.training.pricing import Prices
from mapping.training.rank_layout import first_group, groups_of
from mapping.training.rank_step import stage_of
from mapping.training.search_layouts import SEARCHED_SCHEDULES, search_layouts
from mapping.training.setup import TrainingSetup
from mapping.training.sharding import Sharding
from mapping.training.stage_passes import passes_of
from mapping.training.training_plan import execute, plan_of
from tests.training.small_models import gpt_config


@pytest.fixture(scope="module")
def node() -> System:
    return load_system("a800-node")


@pytest.fixture(scope="module")
def estimator(node: System) -> Estimator:
    return Estimator(Prices(node))


def asked(model: str, system: System, tokens: int, batch: int, **settings: object) -> OffloadRequest:
    settings = {"search": "executed", **settings}
    return OffloadRequest(model, system, "train", tokens, batch, settings=TrainingSettings(**settings))  # type: ignore[arg-type]


def floor_of(setup: TrainingSetup, estimator: Estimator) -> LayoutCost:
    picked = picked_layers(setup.model, setup.dtype)
    assert picked is not None
    wires = Wires(estimator.prices)
    profile = with_recomputation(rank_profile(setup, estimator.prices, picked), estimator.prices)
    return layout_cost(setup, profile, PassSeconds.of(profile, setup, wires), wires)


def test_nothing_that_is_tried_one_by_one_is_faster(
    tmp_path: Path, node: System, estimator: Estimator
) -> None:
    model = gpt_config(tmp_path, layers=4, hidden=1024)
    found = search_layouts(asked(model, node, 2048, 8, devices=4, ulysses=1, cp=1), Family(), estimator)
    usable = estimator.prices.memory.usable_bytes
    times = []
    for tensor, pipeline in product((1, 2, 4), (1, 2, 4)):
        if 4 % (tensor * pipeline):
            continue
        data = 4 // (tensor * pipeline)
        for micro, (schedule, stages), way, zero in product(
            (1, 2, 4, 8), SEARCHED_SCHEDULES, ("none", "pointwise", "full"), (0, 1, 2, 3)
        ):  # fmt: skip
            if (pipeline == 1 and schedule != "1f1b") or (zero > 0) != (data > 1):
                continue
            try:
                setup = TrainingSetup(
                    model, 2048, 8, micro, tensor=tensor, pipeline=pipeline, data=data, zero_stage=zero,
                    schedule=schedule, stages_per_rank=stages, recompute=way,  # type: ignore[arg-type]
                )  # fmt: skip
                ran = execute(plan_of(estimator.rank_step(setup), estimator), estimator)
            except InputError:
                continue
            if ran.peak_bytes <= usable:
                times.append(ran.step_s)
    assert len(times) > 100
    assert found.best.step_s == pytest.approx(min(times), rel=1e-3)
    assert min(times) >= found.floor_s * (1 - 1e-9), "the bound on the others is true"
    assert found.layouts == found.bounded + found.priced
    assert found.complete


def test_who_watches_is_told_true_bounds(tmp_path: Path, node: System, estimator: Estimator) -> None:
    model = gpt_config(tmp_path, layers=4, hidden=1024)
    told: list[tuple[float, float | None]] = []
    with watching(lambda bound, best: told.append((bound, best))), Budget().running():
        found = search_layouts(asked(model, node, 2048, 8, devices=4), Family(), estimator)
    assert told[0][1] is None
    assert told[-1][1] == found.best.step_s
    assert all(bound <= found.best.step_s * (1 + 1e-9) for bound, _ in told)
    bests = [best for _, best in told if best is not None]
    assert bests == sorted(bests, reverse=True)


@pytest.mark.parametrize(
    "degrees",
    [
        {"tensor": 8}, {"data": 8, "zero_stage": 3}, {"pipeline": 4, "tensor": 2},
        {"context": 4, "data": 2, "zero_stage": 1},
        {"ulysses": 2, "pipeline": 2, "data": 2, "zero_stage": 2, "recompute": "pointwise"},
        {"pipeline": 4, "data": 2, "zero_stage": 1, "schedule": "zb-h1", "recompute": "full"},
        {"pipeline": 2, "tensor": 4, "schedule": "interleaved-1f1b", "stages_per_rank": 2},
        {"pipeline": 2, "data": 4, "zero_stage": 3, "schedule": "zbv-zero-bubble", "recompute": "full",
         "recompute_layers": 3},
        {"pipeline": 3, "tensor": 2, "stage_layers": (3, 2, 3)}, {"pipeline": 4, "data": 2, "schedule": "v-half"},
    ],
)  # fmt: skip
def test_no_step_is_faster_than_its_floor(
    tmp_path: Path, estimator: Estimator, degrees: dict[str, object]
) -> None:
    model = gpt_config(tmp_path, layers=8, hidden=2048)
    setup = TrainingSetup(model, 4096, 16, 1, **degrees)  # type: ignore[arg-type]
    cost = floor_of(setup, estimator)
    ran = execute(plan_of(estimator.rank_step(setup), estimator), estimator)
    assert cost.floor_s <= ran.step_s * (1 + 1e-9)
    assert cost.floor_s > 0.6 * ran.step_s
    assert cost.likely_s == pytest.approx(ran.step_s, rel=0.15)
    # Recomputation between the halves of a backward pass is counted as if all layers had it at once.
    assert cost.device_bytes == pytest.approx(ran.peak_bytes, rel=0.2)


def test_a_cut_model_has_the_passes_of_the_whole(tmp_path: Path, estimator: Estimator) -> None:
    setup = TrainingSetup(gpt_config(tmp_path, layers=7, hidden=1024), 2048, 8, 2, tensor=2)
    picked = picked_layers(setup.model, setup.dtype)
    assert picked is not None
    assert len(picked[0]) == 3
    profile = rank_profile(setup, estimator.prices, picked)
    whole = passes_of(estimator.rank_step(setup), estimator.prices, lambda op: 0, 1, halves=True)[0]
    wires = Wires(estimator.prices)

    def exchange(what) -> float:  # type: ignore[no-untyped-def]
        return wires.seconds(setup, what.family, what.kind, what.bytes)

    for kind in "FBIW":
        summed = sum(
            seconds_of(profile.passes["none"][number].pieces[kind], exchange) for number in profile.kind_of
        )
        assert summed == pytest.approx(seconds_of(whole.pieces[kind], exchange), rel=1e-9)
    assert sum(profile.optimizer_s[number] for number in profile.kind_of) == pytest.approx(whole.optimizer_s)


def test_stages_are_cut_as_they_are_run(tmp_path: Path, estimator: Estimator) -> None:
    setup = TrainingSetup(gpt_config(tmp_path, layers=7, hidden=1024), 2048)
    graph = estimator.rank_step(setup).graph
    for stages in (1, 2, 3, 5, 7):
        number = stage_of(graph, stages)
        bounds = stage_bounds(7, stages)
        for op in graph.operators:
            layer = -1 if op.place.layer is None else op.place.layer
            assert bounds[number(op)] <= layer + 1 < bounds[number(op) + 1]


def test_more_devices_never_make_the_best_slower(tmp_path: Path, node: System, estimator: Estimator) -> None:
    model = gpt_config(tmp_path, layers=4, hidden=2048)
    times = [
        search_layouts(asked(model, node, 4096, 32, devices=devices), Family(), estimator).best.step_s
        for devices in (1, 2, 4, 8)
    ]
    assert times == sorted(times, reverse=True)


def test_the_plan_that_is_printed_is_the_plan_that_ran(
    tmp_path: Path, node: System, estimator: Estimator
) -> None:
    model = gpt_config(tmp_path, layers=4, hidden=1024)
    answer = EVERYTHING.solve(asked(model, node, 4096, 16, pp=2))
    assert answer.training is not None
    assert answer.training.setup.to_json() == answer.report["setup"]
    again = execute(answer.training, estimator)
    assert again.step_s == answer.report["executed"]["step_s"]  # type: ignore[index]
    assert any("bounded away" in text for text in answer.why)


def test_what_does_not_fit_is_told(node: System) -> None:
    with pytest.raises(InfeasibleError, match=r"of \d+ layouts; the nearest miss.*short by"):
        EVERYTHING.solve(asked("gpt3-175b", node, 2048, 8, tp=8))


def test_a_floor_above_the_run_is_a_breach(
    tmp_path: Path, node: System, estimator: Estimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = gpt_config(tmp_path, layers=4, hidden=1024)

    def too_high(*given: object, **how: object) -> LayoutCost:
        cost = layout_cost(*given, **how)  # type: ignore[arg-type]
        return replace(cost, floor_s=2 * cost.likely_s, likely_s=2 * cost.likely_s)

    monkeypatch.setattr(search_module, "layout_cost", too_high)
    with pytest.raises(PhysicsError, match="below its floor"):
        search_layouts(asked(model, node, 4096, 8, tp=2, dp=4), Family(), estimator)


def test_the_first_rank_s_groups() -> None:
    setup = TrainingSetup(
        "x", 4096, 64, 1, tensor=2, ulysses=2, context=2, data=4, pipeline=2, expert=2, sharding=Sharding(4),
        layout=("data", "tensor", "context", "pipeline", "ulysses"),
    )  # fmt: skip
    kinds = (
        *setup.layout,
        "shards",
        "expert",
        "expert_shards",
        "within",
        "across",
        "expert_within",
        "expert_across",
    )
    for kind in kinds:
        assert first_group(setup, kind) == next(group for group in groups_of(setup, kind) if group[0] == 0)
