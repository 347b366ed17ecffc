"""The PIM engine against a slow memory that ticks, against its own plain run, and against its checker."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hw_configs.library import load_device
from hw_configs.problems import InputError
from simulator.pim.checker import check_pim_commands, parse_command
from simulator.pim.engine import PimEngine
from simulator.pim.gemv import gemv_program
from simulator.pim.program import Instruction, Loop, Program
from tests.pim.machines import FAMILIES, programs, small
from tests.pim.oracle import Memory


def often(examples):
    """Settings of a random test; without shrinking, which takes minutes where a program is long."""
    return settings(
        max_examples=examples, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )  # fmt: skip


RULES = st.sampled_from(
    [("waived", "off"), ("waived", "immediate"), ("honest", "immediate"), ("honest", "row-boundary"),
     ("waived", "row-boundary")]
)  # fmt: skip


def run(program, device, leap=True, **rules):
    """One program on an engine of its own."""
    return PimEngine(device, **rules).run(program, leap=leap)


def logged(engine, program, start=0):
    """The result, and the commands of each group's channel."""
    taken = []
    result = engine.run(program, start_cycle=start, commands=taken.append)
    lines = [parse_command(line) for line in taken[0].lines()]
    by_channel = {}
    for line in lines:
        by_channel.setdefault(line.channel, []).append(line)
    return result, by_channel


def check_against_the_slow_memory(name, data):
    device = small(name)
    activation, refresh = data.draw(RULES)
    engine = PimEngine(device, refresh=refresh, activation=activation)
    program = data.draw(programs(device, most=4))
    start = data.draw(st.integers(0, 50)) * 37 * 2
    result, by_channel = logged(engine, program, start)
    cycles, logs = Memory(device, engine.choice).run(program, start)
    assert result.cycles == cycles
    for group in result.groups:
        first = (group.mask & -group.mask).bit_length() - 1
        ours = [(c.tick, c.name, c.group, c.bank, c.row, c.column) for c in by_channel.get(first, [])]
        end = start + cycles
        for channel in range(device.channels):
            if group.mask >> channel & 1:
                # What refresh does after the end is nobody's.
                assert [c for c in ours if c[0] < end] == [c for c in logs[channel] if c[0] < end]


