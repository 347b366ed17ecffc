"""Groups written to a file and read back: the same price, the words of a literal run, and what is refused."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hw_configs.problems import InputError
from offchip import solve_fusion
from tests.loop_nest.fused_literal import Run
from workloads import operators
from workloads.graph import Graph, Role, Tensor, make_operator
from workloads.graph_json import write_graph

HW = "gemmini"


def small_network() -> Graph:
    """Four convolutions of 3 x 3, of which the second moves by two, on 8 channels of 16 x 16."""
    sides = (16, 16, 8, 8, 8)
    works = [
        operators.Convolution(
            in_channels=8, out_channels=8, height=before, width=before, kernel_h=3, kernel_w=3, padding_h=1,
            padding_w=1, stride_h=before // after, stride_w=before // after, out_height=after, out_width=after,
        )
        for before, after in itertools.pairwise(sides)
    ]  # fmt: skip
    tensors = {f"t{n}": Tensor(f"t{n}", (1, 8, side, side), "int8") for n, side in enumerate(sides)}
    tensors |= {f"w{n}": Tensor(f"w{n}", (8, 8, 3, 3), "int8", Role.WEIGHT) for n in range(len(works))}
    made = [
        make_operator(f"op{n}", work, (f"t{n}", f"w{n}"), (f"t{n + 1}",), tensors, dtype="int8")
        for n, work in enumerate(works)
    ]
    return Graph("chain", tensors, tuple(made), (f"t{len(works)}",))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """A model's file, that of its groups, and the groups."""
    folder = tmp_path_factory.mktemp("fused")
    model, out = folder / "model.json", folder / "fused.json"
    write_graph(small_network(), model)
    return model, out, solve_fusion(model, HW, depth=3, out=out)


def test_a_file_read_back_costs_what_was_found(written: tuple[Path, Path, Any], tmp_path: Path) -> None:
    model, out, found = written
    again = solve_fusion(model, HW, evaluate=out, out=tmp_path / "again.yaml")
    assert again.total().energy_j == pytest.approx(found.total().energy_j, rel=1e-12)
    assert again.total().latency_cycles == pytest.approx(found.total().latency_cycles, rel=1e-12)
    assert again.total().outside_bytes == found.total().outside_bytes
    groups = [chain["groups"] for chain in found.as_json()["chains"]]
    assert [chain["groups"] for chain in again.as_json()["chains"]] == groups
    assert {chain["status"] for chain in again.as_json()["chains"]} == {"given"}
    assert "alone" not in again.as_json()
    assert "as given" in str(again)
    assert any("pieces" in group for own in groups for group in own)
    # YAML too.
    third = solve_fusion(model, HW, evaluate=tmp_path / "again.yaml")
    assert third.as_json() == again.as_json()


def test_the_command_prices_a_file(written: tuple[Path, Path, Any], cli: Any) -> None:
    asked = ("--hw", HW, "--fuse", "chains", "--evaluate", written[1], "--json")
    ran = cli("solve", "mapping", written[0], *asked)
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["fused"] == written[2].as_json()["fused"]


def test_bytes_of_groups_read_back_are_those_of_a_literal_run(written: tuple[Path, Path, Any]) -> None:
    model, out, _ = written
    again = solve_fusion(model, HW, evaluate=out)
    looked_at = 0
    for item in again.chains:
        for group in item.answer.groups:
            if group.program is None:
                continue
            looked_at += 1
            program = group.program
            run = Run(program.chain, program.tiling, again.device)
            assert (run.inputs, run.outputs) == (program.inputs, program.outputs)
            assert tuple(run.weights) == program.weights
            width = again.device.word_bits
            crossed = run.inputs * width.bytes_of("I") + run.outputs * width.bytes_of("O")
            assert group.cost.outside_bytes == crossed + sum(run.weights) * width.bytes_of("W")
    assert looked_at


def first_group(data: Any) -> tuple[Any, str]:
    for number, chain in enumerate(data["chains"]):
        for place, group in enumerate(chain["groups"]):
            if "pieces" in group:
                return group, f"chains[{number}].groups[{place}]"
    raise AssertionError


def changed(data: Any, key: str, value: Any) -> None:
    group, _ = first_group(data)
    *way, last = key.split(".")
    for step in way:
        group = group[int(step) if step.isdigit() else step]
    group[int(last) if last.isdigit() else last] = value


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("tile.P", 0, "tile.P: found 0; expected 1 to "), ("tile.X", 3, "tile.X: unknown"),
        ("tile.P", True, "found True; expected 1 to"), ("halo_kept.P", 1, "halo_kept.P: expected true or false"),
        ("weights.0", "twice", "expected resident or again for each layer"),
        ("weight_slices.0", 7, "weight_slices[0]: found 7; expected a divisor of"),
        ("pieces.0.0.count", 9, "pieces[0][0].count: found 9; the tile leaves"),
        ("pieces.0.0.mapping.levels", [], "pieces[0][0].mapping.levels: expected one entry per level"),
        ("layers", ["x"], "layers: found ['x']; expected layers from"),
        ("colour", 1, "colour: unknown; expected"), ("pieces", [], "found 0 entries; expected 3 lists of pieces"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_one_line_with_its_field(
    key: str, value: Any, says: str, written: tuple[Path, Path, Any], tmp_path: Path, cli: Any
) -> None:
    data = copy.deepcopy(json.loads(written[1].read_text()))
    changed(data, key, value)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(data))
    ran = cli("solve", "mapping", written[0], "--hw", HW, "--fuse", "chains", "--evaluate", path)
    assert ran.code == 2
    assert says in ran.err
    assert first_group(json.loads(written[1].read_text()))[1] in ran.err
    assert len(ran.err.strip().splitlines()) == 1


def test_groups_of_another_machine_or_model_and_half_of_one_are_refused(
    written: tuple[Path, Path, Any], tmp_path: Path, cli: Any
) -> None:
    asked = ("solve", "mapping", written[0], "--fuse", "chains", "--evaluate")
    ran = cli(*asked, written[1], "--hw", "edge-tpu-array")
    assert ran.code == 2
    assert "accelerator: found 'gemmini'; expected 'edge-tpu-array'" in ran.err
    ran = cli("solve", "mapping", "alexnet", "--hw", "gemmini", "--fuse", "chains", "--evaluate", written[1])
    assert ran.code == 2
    assert "chains, as the model has" in ran.err
    data = json.loads(written[1].read_text())
    del data["chains"][0]["groups"][-1]
    path = tmp_path / "half.yaml"
    path.write_text(yaml.safe_dump(data))
    ran = cli(*asked, path, "--hw", "gemmini")
    assert ran.code == 2
    assert "is in no group" in ran.err


def test_a_tile_that_does_not_fit_is_refused(written: tuple[Path, Path, Any], tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "hw_configs/devices/accelerator/gemmini.yaml").read_text()
    small = tmp_path / "small.yaml"
    small.write_text(text.replace("O: 64 KiB", "O: 64 B"))
    with pytest.raises(InputError, match="in 'memories' takes"):
        solve_fusion(written[0], small, evaluate=written[1])
