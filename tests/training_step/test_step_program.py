"""Steps of every kind of setup: folded and rank by rank, against closed forms, the other engine and conservation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from hw_configs.library import load_system
from hw_configs.problems import InputError
from mapping.training.estimate import Estimator
from mapping.training.layer_states import states_by_layer
from mapping.training.plan import training_plan
from mapping.training.pricing import Prices
from mapping.training.rank_layout import DEGREES, groups_of
from mapping.training.schedules.action import Action, PipelineSchedule
from mapping.training.setup import TrainingSetup
from mapping.training.sharding import Sharding
from mapping.training.step_program import schedule_of, write_step
from simulator.cost.collective import schedule as collective
from simulator.simulate import simulate
from simulator.training.account import ClassAccount, accounts
from simulator.training.program import COMPUTE_KINDS, StepProgram, TaskKind
from simulator.training.run import StepRun, run_program
from tests.training.small_models import gpt_config
from tests.training_step.step_oracle import run_slowly
from workloads.workload import Phase, Workload

TOKENS = 4096


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return gpt_config(tmp_path_factory.mktemp("model"), layers=4, hidden=512)


@pytest.fixture(scope="module")
def node() -> Estimator:
    return Estimator(Prices(load_system("a800-node")))


@pytest.fixture(scope="module")
def cluster() -> Estimator:
    return Estimator(Prices(load_system("dgx-2*2")))


def run(estimator: Estimator, setup: TrainingSetup, *, folded: bool = True) -> StepRun:
    return run_program(write_step(estimator.rank_step(setup), estimator.prices, folded=folded))


def account(estimator: Estimator, setup: TrainingSetup) -> ClassAccount:
    return accounts(run(estimator, setup))[0]


@pytest.fixture(scope="module")
def pair() -> Estimator:
    return Estimator(Prices(load_system("dgx-a100*2")))


@st.composite
def setups(draw: st.DrawFn, model: str = "") -> TrainingSetup:
    """Setups of up to 16 ranks that divide."""
    tensor, ulysses, context = (draw(st.sampled_from([1, 1, 2])) for _ in range(3))
    pipeline, data = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 4]))
    if tensor * ulysses * context * pipeline * data > 16:
        data, pipeline = 1, min(pipeline, 2)
    shards = ulysses * context * data
    stage = draw(st.sampled_from([0, 1, 2, 3]))
    width = draw(st.sampled_from([None, *(w for w in (1, 2, 4) if shards % w == 0)]))
    sharding = Sharding(
        width, draw(st.integers(0, 2)), draw(st.booleans()), draw(st.sampled_from([1 << 10, 25 << 20])),
        draw(st.sampled_from([None, True, False])), draw(st.booleans()),
    )  # fmt: skip
    return TrainingSetup(
        model, TOKENS, data * draw(st.sampled_from([1, 2, 4])), tensor=tensor, ulysses=ulysses, context=context,
        pipeline=pipeline, data=data, zero_stage=stage, recompute=draw(st.sampled_from(["none", "full"])),
        sharding=sharding, layout=tuple(draw(st.permutations(DEGREES))),
        schedule=draw(st.sampled_from(["1f1b", "gpipe", "zb-h1"])),
        context_exchange=draw(st.sampled_from(["ring", "all-gather"])), zigzag=draw(st.booleans()),
    )  # fmt: skip


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_folded_and_rank_by_rank_take_the_same(
    model: str, node: Estimator, pair: Estimator, data: st.DataObject
) -> None:
    setup = data.draw(setups(model))
    estimator = node if setup.devices <= 8 and data.draw(st.integers(0, 3)) == 0 else pair
    folded, whole = (run(estimator, setup, folded=way) for way in (True, False))
    # Where every group has the wires that its neighbours have the two are equal; else the slowest stands for all.
    like = alike(estimator, setup)
    event(
        f"{'alike' if like else 'unlike'} wires, {'several machines' if setup.devices > 8 else 'one machine'}"
    )
    if like:
        assert folded.makespan_s == pytest.approx(whole.makespan_s, rel=1e-9)
        assert max(folded.peak_bytes) == max(whole.peak_bytes)
    assert folded.makespan_s >= whole.makespan_s * (1 - 1e-9)
    for name, size in whole.carried_bytes().items():
        assert folded.carried_bytes()[name] == pytest.approx(size, rel=1e-9)
    checks(estimator, setup, folded)


def alike(estimator: Estimator, setup: TrainingSetup) -> bool:
    """Whether each kind of group lies on the same kind of wires everywhere: one machine, or a layout that its own
    machines' borders do not cut unevenly.
    """
    cluster = estimator.prices.system.cluster
    if cluster is None:
        return True
    devices = estimator.prices.devices
    ports = [cluster.port_of(name) for name in devices[: setup.devices]]
    machines = [cluster.places[name][0] for name in devices[: setup.devices]]
    if len(set(machines)) == 1:
        return True
    for kind in (*DEGREES, "within", "across"):
        shapes = set()
        for group in groups_of(setup, kind):
            first = machines[group[0]]
            shapes.add(tuple(machines[r] != first for r in group))
        if len(shapes) > 1:
            return False
    return len({ports.count(port) for port in ports}) == 1


def checks(estimator: Estimator, setup: TrainingSetup, ran: StepRun) -> None:
    """What holds of every step: nobody is faster than its work, bubbles are no smaller than the closed form, bytes."""
    step = ran.makespan_s
    for found in accounts(ran):
        assert sum(found.seconds.values()) + found.bubble_s == pytest.approx(step, rel=1e-9)
        assert found.bubble_s >= -1e-9 * step
        assert found.compute_s <= step * (1 + 1e-12)
    busy = ran.busy_seconds()
    assert busy[:, : len(COMPUTE_KINDS)].sum(axis=1).max() <= step * (1 + 1e-12)
    if setup.pipeline > 1 and setup.schedule in ("1f1b", "gpipe"):
        # The first micro-batch goes down all stages, the last one comes back up them.
        work = [sum(a.seconds[k] for k in ("forward", "backward", "recompute")) for a in accounts(ran)]
        fill = sum(work) / setup.micro_batches - max(work) / setup.micro_batches
        assert step >= max(work) + fill * (1 - 1e-9)


@given(data=st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_second_engine_takes_the_same(model: str, node: Estimator, data: st.DataObject) -> None:
    setup = replace(
        data.draw(setups(model)), tensor=1, batch=2, data=1, pipeline=2, zero_stage=0, sharding=Sharding()
    )
    program = write_step(node.rank_step(setup), node.prices)
    ran, slow = run_program(program), run_slowly(program)
    np.testing.assert_allclose(ran.end, slow.end, rtol=1e-9)
    assert ran.peak_bytes.tolist() == slow.peak


@pytest.mark.parametrize(
    ("degrees", "near"),
    [
        ({}, 1e-9), ({"recompute": "full"}, 1e-9), ({"tensor": 4}, 1e-9), ({"tensor": 8, "recompute": "full"}, 1e-9),
        ({"tensor": 2, "sequence_parallel": False}, 1e-9), ({"ulysses": 2}, 0.02), ({"pipeline": 4, "batch": 8}, 0.02),
        ({"data": 4, "batch": 8}, 0.02), ({"data": 4, "batch": 8, "zero_stage": 1}, 0.03),
        ({"data": 4, "batch": 8, "zero_stage": 3}, 0.05), ({"tensor": 2, "pipeline": 2, "data": 2, "batch": 8}, 0.02),
    ],
    ids=str,
)  # fmt: skip
def test_where_closed_forms_are_exact_so_is_the_step(
    tmp_path: Path, node: Estimator, degrees: dict[str, int], near: float
) -> None:
    """One degree whose collectives stand in line is exact; pipelines and hidden traffic nearly."""
    setup = TrainingSetup(gpt_config(tmp_path, layers=8, hidden=2048), 8192, **degrees)  # type: ignore[arg-type]
    estimate = node.estimate(setup, exact=False)
    assert run(node, setup).makespan_s == pytest.approx(estimate.time.step_s, rel=near)


@pytest.mark.parametrize(
    "degrees",
    [
        {"tensor": 2}, {"tensor": 8}, {"context": 2, "context_exchange": "all-gather"},
        {"tensor": 4, "recompute": "full"},
    ],
    ids=str,
)  # fmt: skip
def test_the_engine_of_tensors_takes_the_same(
    model: str, node: Estimator, degrees: dict[str, object]
) -> None:
    """The engine that runs a graph operator by operator, with an address for every tensor."""
    setup = TrainingSetup(model, 8192, **degrees)  # type: ignore[arg-type]
    step = node.rank_step(setup)
    plan = training_plan(step, node.prices)
    workload = Workload("step", (Phase("train", "train", step.graph, 1),))
    result = simulate(workload, node.prices.system, lambda _graph, _system: plan)
    ran = run(node, setup)
    # Context ranks hold equal weights, whose gradients that plan does not reduce; it sends keys' gradients with keys.
    extra = accounts(ran)[0].seconds["data"]
    near = 0.03 if "context" in degrees else 1e-3
    assert ran.makespan_s - extra == pytest.approx(result.makespan_s, rel=near)


def test_collectives_carry_their_bytes_and_no_more(model: str, node: Estimator) -> None:
    """Eight data-parallel ranks of one machine: a ring's bytes cross a wire to the switch and one from it."""
    setup = TrainingSetup(model, TOKENS, 8, data=8, zero_stage=1)
    step = node.rank_step(setup)
    states = states_by_layer(step.graph).values()
    size = {
        "all_gather": sum(s.dense.weights for s in states),
        "reduce_scatter": sum(s.dense.gradients for s in states),
    }
    sent = sum(collective(kind, "ring", 8, total).total_bytes for kind, total in size.items())
    assert run(node, setup).carried_bytes() == {"nvlink3-x8": pytest.approx(2 * sent)}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_traffic_of_zero_is_what_was_published(model: str, node: Estimator, stage: int) -> None:
    """ZeRO, arXiv:1910.02054, section 7: per micro-batch twice the weights, and three times for stage 3."""
    setup = TrainingSetup(model, TOKENS, 8, data=8, zero_stage=stage)
    step = node.rank_step(setup)
    whole = sum(s.dense.weights for s in states_by_layer(step.graph).values())
    moved = run(node, setup).carried_bytes()["nvlink3-x8"] / 2 / 8 / (7 / 8)
    assert moved == pytest.approx((3 if stage == 3 else 2) * whole, rel=1e-6)


