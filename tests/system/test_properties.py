"""Laws that every run of every valid plan keeps."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from machines import GivenSeconds, analytic_run, event_run, with_capacity
from oracle import data_is_right, list_order_peaks, lives, max_min, play
from random_plans import Case, cases

from hw_configs.problems import InfeasibleError
from simulator.check import check
from simulator.link.flows import fair_rates
from simulator.plan_file import read_plan, write_plan
from simulator.system.costs import CostTable
from simulator.system.engine import PhaseRun
from simulator.system.physics import check_phase
from workloads.graph import PERSISTENT_ROLES

EXAMPLES = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


def runs(case: Case) -> dict[str, PhaseRun]:
    return {
        "event": event_run(case.plan, case.graph, case.system),
        "analytic": analytic_run(case.plan, case.graph, case.system),
    }


@EXAMPLES
@given(cases())
def test_valid_plans_are_accepted_and_run_within_physics(case: Case) -> None:
    assert data_is_right(case.plan, case.graph, case.system), "the generator is wrong"
    assert check(case.plan, case.graph, case.system) == []
    costs = CostTable(case.system, GivenSeconds())
    for run in runs(case).values():
        assert len(run.records) == len(case.plan.tasks)
        check_phase(run, case.graph, case.system, costs)


@EXAMPLES
@given(cases())
def test_streams_and_devices_do_one_thing_at_a_time(case: Case) -> None:
    for run in runs(case).values():
        lanes: dict[str, list[tuple[float, float]]] = {}
        for record in run.records:
            lanes.setdefault(record.task.stream, []).append((record.start, record.end))
            if record.task.kind == "compute":
                lanes.setdefault(f"device {record.task.device}", []).append((record.start, record.end))
        for spans in lanes.values():
            for (_, end), (start, _) in pairwise(sorted(spans)):
                assert start >= end - 1e-9


@EXAMPLES
@given(cases())
def test_bytes_into_a_wire_are_the_bytes_that_tasks_moved(case: Case) -> None:
    costs = CostTable(case.system, GivenSeconds())
    for run in runs(case).values():
        expected: dict[str, float] = {}
        for record in run.records:
            task = record.task
            if task.kind == "transfer":
                size = case.graph.tensors[task.tensor].size_bytes
                assert record.moved_bytes == record.received_bytes == size
                for resource, weight in costs.path(task.source, task.target).load.items():
                    expected[resource] = expected.get(resource, 0.0) + size * weight
            elif task.kind == "collective" and task.device == task.group[0]:
                operator = case.graph.operator_by_name[task.operator]
                for round_ in costs.rounds(operator, task.group):
                    for source, target, size in round_.sends:
                        here, there = (case.system.nodes[n].memory or n for n in (source, target))
                        for resource, weight in costs.path(here, there).load.items():
                            expected[resource] = expected.get(resource, 0.0) + size * weight
        for resource in {*expected, *run.carried_bytes}:
            assert run.carried_bytes.get(resource, 0.0) == pytest.approx(expected.get(resource, 0.0))
        collective = [r for r in run.records if r.task.kind == "collective"]
        assert sum(r.moved_bytes for r in collective) == sum(r.received_bytes for r in collective)


@EXAMPLES
@given(cases())
def test_memory_is_never_negative_and_ends_with_persistent_tensors_alone(case: Case) -> None:
    for run in runs(case).values():
        for memory, entries in run.ledger.entries.items():
            used = 0
            for before, after in pairwise(entries):
                assert before[0] <= after[0]
            for _, _, change in entries:
                used += change
                assert used >= 0
            stays = sum(
                case.graph.tensors[tensor].size_bytes
                for tensor, homes in case.plan.homes.items()
                for home in homes
                if home.memory == memory and case.graph.tensors[tensor].role in PERSISTENT_ROLES
            )
            assert used == stays
            assert run.ledger.peak_bytes(memory) == sum(size for _, size in run.ledger.peak(memory).live)


@EXAMPLES
@given(cases())
def test_no_run_is_shorter_than_its_work(case: Case) -> None:
    costs = CostTable(case.system, GivenSeconds())
    for run in runs(case).values():
        span = run.end - run.start + 1e-9
        busy: dict[str, float] = {}
        for record in run.records:
            if record.cost is not None:
                device = record.task.device
                busy[device] = busy.get(device, 0.0) + record.cost.seconds + record.cost.launch_seconds
        assert all(seconds <= span for seconds in busy.values())
        for resource, carried in run.carried_bytes.items():
            assert carried / costs.capacity[resource] <= span * (1 + 1e-9)
        assert all(seconds <= span * (1 + 1e-9) for seconds in run.busy_seconds.values())
        number = {record.task.name: record for record in run.records}
        for record in run.records:
            for earlier in record.task.after:
                assert record.start >= number[earlier].end - 1e-9


@EXAMPLES
@given(cases(lanes=1))
def test_event_is_never_faster_than_analytic(case: Case) -> None:
    run = runs(case)
    for slow, fast in zip(run["event"].records, run["analytic"].records, strict=True):
        assert slow.end >= fast.end - 1e-9
        assert slow.task is fast.task


@EXAMPLES
@given(cases(lanes=1))
def test_event_agrees_with_the_oracle(case: Case) -> None:
    expected = play(case.plan, case.graph, case.system, CostTable(case.system, GivenSeconds()))
    run = event_run(case.plan, case.graph, case.system)
    for record, (start, end) in zip(run.records, expected, strict=True):
        assert record.start == pytest.approx(start, abs=1e-5), record.task.name
        assert record.end == pytest.approx(end, abs=1e-5), record.task.name


@EXAMPLES
@given(cases())
def test_copies_live_as_long_as_the_oracle_says(case: Case) -> None:
    run = event_run(case.plan, case.graph, case.system)
    copies = lives(case.plan, case.graph, case.system)
    booked: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for memory, entries in run.ledger.entries.items():
        for time_s, tensor, change in entries:
            booked.setdefault((tensor, memory), []).append((time_s, change))
    expected: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for life in copies:
        size = case.graph.tensors[life.tensor].size_bytes
        users = [run.records[i].end for i in life.touched]
        begin = 0.0 if life.home else run.records[life.written[0]].start
        end = run.end if life.kept or not users else max(users)
        persistent = case.graph.tensors[life.tensor].role in PERSISTENT_ROLES
        at_home = any(h.memory == life.memory for h in case.plan.homes.get(life.tensor, ()))
        entry = expected.setdefault((life.tensor, life.memory), [])
        entry.append((begin, size))
        if not (life.kept and persistent and at_home):
            entry.append((end, -size))
    for key, entries in expected.items():
        found = booked.get(key, [])
        assert sorted(c for _, c in found) == sorted(c for _, c in entries), key
        assert sum(t * c for t, c in found) <= sum(t * c for t, c in entries) + 1e-6


@EXAMPLES
@given(cases())
def test_two_runs_are_equal(case: Case) -> None:
    for one, two in zip(runs(case).values(), runs(case).values(), strict=True):
        assert [(r.start, r.end) for r in one.records] == [(r.start, r.end) for r in two.records]
        assert one.carried_bytes == two.carried_bytes
        assert one.ledger.entries == two.ledger.entries


@settings(EXAMPLES, max_examples=40)
@given(case=cases())
def test_plans_survive_their_file(case: Case, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    write_plan(case.plan, path)
    again = read_plan(path)
    assert again == case.plan
    assert json.loads(path.read_text()) == again.to_json()


LOADS = st.lists(
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from([0.1, 1.0, 1.0, 2.0, 7.0]), max_size=4),
    max_size=7,
)
CAPS = st.lists(st.sampled_from([0.01, 1.0, 5.0, math.inf, math.inf]), min_size=7, max_size=7)


@EXAMPLES
@given(LOADS, st.tuples(*[st.sampled_from([1.0, 3.0, 10.0, 1e9])] * 4), CAPS)
def test_fair_rates_are_max_min_fair(
    loads: list[dict[str, float]], rates: tuple[float, ...], caps: list[float]
) -> None:
    capacity, caps = dict(zip("abcd", rates, strict=True)), caps[: len(loads)]
    found = fair_rates(loads, capacity, caps)
    full = {
        r: sum(rate * load.get(r, 0.0) for load, rate in zip(loads, found, strict=True) if load)
        for r in capacity
    }
    assert all(full[r] <= capacity[r] * (1 + 1e-9) for r in capacity)
    for load, rate, cap in zip(loads, found, caps, strict=True):
        assert rate <= cap
        if rate == cap:
            continue
        bottlenecks = [
            r
            for r in load
            if full[r] >= capacity[r] * (1 - 1e-9)
            and all(rate >= other * (1 - 1e-9) for f, other in zip(loads, found, strict=True) if r in f)
        ]
        assert bottlenecks, "neither its cap nor a full resource holds this flow back"
    for load, rate, expected in zip(loads, found, max_min(loads, capacity, caps), strict=True):
        assert not load or rate == pytest.approx(expected)


@EXAMPLES
@given(cases(), st.booleans())
def test_a_plan_whose_list_order_fits_runs_to_its_end(case: Case, tight: bool) -> None:
    """With memory for the list order and not a byte more, streams wait for one another but never for ever."""
    peaks = list_order_peaks(case.plan, case.graph, case.system)
    squeezed = with_capacity(case.system, {m: peak if tight else 2 * peak for m, peak in peaks.items()})
    costs = CostTable(squeezed, GivenSeconds())
    for runner in (event_run, analytic_run):
        run = runner(case.plan, case.graph, squeezed)
        check_phase(run, case.graph, squeezed, costs)
        assert all(run.ledger.peak_bytes(memory) <= max(2 * peak, 0) for memory, peak in peaks.items())


@EXAMPLES
@given(cases(lanes=1), st.integers(0, 3))
def test_a_byte_less_than_any_order_needs_is_out_of_memory(case: Case, which: int) -> None:
    """Homes and the largest single task are what no order can do without."""
    memory = list(case.system.memories)[which % len(case.system.memories)]
    homes = sum(
        case.graph.tensors[tensor].size_bytes
        for tensor, places in case.plan.homes.items()
        for home in places
        if home.memory == memory
    )
    assume(homes > 0)
    small = with_capacity(case.system, {memory: homes - 1})
    for runner in (event_run, analytic_run):
        with pytest.raises(InfeasibleError, match="short by 1 B") as error:
            runner(case.plan, case.graph, small)
        assert f"the start: {memory} needs" in str(error.value)
