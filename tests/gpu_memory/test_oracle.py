"""The kernel equals the plain oracle in every count, for random machines and random accesses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.gpu_memory import machine as at
from simulator.gpu_memory.kernel import MARGIN, Out, flush, run
from simulator.gpu_memory.machine import Machine, new_state, new_window, with_inverses
from tests.gpu_memory.oracle import Oracle, Path
from workloads.gpu_trace import GpuAccesses

Access = tuple[int, int, int, int]

NAMES = {
    "loads": at.LOADS, "stores": at.STORES, "atomics": at.ATOMICS, "asked": at.BYTES_ASKED, "lines": at.LINES,
    "tlb looks": at.TLB_LOOKS, "tlb misses": at.TLB_MISSES, "walks": at.TLB2_MISSES, "l1 sectors": at.L1_LOAD_SECTORS,
    "l1 hits": at.L1_HIT_SECTORS, "l1 evicted": at.L1_EVICTED, "stored": at.STORED_SECTORS,
    "host reads": at.HOST_REQUESTS, "host writes": at.HOST_WRITES, "host bytes": at.HOST_BYTES,
    "l2 evicted": at.L2_EVICTED, "read": at.READ_SECTORS, "written": at.WRITTEN_SECTORS,
    "l2 sectors": at.L2_READ_SECTORS, "l2 hits": at.L2_HIT_SECTORS, "persisting hits": at.PERSISTING_HITS,
    "far hits": at.FAR_HIT_SECTORS, "l2 written": at.L2_WRITE_SECTORS, "l2 write hits": at.L2_WRITE_HITS,
    "filled": at.FILLED,
}  # fmt: skip


def machine_of(p: Path) -> Machine:
    f = np.zeros(25, np.int64)
    f[at.LINE_SHIFT], f[at.SECTOR_SHIFT] = p.line.bit_length() - 1, p.sector.bit_length() - 1
    f[at.SECTORS], f[at.SMS], f[at.L1_SETS], f[at.L1_WAYS] = p.line // p.sector, p.sms, p.l1_sets, p.l1_ways
    f[at.L1_LATENCY], f[at.WRITE_BACK], f[at.L2_SETS], f[at.L2_WAYS] = (
        p.l1_latency,
        p.write_back,
        p.l2_sets,
        p.l2_ways,
    )
    f[at.L2_LATENCY], f[at.PARTITIONS], f[at.SLICES] = p.l2_latency, p.partitions, p.slices
    f[at.MEMORY_LATENCY], f[at.PAGE_SHIFT], f[at.TLB_ENTRIES] = (
        p.memory_latency,
        p.page.bit_length() - 1,
        p.tlb,
    )
    f[at.TLB2_SETS], f[at.TLB2_WAYS], f[at.TLB_LATENCY], f[at.WALK_LATENCY] = (
        p.tlb2_sets, p.tlb2_ways, p.tlb_latency, p.walk_latency,
    )  # fmt: skip
    f[at.PERSIST_FIRST], f[at.PERSIST_LAST] = p.persist or (1, 0)
    f[at.PERSIST_WAYS], f[at.HOST], f[at.RECORDS] = p.persist_ways, p.host, 1
    return with_inverses(f)


def differences(p: Path, accesses: list[Access]) -> list[str]:
    """What the kernel and the oracle say differently."""
    machine = machine_of(p)
    state, window = new_state(machine), new_window(machine)
    columns = [np.ascontiguousarray(c) for c in np.array(accesses, np.int64).reshape(-1, 4).T]
    out = Out(np.zeros(1 << 14, np.int64), np.zeros(1 << 14, np.uint8), np.zeros(1, np.int64))
    done = run(machine, state, window, GpuAccesses(*columns, columns[0] * 0), 0, out)
    assert done == len(accesses), MARGIN
    plain = Oracle(p).run(accesses)
    found = [
        f"{name}: {state.counts[index]} against {plain.count[name]}"
        for name, index in NAMES.items()
        if state.counts[index] != plain.count[name]
    ]
    n = int(out.filled[0])
    ours = list(zip(out.address[:n].tolist(), out.write[:n].tolist(), strict=True))
    parts = {
        "requests": (ours, plain.requests),
        "wait": (window.wait.tolist(), [plain.wait[sm] for sm in range(p.sms)]),
        "path": (window.path_bytes.tolist(), [plain.path_bytes[sm] for sm in range(p.sms)]),
        "slices": (
            window.slice_bytes.tolist(),
            [plain.slice_bytes[i] for i in range(p.partitions * p.slices)],
        ),
        "memory": (
            window.memory.tolist(),
            [plain.count["read"] * p.sector, plain.count["written"] * p.sector],
        ),
        "dirty": (int(flush(state.near)) + int(flush(state.behind)), plain.dirty()),
    }
    return found + [name for name, (one, other) in parts.items() if one != other]


@st.composite
def paths(draw: st.DrawFn) -> Path:
    small = st.integers(1, 4)
    line, sector = draw(st.sampled_from([(128, 32), (64, 32), (128, 128), (64, 64)]))
    first = draw(st.integers(0, 40))
    persist = draw(st.none() | st.just((first, first + draw(st.integers(0, 30)))))
    return Path(
        sms=draw(small), line=line, sector=sector, l1_sets=draw(st.integers(0, 3)), l1_ways=draw(small),
        write_back=draw(st.booleans()), l2_sets=draw(st.integers(1, 7)), l2_ways=draw(small),
        partitions=draw(st.integers(1, 3)), slices=draw(small), tlb=draw(small), tlb2_sets=draw(small),
        tlb2_ways=draw(small), persist=persist, persist_ways=draw(st.integers(1, 3)), host=draw(st.booleans()),
    )  # fmt: skip


def accesses_of(sms: int) -> st.SearchStrategy[list[Access]]:
    place = st.integers(0, 60).map(lambda n: n * 32) | st.integers(0, 1 << 15) | st.integers(0, 1 << 40)
    size = st.sampled_from([1, 4, 32, 33, 64, 128, 512]) | st.integers(1, 700)
    return st.lists(
        st.tuples(st.sampled_from([0, 0, 1, 2]), place, size, st.integers(0, sms - 1)), max_size=80
    )


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_equals_the_oracle(data: st.DataObject) -> None:
    p = data.draw(paths())
    assert differences(p, data.draw(accesses_of(p.sms))) == []


BUSY = [
    (kind, (n * n % 97) * 360 + n % 3, 1 + n * 31 % 150, n % 3)
    for n, kind in enumerate([0, 0, 1, 0, 2, 1, 0] * 60)
]
MACHINE = Path(
    sms=3, l1_sets=5, l1_ways=3, l2_sets=7, l2_ways=3, partitions=2, tlb2_ways=3, write_back=True, persist=(3, 300)
)  # fmt: skip


def test_a_busy_machine() -> None:
    assert differences(MACHINE, BUSY) == []
    assert differences(replace(MACHINE, host=True), BUSY) == []


@pytest.mark.parametrize(
    "method", ["translate", "home", "entry", "memory", "read", "write", "store", "load", "atomic", "port"]
)
def test_every_step_of_the_path_is_looked_at(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that is left out is noticed."""
    result = Line() if method == "entry" else 0
    monkeypatch.setattr(Oracle, method, lambda *_: result)
    assert differences(MACHINE, BUSY)


class Line:
    """A line that never has anything."""

    kept = False

    def __init__(self) -> None:
        self.valid: set[int] = set()
        self.dirty: set[int] = set()


@pytest.mark.parametrize(
    "change",
    [
        {"write_back": False}, {"persist": None}, {"persist_ways": 3}, {"l2_ways": 2}, {"l1_ways": 4}, {"l1_sets": 3},
        {"partitions": 1}, {"slices": 3}, {"page": 8192}, {"tlb": 3}, {"tlb2_ways": 1}, {"l1_latency": 11},
        {"l2_latency": 101}, {"memory_latency": 501}, {"tlb_latency": 31}, {"walk_latency": 71}, {"sector": 64},
    ],
)  # fmt: skip
def test_every_figure_of_the_path_is_looked_at(change: dict[str, object]) -> None:
    """A kernel whose figure is another one is told apart."""
    other = Oracle(replace(MACHINE, **change)).run(BUSY)  # type: ignore[arg-type]
    same = Oracle(MACHINE).run(BUSY)
    assert (other.count, other.wait, other.slice_bytes) != (same.count, same.wait, same.slice_bytes)
