"""Accelerators, layers and mappings as Timeloop and ZigZag write them, against the same in Offchip's own form."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hw_configs.problems import InputError
from hw_configs.timeloop_architecture import TIMELOOP_TAGS, read_timeloop_architecture
from hw_configs.yaml_file import read_yaml_text
from hw_configs.zigzag_architecture import read_zigzag_architecture
from offchip import solve_mapping
from workloads.zigzag_layers import read_zigzag_workload

NESTED = """
architecture:
  version: 0.4
  nodes:
  - !Container {name: chip, attributes: {technology: 16nm}}
  - !Component {name: DRAM, class: DRAM, attributes: {type: DDR4, width: 64, datawidth: 8, read_bandwidth: 16}}
  - !Component
    name: buffer
    class: storage
    subclass: smartbuffer_SRAM
    attributes: {depth: 4096, width: 64, datawidth: 8, n_banks: 4, read_bandwidth: 32, write_bandwidth: 16}
    constraints: {dataspace: {keep: [Inputs, Outputs], bypass: [Weights]}}
  - !Container
    name: PE
    spatial: {meshX: 4, meshY: 2}
    constraints: {spatial: {permutation: [C, K, P, R], factors: [P=1, R=1], split: 1}}
  - !Parallel
    nodes:
    - !Component
      name: weights
      class: regfile
      attributes: {depth: 16, width: 8, datawidth: 8}
      constraints: {dataspace: {keep: [Weights]}}
    - !Component
      name: sums
      class: regfile
      attributes: {depth: 4, width: 16, datawidth: 16}
      constraints: {dataspace: {keep: [Outputs]}}
  - !Component {name: mac, class: intmac, attributes: {multiplier_width: 8}}
"""
TREE = """
architecture:
  version: 0.3
  subtree:
  - name: chip
    attributes: {technology: 16nm}
    local:
    - {name: DRAM, class: DRAM, attributes: {type: DDR4, word-bits: 8}}
    - {name: buffer, class: SRAM, attributes: {memory_depth: 4096, memory_width: 64, word-bits: 8}}
    subtree:
    - name: PE[0..7]
      local:
      - {name: registers, class: regfile, attributes: {depth: 16, width: 8, word-bits: 8, meshX: 4}}
      - {name: mac, class: intmac, attributes: {width: 8, meshX: 4}}
"""
ZIGZAG = """
name: small
memories:
  rf_O:
    size: 32
    r_cost: 0.02
    w_cost: 0.04
    area: 0
    latency: 1
    operands: [O]
    ports:
      - {name: r, type: read, bandwidth_min: 16, bandwidth_max: 16, allocation: ["O, tl"]}
      - {name: w, type: write, bandwidth_min: 16, bandwidth_max: 16, allocation: ["O, fh"]}
    served_dimensions: [D2]
  dram:
    size: 10000000000
    r_cost: 512
    w_cost: 640
    area: 0
    latency: 1
    operands: [I1, I2, O]
    ports:
      - {name: rw, type: read_write, bandwidth_min: 64, bandwidth_max: 64, allocation: ["I1, fh"]}
    served_dimensions: [D1, D2]
operational_array: {unit_energy: 0.05, unit_area: 1, dimensions: [D1, D2], sizes: [4, 8]}
"""
WORKLOAD = """
- id: 0
  operator_type: Conv
  equation: O[b][k][oy]+=W[k][c][fy]*I[b][c][iy]
  dimension_relations: [iy=2*oy+1*fy]
  loop_dims: [B, K, C, OY, FY]
  loop_sizes: [1, 8, 16, 6, 3]
  operand_precision: {W: 8, I: 8, O: 24, O_final: 8}
  operand_source: {I: 0, W: 0}
- id: 1
  operator_type: Add
  equation: O[b][g]=W[b][g]+I[b][g]
  loop_dims: [B, G]
  loop_sizes: [1, 8]
  operand_precision: {W: 8, I: 8, O: 8, O_final: 8}
"""
MAPPING = """
- name: default
  spatial_mapping:
    D1: ["K, 4"]
    D2: ["C, 8"]
  temporal_ordering: [[OY, "*"], [FY, "*"], [C, "*"], [K, "*"]]
  memory_operand_links: {O: O, W: I2, I: I1}
