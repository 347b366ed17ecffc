"""The page cache against its plain oracle, closed forms, and what a drive makes of its requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import offchip
from hw_configs.problems import InputError
from simulator.flash.drive import Drive
from simulator.flash.warm import tiny_drive
from simulator.page_cache.engine import PageRun, simulate_page_cache
from simulator.page_cache.state import CachePolicy
from tests.page_cache.oracle import Cache
from workloads.block_trace import ArrayBlocks
from workloads.block_trace.file_patterns import FilePattern, generate_file_pattern

KINDS = ("read", "read ahead", "write", "write waited", "wait")
NAMES = ("touches", "hits", "faults", "whole", "ahead", "useful", "useless", "background", "throttled", "expired",
         "reclaimed", "evicted", "refaults", "activated")  # fmt: skip
PAGE = 4096
DRIVE = {"drive": "nvme-pcie4-tlc", "memory": "1 GiB"}


def drive(pages: int = 4096) -> Drive:
    """A small drive of pages of 4 KiB."""
    from dataclasses import replace

    blocks = -(-pages // (8 * 16)) * 2
    return replace(tiny_drive(), logical_pages=pages, blocks_per_plane=blocks + 8, pages_per_block=32)


@st.composite
def policies(draw: st.DrawFn) -> CachePolicy:
    return CachePolicy(
        memory_bytes=draw(st.one_of(st.integers(16, 120), st.integers(500, 700))) * PAGE,
        read_ahead_bytes=draw(st.sampled_from((0, 1, 4, 8, 32, 128))) * PAGE,
        replacement=draw(st.sampled_from(("two-lists", "lru"))),
        refault=draw(st.booleans()),
        background_ratio=draw(st.sampled_from((0.1, 0.3))),
        dirty_ratio=draw(st.sampled_from((0.3, 0.4))),
        expire_s=draw(st.sampled_from((0.0, 5e-6, 3e-5))),
        interval_s=draw(st.sampled_from((2e-6, 2e-5))),
        touch_ns=draw(st.sampled_from((100, 400))),
        write_bytes_per_s=draw(st.sampled_from((0.0, 4e9, 4e10))),
    )


def requests(seed: int, count: int, span: int, writes: float) -> ArrayBlocks:
    """Runs in order, jumps and repetitions over a file."""
    random = np.random.default_rng(seed)
    at, address, size = 0, [], []
    for _ in range(count):
        if random.random() < 0.15:
            at = int(random.integers(0, span))
        length = int(random.choice([1, 2, 3, 12, 40]))
        address.append(at * PAGE + int(random.choice([0, 0, 100])))
        size.append(length * PAGE - int(random.choice([0, 0, 200])))
        at = (at + length) % span
    return ArrayBlocks((random.random(count) < writes).astype(int), address, size)


def played(oracle: Cache, trace: ArrayBlocks) -> None:
    for chunk in trace.chunks(10**6):
        for write, address, size in zip(*(part.tolist() for part in chunk[:3]), strict=True):
            first, last = address // PAGE, (address + size - 1) // PAGE
            for page in range(first, last + 1):
                whole = address <= page * PAGE and (page + 1) * PAGE <= address + size
                asked = 1 if oracle.mapped else last - page + 1
                oracle.touch(page, asked, bool(write), whole)


def counted(run: PageRun) -> dict[str, int]:
    return {name: n for name, n in zip(NAMES, run.state.counts.tolist(), strict=True) if n}


def events(run: PageRun) -> list[tuple[Any, ...]]:
    found = run.events()
    columns = (found.kind.tolist(), found.page.tolist(), found.pages.tolist(), found.touch.tolist())
    return [(KINDS[kind], *rest) for kind, *rest in zip(*columns, strict=True)]


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    policy=policies(), seed=st.integers(0, 2**32), count=st.integers(1, 60), span=st.sampled_from((30, 150, 600)),
    writes=st.sampled_from((0.0, 0.3, 1.0)), mapped=st.booleans(), chunk=st.sampled_from((3, 1000)),
)  # fmt: skip
def test_the_engine_does_what_the_oracle_does(
    policy: CachePolicy, seed: int, count: int, span: int, writes: float, mapped: bool, chunk: int
) -> None:
    trace = requests(seed, count, span, writes)
    size = (span + 50) * PAGE
    run, oracle = PageRun.begin(policy, size, mapped), Cache(policy, size, mapped)
    for part in trace.chunks(chunk):
        run.feed(part)
    played(oracle, trace)
    assert counted(run) == {name: n for name, n in oracle.count.items() if n}
    assert events(run) == oracle.events


class _NoRamp(Cache):
    def grown(self, size: int) -> int:
        return int(self.length)


class _NoRefault(Cache):
    def enter(self, page: int) -> None:
        self.left.pop(page, None)
        super().enter(page)


class _NoUse(Cache):
    def use(self, page: int) -> None:
        pass


class _NoMarker(Cache):
    def marked(self, page: int, asked: int) -> None:
        pass


class _OldStays(Cache):
    def write_back(self, kind: str, cause: str, left: int, older: int) -> Any:
        return 0 if cause == "expired" else super().write_back(kind, cause, left, older)


@pytest.mark.parametrize("wrong", [_NoRamp, _NoRefault, _NoUse, _NoMarker, _OldStays])
def test_a_wrong_rule_does_not_count_the_same(wrong: type[Cache]) -> None:
    policy = CachePolicy(40 * PAGE, expire_s=1e-5, interval_s=1e-5, write_bytes_per_s=4e10)
    trace = requests(4, 200, 100, 0.2)
    run = PageRun.begin(policy, 200 * PAGE, False)
    for part in trace.chunks(1000):
        run.feed(part)
    for oracle, same in ((Cache(policy, 200 * PAGE), True), (wrong(policy, 200 * PAGE), False)):
        played(oracle, trace)
        assert (counted(run) == {name: n for name, n in oracle.count.items() if n}) is same


def run(pattern: str, pages: int, request: int = PAGE, **policy: Any) -> Any:
    return simulate_page_cache(
        CachePolicy(pages * PAGE, **policy), drive(), generate_file_pattern(pattern, request)
    )


@pytest.mark.parametrize("request_pages", [1, 3, 32])
def test_a_stream_reads_each_byte_once_in_windows_that_ramp_up_to_the_largest(request_pages: int) -> None:
    result = run("sequential:4MiB", 256, request_pages * PAGE)
    assert result.read_bytes == 4 * 2**20
    assert result.read_amplification == 1.0
    assert result.useful_pages + result.faults == 1024
    ours = PageRun.begin(CachePolicy(256 * PAGE), 4 * 2**20, False)
    for part in generate_file_pattern("sequential:4MiB").chunks(100):
        ours.feed(part)
    windows = [pages for kind, _, pages, _ in events(ours) if kind.startswith("read")]
    assert windows[:5] == [4, 8, 16, 32, 32]
    assert max(windows) == 32
    wide = PageRun.begin(CachePolicy(1024 * PAGE, read_ahead_bytes=128 * PAGE), 4 * 2**20, False)
    for part in generate_file_pattern("sequential:4MiB").chunks(100):
        wide.feed(part)
    assert [pages for kind, _, pages, _ in events(wide) if kind.startswith("read")][:6] == [
        4,
        16,
        32,
        64,
        128,
        128,
    ]
    assert result.drive_reads <= 1024 // 32 + 5


def test_a_loop_one_page_larger_than_an_lru_cache_misses_always_and_one_that_fits_is_read_once() -> None:
    loop = {"replacement": "lru", "read_ahead_bytes": 0}
    over, fits = run(f"loop:{65 * 4}KiB:10", 64, **loop), run(f"loop:{64 * 4}KiB:10", 64, **loop)
    assert (over.hits, over.faults) == (0, 650)
    assert (fits.hits, fits.faults) == (576, 64)


def test_two_lists_keep_what_was_touched_twice_while_a_file_goes_by() -> None:
    pages = np.concatenate([np.repeat(np.arange(16), 2), np.arange(100, 300), np.arange(16)])
    trace = ArrayBlocks(pages * 0, pages * PAGE, pages * 0 + PAGE)
    hits = {}
    for replacement in ("two-lists", "lru"):
        policy = CachePolicy(64 * PAGE, replacement=replacement, read_ahead_bytes=0)
        hits[replacement] = simulate_page_cache(policy, drive(), trace).hits
    assert hits == {"two-lists": 32, "lru": 16}


def test_a_file_that_fits_is_read_once_whatever_the_order() -> None:
    result = run("random:1MiB:5000", 256)
    assert result.read_bytes == 2**20
    assert result.evicted == 0


def test_random_reads_read_no_more_than_they_ask_for() -> None:
    result = run("random:16MiB:2000:5", 256)
    assert result.read_amplification < 1.1
    assert run("random:16MiB:2000:5", 256, read_ahead_bytes=0).ahead_pages == 0


def test_written_pages_go_back_above_the_thresholds() -> None:
    fast = run("overwrite:8MiB:3000", 512)
    slow = run("overwrite:8MiB:3000", 512, write_bytes_per_s=1e6)
    assert fast.written_back["throttled"] == 0 < fast.written_back["background"]
    assert slow.written_back["throttled"] > 0
    assert slow.write_stall_s > fast.write_stall_s
    assert fast.left_dirty <= 51
    old = run("overwrite:64KiB:3000", 512, expire_s=1e-4, interval_s=1e-5)
    assert old.written_back["expired"] >= 16
    assert old.written_back["background"] == 0


def test_time_is_that_of_touches_and_waits_and_never_below_the_drives() -> None:
    cold = run("random:8MiB:1000:3", 4000, read_ahead_bytes=0)
    assert cold.time_s == pytest.approx(1000 * 400e-9 + cold.read_stall_s)
    assert cold.read_stall_s >= cold.faults * 1e-6  # an array read of the tiny drive
    ahead, bare = run("sequential:4MiB", 256), run("sequential:4MiB", 256, read_ahead_bytes=0)
    assert ahead.time_s < 0.8 * bare.time_s
    assert ahead.time_s >= ahead.drive_time_s


def test_a_mapped_model_larger_than_memory_is_read_again_for_each_token() -> None:
    weights = 64

    def make(start: int, count: int) -> Any:
        index = np.arange(start, start + count, dtype=np.int64) % weights
        return next(ArrayBlocks(index * 0, index * 4 * PAGE, index * 0 + 4 * PAGE).chunks(count))

    model = FilePattern("model", weights * 4 * PAGE, weights * 3, make, mapped=True)
    policy = CachePolicy(128 * PAGE, replacement="lru")
    result = simulate_page_cache(policy, drive(), model)
    assert result.read_bytes >= 3 * weights * 4 * PAGE
    whole = simulate_page_cache(CachePolicy(300 * PAGE, replacement="lru"), drive(), model)
    assert whole.read_bytes == weights * 4 * PAGE
    assert whole.time_s < result.time_s


def test_a_model_of_the_house_is_touched_in_the_order_of_its_operators() -> None:
    model = generate_file_pattern("mapped-model:gpt2:2")
    chunk = next(model.chunks(10**6))
    assert model.count == chunk.size.size
    half = model.count // 2
    whole = chunk.address[:half][1:], chunk.address[half:][1:]
    assert model.mapped
    assert model.file_bytes >= int((chunk.address + chunk.size).max())
    same = whole[0] == whole[1]
    assert 0.9 < same.mean() <= 1
    assert (
        chunk.address[0] != chunk.address[half] or chunk.size[0] == model.file_bytes
    )  # a row of the embedding, drawn


@pytest.mark.parametrize(
    "text",
    ["sequential", "sequential:1", "loop:1MiB", "loop:1MiB:0", "random:1MiB:x", "random:0 B:5", "sequental:1MiB",
     "mapped-model:no-such-model", "mapped-model:gpt2:0", "sequential:17TiB"],
)  # fmt: skip
def test_a_pattern_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        generate_file_pattern(text)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"page_bytes": 5000}, "power of two"), ({"memory_bytes": PAGE}, "16 or more"),
        ({"replacement": "fifo"}, "known: two-lists"), ({"dirty_ratio": 0.05}, "background ratio"),
        ({"interval_s": 0.0}, "times of 0 or more"),
    ],
)  # fmt: skip
def test_a_cache_that_cannot_be_is_refused(change: dict[str, Any], told: str) -> None:
    policy = {"memory_bytes": 2**20} | change
    with pytest.raises(InputError, match=told):
        simulate_page_cache(CachePolicy(**policy), drive(), generate_file_pattern("sequential:1MiB"))
    with pytest.raises(InputError, match="more than the"):
        simulate_page_cache(CachePolicy(2**20), drive(), generate_file_pattern("sequential:1GiB"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "exactly one of --drive and --gpu"),
        (DRIVE | {"drive": "ddr4-2400r"}, "expected 'flash' or 'csd'"),
        ({"drive": "nvme-pcie4-tlc"}, "--memory: missing"),
        ({"gpu": "nvme-pcie4-tlc"}, "is no GPU with a memory"),
        (DRIVE | {"memory": "1"}, "--memory: found '1'"),
        ({"gpu": "a100-80gb", "batch": 0}, "--batch"),
        (DRIVE | {"expire": "1 B"}, "--expire"),
        (DRIVE | {"block_size": "0 B"}, "--block-size"),
        (DRIVE | {"page": "3 KiB"}, "--page"),
        (DRIVE | {"drvie": "x"}, "unknown option"),
        ({"gpu": "a100-80gb", "link": "pcie9"}, "unknown hardware"),
        ({"gpu": "a100-80gb", "memory": "1 MiB"}, "no chunk"),
    ],
)  # fmt: skip
def test_bad_options_are_one_line(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        offchip.trace_pages("sequential:1MiB", **options)
    assert len(str(caught.value).splitlines()) == 1


def test_a_block_trace_goes_through_a_page_cache(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("op,offset,size\nread,0,4096\nread,4096,8192\nwrite,0,4096\n")
    found = offchip.trace_pages(path, memory="1 MiB", drive="nvme-pcie4-tlc")
    assert (found.touches, found.faults, found.left_dirty) == (4, 1, 1)
    with pytest.raises(InputError, match="no such file"):
        offchip.trace_pages(tmp_path / "none.csv", memory="1 MiB", drive="nvme-pcie4-tlc")
    path.write_text("op,offset,size\nread,4000000000000000,4096\n")
    with pytest.raises(InputError, match="more than the"):
        offchip.trace_pages(path, memory="1 MiB", drive="nvme-pcie4-tlc")
    with pytest.raises(InputError, match="more than 8 TiB"):
        offchip.trace_pages(path, gpu="a100-80gb")
