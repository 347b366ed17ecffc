"""Reads PyTorch memory snapshots: what each block of device memory holds, and from when to when.

``torch.cuda.memory._dump_snapshot`` writes a pickle of plain lists and dictionaries; ``json.dump`` of
``torch.cuda.memory._snapshot()`` the same as JSON. ``device_traces`` lists the events of each device while recording
was on, ``segments`` the state when the snapshot was taken. Neither alone is whole: blocks that lived before recording
began make no event until they are freed, and blocks in use at the end are known only to the segments. Both are joined
here. A block that the trace leaves in use and the segments do not show, or with another size, is refused: a part of
the recording is missing.

Sizes are the bytes asked for (``requested_size``), which the allocator rounds up. A life ends with
``free_completed``, for until then other streams may use the bytes; traces of versions without that event end it with
``free_requested``. The format is that of ``torch/csrc/cuda/memory_snapshot.cpp`` and
``torch/cuda/_memory_viz.py`` (github.com/pytorch/pytorch).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hw_configs.problems import InputError, Problem, bad_input, nearest
from mapping.allocation.problem import AllocationProblem, Buffer

__all__ = ["EarlierSegment", "Recording", "Stay", "is_snapshot", "recording_of"]

_ENDS: Final = ("free", "free_completed")
_ACTIONS: Final = (
    "alloc", "free", "free_requested", "free_completed", "segment_alloc", "segment_free", "segment_map",
    "segment_unmap", "snapshot", "oom", "workspace_snapshot",
)  # fmt: skip
_STATES: Final = ("active_allocated", "active_pending_free", "active_awaiting_free", "inactive")
_MOST_TOLD: Final = 20


@dataclass(frozen=True, slots=True)
class Stay:
    """``size`` bytes asked for, in use from event ``lower`` until event ``upper``; ``earlier``: before recording."""

    id: str
    address: int
    size: int
    lower: int
    upper: int
    stream: int
    earlier: bool


@dataclass(frozen=True, slots=True)
class EarlierSegment:
    """``size`` bytes at ``address`` that the driver had given before recording began, for blocks of one stream."""

    address: int
    size: int
    stream: int


@dataclass(frozen=True, slots=True)
class Recording:
    """One device's memory while it was recorded.

    ``reserved_end`` is what the segments hold when the snapshot was taken, ``reserved_peak`` the most they held while
    recording, both in bytes; None where the snapshot has no segments. ``active_end`` sums the bytes of blocks in use
    at the end as the allocator rounds them. ``segments`` are those from before recording, None where the snapshot does
    not say: without segments or their events, and where they expand.
    """

    device: int
    stays: tuple[Stay, ...]
    reserved_end: int | None
    reserved_peak: int | None
    active_end: int | None
    segments: tuple[EarlierSegment, ...] | None = None

    def problem(self, name: str = "") -> AllocationProblem:
        """The blocks as buffers; times are the indices of events."""
        return AllocationProblem.of((Buffer(s.id, s.lower, s.upper, s.size) for s in self.stays), name)


@dataclass(frozen=True, slots=True)
class _Block:
    address: int
    size: int
    requested: int
    stream: int
    state: str


def is_snapshot(data: Any) -> bool:
    """Whether plain data is a snapshot: an object with traces or segments, a bare trace, or bare segments."""
    if isinstance(data, Mapping):
        return any(isinstance(data.get(key), list) for key in ("device_traces", "traces", "segments"))
    if isinstance(data, list) and data and isinstance(data[0], Mapping):
        return "action" in data[0] or "blocks" in data[0]
    return False


def recording_of(data: Any, file: str | None = None, device: int | None = None) -> Recording:
    """The recording of one device of a snapshot given as plain data.

    ``device`` may be left out where only one device holds anything. Raises ``InputError`` otherwise, and where events
    and segments do not fit together.
    """
    traces, segments = _parts(data, file)
    by_device: dict[int, list[Mapping[str, Any]]] = {}
    for index, segment in enumerate(segments):
        where = f"segments.{index}"
        if not isinstance(segment, Mapping):
            raise bad_input(f"found {type(segment).__name__}; expected an object", file=file, path=where)
        number = _number(segment, ("device",), where, file) if "device" in segment else 0
        by_device.setdefault(number, []).append(segment)
    used = {number for number, trace in enumerate(traces) if trace}
    used |= {number for number, held in by_device.items() if any(map(_holds, held))}
    chosen = _chosen(used, device, file)
    trace = traces[chosen] if chosen < len(traces) else []
    return _join(chosen, trace, by_device.get(chosen, []), file)


def _holds(segment: Mapping[str, Any]) -> bool:
    """Whether a block of a segment is in use; what is malformed is, and is told when it is read."""
    rows = segment.get("blocks")
    if not isinstance(rows, list):
        return True
    return any(not isinstance(row, Mapping) or row.get("state") != "inactive" for row in rows)


def _parts(data: Any, file: str | None) -> tuple[list[list[Any]], list[Any]]:
    """Traces by device, and segments."""
    if isinstance(data, list):
        return ([], data) if data and "blocks" in data[0] else ([data], [])
    found: list[Any] = next(
        (data[key] for key in ("device_traces", "traces") if isinstance(data.get(key), list)), []
    )
    traces = [found] if found and isinstance(found[0], Mapping) else found
    for index, trace in enumerate(traces):
        if not isinstance(trace, list):
            expected = "expected the list of a device's events"
            raise bad_input(
                f"found {type(trace).__name__}; {expected}", file=file, path=f"device_traces.{index}"
            )
    segments = data.get("segments", [])
    if not isinstance(segments, list):
        raise bad_input(f"found {type(segments).__name__}; expected a list", file=file, path="segments")
    return traces, segments


def _chosen(used: set[int], device: int | None, file: str | None) -> int:
    shown = ", ".join(map(str, sorted(used)))
    if not used:
        told = "holds no events and no segments; expected a snapshot taken after _record_memory_history()"
        raise bad_input(told, file=file)
    if device is None:
        if len(used) > 1:
            told = f"holds the devices {shown}, each with its own memory; choose one with --device-index"
            raise bad_input(told, file=file)
        return next(iter(used))
    if device not in used:
        raise bad_input(f"found {device}; {file or 'the snapshot'} holds {shown}", path="--device-index")
    return device


def _join(device: int, trace: list[Any], segments: list[Mapping[str, Any]], file: str | None) -> Recording:
    blocks: dict[int, _Block] = {}
    for block in (block for segment in segments for block in _blocks(segment, file)):
        if block.address in blocks:
            raise bad_input(f"block {hex(block.address)} stands twice", file=file, path="segments")
        blocks[block.address] = block
    in_use = {address: block for address, block in blocks.items() if block.state != "inactive"}
    events = _events(trace, file)
    completes = any(action == "free_completed" for _, action, *_ in events) or any(
        block.state in ("active_pending_free", "active_awaiting_free") for block in in_use.values()
    )
    ends = _ENDS if completes else (*_ENDS, "free_requested")
    kept = [event for event in events if event[1] == "alloc" or event[1] in ends]
    # A first event that ends a life from before recording leaves moment 0 to the memory as it was found.
    begin = int(bool(kept) and kept[0][1] != "alloc")
    end = max(begin + len(kept), 1)
    stays, alive, problems = _lives(kept, begin, file)
    if segments:
        for address, stay in alive.items():
            problems += _against(stay, in_use.get(address), file)
        for address, block in in_use.items():
            if address not in alive:
                alive[address] = Stay(
                    hex(address), address, block.requested, 0, len(kept), block.stream, True
                )
    if problems:
        raise InputError(problems[:_MOST_TOLD])
    stays += [_until(stay, end) for stay in alive.values()]
    if not stays:
        raise bad_input(f"device {device} has no block in use at any time", file=file)
    reserved = sum(_number(s, ("total_size",), "segments", file) for s in segments) if segments else None
    peak = None if reserved is None else max(_reserved(events, reserved))
    active = sum(block.size for block in in_use.values()) if segments else None
    return Recording(
        device, _numbered(stays), reserved, peak, active, _earlier_segments(events, segments, file)
    )


def _earlier_segments(
    events: Sequence[tuple[int, str, int, int, int]], segments: Sequence[Mapping[str, Any]], file: str | None
) -> tuple[EarlierSegment, ...] | None:
    """The segments that there were when recording began: those of the end, walked back to it."""
    expands = any(segment.get("is_expandable") for segment in segments) or any(
        action in ("segment_map", "segment_unmap") for _, action, *_ in events
    )
    if not segments or expands:
        return None
    there: dict[int, EarlierSegment] = {}
    for segment in segments:
        address = _number(segment, ("address",), "segments", file)
        stream = _number(segment, ("stream",), "segments", file) if "stream" in segment else 0
        there[address] = EarlierSegment(address, _number(segment, ("total_size",), "segments", file), stream)
    for _, action, address, size, stream in reversed(events):
        if action == "segment_alloc":
            there.pop(address, None)
        elif action == "segment_free":
            there[address] = EarlierSegment(address, size, stream)
    found = tuple(there[address] for address in sorted(there))
    return found if _hold(found, events) else None


def _hold(segments: Sequence[EarlierSegment], events: Sequence[tuple[int, str, int, int, int]]) -> bool:
    """Whether every block of the trace lies in a segment of its moment; where not, events of segments are missing."""
    bases = [segment.address for segment in segments]
    ends = {segment.address: segment.address + segment.size for segment in segments}
    for _, action, address, size, _ in events:
        if action == "segment_alloc":
            insort(bases, address)
            ends[address] = address + size
        elif action == "segment_free":
            bases.remove(address)
        else:
            place = bisect_right(bases, address)
            if not place or address + size > ends[bases[place - 1]]:
                return False
    return True


def _lives(
    kept: Sequence[tuple[int, str, int, int, int]], begin: int, file: str | None
) -> tuple[list[Stay], dict[int, Stay], list[Problem]]:
    """Lives that end, those in use at the end by address, and what is wrong."""
    stays: list[Stay] = []
    alive: dict[int, Stay] = {}
    problems: list[Problem] = []
    for time, (index, action, address, size, stream) in enumerate(kept, begin):
        if action == "alloc":
            if address in alive:
                told = f"event {index}: {hex(address)!r} is allocated again before it was freed"
                problems.append(Problem(told, file))
            alive[address] = Stay(hex(address), address, size, time, time, stream, False)
        elif address in alive:
            stays.append(_until(alive.pop(address), time))
        else:
            stays.append(Stay(hex(address), address, size, 0, time, stream, True))
    return stays, alive, problems


def _until(stay: Stay, upper: int) -> Stay:
    return Stay(stay.id, stay.address, stay.size, stay.lower, upper, stay.stream, stay.earlier)


def _against(stay: Stay, block: _Block | None, file: str | None) -> list[Problem]:
    """A block that the trace leaves in use must stand in the segments, with its size."""
    if block is None:
        told = "is in use at the end of the trace and in no segment; expected a block that is active there"
        return [Problem(f"block {stay.id} {told}", file)]
    if stay.size not in (block.requested, block.size):
        told = (
            f"has {stay.size} bytes in the trace and {block.requested} in its segment; expected equal sizes"
        )
        return [Problem(f"block {stay.id} {told}", file)]
    return []


def _numbered(stays: list[Stay]) -> tuple[Stay, ...]:
    """In order of time, those from before recording first and by address; later uses of an address get a number."""
    order = sorted(stays, key=lambda s: (not s.earlier, s.lower, s.upper, s.address))
    count: dict[str, int] = {}
    named = []
    for stay in order:
        count[stay.id] = turn = count.get(stay.id, 0) + 1
        label = stay.id if turn == 1 else f"{stay.id}#{turn}"
        named.append(Stay(label, stay.address, stay.size, stay.lower, stay.upper, stay.stream, stay.earlier))
    return tuple(sorted(named, key=lambda s: (s.lower, not s.earlier, s.upper, s.id)))


def _reserved(events: Sequence[tuple[int, str, int, int, int]], at_end: int) -> list[int]:
    """Bytes of segments after each event, walked from the end backwards."""
    sign = {"segment_alloc": -1, "segment_map": -1, "segment_free": 1, "segment_unmap": 1}
    held = [at_end]
    for _, action, _, size, _ in reversed(events):
        if action in sign:
            held.append(held[-1] + sign[action] * size)
    return held


def _events(trace: list[Any], file: str | None) -> list[tuple[int, str, int, int, int]]:
    """(index, action, address, bytes, stream) of all events that have an address."""
    found = []
    for index, event in enumerate(trace):
        where = f"event {index}"
        if not isinstance(event, Mapping):
            raise bad_input(f"found {type(event).__name__}; expected an object", file=file, path=where)
        action = event.get("action")
        if action not in _ACTIONS:
            expected = f"expected one of {', '.join(_ACTIONS)}"
            near = nearest(str(action)[:80], _ACTIONS)
            shown = repr(action)[:80]
            raise bad_input(f"found {shown}; {expected}", file=file, path=f"{where}.action", suggestion=near)
        if action in ("snapshot", "oom", "workspace_snapshot"):
            continue
        address = _number(event, ("addr", "address"), where, file)
        size = _number(event, ("size",), where, file)
        stream = _number(event, ("stream",), where, file) if "stream" in event else 0
        found.append((index, action, address, size, stream))
    return found


def _blocks(segment: Mapping[str, Any], file: str | None) -> list[_Block]:
    where = "segments"
    address = _number(segment, ("address",), where, file)
    stream = _number(segment, ("stream",), where, file) if "stream" in segment else 0
    rows = segment.get("blocks")
    if not isinstance(rows, list):
        raise bad_input(f"segment {hex(address)} has no list 'blocks'", file=file, path=where)
    found = []
    for index, row in enumerate(rows):
        at = f"segment {hex(address)}: block {index}"
        if not isinstance(row, Mapping):
            raise bad_input(f"found {type(row).__name__}; expected an object", file=file, path=at)
        state = row.get("state")
        if state not in _STATES:
            shown, expected = repr(state)[:80], f"expected one of {', '.join(_STATES)}"
            raise bad_input(f"found {shown}; {expected}", file=file, path=f"{at}.state")
        size = _number(row, ("size",), at, file)
        place = _number(row, ("address",), at, file) if "address" in row else address
        asked = _number(row, ("requested_size",), at, file) if "requested_size" in row else size
        found.append(_Block(place, size, asked, stream, str(state)))
        address = place + size
    return found


def _number(row: Mapping[str, Any], names: tuple[str, ...], where: str, file: str | None) -> int:
    for key in names:
        if key in row:
            value = row[key]
            if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 2**63:
                raise bad_input(
                    f"found {repr(value)[:80]}; expected an integer", file=file, path=f"{where}.{key}"
                )
            return value
    raise bad_input(f"has none of {', '.join(names)}", file=file, path=where)
