"""The loop of queries in flight against a plain telling of it, and against the drive engine alone."""

from __future__ import annotations

import dataclasses
import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.library import load_device
from hw_configs.problems import InputError, PhysicsError
from simulator.flash.drive import drive_of
from simulator.flash.engine import DriveRun, RunOptions, simulate_drive
from simulator.vector_search.drives import FILLED, Completion, DriveArray, Submission, sized_down
from simulator.vector_search.queries import Load, run_queries
from tests.vector_search.oracle import answer_times
from workloads.block_trace.trace import ArrayBlocks, BlockRequests


class Told:
    """A store whose reads take times that a rule tells; it takes any number at once."""

    def __init__(self, rule):
        self.rule, self.back, self.rounds = rule, [], {}

    def submit(self, asked):
        number = self.rounds.get(asked.owner, 0)
        self.rounds[asked.owner] = number + 1
        for i in range(len(asked.size)):
            heapq.heappush(self.back, (asked.now + self.rule(asked.owner, number, i), asked.owner))

    def completions(self, horizon):
        if not self.back or self.back[0][0] > horizon:
            return []
        return [Completion(*heapq.heappop(self.back))]


def asked_of(counts):
    def reads(query, number, now):
        none = np.zeros(counts[number], np.int64)
        return Submission(now, query, none, none, none + 4096)

    return reads


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 5), st.integers(1, 5), st.lists(st.integers(1, 4), max_size=3),
    st.integers(0, 2**32 - 1), st.booleans(),
)  # fmt: skip
def test_queries_take_the_times_of_the_plain_telling(queries, in_flight, servers, counts, seed, busy):
    """Times are drawn wide, so that no two rounds become ready at one moment, whose order would be anyone's."""
    random = np.random.default_rng(seed)
    most = 10**6 if busy else 10**3
    work = random.integers(1, most, len(counts) + 1).tolist()
    latency = random.integers(10**5, 10**6, (queries, len(counts) + 1, 4))

    def rule(query, number, read):
        return int(latency[query, number, read])

    found = run_queries(Load(queries, in_flight, servers, work, asked_of(counts)), Told(rule))
    began, ended = answer_times(queries, in_flight, servers, work, counts, rule)
    assert (found.began.tolist(), found.ended.tolist()) == (began, ended)


def test_rounds_by_hand():
    """Two queries, one server, work of 10 before and 5 after a read of 100: 115, and 10 later."""
    load = Load(2, 2, 1, [10, 5], asked_of([2]))
    assert run_queries(load, Told(lambda q, r, i: 100 - 50 * i)).ended.tolist() == [115, 125]


def test_a_round_waits_for_its_slowest_read():
    slow = run_queries(Load(1, 1, 1, [0, 0], asked_of([3])), Told(lambda q, r, i: [7, 50, 9][i]))
    assert slow.ended.tolist() == [50]


def test_littles_law_is_held_and_a_wrong_book_is_seen():
    found = run_queries(Load(9, 3, 2, [3, 4], asked_of([1])), Told(lambda q, r, i: 11 + q))
    assert found.in_flight_ns == int(found.latency.sum())
    with pytest.raises(PhysicsError, match="queries in flight to"):
        dataclasses.replace(found, in_flight_ns=found.in_flight_ns - 1).check()


def test_a_read_that_is_lost_is_seen():
    store = Told(lambda q, r, i: 5)
    store.completions = lambda horizon: []
    with pytest.raises(PhysicsError, match="never come back"):
        run_queries(Load(1, 1, 1, [0, 0], asked_of([1])), store)


DRIVE = sized_down(drive_of(load_device("nvme-pcie4-dc-tlc")))


