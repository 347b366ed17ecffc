"""Each mechanism does what it is there for, and nothing else changes."""

from dataclasses import replace

import numpy as np
import pytest

from hw_configs.problems import InputError
from simulator.flash.aging import History
from simulator.flash.engine import DriveRun, RunOptions, simulate_drive
from simulator.flash.fast import simulate_drive_fast
from simulator.flash.layout import plane_order
from tests.flash.drives import PAGE, blocks, drive
from workloads.block_trace import ArrayBlocks


def random_pages(count, pages, seed=1):
    return np.random.default_rng(seed).integers(0, pages, count)


def run(made, trace, **options):
    return simulate_drive(made, trace, RunOptions(**{"outstanding": 16} | options))


def test_every_placement_spreads_neighbours_over_all_planes():
    import itertools

    made = drive(dies_per_chip=3)
    for letters in itertools.permutations("CWDP"):
        order = plane_order(replace(made, placement="".join(letters)))
        assert sorted(order) == list(range(made.planes))
    # Channels fastest: neighbours are a channel's planes apart; planes fastest: they are neighbours.
    assert plane_order(replace(made, placement="CWDP"))[1] == made.planes // 2
    assert plane_order(replace(made, placement="PDWC"))[1] == 1


def test_interleaved_dies_read_side_by_side():
    made = drive(dies_per_chip=4, chips_per_channel=1, logical_pages=1024)
    trace = blocks([0] * 400, random_pages(400, 1024))
    apart = run(replace(made, die_interleaving=True), trace)
    assert apart.iops > 1.8 * run(made, trace).iops


def test_cache_reads_hide_the_bus_behind_the_array():
    made = drive(channels=1, chips_per_channel=1, planes_per_die=1, multi_plane=False, logical_pages=64)
    trace = blocks([0] * 60, range(60))
    plain = run(made, trace).time_s
    cached = run(replace(made, cache_commands=True), trace).time_s
    array, bus = 25_020 + 290, 3 * PAGE
    assert plain * 1e9 / 60 == pytest.approx(array + bus, rel=0.05)
    assert cached * 1e9 / 60 == pytest.approx(array, rel=0.05)


def test_a_suspended_program_lets_a_read_pass():
    made = drive(channels=1, chips_per_channel=1, planes_per_die=1, logical_pages=64)
    trace = blocks(
        [1, 0] * 40, [page for pair in zip(range(40), range(40, 80), strict=True) for page in pair][:80]
    )
    trace = blocks([1, 0] * 20, range(40))
    plain = run(made, trace, outstanding=4)
    quick = run(replace(made, suspend_program=True, suspend_ns=5_000, resume_ns=5_000), trace, outstanding=4)
    assert quick.counts["suspensions"] > 5
    assert quick.read_latency.mean_ns < 0.6 * plain.read_latency.mean_ns


def test_a_retry_costs_another_array_read():
    made = drive()
    trace = blocks([0] * 100, random_pages(100, 512))
    plain, again = (
        run(made, trace, outstanding=1),
        run(replace(made, retry_probability=1.0), trace, outstanding=1),
    )
    assert again.counts["read_retries"] == 100
    assert again.latency.mean_ns - plain.latency.mean_ns == pytest.approx(25_000)
    worn = replace(made, retry_probability=0.0, retry_probability_worn=1.0)
    assert run(worn, trace).counts["read_retries"] == 0