def test_memory_is_what_the_estimate_says(tmp_path: Path, node: Estimator) -> None:
    model = gpt_config(tmp_path, layers=8, hidden=1024)
    for degrees in (
        {}, {"tensor": 2}, {"context": 4}, {"pipeline": 4, "batch": 8}, {"recompute": "full", "tensor": 2},
        {"data": 8, "batch": 8, "zero_stage": 1},
    ):  # fmt: skip
        setup = TrainingSetup(model, 8192, **degrees)  # type: ignore[arg-type]
        estimate = node.estimate(setup, exact=False)
        peak = max(run(node, setup).peak_bytes)
        assert peak == pytest.approx(estimate.memory.device_bytes, rel=0.01), degrees


def test_ring_attention_hides_what_it_can(tmp_path: Path, node: Estimator) -> None:
    """Long sequences hide the ring, short ones do not; without balance the last rank does nearly twice the work."""
    long, short = (gpt_config(tmp_path, layers=2, hidden=1024) for _ in range(2))
    hidden = account(node, TrainingSetup(long, 2**17, context=4))
    shown = account(node, TrainingSetup(short, 2**11, context=4))
    assert hidden.seconds["sequence"] < 1e-3 * hidden.compute_s
    assert shown.seconds["sequence"] > 0.05 * shown.compute_s
    gathered = account(node, TrainingSetup(long, 2**17, context=4, context_exchange="all-gather"))
    assert gathered.seconds["sequence"] > 10 * hidden.seconds["sequence"]
    uneven = account(node, TrainingSetup(long, 2**17, context=4, zigzag=False))
    assert 1.3 < uneven.compute_s / hidden.compute_s < 1.75


