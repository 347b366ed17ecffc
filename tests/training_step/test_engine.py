"""The engine against a second one in plain Python, and against what no step can do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError, PhysicsError
from simulator.training import run as running
from simulator.training.account import accounts
from simulator.training.events import Outcome, run_kernel
from simulator.training.program import COMPUTE_KINDS, ProgramBuilder, StepProgram, TaskKind
from simulator.training.run import run_program
from tests.training_step.step_oracle import run_slowly

SECONDS = st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.0, 3.7])
MOVES = [kind for kind in TaskKind if kind not in COMPUTE_KINDS]


@st.composite
def programs(draw: st.DrawFn) -> StepProgram:
    """Any program whose tasks wait for earlier ones only, so that it ends."""
    builder = ProgramBuilder()
    classes = draw(st.integers(1, 3))
    lanes: list[tuple[int, int]] = []
    for number in range(classes):
        speed = draw(st.sampled_from([1.0, 1.0, 0.5]))
        builder.rank_class(f"class {number}", 1, draw(st.integers(0, 5)), speed)
        lanes.append((number, builder.stream(number, "compute")))
        lanes += [(number, builder.stream(number, f"lane {i}")) for i in range(draw(st.integers(1, 2)))]
    resources = [
        builder.resource(draw(st.sampled_from([1.0, 2.0, 5.0]))) for _ in range(draw(st.integers(1, 3)))
    ]
    routes = [-1]
    for _ in range(draw(st.integers(1, 4))):
        used = draw(st.lists(st.sampled_from(resources), min_size=1, max_size=2, unique=True))
        weights = {r: draw(st.sampled_from([0.5, 1.0, 2.0])) for r in used}
        routes.append(builder.route(weights, {"wire": sum(weights.values())}))
    count = 0
    held = [0] * classes
    for _ in range(draw(st.integers(1, 14))):
        seconds = draw(SECONDS)
        after = draw(st.lists(st.integers(0, count - 1), max_size=2, unique=True)) if count else []
        if draw(st.booleans()):
            computing = [lane for lane in lanes if builder._stream_names[lane[1]] == "compute"]
            number, stream = draw(st.sampled_from(computing))
            kind = draw(st.sampled_from(COMPUTE_KINDS))
            members, traffic, meeting = [(number, stream)], (0.0, -1), -1
        else:
            others = [lane for lane in lanes if builder._stream_names[lane[1]] != "compute"]
            members = draw(st.lists(st.sampled_from(others), min_size=1, max_size=3, unique=True))
            kind = draw(st.sampled_from(MOVES))
            traffic = (draw(st.sampled_from([0.0, 1.0, 3.0])), draw(st.sampled_from(routes)))
            meeting = builder.meeting() if len(members) > 1 else -1
        for place, (number, stream) in enumerate(members):
            size = draw(st.integers(0, 4))
            held[number] += size
            builder.add(
                stream, kind, seconds, label=f"task {count}", after=after if place == 0 else (), traffic=traffic,
                memory=(size, 0), meeting=meeting,
            )  # fmt: skip
            count += 1
    for number in range(classes):
        stream = next(s for c, s in lanes if c == number)
        builder.add(stream, TaskKind.OPTIMIZER, 0.0, after=range(count), memory=(0, -held[number]))
    return builder.build()


@given(programs())
@settings(max_examples=250, deadline=None)
def test_both_engines_agree(program: StepProgram) -> None:
    run, slow = run_program(program), run_slowly(program)
    np.testing.assert_allclose(run.start, slow.start, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(run.end, slow.end, rtol=1e-9, atol=1e-9)
    assert run.peak_bytes.tolist() == slow.peak
    assert program.classes.held.tolist() == slow.held


@given(programs())
@settings(max_examples=150, deadline=None)
def test_no_step_does_more_than_it_can(program: StepProgram) -> None:
    run = run_program(program)
    tasks = program.tasks
    assert (run.end - run.start >= tasks.seconds - 1e-9).all()
    for stream in range(len(program.streams.rank_class)):
        own = program.streams.to[program.streams.start[stream] : program.streams.start[stream + 1]]
        assert (run.start[own][1:] >= run.end[own][:-1] - 1e-12).all(), "a stream does one thing at a time"
        assert run.makespan_s >= (run.end[own] - run.start[own]).sum() - 1e-9
    for before in range(len(program)):
        after = program.successors.to[program.successors.start[before] : program.successors.start[before + 1]]
        assert (run.start[after] >= run.end[before]).all()
    for meeting in range(len(program.members.start) - 1):
        own = program.members.to[program.members.start[meeting] : program.members.start[meeting + 1]]
        assert len(set(run.start[own])) == len(set(run.end[own])) == 1
    # What each resource carried takes at least as long as its capacity says.
    counted: set[int] = set()
    carried = np.zeros(len(program.routes.capacity))
    for task in range(len(program)):
        meeting = int(tasks.meeting[task])
        if tasks.route[task] < 0 or (meeting >= 0 and meeting in counted):
            continue
        counted.add(meeting)
        for k in range(program.routes.start[tasks.route[task]], program.routes.start[tasks.route[task] + 1]):
            carried[program.routes.resource[k]] += tasks.bytes[task] * program.routes.weight[k]
    assert (carried <= program.routes.capacity * run.makespan_s + 1e-9).all()


@given(programs())
@settings(max_examples=150, deadline=None)
def test_every_second_of_a_class_is_accounted_for(program: StepProgram) -> None:
    run = run_program(program)
    for number, account in enumerate(accounts(run)):
        assert math.isclose(
            sum(account.seconds.values()) + account.bubble_s, run.makespan_s, rel_tol=1e-9, abs_tol=1e-9
        )
        assert account.bubble_s >= -1e-9
        assert min(account.seconds.values()) >= -1e-12
        moments, used = run.memory_over_time(number)
        assert used.max() <= account.peak_bytes
        assert used[-1] == program.classes.held[number]
        assert (np.diff(moments) > 0).all()


def chain(speed: float = 1.0) -> tuple[ProgramBuilder, int, int]:
    builder = ProgramBuilder()
    number = builder.rank_class("device", speed_beside=speed)
    return builder, builder.stream(number, "compute"), builder.stream(number, "comm")


def test_traffic_beside_computation_is_hidden_and_what_sticks_out_is_exposed() -> None:
    builder, compute, comm = chain()
    wire = builder.route({builder.resource(10.0): 1.0}, {"wire": 2.0})
    first = builder.add(compute, TaskKind.FORWARD, 2.0)
    sent = builder.add(comm, TaskKind.DATA, 3.0, traffic=(30.0, wire))
    builder.add(compute, TaskKind.BACKWARD, 1.0, after=[sent])
    builder.add(comm, TaskKind.SWAP, 0.5, after=[first], traffic=(1.0, wire))
    run = run_program(builder.build())
    (account,) = accounts(run)
    assert run.makespan_s == 4.0
    assert account.seconds["data"] == 1.0
    assert account.seconds["swap"] == 0.0
    assert run.carried_bytes() == {"wire": 62.0}


def test_traffic_that_meets_on_a_wire_shares_it() -> None:
    builder, _, comm = chain()
    other = builder.stream(0, "other")
    wire = builder.resource(10.0)
    builder.add(comm, TaskKind.DATA, 1.0, traffic=(10.0, builder.route({wire: 1.0})))
    builder.add(other, TaskKind.PIPELINE, 4.0, traffic=(10.0, builder.route({wire: 1.0})))
    run = run_program(builder.build())
    # The second one asks for 2.5 of the wire's 10, which it gets; the first has the other 7.5.
    assert run.end.tolist() == pytest.approx([10 / 7.5, 4.0])


def test_traffic_slows_computation_where_the_class_says_so() -> None:
    builder, compute, comm = chain(speed=0.5)
    builder.add(compute, TaskKind.FORWARD, 3.0)
    builder.add(comm, TaskKind.DATA, 2.0)
    builder.add(comm, TaskKind.SWAP, 5.0)
    assert run_program(builder.build()).end.tolist() == [4.0, 2.0, 7.0], "copies take no cores"


def test_orders_that_wait_for_each_other_are_told() -> None:
    builder = ProgramBuilder()
    streams = [builder.stream(builder.rank_class(name), "compute") for name in ("left", "right")]
    first = builder.add(streams[0], TaskKind.FORWARD, 1.0, label="forward of stage 0")
    second = builder.add(streams[1], TaskKind.FORWARD, 1.0, label="forward of stage 1", after=[first])
    builder.wait(first, second)
    with pytest.raises(InputError, match=r"2 tasks wait for each other, first 'forward of stage 0' on left"):
        run_program(builder.build())


def test_memory_that_is_not_given_back_is_a_defect() -> None:
    builder, compute, _ = chain()
    builder.add(compute, TaskKind.FORWARD, 1.0, memory=(5, -4))
    with pytest.raises(PhysicsError, match="1 bytes more"):
        run_program(builder.build())


def test_numbers_that_name_nothing_are_a_defect() -> None:
    builder, compute, _ = chain()
    builder.add(compute, TaskKind.DATA, 1.0, traffic=(1.0, 3))
    with pytest.raises(ValueError, match="route that there is not"):
        builder.build()


@pytest.mark.parametrize(
    ("task", "moment", "shift", "message"),
    [
        (1, "end", -0.5, "'sent' on device .comm. is shorter than when it is alone"),
        (2, "start", -0.5, "'last' on device .compute. starts before"),
        (1, "start", -1.0, "'sent' on device .comm. starts before what it waits for ends"),
    ],
)  # fmt: skip
def test_a_run_that_breaks_a_bound_is_a_defect(
    monkeypatch: pytest.MonkeyPatch, task: int, moment: str, shift: float, message: str
) -> None:
    builder, compute, comm = chain()
    first = builder.add(compute, TaskKind.FORWARD, 2.0, label="first")
    wire = builder.route({builder.resource(10.0): 1.0})
    sent = builder.add(comm, TaskKind.DATA, 1.0, label="sent", after=[first], traffic=(10.0, wire))
    builder.add(compute, TaskKind.BACKWARD, 1.0, label="last", after=[sent])

    def tampered(program: StepProgram) -> Outcome:
        outcome = run_kernel(program)
        getattr(outcome, moment)[task] += shift
        return outcome

    program = builder.build()
    monkeypatch.setattr(running, "run_kernel", tampered)
    with pytest.raises(PhysicsError, match=message):
        run_program(program)


def test_a_wire_that_carries_too_much_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    builder, _, comm = chain()
    builder.add(
        comm, TaskKind.DATA, 1.0, label="sent", traffic=(10.0, builder.route({builder.resource(10.0): 2.0}))
    )

    def tampered(program: StepProgram) -> Outcome:
        outcome = run_kernel(program)
        outcome.end[0] = 1.0
        return outcome

    program = builder.build()
    assert run_program(program).makespan_s == pytest.approx(2.0)
    monkeypatch.setattr(running, "run_kernel", tampered)
    with pytest.raises(PhysicsError, match=r"carries 2\.000 of what it can"):
        run_program(program)
