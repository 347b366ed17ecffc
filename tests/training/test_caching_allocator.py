"""The caching allocator against a second one that scans, and against the rules as they are documented."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from mapping.training.allocator_conf import AllocatorConf, read_allocator_conf
from mapping.training.allocator_trace import replay
from mapping.training.caching_allocator import CachingAllocator, DeviceOutOfMemoryError
from mapping.training.requests import RequestSequence
from tests.training.caching_oracle import OutOfMemoryError, ScanningAllocator
from tests.training.strategies import request_sequences

MIB = 2**20


@given(request_sequences(40), st.one_of(st.none(), st.integers(10, 200).map(lambda n: n * MIB)))
@settings(max_examples=60, deadline=None)
def test_it_does_what_a_scanning_allocator_does(sequence: RequestSequence, capacity: int | None) -> None:
    fast, slow = CachingAllocator(capacity), ScanningAllocator(capacity)
    address: dict[int, int] = {}
    for number in sequence.order().tolist():
        block = abs(number) - 1
        if number < 0:
            fast.free(address[block])
            slow.free(block)
        else:
            size = int(sequence.size[block])
            try:
                address[block] = fast.malloc(size)
            except DeviceOutOfMemoryError:
                with pytest.raises(OutOfMemoryError):
                    slow.malloc(block, size)
                return
            assert slow.malloc(block, size) == address[block]
        assert (fast.reserved, fast.allocated) == (slow.reserved, slow.allocated)
        assert fast.reorganisations == slow.reorganisations


@given(
    request_sequences(40), st.integers(20, 160).map(lambda n: n * MIB), st.sampled_from([None, 21, 32, 64]),
    st.sampled_from([20, 32]), st.sampled_from([0, 1, 2, 4, 8]), st.sampled_from([0.0, 0.3, 0.6]),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_settings_do_what_a_scanning_allocator_does(
    sequence: RequestSequence, capacity: int, limit: int | None, slack: int, steps: int, threshold: float
) -> None:
    conf = AllocatorConf(None if limit is None else limit * MIB, slack * MIB, (steps,) * 16, threshold)
    fast = CachingAllocator(capacity, conf=conf)
    slow = ScanningAllocator(capacity, conf.max_split_size, slack * MIB, steps, threshold)
    address: dict[int, int] = {}
    for number in sequence.order().tolist():
        block = abs(number) - 1
        if number < 0:
            fast.free(address[block])
            slow.free(block)
        else:
            # Sizes around the limit on splits.
            size = int(sequence.size[block]) * 4
            try:
                address[block] = fast.malloc(size)
            except DeviceOutOfMemoryError:
                with pytest.raises(OutOfMemoryError):
                    slow.malloc(block, size)
                return
            assert slow.malloc(block, size) == address[block]
        assert (fast.reserved, fast.allocated) == (slow.reserved, slow.allocated)
        assert fast.reorganisations == slow.reorganisations


def test_blocks_above_the_limit_that_do_not_add_up_take_all_with_them() -> None:
    """Found by the test above: 22 MiB go back, 22 MiB and a bit are asked for, so the small segment goes back too."""
    fast = CachingAllocator(26 * MIB, conf=AllocatorConf(21 * MIB))
    slow = ScanningAllocator(26 * MIB, 21 * MIB)
    for block, size in enumerate((512, 4 * 5243392, 4 * 5767680)):
        address = fast.malloc(size)
        assert slow.malloc(block, size) == address
        if block < 2:
            fast.free(address)
            slow.free(block)
    assert fast.reserved == slow.reserved == 24 * MIB


def test_a_guard_sees_garbage_that_is_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guard: without its collection the allocator keeps what the scanning one gives back."""
    monkeypatch.setattr(CachingAllocator, "_collect_garbage", lambda self: None)
    fast = CachingAllocator(100 * MIB, conf=AllocatorConf(gc_threshold=0.2))
    slow = ScanningAllocator(100 * MIB, threshold=0.2)
    held = fast.malloc(30 * MIB)
    slow.malloc(0, 30 * MIB)
    fast.free(held)
    slow.free(0)
    fast.malloc(40 * MIB)
    slow.malloc(1, 40 * MIB)
    assert (fast.reserved, slow.reserved) == (70 * MIB, 40 * MIB)


