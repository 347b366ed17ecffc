"""The fast mode: busy-until bookkeeping, one pass over the requests without an event queue.

For every die and every bus one number says until when it is taken; a page takes the next free moment of each
in the order in which requests come (FEMU does the same). Reads never overtake waiting writes, a bus never
waits for a register, and collection takes its time at once from the plane that needs it. docs/flash.md states
what that costs in accuracy against the event mode.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, var-annotated"

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from hw_configs.problems import NoAnswerError, bad_input
from simulator.flash import layout as at
from simulator.flash.aging import write_now
from simulator.flash.drive import Drive
from simulator.flash.engine import LARGEST, DriveRun, RunOptions, checked_chunks, collect_result
from simulator.flash.ftl import block_of
from simulator.flash.kernel import count_request, message_ns
from simulator.flash.layout import (
    AT_BUS,
    AT_ORDER,
    AT_PROGRAM,
    AT_READ,
    AT_REQUEST,
    B_INVALID,
    BUFFER,
    BUS_BYTES,
    BUS_PAGE,
    C_BUSY_NS,
    C_INDEX,
    COMMAND_NS,
    CURSOR,
    ERASE_BLOCKS,
    ERASE_COMMANDS,
    ERASE_NS,
    FIRMWARE_FREE,
    FREE_REQUEST,
    GC_MOVES,
    GC_RUNS,
    HOST_PAGES_READ,
    HOST_PAGES_WRITTEN,
    IN_FLIGHT,
    INTERNAL,
    LAST_DONE,
    MULTI_PLANE,
    NS_COMPLETION,
    NS_DOORBELL,
    NS_ENTRY,
    NS_REQUEST,
    P_BIT,
    P_CHANNEL,
    P_UNIT,
    PAGE_BYTES,
    PAGES,
    PLANES,
    PROGRAM_COMMANDS,
    PROGRAM_PAGES,
    R_ADDRESS,
    R_BYTES,
    R_INDEX,
    R_OP,
    R_SUBMIT,
    READ,
    READ_COMMANDS,
    READ_OVERHEAD,
    READ_PAGES,
    READY,
    TRIM,
    TRIMMED,
    U_BUSY_NS,
    U_INDEX,
    WIRE_BUSY,
    WIRE_BUSY_1,
    WIRE_FREE,
    WIRE_FREE_1,
    WRITE,
    WRITE_OVERHEAD,
)
from simulator.flash.pointer import pointer_to
from simulator.flash.result import DriveResult
from simulator.flash.scheduler import bus_ns
from workloads.block_trace.trace import BlockTrace

__all__ = ["simulate_drive_fast"]

(A_KIND, A_START, A_END, A_MASK, A_PAGE, A_FREE) = range(6)
"""Per unit: the last command's kind, array start and end, planes, page; and when the unit is free."""


@compiled
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


@compiled
def _array(m, unit, now, kind, bit, page, ready, took):
    """When the array is done with a page that is ready at ``ready``; pages of other planes may share it."""
    joins = (
        unit[A_KIND] == kind and unit[A_START] >= now and unit[A_PAGE] == page and (unit[A_MASK] & bit) == 0
    )
    if joins and m[MULTI_PLANE] != 0:
        later = max(ready - unit[A_START], 0)
        unit[A_START] += later
        unit[A_END] += later
        unit[A_MASK] |= bit
        unit[A_FREE] = max(unit[A_FREE], unit[A_END])
        return unit[A_END], True
    unit[A_START] = max(unit[A_FREE], ready)
    unit[A_END] = unit[A_START] + took
    unit[A_KIND] = kind
    unit[A_MASK] = bit
    unit[A_PAGE] = page
    unit[A_FREE] = unit[A_END]
    return unit[A_END], False


