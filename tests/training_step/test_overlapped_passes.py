"""Passes of DualPipe that overlap: their order against a search of all orders, and what it hides in a step."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.library import load_system
from hw_configs.problems import InputError
from mapping.training.estimate import Estimator
from mapping.training.layer_states import states_by_layer
from mapping.training.overlapped_passes import joined
from mapping.training.pricing import Prices
from mapping.training.setup import TrainingSetup
from mapping.training.step_program import schedule_of, write_step
from mapping.training.training_plan import execute, plan_of, read_training_plan, write_training_plan
from simulator.training.account import accounts
from simulator.training.program import Block
from simulator.training.run import run_program
from simulator.training.wires import Party


def block_of(tasks: list[tuple[int, float]]) -> Block:
    """A pass whose tasks each wait for the one before: stream and seconds."""
    count = len(tasks)
    streams, seconds = np.array([t[0] for t in tasks], np.int64), np.array([t[1] for t in tasks])
    none = np.zeros(count, np.int64)
    chain = np.arange(count - 1)
    return Block(streams, none, seconds, np.zeros(count), none - 1, none, none, none, none, chain, chain + 1)


def length(order: list[tuple[int, int]], blocks: list[list[tuple[int, float]]]) -> float:
    """How long an order takes on streams that take their tasks in turn."""
    free: dict[int, float] = {}
    done = [0.0, 0.0]
    for which, task in order:
        stream, seconds = blocks[which][task]
        done[which] = free[stream] = max(done[which], free.get(stream, 0.0)) + seconds
    return max(done)


tasks = st.lists(st.tuples(st.integers(0, 1), st.floats(0.1, 4)), min_size=1, max_size=5)


@given(first=tasks, second=tasks)
@settings(max_examples=150, deadline=None)
def test_the_order_is_each_pass_in_turn_and_near_the_best_of_all(
    first: list[tuple[int, float]], second: list[tuple[int, float]]
) -> None:
    blocks = [first, second]
    whole, *places = joined(block_of(first), block_of(second))
    assert sorted(np.concatenate(places).tolist()) == list(range(len(whole)))
    for own, place in zip(blocks, places, strict=True):
        assert (np.diff(place) > 0).all()
        assert whole.stream[place].tolist() == [task[0] for task in own]
        assert whole.seconds[place].tolist() == [task[1] for task in own]
    pairs = set(zip(whole.before.tolist(), whole.after.tolist(), strict=True))
    assert pairs == {(int(place[k]), int(place[k + 1])) for place in places for k in range(len(place) - 1)}
    at = {int(place): (which, k) for which, own in enumerate(places) for k, place in enumerate(own)}
    ours = length([at[k] for k in range(len(whole))], blocks)
    count = len(whole)
    best = math.inf
    for chosen in combinations(range(count), len(first)):
        turns = iter(range(len(first))), iter(range(len(second)))
        order = [(which, next(turns[which])) for which in (int(k not in chosen) for k in range(count))]
        best = min(best, length(order, blocks))
    in_turn = sum(t[1] for t in first) + sum(t[1] for t in second)
    assert best <= ours * (1 + 1e-12) <= in_turn * (1 + 1e-9)
    # Whatever can begin first goes first: two passes of two streams are within half of the best order.
    assert ours <= 1.5 * best * (1 + 1e-12)


@pytest.fixture(scope="module")
def machines() -> Estimator:
    return Estimator(Prices(load_system("dgx-h100*2")))


@pytest.mark.parametrize("name", ["dualpipe", "dualpipe-v"])
def test_pairs_hide_the_experts_exchanges(machines: Estimator, name: str) -> None:
    setup = TrainingSetup(
        "deepseek-v2-lite", 2048, 64, pipeline=4, data=4, expert=4, zero_stage=1, schedule=name
    )
    step, schedule = machines.rank_step(setup), schedule_of(setup)
    apart = run_program(write_step(step, machines.prices, replace(schedule, pairs=())))
    paired = run_program(write_step(step, machines.prices, schedule))
    assert paired.makespan_s < apart.makespan_s
    shown = [sum(a.seconds["expert"] for a in accounts(run)) for run in (paired, apart)]
    assert shown[0] < 0.4 * shown[1]
    work = [[a.compute_s for a in accounts(run)] for run in (paired, apart)]
    np.testing.assert_allclose(work[0], work[1])
    whole = run_program(write_step(step, machines.prices, schedule, folded=False))
    assert whole.makespan_s == pytest.approx(paired.makespan_s, rel=1e-9)
    assert max(whole.peak_bytes) == max(paired.peak_bytes)


@pytest.mark.parametrize("zero", [2, 3])
def test_other_stages_of_zero_run_too(machines: Estimator, zero: int) -> None:
    """Gathered weights come pass by pass, so that stage 3 runs pairs in turn."""
    setup = TrainingSetup(
        "deepseek-v2-lite", 1024, 32, pipeline=2, data=8, expert=4, zero_stage=zero, schedule="dualpipe"
    )
    step, schedule = machines.rank_step(setup), schedule_of(setup)
    paired, apart = (
        run_program(write_step(step, machines.prices, replace(schedule, pairs=pairs)))
        for pairs in (schedule.pairs, ())
    )
    assert (paired.makespan_s == apart.makespan_s) == (zero == 3)


def test_a_plan_names_its_pairs(tmp_path: Path, machines: Estimator) -> None:
    setup = TrainingSetup(
        "deepseek-v2-lite", 1024, 32, pipeline=2, data=8, expert=4, zero_stage=1, schedule="dualpipe"
    )
    plan = plan_of(machines.rank_step(setup), machines)
    path = tmp_path / "plan.json"
    write_training_plan(plan, path)
    assert "0F0+" in path.read_text() or "+2B" in path.read_text()
    again = read_training_plan(path)
    assert again.schedule == plan.schedule
    assert execute(again, machines).step_s == execute(plan, machines).step_s
    text = path.read_text()
    word = next(w for w in text.replace('"', " ").split() if "+" in w)
    left, right = word.split("+")
    path.write_text(text.replace(word, f"{right}+{left}", 1))
    with pytest.raises(InputError, match="expected a forward and a whole backward pass, as 0F3"):
        read_training_plan(path)


@pytest.mark.parametrize("name", ["dualpipe", "chimera"])
@pytest.mark.parametrize(
    "degrees",
    [
        {"data": 8, "zero_stage": 1}, {"data": 8, "zero_stage": 3}, {"data": 8, "zero_stage": 2, "expert": 4},
        {"data": 1},
    ],
    ids=str,
)  # fmt: skip
def test_both_copies_of_a_stage_add_up_their_gradients(
    machines: Estimator, name: str, degrees: dict[str, int]
) -> None:
    """Ranks come to a stage's last gradients at other times; nobody waits for ever, and nothing is left out."""
    setup = TrainingSetup("deepseek-v2-lite", 1024, 8 * degrees["data"], pipeline=2, schedule=name, **degrees)  # type: ignore[arg-type]
    step = machines.rank_step(setup)
    run = run_program(write_step(step, machines.prices))
    tasks, labels = run.program.tasks, np.array(run.program.stream_names, object)
    sums = np.array(["replicas" in stream for stream in labels])[tasks.stream]
    shards = degrees["data"] if setup.zero_stage else 1
    holders = shards // setup.expert
    states = states_by_layer(step.graph).values()
    whole = sum(s.dense.gradients // shards + s.experts.gradients // holders for s in states)
    moved = {int(m): float(b) for m, b in zip(tasks.meeting[sums], tasks.bytes[sums], strict=True)}
    # An all-reduce of two moves each one's bytes once; each rank has a share of what its group divides.
    one = machines.prices.wiring.exchange(Party(((0, 1),)), "all_reduce", whole).bytes
    assert -1 not in moved
    assert sum(moved.values()) == pytest.approx(one, rel=0.01)
