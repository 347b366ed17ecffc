"""States on host and drives in an executed step, against closed forms and the estimate of tiers."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest

from hw_configs.library import load_system
from hw_configs.problems import InputError
from mapping.training.estimate import Estimator
from mapping.training.executed_step import ExecutedStep
from mapping.training.pricing import Prices
from mapping.training.setup import TrainingSetup
from mapping.training.state_places import places_of
from mapping.training.state_tiers import StateTiers, tiered
from mapping.training.step_memory import model_states
from mapping.training.step_program import write_step
from mapping.training.tier_rates import tier_rates
from mapping.training.training_plan import execute, plan_of
from offchip import solve_offload
from simulator.training.run import run_program
from workloads.graph import Role

ONE = TrainingSetup("opt-1.3b", 1024, 8, 8, dtype="fp16", recompute="full", zero_stage=2)
MANY = TrainingSetup("opt-1.3b", 1024, 64, 4, dtype="fp16", recompute="full", zero_stage=3, data=16)
TIERS = {
    "host": StateTiers(), "host+delayed": StateTiers(delayed=True), "nvme": StateTiers(optimizer="drive"),
    "host+weights": StateTiers("host", "host"), "nvme+weights": StateTiers("drive", "drive"),
    "nvme+weights-on-host": StateTiers("host", "drive"), "host+weights-on-nvme": StateTiers("drive", "host"),
    "host+inputs": StateTiers(checkpoints="host"), "nvme+weights+inputs": StateTiers("drive", "drive", "host"),
}  # fmt: skip


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    return Estimator(Prices(load_system("dgx-2")))


def run(setup: TrainingSetup, estimator: Estimator) -> ExecutedStep:
    return execute(plan_of(estimator.rank_step(setup), estimator), estimator)


@pytest.mark.parametrize("states", TIERS)
@pytest.mark.parametrize("setup", [ONE, MANY], ids=["one device", "sixteen"])
def test_the_estimate_of_tiers_stands_beside_the_executed_step(
    estimator: Estimator, setup: TrainingSetup, states: str
) -> None:
    if "weights" in states:
        setup = replace(setup, zero_stage=3)
    ran = run(replace(setup, states=states), estimator)
    guess = tiered(setup, TIERS[states], estimator).estimate
    assert ran.step_s == pytest.approx(guess.time.step_s, rel=0.15)
    assert ran.step_s >= guess.time.forward_s + guess.time.backward_s
    # The estimate holds two of the largest layer whole, the embedding, which has no layer like it beside it.
    # It moves what the head reads ashore with the layers' inputs, which the step does not.
    most = 1.25 if "inputs" in states else 1.1
    assert 0.65 * guess.memory.device_bytes < ran.peak_bytes < most * guess.memory.device_bytes
    assert ran.peak_bytes < run(replace(setup, states="device"), estimator).peak_bytes


def test_tiers_say_the_places_that_a_step_is_run_with() -> None:
    for text, tiers in TIERS.items():
        assert tiers.states() == text
        places = places_of(text)
        told = {"host": "host", "nvme": "drive", "device": "device"}
        assert (told[places.weights], told[places.optimizer]) == (tiers.weights, tiers.optimizer)
        assert places.inputs == (tiers.checkpoints == "host")
        assert places.delayed == tiers.delayed


def test_weights_that_stay_are_not_given_up_under_stage_3(estimator: Estimator) -> None:
    alone = replace(ONE, zero_stage=3, states="host")
    assert run(alone, estimator).step_s == pytest.approx(run(replace(alone, zero_stage=2), estimator).step_s)


def test_inputs_wait_in_host_memory(estimator: Estimator) -> None:
    kept, gone = (run(replace(ONE, states=states), estimator) for states in ("device", "device+inputs"))
    step = estimator.rank_step(replace(ONE, states="device+inputs"))
    sizes = [sum(step.graph.tensors[name].size_bytes for name in names) for names in step.swapped.values()]
    assert len(set(sizes)) == 1
    assert kept.peak_bytes - gone.peak_bytes == pytest.approx(sum(sizes) - 4 * sizes[0], rel=0.1)
    crossed = {name: size - kept.links.get(name, 0) for name, size in gone.links.items() if "pcie" in name}
    hops = max(crossed.values()) / (2 * (sum(sizes) - 2 * sizes[0]))
    assert hops == pytest.approx(round(hops), rel=1e-6)
    assert round(hops) in (1, 2)
    assert gone.step_s == pytest.approx(kept.step_s, rel=0.02)
    with pytest.raises(InputError, match="recompute=full"):
        replace(ONE, recompute="none", states="host+inputs")


def test_what_crosses_the_links_is_what_zero_offload_says(estimator: Estimator) -> None:
    # 2 bytes of gradient down and 2 of weight up per parameter: no more and no less.
    ran = run(replace(ONE, states="host"), estimator)
    states = model_states(estimator.rank_step(ONE), 0)
    crossed = max(size for name, size in ran.links.items() if "pcie" in name)
    hops = crossed / (states.gradients + states.weights)
    assert hops == pytest.approx(round(hops), rel=1e-3)
    assert round(hops) in (1, 2)


def test_a_late_update_hides_behind_the_passes(estimator: Estimator) -> None:
    late, now = (run(replace(MANY, states=states), estimator).step_s for states in ("host+delayed", "host"))
    plain = run(MANY, estimator).step_s
    assert late < now
    assert late == pytest.approx(plain, rel=0.05)


def test_drives_take_the_time_of_their_bytes(estimator: Estimator) -> None:
    rates = tier_rates(estimator.prices, MANY.devices)
    share = model_states(estimator.rank_step(MANY), 0).optimizer_state / MANY.devices
    ran = run(replace(MANY, states="nvme"), estimator).step_s
    passes = run(replace(MANY, states="host+delayed"), estimator).step_s
    assert ran >= share / rates.drive_read + share / rates.drive_write
    assert ran == pytest.approx(passes + share / rates.drive_read + share / rates.drive_write, rel=0.05)


def test_updates_in_the_backward_pass_keep_no_gradients(estimator: Estimator) -> None:
    plain = replace(ONE, zero_stage=0)
    kept, gone = run(plain, estimator), run(replace(plain, states="in-backward"), estimator)
    states = model_states(estimator.rank_step(plain), 0)
    assert gone.step_s == pytest.approx(kept.step_s, rel=1e-6)
    assert kept.peak_bytes - gone.peak_bytes <= states.gradients
    assert gone.peak_bytes < kept.peak_bytes
    assert gone.seconds()["optimizer"] == pytest.approx(kept.seconds()["optimizer"])


def test_a_checkpoint_is_written_beside_the_step_and_holds_the_update_up(estimator: Estimator) -> None:
    ran = run(replace(MANY, states="checkpoint"), estimator)
    rates = tier_rates(estimator.prices, MANY.devices)
    states = model_states(estimator.rank_step(MANY), 0)
    share = (states.optimizer_state + states.weights) / MANY.devices
    written = share / rates.to_host + share / rates.drive_write
    assert ran.step_s == pytest.approx(max(run(MANY, estimator).step_s, written), rel=0.1)


@pytest.mark.parametrize("states", ["host", "nvme+weights", "host+weights+delayed", "checkpoint"])
def test_folded_is_unfolded(estimator: Estimator, states: str) -> None:
    setup = replace(MANY, model="gpt2", data=4, batch=16, states=states)
    step = estimator.rank_step(setup)
    folded, single = (
        run_program(write_step(step, estimator.prices, folded=folded)).makespan_s for folded in (True, False)
    )
    assert folded == pytest.approx(single, rel=1e-6)


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ("hots", "states: found 'hots'.*did you mean 'host'"), ("delayed", "need the place host or nvme"),
        ("host+in-backward", "updates on the device"), ("nvme+weights+weights-on-host", "expected one of weights"),
        ("weights-on-host", "need the place host or nvme"),
    ],
)  # fmt: skip
def test_words_that_do_not_go_together_are_one_line(states: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        places_of(states)
    assert len(str(caught.value).splitlines()) == 1


def test_what_a_setup_cannot_have() -> None:
    with pytest.raises(InputError, match="weights off the device need ZeRO stage 3"):
        replace(ONE, states="host+weights")
    with pytest.raises(InputError, match="one micro-batch and no other rank"):
        replace(MANY, states="in-backward")
    estimator = Estimator(Prices(load_system("a100-80gb")))
    with pytest.raises(InputError):
        run(replace(ONE, states="nvme"), estimator)


def test_the_command_runs_the_plan_with_its_states() -> None:
    found = solve_offload(
        "opt-13b", "dgx-2", seq=1024, dtype="fp16", batch=8, simulate=True,
        settings={"devices": 1, "micro_batch": 8, "recompute": "full", "states": "host", "tp": 1},
    )  # fmt: skip
    assert found.simulated is not None
    assert found.simulated["setup"]["states"] == "host"
    assert found.simulated["peak_bytes"] <= found.simulated["usable_bytes"]


@pytest.mark.parametrize("framework", ["plain", "hf-trainer", "hf-trainer-bf16"])
def test_the_host_updates_the_models_parameters(estimator: Estimator, framework: str) -> None:
    """However many bytes the optimizer keeps of each: 30 bytes of host memory traffic a parameter."""
    setup = replace(ONE, states="host", framework=framework)
    step = estimator.rank_step(setup)
    parameters = sum(
        prod(step.graph.tensors[name].shape)
        for op in step.graph.operators
        if op.kind == "optimizer"
        for name in op.updates
        if step.graph.tensors[name].role is Role.WEIGHT
    )
    assert parameters == model_states(step, 0).trained_parameters
    program = write_step(step, estimator.prices)
    updates = [label.startswith("host update") for label in program.labels]
    seconds = sum(
        float(s)
        for s, label in zip(program.tasks.seconds, program.tasks.label, strict=True)
        if updates[label]
    )
    rates = tier_rates(estimator.prices, setup.devices)
    assert seconds == pytest.approx(30 * parameters / rates.host_memory)
