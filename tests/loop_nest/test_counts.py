"""Words that mappings move: reference rows, and the literal executor over random machines, layers and mappings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import InputError
from hw_configs.spatial import SpatialAxis, run_cycles
from offchip.reference_rows import validate
from simulator.accelerator.loop_nest import counts as counting
from simulator.accelerator.loop_nest.counts import active_steps, count_words
from simulator.accelerator.loop_nest.evaluate import evaluate
from simulator.accelerator.loop_nest.nest import LoopNest, NestLevel, Spread, axis_allows, breach, read_nest
from simulator.accelerator.loop_nest.sharing import evaluate_sharing
from tests.loop_nest import strategies
from tests.loop_nest.literal import Run
from workloads.einsum import read_einsum

REFERENCE = Path(__file__).parent.parent / "reference" / "loopnest"


@st.composite
def mapped(draw: Any, *, exact: bool) -> Any:
    device, layer = draw(strategies.accelerators()), draw(strategies.layers())
    return device, layer, draw(strategies.nests(device, layer, exact=exact))


def _differences(device: Any, layer: Any, nest: LoopNest) -> list[Any]:
    run = Run(device, layer, nest)
    assert np.array_equal(run.product, run.expected)
    found = count_words(nest, device, layer)
    assert active_steps(nest, device, layer) == run.steps
    return [
        (place, name, getattr(found[place], name), words.get(name, 0))
        for place, words in run.counts.items()
        for name in ("reads_down", "fills", "updates", "reads_up")
        if getattr(found[place], name) != words.get(name, 0)
    ]


@settings(max_examples=150, deadline=None)
@given(mapped(exact=True))
def test_exact_factors_count_as_run_step_by_step(case: Any) -> None:
    assert not _differences(*case)


@settings(max_examples=150, deadline=None)
@given(mapped(exact=False))
def test_ragged_factors_count_as_run_step_by_step(case: Any) -> None:
    assert not _differences(*case)


@settings(max_examples=60, deadline=None)
@given(mapped(exact=False))
def test_the_first_instance_has_most_to_do_and_no_more_than_all(case: Any) -> None:
    device, layer, nest = case
    all_words, busiest = count_words(nest, device, layer), count_words(nest, device, layer, busiest=True)
    for place, words in all_words.items():
        instances = 1
        for level in nest.levels[: place[0]]:
            for spread in level.spatial:
                instances *= spread.count
        assert words.reads / instances <= busiest[place].reads + 1e-9 <= words.reads + 1e-9
        assert words.writes / instances <= busiest[place].writes + 1e-9 <= words.writes + 1e-9


@settings(max_examples=60, deadline=None)
@given(mapped(exact=True))
def test_shared_windows_move_no_more_and_products_the_same(case: Any) -> None:
    device, layer, nest = case
    if breach(nest, device, layer):
        return
    plain, shared = evaluate(nest, device, layer), evaluate_sharing(nest, device, layer)
    for ours, theirs in zip(shared.levels, plain.levels, strict=True):
        for operand, moved in ours.traffic.items():
            assert moved.reads <= theirs.traffic[operand].reads
            assert moved.fills <= theirs.traffic[operand].fills
    if not layer.has_window():
        assert shared.energy_j == pytest.approx(plain.energy_j, rel=1e-12)


def test_the_literal_run_notices_a_wrong_count(monkeypatch: pytest.MonkeyPatch) -> None:
    device = strategies.accelerator([{"holds": ("I", "W", "O")}, {"holds": ("I", "W", "O")}])
    layer = read_einsum(
        {"name": "p", "dims": {"M": 2, "N": 3, "K": 2}, "tensors": {
            "I": [[["M", 1]], [["K", 1]]], "W": [[["K", 1]], [["N", 1]]], "O": [[["M", 1]], [["N", 1]]]}}, "test"
    )  # fmt: skip
    exact, ragged = (LoopNest((NestLevel((("M", 2), ("N", last), ("K", 2))), NestLevel())) for last in (3, 4))
    assert not _differences(device, layer, exact) + _differences(device, layer, ragged)
    whole = counting._in_turn
    monkeypatch.setattr(counting, "_in_turn", lambda parts, _new: whole(parts, True))
    assert not _differences(device, layer, exact)
    assert _differences(device, layer, ragged)
    monkeypatch.undo()
    alike = counting._alike

    def too_many(*given: Any) -> Any:
        return alike(*given)._replace(taken=alike(*given).taken + 1)

    monkeypatch.setattr(counting, "_alike", too_many)
    assert _differences(device, layer, exact)


def test_reference_evaluations_are_exact() -> None:
    found = validate("loopnest", REFERENCE, "[ev]*")
    assert [row.id for row in found.rows if row.verdict != "ok"] == []
    assert len(found.rows) == 72


def test_a_worked_example() -> None:
    """The README of the reference: 96 units make one output each."""
    device = strategies.accelerator(
        [
            {"holds": ("I", "W", "O"), "read_width": 16, "write_width": 16},
            {
                "holds": ("I", "W", "O"),
                "axes": [("X", 16, "out", ("I", "W"), ()), ("Y", 16, "out", ("I", "W"), ())],
            },
            {"holds": ("I", "W", "O")},
        ]
    )
    layer = read_einsum(
        {"name": "p", "dims": {"M": 12, "N": 8, "K": 18}, "tensors": {
            "I": [[["M", 1]], [["K", 1]]], "W": [[["K", 1]], [["N", 1]]], "O": [[["M", 1]], [["N", 1]]]}}, "test"
    )  # fmt: skip
    nest = LoopNest(
        (
            NestLevel(),
            NestLevel((), (Spread("N", "X", 8), Spread("M", "Y", 12))),
            NestLevel((("K", 18),)),
        )
    )
    words = count_words(nest, device, layer)
    assert words[0, "I"].reads_down == 216
    assert words[0, "W"].reads_down == 144
    assert words[2, "I"].fills == words[2, "W"].fills == 1728
    assert (words[2, "O"].updates, words[2, "O"].reads_down, words[2, "O"].reads_up) == (1728, 1728 - 96, 96)
    assert words[1, "O"].updates == words[0, "O"].updates == words[1, "O"].reads_up == 96
    # The outermost level reads 360 bytes at 16 a clock; the units' own ports of 4 bytes are slower.
    found = evaluate(nest, device, layer)
    assert found.levels[0].cycles == 22.5
    assert found.compute_cycles == 18


@pytest.mark.parametrize(
    ("nest", "says"),
    [
        (LoopNest((NestLevel((("M", 2),)), NestLevel())), "cover 2 of 4"),
        (
            LoopNest((NestLevel((("M", 4), ("K", 2)), (Spread("N", "X", 4),)), NestLevel())),
            "4 parts along the axis 'X'",
        ),
        (
            LoopNest((NestLevel((("M", 4), ("N", 4)), (Spread("K", "X", 2),)), NestLevel())),
            "may not run along",
        ),
        (
            LoopNest((NestLevel(), NestLevel((("M", 4), ("N", 4), ("K", 2))))),
            "'L1' do not fit its 16 B: I 8 B",
        ),
    ],
)
def test_an_illegal_mapping_is_told_in_words(nest: LoopNest, says: str) -> None:
    device = strategies.accelerator(
        [
            {"holds": ("I", "W", "O"), "axes": [("X", 2, "out", ("I", "W"), ())]},
            {"holds": ("I", "W", "O"), "capacity": 16},
        ]
    )
    layer = read_einsum(
        {"name": "p", "dims": {"M": 4, "N": 4, "K": 2}, "tensors": {
            "I": [[["M", 1]], [["K", 1]]], "W": [[["K", 1]], [["N", 1]]], "O": [[["M", 1]], [["N", 1]]]}}, "test"
    )  # fmt: skip
    with pytest.raises(InputError, match=says):
        evaluate(nest, device, layer)


def test_a_mapping_in_a_file_is_refused_by_field() -> None:
    device = strategies.accelerator([{"holds": ("I", "W", "O")}, {"holds": ("I", "W", "O")}])
    layer = read_einsum(
        {"name": "p", "dims": {"M": 4}, "tensors": {"I": [[["M", 1]]], "W": [], "O": [[["M", 1]]]}}, "test"
    )
    level = {"name": "L0", "temporal": [], "spatial": []}
    for data, says in (
        ({}, "one entry per level: L0, L1"),
        ({"levels": [level, {"name": "L7"}]}, "expected 'L1'"),
        ({"levels": [level, {"temporal": [["Q", 2]]}]}, "'Q' is no dim"),
        ({"levels": [level, {"temporal": [["M", 0]]}]}, "a count of 1 or more"),
        ({"levels": [level, {"spatial": [["M", "X", 2]]}]}, "no axis below 'L1'"),
    ):
        with pytest.raises(InputError, match=says):
            read_nest(data, device, layer, "nest.json")


def test_reads_and_writes_of_one_port_take_turns() -> None:
    levels = [
        {"holds": ("I", "W", "O"), "read_width": 2, "write_width": 4, "one_port": one}
        for one in (False, True)
    ]
    product = {"I": [[["M", 1]], [["K", 1]]], "W": [[["K", 1]], [["N", 1]]], "O": [[["M", 1]], [["N", 1]]]}
    layer = read_einsum({"name": "p", "dims": {"M": 2, "N": 2, "K": 2}, "tensors": product}, "test")
    nest = LoopNest((NestLevel((("M", 2), ("N", 2), ("K", 2))),))
    apart, turns = (evaluate(nest, strategies.accelerator([level]), layer) for level in levels)
    use = apart.levels[0]
    assert use.cycles == max(use.busiest_read_bytes / 2, use.busiest_write_bytes / 4)
    assert turns.levels[0].cycles == use.busiest_read_bytes / 2 + use.busiest_write_bytes / 4
    assert turns.latency_cycles > apart.latency_cycles


def test_buffers_hold_two_tiles_or_are_filled_between_runs() -> None:
    product = {"I": [[["M", 1]], [["K", 1]]], "W": [[["K", 1]], [["N", 1]]], "O": [[["M", 1]], [["N", 1]]]}
    layer = read_einsum({"name": "p", "dims": {"M": 2, "N": 2, "K": 2}, "tensors": product}, "test")
    # 4 words of I and of W in a byte each, 4 of O in two.
    nest = LoopNest((NestLevel(), NestLevel((("M", 2), ("N", 2), ("K", 2)))))

    def machine(buffering: str, capacity: int = 32) -> SpatialAccelerator:
        inside = {"holds": ("I", "W", "O"), "capacity": capacity, "buffering": buffering}
        return strategies.accelerator([{"holds": ("I", "W", "O"), "read_width": 1}, inside])

    free, double, single = (evaluate(nest, machine(how), layer) for how in ("free", "double", "single"))
    assert (free.levels[1].occupancy_bytes, double.levels[1].occupancy_bytes) == (16, 32)
    assert [breach(nest, machine(how, 31), layer) for how in ("free", "double", "single")] == [
        "",
        "capacity:L1",
        "",
    ]
    outside, ports = (use.cycles for use in free.levels)
    assert free.latency_cycles == double.latency_cycles == max(outside, ports, 8)
    assert single.latency_cycles == outside + max(ports, 8)
    levels = [
        machine("single").levels[1].model_copy(update={"buffering": how})
        for how in ("single", "free", "single", "double")
    ]
    # The outermost one is filled by nobody; two stretches are timed apart.
    assert run_cycles(levels, [5.0, 9.0, 4.0, 7.0], 3.0) == 9 + 7


def test_only_channels_run_along_a_channel_axis() -> None:
    axis = SpatialAxis(axis="X", size=4, dims="channel", reduce=("O",))
    window = {"I": [[["C", 1]], [["P", 1], ["R", 1]]], "W": [[["C", 1]], [["R", 1]]], "O": [[["P", 1]]]}
    conv = read_einsum({"name": "c", "dims": {"C": 4, "P": 4, "R": 3}, "tensors": window}, "test")
    assert [dim for dim in conv.sizes if axis_allows(axis, dim, conv)] == ["C"]


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("architectures.json", "[", "{", "architectures.json"),
        ("architectures.json", '"capacity_bytes"', '"capacity"', "is no architecture: KeyError"),
        ("layers.json", '"dims"', '"dimz"', "unknown key"),
        ("evaluations.csv", "compute_cycles", "cycles", "the columns compute_cycles are missing"),
        ("evaluations.csv", "{", "[", "mapping:1"),
    ],
)
def test_a_damaged_reference_folder_is_told(tmp_path: Path, file: str, old: str, new: str, says: str) -> None:
    for name in ("architectures.json", "layers.json", "evaluations.csv", "counts.csv", "levels.csv"):
        text = (REFERENCE / name).read_text()
        (tmp_path / name).write_text(text.replace(old, new, 1) if name == file else text)
    try:
        told = " ".join(row.note for row in validate("loopnest", tmp_path, "ev*").rows)
    except InputError as error:
        told = str(error)
    assert says in told
