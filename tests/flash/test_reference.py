"""The reference rows, each inside its tolerance, and what makes a row fail or be refused."""

import json
import shutil
from pathlib import Path

import pytest

from offchip.validation.flash import drive_from_reference, run
from offchip.validation.registry import Options
from simulator.flash.drive import page_types

FOLDER = Path(__file__).parent.parent / "reference" / "flash"


@pytest.fixture(scope="module")
def rows():
    return {row.id: row for row in run(FOLDER, "*", Options())}


def test_every_row_is_inside_its_tolerance(rows):
    assert len(rows) == 8
    assert {row.id: row.note for row in rows.values() if row.verdict != "ok"} == {}


def test_sequential_and_single_rows_agree_to_the_last_printed_digit(rows):
    for name in ("p01_randread4k_qd1_8ch", "p04_seqread128k_qd8_4ch_tlc"):
        row = rows[name]
        assert row.ours["iops"] == pytest.approx(row.expected["iops"], abs=6e-4)
        assert row.ours["lat_mean_us"] == pytest.approx(row.expected["lat_mean_us"], abs=6e-5)


def copied(tmp_path, change):
    name = "p01_randread4k_qd1_8ch"
    (tmp_path / "configs").mkdir()
    config = json.loads((FOLDER / "configs" / f"{name}.json").read_text())
    change(config)
    (tmp_path / "configs" / f"{name}.json").write_text(json.dumps(config))
    shutil.copy(FOLDER / "expected.csv", tmp_path)
    return next(run(tmp_path, f"{name}*", Options()))


def test_a_slower_die_is_seen(tmp_path):
    row = copied(tmp_path, lambda c: c["timing_ns"].update(read_lsb_csb_msb=[75200] * 3))
    assert row.verdict == "off"
    assert "iops" in row.note


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["ftl"].update(gc_victim="GREDY"), "did you mean 'GREEDY'"),
        (lambda c: c["ftl"].update(gc_copyback=True), "not modelled"),
        (lambda c: c["ftl"].update(allocation_scheme="CWDD"), "each of C, W, D and P once"),
        (lambda c: c["timing_ns"].pop("erase"), "no key 'erase'"),
        (lambda c: c["workload"].update(address="zigzag"), "unknown address pattern"),
    ],
)
def test_what_is_not_modelled_is_said(tmp_path, change, words):
    row = copied(tmp_path, change)
    assert row.verdict == "unsupported"
    assert words in row.note


def test_quad_level_cells_and_other_policies_are_read():
    config = json.loads((FOLDER / "configs" / "p04_seqread128k_qd8_4ch_tlc.json").read_text())
    config["timing_ns"]["cell"] = "QLC"
    config["ftl"]["gc_victim"] = "RGA"
    drive = drive_from_reference(config)
    assert len(drive.read_ns) == 4
    assert (drive.gc_policy, drive.gc_choices) == ("d-choices", 9)


def test_page_types_are_the_references():
    assert page_types(6, 1).tolist() == [0] * 6
    assert page_types(6, 2).tolist() == [0, 1] * 3
    expected = [0 if p <= 5 else 1 if p <= 7 else ((p - 8) // 2) % 3 for p in range(192)]
    assert page_types(192, 3).tolist() == expected
    assert set(page_types(192, 4)) == {0, 1, 2, 3}