@compiled
def _page(m, l2p, p2l, aux, units, channels, kind, lpn, size, now):
    """When one page of a request is done."""
    plane = m[m[AT_ORDER] + lpn % m[PLANES]]
    unit = units[m[m[plane + P_UNIT] + U_INDEX]]
    number = m[m[plane + P_CHANNEL] + C_INDEX]
    busy = m[plane + P_UNIT] + U_BUSY_NS
    bus = m[plane + P_CHANNEL] + C_BUSY_NS
    moved = bus_ns(m, size)
    if kind == READ:
        if l2p[lpn] == 0 and not write_now(m, l2p, p2l, aux, lpn):
            return -1
        page = (l2p[lpn] - 1) % m[PAGES]
        command = m[m[AT_BUS] + 1]
        took = m[m[AT_READ] + page]
        end, joined = _array(m, unit, now, READ, m[plane + P_BIT], page, now + command, took + m[READY])
        m[READ_PAGES] += 1
        m[READ_COMMANDS] += not joined
        m[bus] += moved + (0 if joined else command)
        m[busy] += 0 if joined else took
        m[BUS_BYTES] += size
        # The bus owes its work in the order in which pages come, but never idles for one still in its array.
        channels[number] = max(channels[number], now) + command + moved
        # Planes of one command leave one after another.
        ready = max(end, unit[A_FREE]) if joined else end
        done = max(ready + moved, channels[number])
        unit[A_FREE] = max(unit[A_FREE], done)
        return done
    runs, moves = m[GC_RUNS], m[GC_MOVES]
    if not write_now(m, l2p, p2l, aux, lpn):
        return -1
    page = (l2p[lpn] - 1) % m[PAGES]
    if m[GC_RUNS] > runs:
        _collection(m, unit, channels, number, busy, bus, m[GC_RUNS] - runs, m[GC_MOVES] - moves, now)
    command = m[m[AT_BUS] + 17 + 1]
    channels[number] = max(channels[number], now) + command + moved
    took = m[m[AT_PROGRAM] + page]
    end, joined = _array(m, unit, now, WRITE, m[plane + P_BIT], page, channels[number], took)
    m[PROGRAM_PAGES] += 1
    m[PROGRAM_COMMANDS] += not joined
    m[bus] += command + moved
    m[busy] += 0 if joined else took
    m[BUS_BYTES] += size
    return end


@compiled
def _collection(m, unit, channels, number, busy, bus, runs, moves, now):
    """Charge collected blocks to the unit and its bus, all at once."""
    carried = (
        2 * moves * m[BUS_PAGE] + moves * (m[m[AT_BUS] + 1] + m[m[AT_BUS] + 18]) + runs * m[m[AT_BUS] + 35]
    )
    array = runs * m[ERASE_NS]
    for i in range(moves):
        array += m[m[AT_READ] + i % m[PAGES]] + m[m[AT_PROGRAM] + i % m[PAGES]]
    unit[A_FREE] = max(unit[A_FREE], now) + array + carried
    unit[A_START] = -1
    channels[number] = max(channels[number], now) + carried
    m[busy] += array
    m[bus] += carried
    m[BUS_BYTES] += 2 * moves * m[PAGE_BYTES]
    m[READ_PAGES] += moves
    m[PROGRAM_PAGES] += moves
    m[ERASE_COMMANDS] += runs
    m[ERASE_BLOCKS] += runs