def test_a_write_buffer_acknowledges_early_and_answers_reads():
    made = drive(write_buffer_pages=8)
    trace = blocks([1] * 20, range(20))
    assert run(made, trace, outstanding=1).write_latency.least_ns < 5_000
    both = run(made, blocks([1, 0] * 10, [i // 2 for i in range(20)]), outstanding=1)
    assert both.counts["buffer_hits"] > 0
    burst = run(made, blocks([1] * 200, range(200)), outstanding=32)
    assert burst.counts["buffer_peak_pages"] <= 8
    direct = run(drive(), blocks([1] * 200, range(200)), outstanding=32)
    assert burst.time_s >= direct.time_s * 0.5


def test_a_small_mapping_cache_costs_reads_of_the_map():
    made = drive(pages_per_block=64, page_bytes=PAGE, logical_pages=4096, blocks_per_plane=24)
    trace = blocks([0] * 500, random_pages(500, 4096))
    aged = History()
    whole = run(made, trace, history=aged)
    part = run(replace(made, mapping_cache_pages=2), trace, history=aged)
    assert part.counts["map_misses"] > 200
    assert part.counts["map_reads"] == part.counts["map_misses"]
    assert part.latency.mean_ns > 1.3 * whole.latency.mean_ns
    writes = run(
        replace(made, mapping_cache_pages=2), blocks([1] * 500, random_pages(500, 4096)), history=aged
    )
    assert writes.counts["map_writes"] > 100


def test_part_of_a_page_is_read_before_it_is_written():
    made = drive()
    half = ArrayBlocks([1, 1, 1], [0, 0, 2048], [4096, 2048, 2048])
    result = run(made, half, outstanding=1)
    assert result.counts["merge_reads"] == 2
    whole = run(made, blocks([1, 1], [0, 0]), outstanding=1)
    assert whole.counts["merge_reads"] == 0


def test_trims_make_collection_cheap():
    made = drive(logical_pages=640)
    pages = np.arange(640)
    rng = np.random.default_rng(5)
    fill, more = np.tile(pages, 2), rng.permutation(pages)[:480]
    kept = np.concatenate([np.ones(1280), np.ones(480), np.ones(640)])
    trimmed = np.concatenate([np.ones(1280), np.full(480, 3), np.ones(640)])
    order = np.concatenate([fill, more, rng.integers(0, 640, 640)])
    without, with_ = run(made, blocks(kept, order)), run(made, blocks(trimmed, order))
    assert with_.trims == 480
    assert with_.counts["pages_trimmed"] == 480
    assert with_.counts["gc_page_moves"] < without.counts["gc_page_moves"]


def test_an_aged_drive_writes_like_one_that_was_aged_slowly():
    made = drive(blocks_per_plane=64, pages_per_block=16, logical_pages=int(8 * 64 * 16 * 0.75))
    pages = made.logical_pages
    writes = blocks([1] * 4 * pages, random_pages(4 * pages, pages, 7))
    slow = DriveRun.begin(made, RunOptions(outstanding=8, history=History()), PAGE)
    (chunk,) = writes.chunks(4 * pages)
    half = [part[: 2 * pages] for part in chunk[:3]]
    from workloads.block_trace.trace import BlockRequests

    slow.feed(BlockRequests(*half, chunk.arrival), False)
    before = int(slow.state.record.gc_moves), int(slow.state.record.host_pages_written)
    slow.feed(BlockRequests(*(part[2 * pages :] for part in chunk[:3]), chunk.arrival), True)
    moved = int(slow.state.record.gc_moves) - before[0]
    settled = 1 + moved / (int(slow.state.record.host_pages_written) - before[1])
    aged = run(
        made, blocks([1] * 2 * pages, random_pages(2 * pages, pages, 9)), history=History(overwrites=2.0)
    )
    assert aged.write_amplification == pytest.approx(settled, rel=0.05)
    fresh = run(made, blocks([1] * 2 * pages, random_pages(2 * pages, pages, 9)))
    assert fresh.write_amplification < 0.9 * settled


def test_wear_levelling_brings_erase_counts_together():
    made = drive(blocks_per_plane=16, logical_pages=8 * 8 * 10, wear_levelling_gap=0)
    hot = np.where(np.random.default_rng(2).random(20_000) < 0.98, random_pages(20_000, 64), 0)
    trace = blocks([1] * 20_000, hot)
    spread = run(made, trace, history=History())
    level = run(replace(made, wear_levelling_gap=8), trace, history=History())
    assert level.counts["wear_levelling_executions"] > 0
    gap = spread.wear.erases_most - spread.wear.erases_least
    assert level.wear.erases_most - level.wear.erases_least < gap / 2


def test_an_open_loop_counts_from_arrival():
    made = drive()
    times = np.arange(50) * 1_000_000
    trace = ArrayBlocks(np.zeros(50), np.arange(50) * PAGE, np.full(50, PAGE), times)
    idle = run(made, trace, outstanding=0)
    alone = run(made, blocks([0] * 50, range(50)), outstanding=1)
    assert idle.latency.mean_ns == pytest.approx(alone.latency.mean_ns, rel=1e-3)
    together = run(made, replace(trace, arrival=np.zeros(50, np.int64)), outstanding=0)
    assert together.latency.mean_ns > 2 * idle.latency.mean_ns


def test_internal_reads_use_no_host_link():
    made = drive()
    trace = blocks([0] * 300, range(300))
    inside = run(made, trace, internal=True, outstanding=64)
    assert inside.wire_utilisation == (0.0, 0.0)
    assert inside.iops > run(made, trace, outstanding=64).iops * 0.99


def test_the_same_run_gives_the_same_bytes():
    made = drive(gc_policy="d-choices", gc_choices=3, retry_probability=0.1)
    trace = blocks([1] * 3000, random_pages(3000, 512))
    one, other = (run(made, trace, seed=4).as_json() for _ in range(2))
    assert one == other
    assert run(made, trace, seed=5).as_json() != one


def test_chunks_do_not_show():
    made = drive()
    trace = blocks([1] * 3000, random_pages(3000, 512))
    whole, cut = run(made, trace).as_json(), run(made, trace, chunk=64).as_json()
    assert whole == cut


def test_addresses_beyond_the_drive_are_refused_or_wrapped():
    made = drive()
    trace = blocks([0] * 3, [0, 600, 5])
    with pytest.raises(InputError, match="1 of 3 requests end beyond"):
        run(made, trace)
    assert run(made, trace, wrap=True).requests == 3


def test_a_drive_without_room_for_collection_is_refused():
    with pytest.raises(InputError, match="leave collection no room"):
        drive(logical_pages=8 * 16 * 8)


def test_the_fast_mode_is_near_the_event_mode():
    made = drive(blocks_per_plane=64, logical_pages=2048)
    lone = blocks([0] * 200, random_pages(200, 2048))
    fast, event = simulate_drive_fast(made, lone, RunOptions(outstanding=1)), run(made, lone, outstanding=1)
    assert fast.iops == pytest.approx(event.iops, rel=0.01)
    pages = random_pages(20_000, 2048)
    fast, event = (
        simulate_drive_fast(made, blocks([1] * 20_000, pages)),
        run(made, blocks([1] * 20_000, pages)),
    )
    assert fast.write_amplification == pytest.approx(event.write_amplification, rel=0.05)
    assert fast.iops == pytest.approx(event.iops, rel=0.35)
