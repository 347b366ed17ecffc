"""What is known in closed form of caches under regular accesses, and what times may never be."""

from __future__ import annotations

import numpy as np
import pytest

import offchip
from hw_configs.device import Gpu
from hw_configs.library import load_link, load_system
from hw_configs.link import Pcie
from hw_configs.system import MemorySpace
from simulator.gpu_memory.engine import simulate_gpu_memory
from simulator.gpu_memory.machine import Options
from simulator.gpu_memory.result import GpuMemoryResult
from workloads.gpu_trace import STORE, ArrayGpuTrace

MIB = 1 << 20
ONE_PARTITION = "rtx-4090"
"""A GPU whose L2 is one partition."""


def ran(text: str, hw: str = ONE_PARTITION, **options: object) -> GpuMemoryResult:
    return offchip.trace_gpu(text, hw, **options)  # type: ignore[arg-type]


def test_a_stream_that_fits_is_read_once_and_one_that_does_not_always() -> None:
    """LRU: all rounds but the first hit in a cache that holds the data, none in one that does not."""
    fits = ran(f"stream:{32 * MIB}:rounds=4", l1=False)
    assert fits.read_sectors == 32 * MIB // 32
    assert fits.l2_hit_sectors == 3 * 32 * MIB // 32
    # A cyclic stream just larger than an LRU cache finds nothing again.
    beyond = ran(f"stream:{160 * MIB}:rounds=2", l1=False)
    assert beyond.l2_hit_sectors == 0
    assert beyond.read_sectors == 2 * 160 * MIB // 32


def device(name: str) -> tuple[Gpu, MemorySpace]:
    system = load_system(name)
    gpu = system.of_kind("gpu")[0].device
    assert isinstance(gpu, Gpu)
    return gpu, next(iter(system.memories.values()))


def test_a_whole_l2_can_be_filled() -> None:
    """Any aligned run of lines as large as the L2 fits without a conflict; one line more does not."""
    gpu, memory = device(ONE_PARTITION)
    lines = int(gpu.l2.size) // 128
    once = np.arange(lines) * 128
    held = simulate_gpu_memory(gpu, memory, ArrayGpuTrace(np.tile(once, 2), size=128), Options(l1=False))
    assert held.read_sectors == lines * 4
    more = np.append(once, lines * 128)
    lost = simulate_gpu_memory(gpu, memory, ArrayGpuTrace(np.tile(more, 2), size=128), Options(l1=False))
    assert lost.read_sectors == (lines + 1 + 17) * 4


@pytest.mark.parametrize(("stride", "used"), [(4, 32), (8, 16), (16, 8), (32, 4), (64, 4), (256, 4)])
def test_strided_sector_efficiency(stride: int, used: int) -> None:
    """Of each sector fetched, the elements of 4 bytes that fall into it are used."""
    found = ran(f"strided:65536:{stride}", l1=False)
    assert found.l1_sectors == 65536 * max(min(stride, 32), 4) // 32
    assert found.asked_bytes <= 65536 * 4
    if stride == 4 or stride >= 32:
        assert found.sector_efficiency == pytest.approx(used / 32)


