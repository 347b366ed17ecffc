"""Every rule of the checker, tripped by a legal trace that was changed by hand in one place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hw_configs.library import load_device
from hw_configs.problems import InputError
from simulator.dram.build import channel_of
from simulator.dram.channel_tables import compile_tables
from simulator.dram.checker import Command, _Checker, check_commands, parse_command
from simulator.dram.engine import Commands, Memory, RunOptions, run_recorded
from simulator.dram.machine import Channel, Controller
from tests.dram.machines import small
from workloads.memory_trace import ArrayTrace

DDR4, LPDDR5 = small("ddr4-2400r", rows=64), small("lpddr5-6400", rows=64)
HBM2, HBM3 = small("hbm2-2000", rows=64), small("hbm3-6400", rows=64)
FREE = Controller(refresh="off")
Trace = list[Command]


def trace(*lines: str) -> Trace:
    return [parse_command(line) for line in lines]


def broken(channel: Channel, commands: Trace) -> str:
    """The rule that the trace breaks first; empty when it keeps all."""
    found = check_commands(channel, commands)
    return "" if found is None else found.rule


STATES = [
    # A legal trace, and the last command that makes it illegal.
    (DDR4, ["1,ACT,0:0:0:0:3:0"], "100,ACT,0:0:0:0:4:0", "bank state"),
    (DDR4, ["1,ACT,0:0:0:0:3:0"], "100,RD,0:0:0:0:4:0", "bank state"),
    (DDR4, ["1,ACT,0:0:0:0:3:0", "100,PREpb,0:0:0:0:-1:-1"], "200,RD,0:0:0:0:3:0", "bank state"),
    (DDR4, ["1,ACT,0:0:0:0:3:0"], "100,REFab,0:0:-1:-1:-1:-1", "bank state"),
    (DDR4, ["1,ACT,0:0:0:0:3:0"], "100,RD,0:0:9:0:3:0", "address"),
    (DDR4, ["100,ACT,0:0:0:0:3:0"], "99,ACT,0:0:1:0:3:0", "order"),
    (DDR4, ["1,ACT,0:0:0:0:3:0"], "1,ACT,0:0:1:0:3:0", "command bus"),
    (HBM2, ["1,ACT,0:0:0:0:3:0", "50,RD,0:0:0:0:3:0"], "50,RD,0:1:0:0:3:0", "command bus"),
    (LPDDR5, ["1,ACT1,0:0:0:0:3:0"], "100,ACT1,0:0:1:0:3:0", "bank state"),
    (LPDDR5, ["1,ACT1,0:0:0:0:3:0"], "3,ACT2,0:0:0:0:4:0", "bank state"),
    (LPDDR5, [], "3,ACT2,0:0:0:0:4:0", "bank state"),
    (LPDDR5, ["1,ACT1,0:0:0:0:3:0"], "100,PREpb,0:0:0:0:-1:-1", "bank state"),
    (LPDDR5, ["1,ACT1,0:0:0:0:3:0"], "100,REFab,0:0:-1:-1:-1:-1", "bank state"),
]  # fmt: skip


@pytest.mark.parametrize(("channel", "before", "last", "rule"), STATES)
def test_a_command_that_the_state_forbids(channel, before, last, rule):
    assert broken(channel, trace(*before)) == ""
    assert broken(channel, trace(*before, last)) == rule


def test_a_row_command_beside_a_column_command_is_no_fault_of_hbm():
    lines = ["1,ACT,0:0:0:0:3:0", "50,RD,0:0:0:0:3:0", "50,ACT,0:1:0:0:3:0"]
    assert broken(HBM2, trace(*lines)) == ""
    assert broken(DDR4, trace(lines[0], lines[1], "50,ACT,0:0:1:0:3:0")) == "command bus"


def test_the_second_half_of_an_activation_comes_in_time():
    latest = 1 + LPDDR5.timing["nAAD"] if "nAAD" in LPDDR5.timing else 9
    for tick, rule in ((latest, ""), (latest + 1, "tAAD")):
        lines = trace("1,ACT1,0:0:0:0:3:0", f"{tick},ACT2,0:0:0:0:3:0")
        assert broken(LPDDR5, lines) == rule


def test_an_access_needs_a_running_data_clock():
    opened = trace("1,ACT1,0:0:0:0:3:0", "4,ACT2,0:0:0:0:3:0")
    cas, read = parse_command("100,CAS_RD,0:0:0:0:3:0"), parse_command("102,RD,0:0:0:0:3:0")
    assert broken(LPDDR5, [*opened, read]) == "WCK sync"
    assert broken(LPDDR5, [*opened, cas, read]) == ""
    wrong = [parse_command("102,WR,0:0:0:0:3:0"), parse_command("102,RD,0:0:0:0:3:1"),
             parse_command("102,PREpb,0:0:0:0:-1:-1")]  # fmt: skip
    for other in wrong:
        assert broken(LPDDR5, [*opened, cas, other]) == "WCK sync"
    # It runs for a while after the burst, and then stops.
    soon, late = parse_command("110,RD,0:0:0:0:3:1"), parse_command("400,RD,0:0:0:0:3:1")
    assert broken(LPDDR5, [*opened, cas, read, soon]) == ""
    assert broken(LPDDR5, [*opened, cas, read, late]) == "WCK sync"
    always = small("lpddr5-6400", rows=64, clock_sync=False)
    assert broken(always, [*opened, read]) == ""


@pytest.mark.parametrize("channel", [DDR4, LPDDR5, HBM2, HBM3, small("ddr4-2400r", 2, rows=64)])
def test_every_timing_rule_is_held_to_the_tick(channel):
    """The commands of each rule of the table, at its distance and a tick sooner, with no other rule in force."""
    held = 0
    for rule in channel.constraints:
        depth, levels = channel.level_names.index(rule.level), len(channel.levels)
        if rule.siblings and channel.levels[depth][1] == 1:
            continue
        alone = replace(channel, constraints=(replace(rule, name="held"),), controller=FREE)
        first = (0,) * levels
        other = tuple(int(rule.siblings and level == depth) for level in range(levels))
        # Whatever the banks hold, the checker is asked for the rule alone: its state is set by hand.
        for distance, wanted in ((rule.latency, False), (rule.latency - 1, True)):
            checker = _Checker(alone)
            for number in range(rule.window):
                checker._note(Command(10_000 + number, rule.preceding[0], (*first, 0, 0)))
            last = Command(10_000 + distance, rule.following[-1], (*other, 0, 0))
            found = checker._timing(last)
            assert (found is not None) == wanted, rule
        held += 1
    assert held > 20


# ---- HBM3: two edges


def test_only_a_precharge_goes_on_a_falling_edge():
    opened = trace("1,ACT,0:0:0:0:3:0")
    assert broken(HBM3, [*opened, parse_command("200,ACT,0:0:1:0:3:0")]) == "clock edge"
    assert broken(HBM3, [*opened, parse_command("200,PREpb,0:0:0:0:-1:-1")]) == ""


PAIRS = [
    # A row command on a rising edge, a precharge on the falling edge after it, and whether the two may go together.
    ("201,ACT,0:0:1:0:3:0", "204,PREpb,0:0:0:0:-1:-1", ""),
    ("201,ACT,0:0:1:0:3:0", "204,PREpb,0:0:1:0:-1:-1", "pairing"),
    ("201,ACT,0:0:1:0:3:0", "204,PREab,0:0:-1:-1:-1:-1", "pairing"),
    ("201,PREab,0:0:-1:-1:-1:-1", "202,PREpb,0:0:1:0:-1:-1", "pairing"),
    ("201,PREab,0:0:-1:-1:-1:-1", "202,PREpb,0:1:0:0:-1:-1", ""),
    ("201,PREpb,0:0:1:0:-1:-1", "202,PREpb,0:0:0:0:-1:-1", ""),
    ("201,PREpb,0:0:1:0:-1:-1", "202,PREpb,0:0:1:0:-1:-1", "pairing"),
]


@pytest.mark.parametrize(("rising", "falling", "rule"), PAIRS)
def test_what_may_go_beside_a_row_command(rising, falling, rule):
    # The table of times is left out: what is asked is whether the two edges may be used together.
    alone = replace(HBM3, constraints=())
    opened = trace("1,ACT,0:0:0:0:3:0", "101,ACT,0:1:0:0:3:0")
    assert broken(alone, [*opened, *trace(rising, falling)]) == rule


# ---- refresh

MODES = {
    "all-bank": ("ddr4-2400r", 1),
    "all-bank of two ranks": ("ddr4-2400r", 2),
    "same-bank": ("ddr5-4800b", 1),
    "same-bank of two ranks": ("ddr5-4800b", 2),
    "per-bank": ("gddr6-14000", 1),
    "per-bank of two ranks, two banks at a time": ("lpddr5-6400", 2),
    "per-bank, two banks at a time": ("lpddr5-6400", 1),
    "per-bank of a stack": ("hbm2-2000", 1),
    "paired-per-bank": ("hbm3-6400", 1),
}


def refreshes(mode: str, rounds: int = 12) -> tuple[Channel, Trace]:
    """The refreshes that the engine sends in some rounds on an idle channel."""
    device, ranks = MODES[mode]
    kind = mode.split(" ")[0].rstrip(",")
    channel = small(device, ranks, rows=64, refresh=kind)
    times = np.array([0, rounds * channel.timing["nREFI"]], np.int64)
    batches: list[Commands] = []
    options = RunOptions(record=True, commands=batches.append, leap=False)
    run_recorded(Memory(channel), ArrayTrace(np.zeros(2, np.int64), np.zeros(2, np.uint8), times), options)
    commands = [parse_command(line) for batch in batches for line in batch.lines()]
    return channel, commands


@pytest.mark.parametrize("mode", MODES)
def test_the_engine_refreshes_on_time_in_every_mode(mode):
    channel, commands = refreshes(mode)
    assert sum(command.name.startswith("REF") for command in commands) >= 10
    assert broken(channel, commands) == ""


@pytest.mark.parametrize("mode", MODES)
def test_every_bank_is_refreshed_once_in_trefi(mode):
    """Counted bank by bank from the log, and a rate that halves or doubles is told."""
    channel, commands = refreshes(mode, 40)
    span = commands[-1].tick / channel.timing["nREFI"]
    turns = dict.fromkeys(np.ndindex(*(size for _, size in channel.levels)), 0)
    targets = {target.address: target.banks for target in channel.targets[0]}
    for command in commands:
        if command.name.startswith("REF"):
            for flat in targets[command.address[: len(channel.levels)]]:
                turns[channel.targets[0][flat].address] += 1
    assert min(turns.values()) > span - 2
    assert max(turns.values()) < span * 1.01 + 2
    assert broken(channel, commands) == ""
    for factor in (0.5, 2):
        other = replace(channel, timing=channel.timing | {"nREFI": round(channel.timing["nREFI"] * factor)})
        assert broken(other, commands) == "tREFI"


def of_unit(commands: Trace, unit: int) -> list[int]:
    """Places of the refreshes of the nth address that is refreshed."""
    found = [command for command in commands if command.name.startswith("REF")]
    addresses = list(dict.fromkeys(command.address for command in found))
    return [
        place
        for place, command in enumerate(commands)
        if command.name.startswith("REF") and command.address == addresses[unit]
    ]


@pytest.mark.parametrize("mode", MODES)
def test_refreshes_left_out_are_missed(mode):
    """Without all refreshes but the first: eight may be owed, the ninth not."""
    channel, commands = refreshes(mode)
    first = of_unit(commands, 0)[0]
    kept = [c for i, c in enumerate(commands) if i <= first or not c.name.startswith("REF")]
    assert broken(channel, kept) == "tREFI"


@pytest.mark.parametrize("kind", ["all-bank", "per-bank", "same-bank", "paired-per-bank"])
def test_eight_refreshes_may_be_owed_or_in_advance(kind):
    device = next(device for mode, (device, _) in MODES.items() if mode == kind)
    channel = replace(small(device, rows=64, refresh=kind), constraints=())
    timing, banks = channel.timing, list(np.ndindex(*(size for _, size in channel.levels)))
    name = {"all-bank": "REFab", "same-bank": "REFsb"}.get(kind, "REFpb")
    kept = channel.level_names.index(channel.refresh_level) + 1
    wild = {"all-bank": (*range(kept),), "same-bank": (*range(kept), len(channel.levels) - 1)}.get(
        kind, range(len(channel.levels))
    )
    units = list(dict.fromkeys(tuple(b if i in wild else -1 for i, b in enumerate(bank)) for bank in banks))
    at_once = 2 if kind == "paired-per-bank" else 1
    round_ = (
        timing.get({"same-bank": "nREFIsb"}.get(kind, "nREFIpb"), timing["nREFI"]) * len(units) // at_once
    )
    round_ = timing["nREFI"] if kind == "all-bank" else round_
    slowest, fastest = max(timing["nREFI"], round_), min(timing["nREFI"], round_)
    last = parse_command(f"{9 * slowest},PREpb,{':'.join(map(str, (*banks[0], -1, -1)))}")
    step = channel.ticks_per_clock
    assert broken(channel, [replace(last, tick=9 * slowest - step * (1 + (9 * slowest) % step))]) == ""
    assert broken(channel, [last]) == "tREFI"
    # Rounds of refreshes as fast as the bus takes them.
    tick, early = 1, []
    for _ in range(9):
        for unit in units:
            early.append(Command(tick, name, (*unit, -1, -1)))
            tick += step
    assert tick < fastest
    assert broken(channel, early[: 8 * len(units)]) == ""
    assert broken(channel, early) == "tREFI"


@pytest.mark.parametrize("mode", [mode for mode in MODES if "all" not in mode])
def test_a_refresh_left_out_or_out_of_turn_breaks_the_round(mode):
    channel, commands = refreshes(mode, 3)
    one, two = of_unit(commands, 1), of_unit(commands, 2)
    dropped = [command for place, command in enumerate(commands) if place != one[0]]
    assert broken(channel, dropped) in ("refresh round", "refresh pair")
    # The second gets the third's turn: then it comes again in the next round, before the third.
    turned = list(commands)
    turned[two[0]] = replace(commands[two[0]], address=commands[one[0]].address)
    alone = replace(channel, constraints=())
    assert broken(alone, turned) == "refresh round"


def test_a_bank_without_its_twin_breaks_the_pair():
    channel, commands = refreshes("paired-per-bank", 3)
    alone = replace(channel, constraints=())
    last = of_unit(commands, 1)
    assert commands[last[0]].address[1] == 1
    # One pseudo-channel goes through its round alone.
    lone = [c for c in commands if not (c.name == "REFpb" and c.address[1] == 1)]
    assert broken(alone, lone) == "refresh pair"
    assert broken(alone, commands) == ""


def test_without_refresh_nothing_is_owed():
    channel = small("ddr4-2400r", rows=64, refresh="off")
    assert broken(channel, trace("90000000,ACT,0:0:0:0:3:0")) == ""


def test_a_line_that_is_no_command_is_refused():
    for line in ("", "x,ACT,0:0", "1,ACT", "1,ACT,0:x"):
        with pytest.raises(InputError, match="expected tick,COMMAND,address"):
            parse_command(line)


RATES = [
    ("lpddr5-6400", "per-bank", 1),
    ("lpddr5-6400", "per-bank", 2),
    ("unified-lpddr5-6400-16ch", "per-bank", 2),
    ("ddr5-4800b", "same-bank", 1),
    ("ddr5-4800b", "same-bank", 2),
    ("gddr6-16000", "per-bank", 1),
    ("hbm2-2000", "per-bank", 1),
    ("hbm2e-3200-stack", "per-bank", 1),
    ("hbm3-6400", "per-bank", 1),
    ("hbm3-6400", "paired-per-bank", 1),
    ("hbm3-5200-stack", "paired-per-bank", 1),
]


@pytest.mark.parametrize(("device", "kind", "ranks"), RATES)
def test_a_device_file_refreshes_every_bank_once_in_trefi(device, kind, ranks):
    own = load_device(device)
    controller = own.controller.model_copy(update={"refresh": kind})
    organisation = own.organisation.model_copy(update={"ranks": ranks})
    made = type(own).model_validate(
        own.model_dump() | {"controller": controller, "organisation": organisation}
    )
    channel, tables = channel_of(made), compile_tables(channel_of(made))
    c = tables.settings
    round_ = c.paired_period * c.paired_banks * c.paired_sids
    if not c.paired:
        round_ = int((tables.timer_period * np.diff(tables.timer_start)).max())
    assert 0.98 * channel.timing["nREFI"] < round_ <= channel.timing["nREFI"]
    assert sum(len(channel.targets[0][t].banks) for t in tables.timer_object) in (0, channel.banks)


def test_a_stated_interval_that_misses_the_rate_is_refused():
    own = load_device("lpddr5-6400")
    data = own.model_dump() | {"timing": own.timing | {"nREFIpb": 391}}
    assert type(own).model_validate(data).clocks["nREFIpb"] == 391
    for interval, share in ((781, "2.00"), (200, "0.51")):
        data = own.model_dump() | {"timing": own.timing | {"nREFIpb": interval}}
        data["controller"]["refresh"] = "per-bank"
        with pytest.raises(ValueError, match=f"refresh a bank every {share} tREFI"):
            type(own).model_validate(data)
