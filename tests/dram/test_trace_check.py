"""``offchip trace dram --check``: every command of every channel is held against the device's rules."""

from __future__ import annotations

import json

import numpy as np
import pytest

import offchip
from hw_configs.problems import PhysicsError
from simulator.dram import channel_run
from simulator.dram.engine import Commands
from tests.dram.machines import DEVICES
from tests.dram.test_cli_trace_dram import call


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_keeps_the_rules_on_all_its_channels(device):
    plain = offchip.trace_dram("rand_read:600", device, channels=2)
    assert offchip.trace_dram("rand_read:600", device, channels=2, check=True).as_json() == plain.as_json()


def test_a_run_of_many_batches_is_checked_as_one(monkeypatch):
    monkeypatch.setattr(channel_run, "LOG_ROWS", 7)
    offchip.trace_dram("mix21_rand:400", "ddr4-2400r", channels=2, check=True)


@pytest.mark.parametrize(
    ("name", "change", "rule"),
    [
        ("RD", {"tick": -1}, "breaks "),
        ("RD", {"row": 1}, "breaks bank state"),
    ],
)
@pytest.mark.parametrize("channel", [0, 1])
def test_a_broken_log_is_refused_by_the_rule(monkeypatch, name, change, rule, channel):
    """One command of one channel is written down a tick too early, or with another row."""

    def broken(number, tick, code, target, row, column, names, targets):
        columns = {"tick": tick.copy(), "row": row.copy()}
        if number == channel:
            first = int(np.flatnonzero(code == names.index(name))[0])
            for field, by in change.items():
                columns[field][first] += by
        return Commands(number, columns["tick"], code, target, columns["row"], column, names, targets)

    monkeypatch.setattr(channel_run, "Commands", broken)
    with pytest.raises(PhysicsError, match=f"^channel {channel}: command .*{rule}"):
        offchip.trace_dram("rand_read:200", "ddr4-2400r", channels=2, check=True)
    offchip.trace_dram("rand_read:200", "ddr4-2400r", channels=2)


def test_the_summary_says_that_it_was_checked(capsys):
    call("seq_read:300", "--hw", "ddr4-2400r", "--check", "--json")
    assert json.loads(capsys.readouterr().out)["checked"] is True
    call("seq_read:300", "--hw", "ddr4-2400r", "--json")
    assert "checked" not in json.loads(capsys.readouterr().out)
    call("seq_read:300", "--hw", "ddr4-2400r", "--check")
    assert "checked: every command keeps the rules of" in capsys.readouterr().out
