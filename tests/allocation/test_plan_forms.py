"""Plans written back: what each tool's reader makes of them is the plan that was found."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hw_configs.problems import InfeasibleError, InputError
from mapping.allocation import AllocationProblem, Buffer, check, solve
from mapping.allocation.importers import read_problem
from mapping.allocation.plan_forms import FORMS, Plan, form_of, write_plan
from mapping.allocation.result import Move
from mapping.allocation.rules import Rules
from mapping.allocation.wishes import aligned, unpinned, within_boundary
from offchip.solving.alloc import solve_alloc


@pytest.fixture
def dumps(reference: Path) -> Path:
    return reference / "dumps"


def planned(path: Path) -> tuple[AllocationProblem, tuple[int, ...]]:
    problem = read_problem(path)
    found = solve(problem)
    assert found.offsets is not None
    return problem, tuple(found.offsets.tolist())


def test_a_tflite_model_carries_the_plan_and_nothing_else_changes(dumps: Path, tmp_path: Path) -> None:
    source, out = dumps / "small.tflite", tmp_path / "out.tflite"
    problem, offsets = planned(source)
    write_plan(out, None, Plan(problem, offsets), source)
    again = read_problem(out)
    assert again.fixed.tolist() == list(offsets)
    assert (again.ids, again.size.tolist()) == (problem.ids, problem.size.tolist())
    assert out.read_bytes().endswith(source.read_bytes())
    # A second plan takes the place of the first.
    moved = tuple(offset + 64 for offset in offsets)
    write_plan(tmp_path / "twice.tflite", None, Plan(again, moved), out)
    twice = read_problem(tmp_path / "twice.tflite")
    assert twice.fixed.tolist() == list(moved)
    assert solve(twice).peak_bytes == 576
    assert solve(unpinned(twice)).peak_bytes == 512


def test_the_interpreter_takes_the_model_with_a_plan(dumps: Path, tmp_path: Path) -> None:
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    source, out = dumps / "small.tflite", tmp_path / "out.tflite"
    write_plan(out, None, Plan(*planned(source)), source)
    litert.Interpreter(str(out)).allocate_tensors()


def test_metadata_of_a_model_that_is_not_understood_is_refused(dumps: Path, tmp_path: Path) -> None:
    source, out = dumps / "small.tflite", tmp_path / "out.tflite"
    problem, offsets = planned(source)
    write_plan(out, "tflite", Plan(problem, offsets), source)
    data = bytearray(out.read_bytes())
    numbers = json.loads(_written(tmp_path / "plan", "tflite-json", Plan(problem, offsets), source))["int32"]
    packed = b"".join(number.to_bytes(4, "little", signed=True) for number in numbers)
    at = bytes(data).find(packed)
    assert at > 0
    for place, value in ((at, 2), (at + 4, 1), (at + 8, 3), (at + 12, 2**31)):
        changed = bytearray(data)
        changed[place : place + 4] = value.to_bytes(4, "little")
        out.write_bytes(changed)
        with pytest.raises(InputError, match="OfflineMemoryAllocation"):
            read_problem(out)


def _written(path: Path, form: str, plan: Plan, source: Path) -> str:
    write_plan(path, form, plan, source)
    return path.read_text()


def test_iree_text_holds_constants_in_place_of_the_pack(dumps: Path, tmp_path: Path) -> None:
    source, out = dumps / "iree_chain.mlir", tmp_path / "out.mlir"
    problem, offsets = planned(source)
    write_plan(out, None, Plan(problem, offsets), source)
    text = out.read_text()
    assert "stream.resource.pack" not in text
    assert "%2#" not in text
    found = dict(re.findall(r"(%place_2_[0-9]+) = arith.constant ([0-9]+) : index", text))
    assert [int(found[f"%place_2_{k}"]) for k in range(4)] == [49152, *offsets]
    assert len(re.findall(r"%place_2_1\b", text)) == 1 + len(re.findall(r"%2#1\b", source.read_text()))


def test_of_several_packs_the_chosen_one_is_placed(dumps: Path, tmp_path: Path) -> None:
    source = dumps / "iree_two_functions.mlir"
    solve_alloc(source, minimize=True, pack_index=1, out=tmp_path / "out.mlir")
    text = (tmp_path / "out.mlir").read_text()
    assert text.count("stream.resource.pack") == source.read_text().count("stream.resource.pack") - 1


@pytest.mark.skipif(shutil.which("iree-opt") is None, reason="iree-opt is not installed")
def test_the_compiler_reads_the_placed_text(dumps: Path, tmp_path: Path) -> None:
    source, out = dumps / "iree_module.mlir", tmp_path / "out.mlir"
    write_plan(out, None, Plan(*planned(source)), source)
    subprocess.run(["iree-opt", str(out), "-o", str(tmp_path / "read.mlir")], check=True)


def test_tvm_pool_allocations(dumps: Path, tmp_path: Path) -> None:
    source = dumps / "usmp_nodes.json"
    problem, offsets = planned(source)
    rows = json.loads(_written(tmp_path / "plan", "tvm", Plan(problem, offsets), source))["pool_allocations"]
    assert list(rows) == list(problem.ids)
    assert check(problem, [row["byte_offset"] for row in rows.values()], 6000) == []
    assert {row["pool_name"] for row in rows.values()} == {"sram"}


def test_a_c_header_compiles_and_says_the_plan(tmp_path: Path) -> None:
    listed = [Buffer("conv/out:0", 0, 2, 10), Buffer("conv_out_0", 1, 3, 6), Buffer("9*/", 2, 3, 4)]
    problem = AllocationProblem.of(listed, rules=Rules(moves={0: (1,)}))
    plan = Plan(problem, (0, 10, 0), (), (Move(0, 1, 16),))
    text = _written(tmp_path / "net plan.h", "c", plan, tmp_path)
    assert "#define NET_PLAN_ARENA_BYTES 26u" in text
    numbers = dict(re.findall(r"#define (NET_PLAN_OFFSET_\w+) ([0-9]+)u", text))
    assert numbers == {
        "NET_PLAN_OFFSET_CONV_OUT_0": "0",
        "NET_PLAN_OFFSET_CONV_OUT_0__2": "10",
        "NET_PLAN_OFFSET_N9": "0",
        "NET_PLAN_OFFSET_CONV_OUT_0_FROM_1": "16",
    }
    compiler = shutil.which("cc")
    if compiler is not None:
        main = tmp_path / "main.c"
        main.write_text('#include "net plan.h"\nchar arena[NET_PLAN_ARENA_BYTES];\n')
        subprocess.run([compiler, "-Wall", "-Werror", "-c", str(main), "-o", str(tmp_path / "o")], check=True)
    banked = Plan(problem, (0, 0, 10), ("fast", "slow", "fast"))
    header = _written(tmp_path / "p.h", "c", banked, tmp_path)
    assert "#define P_FAST_ARENA_BYTES 14u" in header
    assert "#define P_SLOW_ARENA_BYTES 6u" in header


def test_moves_between_banks_are_written_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("id,lower,upper,size,bank,moves\nlong,0,9,4,,3 6\nwide,4,6,8,near,\n")
    banks = ["near=8", "far=64@1"]
    answer = solve_alloc(path, bank=banks, out=tmp_path / "plan.csv").as_json()
    assert answer["placement"]["long"]["bank"] == "near"
    assert [(move["id"], move["time"], move["bank"]) for move in answer["moves"]] == [
        ("long", 3, "far"), ("long", 6, "near"),
    ]  # fmt: skip
    assert answer["moved_bytes"] == 8
    back = answer["moves"][1]["offset"]
    assert (tmp_path / "plan.csv").read_text() == (
        "id,bank,offset,size,from\n"
        f"long,near,{answer['placement']['long']['offset']},4,0\nwide,near,0,8,4\n"
        f"long,far,0,4,3\nlong,near,{back},4,6\n"
    )
    shown = solve_alloc(path, bank=banks, out=tmp_path / "p.h").shown_tables()
    assert shown[2].title == "2 moves of 8 bytes"
    header = (tmp_path / "p.h").read_text()
    for line in ("P_NEAR_ARENA_BYTES 8u", "P_FAR_ARENA_BYTES 4u", "P_OFFSET_LONG_FROM_3 0u /* in far */"):
        assert f"#define {line}" in header
    with pytest.raises(InputError, match="one offset per buffer"):
        solve_alloc(path, bank=banks, out=tmp_path / "p", out_format="tvm")
    dear = solve_alloc(path, bank=banks, move_cost=0.5).as_json()
    assert (dear["cost"], dear["moves"], dear["placement"]["long"]["bank"]) == (4.0, [], "far")
    path.write_text("id,lower,upper,size,bank,moves\nlong,0,9,9,near,3 6\nwide,4,6,8,near,\n")
    with pytest.raises(InfeasibleError, match="9 bytes, of the banks it may go to"):
        solve_alloc(path, bank=banks)


def test_a_csv_with_rules_is_read_again(tmp_path: Path) -> None:
    listed = [Buffer(f"b{i}", i, i + 3, 8 - i) for i in range(5)]
    rules = Rules(
        ((0, 1),),
        ((3, 2),),
        ((0, 4),),
        ((1, 3),),
        {0: ("x", "y"), 4: ("x",)},
        ((2, 4),),
        {2: 16},
        {4: (5, 6)},
    )
    problem = AllocationProblem.of(listed, rules=rules)
    path = tmp_path / "plan.csv"
    from mapping.allocation.csv_format import to_csv

    path.write_text(to_csv(problem))
    again = read_problem(path)
    assert again.rules == rules
    assert again.size.tolist() == problem.size.tolist()
    data = [
        {"id": "b0", "lower": 0, "upper": 3, "size": 8, "alias": "g", "conflicts": ["b2"]},
        {"id": "b1", "lower": 1, "upper": 4, "size": 7, "alias": "g", "bank": ["x", "y"], "moves": []},
        {"id": "b2", "lower": 1, "upper": 4, "size": 7, "boundary": 16, "shares": ["b1"]},
    ]
    (tmp_path / "plan.json").write_text(json.dumps(data))
    rules = read_problem(tmp_path / "plan.json").rules
    assert rules == Rules(((0, 1),), (), ((0, 2),), ((1, 2),), {1: ("x", "y")}, (), {2: 16}, {})


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ("conflicts,b9", "line 2: conflicts: found 'b9', which is no buffer's id"),
        ("inside,b", "line 2: inside: found 'b'"),
        ("boundary,0", "expected an integer from 1"),
        ("boundary,3", "expected a boundary of at least its size"),
        ("moves,x", "line 2: moves: found 'x'"),
        ("moves,9", "rising times inside its life"),
        ("bank,x|", "a bank without a name"),
    ],
)
def test_a_wrong_rule_is_told(tmp_path: Path, cells: str, told: str) -> None:
    column, cell = cells.split(",")
    path = tmp_path / "b.csv"
    path.write_text(f"id,lower,upper,size,{column}\nb0,0,4,8,{cell}\nb1,0,4,8,\n")
    with pytest.raises(InputError) as caught:
        read_problem(path)
    assert told in str(caught.value).replace(f"{path}:2", "line 2")


def test_forms_are_chosen_by_ending_or_name(dumps: Path) -> None:
    table, model, text = dumps / "step-live-range.txt", dumps / "small.tflite", dumps / "iree_chain.mlir"
    assert [form_of(Path(name), None, model) for name in ("a.csv", "a.h", "a.tflite", "a")] == [
        "csv",
        "c",
        "tflite",
        "csv",
    ]
    assert form_of(Path("a.mlir"), None, text) == "iree"
    for name, form, source, told in (
        ("a.json", None, model, "--out-format"),
        ("a", "tfl", model, "tflite"),
        ("a.tflite", None, table, "no .tflite model"),
        ("a.mlir", None, model, "stream.resource.pack"),
        ("a", "xla", table, "XLA takes no offsets"),
    ):
        with pytest.raises(InputError, match=told):
            form_of(Path(name), form, source)
    assert set(FORMS) == {"csv", "c", "tflite", "tflite-json", "iree", "tvm"}


def test_wishes_for_every_buffer() -> None:
    listed = [Buffer("a", 0, 2, 24, 8), Buffer("b", 0, 2, 20, 6), Buffer("c", 0, 2, 20, offset=4)]
    problem = AllocationProblem.of(listed[:2])
    assert aligned(problem, 16).alignment.tolist() == [16, 48]
    assert solve(aligned(problem, 16)).peak_bytes == 56
    assert (
        solve(
            within_boundary(AllocationProblem.of([Buffer(f"{i}", 0, 1, 24) for i in range(3)]), 64)
        ).peak_bytes
        == 88
    )
    with pytest.raises(InputError, match="at least its size"):
        within_boundary(problem, 20)
    with pytest.raises(InputError, match="beyond 2"):
        aligned(AllocationProblem.of([Buffer("a", 0, 1, 1, 3**20)]), 2**40)
    free = unpinned(AllocationProblem.of(listed))
    assert (free.fixed.tolist(), free.hint.tolist()) == ([-1, -1, -1], [-1, -1, 4])


def test_from_the_command_line(tmp_path: Path, dumps: Path) -> None:
    path = tmp_path / "b.csv"
    path.write_text("id,lower,upper,size,bank,apart\na,0,4,8,,b\nb,0,4,8,slow,\nc,2,6,4,,\n")
    with pytest.raises(InputError, match="go to different banks"):
        solve_alloc(path, minimize=True)
    plan = solve_alloc(path, bank=["fast=12"], arena=["slow@2"], out=tmp_path / "p.h")
    data = plan.as_json()
    assert (data["status"], data["cost"], data["placement"]["a"]["bank"]) == ("optimal", 16.0, "fast")
    assert data["banks"]["slow"] == {"capacity": None, "peak": 8}
    assert "P_SLOW_ARENA_BYTES 8u" in (tmp_path / "p.h").read_text()
    bytes_placed = solve_alloc(path, bank=["fast=8", "slow=99@1"]).as_json()
    size = solve_alloc(path, bank=["fast=8", "slow=99@1"], objective="size").as_json()
    assert (bytes_placed["cost"], size["cost"]) == (12.0, 12.0)
    mover = tmp_path / "m.csv"
    mover.write_text("id,lower,upper,size,offset,moves\na,0,2,4,0,\nb,0,6,2,,3\nc,4,6,6,,\nd,0,2,2,6,\n")
    answer = solve_alloc(mover, capacity=8, plot=tmp_path / "m.svg")
    assert (tmp_path / "m.svg").exists()
    with pytest.raises(InputError, match="several places"):
        solve_alloc(mover, capacity=8, near=mover)
    assert answer.as_json()["moved_bytes"] == 2
    assert "moved" in str(answer.shown_tables())
    with pytest.raises(InputError, match="no buffer may move"):
        solve_alloc(path, minimize=True, move_cost=1.0)
    with pytest.raises(InputError, match="bytes or size"):
        solve_alloc(path, minimize=True, objective="bites")
    with pytest.raises(InputError, match="expected exactly one"):
        solve_alloc(path, minimize=True, arena=["a"])


def test_a_table_of_plain_figures_keeps_its_rules(tmp_path: Path) -> None:
    """Every cell is a number: the quick reader of plain tables must leave it to the one that knows rules."""
    path = tmp_path / "b.csv"
    path.write_text("id,lower,upper,size,boundary\n0,0,4,3,4\n1,0,4,3,4\n")
    assert read_problem(path).rules.boundary == {0: 4, 1: 4}
    assert solve(read_problem(path)).peak_bytes == 7
