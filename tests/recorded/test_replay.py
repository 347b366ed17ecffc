"""Questions to a replay: does it take what was measured, as a plain schedule of streams and waits says?"""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offchip.api import simulate
from simulator.check import check
from simulator.plan import Compute, Plan
from workloads.operators import Host
from workloads.recorded.graph import recorded_graph, replicated
from workloads.recorded.nodes import RankTrace, RecordedNode
from workloads.recorded.order import without_cycles


@st.composite
def recordings(draw):
    """Nodes on two threads and three streams, each waiting for some of those before it."""
    nodes = []
    for index in range(draw(st.integers(1, 12))):
        host = draw(st.booleans())
        lane = draw(
            st.sampled_from(["thread 1", "thread 2"] if host else ["stream 7", "stream 14", "stream 20"])
        )
        waits = draw(st.lists(st.integers(0, index - 1), max_size=3)) if index else []
        took = draw(st.integers(0, 50)) * 1e-6
        work = {"work": Host()} if host else {}
        nodes.append(
            RecordedNode(
                index, f"n{index}", "host" if host else "device", lane, tuple(waits), measured_s=took, **work
            )
        )
    return tuple(nodes)


def plain_schedule(nodes):
    """When each node starts and ends: after its waits and after the one before it on its lane."""
    ends, free = {}, {}
    for node in nodes:
        start = max([free.get(node.stream, 0.0), *(ends[other] for other in node.waits)])
        ends[node.id] = free[node.stream] = start + node.measured_s
    return ends


@given(nodes=recordings())
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("fidelity", ["event", "analytic"])
def test_a_replay_is_the_plain_schedule(fidelity, nodes):
    graph = recorded_graph("job", [RankTrace(0, "job", nodes)], "measured").graph
    line = simulate(graph, "h100-sxm", fidelity=fidelity).timeline
    ends = dict(zip(line.operator, line.end, strict=True))
    expected = plain_schedule(nodes)
    assert {name: ends[name] for name in ends} == pytest.approx(
        {f"n{key}": end for key, end in expected.items()}, abs=1e-12
    )


def test_streams_that_overlap_do_and_one_stream_does_not():
    def two(second):
        nodes = (
            RecordedNode(0, "a", "device", "stream 7", measured_s=10e-6),
            RecordedNode(1, "b", "device", second, measured_s=10e-6),
        )
        return recorded_graph("job", [RankTrace(0, "job", nodes)], "measured").graph

    apart, together = (simulate(two(lane), "h100-sxm") for lane in ("stream 14", "stream 7"))
    assert apart.makespan_s == pytest.approx(10e-6)
    assert together.makespan_s == pytest.approx(20e-6)
    assert apart.devices["h100-sxm"].utilisation == pytest.approx(1.0), "no device is busier than it can be"


def test_a_copy_that_stands_for_more_ranks_takes_as_long_and_meets():
    nodes = (RecordedNode(0, "a", "device", "stream 7", measured_s=10e-6),)
    traces = replicated(RankTrace(0, "job", nodes), 3)
    result = simulate(recorded_graph("job", traces, "measured").graph, "dgx-h100")
    assert result.makespan_s == pytest.approx(10e-6)
    assert len(result.timeline.task) == 3


@given(st.lists(st.lists(st.integers(-2, 9), max_size=4), min_size=1, max_size=9))
def test_cutting_leaves_an_order_and_cuts_nothing_that_has_one(waits):
    nodes = [
        RecordedNode(i, f"n{i}", "device", "", tuple(w for w in before if w != i))
        for i, before in enumerate(waits)
    ]
    kept, cut = without_cycles(nodes)
    done = set()
    while len(done) < len(nodes):
        ready = {i for i, before in enumerate(kept) if i not in done and set(before) <= done}
        assert ready, "what is left has no order"
        done |= ready
    wanted = [{w for w in node.waits if 0 <= w < len(nodes)} for node in nodes]
    reach = {i: _reached(wanted, i) for i in range(len(nodes))}
    lost = {(i, w) for i, before in enumerate(wanted) for w in before if w not in kept[i]}
    assert all(i in reach[w] and w >= i for i, w in lost), "only waits within a cycle, against the record"
    assert cut.backward == len(lost)


def _reached(waits, start):
    found, queue = set(), [start]
    while queue:
        for other in waits[queue.pop()]:
            if other not in found:
                found.add(other)
                queue.append(other)
    return found


def test_the_checker_refuses_a_measured_task_without_a_measurement():
    nodes = (RecordedNode(0, "a", "device", "stream 7", measured_s=10e-6),)
    graph = recorded_graph("job", [RankTrace(0, "job", nodes)], "measured").graph
    from hw_configs.library import load_system

    system = load_system("h100-sxm")
    task = Compute("a", "s", "a", "h100-sxm", measured=True)
    plan = Plan(graph.name, system.name, "", (task,), {})
    assert check(plan, graph, system) == []
    bare = replace(graph, operators=tuple(replace(op, measured_s=None) for op in graph.operators))
    (violation,) = check(plan, bare, system)
    assert violation.message == "takes the measured time of 'a', which has none"
