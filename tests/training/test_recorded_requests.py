"""Recordings replayed: against an allocator that scans, against plain sums, and from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import offchip
from mapping.allocation.pytorch_snapshot import recording_of
from mapping.training.recorded_requests import Request, requests_of, serve_requests
from tests.training.caching_oracle import OutOfMemoryError, ScanningAllocator

MIB = 2**20
DUMPS = Path(__file__).parents[1] / "reference" / "alloc" / "dumps"

Lives = list[tuple[int, int, int]]


def lives() -> st.SearchStrategy[Lives]:
    return st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 9), st.integers(0, 30 * MIB)).map(
            lambda row: (row[0], row[0] + row[1], row[2])
        ),
        max_size=25,
    )


def _plainly(rows: Lives, streams: list[int], capacity: int | None) -> tuple[int, int, int, int | None]:
    """Peaks of requested, allocated and reserved bytes, and the block that failed; by scanning."""
    last = max((upper for lower, upper, size in rows if lower < upper and size), default=0)
    allocators = {stream: ScanningAllocator(capacity) for stream in streams}
    peaks, alive = [0, 0, 0], set()
    for moment in range(last):
        for block, (lower, upper, size) in enumerate(rows):
            if lower < upper == moment and size:
                allocators[streams[block]].free(block)
                alive.remove(block)
        for block, (lower, upper, size) in enumerate(rows):
            if lower == moment < upper and size:
                try:
                    allocators[streams[block]].malloc(block, size)
                except OutOfMemoryError:
                    return *peaks, block  # type: ignore[return-value]
                alive.add(block)
                now = (
                    sum(rows[i][2] for i in alive),
                    sum(one.allocated for one in allocators.values()),
                    sum(one.reserved for one in allocators.values()),
                )
                peaks = [max(pair) for pair in zip(peaks, now, strict=True)]
    return *peaks, None  # type: ignore[return-value]


@given(lives(), st.data(), st.one_of(st.none(), st.integers(10, 100).map(lambda n: n * MIB)))
@settings(max_examples=150, deadline=None)
def test_a_replay_is_what_scanning_allocators_do(
    rows: Lives, data: st.DataObject, capacity: int | None
) -> None:
    most = 0 if capacity is not None else 2
    streams = [data.draw(st.integers(0, most)) for _ in rows]
    use = serve_requests(requests_of(rows, streams), capacity=capacity)
    assert (use.requested_peak, use.allocated_peak, use.reserved_peak, use.failed) == _plainly(
        rows, streams, capacity
    )


@given(lives())
@settings(max_examples=100, deadline=None)
def test_no_allocator_holds_less_than_was_asked_for(rows: Lives) -> None:
    for expandable in (False, True):
        use = serve_requests(requests_of(rows), expandable=expandable)
        assert use.requested_peak <= use.allocated_peak <= use.reserved_peak
        assert use.failed is None


def test_the_guard_sees_a_pool_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one pool for all streams the replay no longer agrees with the scanning allocators."""
    rows, streams = [(0, 1, MIB // 2), (1, 2, MIB // 2)], [0, 1]
    assert serve_requests(requests_of(rows, streams)).reserved_peak == _plainly(rows, streams, None)[2]
    shared = serve_requests(requests_of(rows))
    assert shared.reserved_peak != _plainly(rows, streams, None)[2]
    monkeypatch.setattr("mapping.training.caching_allocator.SMALL_SEGMENT", 4 * MIB)
    assert serve_requests(requests_of(rows, streams)).reserved_peak != _plainly(rows, streams, None)[2]


def test_blocks_from_before_come_first_and_frees_before_mallocs() -> None:
    assert requests_of([(0, 2, 5), (0, 1, 6), (1, 2, 7), (1, 1, 8), (0, 2, 0)], earlier=1) == [
        Request(0, 5), Request(1, 6), Request(1, None), Request(2, 7),
    ]  # fmt: skip
    assert requests_of([(3, 5, 5), (0, 4, 6)], (1, 2), earlier=1)[0] == Request(0, 5, 1)


@pytest.mark.parametrize("allocator", ["caching", "expandable", "planned"])
def test_a_snapshot_through_each_allocator(cli: Callable[..., Any], allocator: str) -> None:
    outcome = cli("trace", "memory", DUMPS / "snap_before_record.pickle", "--allocator", allocator, "--json")
    answer = json.loads(outcome.out)
    assert (outcome.code, answer["blocks"], answer["blocks_before_recording"]) == (0, 3, 1)
    assert (answer["requested_peak"], answer["allocated_peak"]) == (1124 * MIB, 1124 * MIB)
    # Pages of 20 MiB: 1,024 MiB and then 100 MiB in 57 of them.
    assert answer["reserved_peak"] == (1140 if allocator == "expandable" else 1124) * MIB
    assert answer["fragmentation"] == answer["reserved_peak"] - 1124 * MIB
    assert answer["bound"] == (1124 * MIB if allocator == "planned" else None)
    assert answer["recorded"]["reserved_end"] == 1074 * MIB
    assert answer["recorded"]["reserved_peak"] is None


def test_fragmentation_that_a_plan_avoids(tmp_path: Path) -> None:
    # Two freed blocks of 30 MiB apart in segments do not serve 60 MiB: 120 MiB reserved, where a plan needs 60.
    trace = tmp_path / "trace.txt"
    trace.write_text("malloc a 30MiB\nmalloc b 30MiB\nfree a\nfree b\nmalloc c 60MiB\n")
    caching = offchip.trace_memory(trace)
    planned = offchip.trace_memory(trace, allocator="planned")
    assert (caching.use.reserved_peak, caching.fragmentation) == (120 * MIB, 60 * MIB)
    assert (planned.use.reserved_peak, planned.bound, planned.fragmentation) == (60 * MIB, 60 * MIB, 0)
    assert offchip.trace_memory(trace, capacity="100 MiB").use.reorganisations == 1
    empty = tmp_path / "empty.csv"
    empty.write_text("id,lower,upper,size\n")
    assert offchip.trace_memory(empty, allocator="planned").use.reserved_peak == 0


def test_running_out_is_told_with_the_bytes(cli: Callable[..., Any]) -> None:
    path = DUMPS / "snap_before_record.json"
    outcome = cli("trace", "memory", path, "--capacity", "1100MiB")
    assert (outcome.code, outcome.err) == (
        3, f"out of memory: block 0x7f0040000000 asks for {100 * MIB} bytes with {1024 * MIB} of {1100 * MIB} bytes "
        "reserved\n",
    )  # fmt: skip
    assert "out of memory" in outcome.out
    outcome = cli("trace", "memory", path, "--capacity", "1100MiB", "--allocator", "planned")
    assert (outcome.code, outcome.err) == (
        3, f"infeasible (proved): every plan needs {1124 * MIB} bytes, the capacity is {1100 * MIB}\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["snap_two_devices.json"], "holds the devices 0, 1, each with its own memory; choose one with --device-index"),
        (["snap_two_devices.json", "--device-index", 5], "--device-index: found 5"),
        (["snap_two_devices.json", "--device-index", -1], "--device-index: found -1; expected at least 0"),
        (["snap_before_record.json", "--allocator", "x"], "--allocator: found 'x'; expected caching, expandable"),
        (["snap_before_record.json", "--capacity", "0"], "--capacity: found 0; expected 1 to 2**60 bytes"),
        (["snap_before_record.json", "--capacity", "x"], "--capacity"),
        (["snap_before_record.json", "--time-limit", 0], "--time-limit: found 0; expected seconds above zero"),
        (["nested_loops-live-range.txt"], "has buffers with gaps"),
        (["absent.pickle"], "absent.pickle: cannot be read: No such file or directory"),
        (["xla_tuple.txt", "--device-index", 1], "--device-index: found 1"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(cli: Callable[..., Any], arguments: list[object], words: str) -> None:
    outcome = cli("trace", "memory", DUMPS / str(arguments[0]), *arguments[1:])
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1), outcome.err
    assert words in outcome.err


def test_sizes_out_of_range_are_told(cli: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"device_traces": [[{"action": "alloc", "addr": 1, "size": -5}]]}))
    outcome = cli("trace", "memory", path)
    assert (outcome.code, outcome.err) == (
        2,
        "size: buffer '0x1': found -5; expected a size of at least 0 bytes\n",
    )


def test_several_streams_have_pools_of_their_own(cli: Callable[..., Any], tmp_path: Path) -> None:
    def event(action: str, address: int, stream: int) -> dict[str, object]:
        return {"action": action, "addr": address, "size": MIB // 2, "stream": stream}

    trace = [event("alloc", 0, 0), event("free_completed", 0, 0), event("alloc", 4 * MIB, 7)]
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"device_traces": [trace]}))
    found = offchip.trace_memory(path)
    assert (found.streams, found.use.reserved_peak, found.use.allocated_peak) == (2, 4 * MIB, MIB // 2)
    outcome = cli("trace", "memory", path, "--capacity", "1GiB")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert outcome.err.startswith("--capacity: the recording has 2 streams")


class Recorder:
    """A scanning allocator whose events, and segments at the end, are written as PyTorch writes them."""

    def __init__(self) -> None:
        self.allocator = ScanningAllocator(None)
        self.events: list[dict[str, Any]] = []
        self.asked: dict[int, int] = {}

    def bases(self) -> dict[int, int]:
        return {base: sum(b[0] or 0 for b in blocks) for base, _, blocks in self.allocator.segments}

    def malloc(self, block: int, size: int) -> None:
        before = self.bases()
        address = self.allocator.malloc(block, size)
        for base, whole in self.bases().items():
            if base not in before:
                self.note("segment_alloc", base, whole)
        self.asked[block] = size
        self.note("alloc", address, size)

    def free(self, block: int) -> None:
        address = self.address_of(block)
        self.allocator.free(block)
        self.note("free_requested", address, self.asked[block])
        self.note("free_completed", address, self.asked.pop(block))

    def address_of(self, block: int) -> int:
        for base, _, blocks in self.allocator.segments:
            for length, holder, _ in blocks:
                if holder == block:
                    return base
                base += length or 0
        raise AssertionError("not there")

    def give_back(self) -> None:
        """As ``torch.cuda.empty_cache`` does."""
        for base, whole in self.bases().items():
            if any(s[0] == base and ScanningAllocator._idle(s) for s in self.allocator.segments):
                self.note("segment_free", base, whole)
        self.allocator.segments = [s for s in self.allocator.segments if not ScanningAllocator._idle(s)]

    def note(self, action: str, address: int, size: int) -> None:
        self.events.append({"action": action, "addr": 2**40 + address, "size": size, "stream": 0})

    def snapshot(self) -> dict[str, Any]:
        segments = []
        for base, _, blocks in self.allocator.segments:
            rows, address = [], base
            for length, holder, _ in blocks:
                row = {"address": 2**40 + address, "size": length, "state": "inactive"}
                if holder is not None:
                    row |= {"state": "active_allocated", "requested_size": self.asked[holder]}
                rows.append(row)
                address += length or 0
            segments.append({
                "address": 2**40 + base, "total_size": address - base, "stream": 0, "device": 0, "blocks": rows,
            })  # fmt: skip
        return {"segments": segments, "device_traces": [self.events]}


@given(
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(1, 24 * MIB)), min_size=4, max_size=40),
    cut=st.floats(0, 0.9), emptied=st.booleans(),
)  # fmt: skip
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_recording_that_begins_late_goes_on_from_the_segments_that_were_there(
    tmp_path: Path, steps: list[tuple[bool, int, int]], cut: float, emptied: bool
) -> None:
    """What a second allocator held while it was recorded, from any moment on, is what the replay says."""
    recorder, alive, begin = Recorder(), [], int(cut * len(steps))
    reserved, allocated = [], []
    for number, (frees, which, size) in enumerate(steps):
        if number == begin:
            recorder.events.clear()
            if emptied:
                recorder.give_back()
                recorder.events.clear()
            reserved, allocated = [recorder.allocator.reserved], [recorder.allocator.allocated]
        if frees and alive:
            recorder.free(alive.pop(which % len(alive)))
        else:
            recorder.malloc(number, size)
            alive.append(number)
        reserved.append(recorder.allocator.reserved)
        allocated.append(recorder.allocator.allocated)
    if not recorder.events or not (alive or any(e["action"] == "free_completed" for e in recorder.events)):
        return
    path = tmp_path / "late.json"
    path.write_text(json.dumps(recorder.snapshot()))
    replay = offchip.trace_memory(path)
    assert replay.use.reserved_peak == max(reserved) == replay.recorded_peak
    assert replay.use.reserved_end == reserved[-1]
    assert replay.use.allocated_peak == max(allocated)
    assert replay.use.driver_mallocs == sum(e["action"] == "segment_alloc" for e in recorder.events)


