"""DRAM device files: every shipped one builds, runs and adds up; impossible ones are refused in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import hw_configs
from hw_configs.config import parse
from hw_configs.dram import DramDevice
from hw_configs.library import load_device
from hw_configs.problems import InputError
from hw_configs.yaml_file import read_yaml_text
from simulator.dram.address import address_map
from simulator.dram.build import channel_of, memory_of
from simulator.dram.channel_tables import compile_tables
from simulator.dram.dealing import Dealer
from simulator.dram.engine import Memory, RunOptions, simulate_trace
from simulator.dram.machine import Channel, Constraint
from simulator.dram.patterns import AccessPattern, geometry_of, pattern_bandwidth
from simulator.dram.timeline import Timeline, draw_timeline
from tests.dram.machines import small
from tests.dram.oracle import decode_plainly
from workloads.memory_trace import ArrayTrace, Requests, generate

FOLDER = Path(hw_configs.__file__).parent / "devices" / "dram"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def device(name: str = "ddr4-2400r", **changes: object) -> DramDevice:
    data = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = data
        for parent in parents:
            target = target[parent]
        target[last] = value
    return parse(DramDevice, read_yaml_text(yaml.safe_dump(data), "device.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_shipped_device_adds_up(name: str) -> None:
    loaded = load_device(name)
    assert isinstance(loaded, DramDevice)
    memory = memory_of(loaded)
    assert loaded.capacity_bytes == memory.channels * memory.channel.capacity_bytes
    assert loaded.bandwidth_bytes_per_s == pytest.approx(memory.channels * memory.channel.peak_bytes_per_s)
    assert 15e-9 < loaded.latency_s < 150e-9
    assert 5e-12 < loaded.energy_per_byte_j < 400e-12
    trace = generate("mix21_stream", 3000, 3, geometry_of(loaded))
    result = simulate_trace(memory, trace, RunOptions(threads=1))
    assert result.requests == 3000
    assert 0 < result.utilisation <= 1


def test_idle_read_takes_the_stated_latency() -> None:
    for name in ("ddr3-1600k", "ddr4-2400r", "ddr5-4800b", "lpddr5-6400", "gddr6-14000", "hbm2-2000"):
        loaded = load_device(name)
        assert isinstance(loaded, DramDevice)
        one = ArrayTrace(np.zeros(1, np.int64), np.zeros(1, np.uint8))
        result = simulate_trace(memory_of(loaded), one)
        assert result.latency_max * result.tick_s == pytest.approx(loaded.latency_s, rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"timing__nRAS": 10}, "tRAS (10 clocks) is below tRCD (16)"),
        ({"timing__nREFI": 400}, "tREFI (400 clocks) is not above tRFC (421)"),
        ({"timing__nCLL": 10}, "timing.nCLL: DDR4 has no such timing (did you mean 'nCL'?)"),
        ({"timing__tRFC": "350 ns"}, "nRFC is given twice"),
        ({"timing__nRP": "16 ns"}, "timing.nRP: found '16 ns'; expected a whole number of clocks"),
        ({"standard": "DDR9"}, "unknown DRAM standard 'DDR9'"),
        ({"organisation__banks": 5}, "banks: found 5; expected a power of two"),
        ({"controller": {"low_watermark": 0.9, "high_watermark": 0.1}}, "low_watermark: found 0.9, above"),
        ({"currents__idd0": "10 mA"}, "an activation would cost less than nothing"),
        ({"currents__rho": 1.5}, "less than or equal to 1"),
        ({"currents__idd5pb": "20 mA"}, "idd5pb is below precharge standby"),
        ({"organisation__pseudo_channels": 2}, "DDR4 has no level PseudoChannel"),
        ({"currents__idd4r": "20 mA"}, "idd4r is below active standby"),
        ({"clock_period": "5 GHz"}, "expected a time"),
        ({"channels": 0}, "greater than 0"),
        ({"controller": {"row_policy": "shut"}}, "found 'shut'"),
    ],
)
def test_impossible_devices_are_refused_in_words(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        device(**changes)
    assert words in str(caught.value)
    assert "device.yaml" in str(caught.value)


def test_missing_timing_is_named() -> None:
    data = yaml.safe_load((FOLDER / "ddr4-2400r.yaml").read_text())
    del data["timing"]["nFAW"]
    with pytest.raises(InputError, match="missing nFAW"):
        parse(DramDevice, read_yaml_text(yaml.safe_dump(data), "device.yaml"))


def test_a_time_is_rounded_up_to_clocks() -> None:
    data = yaml.safe_load((FOLDER / "ddr4-2400r.yaml").read_text())
    del data["timing"]["nRFC"]
    data["timing"]["tRFC"] = "360 ns"
    loaded = parse(DramDevice, read_yaml_text(yaml.safe_dump(data), "device.yaml"))
    assert loaded.clocks["nRFC"] == 433


@pytest.mark.parametrize(
    "mapping", ["RoBaRaCoCh", "ChRaBaRoCo", "MOP4CLXOR", "ro co:3 ba bg^ro ra co ch", "ro ba^ro bg ra co ch"]
)
@pytest.mark.parametrize("channels", [1, 4])
def test_every_mapping_is_a_bijection(mapping: str, channels: int) -> None:
    channel = small("ddr4-2400r", ranks=2, rows=8)
    channel = Channel(
        **{
            **{f: getattr(channel, f) for f in channel.__dataclass_fields__},
            "mapping": mapping,
            "columns": 16,
        }
    )
    amap = address_map(channel, channels)
    seen = {decode_plainly(amap, transaction) for transaction in range(amap.transactions)}
    assert len(seen) == amap.transactions
    assert all(all(0 <= x < size for x, size in zip(place, amap.sizes, strict=True)) for place in seen)


@pytest.mark.parametrize(
    ("mapping", "channels", "ranks", "rows"),
    [
        ("RoBaRaCoCh", 6, 1, 8),
        ("ChRaBaRoCo", 6, 3, 12),
        ("ro ba^ro ra co bg:1^ro ch bg:1 co:1", 12, 1, 12),
        ("ch ra co:2 ro ba bg^ro co:2", 3, 3, 6),
        ("ra ba bg ro co:3 ch co:1", 5, 6, 3),
    ],
)
def test_any_number_of_channels_ranks_and_rows_is_a_bijection(
    mapping: str, channels: int, ranks: int, rows: int
) -> None:
    channel = replace(small("ddr4-2400r", ranks=ranks, rows=rows), columns=16, mapping=mapping)
    amap = address_map(channel, channels)
    assert amap.transactions == channels * ranks * 16 * rows * 16
    seen = {decode_plainly(amap, transaction) for transaction in range(amap.transactions)}
    assert len(seen) == amap.transactions
    assert all(all(0 <= x < size for x, size in zip(place, amap.sizes, strict=True)) for place in seen)
    # The compiled decoder says the same, with banks numbered in tree order.
    dealer = Dealer(Memory(channel, channels), RunOptions(), "t")
    address = np.arange(amap.transactions, dtype=np.int64) * channel.transaction_bytes
    dealt = dealer.deal(Requests(address, np.zeros(address.size, np.uint8), address[:0]))
    places = {
        (unit, int(bank), int(row))
        for unit, chunk in enumerate(dealt)
        for bank, row in zip(chunk.bank, chunk.row, strict=True)
    }
    assert places == {(c, b, r) for c in range(channels) for b in range(channel.banks) for r in range(rows)}


def test_three_layers_of_a_stack_number_their_banks_in_tree_order() -> None:
    channel = small("hbm3-6400", rows=4)
    channel = replace(channel, levels=(*channel.levels[:2], ("Sid", 3), *channel.levels[2:]), columns=4)
    dealer = Dealer(Memory(channel), RunOptions(), "t")
    address = np.arange(dealer.map.transactions, dtype=np.int64) * channel.transaction_bytes
    (chunk,) = dealer.deal(Requests(address, np.zeros(address.size, np.uint8), address[:0]))
    places = [decode_plainly(dealer.map, t)[1:-2] for t in range(address.size)]
    assert [channel.targets[0][b].address[1:] for b in chunk.bank] == places
    assert set(chunk.bank.tolist()) == set(range(96))


@pytest.mark.parametrize(
    ("name", "streams"), [("host-ddr5-4800-12ch-768gb", 0.85), ("host-ddr4-2666-6ch-192gb", 0.85)]
)
def test_processors_with_six_and_twelve_channels_take_traces(name: str, streams: float) -> None:
    loaded = load_device(name)
    assert isinstance(loaded, DramDevice)
    trace = generate("seq_read", 60_000, 1, geometry_of(loaded))
    result = simulate_trace(memory_of(loaded), trace)
    assert result.utilisation > streams
    per_channel = result.bank_outcomes.reshape(loaded.channels, -1).sum(axis=1)
    assert per_channel.max() < 1.01 * per_channel.min() + 8


def test_a_die_of_24_gigabits_is_three_quarters_of_one_of_32() -> None:
    loaded = device("ddr5-4800b", organisation__rows=98304)
    assert loaded.capacity_bytes == 1.5 * device("ddr5-4800b").capacity_bytes
    last = ArrayTrace(np.array([int(loaded.capacity_bytes) - 64]), np.zeros(1, np.uint8))
    assert simulate_trace(memory_of(loaded), last).requests == 1
    with pytest.raises(InputError, match="beyond the capacity"):
        simulate_trace(memory_of(loaded), replace(last, address=np.array([int(loaded.capacity_bytes)])))


def test_a_hash_into_a_number_that_is_no_power_of_two_is_refused() -> None:
    for mapping in ("MOP4CLXOR", "ro ba bg ra^ro co ch", "ro ba bg ra:1 co ra:1 ch"):
        with pytest.raises(InputError, match="no power of two"):
            address_map(replace(small("ddr4-2400r", ranks=3), mapping=mapping), 1)


def test_ones_own_standard_is_taken_from_beside_the_device(tmp_path: Path) -> None:
    shipped = FOLDER.parent.parent / "dram_standards" / "DDR4.yaml"
    (tmp_path / "MYDDR.yaml").write_text(shipped.read_text().replace("standard: DDR4", "standard: MYDDR"))
    text = (FOLDER / "ddr4-2400r.yaml").read_text()
    for reference in ("./MYDDR.yaml", str(tmp_path / "MYDDR.yaml"), "MYDDR.yaml"):
        path = tmp_path / "own.yaml"
        path.write_text(text.replace("standard: DDR4", f"standard: {reference}"))
        own = load_device(path)
        assert isinstance(own, DramDevice)
        assert (
            pattern_bandwidth(own).bandwidth_bytes_per_s == pattern_bandwidth(device()).bandwidth_bytes_per_s
        )
    path.write_text(text.replace("standard: DDR4", "standard: ./NONE.yaml"))
    with pytest.raises(InputError, match=r"NONE\.yaml: no such file"):
        load_device(path)
    (tmp_path / "MYDDR.yaml").write_text("standard: MYDDR\n")
    path.write_text(text.replace("standard: DDR4", "standard: MYDDR.yaml"))
    with pytest.raises(InputError, match="MYDDR"):
        load_device(path)


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ("ro ba bx co", "unknown field 'bx'"),
        ("RoBaRaCoC", "did you mean 'RoBaRaCoCh'"),
        ("ro ba bg co:9", "only 7 bits of Column"),
        ("ro ba co", "places no bits for BankGroup"),
        ("ro ba^co:2 bg co", "unknown field"),
        ("ro pc:1 ba bg co", "has no level PseudoChannel"),
    ],
)
def test_bad_mapping_strings_are_explained(mapping: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        simulate_trace(memory_of(device(mapping=mapping)), generate("seq_read", 5, 1, geometry_of(device())))
    assert words in str(caught.value)


def test_several_channels_share_the_work_and_keep_every_request() -> None:
    many = load_device("hbm2-2000-stack")
    assert isinstance(many, DramDevice)
    trace = generate("rand_read", 40_000, 2, geometry_of(many))
    parallel = simulate_trace(memory_of(many), trace, RunOptions(threads=4, chunk=5000))
    serial = simulate_trace(memory_of(many), trace, RunOptions(threads=1))
    assert parallel.as_json() == serial.as_json()
    assert parallel.bank_outcomes.sum() == 40_000
    one = load_device("hbm2-2000")
    assert isinstance(one, DramDevice)
    alone = simulate_trace(memory_of(one), generate("rand_read", 40_000, 2, geometry_of(one)))
    assert parallel.bandwidth_bytes_per_s > 6 * alone.bandwidth_bytes_per_s


def test_patterns_order_as_physics_says() -> None:
    memory = load_device("ddr4-2400r")
    assert isinstance(memory, DramDevice)
    stream = pattern_bandwidth(memory, "stream")
    page = pattern_bandwidth(memory, AccessPattern("gather", block_bytes=4096))
    row = pattern_bandwidth(memory, AccessPattern("gather", block_bytes=256))
    single = pattern_bandwidth(memory, "random")
    strided = pattern_bandwidth(memory, AccessPattern("strided", block_bytes=256, stride_bytes=8192))
    tiny = pattern_bandwidth(memory, AccessPattern("gather", block_bytes=16))
    assert stream.bandwidth_bytes_per_s > row.bandwidth_bytes_per_s > single.bandwidth_bytes_per_s
    # With the reference's mapping, blocks of 256 bytes spread over bank groups, which a stream inside one row cannot.
    plain = load_device("ramulator-ddr4-2400r")
    assert isinstance(plain, DramDevice)
    spread = pattern_bandwidth(plain, AccessPattern("gather", block_bytes=256))
    assert spread.bandwidth_bytes_per_s > pattern_bandwidth(plain, "stream").bandwidth_bytes_per_s
    assert page.row_hit_rate > row.row_hit_rate > single.row_hit_rate
    assert stream.energy_per_byte_j < row.energy_per_byte_j < single.energy_per_byte_j
    assert 0 < strided.bandwidth_bytes_per_s <= memory.bandwidth_bytes_per_s
    assert tiny.bandwidth_bytes_per_s < single.bandwidth_bytes_per_s / 3
    # One request in flight: its latency is the idle one or, on row hits, less.
    lone = pattern_bandwidth(memory, "random", outstanding=1)
    assert lone.latency_s == pytest.approx(memory.latency_s, rel=0.6)
    assert pattern_bandwidth(memory, "stream") is stream


def test_addresses_beyond_the_capacity_are_counted_once() -> None:
    memory = memory_of(load_device("gddr6-14000"))
    size = memory.channel.capacity_bytes
    trace = ArrayTrace(np.array([0, size, size + 32, 64]), np.zeros(4, np.uint8), name="far.txt")
    with pytest.raises(InputError, match="2 addresses lie beyond the capacity of 536870912 bytes"):
        simulate_trace(memory, trace, RunOptions(chunk=1))
    wrapped = simulate_trace(memory, trace, RunOptions(wrap=True))
    assert wrapped.addresses_wrapped == 2
    assert wrapped.requests == 4


def test_ctrl_c_returns_what_was_found() -> None:
    memory = memory_of(load_device("ddr4-2400r"))
    trace = generate("rand_read", 50_000, 1, geometry_of(device()))

    def stop(done: int) -> None:
        if done >= 20_000:
            raise KeyboardInterrupt

    result = simulate_trace(memory, trace, RunOptions(progress=stop, chunk=5000))
    assert result.interrupted
    assert 10_000 < result.requests < 50_000
    assert result.bandwidth_bytes_per_s > 0


def test_refresh_modes_and_policies_change_what_they_should() -> None:
    trace = generate("hot_rand", 20_000, 4, geometry_of(device("ddr5-4800b")))

    def run(**controller: object):
        return simulate_trace(memory_of(device("ddr5-4800b", controller=controller)), trace)

    none, all_banks, same = run(refresh="off"), run(), run(refresh="same-bank")
    assert none.refresh_share == 0
    assert none.cycles_drain < same.cycles_drain < all_banks.cycles_drain
    assert same.commands["REFsb"] > 3 * all_banks.commands["REFab"]
    closed = run(row_policy="closed")
    assert closed.commands["RDA"] > 10_000
    assert closed.row_conflicts < all_banks.row_conflicts / 5
    with pytest.raises(InputError, match="has no per-bank refresh"):
        run(refresh="per-bank")


def test_a_timeout_in_seconds_becomes_ticks() -> None:
    assert channel_of(device(controller={"timeout": "1 us"})).controller.timeout == 1200


def test_a_timeline_names_banks_by_the_levels_that_tell_them_apart(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    memory = memory_of(load_device("hbm2-2000"))
    timeline = Timeline(0, 200)
    trace = generate("rand_read", 100, 1, geometry_of(load_device("hbm2-2000")))
    simulate_trace(memory, trace, RunOptions(commands=timeline.add))
    draw_timeline(timeline, memory.channel, tmp_path / "t.svg")
    drawn = (tmp_path / "t.svg").read_text()
    assert "pseudo-channel : bank group : bank" in drawn
    assert "1:3:3" in drawn
    with pytest.raises(InputError, match="cannot be written"):
        draw_timeline(timeline, memory.channel, tmp_path / "none" / "t.svg")
    with pytest.raises(InputError, match=r"expected \.png or \.svg"):
        draw_timeline(timeline, memory.channel, tmp_path / "t.jpg")


def test_waits_beyond_what_the_kernel_counts_are_refused() -> None:
    channel = channel_of(device())
    rules = (*channel.constraints, Constraint("Bank", ("ACT",), ("RD",), 2**28))
    with pytest.raises(InputError, match="waits 268435456 ticks"):
        compile_tables(replace(channel, constraints=rules))
    levels = (*channel.levels[:-1], ("Bank", 3))
    with pytest.raises(InputError, match="found 3 banks in a group"):
        compile_tables(replace(channel, levels=levels))
