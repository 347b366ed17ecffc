"""The fast mode: busy-until bookkeeping, one pass over the requests without an event queue.

For every die and every bus one number says until when it is taken; a page takes the next free moment of each
in the order in which requests come (FEMU does the same). Reads never overtake waiting writes, a bus never
waits for a register, and collection takes its time at once from the plane that needs it. docs/flash.md states
what that costs in accuracy against the event mode.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, arg-type, var-annotated"

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from hw_configs.problems import NoAnswerError, bad_input
from simulator.flash.aging import write_now
from simulator.flash.drive import Drive
from simulator.flash.engine import LARGEST, DriveRun, RunOptions, checked_chunks, collect_result
from simulator.flash.ftl import invalidate, plane_of
from simulator.flash.kernel import Chunk, count_request, message_ns
from simulator.flash.pointer import channel_at, drive_in, pointer_to, request_at, unit_at, word_at, work_at
from simulator.flash.records import BUS_TIMES, ERASE, READ, TRIM, WORK, WRITE, Flash, Memory, words
from simulator.flash.result import DriveResult
from simulator.flash.scheduler import bus_ns
from simulator.flash.step import step
from workloads.block_trace.trace import BlockTrace

__all__ = ["simulate_drive_fast"]

_WORK = words(WORK)


class Until(NamedTuple):
    """Until when everything is taken, in ns.

    ``units``: a ``WORK`` record each, as words. ``channels``: each bus. ``ends``: completions of the
    requests in flight of a closed loop, a heap.
    """

    units: npt.NDArray[np.int64]
    channels: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]


@step
def _sift(times, count, value):
    """Replace the least of a heap of completion times; ``times[0]`` is the least."""
    i = 0
    while True:
        child = 2 * i + 1
        if child >= count:
            break
        if child + 1 < count and times[child + 1] < times[child]:
            child += 1
        if value <= times[child]:
            break
        times[i] = times[child]
        i = child
    times[i] = value


@step
def _array(unit, now, kind, bit, page, ready, took):
    """When the array is done with a page that is ready at ``ready``; pages of other planes may share its work.

    ``bit``: the page's plane; 0 where the drive has no multi-plane commands. Second: whether it shares.
    """
    joins = unit.kind == kind and unit.start >= now and unit.page == page and (unit.planes & bit) == 0
    if joins and bit != 0:
        later = max(ready - unit.start, 0)
        unit.start += later
        unit.end += later
        unit.planes |= bit
        unit.free = max(unit.free, unit.end)
        return unit.end, True
    unit.start = max(unit.free, ready)
    unit.end = unit.start + took
    unit.kind = kind
    unit.planes = bit
    unit.page = page
    unit.free = unit.end
    return unit.end, False


@step
def _read_page(f, until, lpn, size, now):
    """When a page that is read has left its bus; -1: its plane has no room."""
    d = f.drive
    if f.to_physical[lpn] == 0 and not write_now(f, lpn):
        return -1
    plane = plane_of(d, lpn)
    unit, channel = unit_at(d, plane.unit), channel_at(d, plane.channel)
    work, moved = work_at(until.units, unit.index * _WORK), bus_ns(d, size)
    page = (f.to_physical[lpn] - 1) % d.pages
    command = word_at(d, d.bus_times + BUS_TIMES * READ + 1).value
    took = word_at(d, d.read_times + page).value
    bit = plane.bit if d.multi_plane != 0 else 0
    end, joined = _array(work, now, READ, bit, page, now + command, took + d.ready_ns)
    d.read_pages += 1
    d.bus_bytes += size
    channel.busy_ns += moved
    if not joined:
        d.read_commands += 1
        channel.busy_ns += command
        unit.busy_ns += took
    # The bus owes its work in the order in which pages come, but never idles for one still in its array.
    until.channels[channel.index] = max(until.channels[channel.index], now) + command + moved
    # Planes of one command leave one after another.
    ready = max(end, work.free) if joined else end
    done = max(ready + moved, until.channels[channel.index])
    work.free = max(work.free, done)
    return done


@step
def _write_page(f, until, lpn, size, now):
    """When a page is programmed; -1: its plane has no room."""
    d = f.drive
    runs, moves = d.gc_runs, d.gc_moves
    if not write_now(f, lpn):
        return -1
    plane = plane_of(d, lpn)
    unit, channel = unit_at(d, plane.unit), channel_at(d, plane.channel)
    page = (f.to_physical[lpn] - 1) % d.pages
    if d.gc_runs > runs:
        _collection(d, until, plane, d.gc_runs - runs, d.gc_moves - moves, now)
    moved = bus_ns(d, size)
    command = word_at(d, d.bus_times + BUS_TIMES * WRITE + 1).value
    until.channels[channel.index] = max(until.channels[channel.index], now) + command + moved
    took = word_at(d, d.program_times + page).value
    bit = plane.bit if d.multi_plane != 0 else 0
    ready = until.channels[channel.index]
    end, joined = _array(work_at(until.units, unit.index * _WORK), now, WRITE, bit, page, ready, took)
    d.program_pages += 1
    d.bus_bytes += size
    channel.busy_ns += command + moved
    if not joined:
        d.program_commands += 1
        unit.busy_ns += took
    return end


@step
def _collection(d, until, plane, runs, moves, now):
    """Charge collected blocks to the unit and its bus, all at once."""
    unit, channel = unit_at(d, plane.unit), channel_at(d, plane.channel)
    read = word_at(d, d.bus_times + BUS_TIMES * READ + 1).value
    program = word_at(d, d.bus_times + BUS_TIMES * WRITE + 1).value
    erase = word_at(d, d.bus_times + BUS_TIMES * ERASE + 1).value
    carried = 2 * moves * d.bus_page_ns + moves * (read + program) + runs * erase
    array_ns = runs * d.erase_ns
    for i in range(moves):
        page = i % d.pages
        array_ns += word_at(d, d.read_times + page).value + word_at(d, d.program_times + page).value
    work = work_at(until.units, unit.index * _WORK)
    work.free = max(work.free, now) + array_ns + carried
    work.start = -1
    until.channels[channel.index] = max(until.channels[channel.index], now) + carried
    unit.busy_ns += array_ns
    channel.busy_ns += carried
    d.bus_bytes += 2 * moves * d.page_bytes
    d.read_pages += moves
    d.program_pages += moves
    d.erase_commands += runs
    d.erase_blocks += runs


@step
def _serve_pages(f, until, request, now):
    """When all pages of a request are done; -1: a plane has no room."""
    d = f.drive
    op, address, size = request.op, request.address, request.bytes
    done = now
    for lpn in range(address // d.page_bytes, (address + size - 1) // d.page_bytes + 1):
        if op == TRIM:
            if f.to_physical[lpn] != 0:
                invalidate(d, f.to_physical[lpn] - 1)
                f.to_physical[lpn] = 0
                d.trimmed += 1
            continue
        low = max(address - lpn * d.page_bytes, 0)
        high = min(address + size - lpn * d.page_bytes, d.page_bytes)
        if op == READ:
            end = _read_page(f, until, lpn, high - low, now)
            d.host_pages_read += 1
        else:
            end = _write_page(f, until, lpn, high - low, now)
            d.host_pages_written += 1
        if end < 0:
            return -1
        done = max(done, end)
    return done


@step
def _serve_request(f, until, request):
    """When a request is done; -1: a plane has no room."""
    d = f.drive
    now = request.since
    if d.internal == 0:
        now += d.doorbell_ns + d.request_ns + d.entry_ns
    if d.command_ns != 0:
        d.firmware_free = max(d.firmware_free, now) + d.command_ns
        now = d.firmware_free
    wire_ns = message_ns(d, request.bytes)
    if request.op == WRITE and d.internal == 0:
        d.to_drive.free = max(d.to_drive.free, now + d.write_overhead_ns + d.request_ns) + wire_ns
        d.to_drive.busy_ns += wire_ns
        now = d.to_drive.free
    elif request.op == READ:
        now += d.read_overhead_ns
    done = _serve_pages(f, until, request, now)
    if done < 0:
        return -1
    if d.buffer != 0 and request.op == WRITE:
        done = now
    if d.internal == 0:
        if request.op == READ:
            d.to_host.free = max(d.to_host.free, now) + wire_ns
            d.to_host.busy_ns += wire_ns
            done = max(done + wire_ns, d.to_host.free)
        done += d.completion_ns
    return done


@compiled
def _serve_chunk(memory, until, chunk, latencies):
    """Serve a chunk; False when a plane ran full. ``memory``: :class:`Memory`; ``chunk``: :class:`Chunk`."""
    d = drive_in(memory.m)
    f = Flash(d, pointer_to(memory.to_physical), pointer_to(memory.to_logical), pointer_to(memory.held))
    recorded, kept = pointer_to(latencies), latencies.size
    taken = Until(pointer_to(until.units), pointer_to(until.channels), pointer_to(until.ends))
    closed = chunk.arrival.size == 0
    request = request_at(d, d.first_request)
    for i in range(chunk.op.size):
        request.op = chunk.op[i]
        request.bytes = chunk.size[i]
        request.address = chunk.address[i]
        request.index = d.cursor + i
        request.since = taken.ends[0] if closed else chunk.arrival[i]
        done = _serve_request(f, taken, request)
        if done < 0:
            return False
        count_request(d, request, done, recorded, kept)
        d.last_done = max(d.last_done, done)
        if closed:
            _sift(taken.ends, until.ends.size, done)
    d.cursor += chunk.op.size
    return True


def simulate_drive_fast(drive: Drive, trace: BlockTrace, options: RunOptions | None = None) -> DriveResult:
    """Run a trace by busy-until bookkeeping. The same arguments, errors and result as the event mode.

    Suspension, retries, the cached map and waiting for a full write buffer are not in this mode.
    """
    chosen = options or RunOptions()
    run = DriveRun.begin(drive, chosen, LARGEST)
    state = run.state
    if chosen.record:
        if trace.count is None:
            raise bad_input("recording needs a trace of known length", file=trace.name)
        run.latencies = np.full(trace.count, -1, np.int64)
    units = np.full(int(state.record.units), -1, WORK)
    units["free"] = 0
    channels, ends = np.zeros(drive.channels, np.int64), np.zeros(max(chosen.outstanding, 1), np.int64)
    until = Until(units.view(np.int64), channels, ends)
    for requests in checked_chunks(trace, drive, chosen):
        if not chosen.outstanding and not requests.arrival.size:
            raise bad_input(
                "the trace names no times; give the number of outstanding requests", file=trace.name
            )
        arrival = requests.arrival[:0] if chosen.outstanding else requests.arrival
        columns = [np.ascontiguousarray(part, np.int64) for part in (*requests[:3], arrival)]
        done = _serve_chunk(Memory(*state.arrays), until, Chunk(*columns), run.latencies)
        if not done:
            raise NoAnswerError("a plane of the drive ran full; give it more spare blocks")
        if chosen.progress is not None:
            chosen.progress(int(state.record.cursor))
    if not state.record.cursor:
        raise bad_input("the trace holds no requests", file=trace.name)
    result = collect_result(run, trace.name, "fast")
    result.check()
    return result
