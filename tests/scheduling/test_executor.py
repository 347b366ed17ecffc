"""Every schedule runs with real bytes: what operators read is what was written there, at the time they read it."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.library import load_system
from mapping.scheduling import BASELINES, least_budget, problem_from_graph, solve
from mapping.scheduling.lowering import scratchpad_of, to_plan
from mapping.scheduling.replacement import replace_in_order
from mapping.scheduling.stays import assemble
from offchip import api
from simulator.check import check as check_plan
from simulator.rewrite.apply import rewrite
from tests.scheduling.executor import execute
from tests.tiling.networks import networks
from workloads import encoder, models, vision
from workloads.workload import WorkloadOptions

NETWORKS = sorted({*vision.MODELS, *encoder.MODELS})
LARGE = {"densenet-161", "densenet-169", "densenet-201", "resnext-101", "wide-resnet-101", "resnet-152", "vgg-13",
         "vgg-16", "vgg-19", "vit-l-16", "vit-l-32", "vit-h-14", "bert-large-uncased", "roberta-large",
         "amoebanet-d", "pnasnet-5-large", "nasnet-a-large", "unet", "deeplab-v3", "fcn-resnet50"}  # fmt: skip
"""Run with the slow tests: larger sizes of networks that run always, and those of many bytes."""


@pytest.fixture(scope="module")
def machine():
    return load_system("edge-tpu-board")


def sized(system, bytes_):
    """The machine with a scratchpad of so many bytes."""
    node, _ = scratchpad_of(system)
    pad = node.device.scratchpad.model_copy(update={"size": float(bytes_)})
    node = dataclasses.replace(node, device=node.device.model_copy(update={"scratchpad": pad}))
    return dataclasses.replace(system, nodes={**system.nodes, node.name: node})


def run(graph, problem, schedule, system, fidelity="event"):
    plan = to_plan(graph, problem, schedule, system)
    seen = []
    api.simulate(
        graph, system, plan=plan, fidelity=fidelity, watch=lambda g, p, outcome: seen.append(outcome)
    )
    node, _ = scratchpad_of(system)
    size = system.memories[node.name].usable_bytes
    return execute(plan, rewrite(graph, plan), seen[0].records, node.name, size)


def graph_of(name, **options):
    return models.build(name, WorkloadOptions(dtype="int8", prompt=128, **options)).phases[0].graph


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in NETWORKS]
)
def test_every_operator_of_every_network_finds_its_operands_true(machine, name):
    graph = graph_of(name)
    for weights in ("stream", "resident"):
        problem = problem_from_graph(graph, weights)
        budget = least_budget(problem)
        if weights == "stream":
            # Without a look ahead tensors are dropped and moved about, which schedules of least traffic are not.
            online = replace_in_order(problem, range(len(problem.operators)), budget, "belady")
            schedule = assemble(problem, *online)
        else:
            schedule = BASELINES["given/belady"](problem, budget).schedule
        compared = run(graph, problem, schedule, sized(machine, budget))
        assert compared >= 2 * sum(len(set(op.inputs)) for op in graph.operators)


@pytest.mark.parametrize("name", ["inception-v3", "mobilenet-v2", "vit-b-16"])
@pytest.mark.parametrize("share", [1.0, 1.3])
def test_solved_schedules_run_with_real_bytes(machine, name, share):
    graph = graph_of(name)
    problem = problem_from_graph(graph, "stream")
    budget = int(least_budget(problem) * share)
    result = solve(problem, budget, time_limit_s=20)
    assert run(graph, problem, result.schedule, sized(machine, budget))


@pytest.mark.parametrize("dma_engines", [1, 2, 3])
def test_transfers_that_run_ahead_never_touch_bytes_in_use(machine, dma_engines):
    graph = graph_of("densenet-121", dims={"height": 64, "width": 64})
    problem = problem_from_graph(graph, "resident")
    budget = least_budget(problem)
    system = sized(machine, budget)
    node, _ = scratchpad_of(system)
    pad = node.device.scratchpad.model_copy(update={"dma_engines": dma_engines})
    node = dataclasses.replace(node, device=node.device.model_copy(update={"scratchpad": pad}))
    system = dataclasses.replace(system, nodes={**system.nodes, node.name: node})
    for name in ("given/lru", "min-peak/belady", "depth-first/belady", "static-arena"):
        schedule = BASELINES[name](problem, budget).schedule
        assert run(graph, problem, schedule, system)


@given(
    networks(), st.sampled_from(("stream", "resident")), st.floats(1, 2), st.sampled_from(sorted(BASELINES))
)
@settings(max_examples=40, deadline=None)
def test_any_schedule_of_any_network_runs_at_every_fidelity(graph, weights, share, scheme):
    machine = load_system("tpu-v4i-card")
    problem = problem_from_graph(graph, weights)
    budget = int(least_budget(problem) * share)
    schedule = BASELINES[scheme](problem, budget).schedule
    system = sized(machine, budget)
    assert run(graph, problem, schedule, system)
    plan = to_plan(graph, problem, schedule, system)
    times = [api.simulate(graph, system, plan=plan, fidelity=f) for f in ("analytic", "event", "cycle")]
    assert times[0].makespan_s <= times[1].makespan_s * (1 + 1e-9), "contention only takes time"
    moved = [(r.memories["dram"].read_bytes, r.memories["dram"].written_bytes) for r in times]
    assert moved[0] == moved[1] == moved[2]
    spilled = sum(m.size_bytes for m in schedule.transfers if m.kind in ("spill", "store"))
    assert moved[0][1] == spilled


@pytest.fixture(scope="module")
def a_run(machine):
    """A graph, its plan, the records of its run, and the size of the scratchpad."""
    graph = graph_of("densenet-121", dims={"height": 64, "width": 64})
    problem = problem_from_graph(graph, "stream")
    budget = least_budget(problem)
    system = sized(machine, budget)
    # Over real addresses, without a look ahead: tensors move, and what comes fills what has just left.
    online = replace_in_order(problem, range(len(problem.operators)), budget, "belady")
    plan = to_plan(graph, problem, assemble(problem, *online), system)
    seen = []
    api.simulate(graph, system, plan=plan, watch=lambda g, p, outcome: seen.append(outcome))
    return rewrite(graph, plan), plan, seen[0].records, budget


def first_retrieve(plan):
    written = {task.tensor for task in plan.tasks if task.name.startswith("write")}
    return next(i for i, t in enumerate(plan.tasks) if t.name.startswith("read") and t.tensor in written)


def test_the_executor_finds_a_transfer_that_comes_too_early(a_run):
    """A retrieve while an operator still fills the same bytes with something else."""
    graph, plan, records, budget = a_run
    place = first_retrieve(plan)

    def bytes_of(task):
        return [(low, low + graph.tensors[t].size_bytes) for t, low in task.addresses.items()]

    (low, high), *_ = bytes_of(plan.tasks[place])
    before = max(
        i
        for i, task in enumerate(plan.tasks[:place])
        if task.kind == "compute" and any(a < high and low < b for a, b in bytes_of(task))
    )
    early = (records[before].start + records[before].end) / 2
    wrong = list(records)
    wrong[place] = dataclasses.replace(records[place], start=early, end=early)
    with pytest.raises((AssertionError, KeyError)):
        execute(plan, graph, wrong, "accelerator", budget)


@pytest.mark.parametrize("shift", [-64, 64])
def test_the_executor_finds_a_wrong_address(a_run, shift):
    graph, plan, records, budget = a_run
    place = first_retrieve(plan)
    task = plan.tasks[place]
    moved = {t: (a + shift) % budget for t, a in task.addresses.items()}
    tasks = (*plan.tasks[:place], dataclasses.replace(task, addresses=moved), *plan.tasks[place + 1 :])
    with pytest.raises(AssertionError):
        execute(dataclasses.replace(plan, tasks=tasks), graph, records, "accelerator", budget)


def test_the_executor_finds_a_spill_left_out(a_run):
    graph, plan, records, budget = a_run
    tensor = plan.tasks[first_retrieve(plan)].tensor
    kept = [i for i, t in enumerate(plan.tasks) if not (t.name.startswith("write") and t.tensor == tensor)]
    tasks = tuple(plan.tasks[i] for i in kept)
    with pytest.raises((AssertionError, KeyError)):
        execute(
            dataclasses.replace(plan, tasks=tasks), graph, [records[i] for i in kept], "accelerator", budget
        )


@pytest.mark.parametrize("name", ["resnet-18", "mobilenet-v2", "vit-b-16"])
@pytest.mark.parametrize("share", [1.0, 1.2])
def test_what_is_written_in_place_is_true_at_its_reader(machine, name, share):
    """Element-wise outputs take their input's bytes, which nobody reads or writes out afterwards."""
    graph = graph_of(name, fused=False)
    problem, plain = problem_from_graph(graph, in_place=True), problem_from_graph(graph)
    assert problem.has_in_place
    budget = int(least_budget(problem) * share)
    assert least_budget(problem) <= least_budget(plain)
    schedule = solve(problem, budget, time_limit_s=None, max_states=20_000).schedule
    plan = to_plan(graph, problem, schedule, sized(machine, budget))
    assert any(task.in_place for task in plan.tasks if task.kind == "compute")
    for fidelity in ("event", "analytic"):
        assert run(graph, problem, schedule, sized(machine, budget), fidelity) > 0


