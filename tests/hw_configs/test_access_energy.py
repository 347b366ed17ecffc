"""Published energies of an access, and levels that name a technology instead of figures."""

import pytest

from hw_configs.access_energy import AccessEnergy, energy_per_byte
from hw_configs.library import load_device
from hw_configs.problems import InputError

LEVELS = """
kind: spatial
name: small
clock: 1 GHz
word_bits: {I: 8, W: 8, O: 32}
mac_energy: {value: 1 pJ, assumption: none}
levels:
  - {name: DRAM, holds: [I, W, O], energy: {kind: ddr4}, read_width: 8 B, write_width: 8 B}
  - name: buffer
    capacity: 32 KiB
    holds: [I, W, O]
    energy: ENERGY
    read_width: 8 B
    write_width: 8 B
"""


def _load(tmp_path, energy):
    (tmp_path / "small.yaml").write_text(LEVELS.replace("ENERGY", energy))
    return load_device(tmp_path / "small.yaml")


@pytest.mark.parametrize(
    ("technology", "kib", "picojoules"),
    [
        (45, 8, 10),
        (45, 32, 20),
        (45, 1024, 100),
        (7, 8, 7.5),
        (7, 32, 8.5),
        (7, 1024, 14),
        (7, 1, 7.5),
        (45, 4096, 100),
    ],
)
def test_the_published_figures_for_64_bits_come_back(technology, kib, picojoules):
    what = AccessEnergy(kind="sram", technology=technology)
    assert energy_per_byte(what, kib * 1024) * 8e12 == pytest.approx(picojoules)


def test_between_them_it_rises_with_size_and_feature():
    sizes = [
        energy_per_byte(AccessEnergy(kind="sram", technology=16), kib * 1024)
        for kib in (8, 20, 32, 300, 1024)
    ]
    features = [
        energy_per_byte(AccessEnergy(kind="sram", technology=nm), 65536) for nm in (7, 12, 16, 28, 45)
    ]
    assert sizes == sorted(sizes)
    assert features == sorted(features)


def test_a_level_takes_them(tmp_path):
    device = _load(tmp_path, "{kind: sram, technology: 7nm}")
    assert device.levels[0].read_energy == pytest.approx(162.5e-12)
    assert device.levels[1].write_energy == pytest.approx(8.5e-12 / 8)


@pytest.mark.parametrize(
    ("energy", "says"),
    [
        ("{kind: sram, technology: 3nm}", "technology"),
        ("{kind: sram}", "SRAM needs its technology"),
        ("{kind: flash}", "kind"),
        ("{kind: ddr3}\n    read_energy: {value: 1 pJ/B, source: x}", "one or the other"),
    ],
)
def test_what_no_table_holds_is_refused(tmp_path, energy, says):
    with pytest.raises(InputError, match=says):
        _load(tmp_path, energy)
