"""Plans of training steps: they hold, run on three streams, and take the time and the bytes that were estimated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hw_configs.library import load_system
from hw_configs.problems import InputError
from hw_configs.system import System
from mapping.training.estimate import Estimator, RankStep
from mapping.training.plan import executable, lay_out, training_plan, without_addresses
from mapping.training.pricing import Prices
from mapping.training.setup import TrainingSetup
from simulator.check import check
from simulator.plan import Plan
from simulator.result import Result
from simulator.rewrite.apply import rewrite
from simulator.simulate import simulate
from tests.training.small_models import gpt_config
from workloads.workload import Phase, Workload


@pytest.fixture(scope="module")
def system() -> System:
    return load_system("a800-node")


@pytest.fixture(scope="module")
def estimator(system: System) -> Estimator:
    return Estimator(Prices(system))


def run(step: RankStep, plan: Plan, system: System) -> Result:
    workload = Workload("step", (Phase("train", "train", step.graph, 1),))
    return simulate(workload, system, lambda _graph, _system: plan)


def swapping(tmp_path: Path, estimator: Estimator, alpha: float, **degrees: int) -> RankStep:
    model = gpt_config(tmp_path, layers=5, hidden=1024)
    setup = TrainingSetup(model, 8192, swap_tokens=alpha, **degrees)  # type: ignore[arg-type]
    return estimator.rank_step(setup, bounded=False)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("tensor", [1, 2])
def test_the_plan_holds_and_takes_what_was_estimated(
    tmp_path: Path, system: System, estimator: Estimator, alpha: float, tensor: int
) -> None:
    step = swapping(tmp_path, estimator, alpha, tensor=tensor)
    plan = training_plan(step, estimator.prices)
    assert check(plan, rewrite(step.graph, plan), system) == []
    result = run(step, plan, system)
    estimate = estimator.of_step(step)
    used = result.memories["gpu0"].peak_bytes
    assert used <= lay_out(step).peak_bytes <= estimate.memory.device_bytes * 1.02 + 2**20
    # Each layer waits by itself in the estimate; in the run a wait can overlap with another layer's slack.
    assert result.makespan_s == pytest.approx(estimate.time.step_s, rel=0.15)
    host = result.memories["host0"].peak_bytes
    assert host <= estimate.memory.host_bytes * tensor * 1.01


def test_three_streams_and_two_buffers(tmp_path: Path, system: System, estimator: Estimator) -> None:
    step = swapping(tmp_path, estimator, 1.0)
    plan = training_plan(step, estimator.prices)
    assert {task.stream for task in plan.tasks} == {"gpu0.compute", "gpu0.to_host", "gpu0.from_host"}
    stored = [task for task in plan.tasks if task.stream == "gpu0.to_host"]
    fetched = [task for task in plan.tasks if task.stream == "gpu0.from_host"]
    assert len(stored) == len(fetched) > 0
    layers = {task.tensor.split(".")[1] for task in stored}
    assert layers == {"0", "1", "2"}, "the last two of five layers stay"
    assert [t.tensor.split(".")[1] for t in fetched] == sorted(
        (t.tensor.split(".")[1] for t in fetched), reverse=True
    )
    layout = lay_out(step)
    for layer, names in step.swapped.items():
        low = layout.states_bytes + (layer % 2) * layout.buffer_bytes
        assert all(low <= layout.address[n] < low + layout.buffer_bytes for n in names)
    # Layer 2 begins when layer 0 has left.
    first = next(task for task in plan.tasks if task.operator == "layers.2.attention_norm@0")
    assert first.after
    assert first.after[0].startswith("store layers.0.")


def test_addresses_cost_no_time(tmp_path: Path, system: System, estimator: Estimator) -> None:
    step = swapping(tmp_path, estimator, 0.5, tensor=2)
    plan = training_plan(step, estimator.prices)
    fixed, free = run(step, plan, system), run(step, without_addresses(plan), system)
    assert fixed.makespan_s == pytest.approx(free.makespan_s, rel=1e-3)


@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("degrees", [{"tensor": 2}, {"ulysses": 2}, {"context": 2}], ids=str)
def test_steps_without_swapping_run_too(
    tmp_path: Path, system: System, estimator: Estimator, recompute: str, degrees: dict[str, int]
) -> None:
    model = gpt_config(tmp_path, layers=3, hidden=1024)
    step = estimator.rank_step(TrainingSetup(model, 8192, recompute=recompute, **degrees))  # type: ignore[arg-type]
    plan = training_plan(step, estimator.prices)
    assert check(plan, rewrite(step.graph, plan), system) == []
    result = run(step, plan, system)
    expected, line = estimator.of_step(step).time.step_s, result.timeline
    # The estimate hides the ring of context parallelism behind attention; the plan's collectives stand in line.
    tasks = zip(line.kind, line.device, line.start, line.end, strict=True)
    exchanged = sum(
        end - start for kind, device, start, end in tasks if (kind, device) == ("collective", "gpu0")
    )
    hidden = exchanged if "context" in degrees else 0.0
    assert expected * 0.9 <= result.makespan_s <= expected * 1.1 + hidden


def test_what_has_no_plan_says_so(tmp_path: Path, estimator: Estimator) -> None:
    model = gpt_config(tmp_path)
    step = estimator.rank_step(TrainingSetup(model, 1024, tensor=2))
    assert executable(step.setup) == ""
    for setup in (
        TrainingSetup(model, 1024, tensor=2, context=2), TrainingSetup(model, 1024, pipeline=2),
        TrainingSetup(model, 1024, context=2, zero_stage=1), TrainingSetup(model, 1024, batch=2),
    ):  # fmt: skip
        other = replace(step, setup=setup)
        assert executable(setup)
        with pytest.raises(InputError, match="no plan"):
            training_plan(other, estimator.prices)


@pytest.mark.parametrize(("sequences", "kept"), [(1, 1), (2, 2), (4, 4), (8, 4)])
def test_the_first_of_four_stages_keeps_what_four_micro_batches_stored(
    tmp_path: Path, system: System, estimator: Estimator, sequences: int, kept: int
) -> None:
    """One forward, one backward: before the first backward pass comes round, a micro-batch per stage is under way."""
    model = gpt_config(tmp_path, layers=8, hidden=1024)

    def estimate(batch: int) -> tuple[RankStep, int]:
        step = estimator.rank_step(TrainingSetup(model, 8192, batch, pipeline=4), bounded=False)
        return step, estimator.of_step(step, exact=False).memory.skeletal

    step, one = estimate(1)
    sequence = estimator.requests(step)
    stored = int(sequence.size[sequence.skeletal].sum())
    assert stored > 100 * 2**20
    assert estimate(sequences)[1] - one == pytest.approx((kept - 1) * stored, rel=1e-4)
