"""Offchip's DRAM engine against runs of Ramulator 2.1 and energies of DRAMsim3."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hw_configs.library import load_device
from offchip.validation.dram import channel_from_reference, run
from offchip.validation.registry import Options
from simulator.dram.build import channel_of
from simulator.dram.energy import Currents, RankStates, idd_energy
from simulator.dram.engine import Memory, simulate_trace
from simulator.dram.machine import Channel
from workloads.memory_trace import ArrayTrace

FOLDER = Path(__file__).parent.parent / "reference" / "dram"


def test_every_column_of_every_row_is_equal() -> None:
    results = list(run(FOLDER, "*", Options()))
    assert len(results) == 15
    for row in results:
        assert row.verdict == "ok", f"{row.id}: {row.note}"
        assert set(row.expected) == set(row.ours)
        assert row.ours["command_sha256"] == row.expected["command_sha256"]


def test_a_changed_timing_is_noticed(tmp_path: Path) -> None:
    configs = json.loads((FOLDER / "configs.json").read_text())
    for rule in configs["ddr4_2400r_1r"]["constraints"]:
        if rule["level"] == "Bank" and rule["preceding"] == ["ACT"] and "RD" in rule["following"]:
            rule["latency"] += 1
    (tmp_path / "configs.json").write_text(json.dumps(configs))
    (tmp_path / "expected.csv").write_text((FOLDER / "expected.csv").read_text())
    (row,) = run(tmp_path, "ddr4_2400r_1r-rand_read-*", Options())
    assert row.verdict == "off"
    assert "command_sha256" in row.note


def test_unknown_controller_is_unsupported_not_dropped(tmp_path: Path) -> None:
    configs = json.loads((FOLDER / "configs.json").read_text())
    configs["ddr4_2400r_1r"]["controller"]["impl"] = "Quantum"
    (tmp_path / "configs.json").write_text(json.dumps(configs))
    (tmp_path / "expected.csv").write_text((FOLDER / "expected.csv").read_text())
    (row,) = run(tmp_path, "ddr4_2400r_1r-rand_read-*", Options())
    assert row.verdict == "unsupported"
    assert "unknown controller 'Quantum'" in row.note


def test_commands_that_are_never_issued_do_not_matter(tmp_path: Path) -> None:
    configs = json.loads((FOLDER / "configs.json").read_text())
    for rule in configs["hbm2_2000"]["constraints"]:
        if "REFab" in rule["preceding"]:
            rule["preceding"].append("RFMab")
        if "REFab" in rule["following"]:
            rule["following"].append("RFMab")
    (tmp_path / "configs.json").write_text(json.dumps(configs))
    (tmp_path / "expected.csv").write_text((FOLDER / "expected.csv").read_text())
    (row,) = run(tmp_path, "hbm2_2000-gemv-*", Options())
    assert row.verdict == "ok"


def rules(channel: Channel) -> dict[tuple[str, str, str, int, bool], int]:
    """The tightest wait of every pair of commands at every level."""
    table: dict[tuple[str, str, str, int, bool], int] = {}
    for rule in channel.constraints:
        for before in rule.preceding:
            for after in rule.following:
                key = (rule.level, before, after, rule.window, rule.siblings)
                table[key] = max(table.get(key, rule.latency), rule.latency)
    return table


@pytest.mark.parametrize(
    ("device", "config"),
    [
        ("ramulator-ddr4-2400r", "ddr4_2400r_1r"),
        ("ramulator-ddr5-4800b", "ddr5_4800bn_1r"),
        ("ramulator-lpddr5-6400", "lpddr5_6400_1r"),
        ("ramulator-gddr6-14000", "gddr6_14000_1250mV"),
        ("ramulator-hbm2-2000", "hbm2_2000"),
    ],
)
def test_standard_files_give_the_reference_rules(device: str, config: str) -> None:
    configs = json.loads((FOLDER / "configs.json").read_text())
    ours, theirs = rules(channel_of(load_device(device))), rules(channel_from_reference(configs[config]))
    if config == "lpddr5_6400_1r":
        # The reference counts write to read of another rank with the signs of CL and CWL exchanged.
        for pair in (("WR", "RD"), ("WR", "RDA"), ("WRA", "RD"), ("WRA", "RDA")):
            assert theirs.pop(("Rank", *pair, 1, True)) == 12
            assert ours.pop(("Rank", *pair, 1, True)) == 4
    assert {key: ours.get(key) for key in theirs} == theirs
    # Beyond the reference only same-bank refresh, which it does not model.
    assert all("sb" in key[1] + key[2] for key in ours.keys() - theirs.keys())


def as_reference(channel: Channel) -> dict[str, Any]:
    """A channel in the reference's JSON keys."""
    levels = dict(channel.levels)
    above = channel.banks // (levels.get("BankGroup", 1) * levels["Bank"])
    control = channel.controller
    impl = {"ddr": "GenericDDR", "lpddr5": "LPDDR5", "hbm2": "HBM12", "hbm3": "HBM34"}[control.kind]
    return {
        "standard": channel.standard,
        "organization": {name.lower(): size for name, size in levels.items() if name != "Sid"},
        "levels": [*levels, "Row", "Column"],
        "geometry": {
            "tx_bytes": channel.transaction_bytes, "cols_tx": channel.columns, "ranks": above,
            "bankgroups": levels.get("BankGroup", 1), "banks": levels["Bank"], "rows": channel.rows,
        },
        "ticks_per_ck": channel.ticks_per_clock, "tick_ps": channel.tick_s * 1e12, "timing_ticks": channel.timing,
        "command_ticks": channel.command_ticks, "read_latency_ticks": channel.read_latency,
        "controller": {"impl": impl, "read_buffer_size": control.read_queue, "addr_mapper": {"impl": "MOP4CLXOR"}},
        "constraints": [
            {"level": r.level, "preceding": r.preceding, "following": r.following, "latency": r.latency,
             "window": r.window, "other_siblings": r.siblings}
            for r in channel.constraints
        ],
    }  # fmt: skip


