"""Samples that a step loads and checkpoints that it takes: closed forms, the other engine, and what never holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hw_configs.library import load_system
from hw_configs.problems import InputError
from mapping.training.estimate import Estimator
from mapping.training.executed_step import ExecutedStep
from mapping.training.pricing import Prices
from mapping.training.sample_loading import SampleLoading
from mapping.training.setup import TrainingSetup
from mapping.training.step_memory import model_states
from mapping.training.step_program import write_step
from mapping.training.tier_rates import tier_rates
from mapping.training.training_plan import execute, plan_of, read_training_plan, write_training_plan
from offchip import solve_offload
from simulator.training.program import StepProgram
from simulator.training.run import run_program
from tests.training.small_models import gpt_config
from tests.training_step.step_oracle import run_slowly

KB, MB = 1000, 1000_000


@pytest.fixture(scope="module")
def machine() -> Estimator:
    return Estimator(Prices(load_system("dgx-2")))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> TrainingSetup:
    model = gpt_config(tmp_path_factory.mktemp("model"), layers=4, hidden=512)
    return TrainingSetup(model, 512, 8, 2, dtype="fp16")


def program(setup: TrainingSetup, machine: Estimator, *, folded: bool = True) -> StepProgram:
    return write_step(machine.rank_step(setup), machine.prices, folded=folded)


def seconds(setup: TrainingSetup, machine: Estimator) -> float:
    return run_program(program(setup, machine)).makespan_s


def run(setup: TrainingSetup, machine: Estimator) -> ExecutedStep:
    return execute(plan_of(machine.rank_step(setup), machine), machine)


loadings = st.builds(
    SampleLoading, st.integers(0, 400 * MB), st.sampled_from(["host", "nvme"]), st.floats(0, 0.05),
    st.integers(1, 16), st.integers(0, 4),
)  # fmt: skip
layouts = st.sampled_from(
    [
        {}, {"tensor": 2}, {"data": 2, "zero_stage": 3}, {"pipeline": 2}, {"pipeline": 2, "schedule": "dualpipe-v"},
        {"context": 2}, {"ulysses": 2, "zero_stage": 2, "states": "host"}, {"states": "nvme", "zero_stage": 2},
    ]
)  # fmt: skip


@given(
    place=st.sampled_from(["host", "nvme"]),
    workers=st.integers(1, 64),
    ahead=st.integers(0, 5),
    layout=layouts,
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_samples_of_no_bytes_and_no_work_change_nothing(
    machine: Estimator, small: TrainingSetup, place: str, workers: int, ahead: int, layout: dict[str, object]
) -> None:
    setup = replace(small, **layout)
    none = replace(setup, loading=SampleLoading(0, place, 0.0, workers, ahead))
    one, other = program(setup, machine), program(none, machine)
    assert len(one) == len(other)
    assert run_program(one).makespan_s == run_program(other).makespan_s
    assert (one.classes.held == other.classes.held).all()


@given(loading=loadings, layout=layouts, more=st.floats(1, 5))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_slower_loading_never_quickens_a_step_and_more_ahead_never_slows_it(
    machine: Estimator, small: TrainingSetup, loading: SampleLoading, layout: dict[str, object], more: float
) -> None:
    setup = replace(small, **layout)
    plain = seconds(setup, machine)
    now = seconds(replace(setup, loading=loading), machine)
    slower = replace(loading, sample_bytes=round(loading.sample_bytes * more), cpu_s=loading.cpu_s * more)
    assert now >= plain * (1 - 1e-9)
    assert seconds(replace(setup, loading=slower), machine) >= now * (1 - 1e-9)
    assert seconds(replace(setup, loading=replace(loading, ahead=loading.ahead + 1)), machine) <= now * (
        1 + 1e-9
    )
    assert seconds(replace(setup, loading=replace(loading, workers=2 * loading.workers)), machine) <= now * (
        1 + 1e-9
    )


def test_work_that_is_less_than_a_float_can_hold_is_none(machine: Estimator, small: TrainingSetup) -> None:
    least = SampleLoading(0, "host", 5e-324, 2, 0)
    assert seconds(replace(small, loading=least), machine) == seconds(small, machine)


@given(loading=loadings, layout=layouts)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_other_engine_agrees(
    machine: Estimator, small: TrainingSetup, loading: SampleLoading, layout: dict[str, object]
) -> None:
    written = program(replace(small, loading=loading, **layout), machine)
    slow = run_slowly(written)
    fast = run_program(written)
    assert fast.end == pytest.approx(slow.end, rel=1e-9)


@pytest.mark.parametrize("place", ["host", "nvme"])
@pytest.mark.parametrize("ahead", [0, 1, 2, 3])
@pytest.mark.parametrize("factor", [0.05, 0.4, 3.0])
def test_on_one_device_a_step_takes_what_its_slowest_part_does(
    machine: Estimator, small: TrainingSetup, place: str, ahead: int, factor: float
) -> None:
    plain, parts = seconds(small, machine), small.micro_batches
    rates = tier_rates(machine.prices, 1)
    size = round(factor * plain * rates.from_host / small.batch)
    loading = SampleLoading(size, place, factor * plain / 2, 4, ahead)
    found = run_program(program(replace(small, loading=loading), machine))
    tasks, labels = found.program.tasks, found.program.labels
    copies = [n for n, label in enumerate(tasks.label) if labels[label].startswith("copy samples")]
    each = {
        "read": small.micro_batch * size / rates.drive_read if place == "nvme" else 0.0,
        "ready": small.micro_batch * loading.cpu_s / 4,
        "copy": float(tasks.seconds[copies].max()),
    }
    assert each["copy"] == pytest.approx(small.micro_batch * size / rates.from_host, rel=0.02)
    if ahead == 0:
        chain = sum(each.values())
        assert found.makespan_s >= max(plain + chain, parts * max(each.values())) * (1 - 1e-9)
        assert found.makespan_s <= plain + parts * chain
        return
    # What one step's chain of parts takes, a part of it a step earlier for each further step ahead.
    chains = {1: [list(each)], 2: [["read", "ready"], ["copy"]]}.get(ahead, [[name] for name in each])
    takes = [sum(each[n] for n in chain) + (parts - 1) * max(each[n] for n in chain) for chain in chains]
    assert found.makespan_s == pytest.approx(max(plain, *takes), rel=1e-9)


def test_each_micro_batch_is_loaded_once_by_the_ranks_that_begin_it(
    machine: Estimator, small: TrainingSetup
) -> None:
    for schedule in ("1f1b", "dualpipe", "chimera", "zbv-zero-bubble"):
        setup = replace(small, pipeline=2, schedule=schedule, loading=SampleLoading(MB))
        written = program(setup, machine)
        labels = [written.labels[label] for label in written.tasks.label]
        assert sorted(label for label in labels if label.startswith("copy")) == [
            f"copy samples {number}" for number in range(setup.micro_batches)
        ]


def test_tensor_ranks_fetch_whole_samples_and_context_ranks_their_part(
    machine: Estimator, small: TrainingSetup
) -> None:
    def crossed(setup: TrainingSetup) -> float:
        with_samples = run(replace(setup, loading=SampleLoading(MB)), machine).links
        without = run(setup, machine).links
        return sum(with_samples.values()) - sum(without.values())

    one = crossed(small)
    assert crossed(replace(small, tensor=2)) == pytest.approx(2 * one, rel=1e-3)
    assert crossed(replace(small, context=2)) == pytest.approx(one, rel=1e-3)
    assert crossed(replace(small, data=2)) == pytest.approx(one, rel=1e-3)


@pytest.mark.parametrize("ahead", [0, 2])
def test_folded_is_unfolded(machine: Estimator, small: TrainingSetup, ahead: int) -> None:
    setup = replace(small, data=4, zero_stage=3, loading=SampleLoading(40 * MB, "nvme", 0.01, 4, ahead))
    folded, single = (run_program(program(setup, machine, folded=way)).makespan_s for way in (True, False))
    assert folded == pytest.approx(single, rel=1e-6)


def test_the_account_says_what_is_loaded_hidden_or_not(machine: Estimator, small: TrainingSetup) -> None:
    hidden = run(replace(small, loading=SampleLoading(10 * KB, cpu_s=1e-6)), machine)
    shown = run(replace(small, loading=SampleLoading(10 * KB, cpu_s=1.0)), machine)
    assert hidden.seconds()["loading"] == 0.0
    assert hidden.loading()["copy samples"] > 0
    assert shown.seconds()["loading"] > 0.5 * shown.step_s
    assert sum(shown.seconds().values()) == pytest.approx(shown.step_s)
    assert any("Samples" in table.title for table in hidden.tables())
    assert hidden.peak_bytes - run(small, machine).peak_bytes == 8 * 10 * KB


# Checkpoints.

EVERY = 20


@pytest.mark.parametrize(
    "states", ["checkpoint", "nvme+checkpoint", "host+checkpoint-sync", "checkpoint-sync"]
)
def test_a_checkpoint_every_so_many_steps(machine: Estimator, small: TrainingSetup, states: str) -> None:
    setup = replace(small, data=4, zero_stage=2, batch=16, states=states)
    each, seldom = run(setup, machine), run(replace(setup, checkpoint_every=EVERY), machine)
    place = states.replace("+checkpoint-sync", "").replace("+checkpoint", "")
    plain = run(replace(setup, states=place if place in ("host", "nvme") else "device"), machine)
    assert each.saving_s is None
    assert seldom.saving_s is not None
    assert seldom.saving_s >= seldom.step_s * (1 - 1e-9)
    assert seldom.step_s >= plain.step_s * (1 - 1e-9)
    assert seldom.mean_s == pytest.approx((seldom.saving_s + (EVERY - 1) * seldom.step_s) / EVERY)
    assert plain.step_s * (1 - 1e-9) <= seldom.mean_s <= each.step_s * (1 + 1e-9)
    assert seldom.mfu == pytest.approx(plain.mfu * plain.step_s / seldom.mean_s)


def test_a_synchronous_checkpoint_stalls_for_copy_and_drives(
    machine: Estimator, small: TrainingSetup
) -> None:
    setup = replace(small, states="checkpoint-sync", checkpoint_every=EVERY)
    found, plain = run(setup, machine), run(small, machine)
    rates = tier_rates(machine.prices, 1)
    states = model_states(machine.rank_step(small), 0)
    size = states.optimizer_state + states.weights
    assert found.step_s == plain.step_s
    assert found.saving_s == pytest.approx(
        plain.step_s + size / rates.to_host + size / rates.drive_write, rel=0.02
    )


def test_an_asynchronous_one_is_drained_evenly_until_the_next(
    machine: Estimator, small: TrainingSetup
) -> None:
    small = replace(small, sequence=64, batch=1, micro_batch=1)
    plain = run(small, machine).step_s
    rates = tier_rates(machine.prices, 1)
    states = model_states(machine.rank_step(small), 0)
    drain = (states.optimizer_state + states.weights) / rates.drive_write
    assert plain < drain / 2
    for every in (2, 5, 50):
        found = run(replace(small, states="checkpoint", checkpoint_every=every), machine)
        sync = run(replace(small, states="checkpoint-sync", checkpoint_every=every), machine)
        assert found.step_s == pytest.approx(max(plain, drain / every), rel=1e-9)
        assert found.saving_s is not None
        assert sync.saving_s is not None
        assert found.saving_s <= sync.saving_s
        assert every * found.mean_s >= drain * (1 - 1e-9)


# Plans and bad input.


def test_a_plan_says_all_of_it(machine: Estimator, small: TrainingSetup, tmp_path: Path) -> None:
    setup = replace(
        small, states="checkpoint", checkpoint_every=3, loading=SampleLoading(MB, "nvme", 0.002, 3, 1)
    )
    plan = plan_of(machine.rank_step(setup), machine)
    write_training_plan(plan, tmp_path / "plan.json")
    read = read_training_plan(tmp_path / "plan.json")
    assert read.setup == setup
    assert execute(read, machine).mean_s == run(setup, machine).mean_s
    text = (tmp_path / "plan.json").read_text()
    (tmp_path / "bad.json").write_text(
        text.replace('"cpu_s": 0.002', '"cpu_s": -1.0').replace('"nvme"', '"nvm"')
    )
    with pytest.raises(InputError) as caught:
        read_training_plan(tmp_path / "bad.json")
    assert "setup.loading" in str(caught.value)
    (tmp_path / "worse.json").write_text(text.replace('"ahead": 1', '"ahed": 1'))
    with pytest.raises(InputError, match="did you mean 'ahead'"):
        read_training_plan(tmp_path / "worse.json")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"checkpoint_every": 4}, "states=device takes none"), ({"checkpoint_every": 0}, "expected 1 or more"),
        ({"states": "checkpoint+checkpoint-sync"}, "not both"), ({"states": "checkpoint-synk"}, "checkpoint-sync"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_a_line(
    small: TrainingSetup, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        replace(small, **fields)


def test_samples_on_drives_need_drives(small: TrainingSetup) -> None:
    machine = Estimator(Prices(load_system("gaudi2-node")))
    with pytest.raises(InputError, match="no drives to read samples from"):
        run(replace(small, dtype="bf16", loading=SampleLoading(MB, "nvme")), machine)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": "drive"}, "--set samples"), ({"sample_cpu": "8 parsecs"}, "--set sample.cpu"),
        ({"ahead": -1}, "--set ahead"), ({"workers": 0}, "--set workers"),
        ({"sampel": "1 MB"}, "did you mean 'sample'"),
    ],
)  # fmt: skip
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        solve_offload("gpt2", "dgx-2", settings=settings)