def test_a_plan_that_writes_over_what_is_wanted_is_refused(machine):
    """Each pair that the machine may not write over one another is named."""
    graph = graph_of("resnet-18", fused=False)
    problem = problem_from_graph(graph, in_place=True)
    budget = least_budget(problem)
    system = sized(machine, budget)
    plan = to_plan(graph, problem, BASELINES["given/belady"](problem, budget).schedule, system)
    at = next(i for i, task in enumerate(plan.tasks) if task.kind == "compute" and task.in_place)
    task = plan.tasks[at]
    assert check_plan(plan, graph, system) == []

    def with_task(**changes):
        tasks = [*plan.tasks]
        tasks[at] = dataclasses.replace(task, **changes)
        return [str(v) for v in check_plan(dataclasses.replace(plan, tasks=tuple(tasks)), graph, system)]

    assert any("shares bytes" in text for text in with_task(in_place={}))
    kept = tuple(pair for pair in task.frees if pair[0] not in task.in_place.values())
    assert kept != task.frees
    (made,) = task.in_place
    assert any(
        "does not allow" in text or "not its output" in text for text in with_task(in_place={made: made})
    )
    moved = {**task.addresses, made: task.addresses[made] + 1}
    assert any("lies elsewhere" in text for text in with_task(addresses=moved))
