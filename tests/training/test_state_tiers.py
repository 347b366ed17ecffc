"""Model states on host and drives: bytes moved from tier to tier, none lost; and the policies on the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.library import load_system
from hw_configs.problems import InfeasibleError
from mapping.training.estimate import Estimator
from mapping.training.pricing import Prices
from mapping.training.setup import TrainingSetup
from mapping.training.sharded_states import ModelStates
from mapping.training.smaller_states import adam_moment_elements, low_rank_states
from mapping.training.state_room import drive_bytes, room_shortage, snapshot_bytes
from mapping.training.state_tiers import StateTiers, best_tiers, tiered
from mapping.training.tier_rates import tier_rates

ONE = TrainingSetup("gpt2", 256, 2, 2, dtype="fp16", recompute="full")
FOUR = replace(ONE, batch=8, data=4, zero_stage=3)


@pytest.fixture(scope="module")
def estimator():
    return Estimator(Prices(load_system("dgx-2")))


def everything(found):
    """Bytes of states and activations on all tiers, buffers left out."""
    budget = found.estimate.memory
    states = (
        budget.weights + budget.gradients + budget.optimizer_state + budget.host_states + found.drive_bytes
    )
    return states, budget.skeletal + budget.host_activations


def test_states_on_the_device_are_the_plain_estimate(estimator):
    plain = estimator.estimate(ONE, exact=False)
    found = tiered(ONE, StateTiers(optimizer="device"), estimator)
    assert found.estimate.memory == plain.memory
    assert found.estimate.time == plain.time
    assert found.update_s == 0


@pytest.mark.parametrize("setup", [ONE, FOUR], ids=["one device", "four, stage 3"])
@pytest.mark.parametrize("optimizer", ["host", "drive"])
@pytest.mark.parametrize("weights", ["device", "host", "drive"])
@pytest.mark.parametrize("checkpoints", ["device", "host"])
def test_no_byte_is_lost_between_tiers(estimator, setup, weights, optimizer, checkpoints):
    plain = tiered(setup, StateTiers(optimizer="device"), estimator)
    moved = tiered(setup, StateTiers(weights, optimizer, checkpoints), estimator)
    for mine, whole in zip(everything(moved), everything(plain), strict=True):
        assert mine == pytest.approx(whole, abs=8)
    assert moved.estimate.memory.device_bytes < plain.estimate.memory.device_bytes
    late = tiered(setup, StateTiers(weights, optimizer, checkpoints, delayed=True), estimator)
    assert late.estimate.time.step_s <= moved.estimate.time.step_s
    assert moved.estimate.time.step_s > late.estimate.time.forward_s + late.estimate.time.backward_s


@pytest.mark.parametrize("setup", [replace(ONE, zero_stage=3), FOUR], ids=["one device", "four"])
@pytest.mark.parametrize("delayed", [False, True])
@pytest.mark.parametrize("optimizer", ["host", "drive"])
@pytest.mark.parametrize("weights", ["device", "host", "drive"])
def test_a_setup_with_its_states_away_is_estimated_as_tiers_are(
    estimator, setup, weights, optimizer, delayed
):
    tiers = StateTiers(weights, optimizer, delayed=delayed)
    away = estimator.estimate(replace(setup, states=tiers.states()), exact=False)
    assert away.time.step_s == pytest.approx(tiered(setup, tiers, estimator).estimate.time.step_s, rel=1e-9)
    assert away.time.step_s > estimator.estimate(setup, exact=False).time.forward_s


STATES = ModelStates(2 * 10**9, 2 * 10**9, 12 * 10**9)


@pytest.mark.parametrize(
    ("states", "drives", "snapshot"),
    [
        ("device", 0, 0), ("host", 0, 0), ("nvme", 3.0e9, 0), ("nvme+weights", 3.5e9, 0),
        ("nvme+weights-on-host", 3.0e9, 0), ("host+weights-on-nvme", 0.5e9, 0), ("checkpoint", 3.5e9, 3.5e9),
        ("checkpoint-sync", 3.5e9, 0), ("host+checkpoint", 3.5e9, 0.5e9), ("nvme+weights+checkpoint", 7.0e9, 0),
    ],
)  # fmt: skip
def test_bytes_on_drives_and_of_a_copy_of_the_states(states, drives, snapshot):
    setup = replace(FOUR, states=states)
    assert drive_bytes(setup, STATES) == drives
    assert snapshot_bytes(setup, STATES) == snapshot


def test_what_drives_and_host_are_short_of(estimator):
    def short(states, times, host=0):
        many = ModelStates(
            *(times * size for size in (STATES.weights, STATES.gradients, STATES.optimizer_state))
        )
        return room_shortage(replace(FOUR, states=states), many, host, estimator.prices)

    rates = tier_rates(estimator.prices, 4)
    assert short("device", 10**6) == short("host", 10**6) == short("nvme", 1) == short("checkpoint", 1) == ""
    over = rates.drive_bytes // (3 * 10**9) + 1
    assert "drives are short by" in short("nvme", over)
    assert short("nvme", over - 1) == ""
    copies = rates.host_bytes // 35 * 10 // 10**9 + 1
    assert "host memory with a checkpoint in it is short by" in short("checkpoint", copies)
    assert "host memory with a checkpoint" in short("checkpoint", 1, rates.host_bytes)
    assert "host memory" not in short("checkpoint-sync", copies)


def test_an_update_on_drives_waits_for_them(estimator):
    rates = tier_rates(estimator.prices, 1)
    host, drive = (tiered(ONE, StateTiers(optimizer=tier), estimator) for tier in ("host", "drive"))
    parameters = host.estimate.memory.host_states / 14
    assert host.update_s == pytest.approx(
        max(30 * parameters / rates.host_memory, 2 * parameters / rates.from_host)
    )
    least = 12 * parameters / rates.drive_read + 12 * parameters / rates.drive_write
    assert drive.update_s == pytest.approx(max(least, host.update_s))
    for found, tier in ((host, "host"), (drive, "drive")):
        time = found.estimate.time
        late = tiered(ONE, StateTiers(optimizer=tier, delayed=True), estimator).estimate.time
        passes = time.forward_s + time.backward_s + time.recompute_s
        assert time.optimizer_s == pytest.approx(found.update_s)
        assert late.optimizer_s == pytest.approx(max(0.0, found.update_s - passes))
        assert late.optimizer_s < time.optimizer_s


def test_devices_share_host_and_drives(estimator):
    one, all_of_them = tier_rates(estimator.prices, 1), tier_rates(estimator.prices, 16)
    assert all_of_them.drive_read == pytest.approx(one.drive_read / 16)
    assert all_of_them.drive_bytes * 16 <= one.drive_bytes
    assert all_of_them.host_memory < one.host_memory
    assert all_of_them.from_host <= one.from_host


def test_the_fastest_tiers_that_fit_are_taken(estimator):
    best, priced = best_tiers(ONE, estimator)
    assert best.tiers.weights == best.tiers.optimizer == "device"
    assert [p.estimate.time.step_s for p in priced] == sorted(p.estimate.time.step_s for p in priced)
    large = TrainingSetup("opt-13b", 512, 1, dtype="fp16", recompute="full")
    assert best_tiers(large, estimator)[0].tiers.optimizer == "host"
    with pytest.raises(InfeasibleError, match="device memory is short by"):
        best_tiers(TrainingSetup("opt-66b", 512, 1, dtype="fp16", recompute="full"), estimator)


def test_the_policies_on_the_command_line(cli):
    call = ("solve", "offload", "opt-2.7b", "--hw", "dgx-2", "--seq", 512, "--dtype", "fp16")
    outcome = cli(*call, "--policy", "zero-offload", "--set", "devices=1", "--json")
    assert outcome.code == 0, outcome.err
    report = (
        json.loads(outcome.out)["report"] if "report" in json.loads(outcome.out) else json.loads(outcome.out)
    )
    assert report["tiers"]["optimizer"] == "host"
    assert report["setup"]["states"] == "host"
    ran = json.loads(cli(*call, "--policy", "zero-offload", "--set", "devices=1", "--simulate", "--json").out)
    assert ran["simulated"]["step_s"] == report["executed"]["step_s"]
    assert ran["simulated"]["step_s"] == pytest.approx(report["time"]["step_s"], rel=0.15)
    text = cli(*call, "--policy", "zero-infinity", "--set", "optimizer=drive", "--set", "delayed=yes")
    assert text.code == 0, text.err
    assert "optimizer on drive" in text.out
    for setting, words in (
        ("devices=17", "expected a whole number from 1 to 16"),
        ("delayed=maybe", "expected yes or no"),
        ("weights=moon", "expected one of device, host, drive"),
    ):
        bad = cli(*call, "--policy", "zero-infinity", "--set", setting)
        assert (bad.code, words in bad.err) == (2, True), bad.err


shapes = st.lists(
    st.one_of(st.tuples(st.integers(1, 40)), st.tuples(st.integers(1, 40), st.integers(1, 40))), max_size=6
)


@settings(max_examples=100, deadline=None)
@given(shapes, st.integers(1, 45))
def test_low_rank_states_by_counting_them(weights, rank):
    found = low_rank_states(weights, rank)
    moments = projections = 0
    for shape in weights:
        if len(shape) == 2 and min(shape) > rank:
            moments += sum(2 for _ in range(max(shape) * rank))
            projections += min(shape) * rank
        else:
            moments += 2 * (shape[0] * shape[-1] if len(shape) == 2 else shape[0])
    assert (found.moments, found.projections) == (moments, projections)
    assert low_rank_states(weights, 40).moments == adam_moment_elements(weights)
    assert low_rank_states(weights, rank, frozenset(range(len(weights)))).projections == 0