"""


def _timeloop(text: str):
    return read_timeloop_architecture(read_yaml_text(text, "a.yaml", TIMELOOP_TAGS))


def _zigzag(text: str):
    return read_zigzag_architecture(read_yaml_text(text, "z.yaml"), {"I": 8, "W": 8, "O": 24})


def test_a_nested_architecture_is_the_machine_that_it_says() -> None:
    device = _timeloop(NESTED)
    assert [level.name for level in device.levels] == ["DRAM", "buffer", "weights", "sums"]
    assert [level.holds for level in device.levels] == [("I", "W", "O"), ("I", "O"), ("W",), ("O",)]
    assert device.levels[0].read_energy == pytest.approx(162.5e-12)
    assert device.levels[1].capacity == 32768
    assert (device.levels[1].read_width, device.levels[1].write_width) == (32, 16)
    assert [(axis.axis, axis.size, axis.dims) for axis in device.levels[1].fanout] == [
        ("PE.X", 4, ("C",)), ("PE.Y", 2, ("K",)),
    ]  # fmt: skip
    assert device.word_bits.O == 16
    assert device.levels[2].fanout == device.levels[3].fanout == ()


def test_a_tree_is_the_machine_that_it_says() -> None:
    device = _timeloop(TREE)
    assert [level.name for level in device.levels] == ["DRAM", "buffer", "registers"]
    assert [(axis.size, axis.dims) for axis in device.levels[1].fanout] == [(4, "any"), (2, "any")]
    assert device.levels[2].capacity == 16


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("class: DRAM", "class: SRAM", "expected DRAM, where data begin"),
        ("n_banks: 4", "n_bank: 4", r"nodes\[2\].attributes.n_bank: is not read"),
        ("technology: 16nm", "technology: 65nm", "expected 7 to 45 nm"),
        ("dataspace: {keep: [Weights]}", "temporal: {factors: [C=1]}", "constraints.temporal: is a decision"),
        ("P=1", "P=2", "expected DIM=1"),
        ("!Component {name: mac", "!Network {name: mac", "the tag '!Network'"),
        ("class: intmac", "class: adder", "one unit of class intmac"),
        ("type: DDR4", "type: DDR9", "expected one of ddr3"),
        ("multiplier_width: 8", "multiplier_width: 9", "found int9"),
        ("meshX: 4", "meshZ: 4", "spatial.meshz: is not read"),
        ("keep: [Weights]", "keep: [Keys]", "expected Inputs, Weights"),
    ],
)
def test_what_is_not_understood_in_an_architecture_is_refused(old: str, new: str, says: str) -> None:
    assert old in NESTED
    with pytest.raises(InputError, match=says):
        _timeloop(NESTED.replace(old, new))


def test_hardware_of_zigzag_is_the_machine_that_it_says() -> None:
    device = _zigzag(ZIGZAG)
    outer, inner = device.levels
    assert (outer.name, inner.name, inner.holds, inner.capacity) == ("dram", "rf_O", ("O",), 4)
    assert (outer.read_energy, outer.write_energy) == pytest.approx((64e-12, 80e-12))  # of 64 bits
    assert (outer.one_port, outer.read_width) == (True, 8)
    assert inner.read_energy == pytest.approx(0.01e-12)
    # Sums stand anew along D1; the units of D2 share one.
    assert [axis.axis for axis in outer.fanout] == ["D1"]
    assert [axis.axis for axis in inner.fanout] == ["D2"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("operands: [I1, I2, O]", "operands: [I1, O]", "does not hold W; expected one where all data begin"),
        ("served_dimensions: [D1, D2]", "served_dimensions: [D1]", "'rf_O' serves D2, which 'dram' outside"),
        ("served_dimensions: [D2]", "served_dimensions: [D3]", "the array has no 'D3'"),
        ("r_cost: 0.02", "r_price: 0.02", "memories.rf_O.r_price: is not read"),
        ("sizes: [4, 8]", "sizes: [4]", "as many sizes"),
        ("type: read_write", "type: any", "expected read, write or read_write"),
    ],
)
def test_what_is_not_understood_in_hardware_of_zigzag_is_refused(old: str, new: str, says: str) -> None:
    assert old in ZIGZAG
    with pytest.raises(InputError, match=says):
        _zigzag(ZIGZAG.replace(old, new))


def test_a_workload_of_zigzag_is_its_layers() -> None:
    read = read_zigzag_workload(yaml.safe_load(WORKLOAD), "w.yaml")
    (layer,) = read.layers
    assert layer.words("I", layer.sizes) == 16 * (1 + 2 * 5 + 2)
    assert layer.indexed_by("W") == {"K", "C", "FY"}
    assert read.others == ("Add",)
    assert read.bits == {"I": 8, "W": 8, "O": 24}
    for old, new, says in (
        ("iy=2*oy+1*fy", "iy=2oy", "expected a=2"),
        ("loop_dims: [B, K, C", "loop_dims: [B, K", "6 sizes|5 sizes"),
        ("O: 24", "O: 0", "operand_precision.O"),
        ("operand_source: {I: 0, W: 0}", "padding: [0, 0]", "padding: is not read"),
    ):
        with pytest.raises(InputError, match=says):
            read_zigzag_workload(yaml.safe_load(WORKLOAD.replace(old, new)), "w.yaml")


def test_a_mapping_of_zigzag_fixes_order_and_array_and_the_search_tiles(tmp_path: Path) -> None:
    for name, text in (("hw", ZIGZAG), ("layers", WORKLOAD), ("fix", MAPPING)):
        (tmp_path / f"{name}.yaml").write_text(text)
    files = tmp_path / "layers.yaml", tmp_path / "hw.yaml"
    free = solve_mapping(*files)
    fixed = solve_mapping(*files, fix=[str(tmp_path / "fix.yaml")])
    assert fixed.energy_j >= free.energy_j
    assert dict(fixed.unmapped) == {"Add": 1}
    nest = fixed.layers[0].best.nest
    along = {(s.axis, s.dim): s.count for level in nest.levels for s in level.spatial}
    assert along["D1", "K"] == 4
    for level in nest.levels:
        outer_first = [dim for dim, _count in level.temporal]
        assert outer_first == [dim for dim in ("K", "C", "FY", "OY") if dim in outer_first]
    for old, new, says in (
        ("D1: ", "D7: ", "has no 'D7'"),
        ("K, 4", "Z, 4", "expected a dim of"),
        ("W: I2", "W: I1", "memory_operand_links"),
        ('[OY, "*"]', "[OY, 5]", "runs 5 times beside 1"),
        ("- name: default", "- name: other", "no entry for"),
    ):
        (tmp_path / "fix.yaml").write_text(MAPPING.replace(old, new))
        with pytest.raises(InputError, match=says):
            solve_mapping(*files, fix=[str(tmp_path / "fix.yaml")])
