"""Messages between stages in memory, gradients that are reduced once or as they are made, and the estimate of all."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hw_configs.library import load_system
from mapping.training.estimate import Estimator
from mapping.training.layer_states import LayerStates, states_by_layer
from mapping.training.pricing import Prices
from mapping.training.rank_step import RankStep
from mapping.training.setup import TrainingSetup
from mapping.training.sharding import Sharding
from mapping.training.stage_messages import handed_bytes, output_bytes
from mapping.training.step_program import write_step
from simulator.training.program import StepProgram
from simulator.training.run import StepRun, run_program
from tests.training.small_models import gpt_config

LATE = Sharding(reshard=False, each_micro_batch=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return gpt_config(tmp_path_factory.mktemp("model"), layers=8, hidden=512, vocab=4000)


@lru_cache(maxsize=1)
def two_machines() -> Estimator:
    """Thirty-two V100, made once: a failing example need not print them."""
    return Estimator(Prices(load_system("dgx-2*2")))


@pytest.fixture(scope="module")
def cluster() -> Estimator:
    return two_machines()


def executed(estimator: Estimator, setup: TrainingSetup) -> StepRun:
    return run_program(write_step(estimator.rank_step(setup), estimator.prices))


def bytes_at(run: StepRun, rank_class: int, take: np.ndarray, give: np.ndarray, moment: float) -> int:
    """Bytes of a class just after a moment, from what its tasks take and give, one by one."""
    own = run.program.task_class() == rank_class
    begun, over = own & (run.start <= moment), own & (run.end <= moment)
    return int(run.program.classes.held[rank_class] + take[begun].sum() + give[over].sum())


def messages(program: StepProgram) -> list[tuple[int, int, int]]:
    """Every send: the task that made what is sent, the send, and the first task that reads it."""
    labels = np.array(program.labels, object)[program.tasks.label]
    after: dict[int, list[int]] = {}
    for task in range(len(program)):
        for k in range(program.successors.start[task], program.successors.start[task + 1]):
            after.setdefault(int(program.successors.to[k]), []).append(task)
    found = []
    for send in np.flatnonzero(labels == "send").tolist():
        low, high = program.successors.start[send], program.successors.start[send + 1]
        readers = [int(to) for to in program.successors.to[low:high]]
        assert len(after[send]) == len(readers) == 1
        found.append((after[send][0], send, readers[0]))
    return found


@given(
    pipeline=st.sampled_from([2, 4]),
    rounds=st.integers(1, 3),
    schedule=st.sampled_from(["1f1b", "gpipe", "interleaved-1f1b", "zb-h1", "dualpipe"]),
    far=st.booleans(),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_message_is_there_from_when_it_is_made_until_it_has_left_and_is_read(
    model: str, pipeline: int, rounds: int, schedule: str, far: bool
) -> None:
    """Beside a program whose messages have no bytes: at every moment the difference is the messages on their way."""
    cluster = two_machines()
    micro_batches = pipeline * max(rounds, 2 if schedule == "dualpipe" else 1)
    layout = ("pipeline", "tensor", "ulysses", "context", "data") if far else None
    setup = TrainingSetup(
        model, 1024, micro_batches, pipeline=pipeline, schedule=schedule,
        stages_per_rank=2 if schedule == "interleaved-1f1b" else 1,
    )  # fmt: skip
    setup = (
        setup
        if layout is None
        else replace(setup, layout=layout, data=32 // pipeline, batch=micro_batches * 32 // pipeline)
    )
    step = cluster.rank_step(setup)
    run = executed(cluster, setup)
    program, size = run.program, handed_bytes(step.graph)
    sent = messages(program)
    take, give = program.tasks.take.copy(), program.tasks.give.copy()
    labels = np.array(program.labels, object)[program.tasks.label]
    give[labels == "send"] = 0
    take[labels == "receive"] = 0
    for maker, _, reader in sent:
        give[maker] -= size
        take[reader] += size
    task_class = program.task_class()
    moments = np.unique(np.concatenate([run.start, run.end]))[:: max(len(run.start) // 60, 1)]
    for rank_class in range(len(program.class_names)):
        for moment in moments:
            whole = bytes_at(run, rank_class, program.tasks.take, program.tasks.give, moment)
            without = bytes_at(run, rank_class, take, give, moment)
            waiting = sum(
                size * (task_class[maker] == rank_class and run.end[maker] <= moment < run.end[send])
                + size * (task_class[reader] == rank_class and run.end[maker] <= moment < run.start[reader])
                for maker, send, reader in sent
            )
            assert whole - without == waiting


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved-1f1b", "v-half", "dualpipe"])
def test_buffers_of_the_whole_step(model: str, cluster: Estimator, schedule: str) -> None:
    """PyTorch's pipelining: counted by hand for every rank of a pipeline of four."""
    setup = TrainingSetup(model, 1024, 8, pipeline=4, schedule=schedule, framework="torchtitan",
                          stages_per_rank=2 if schedule == "interleaved-1f1b" else 1)  # fmt: skip
    by_message = replace(setup, types=replace(setup.state_types, messages="message"))
    step = cluster.rank_step(setup)
    size, logits = handed_bytes(step.graph), output_bytes(step.graph)
    assert logits == 1024 * 4000 * 2
    whole, short = executed(cluster, setup), executed(cluster, by_message)
    held = (whole.program.classes.held - short.program.classes.held).tolist()
    left = np.zeros(4, np.int64)
    labels = np.array(whole.program.labels, object)[whole.program.tasks.label]
    for task in np.flatnonzero(labels == "messages given up").tolist():
        left[whole.program.task_class()[task]] -= whole.program.tasks.give[task]
    # Of each rank: stages with an input and with a gradient from another rank; stages that have an input at all.
    by_hand: dict[str, tuple[list[float], list[float], list[float]]] = {
        "1f1b": ([1, 2, 2, 1], [0, 1, 1, 1], [0, 0, 0, 1]),
        "interleaved-1f1b": ([3, 4, 4, 3], [1, 2, 2, 2], [0, 0, 0, 1]),
        "v-half": ([2, 4, 4, 2], [1, 2, 2, 2], [1, 0, 0, 0]),
        # Half of the micro-batches go each way.
        "dualpipe": ([1, 2, 2, 1], [0.5, 1, 1, 0.5], [0.5, 0, 0, 0.5]),
    }
    apart, inputs, ends = by_hand[schedule]
    assert held == [8 * size * count for count in apart]
    assert left.tolist() == [
        8 * (size * count + logits * end) for count, end in zip(inputs, ends, strict=True)
    ]
    assert max(whole.peak_bytes) > max(short.peak_bytes)


