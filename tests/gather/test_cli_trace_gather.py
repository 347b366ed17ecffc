"""``offchip trace gather`` from the outside: descriptions, graphs, and one clear line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
HW = ("--hw", "gnn-workstation")


def test_a_description_and_options_over_it(cli, tmp_path: Path) -> None:
    spec = tmp_path / "s.yaml"
    spec.write_text(
        "graph: edges.txt\nfan_out: [3, 3]\nbatch: 4\npath: zero-copy\nfeatures: 32\nstore: four-level\n"
    )
    (tmp_path / "edges.txt").write_text("".join(f"{i} {(i * 7 + 1) % 40}\n" for i in range(40)))
    found = json.loads(cli("trace", "gather", spec, *HW, "--json").out)
    assert (found["path"], found["store"], found["batches"]) == ("zero-copy", "four-level", 10)
    other = json.loads(cli("trace", "gather", spec, *HW, "--store", "host", "--batch", 8, "--json").out)
    assert (other["store"], other["batches"]) == ("host", 5)
    assert cli("trace", "gather", spec, *HW, "--json").out == cli("trace", "gather", spec, *HW, "--json").out


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("gather-*.yaml")), ids=lambda path: path.stem)
def test_the_examples_run(cli, example: Path) -> None:
    text = cli("trace", "gather", example, "--hw", "gnn-disk-node", "--batches", 4).out
    for word in ("epoch", "bound by", "rows", "energy", "Stages", "Bytes over each boundary", "level"):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nothing",), "unknown graph 'nothing'"),
        (("no/such.txt",), "no such file"),
        (("ba:10",), "expected ba:NODES:EACH"),
        (("ba:10:x",), "expected ba:NODES:EACH"),
        (("ba:10:3", "--scale", "1/2"), "only a published shape"),
        (("reddit", "--scale", "2"), "--scale: found '2'"),
        (("reddit", "--scale", "1/0"), "--scale: found '1/0'"),
        (("ogbn-papers100m", "--scale", "1/9999", "--batch", "16"), "--scale: a batch of 16"),
        (("ogbn-papers100m",), "smaller scale"),
        (("reddit", "--scale", "1/9999"), "--scale: 23 nodes have no room"),
        (("ba:10:3", "--store", "four"), "--store: found 'four'"),
        (("ba:10:3", "--gpu-cache", "3"), "--gpu-cache: found '3'"),
        (("ba:10:3", "--fan-out", "0"), "--fan-out"),
        (("ba:10:3", "--gpus", "3"), "--gpus"),
        (("ba:10:3", "--feature-dtype", "fp33"), "--feature-dtype: found 'fp33'"),
    ],
)
def test_a_mistake_is_one_line(cli, arguments: tuple[str, ...], told: str) -> None:
    outcome = cli("trace", "gather", *arguments, *HW)
    assert outcome.code == 2
    assert told in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_description_is_told_by_line(cli, tmp_path: Path) -> None:
    spec = tmp_path / "s.yaml"
    spec.write_text("graph: ba:100:3\nfan_uot: [3]\nbatch: 0\n")
    outcome = cli("trace", "gather", spec, *HW)
    assert outcome.code == 2
    lines = outcome.err.splitlines()
    assert len(lines) == 2
    assert "s.yaml:2: fan_uot" in lines[0]
    assert "did you mean 'fan_out'" in lines[0]
    assert "s.yaml:3: batch" in lines[1]


def test_a_system_without_the_part_says_so(cli, tmp_path: Path) -> None:
    assert "no host memory" in cli("trace", "gather", "ba:50:3", "--hw", "a100-80gb").err
    bare = tmp_path / "bare.yaml"
    bare.write_text(
        "kind: system\nname: bare\ndevices:\n  gpu: {use: t4}\n  cpu: {use: epyc-7742, memory: host}\n"
        "  host: {use: host-ddr4-3200-8ch-128gb}\nlinks:\n"
        "  - {use: ddr4-3200-8ch-path, between: [cpu, host]}\n  - {use: pcie3-x16, between: [gpu, cpu]}\n"
    )
    assert cli("trace", "gather", "ba:50:3", "--hw", bare).code == 0
    assert "no drive" in cli("trace", "gather", "ba:50:3", "--hw", bare, "--store", "page-cache").err
    assert "no GPU" in cli("trace", "gather", "ba:50:3", "--hw", "epyc-7742").err


def test_rules_of_sampling_and_ways_to_make_a_graph(cli) -> None:
    for graph, more in (("rmat:512:4000:3", ("--rule", "ladies", "--fan-out", "64,64")),
                        ("power-law:512:4000", ("--rule", "fastgcn", "--fan-out", "64")),
                        ("ba:512:4", ("--expand", "new", "--replace", "--path", "uvm", "--model", "gat"))):  # fmt: skip
        found = json.loads(cli("trace", "gather", graph, *HW, "--batch", 64, *more, "--json").out)
        assert found["batches"] == 8
        assert found["epoch_s"] > 0


def test_a_graph_of_given_degrees_and_one_of_given_shares(cli, tmp_path) -> None:
    degrees = tmp_path / "degrees.txt"
    degrees.write_text("".join(f"{1 + node % 5}\n" for node in range(400)))
    for graph in (f"degrees:{degrees}", f"degrees:{degrees}:7", "rmat:400:1200:1:0.25,0.25,0.25,0.25"):
        found = cli("trace", "gather", graph, *HW, "--batch", 100, "--fan-out", "-1", "--json")
        assert found.code == 0, found.err
        assert json.loads(found.out)["edges"] == 1200
    assert "A,B,C,D" in cli("trace", "gather", "rmat:400:1200:1:0.5,0.5", *HW).err
    degrees.write_text("3\nmany\n")
    assert f"{degrees}:2" in cli("trace", "gather", f"degrees:{degrees}", *HW).err


def test_the_commands_and_the_python_of_the_page_run(cli) -> None:
    page = (EXAMPLES.parent / "docs" / "gathers.md").read_text(encoding="utf-8")
    commands = [line.split()[2:] for line in page.splitlines() if line.startswith("$ offchip trace gather")]
    assert len(commands) == 4
    for command in commands:
        arguments = [EXAMPLES.parent / part if part.startswith("examples/") else part for part in command]
        outcome = cli(*arguments, "--batches", 3)
        assert outcome.code == 0, outcome.err
    python = page.split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    exec(python, names)
    assert names["result"].epoch_s > 0