@compiled
def _pass(state, l2p_map, p2l_map, auxiliary, units, channels, ends, op, address, size, arrival, latencies):
    """Serve a chunk. ``ends``: completion times of the requests in flight (closed loop), a heap."""
    m, l2p, p2l, aux = pointer_to(state), pointer_to(l2p_map), pointer_to(p2l_map), pointer_to(auxiliary)
    recorded, kept = pointer_to(latencies), latencies.size
    base = m[CURSOR]
    request = m[AT_REQUEST]
    outside = m[NS_DOORBELL] + m[NS_REQUEST] + m[NS_ENTRY]
    closed = arrival.size == 0
    for i in range(op.size):
        since = ends[0] if closed else arrival[i]
        now = since
        if m[INTERNAL] == 0:
            now += outside
        if m[COMMAND_NS] != 0:
            m[FIRMWARE_FREE] = max(m[FIRMWARE_FREE], now) + m[COMMAND_NS]
            now = m[FIRMWARE_FREE]
        kind = op[i]
        wire = message_ns(m, size[i])
        if kind == WRITE and m[INTERNAL] == 0:
            m[WIRE_FREE] = max(m[WIRE_FREE], now + m[WRITE_OVERHEAD] + m[NS_REQUEST]) + wire
            m[WIRE_BUSY] += wire
            now = m[WIRE_FREE]
        elif kind == READ:
            now += m[READ_OVERHEAD]
        first, last = address[i] // m[PAGE_BYTES], (address[i] + size[i] - 1) // m[PAGE_BYTES]
        done = now
        for lpn in range(first, last + 1):
            if kind == TRIM:
                if l2p[lpn] != 0:
                    m[block_of(m, l2p[lpn] - 1) + B_INVALID] += 1
                    l2p[lpn] = 0
                    m[TRIMMED] += 1
                continue
            low = max(address[i] - lpn * m[PAGE_BYTES], 0)
            high = min(address[i] + size[i] - lpn * m[PAGE_BYTES], m[PAGE_BYTES])
            end = _page(m, l2p, p2l, aux, units, channels, kind, lpn, high - low, now)
            if end < 0:
                return False
            done = max(done, end)
            m[HOST_PAGES_READ] += kind == READ
            m[HOST_PAGES_WRITTEN] += kind == WRITE
        if m[BUFFER] != 0 and kind == WRITE:
            done = now
        if m[INTERNAL] == 0:
            if kind == READ:
                m[WIRE_FREE_1] = max(m[WIRE_FREE_1], now) + wire
                m[WIRE_BUSY_1] += wire
                done = max(done + wire, m[WIRE_FREE_1])
            done += m[NS_COMPLETION]
        m[request + R_OP] = kind
        m[request + R_BYTES] = size[i]
        m[request + R_SUBMIT] = since
        m[request + R_INDEX] = base + i
        m[request + R_ADDRESS] = address[i]
        latest = m[LAST_DONE]
        free, flight = m[FREE_REQUEST], m[IN_FLIGHT]
        count_request(m, request, done, recorded, kept)
        m[FREE_REQUEST], m[IN_FLIGHT] = free, flight
        m[LAST_DONE] = max(latest, done)
        if closed:
            _sift(ends, ends.size, done)
    m[CURSOR] = base + op.size
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
    units: npt.NDArray[np.int64] = np.full((int(state.m[at.UNITS]), 6), -1, np.int64)
    units[:, A_FREE] = 0
    channels = np.zeros(drive.channels, np.int64)
    ends = np.zeros(max(chosen.outstanding, 1), np.int64)
    for requests in checked_chunks(trace, drive, chosen):
        if not chosen.outstanding and not requests.arrival.size:
            raise bad_input(
                "the trace names no times; give the number of outstanding requests", file=trace.name
            )
        arrival = requests.arrival[:0] if chosen.outstanding else requests.arrival
        columns = [np.ascontiguousarray(part, np.int64) for part in (*requests[:3], arrival)]
        done = _pass(
            state.m, state.to_physical, state.to_logical, state.auxiliary, units, channels, ends, *columns,
            run.latencies,
        )  # fmt: skip
        if not done:
            raise NoAnswerError("a plane of the drive ran full; give it more spare blocks")
        if chosen.progress is not None:
            chosen.progress(int(state.m[at.CURSOR]))
    if not state.m[at.CURSOR]:
        raise bad_input("the trace holds no requests", file=trace.name)
    result = collect_result(run, trace.name, "fast")
    result.check()
    return result
