"""Problems and mappings as Timeloop writes them, against the same in Offchip's own form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hw_configs.problems import InputError
from offchip import solve_mapping
from simulator.accelerator.loop_nest.evaluate import evaluate
from simulator.accelerator.loop_nest.nest import LoopNest, NestLevel, Spread, breach
from simulator.accelerator.loop_nest.timeloop_mapping import read_timeloop_mapping
from tests.loop_nest import strategies
from workloads.density import NofM, Uniform
from workloads.timeloop_problem import is_problem, read_problem

PROBLEM = """
problem:
  version: 0.4
  shape:
    name: conv
    dimensions: [C, M, R, P]
    coefficients:
    - {name: Stride, default: 1}
    data_spaces:
    - {name: Weights, projection: [[[C]], [[M]], [[R]]]}
    - {name: Inputs, projection: [[[C]], [[R], [P, Stride]]]}
    - {name: Outputs, projection: [[[M]], [[P]]], read_write: True}
  instance: {C: 4, M: 8, R: 3, P: 6, Stride: 2}
"""
MAPPING = """
mapping:
- {target: L0, type: temporal, factors: C=2 M=2 P=3, permutation: PMC}
- {target: L1, type: temporal, factors: [R=3], permutation: [R]}
- {target: L1, type: spatial, factors: M=4 C=2, permutation: MC, split: 1}
- {target: L1, type: datatype, keep: [Inputs, Weights, Outputs], bypass: []}
- {target: L2, type: temporal, factors: P=0}
"""


def _machine() -> Any:
    axes = [("X", 4, "any", ("I", "W"), ("O",)), ("Y", 2, "any", ("I", "W"), ("O",))]
    every = ("I", "W", "O")
    return strategies.accelerator([{"holds": every}, {"holds": every, "axes": axes}, {"holds": every}])


def _read(problem: str = PROBLEM) -> Any:
    return read_problem(yaml.safe_load(problem), "p.yaml")


def test_a_problem_is_an_einsum() -> None:
    layer = _read()
    assert is_problem(yaml.safe_load(PROBLEM))
    assert dict(layer.sizes) == {"C": 4, "M": 8, "R": 3, "P": 6}
    assert layer.words("I", layer.sizes) == 4 * (1 + 2 * 5 + 2)
    assert layer.indexed_by("W") == {"C", "M", "R"}
    assert layer.indexed_by("O") == {"M", "P"}
    older = PROBLEM.replace("data_spaces", "data-spaces").replace("read_write", "read-write")
    assert _read(older).operands == layer.operands


def test_densities_of_a_problem_are_those_of_its_operands() -> None:
    dense = "P: 6, Stride: 2}"
    said = (
        "P: 6, Stride: 2, densities: {Weights: {distribution: fixed_structured, density: 0.5}, Inputs: 0.4}}"
    )
    layer = _read(PROBLEM.replace(dense, said))
    assert layer.densities == {"I": Uniform(0.4), "W": NofM(1, 2, "C")}
    whole = PROBLEM.replace(
        dense, dense[:-1] + ", densities: {Inputs: {distribution: hypergeometric, density: 1.0}}}"
    )
    assert _read(whole) == _read()
    for wrong, says in (
        (said.replace("Inputs", "Input"), "densities.Input: is no data space"),
        (said.replace("fixed_structured", "banded"), "found banded"),
        (said.replace("0.5", "0.3337"), "expected N of M"),
        (said.replace("density: 0.5", "densty: 0.5"), "Weights.densty"),
    ):
        with pytest.raises(InputError, match=says):
            _read(PROBLEM.replace(dense, wrong))


def test_a_mapping_is_the_nest_that_it_says() -> None:
    device, layer = _machine(), _read()
    nest = read_timeloop_mapping(yaml.safe_load(MAPPING), device, layer, "m.yaml")
    assert nest == LoopNest(
        (
            NestLevel((("C", 2), ("M", 2), ("P", 3))),  # the permutation begins with the innermost
            NestLevel((("R", 3),), (Spread("M", "X", 4), Spread("C", "Y", 2))),
            NestLevel((("P", 2),)),
        )
    )
    assert not breach(nest, device, layer)
    assert evaluate(nest, device, layer).macs == 4 * 8 * 3 * 6


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("target: L0", "target: L9", "no level 'L9'"),
        ("R=3", "R=3,2", "expected DIM=COUNT"),
        ("[R=3]", "[Z=3]", "expected DIM=COUNT"),
        ("PMC", "PMM", "each once"),
        ("bypass: []", "bypass: [Weights]", "holds I W O"),
        ("type: datatype", "type: utilization", "expected temporal, spatial or datatype"),
        ("split: 1", "split: -1", "expected a position"),
        ("split: 1", "split: 1, tag: x", "mapping\\[2\\]"),
        ("C=2 M=2 P=3", "C=2 M=2 P=0", "several factors of 0"),
    ],
)
def test_what_is_not_understood_in_a_mapping_is_refused(old: str, new: str, says: str) -> None:
    assert old in MAPPING
    with pytest.raises(InputError, match=says):
        read_timeloop_mapping(yaml.safe_load(MAPPING.replace(old, new)), _machine(), _read(), "m.yaml")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("Stride: 2", "Strid: 2", "instance.Strid"),
        ("P: 6, ", "", "P has no size"),
        (", read_write: True", "", "expected two inputs and one output"),
        ("[P, Stride]", "[P, Step]", "expected \\[dimension\\]"),
        ("name: conv", "densities: {}", "shape.densities"),
        ("Stride: 2}", "Stride: 2, densities: {Weights: 1.5}}", "share above 0"),
    ],
)
def test_what_is_not_understood_in_a_problem_is_refused(old: str, new: str, says: str) -> None:
    assert old in PROBLEM
    with pytest.raises(InputError, match=says):
        _read(PROBLEM.replace(old, new))


def test_a_problem_is_solved_and_its_mapping_comes_out_as_yaml(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(PROBLEM)
    found = solve_mapping(tmp_path / "p.yaml", "gemmini", out=tmp_path / "all.yaml")
    written = yaml.safe_load((tmp_path / "all.yaml").read_text())["layers"][0]["mappings"][0]
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(written["mapping"]))
    again = solve_mapping(tmp_path / "p.yaml", "gemmini", evaluate=tmp_path / "m.yaml")
    assert again.energy_j == pytest.approx(written["energy_j"], rel=1e-12)
    assert again.layers[0].best.nest == found.layers[0].best.nest
