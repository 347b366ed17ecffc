"""PyTorch snapshots: blocks from before recording, pickles that run nothing, devices, parts that do not fit."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from mapping.allocation import solve
from mapping.allocation.importers import Part, parse_problem, read_problem, read_recording
from mapping.allocation.pytorch_snapshot import Recording, recording_of
from mapping.training.caching_allocator import CachingAllocator

DUMPS = Path(__file__).parents[1] / "reference" / "alloc" / "dumps"
MIB = 2**20


def told(data: Any, device: int | None = None) -> list[str]:
    with pytest.raises(InputError) as error:
        parse_problem(json.dumps(data), "f", part=Part(device))
    return [str(problem) for problem in error.value.problems]


@pytest.mark.parametrize("ending", ["json", "pickle"])
def test_blocks_from_before_recording_count(ending: str) -> None:
    problem = read_problem(DUMPS / f"snap_before_record.{ending}")
    assert solve(problem).peak_bytes == 1124 * MIB
    assert sorted((b.lower, b.upper, b.size // MIB) for b in problem.buffers) == [
        (0, 1, 100), (0, 3, 1024), (2, 3, 50),
    ]  # fmt: skip


def test_one_of_two_devices(cli: Callable[..., Any]) -> None:
    path = DUMPS / "snap_two_devices.json"
    peaks = [solve(read_problem(path, Part(device))).peak_bytes for device in (0, 1)]
    assert peaks == [1124 * MIB, 100 * MIB]
    outcome = cli("solve", "alloc", path, "--minimize")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "holds the devices 0, 1, each with its own memory; choose one with --device-index" in outcome.err
    outcome = cli("solve", "alloc", path, "--minimize", "--device-index", 7)
    assert (outcome.code, outcome.err) == (2, f"--device-index: found 7; {path} holds 0, 1\n")
    assert cli("solve", "alloc", path, "--minimize", "--device-index", 1).code == 0


def block(address: int, size: int, state: str = "active_allocated") -> dict[str, Any]:
    return {"address": address, "size": -(-size // 512) * 512, "requested_size": size, "state": state}


def segment(*blocks: dict[str, Any], device: int = 0) -> dict[str, Any]:
    size = sum(b["size"] for b in blocks)
    return {"device": device, "address": 0, "total_size": size, "stream": 0, "blocks": list(blocks)}


def event(action: str, address: int = 0, size: int = 8) -> dict[str, Any]:
    return {"action": action, "addr": address, "size": size, "stream": 0}


def test_an_empty_trace_is_answered_by_its_segments_or_refused() -> None:
    held = {"segments": [segment(block(0, 700), block(1024, 512, "inactive"))], "device_traces": [[]]}
    (buffer,) = parse_problem(json.dumps(held)).buffers
    assert (buffer.lower, buffer.upper, buffer.size) == (0, 1, 700)
    nothing = "f: holds no events and no segments; expected a snapshot taken after _record_memory_history()"
    assert told({"segments": [], "device_traces": [[], []]}) == [nothing]
    assert told({"segments": [segment(block(0, 8, "inactive"))], "device_traces": [[]]}) == [nothing]


def test_what_does_not_fit_together_is_refused() -> None:
    trace = [event("alloc", 0, 700)]
    other = segment(block(4096, 8))
    assert told({"segments": [other], "device_traces": [trace]}) == [
        "f: block 0x0 is in use at the end of the trace and in no segment; expected a block that is active there"
    ]
    assert told({"segments": [segment(block(0, 5000))], "device_traces": [trace]}) == [
        "f: block 0x0 has 700 bytes in the trace and 5000 in its segment; expected equal sizes"
    ]
    assert told({"segments": [segment(block(0, 8)), segment(block(0, 8))]}) == [
        "f: segments: block 0x0 stands twice"
    ]
    assert told({"segments": [segment(block(0, -8))]})[0].startswith("size: buffer '0x0': found -8")
    assert told({"segments": [3]}) == ["f: segments.0: found int; expected an object"]
    assert told({"segments": [segment(block(0, 8, "used"))]})[0].startswith(
        "f: segment 0x0: block 0.state: found 'used'; expected one of active_allocated"
    )
    assert told({"segments": [{"address": 0}]}) == ["f: segments: segment 0x0 has no list 'blocks'"]
    assert told({"device_traces": [3]}) == [
        "f: device_traces.0: found int; expected the list of a device's events"
    ]


def test_bytes_that_wait_for_another_stream_are_in_use() -> None:
    waiting = {
        "segments": [segment(block(0, 700, "active_pending_free"))],
        "device_traces": [[event("alloc", 0, 700), event("free_requested", 0, 700)]],
    }
    (buffer,) = parse_problem(json.dumps(waiting)).buffers
    assert (buffer.lower, buffer.upper) == (0, 1)


def test_the_most_that_was_reserved_is_walked_back_from_the_end() -> None:
    trace = [
        event("segment_alloc", 0, 2048), event("alloc", 0, 700), event("segment_alloc", 4096, 4096),
        event("segment_free", 4096, 4096),
    ]  # fmt: skip
    held = segment(block(0, 700), block(1024, 1024, "inactive"))
    recording = recording_of({"segments": [held], "device_traces": [trace]})
    assert (recording.reserved_end, recording.reserved_peak, recording.active_end) == (2048, 6144, 1024)


def test_the_guard_sees_segments_that_are_ignored() -> None:
    """Without its segments the recording forgets the block that was there before."""
    data = json.loads((DUMPS / "snap_before_record.json").read_text())
    assert solve(recording_of(data | {"segments": []}).problem()).peak_bytes == 100 * MIB


class _Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch /tmp/never",)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pickle.dumps(_Evil()), "names posix.system, which would run code"),
        (pickle.dumps({"segments": OrderedDict()}), "names collections.OrderedDict, which would run code"),
        (pickle.dumps({"a": 1})[:-3], "is not a whole pickle"),
        (b"\x80\x04]r\xff\xff\xff\x7f", "is not a whole pickle"),
        (pickle.dumps([]) + b"x", "has 1 bytes after its end"),
        (b"\x80\x02P1\n.", "holds a persistent identifier"),
        (pickle.dumps({"x": 1}), "expected 'device_traces' of a memory snapshot"),
        (pickle.dumps(4), "expected 'device_traces' of a memory snapshot"),
        (b"", "is not a whole pickle"),
    ],
)  # fmt: skip
def test_a_pickle_runs_nothing_and_is_told_in_one_line(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "s.pickle"
    path.write_bytes(data)
    with pytest.raises(InputError) as error:
        read_problem(path)
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_pickle_is_told_by_its_content_too(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    path.write_bytes((DUMPS / "snap_before_record.pickle").read_bytes())
    assert len(read_problem(path)) == 3
    assert read_recording(path) == read_recording(DUMPS / "snap_before_record.json")


def record(
    sizes: list[int], order: list[int], begin: int
) -> tuple[dict[str, Any], list[tuple[int, int, int]]]:
    """A snapshot of an allocator that serves requests, recorded from request ``begin`` on, and its plain lives."""
    allocator = CachingAllocator()
    at: dict[int, int] = {}
    trace: list[dict[str, Any]] = []
    lives: dict[int, list[int]] = {}
    time = 0
    for step, number in enumerate(order):
        recorded = step >= begin
        if number not in at:
            at[number] = allocator.malloc(sizes[number])
            lives[number] = [time if recorded else 0, -1]
            if recorded:
                trace.append(event("alloc", at[number], sizes[number]))
        else:
            time = max(time, int(recorded))  # Moment 0 is the memory as recording finds it.
            allocator.free(at[number])
            lives[number][1] = time if recorded else 0
            if recorded:
                trace += [
                    event(f"free_{word}", at[number], sizes[number]) for word in ("requested", "completed")
                ]
        time += recorded
    end = max(time, 1)
    open_ones = [number for number, (_, last) in lives.items() if last < 0]
    segments = (
        [segment(*(block(at[n], sizes[n]) for n in sorted(open_ones, key=lambda n: at[n])))]
        if open_ones
        else []
    )
    found = [(a, end if b < 0 else b, sizes[n]) for n, (a, b) in lives.items() if b != 0 or a != 0]
    return {"segments": segments, "device_traces": [trace]}, sorted(found)


@given(
    st.lists(st.integers(1, 40 * MIB), min_size=1, max_size=12), st.randoms(use_true_random=False), st.data()
)
@settings(max_examples=100, deadline=None)
def test_a_recording_says_what_the_allocator_held(sizes: list[int], random: Any, data: st.DataObject) -> None:
    order = [n for n in range(len(sizes)) for _ in range(random.choice((1, 2)))]
    random.shuffle(order)
    begin = data.draw(st.integers(0, len(order)))
    snapshot, expected = record(sizes, order, begin)
    if not expected:
        return
    recording: Recording = recording_of(json.loads(json.dumps(snapshot)))
    assert sorted((s.lower, s.upper, s.size) for s in recording.stays) == expected
    at_end = sum(b["size"] for s in snapshot["segments"] for b in s["blocks"])
    assert (recording.active_end or 0) == at_end
