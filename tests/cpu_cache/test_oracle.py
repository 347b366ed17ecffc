"""The engine and the plain oracle count the same, on machines and programs of all kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pydantic
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from simulator.cpu_cache.engine import CacheRun, simulate_cpu_cache
from simulator.cpu_cache.machine import Options
from tests.cpu_cache.machines import counted, device, level
from tests.cpu_cache.oracle import Machine
from workloads.program_trace import ArrayProgram

POLICIES = ("lru", "tree-plru", "fifo", "random", "srrip")
INCLUSIONS = ("none", "inclusive", "exclusive")


@st.composite
def levels(draw: st.DrawFn, order: int, shared: int = 1) -> dict[str, Any]:
    policy = draw(st.sampled_from(POLICIES))
    ways = draw(st.sampled_from((1, 2, 4) if policy == "tree-plru" else (1, 2, 3, 4)))
    hashed = draw(st.booleans())
    sets = draw(st.sampled_from((1, 2, 3, 4, 6) if hashed else (1, 2, 4))) * (2 if order > 1 else 1)
    found = level(
        sets, ways, 2 * order**2, policy=policy, index="hashed" if hashed else "bits", shared_by=shared,
        write=draw(st.sampled_from(("back", "back", "through"))), write_allocate=draw(st.booleans()),
    )  # fmt: skip
    if order > 1:
        found["inclusion"] = draw(st.sampled_from(INCLUSIONS))
    if draw(st.booleans()):
        found["prefetch"] = {
            "rule": draw(st.sampled_from(("next-line", "stride", "stream"))), "degree": draw(st.integers(1, 4)),
            "by": draw(st.sampled_from(("pc", "page"))), "entries": draw(st.integers(1, 4)),
        }  # fmt: skip
    return found


@st.composite
def machines(draw: st.DrawFn) -> Any:
    cores = draw(st.sampled_from((1, 1, 2, 4)))
    fields: dict[str, Any] = {"cores": cores, "l1d": draw(levels(1))}
    if draw(st.booleans()):
        fields["l1i"] = draw(levels(1))
    if draw(st.integers(0, 3)):
        middle = draw(st.sampled_from([n for n in (1, 2) if cores % n == 0]))
        fields["l2"] = draw(levels(2, middle))
        if draw(st.integers(0, 3)):
            fields["l3"] = draw(levels(3, cores))
    if draw(st.booleans()):
        fields["dtlb"] = {"entries": 2, "ways": 2}
        if draw(st.booleans()):
            fields["l2_tlb"] = {"entries": 4, "ways": 2, "huge_entries": 2}
        if draw(st.booleans()):
            fields["itlb"] = {"entries": 2, "ways": 1}
            if draw(st.booleans()):
                fields["l2_itlb"] = {"entries": 3, "ways": 3}
    fields["main_memory"] = {"latency": "100 ns", "remote_latency": "150 ns", "bandwidth": "10 GB/s"}
    try:
        return device(**fields)
    except pydantic.ValidationError:
        return None


@st.composite
def programs(draw: st.DrawFn, cores: int) -> ArrayProgram:
    seed = draw(st.integers(0, 2**32))
    random = np.random.default_rng(seed)
    count = draw(st.integers(1, 400))
    span = draw(st.sampled_from((8, 40, 200, 1000)))
    walk = np.cumsum(random.integers(-1, 3, count)) % span
    line = np.where(
        random.random(count) < draw(st.sampled_from((0.0, 0.5, 1.0))), walk, random.integers(0, span, count)
    )
    address = line * 64 + random.integers(0, 57, count)
    return ArrayProgram(
        address, random.integers(0, 3, count), random.choice([1, 8, 8, 70], count), random.integers(0, 5, count) * 4,
        random.integers(0, 4, count), random.integers(0, cores, count),
    )  # fmt: skip


def played(oracle: Machine, program: ArrayProgram, home: Any) -> None:
    """The program through the oracle, access by access and line by line."""
    for accesses in program.chunks(10**6):
        for kind, address, size, pc, work, core in zip(*(part.tolist() for part in accesses), strict=True):
            for line in range(address // 64, (address + size - 1) // 64 + 1):
                oracle.access(
                    kind, line * 64, pc, work if line == address // 64 else 0, core, home(line * 64, core)
                )


def homes(nodes: int, page: int, node_cores: int, placement: str) -> Any:
    """Where pages are, in plain Python."""
    first: dict[int, int] = {}

    def home(address: int, core: int) -> int:
        number = address // page
        if placement == "interleaved":
            return number % nodes
        return first.setdefault(number, core // node_cores)

    return home


@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_engine_counts_what_the_oracle_counts(data: st.DataObject) -> None:
    made = data.draw(machines())
    assume(made is not None)
    program = data.draw(programs(made.cores))
    nodes = data.draw(st.sampled_from([n for n in (1, 2) if made.cores % n == 0]))
    placement = data.draw(st.sampled_from(("first-touch", "interleaved")))
    page = data.draw(st.sampled_from(("base", "huge")))
    options = Options(
        page=page, nodes=nodes, outstanding=data.draw(st.integers(1, 5)), cores=made.cores,
        prefetch=data.draw(st.integers(0, 4)) > 0, seed=data.draw(st.integers(1, 99)), records=True,
    )  # fmt: skip
    oracle = Machine(made, made.cores, page, nodes, options.outstanding, options.prefetch, options.seed)
    played(oracle, program, homes(nodes, oracle.page, oracle.node_cores, placement))
    run = CacheRun.begin(made, options, placement)
    requests = []
    for chunk in program.chunks(data.draw(st.sampled_from((7, 10**6)))):
        for request in run.feed(chunk):
            requests += list(zip(request.address.tolist(), request.write.tolist(), strict=True))
    result = run.result("x")
    result.check()
    assert counted(result) == {key: n for key, n in oracle.count.items() if n}
    assert result.stalled_cycles * 64 == max(oracle.now)
    assert requests == oracle.requests


def test_policies_give_way_differently() -> None:
    """Programs as those above tell the policies apart."""
    random = np.random.default_rng(5)
    program = ArrayProgram((40 * random.random(3000) ** 2).astype(int) * 64)
    misses = {
        name: simulate_cpu_cache(device(l1d=level(2, 4, policy=name)), program).levels["l1d"].program_misses
        for name in POLICIES
    }
    assert len(set(misses.values())) == len(POLICIES)


class _NoUse(Machine):
    """A hit is no use."""

    def hit(self, name: str, core: int, way: Any, cause: Any) -> Any:
        copy = self.copy(name, core)
        copy.use, kept = (lambda way: None), copy.use
        clocks = super().hit(name, core, way, cause)
        copy.use = kept
        return clocks


class _NoRecall(Machine):
    """Inclusive levels leave nearer copies."""

    def gone(self, name: str, core: int, way: Any) -> Any:
        self.count[name, "evicted"] += 1
        self.count[name, "useless"] += way.ahead
        self.count[name, "written_back"] += way.dirty
        return way.dirty


class _DirtyLost(Machine):
    """Victims are clean."""

    def down(self, name: Any, core: int, line: int, dirty: bool) -> None:
        super().down(name, core, line, False)


class _NeverLate(Machine):
    """Prefetched data is there at once."""

    def ask(self, name: str, core: int, line: int, home: int) -> None:
        super().ask(name, core, line, home)
        way = self.copy(name, core).find(line)
        if way is not None:
            way.ready = 0


@pytest.mark.parametrize("wrong", [_NoUse, _NoRecall, _DirtyLost, _NeverLate])
def test_a_wrong_rule_does_not_count_the_same(wrong: type[Machine]) -> None:
    made = device(
        l1d=level(2, 2, prefetch={"rule": "next-line"}), l2=level(4, 2, 9, inclusion="inclusive"),
        l3=level(4, 2, 20, inclusion="exclusive"),
    )  # fmt: skip
    random = np.random.default_rng(3)
    program = ArrayProgram(random.integers(0, 40, 500) * 64, random.integers(0, 2, 500))
    result = counted(simulate_cpu_cache(made, program))
    for oracle, same in ((Machine(made), True), (wrong(made), False)):
        played(oracle, program, lambda address, core: 0)
        assert (result == {key: n for key, n in oracle.count.items() if n}) is same