def test_a_segment_from_before_serves_what_comes(tmp_path: Path) -> None:
    """By hand: 40 MiB with 10 in use at 8; 12 MiB fit behind it, 30 do not; the segment stays, and 30 MiB come."""
    blocks = [
        (0, 8, "inactive"),
        (8, 10, "active_allocated"),
        (18, 12, "active_allocated"),
        (30, 10, "inactive"),
    ]
    base = 2**40
    segments = [
        {"address": base, "total_size": 40 * MIB, "blocks": [
            {"address": base + at * MIB, "size": size * MIB, "state": state} for at, size, state in blocks
        ]},
        {"address": base + 2**30, "total_size": 30 * MIB, "blocks": [{"size": 30 * MIB, "state": "active_allocated"}]},
    ]  # fmt: skip
    events = [
        {"action": "alloc", "addr": base + 18 * MIB, "size": 12 * MIB},
        {"action": "segment_alloc", "addr": base + 2**30, "size": 30 * MIB},
        {"action": "alloc", "addr": base + 2**30, "size": 30 * MIB},
    ]
    path = tmp_path / "hand.json"
    path.write_text(json.dumps({"segments": segments, "device_traces": [events]}))
    replay = offchip.trace_memory(path)
    assert (replay.use.reserved_peak, replay.use.allocated_peak) == (70 * MIB, 52 * MIB)
    assert (replay.use.driver_mallocs, replay.earlier) == (1, 1)
    # Without the segment's events nobody can say which were there: blocks are asked for anew.
    path.write_text(json.dumps({"segments": segments[:1], "device_traces": [events[:1]]}))
    assert offchip.trace_memory(path).use.reserved_peak == 40 * MIB
    lost = [event for event in events if event["action"] == "alloc"]
    path.write_text(json.dumps({"segments": segments, "device_traces": [[*lost, {**lost[1], "action": "free"},
                                {**lost[1], "addr": base + 2**31}, {**lost[1], "addr": base + 2**31, "action": "free"},
                                lost[1]]]}))  # fmt: skip
    assert offchip.trace_memory(path).use.driver_mallocs > 1


def test_segments_given_back_while_recording_were_there_before() -> None:
    recorder = Recorder()
    recorder.malloc(0, 30 * MIB)
    recorder.malloc(1, 12 * MIB)
    recorder.events.clear()
    before = recorder.bases()
    recorder.free(0)
    recorder.give_back()
    recorder.malloc(2, 50 * MIB)
    found = recording_of(recorder.snapshot()).segments
    assert found is not None
    assert {one.address - 2**40: one.size for one in found} == before