def test_prefetch_hides_gathering_and_costs_memory(tmp_path: Path, cluster: Estimator) -> None:
    model = gpt_config(tmp_path, layers=6, hidden=2048)
    base = TrainingSetup(model, 4096, 32, data=32, zero_stage=3)
    runs = [run(cluster, replace(base, sharding=Sharding(prefetch=depth))) for depth in (0, 1, 2)]
    assert runs[0].makespan_s > runs[1].makespan_s >= runs[2].makespan_s
    assert runs[0].peak_bytes[0] < runs[1].peak_bytes[0] <= runs[2].peak_bytes[0]
    kept = run(cluster, replace(base, sharding=Sharding(reshard=False)))
    assert kept.peak_bytes[0] > runs[1].peak_bytes[0]
    assert kept.carried_bytes()["ib-edr"] < runs[1].carried_bytes()["ib-edr"]
    hybrid = run(cluster, replace(base, sharding=Sharding(shard_ranks=16)))
    assert hybrid.carried_bytes()["ib-edr"] < runs[1].carried_bytes()["ib-edr"] / 2
    assert hybrid.peak_bytes[0] > runs[1].peak_bytes[0]


def test_accumulation_may_reduce_once(model: str, cluster: Estimator) -> None:
    base = TrainingSetup(model, TOKENS, 128, data=32, zero_stage=2)
    each = run(cluster, base)
    once = run(cluster, replace(base, sharding=Sharding(each_micro_batch=False)))
    reduced = [float(found.busy_seconds()[0, TaskKind.DATA]) for found in (each, once)]
    assert reduced[0] > 2 * reduced[1]
    assert once.peak_bytes[0] >= each.peak_bytes[0]


