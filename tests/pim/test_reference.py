"""The PIM engine against the AiM simulator, through ``offchip validate pim`` and by the closed form of its runs."""

from __future__ import annotations

import csv
import math
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.library import load_device
from hw_configs.pim import with_organisation
from hw_configs.problems import InputError
from offchip.validation.pim import run as validate
from offchip.validation.registry import Options
from simulator.pim.engine import PimEngine
from simulator.pim.gemv import gemv_program
from simulator.pim.text import parse_program, write_program

FOLDER = Path(__file__).parents[1] / "reference" / "pim"


def test_every_row_is_equal():
    results = list(validate(FOLDER, "*", Options()))
    assert len(results) == 15
    for row in results:
        assert row.verdict == "ok", f"{row.id}: {row.note}"
        assert set(row.expected) == set(row.ours)
        assert row.error == 0


def test_a_changed_count_is_noticed(tmp_path):
    with (FOLDER / "aim_gemv.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows[3]["ch_TMOD"] = "128"
    with (tmp_path / "aim_gemv.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    verdicts = {row.id: (row.verdict, row.note) for row in validate(tmp_path, "*", Options())}
    assert verdicts.pop(rows[3]["id"]) == ("off", "differs: ch_TMOD")
    assert {verdict for verdict, _ in verdicts.values()} == {"ok"}


def test_a_row_that_cannot_run_is_shown(tmp_path):
    (tmp_path / "aim_gemv.csv").write_text(
        "id,m,k,channels,variant,cycles\na,16,many,1,full,3\nb,16,16,1,half,3\n"
    )
    first, second = validate(tmp_path, "*", Options())
    assert (first.verdict, second.verdict) == ("unsupported", "failed")
    assert "unknown variant 'half'" in second.note


def test_a_table_without_its_columns_is_refused(tmp_path):
    (tmp_path / "aim_gemv.csv").write_text("id,m,k\na,16,1024\n")
    with pytest.raises(InputError, match="has no column channels, variant, cycles"):
        list(validate(tmp_path, "*", Options()))


@cache
def aim():
    return PimEngine(with_organisation(load_device("gddr6-aim"), channels=32, rows=1 << 20))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(m=st.integers(1, 6000), k=st.integers(1, 9000), channels=st.sampled_from([1, 3, 8, 31, 32]))
def test_any_size_takes_what_the_closed_form_of_the_reference_says(m, k, channels):
    """The rules give, without knowing it, what fits every full row: per tile of n column accesses and G groups
    G (158 + 2 n) + 2 n clocks."""
    engine = aim()
    result = engine.run(gemv_program(engine.device, m, k, (1 << channels) - 1))
    groups = math.ceil(m / (16 * channels))
    tiles = [1024] * (k // 1024) + ([k % 1024] if k % 1024 else [])
    columns = [math.ceil(tile / 16) for tile in tiles]
    assert result.cycles == sum(groups * (158 + 2 * n) + 2 * n for n in columns)


def test_a_program_from_text_runs_as_the_same_program():
    device = load_device("gddr6-aim")
    program = gemv_program(device, 100, 300)
    again = parse_program(write_program(program), program.name)
    one, other = (PimEngine(device).run(p) for p in (program, again))
    assert one.as_json() == other.as_json()