def test_gradients_reduced_once_come_with_the_first_backward_pass(model: str, cluster: Estimator) -> None:
    """With one round of micro-batches a rank of two chunks has the gradients of one of them at a time."""
    plain = TrainingSetup(model, 32, 16, pipeline=4, data=4, zero_stage=3, recompute="full", sharding=LATE)
    two = replace(plain, schedule="interleaved-1f1b", stages_per_rank=2)
    found = []
    for setup in (plain, two):
        run = executed(cluster, setup)
        whole = sum(states.dense.gradients for states in _states(cluster.rank_step(setup), 1))
        found.append((run.peak_bytes[1], run.program.classes.held[1], whole))
    (one_peak, held, gradients), (two_peak, other_held, _) = found
    assert held == other_held
    assert one_peak - two_peak > 0.3 * gradients
    early = replace(plain, zero_stage=1, sharding=Sharding())
    assert executed(cluster, early).program.classes.held[1] > held + gradients


def _states(step: RankStep, rank: int) -> list[LayerStates]:
    layers = states_by_layer(step.graph)
    return [found for layer, found in layers.items() if 2 * rank <= layer < 2 * rank + 2]


def test_reductions_hold_computation_back(model: str, cluster: Estimator) -> None:
    """Over a slow network gradients of two buckets are whole at once, of no more."""
    setup = TrainingSetup(model, 256, 32, data=32, zero_stage=2, sharding=Sharding(bucket_bytes=2**20))
    run = executed(cluster, setup)
    labels = np.array(run.program.labels, object)[run.program.tasks.label]
    reduces = [
        task for task in np.flatnonzero(labels != "").tolist() if labels[task].startswith("reduce, layer")
    ]
    layers = {str(labels[task]).rsplit(" ", 1)[1] for task in reduces}
    made = {
        layer: min(float(run.start[task]) for task in np.flatnonzero(labels == f"backward, layer {layer}"))
        for layer in layers
        if (labels == f"backward, layer {layer}").any()
    }
    over: dict[str, float] = {}
    for task in reduces:
        layer = str(labels[task]).rsplit(" ", 1)[1]
        over[layer] = max(over.get(layer, 0.0), float(run.end[task]))
    most = max(sum(made[x] <= moment < over[x] for x in made) for moment in made.values())
    # A third is made while the second is reduced: it began when the first one's reduction had ended.
    assert 2 <= most <= 3
    network = [float(run.end[task] - run.start[task]) for task in reduces]
    assert sum(network) > 0.4 * run.makespan_s


@lru_cache(maxsize=1)
def two_nodes() -> Estimator:
    """Sixteen H100, made once: a failing example need not print it."""
    return Estimator(Prices(load_system("dgx-h100*2")))


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_estimated_memory_of_experts_and_hybrid_sharding(data: st.DataObject) -> None:
    """Within 5 % of the executed step for experts, hybrid sharding, pipelines, kept weights and one reduction."""
    pipeline, zero = data.draw(st.sampled_from([1, 2])), data.draw(st.sampled_from([1, 2, 3]))
    ranks, micro_batch = 16 // pipeline, data.draw(st.sampled_from([1, 2]))
    sharding = Sharding(
        data.draw(st.sampled_from([None, 8])), reshard=zero < 3 or data.draw(st.booleans()),
        each_micro_batch=data.draw(st.sampled_from([None, False])) if zero > 1 else None,
    )  # fmt: skip
    estimator = two_nodes()
    setup = TrainingSetup(
        "deepseek-v2-lite", 2048, ranks * micro_batch * data.draw(st.sampled_from([2, 4])), micro_batch=micro_batch,
        data=ranks, pipeline=pipeline, expert=data.draw(st.sampled_from([1, 4, 8])), zero_stage=zero,
        recompute=data.draw(st.sampled_from(["none", "full"])), sharding=sharding,
    )  # fmt: skip
    estimate = estimator.estimate(setup, exact=False).memory.device_bytes
    assert estimate == pytest.approx(max(executed(estimator, setup).peak_bytes), rel=0.05)


def test_experts_that_no_other_rank_holds_keep_their_gradients() -> None:
    """Found by the test above: they are reduced with nobody, and so are there from step to step."""
    setup = TrainingSetup(
        "deepseek-v2-lite", 2048, 16, data=8, pipeline=2, expert=8, zero_stage=2,
        sharding=Sharding(each_micro_batch=False),
    )  # fmt: skip
    estimate = two_nodes().estimate(setup, exact=False).memory.device_bytes
    assert estimate == pytest.approx(max(executed(two_nodes(), setup).peak_bytes), rel=0.02)