def test_experts_travel(node: Estimator) -> None:
    setup = TrainingSetup("deepseek-v2-lite", 2048, 8, data=8, expert=8, zero_stage=1)
    found = accounts(run(node, setup))[0]
    assert found.seconds["expert"] > 0
    whole = run(node, replace(setup, expert=1))
    assert found.peak_bytes < max(whole.peak_bytes)
    unfolded = run(node, setup, folded=False)
    assert unfolded.makespan_s == pytest.approx(run(node, setup).makespan_s, rel=1e-9)
    with pytest.raises(InputError, match="64 experts cannot be divided over 3 ranks"):
        run(node, TrainingSetup("deepseek-v2-lite", 2048, 3, data=3, expert=3))
    with pytest.raises(InputError, match="has no experts"):
        run(node, TrainingSetup("gpt2", 512, 2, data=2, expert=2))


@pytest.mark.parametrize(
    "name",
    [
        "gpipe", "1f1b", "eager-1f1b", "interleaved-1f1b", "looped-bfs", "interleaved-zero-bubble", "zb-h1", "zb-h2",
        "zbv-zero-bubble", "v-half", "v-min", "dualpipe", "dualpipe-v", "chimera", "1f1b-vocabulary-1",
        "1f1b-vocabulary-2", "v-half-vocabulary-1", "v-half-vocabulary-2",
    ],
)  # fmt: skip
def test_every_schedule_runs(tmp_path: Path, node: Estimator, name: str) -> None:
    model = gpt_config(tmp_path, layers=8, hidden=512)
    setup = TrainingSetup(model, 2048, 16, pipeline=4, data=2, zero_stage=1, schedule=name)
    folded, whole = (run(node, setup, folded=way) for way in (True, False))
    assert folded.makespan_s == pytest.approx(whole.makespan_s, rel=1e-9)
    assert max(folded.peak_bytes) == max(whole.peak_bytes)
    work = folded.busy_seconds()[:, : len(COMPUTE_KINDS)].sum(axis=1)
    assert folded.makespan_s >= work.max()
    actions = sum(len(order) for order in schedule_of(setup).orders)
    assert len(folded.program) > actions


@pytest.mark.parametrize("name", ["1f1b-vocabulary-1", "1f1b-vocabulary-2"])
def test_a_shared_output_layer_balances_the_stages(tmp_path: Path, node: Estimator, name: str) -> None:
    """The same work as 1F1B's, spread over all ranks, and no bytes lost."""
    model = gpt_config(tmp_path, layers=8, hidden=1024, vocab=128_000)
    plain = TrainingSetup(model, 2048, 16, pipeline=4)
    naive, shared = (accounts(run(node, replace(plain, schedule=which))) for which in ("1f1b", name))
    assert sum(a.compute_s for a in shared) == pytest.approx(sum(a.compute_s for a in naive), rel=1e-9)
    uneven, even = ([a.compute_s for a in found] for found in (naive, shared))
    assert max(even) / min(even) < 1.1 < max(uneven) / min(uneven)
    assert sum(shared[0].seconds.values()) + shared[0].bubble_s < 0.8 * (
        sum(naive[0].seconds.values()) + naive[0].bubble_s
    )


@pytest.mark.parametrize("reshard", [True, False])
@pytest.mark.parametrize(
    "name", ["1f1b-vocabulary-1", "1f1b-vocabulary-2", "v-half-vocabulary-1", "v-half-vocabulary-2"]
)
def test_a_shared_output_layer_is_gathered_under_stage_3(
    tmp_path: Path, node: Estimator, name: str, reshard: bool
) -> None:
    """Each rank gathers its share of the output layer before S and T, or once a step, and gives it up."""
    vocabulary, hidden, micro_batches = 64_000, 512, 8
    model = gpt_config(tmp_path, layers=8, hidden=hidden, vocab=vocabulary)
    setup = TrainingSetup(
        model,
        1024,
        2 * micro_batches,
        pipeline=4,
        data=2,
        schedule=name,
        zero_stage=3,
        sharding=Sharding(reshard=reshard),
    )
    found, single = (run(node, setup, folded=way) for way in (True, False))
    assert found.makespan_s == pytest.approx(single.makespan_s, rel=1e-9)
    assert max(found.peak_bytes) == max(single.peak_bytes)
    program = found.program
    labels = [program.labels[label] for label in program.tasks.label]
    gathered = [
        float(program.tasks.take[n])
        for n, label in enumerate(labels)
        if label == "gather, layer shared output"
    ]
    assert len(gathered) == 4 * (2 * micro_batches if reshard else 1)
    # The last norm's weight and bias are counted with the layer behind it.
    assert set(gathered) == {2 * (vocabulary + 2) * hidden / 4}
    assert found.end == pytest.approx(run_slowly(program).end, rel=1e-9)
    whole = run(node, replace(setup, zero_stage=2))
    assert found.program.classes.held.max() < whole.program.classes.held.max()
    with pytest.raises(InputError, match="whose weights stay on the devices"):
        run(node, replace(setup, states="host+weights"))