@pytest.mark.parametrize("order", ["row", "column", "swizzle"])
def test_the_reuse_of_a_tiled_product(order: str) -> None:
    """Each wave fetches the panels of its tiles once while the rest of a step's data fits the L2 of 4 MiB.

    A T4 runs 40 tiles at a time. Panels of k = 16384 are 4 MiB each, so that none is left from the wave before.
    """
    m = n = 1280
    k = 16384
    found = ran(f"matmul:{m}:{n}:{k}:order={order}", "t4")
    tiles = 10
    blocks = np.arange(tiles * tiles)
    place = {
        "row": (blocks // tiles, blocks % tiles),
        "column": (blocks % tiles, blocks // tiles),
        "swizzle": (
            blocks // 80 * 8 + (blocks % 80) % np.where(blocks < 80, 8, 2),
            (blocks % 80) // np.where(blocks < 80, 8, 2),
        ),
    }[order]
    panels = 0
    for start in range(0, tiles * tiles, 40):
        panels += sum(np.unique(axis[start : start + 40]).size for axis in place)
    assert found.read_sectors == panels * 128 * k * 2 // 32
    assert found.l2_read_sectors == tiles * tiles * 2 * 128 * k * 2 // 32


def test_a_transpose_by_elements_sends_a_sector_for_each() -> None:
    tiled = ran("transpose:1024:1024", l1=False)
    plain = ran("transpose:1024:1024:tile=0", l1=False)
    assert tiled.l2_write_sectors == 1024 * 1024 * 4 // 32
    assert plain.l2_write_sectors == 1024 * 1024
    assert plain.filled_sectors == 1024 * 1024 * 4 // 32


def test_heads_of_a_group_share_their_keys_in_the_l2() -> None:
    """Eight query heads of one KV head: keys and values come from memory once."""
    kv = 2 * 4096 * 128 * 2
    queries = 8 * 128 * 128 * 2
    found = ran("attention:1:8:1:128:4096:128:causal=0")
    assert found.read_sectors == (kv + queries) // 32


def test_decoding_reads_the_cache_once() -> None:
    found = ran("paged-attention:8:32:8:1000:128")
    cache = 2 * 8 * 1000 * 8 * 128 * 2
    queries, pages = 8 * 32 * 128 * 2, 8 * 63 * 4
    assert cache + queries + pages <= found.memory_read_bytes <= cache + queries + 32 * 2 * 63


def test_a_chase_waits_for_each_load() -> None:
    """One load in flight: a page of lines takes its latencies one after another."""
    gpu, memory = device("a100-80gb")
    address = np.arange(0, 1 << 20, 128)
    trace = ArrayGpuTrace(address, size=4)
    once = simulate_gpu_memory(gpu, memory, trace, Options(outstanding=1))
    assert once.seconds == pytest.approx(address.size * memory.latency_s, rel=0.02)
    warm = simulate_gpu_memory(
        gpu, memory, ArrayGpuTrace(np.tile(address[:512], 100), size=4), Options(outstanding=1)
    )
    path = gpu.architecture.memory_path
    l1 = path.l1_latency / gpu.clock
    assert warm.seconds == pytest.approx(512 * memory.latency_s + 99 * 512 * l1, rel=0.02)


def test_persisting_lines_outlive_a_stream() -> None:
    """A window that is read, then a stream larger than the L2, then the window again."""
    window, stream = 16 * MIB, 200 * MIB
    address = np.concatenate(
        [np.arange(0, window, 512), np.arange(1 << 30, (1 << 30) + stream, 512), np.arange(0, window, 512)]
    )
    gpu, memory = device(ONE_PARTITION)
    trace = ArrayGpuTrace(address, size=512, sm=np.arange(address.size) % 128)
    lost = simulate_gpu_memory(gpu, memory, trace, Options(l1=False))
    kept = simulate_gpu_memory(gpu, memory, trace, Options(l1=False, persist=(0, window)))
    assert lost.l2_hit_sectors == 0
    assert kept.l2_hit_sectors == kept.persisting_hit_sectors == window // 32


def test_time_is_never_below_the_roofs() -> None:
    for text in (
        "stream:50000000",
        "matmul:1024:1024:1024",
        "gather:100000:256:50000",
        "transpose:2048:2048",
    ):
        for hw in ("h100-sxm", "t4", "mi210"):
            found = ran(text, hw)
            moved = found.memory_read_bytes + found.memory_written_bytes
            assert found.time_s >= moved / found.peak_bytes_per_s
            assert sum(stretch.seconds for stretch in found.stretches) == pytest.approx(
                sum(found.bound_s.values())
            )
            assert sum(stretch.accesses for stretch in found.stretches) == found.accesses


def test_stated_times_are_kept() -> None:
    gpu, memory = device("t4")
    trace = ArrayGpuTrace(np.arange(10) * 32, time_ns=np.arange(10) * 1_000_000)
    found = simulate_gpu_memory(gpu, memory, trace)
    assert found.seconds == pytest.approx(9e-3, rel=1e-3)
    assert found.bound_s["trace"] == pytest.approx(9e-3)


def test_the_timeline_stays_short() -> None:
    gpu, memory = device("t4")
    address = np.arange(700 * (1 << 15)) % 4096 * 32
    found = simulate_gpu_memory(gpu, memory, ArrayGpuTrace(address))
    assert len(found.stretches) <= 512
    assert sum(stretch.accesses for stretch in found.stretches) == address.size


def test_zero_copy_requests_are_whole_lines_of_the_link() -> None:
    """A row of 512 aligned bytes is four requests of 128; off by 32 bytes it is five."""
    aligned = ran("gather:4096:512:4096", home="zero-copy")
    assert aligned.read_sectors == aligned.written_sectors == 0
    gpu, memory = device("a100-80gb")
    link = load_link("pcie4-x16")
    assert isinstance(link, Pcie)
    for shift, requests in ((0, 4), (32, 5)):
        trace = ArrayGpuTrace(np.arange(100) * 512 + shift, size=512, sm=np.arange(100))
        found = simulate_gpu_memory(gpu, memory, trace, Options(host=True, l1=False), link=link)
        assert found.link_requests == 100 * requests
        assert found.link_bytes == 100 * 512
        assert found.seconds >= found.link_wire_bytes / link.lane_rate
    stored = ArrayGpuTrace(np.arange(100) * 128, kind=STORE, size=128)
    assert simulate_gpu_memory(gpu, memory, stored, Options(host=True), link=link).link_requests == 0