def test_documented_settings() -> None:
    """The notes on memory management: 1200 with 4 divisions is 1280; intervals begin at 1 MiB."""
    conf = read_allocator_conf("roundup_power2_divisions:4")
    assert conf.rounded(1200 * MIB) == 1280 * MIB
    assert conf.rounded(1024 * MIB) == 1024 * MIB
    some = read_allocator_conf("roundup_power2_divisions:[256:1,512:2,1024:4,>:8]")
    assert some.divisions[:8] == (1,) * 8
    assert some.divisions[8:] == (1, 2, 4, 8, 8, 8, 8, 8)
    whole = read_allocator_conf(
        "expandable_segments:True, max_split_size_mb:128,garbage_collection_threshold:0.8,max_non_split_rounding_mb:32"
    )
    assert (whole.expandable, whole.max_split_size, whole.gc_threshold) == (True, 128 * MIB, 0.8)
    assert whole.max_rounding == 32 * MIB
    assert CachingAllocator(conf=whole).expandable


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_split_size:128", "did you mean 'max_split_size_mb'"), ("max_split_size_mb:20", "more than 20"),
        ("max_split_size_mb:x", "a whole number"), ("garbage_collection_threshold:1.5", "between 0 and 1"),
        ("roundup_power2_divisions:3", "a power of two"), ("roundup_power2_divisions:[3:2]", "a power of two"),
        ("roundup_power2_divisions:[4]", "SIZE_MB:STEPS"), ("expandable_segments:yes", "True or False"),
        ("max_non_split_rounding_mb:8", "20 or more"), ("nonsense", "KEY:VALUE"),
    ],
)  # fmt: skip
def test_wrong_settings_are_told(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_allocator_conf(text)


def test_expandable_best_fit_counts_what_a_block_could_grow_to() -> None:
    """Of two free blocks that hold a request, the one before unmapped pages is left for those that need it."""
    allocator = CachingAllocator(expandable=True)
    first, second = allocator.malloc(30 * MIB), allocator.malloc(2 * MIB)
    last = allocator.malloc(6 * MIB)
    allocator.free(first)
    allocator.free(last)
    # 6 MiB and what is mapped behind it is the smaller block, but it can grow without end.
    assert allocator.malloc(5 * MIB) == first
    assert second


@given(request_sequences(40), st.one_of(st.none(), st.integers(60, 300).map(lambda n: n * MIB)))
@settings(max_examples=60, deadline=None)
def test_expandable_segments_keep_blocks_apart_and_pages_whole(
    sequence: RequestSequence, capacity: int | None
) -> None:
    allocator = CachingAllocator(capacity, expandable=True)
    live: dict[int, tuple[int, int]] = {}
    address: dict[int, int] = {}
    for number in sequence.order().tolist():
        block = abs(number) - 1
        if number < 0:
            allocator.free(address[block])
            del live[block]
        else:
            size = -(-int(sequence.size[block]) // 512) * 512
            try:
                address[block] = low = allocator.malloc(size)
            except DeviceOutOfMemoryError:
                assert capacity is not None
                return
            assert all(low + size <= a or b <= low for a, b in live.values())
            live[block] = (low, low + size)
        assert allocator.reserved >= allocator.allocated >= sum(high - low for low, high in live.values())
        assert allocator.reserved % (2 * MIB) == 0
        assert capacity is None or allocator.reserved <= capacity


@given(request_sequences(30))
@settings(max_examples=40, deadline=None)
def test_expandable_segments_reserve_what_is_touched(sequence: RequestSequence) -> None:
    """Without end of memory nothing is unmapped, so each pool's pages reach to its highest block."""
    allocator = CachingAllocator(expandable=True)
    top = {True: 0, False: 0}
    address: dict[int, int] = {}
    for number in sequence.order().tolist():
        block = abs(number) - 1
        if number < 0:
            allocator.free(address[block])
            continue
        size = max(512, -(-int(sequence.size[block]) // 512) * 512)
        small = size <= MIB
        address[block] = allocator.malloc(size)
        base = 0 if small else 2**60
        top[small] = max(top[small], address[block] - base + size)
    pages = -(-top[True] // (2 * MIB)) * 2 * MIB + -(-top[False] // (20 * MIB)) * 20 * MIB
    # A page is mapped for the request that needs it, and one more where the run before it did not end on a page.
    assert allocator.reserved == pages


def test_documented_sizes() -> None:
    allocator = CachingAllocator()
    allocator.malloc(1)
    assert (allocator.reserved, allocator.allocated) == (2 * MIB, 512)
    allocator.malloc(MIB + 1)
    assert allocator.reserved == 22 * MIB
    allocator.malloc(10 * MIB)
    assert allocator.reserved == 22 * MIB, "the rest of the 20 MiB segment serves it"
    allocator.malloc(11 * MIB + 1)
    assert allocator.reserved == 34 * MIB, "rounded up to 2 MiB"


def test_large_remainders_of_one_mebibyte_stay_with_the_block() -> None:
    allocator = CachingAllocator()
    address = allocator.malloc(21 * MIB)
    assert allocator.reserved == 22 * MIB
    assert allocator.allocated == 22 * MIB, "1 MiB is too little to split off the large pool"
    allocator.free(address)
    allocator.malloc(20 * MIB)
    assert allocator.allocated == 20 * MIB


def test_a_full_device_is_reorganised_once_and_then_out() -> None:
    allocator = CachingAllocator(64 * MIB)
    first = allocator.malloc(30 * MIB)
    second = allocator.malloc(30 * MIB)
    allocator.free(first)
    allocator.free(second)
    allocator.malloc(40 * MIB)
    assert (allocator.reorganisations, allocator.driver_frees, allocator.reserved) == (1, 2, 40 * MIB)
    with pytest.raises(DeviceOutOfMemoryError):
        allocator.malloc(40 * MIB)


@given(request_sequences(20))
@settings(max_examples=30, deadline=None)
def test_the_trace_counts_every_instruction(sequence: RequestSequence) -> None:
    trace = replay(sequence, steps=2)
    assert len(trace.reserved) == 2 * sequence.instructions
    assert trace.failed == -1
    assert trace.peak_allocated >= int(sequence.live_bytes().max())
    assert trace.allocated[-1] == 0
    assert (trace.reserved >= trace.allocated).all()
