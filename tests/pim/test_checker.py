"""The rule checker of PIM commands finds what is wrong, whatever rule it is; the engine's own runs pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hw_configs.library import load_device
from hw_configs.problems import InputError
from simulator.pim.checker import check_pim_commands, parse_command
from simulator.pim.engine import PimEngine
from simulator.pim.gemv import gemv_program
from tests.pim.machines import FAMILIES, small


def issued(engine, program):
    taken = []
    engine.run(program, commands=taken.append)
    commands = [parse_command(line) for line in taken[0].lines()]
    return [command for command in commands if command.channel == 0]


@pytest.mark.parametrize("honest", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_product_passes_and_one_tick_earlier_never_does(name, honest):
    """Every command of a product goes at the first tick that the rules allow: none may go earlier."""
    device = small(name, interval=100_000)
    engine = PimEngine(device, honest, refresh="off")
    commands = issued(engine, gemv_program(device, 40, 100))
    assert check_pim_commands(device, engine.choice, commands) is None
    step = device.commands.merged.ticks_per_clock
    blocked = 0
    for index in range(1, len(commands)):
        if commands[index].tick - commands[index - 1].tick <= step or commands[index].name in (
            "TMOD",
            "MODE",
        ):
            # A switch of modes goes when the command that needs it could go: no rule of its own.
            continue
        early = [*commands[:index], replace(commands[index], tick=commands[index].tick - step)]
        found = check_pim_commands(device, engine.choice, early)
        waits_for_host = commands[index - 1].name in ("RDMAC16", "RDGRF", "MVSB")
        if found is None:
            assert waits_for_host, commands[index]
        else:
            assert found.index == index
            blocked += 1
    assert blocked > 20


def line(text):
    return parse_command(text)


def first_of(device, *texts, honest=False, refresh="off"):
    choice = PimEngine(device, honest, refresh=refresh).choice
    return check_pim_commands(device, choice, map(line, texts))


@pytest.mark.parametrize(
    ("texts", "rule"),
    [
        (["1,MAC16,0:-1:-1:0:0"], "bank state"),
        (["1,ACT16,0:-1:-1:3:-1", "57,MAC16,0:-1:-1:4:0"], "bank state"),
        (["1,ACT16,0:-1:-1:3:-1", "56,MAC16,0:-1:-1:3:0"], "tRCDRD (Channel)"),
        (["1,ACT16,0:-1:-1:3:-1", "57,MAC16,0:-1:-1:3:0", "58,MAC16,0:-1:-1:3:1"], "tCCD_S (Channel)"),
        (["1,ACT16,0:-1:-1:3:-1", "90,ACT4,0:1:-1:3:-1"], "bank state"),
        (["1,WRGB,0:-1:-1:-1:-1"], "mode"),
        (["1,TMOD,0:-1:-1:-1:-1", "32,WRGB,0:-1:-1:-1:-1"], "mode switch (Channel)"),
        (["5,ACT,0:0:0:0:-1", "5,ACT,0:1:0:0:-1"], "order"),
        (["1,ACT16,0:-1:-1:99999:-1"], "address"),
        (["1,ACT16,0:7:7:1:-1"], "address"),
        (["1,FOO,0:-1:-1:-1:-1"], "command"),
        (["1,ACT16,0:-1:-1:3:-1", "90,REFab,0:-1:-1:-1:-1"], "bank state"),
    ],
)
def test_a_broken_rule_is_named(texts, rule):
    found = first_of(load_device("gddr6-aim"), *texts)
    assert found is not None
    assert found.rule == rule
    assert found.index == len(texts) - 1
    assert f"breaks {rule}" in str(found)


def test_the_window_counts_banks_only_where_it_is_honest():
    device = load_device("gddr6-aim")
    texts = ["1,ACT4,0:0:-1:0:-1", "7,ACT4,0:1:-1:0:-1"]
    assert first_of(device, *texts) is None
    assert first_of(device, *texts, honest=True).rule == "tFAW"
    assert first_of(device, texts[0], "43,ACT4,0:1:-1:0:-1", honest=True) is None


def test_a_refresh_left_out_is_found():
    device = load_device("gddr6-aim")
    texts = ["1,ACT4,0:0:-1:0:-1", "40000,ACT4,0:1:-1:0:-1"]
    assert first_of(device, *texts) is None
    assert first_of(device, *texts, refresh="immediate").rule == "tREFI"


def test_a_line_that_is_no_command():
    with pytest.raises(InputError, match="expected tick,COMMAND,address"):
        parse_command("1,ACT")
