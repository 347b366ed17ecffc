"""PIM devices: what is stated, what follows from it, and what is refused."""

from __future__ import annotations

import pytest

from hw_configs.device import Pim
from hw_configs.library import catalog, check_file, load_device, load_system
from hw_configs.pim import with_organisation
from hw_configs.pim_command_set import command_set, set_names
from hw_configs.problems import InputError
from offchip.sweep.machine import Machines
from simulator.pim.engine import PimEngine, rule_choice
from simulator.pim.gemv import gemv_program
from tests.pim.machines import FAMILIES

AIM = catalog()["gddr6-aim"].path.read_text()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_ships_and_multiplies(name):
    device = load_device(name)
    assert isinstance(device, Pim)
    result = PimEngine(device, honest=True).run(gemv_program(device, 512, 512))
    lanes = 1 if device.units.adder_tree else device.units.lanes
    rows = device.units_per_channel * lanes * device.channels
    assert (
        result.macs >= -(-512 // rows) * 512 * device.units_per_channel * lanes / device.elements_per_column
    )
    assert result.macs >= 512 * 512
    assert 0 < result.mac_utilisation < 1
    assert all(value >= 0 for value in result.energy.as_dict().values())
    assert result.energy.mac > 0
    assert result.energy.activate > 0


def test_figures_of_the_published_machines_follow_from_their_parts():
    pim_gpt = load_device("pim-gpt-gddr6")
    assert pim_gpt.compute.matrix["bf16"] == pytest.approx(4.096e12)
    assert pim_gpt.internal_bandwidth == pytest.approx(4.096e12)
    assert pim_gpt.memory.bandwidth == pytest.approx(256e9)
    assert pim_gpt.memory.capacity == 4 << 30
    hbm = load_device("hbm-pim")
    assert hbm.compute.matrix["fp16"] == pytest.approx(1.2288e12, rel=1e-5)
    assert hbm.memory.bandwidth == pytest.approx(307.2e9, rel=1e-5)
    assert hbm.memory.capacity == 6 << 30
    aim = load_device("gddr6-aim")
    assert aim.compute.matrix["bf16"] == pytest.approx(1.024e12)
    assert aim.row_bytes == 2048
    assert aim.lockstep_columns == aim.columns == 64
    assert hbm.lockstep_columns == 2 * hbm.columns


def test_narrow_units_pace_the_columns_and_wide_ones_gain_nothing():
    data = load_device("pim-gpt-gddr6").model_dump(exclude_unset=True)
    cycles = {}
    for lanes in (4, 8, 16, 32):
        data["units"]["lanes"] = lanes
        device = Pim.model_validate(data)
        cycles[lanes] = PimEngine(device).run(gemv_program(device, 2048, 2048)).cycles
        assert device.compute.matrix["bf16"] == pytest.approx(min(lanes, 16) * 128 * 2e9)
    assert cycles[4] > 1.5 * cycles[8] > 1.5 * cycles[16]
    assert cycles[16] == cycles[32]


def test_channels_change_all_that_follows_and_a_stated_capacity_stays():
    aim = with_organisation(load_device("gddr6-aim"), channels=32)
    assert aim.memory.bandwidth == pytest.approx(32 * 32e9)
    assert aim.compute.matrix["bf16"] == pytest.approx(16 * 1.024e12)
    hbm = with_organisation(load_device("hbm-pim"), channels=16)
    assert hbm.memory.bandwidth == pytest.approx(2 * 307.2e9, rel=1e-5)
    assert hbm.memory.capacity == 6 << 30


def test_a_sweep_reaches_the_detail_by_path():
    system = Machines().system("pim-gpt", {"pim.dram.channels": 16, "pim.units.lanes": 8})
    (pim,) = [node.device for node in system.nodes.values() if node.device.kind == "pim"]
    assert pim.memory.bandwidth == pytest.approx(512e9)
    assert pim.compute.matrix["bf16"] == pytest.approx(4.096e12)


@pytest.mark.parametrize("name", ["gpu-pim", "pim-gpt"])
def test_the_systems_with_pim_load(name):
    assert load_system(name).workers()


@pytest.mark.parametrize("name", set_names())
def test_command_sets_know_their_commands(name):
    chosen = command_set(name)
    assert chosen.command_set == name
    assert chosen.source
    used = {i.command for i in chosen.instructions.values()}
    for command in chosen.commands.values():
        used |= {command.opens_with, command.closes_with, command.staged}
    assert set(chosen.commands) - used - {chosen.mode_switch} <= {"PRE4"}
    # A command that nothing waits for would be free.
    waited = {before for rule in chosen.merged.constraints for before in rule.before}
    assert set(chosen.commands) - waited <= {chosen.mode_switch}


def test_rules_are_chosen_one_by_one():
    aim = load_device("gddr6-aim")
    assert rule_choice(aim) == aim.rules.published
    assert rule_choice(aim, honest=True) == aim.rules.honest
    mixed = rule_choice(aim, honest=True, refresh="off", register_io="published")
    assert (mixed.activation, mixed.refresh, mixed.timing) == ("honest", "off", {})
    with pytest.raises(InputError, match="--refresh: found 'never'; known: off"):
        rule_choice(aim, refresh="never")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("nRP: 32", "nRPP: 32", "timing.nRPP: GDDR6 has no such timing (did you mean 'nRP'?)"),
        ("lanes: 16", "lanes: 0", "units.lanes: found 0"),
        (
            "banks_per_unit: 1",
            "banks_per_unit: 3",
            "units.banks_per_unit: found 3; the 16 banks of a channel must",
        ),
        ("standard: GDDR6", "standard: GDDR7", "dram.standard: unknown DRAM standard 'GDDR7'"),
        ("command_set: aim", "command_set: am", "command_set: unknown PIM command set 'am'"),
        ("command_set: aim", "command_set: hbm-pim", "command_set: 'hbm-pim' builds on HBM2"),
        ("nMODCH: 32", "nMODC: 32", "timing.nMODC: no such timing (did you mean 'nMODCH'?)"),
        ("nMODCH: 32", "nMODCH: 32 ns", "timing.nMODCH: found '32 ns'; expected a whole number of clocks"),
        ("nMODCH: 32", "tMODCH: 3 GB", "timing.tMODCH: found '3 GB', which is a size"),
        ("activation: waived", "activation: some", "rules.published.activation: found 'some'; known: waived"),
        (
            "nCLREG: nCL,",
            "nCLREG: nCK,",
            "rules.honest.timing.nCLREG: the formula 'nCK' needs the timing nCK",
        ),
        ("nRCDRDMAC: 56, ", "", "timing: missing nRCDRDMAC, which 'aim' needs"),
        ("energy:", "energie:", "missing key 'energy'"),
        (
            "kind: pim",
            "kind: pim\ninternal_bandwidth: 1 GB/s",
            "internal_bandwidth: 1 GB/s is below the bandwidth",
        ),
    ],
)
def test_a_device_that_cannot_be_is_refused_with_its_line(old, new, message, tmp_path):
    path = tmp_path / "device.yaml"
    assert old in AIM
    path.write_text(AIM.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        check_file(path)
    assert message in str(error.value)
    assert "PydanticUndefined" not in str(error.value)
    assert all(problem.line for problem in error.value.problems)


def test_a_row_that_would_cost_less_than_nothing_is_refused():
    device = load_device("hbm-pim")
    low = device.dram.currents.model_copy(update={"idd0": device.dram.currents.idd2n})
    changed = device.model_copy(update={"dram": device.dram.model_copy(update={"currents": low})})
    with pytest.raises(InputError, match=r"dram\.currents\.idd0: found 0\.024 A, less than standby draws"):
        PimEngine(changed).run(gemv_program(changed, 512, 512))