@pytest.mark.parametrize("name", FAMILIES)
@often(18)
@given(data=st.data())
def test_the_kernel_is_the_slow_memory_command_by_command(name, data):
    check_against_the_slow_memory(name, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@often(150)
@given(data=st.data())
def test_the_kernel_is_the_slow_memory_command_by_command_often(name, data):
    check_against_the_slow_memory(name, data)


def check_leaps(name, data):
    device = small(name, interval=data.draw(st.sampled_from([600, 5000, 50_000])))
    activation, refresh = data.draw(RULES)
    engine = PimEngine(device, refresh=refresh, activation=activation)
    body = tuple(entry for entry in data.draw(programs(device)).body if getattr(entry, "op", "") != "EOC")
    program = Program((Loop(data.draw(st.integers(1, 40)), body),))
    settle = data.draw(st.booleans())
    quick, plain = (engine.run(program, leap=leap, settle=settle, start_cycle=740) for leap in (True, False))
    assert plain.leapt_commands == 0
    assert {**quick.as_json()} == {**plain.as_json()}


@pytest.mark.parametrize("name", FAMILIES)
@often(25)
@given(data=st.data())
def test_leaps_change_nothing(name, data):
    check_leaps(name, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@often(150)
@given(data=st.data())
def test_leaps_change_nothing_often(name, data):
    check_leaps(name, data)


def check_rules(name, data):
    device = small(name)
    activation, refresh = data.draw(RULES)
    engine = PimEngine(device, refresh=refresh, activation=activation)
    _, by_channel = logged(engine, data.draw(programs(device)))
    for issued in by_channel.values():
        assert check_pim_commands(device, engine.choice, issued) is None


@pytest.mark.parametrize("name", FAMILIES)
@often(8)
@given(data=st.data())
def test_every_command_keeps_the_rules(name, data):
    check_rules(name, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@often(150)
@given(data=st.data())
def test_every_command_keeps_the_rules_often(name, data):
    check_rules(name, data)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_product_leaps_over_nearly_all_of_its_commands(name):
    device = load_device(name)
    program = gemv_program(device, 4096, 4096, channels=1)
    quick, plain = (run(program, device, honest=True, leap=leap) for leap in (True, False))
    assert {**quick.as_json()} == {**plain.as_json()}
    assert quick.leapt_commands > 0.8 * sum(quick.groups[0].commands.values())
    assert quick.refreshes > 0


@pytest.mark.parametrize("name", FAMILIES)
@often(10)
@given(data=st.data())
def test_settled_programs_add_up(name, data):
    """A settled program leaves the memory as it found it, so the next one may start where it ended."""
    device = small(name, interval=40_000)
    engine = PimEngine(
        device, refresh="row-boundary", activation=data.draw(st.sampled_from(["waived", "honest"]))
    )
    first, second = (data.draw(programs(device, most=3)) for _ in range(2))
    one = engine.run(first, settle=True)
    grid = device.commands.merged.ticks_per_clock
    start = one.cycles + -one.cycles % grid
    two = engine.run(second, start_cycle=start)
    _, issued = logged(engine, first)
    _, later = logged(engine, second, start)
    settled = []
    engine.run(first, settle=True, commands=settled.append)
    closed = {}
    for line in map(parse_command, settled[0].lines()):
        closed.setdefault(line.channel, []).append(line)
    assert two.cycles >= 0
    assert all(len(closed[channel]) >= len(lines) for channel, lines in issued.items())
    for channel in closed.keys() & later.keys():
        assert check_pim_commands(device, engine.choice, [*closed[channel], *later[channel]]) is None


def test_channels_that_get_other_streams_are_run_apart():
    device = small("gddr6-aim", channels=4)
    body = (
        Instruction("MAC_ABK", 9, channels=0b0011),
        Instruction("RD_MAC", channels=0b0111),
        Instruction("EOC"),
    )
    result = run(Program(body), device)
    assert sorted(group.mask for group in result.groups) == [0b0011, 0b0100]
    counts = {group.mask: group.commands for group in result.groups}
    assert counts[0b0011]["MAC16"] == 9
    assert "MAC16" not in counts[0b0100]
    assert result.commands["MAC16"] == 18
    assert result.commands["RDMAC16"] == 3


def test_honest_rules_take_longer_and_refresh():
    device = load_device("gddr6-aim")
    program = gemv_program(device, 1024, 1024)
    published, honest = run(program, device), run(program, device, honest=True)
    assert published.refreshes == 0
    assert honest.refreshes > 0
    assert honest.cycles > 1.2 * published.cycles
    assert honest.commands["ACT4"] == 4 * published.commands["ACT16"]
    assert honest.activations == published.activations
    # One group's four activations are a window apart, and the row is read once the last has opened.
    window, act = device.dram.clocks["nFAW"], 56
    assert honest.cycles - published.cycles > published.commands["ACT16"] // 2 * (3 * window)
    assert act == device.timing["nRCDRDMAC"]


def test_a_wait_of_the_host_lets_refresh_go_for_nothing():
    device = small("gddr6-aim", interval=3333)
    work = Program((Instruction("MAC_ABK", 64), Instruction("RD_MAC"), Instruction("PRE_ALL")))
    rest = Program((*work.body, Instruction("WAIT", 10_000), *work.body))
    engine = PimEngine(device, refresh="immediate")
    alone, both = engine.run(work), engine.run(rest)
    # The host goes on a clock after the last instruction of the first part was decoded.
    assert both.refreshes == 3 * device.channels
    assert both.cycles < 10_000 + 2 * alone.cycles


def test_phases_take_all_the_time_and_all_the_commands():
    device = load_device("pim-gpt-gddr6")
    body = []
    for label in ("qkv", "attention", "qkv"):
        body += [Instruction("PHASE", label=label), *gemv_program(device, 512, 1024).body[:-1]]
    result = run(Program((*body, Instruction("EOC"))), device)
    assert set(result.phases) == {"qkv", "attention"}
    assert sum(phase.cycles for phase in result.phases.values()) == result.cycles
    assert result.phases["qkv"].commands["MAC16"] == 2 * result.phases["attention"].commands["MAC16"]
    assert sum(p.energy.total for p in result.phases.values()) == pytest.approx(
        result.energy.total - result.energy.background
    )


def test_energy_counts_every_bank_and_every_product():
    device = load_device("gddr6-aim")
    result = run(gemv_program(device, 256, 1024), device)
    macs = 256 * 1024
    assert result.macs == macs
    assert result.bytes_in_banks == macs * device.element_bytes
    assert result.energy.mac == pytest.approx(macs * 2 * device.energy.mac)
    assert result.energy.column == pytest.approx(macs / 16 * device.energy.column)
    assert result.energy.io == pytest.approx(result.pin_bytes * device.dram.currents.io)
    assert result.bytes_over_pins["vector"] == 1024 * 2 * device.channels
    assert result.activations == 256 * device.element_bytes * 1024 // device.row_bytes


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (Program(()), "holds no instruction"),
        (Program((Instruction("MAC_ABX"),)), "no instruction 'MAC_ABX'"),
        (Program((Instruction("MAC_ABK", 65),)), "col: MAC_ABK reaches 0 to 64; expected 0 to 63"),
        (Program((Instruction("MAC_ABK", row=16384),)), "row: MAC_ABK reaches 16384"),
        (
            Program((Loop(3, (Instruction("MAC_ABK", row=1, row_steps=(-1,)),)),)),
            "row: MAC_ABK reaches -1 to 1",
        ),
        (Program((Instruction("MAC_ABK", row_steps=(1,)),)), "row: 1 strides inside 0 loops"),
        (Program((Instruction("WR_SBK", bank=16),)), "bank: WR_SBK reaches 16"),
        (Program((Instruction("MAC_ABK", channels=8),)), "channels: found 0x8; 2 channels are there"),
        (Program((Instruction("MAC_ABK", channels=0),)), "channels: found 0x0"),
        (Program((Instruction("WR_GB", 0),)), "n: found 0"),
        (Program((Loop(-1, (Instruction("MAC_ABK"),)),)), "found LOOP -1"),
        (Program((Loop(2, (Instruction("EOC"),)),)), "EOC inside a loop"),
        (
            Program((Instruction("EOC"), Instruction("MAC_ABK"))),
            "found MAC_ABK after EOC, which ends the program",
        ),
        (Program((Instruction("EOC"), Loop(2, (Instruction("MAC_ABK"),)))), "found LOOP after EOC"),
        (Program((Instruction("EOC"), Instruction("PHASE", label="late"))), "found PHASE after EOC"),
        (Program((Instruction("WR_GB", 65),)), "WR_GB writes 65 bursts; the buffer of 2048 bytes holds 64"),
    ],
)
def test_programs_a_device_cannot_run_are_refused(program, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        run(program, load_device("gddr6-aim"))


def test_a_loop_of_no_iterations_does_nothing():
    device = small("gddr6-aim")
    nothing = run(Program((Loop(0, (Instruction("MAC_ABK", 9),)), Instruction("EOC"))), device)
    assert nothing.commands == {}
    assert nothing.cycles == 2


def test_endless_loops_are_refused():
    body = (Instruction("MAC_ABK"),)
    for _ in range(3):
        body = (Loop(1 << 30, body),)
    with pytest.raises(InputError, match="commands and waits, loops unrolled"):
        run(Program(body), small("gddr6-aim"))


def test_a_trillion_commands_are_leapt_over():
    device = small("gddr6-aim")
    one = Program((Loop(1_000_000, (Instruction("MAC_ABK", 64), Instruction("RD_MAC"))),))
    many = Program((Loop(100_000, one.body),))
    engine = PimEngine(device, refresh="off")
    once, often = engine.run(one), engine.run(many)
    assert often.commands["MAC16"] == 100_000 * once.commands["MAC16"]
    # All iterations but the first, which opens the row, take as long as each other.
    again = engine.run(Program((Loop(2, one.body),))).cycles - once.cycles
    assert often.cycles == once.cycles + 99_999 * again


def test_deep_loops_are_refused():
    body = (Instruction("MAC_ABK"),)
    for _ in range(9):
        body = (Loop(1, body),)
    with pytest.raises(InputError, match="deeper than 8"):
        run(Program(body), small("gddr6-aim"))


def test_a_leap_stops_at_a_refresh_that_closes_the_row_an_instruction_asks_for():
    """The instruction finds its row open and sends nothing, until a refresh has closed it."""
    device = small("pim-gpt-gddr6", interval=5000)
    engine = PimEngine(device, refresh="row-boundary", activation="waived")
    program = Program((Loop(400, (Instruction("WAIT", 228), Instruction("ACT_SBK", row=1, bank=3))),))
    quick, plain = (engine.run(program, leap=leap) for leap in (True, False))
    assert plain.commands["ACT"] > 10
    assert quick.as_json() == plain.as_json()


def test_a_leap_to_the_end_adds_no_refresh():
    """A channel that rested at the end of a loop is refreshed when it next works, which here is never."""
    device = small("pim-gpt-gddr6", interval=600)
    engine = PimEngine(device, refresh="immediate", activation="waived")
    tiles = Loop(4, (Instruction("WR_BIAS", 4, channels=1), Instruction("RD_AF", 8, channels=1),
                     Instruction("MAC_ABK", 9, row_steps=(1,))))  # fmt: skip
    first = Loop(9, (Instruction("WR_ABK", 5, 2, row_steps=(1,)), tiles, Instruction("MAC_SBK", 3, bank=5,
                 channels=1, row_steps=(1,)), Instruction("RD_AF", 5), Instruction("WR_GB"),
                 Instruction("ACT_ABK", row_steps=(0,))))  # fmt: skip
    last = Loop(9, (Instruction("RD_AF", 5, channels=1), Instruction("RD_SBK", 7, 1, row_steps=(0,))))
    program = Program((Loop(4, (first, Instruction("MAC_SBK", row=1, bank=1), last)),))
    quick, plain = (engine.run(program, leap=leap, start_cycle=740) for leap in (True, False))
    assert quick.as_json() == plain.as_json()
