"""Training plans as files: they give the same step again, and what is wrong in one is told by line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hw_configs.library import load_system
from hw_configs.problems import InputError
from mapping.training.estimate import Estimator
from mapping.training.pricing import Prices
from mapping.training.setup import TrainingSetup
from mapping.training.sharding import Sharding
from mapping.training.state_types import framework_types, with_fields
from mapping.training.training_plan import (
    TrainingPlan,
    execute,
    is_training_plan,
    plan_of,
    read_training_plan,
    write_training_plan,
)
from offchip.solving.training_step import simulate_training_plan, step_trace
from simulator.training.program import TaskKind
from tests.training.small_models import gpt_config
from workloads.trained_parts import AdapterRule


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    return Estimator(Prices(load_system("a800-node")))


@pytest.fixture
def plan(tmp_path: Path, estimator: Estimator) -> TrainingPlan:
    setup = TrainingSetup(
        gpt_config(tmp_path), 2048, 8, tensor=2, pipeline=2, data=2, zero_stage=3, schedule="zb-h1",
        sharding=Sharding(prefetch=2), layout=("data", "tensor", "ulysses", "context", "pipeline"),
        stage_layers=(3, 1), swap_tokens=0.25,
    )  # fmt: skip
    return plan_of(estimator.rank_step(setup, bounded=False), estimator)


def test_a_plan_says_its_types_and_what_is_trained(tmp_path: Path, estimator: Estimator) -> None:
    rules = tmp_path / "parts.yaml"
    rules.write_text(
        "trainable:\n  '*attention.qkv.weight': {method: columns, rank: 16}\n"
        "adapters: {rank: 4}\nbase: nf4\ndouble: true\n"
    )
    types = with_fields(framework_types("megatron"), {"loss": "cut", "moments": "int8"})
    setup = TrainingSetup(gpt_config(tmp_path), 2048, 8, data=8, trainable=str(rules), types=types)
    plan = plan_of(estimator.rank_step(setup, bounded=False), estimator)
    path = tmp_path / "plan.json"
    write_training_plan(plan, path)
    before = execute(plan, estimator).to_json()
    rules.write_text("trainable: '*'\n")
    read = read_training_plan(path)
    assert read.setup.state_types == types
    assert read.setup.trained.adapters == AdapterRule(rank=4)
    assert execute(read, estimator).to_json()["step_s"] == before["step_s"]
    text = path.read_text()
    for wrong, says in (('"cut"', '"cutt"'), ('"nf4"', '"nf5"')):
        path.write_text(text.replace(wrong, says))
        with pytest.raises(InputError):
            read_training_plan(path)


def test_a_plan_is_read_as_it_was_written(tmp_path: Path, plan: TrainingPlan, estimator: Estimator) -> None:
    path = tmp_path / "plan.json"
    write_training_plan(plan, path)
    assert is_training_plan(path)
    read = read_training_plan(path)
    assert read == plan
    assert execute(read, estimator).to_json() == execute(plan, estimator).to_json()
    found = simulate_training_plan(plan.setup.model, "a800-node", path)
    assert found.step.step_s == execute(plan, estimator).step_s
    assert found.step.notes == ()
    assert "Executed" in str(found)
    other = simulate_training_plan(plan.setup.model, "dgx-h100", path)
    assert any("which is not this machine" in note for note in other.step.notes)
    assert other.step.step_s < found.step.step_s


def test_parts_add_up_and_the_trace_has_every_task(plan: TrainingPlan, estimator: Estimator) -> None:
    step = execute(plan, estimator)
    assert sum(step.seconds().values()) == pytest.approx(step.step_s, rel=1e-9)
    assert step.mfu == pytest.approx(step.model_flops / step.step_s / step.peak_flops)
    events = list(step_trace(step.run))
    tasks = [event for event in events if event["ph"] == "X"]
    assert len(tasks) == len(step.run.program)
    assert {event["cat"] for event in tasks} <= {kind.name.lower() for kind in TaskKind}
    assert max(event["ts"] + event["dur"] for event in tasks) == pytest.approx(step.step_s * 1e6)
    assert max(e["args"]["bytes"] for e in events if e["ph"] == "C") <= step.peak_bytes


def test_an_edited_order_is_what_runs(plan: TrainingPlan, estimator: Estimator) -> None:
    """All forwards first: the same work, with more alive at once."""
    orders = tuple(
        tuple(sorted(order, key=lambda action: action.kind != "F")) for order in plan.schedule.orders
    )
    edited = replace(plan, schedule=replace(plan.schedule, orders=orders, name="mine"))
    before, after = (execute(which, estimator) for which in (plan, edited))
    assert after.peak_bytes > before.peak_bytes
    assert after.links == before.links


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        here: Any = data
        for part in path[:-1]:
            here = here[part]
        here[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("format", value="offchip-training-plan-2"), r"plan.json:2: format: found 'offchip-training-plan-2'"),
        (put("formt", value=1), r"formt: unknown key 'formt'.*did you mean 'format'"),
        (put("setup", "tensr", value=1), r"plan.json:\d+: setup.tensr: unknown key 'tensr'.*did you mean 'tensor'"),
        (put("setup", "tensor", value="2"), r"plan.json:\d+: setup.tensor: found '2' \(str\); expected int"),
        (put("setup", "tensor", value=0), r"plan.json:\d+: setup.tensor: found 0; expected 1 or more"),
        (put("setup", "sharding", value=3), r"setup.sharding: found 3; expected a table"),
        (put("setup", "sharding", "prefetch", value=True), r"setup.sharding.prefetch: found True"),
        (put("setup", "layout", value=["tensor"]), r"setup.layout: found tensor; expected tensor, ulysses"),
        (put("schedule", "orders", 0, value="0F0 0X0"), r"plan.json:\d+: schedule.orders.0: found '0X0'"),
        (put("schedule", "orders", 1, value="1F0 1B0"), r"plan.json:\d+: schedule.orders: "),
        (put("schedule", "orders", value=[]), r"schedule.orders: "),
        (put("schedule", "rank_of_stage", value=[0, 7]), r"stage 1 lies on rank 7"),
        (put("schedule", "micro_batches", value=-1), r"schedule.micro_batches: found -1; expected a whole number"),
        (put("stage_layers", value="all"), r"stage_layers: found 'all'"),
        (put("setup", "batch", value=16), r"schedule: found 2 ranks and 4 micro-batches; the setup has 2 and 8"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_line(
    tmp_path: Path, plan: TrainingPlan, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    data = json.loads(json.dumps(plan.to_json()))
    change(data)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(data, indent=1))
    with pytest.raises(InputError, match=message):
        read_training_plan(path)


def test_orders_that_wait_for_each_other_are_refused(tmp_path: Path, plan: TrainingPlan) -> None:
    data = json.loads(json.dumps(plan.to_json()))
    data["schedule"]["orders"][0] = " ".join(reversed(data["schedule"]["orders"][0].split()))
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"schedule\.orders"):
        read_training_plan(path)


def test_another_model_is_refused(tmp_path: Path, plan: TrainingPlan) -> None:
    path = tmp_path / "plan.json"
    write_training_plan(plan, path)
    with pytest.raises(InputError, match=r"setup\.model: found 'gpt2'; the plan is for"):
        simulate_training_plan("gpt2", "a800-node", path)