@pytest.mark.parametrize("device", ["ddr3-1600k", "hbm3-6400", "lpddr5-6400"])
def test_standards_without_public_rows_are_made_from_the_same_keys(device: str) -> None:
    """The stack level is not named in the organisation: it follows from the geometry."""
    ours = replace(channel_of(load_device(device)), mapping="MOP4CLXOR")
    if device == "hbm3-6400":
        ours = replace(ours, levels=(*ours.levels[:2], ("Sid", 2), *ours.levels[2:]))
    made = channel_from_reference(as_reference(ours))
    assert made.levels == ours.levels
    assert made.refresh_level == ours.refresh_level
    assert made.controller == replace(ours.controller, timeout=made.controller.timeout)
    address = np.arange(0, 300 * 4096, 4096, dtype=np.int64)
    trace = ArrayTrace(address, (np.arange(300) % 3 == 0).astype(np.uint8))
    both = [simulate_trace(Memory(channel), trace).as_json() for channel in (ours, made)]
    assert both[0] == both[1]


def folder_with(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    configs = json.loads((FOLDER / "configs.json").read_text())
    change(configs["ddr4_2400r_1r"])
    (tmp_path / "configs.json").write_text(json.dumps(configs))
    (tmp_path / "expected.csv").write_text((FOLDER / "expected.csv").read_text())
    return tmp_path


def test_a_setting_that_nobody_reads_is_named(tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["controller"]["row_policy"]["patience"] = 7
        config["controller"]["plugins"] = []

    (row,) = run(folder_with(tmp_path, change), "ddr4_2400r_1r-rand_read-*", Options())
    assert row.verdict == "ok"
    assert row.note == "not read: controller.row_policy.patience"


def test_an_organisation_that_cannot_be_is_unsupported(tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["organization"]["bankgroup"] = 2

    (row,) = run(folder_with(tmp_path, change), "ddr4_2400r_1r-rand_read-*", Options())
    assert row.verdict == "unsupported"
    assert "do not make the geometry's 16 banks" in row.note


BEATS_PER_CLOCK = {"DDR4": 2, "GDDR6": 16}


def energy_rows() -> list[dict[str, str]]:
    with (FOLDER / "energy.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("row", energy_rows(), ids=lambda row: f"{row['device']}-{row['trace']}")
def test_equal_counts_give_equal_energies(row: dict[str, str]) -> None:
    def f(name: str) -> float:
        return float(row[name])

    def ranks(name: str) -> float:
        return sum(float(part.split("=")[1]) for part in row[name].split(";"))

    # One second stands for one clock, one ampere for one milliampere, as in the source's unit.
    currents = Currents(
        voltage=f("vdd"), idd0=f("idd0"), idd2n=f("idd2n"), idd3n=f("idd3n"), idd4r=f("idd4r"), idd4w=f("idd4w"),
        idd5ab=f("idd5ab"), idd2p=f("idd2p"), idd3p=f("idd3p"), idd6=f("idd6x"),
        dies=int(f("bus_width") / f("device_width")), row_active_s=f("tras"), row_cycle_s=f("tras") + f("trp"),
        burst_s=f("bl") / BEATS_PER_CLOCK[row["protocol"]], refresh_s=f("trfc"),
    )  # fmt: skip
    counts = {
        "ACT": int(f("num_act_cmds")),
        "RD": int(f("num_read_cmds")),
        "WR": int(f("num_write_cmds")),
        "REFab": int(f("num_ref_cmds")),
    }
    states = RankStates(ranks("rank_active_cycles"), ranks("all_bank_idle_cycles"), 0.0, ranks("sref_cycles"))
    energy = idd_energy(counts, states, currents)
    for ours, theirs in (
        (energy.activate, f("act_energy")),
        (energy.read, f("read_energy")),
        (energy.write, f("write_energy")),
        (energy.refresh, f("ref_energy")),
        (energy.active_standby, ranks("act_stb_energy")),
        (energy.precharge_standby, ranks("pre_stb_energy")),
        (energy.total, f("total_energy")),
    ):
        assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-9)


def test_a_second_current_costs_energy() -> None:
    row = energy_rows()[0]
    base = Currents(1.2, 48, 34, 43, 135, 123, 250, 25, 37, 30, 8, 39, 56, 4, 420)
    one = idd_energy({"ACT": 10, "RD": 5}, RankStates(100, 50), base)
    more = idd_energy({"ACT": 10, "RD": 5}, RankStates(100, 50), replace(base, idd4r=140))
    assert more.read == pytest.approx(one.read * (140 - 43) / (135 - 43))
    assert row["device"].startswith("DDR4")