def test_a_schedule_of_ones_own(model: str, node: Estimator) -> None:
    """All forwards, then all backwards, written out by hand, are GPipe's."""
    setup = TrainingSetup(model, TOKENS, 3, pipeline=2)
    orders = tuple(
        (*(Action(rank, "F", m) for m in range(3)), *(Action(rank, "B", m) for m in range(3)))
        for rank in range(2)
    )
    own = PipelineSchedule("mine", 3, (0, 1), orders)
    step = node.rank_step(setup)
    mine = run_program(write_step(step, node.prices, own)).makespan_s
    assert mine == run(node, replace(setup, schedule="gpipe")).makespan_s
    stuck = PipelineSchedule("stuck", 3, (0, 1), (orders[0][::-1], orders[1]))
    with pytest.raises((InputError, KeyError)):
        run_program(write_step(step, node.prices, stuck))


def test_uneven_stages_are_as_long_as_their_layers(model: str, node: Estimator) -> None:
    even = TrainingSetup(model, TOKENS, 4, pipeline=2)
    found = accounts(run(node, replace(even, stage_layers=(3, 1))))
    assert found[0].compute_s > 1.8 * found[1].compute_s * 0.6
    assert run(node, replace(even, stage_layers=(2, 2))).makespan_s == run(node, even).makespan_s
    with pytest.raises(InputError, match=r"found 3\+2 layers; expected 2 stages that share the 4 layers"):
        run(node, replace(even, stage_layers=(3, 2)))


def test_a_layout_decides_who_meets_over_the_network(model: str, cluster: Estimator) -> None:
    """With tensor ranks innermost they share a machine; outermost every one of their exchanges leaves it."""
    inner = TrainingSetup(model, TOKENS, 16, tensor=2, data=16)
    outer = replace(inner, layout=("data", "ulysses", "context", "pipeline", "tensor"))
    near, far = (run(cluster, setup) for setup in (inner, outer))
    assert far.busy_seconds()[0, TaskKind.TENSOR] > 2 * near.busy_seconds()[0, TaskKind.TENSOR]
    assert far.busy_seconds()[0, TaskKind.DATA] < near.busy_seconds()[0, TaskKind.DATA]


def test_swapped_tokens_leave_and_come_back(tmp_path: Path, node: Estimator) -> None:
    model = gpt_config(tmp_path, layers=5, hidden=1024)
    setup = TrainingSetup(model, 8192, tensor=2, swap_tokens=0.5)
    step = node.rank_step(setup, bounded=False)
    plan = training_plan(step, node.prices)
    workload = Workload("step", (Phase("train", "train", step.graph, 1),))
    result = simulate(workload, node.prices.system, lambda _graph, _system: plan)
    program: StepProgram = write_step(step, node.prices)
    assert run_program(program).makespan_s == pytest.approx(result.makespan_s, rel=0.02)


def test_too_few_devices_are_one_line(model: str, node: Estimator) -> None:
    step = node.rank_step(TrainingSetup(model, TOKENS, 8, data=8))
    wider = replace(step, setup=replace(step.setup, data=16, batch=16))
    with pytest.raises(InputError, match="the setup needs 16 devices; 'a800-node' has 8"):
        write_step(wider, node.prices)


def test_a_distributed_optimizer_is_the_first_stage_of_zero(model: str, node: Estimator) -> None:
    setup = TrainingSetup(model, TOKENS, 8, data=8, framework="megatron")
    types = replace(setup.state_types, distributed=True)
    distributed, first = replace(setup, types=types), replace(setup, zero_stage=1)
    mine, theirs = run(node, distributed), run(node, first)
    assert (mine.makespan_s, mine.peak_bytes.tolist()) == (theirs.makespan_s, theirs.peak_bytes.tolist())
    assert max(mine.peak_bytes) < max(run(node, setup).peak_bytes)
    assert max(mine.peak_bytes) == pytest.approx(
        node.estimate(distributed, exact=False).memory.device_bytes, rel=0.05
    )