def random_reads(rounds, count, size, drives=1, seed=3):
    random = np.random.default_rng(seed)
    shape = (rounds, count)
    address = random.integers(0, DRIVE.capacity_bytes // 4096 - size // 4096, shape) * 4096
    return address, random.integers(0, drives, shape), np.full(shape, size, np.int64)


def loop(address, which, size, drives, queries=1, in_flight=1, work=0, drive=DRIVE):
    per = len(address) // queries
    array = DriveArray(drive, drives, int(size.max()), seed=1)

    def reads(query, number, now):
        row = query * per + number
        return Submission(now, query, which[row], address[row], size[row])

    load = Load(queries, in_flight, in_flight, [work] * (per + 1), reads)
    return run_queries(load, array), array


def test_one_query_is_the_serial_run_exactly():
    """Round after round by hand on a drive of its own: the same nanosecond."""
    address, which, size = random_reads(30, 4, 8192)
    found, _ = loop(address, which, size, 1, work=700)
    again, now = DriveArray(DRIVE, 1, 8192, seed=1), 700
    for row in range(30):
        again.submit(Submission(now, 0, which[row], address[row], size[row]))
        while again.pending:
            (back, *_) = again.completions(1 << 61)
        now = back.now + 700
    assert found.time_ns == now


@pytest.mark.parametrize("in_flight", [1, 5])
def test_the_rounds_are_a_fixed_point_of_the_engine_s_open_loop(in_flight):
    """All reads at the times at which the loop sent them, in one run of the engine: each comes back when it did."""
    address, which, size = random_reads(60, 4, 8192)
    sent = []

    class Noting(DriveArray):
        def submit(self, asked):
            sent.append(asked)
            super().submit(asked)

    array = Noting(DRIVE, 1, 8192, seed=1)

    def reads(query, number, now):
        row = query * 6 + number
        return Submission(now, query, which[row], address[row], size[row])

    found = run_queries(Load(10, in_flight, in_flight, [900] * 7, reads), array)
    columns = [np.concatenate([getattr(one, name) for one in sent]) for name in ("address", "size")]
    arrival = np.repeat([one.now for one in sent], 4)
    run = DriveRun.begin(DRIVE, RunOptions(outstanding=0, history=FILLED), 8192)
    run.latencies = np.full(240, -1, np.int64)
    run.feed(BlockRequests(np.zeros(240, np.int64), *columns, arrival), final=True)
    back = (arrival + run.latencies).reshape(-1, 4).max(axis=1)
    ends = {}
    for one, end in zip(sent, back.tolist(), strict=True):
        if one.owner in ends:
            assert one.now == ends[one.owner] + 900
        ends[one.owner] = end
    assert [ends[query] + 900 for query in range(10)] == found.ended.tolist()


def test_the_loop_is_the_engine_s_own_closed_loop():
    """Queries of one read each, without work, are a closed loop of the drive: the engine runs it itself."""
    address, which, size = random_reads(400, 1, 4096)
    found, _ = loop(address, which, size, 1, queries=400, in_flight=16)
    trace = ArrayBlocks(np.zeros(400, np.int64), address.ravel(), size.ravel())
    own = simulate_drive(DRIVE, trace, RunOptions(outstanding=16, history=FILLED))
    assert found.time_ns * 1e-9 == pytest.approx(own.time_s, rel=1e-3)
    assert found.latency.mean() == pytest.approx(own.read_latency.mean_ns, rel=1e-3)


def test_drives_apart_are_as_if_alone():
    """Two drives that queries do not share give each the times it has alone."""
    address, which, size = random_reads(40, 3, 4096)
    both = which.copy()
    both[20:] = 1
    found, _ = loop(address, both, size, 2, queries=2, in_flight=2)
    alone = [
        loop(address[part], 0 * which[part], size[part], 1)[0].time_ns for part in (slice(20), slice(20, 40))
    ]
    assert found.ended.tolist() == alone


@pytest.mark.parametrize("work", [0, 3000])
def test_more_drives_and_a_faster_drive_are_never_slower(work):
    times = []
    for drives in (1, 2, 4):
        address, which, size = random_reads(240, 8, 4096, drives)
        times.append(loop(address, which, size, drives, queries=60, in_flight=24, work=work)[0].time_ns)
    assert times == sorted(times, reverse=True)
    address, which, size = random_reads(240, 8, 4096)
    faster = dataclasses.replace(DRIVE, read_ns=tuple(ns // 2 for ns in DRIVE.read_ns))
    assert loop(address, which, size, 1, 60, 24, work, faster)[0].time_ns < times[0]


def test_too_many_reads_at_once_are_refused_in_one_line():
    address, which, size = random_reads(1, 1024, 4096)
    with pytest.raises(InputError, match=r"--in-flight: 1024 reads at once are more than the 1023"):
        loop(address, which, size, 1)


def test_a_read_in_a_drive_s_past_is_seen():
    array = DriveArray(DRIVE, 1, 4096, seed=1)
    one = np.zeros(1, np.int64)
    array.submit(Submission(1000, 0, one, one, one + 4096))
    assert array.completions(1 << 61)
    with pytest.raises(PhysicsError, match="reaches a drive that is at"):
        array.submit(Submission(1001, 0, one, one, one + 4096))
