"""What arithmetic says of streams, chases, products and prefetchers, and what the published simulator counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.cpu_cache.engine import simulate_cpu_cache
from simulator.cpu_cache.machine import Options
from simulator.cpu_cache.result import CpuCacheResult
from tests.cpu_cache.machines import device, level
from workloads.program_trace import ArrayProgram, Copies, generate_program

BIG = {"l1d": level(64, 8), "l2": level(1024, 8, 14), "l3": level(4096, 16, 40, inclusion="exclusive")}


def run(text: str, **fields: Any) -> CpuCacheResult:
    return simulate_cpu_cache(device(**fields), generate_program(text))


@pytest.mark.parametrize(("pattern", "arrays"), [("read", 1), ("copy", 2), ("triad", 3)])
def test_a_stream_misses_once_a_line_at_every_level(pattern: str, arrays: int) -> None:
    n = 40_000
    result = run(f"{pattern}:{n}", **BIG)
    lines = arrays * n * 8 // 64
    for name in ("l1d", "l2", "l3"):
        assert result.levels[name].program_misses == lines
    assert result.memory_reads["load"] + result.memory_reads["store"] == lines
    assert result.levels["l1d"].miss_rate == 1 / 8


@pytest.mark.parametrize(("n", "tile"), [(8, 8), (16, 16), (32, 8), (64, 8)])
def test_a_product_in_tiles_that_fit_moves_two_tiles_a_product_and_each_of_the_result_once(
    n: int, tile: int
) -> None:
    """(n/t)^3 products bring a tile of A and one of B; C's stays over the products of its sum (LRU, four tiles' room).

    Where a row of C is used again, the tiles of A, B and C of its product and the next B have been used since.
    """
    lines = tile * tile // 8
    result = run(f"matmul:{n}:{tile}", l1d=level(2 if tile > 8 else 1, 64 if tile > 8 else 4 * lines))
    blocks = n // tile
    assert result.levels["l1d"].program_misses == (2 * blocks**3 + blocks**2) * lines


def test_a_product_without_room_for_a_tile_misses_more() -> None:
    tiled, narrow = run("matmul:32:8", l1d=level(1, 32)), run("matmul:32:8", l1d=level(1, 8))
    assert narrow.levels["l1d"].program_misses > 2 * tiled.levels["l1d"].program_misses


def test_a_loop_one_line_larger_than_an_lru_cache_misses_always_and_one_that_fits_once() -> None:
    fits, over = run("stride:16:64:50", l1d=level(1, 16)), run("stride:17:64:50", l1d=level(1, 16))
    assert fits.levels["l1d"].program_misses == 16
    assert over.levels["l1d"].program_misses == 17 * 50


def test_a_chase_visits_every_node_once_a_round() -> None:
    program = generate_program("chase:1024:3072:7")
    address = np.concatenate([c.address for c in program.chunks(100)])
    assert sorted(address[:1024].tolist()) == [4096 + 64 * i for i in range(1024)]
    assert (
        address[:1024].tolist()
        == address[1024:2048].tolist()
        == program.accesses(2048, 1024).address.tolist()
    )
    ours = simulate_cpu_cache(device(**BIG), program, Options(outstanding=1))
    assert ours.levels["l1d"].program_misses == 3072  # 64 KiB in a cache of 32 KiB, in one cycle


@pytest.mark.parametrize("rule", ["next-line", "stride", "stream"])
def test_a_prefetcher_of_a_stream_is_useful_but_for_the_start_of_each_page(rule: str) -> None:
    without = run("read:65536", **BIG)
    ahead = BIG | {"l1d": BIG["l1d"] | {"prefetch": {"rule": rule, "by": "page", "degree": 2}}}
    result = run("read:65536", **ahead)
    pages, lines = 65536 * 8 // 4096, 65536 * 8 // 64
    first = {"next-line": 1, "stride": 3, "stream": 3}[rule]
    assert result.levels["l1d"].program_misses == pages * first
    assert result.levels["l1d"].useful == lines - pages * first
    assert result.levels["l1d"].useless == 0
    assert result.memory_read_lines == without.memory_read_lines == lines
    assert 0 < result.levels["l1d"].late <= result.levels["l1d"].useful
    assert result.mean_access_clocks < without.mean_access_clocks


def test_inclusion_decides_how_much_the_levels_hold_together() -> None:
    """24 lines in 8 + 16: kept by an exclusive pair, not by an inclusive one."""
    lines = np.tile(np.arange(24), 40) * 64
    misses = {}
    for inclusion in ("inclusive", "exclusive"):
        made = device(l1d=level(1, 8), l2=level(1, 16, 9, inclusion=inclusion))
        misses[inclusion] = simulate_cpu_cache(made, ArrayProgram(lines)).memory_read_lines
    assert misses == {"inclusive": 24 * 40, "exclusive": 24}


def test_pages_are_walked_once_and_huge_ones_less_often() -> None:
    tlb = {"dtlb": {"entries": 16, "ways": 4}, "l2_tlb": {"entries": 64, "ways": 4}}
    program = generate_program("read:262144")
    base = simulate_cpu_cache(device(**BIG, **tlb), program)
    huge = simulate_cpu_cache(device(**BIG, **tlb), program, Options(page="huge"))
    assert base.walks == 262144 * 8 // 4096
    assert huge.walks == 2  # 2 MiB from 4 KiB on
    assert sum(base.levels["l1d"].hits[c] + base.levels["l1d"].misses[c] for c in ("walk",)) == 4 * base.walks
    assert sum(huge.levels["l1d"].hits[c] + huge.levels["l1d"].misses[c] for c in ("walk",)) == 3 * huge.walks


def test_first_touch_keeps_lines_local_and_interleaving_does_not() -> None:
    made = device(cores=2, **BIG | {"l3": BIG["l3"] | {"shared_by": 2}},
                  main_memory={"latency": "100 ns", "remote_latency": "200 ns", "bandwidth": "10 GB/s"})  # fmt: skip
    program = Copies(generate_program("read:32768"), 2)
    near = simulate_cpu_cache(made, program, Options(nodes=2))
    far = simulate_cpu_cache(made, program, Options(nodes=2), placement="interleaved")
    assert near.remote_reads == 0
    assert far.remote_reads == far.memory_read_lines // 2
    assert far.mean_access_clocks > near.mean_access_clocks


def test_cores_that_write_one_line_take_it_from_each_other() -> None:
    made = device(cores=2)
    program = ArrayProgram(np.zeros(100, int), 1, core=np.arange(100) % 2)
    result = simulate_cpu_cache(made, program)
    assert result.levels["l1d"].invalidated == 99
    assert result.memory_reads["store"] == 100


def test_cycles_are_those_of_stalls_or_of_bandwidth() -> None:
    n = 8000
    slow = {"main_memory": {"latency": "100 ns", "bandwidth": "1 MB/s"}}
    result, bound = run(f"read:{n}"), run(f"read:{n}", **slow)
    # 1000 lines from memory, 98 clocks beyond the first level, four in flight; an instruction takes a clock.
    assert result.cycles == n + n // 8 * (98 * 64 // 4) / 64
    assert bound.cycles == pytest.approx(n * 8 / 1e6 * 1e9)
    assert result.mean_access_clocks == pytest.approx((n / 8 * 100 + n * 7 / 8 * 2) / n)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32), policy=st.sampled_from(("lru", "fifo")), depth=st.integers(1, 3),
    stores=st.booleans(), span=st.sampled_from((20, 100, 400)),
)  # fmt: skip
def test_the_published_simulator_counts_the_same(
    seed: int, policy: str, depth: int, stores: bool, span: int
) -> None:
    """pycachesim 0.3.1 (Hammer, RRZE). Its stores do not touch what they hit, so that each follows a load here.

    It has no back-invalidation, and takes a line from behind for a write-back that misses: machines and programs where
    none misses are the same in both. Its victim cache keeps lines that go back, and holds some twice: not compared.
    """
    cachesim = pytest.importorskip("cachesim", reason="pycachesim is not installed: not compared with it")
    random = np.random.default_rng(seed)
    sizes = [(2, 2), (8, 4), (16, 8)][:depth]
    theirs: Any = None
    levels = []
    for number, (sets, ways) in reversed(list(enumerate(sizes))):
        theirs = cachesim.Cache(
            f"L{number}", sets, ways, 64, policy.upper(), store_to=theirs, load_from=theirs
        )
        levels.insert(0, theirs)
    memory = cachesim.MainMemory()
    memory.load_to(levels[-1])
    memory.store_from(levels[-1])
    whole = cachesim.CacheSimulator(levels[0], memory)
    names = ("l1d", "l2", "l3")[:depth]
    made = {
        name: level(*size, 2 * 3**n, policy=policy)
        for n, (name, size) in enumerate(zip(names, sizes, strict=True))
    }
    address, kind = [], []
    for line in (span * random.random(600) ** 2).astype(int).tolist():
        whole.load(line * 64, 8)
        address.append(line * 64)
        kind.append(0)
        if stores and random.random() < 0.4:
            whole.store(line * 64, 8)
            address.append(line * 64)
            kind.append(1)
    ours = simulate_cpu_cache(device(**made), ArrayProgram(address, kind))
    if any(counts.written_to_missing for counts in ours.levels.values()):
        # 20 lines never leave the second level.
        assert stores
        assert span > 20
        return
    for name, their in zip(names, levels, strict=True):
        mine = ours.levels[name]
        assert (mine.hits["load"], mine.misses["load"]) == (their.backend.HIT_count, their.backend.MISS_count)
        assert mine.written_back == their.backend.EVICT_count
