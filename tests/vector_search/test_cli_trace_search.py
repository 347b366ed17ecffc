"""``offchip trace search`` from the outside: figures, examples, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GRAPH = """\
kind: graph
name: small
vectors: 1_000_000
dimensions: 96
element: fp32
degree: 32
code_bytes: 24
beam: 2
rounds: 3
"""


@pytest.fixture
def index(tmp_path):
    def write(text=GRAPH, **changes):
        lines = [line for line in text.splitlines() if line.split(":")[0] not in changes]
        path = tmp_path / "index.yaml"
        path.write_text(
            "\n".join([*lines, *(f"{k}: {v}" for k, v in changes.items() if v is not None)]) + "\n"
        )
        return path

    return write


def test_json_is_one_object_and_repeats(cli, index):
    arguments = (
        "trace",
        "search",
        index(),
        "--hw",
        "workstation",
        "--queries",
        20,
        "--in-flight",
        4,
        "--json",
    )
    first, second = cli(*arguments), cli(*arguments)
    assert first.code == 0, first.err
    assert first.out == second.out
    found = json.loads(first.out)
    assert found["memory_bytes"] == 24_000_000 + 256 * 96 * 4
    assert found["drive_bytes"] == -(-1_000_000 // 7) * 4096
    (point,) = found["points"]
    assert point["reads"] == 120
    assert point["latency_mean_s"] > 3 * 40e-6
    other = json.loads(cli(*arguments, "--seed", 2).out)
    assert other["points"][0]["time_s"] != point["time_s"]


def test_a_sweep_says_where_the_drive_is_full(cli, index):
    outcome = cli("trace", "search", index(), "--hw", "nvme-pcie4-tlc", "--queries", 300, "--in-flight", 64, "--sweep",
                  "--json")  # fmt: skip
    points = json.loads(outcome.out)["points"]
    assert [point["in_flight"] for point in points] == [1, 2, 4, 8, 16, 32, 64]
    rates = [point["queries_per_s"] for point in points]
    assert rates == sorted(rates)
    assert points[0]["bottleneck"] == "waiting"
    assert rates[1] > 1.8 * rates[0]


def test_the_table_says_what_matters(cli):
    text = cli("trace", "search", "diskann-sift1b", "--hw", "dgx-2", "--queries", 5, "--drives", 1).out
    for word in ("p99 ms", "rounds of reads", "codes", "29.8 GiB", "processor time", "90 % recall@1"):
        assert word in text


def test_what_lies_in_memory_asks_no_drive(cli):
    found = json.loads(cli("trace", "search", "flat-1m", "--hw", "t4-server", "--queries", 3, "--json").out)
    assert (found["drives"], found["points"][0]["reads"]) == (0, 0)
    assert found["points"][0]["bottleneck"] == "waiting"


def test_more_drives_share_the_reads(cli, index):
    call = (
        "trace",
        "search",
        index(beam=8),
        "--hw",
        "nvme-pcie4-tlc",
        "--queries",
        60,
        "--in-flight",
        24,
        "--json",
    )
    one, four = (json.loads(cli(*call, "--drives", n).out) for n in (1, 4))
    assert (one["drives"], four["drives"]) == (1, 4)
    assert four["points"][0]["time_s"] < one["points"][0]["time_s"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("vector-*.yaml")), ids=lambda path: path.stem
)
def test_examples_run(cli, path):
    outcome = cli("trace", "search", path, "--hw", "workstation", "--queries", 4)
    assert outcome.code == 0, outcome.err


def test_there_are_examples():
    assert len(list((ROOT / "examples").glob("vector-*.yaml"))) >= 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "grahp"}, r"index.yaml:\d+: kind: found 'grahp'; known: .*did you mean 'graph'"),
        ({"degree": None}, r"index.yaml:1: degree: missing key 'degree'"),
        ({"beam": 0}, r"index.yaml:\d+: beam: "),
        ({"beem": 2}, r"index.yaml:\d+: beem: unknown key 'beem'.*did you mean 'beam'"),
        ({"sector": "1000 B"}, r"index.yaml:\d+: sector: expected 512 B to 1 MiB"),
        (
            {"cached_nodes": 2000000},
            r"index.yaml:\d+: cached_nodes: 2000000 are more than the 1000000 vectors",
        ),
        ({"vectors": "1e6"}, r"index.yaml:\d+: vectors: found '1e6'; expected a whole number"),
        ({"element": "fp31"}, r"index.yaml:\d+: element: found 'fp31'; .*did you mean 'fp32'"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(cli, index, changes, said):
    import re

    outcome = cli("trace", "search", index(**changes), "--hw", "workstation")
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert re.search(said, outcome.err), outcome.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("spann-sift1", "--hw", "dgx-2"), 2, "did you mean 'spann-sift1b'"),
        (("none.yaml", "--hw", "dgx-2"), 2, "none.yaml: no such file"),
        (("diskann-sift1b", "--hw", "dgx-9"), 2, "dgx-2"),
        (("diskann-sift1b", "--hw", "dgx-2", "--in-flight", "0"), 2, "--in-flight: found 0; expected 1 to 4096"),
        (("diskann-sift1b", "--hw", "dgx-2", "--queries", "1000000"), 2, "--queries: 36 reads of each of 1000000"),
        (("diskann-sift1b", "--hw", "dgx-2", "--in-flight", "400", "--drives", "1", "--queries", "400"), 2,
         "--in-flight: "),
        (("flat-1m", "--hw", "host-ddr5-4800-8ch-1tb"), 2, "--hw: "),
        (("diskann-sift1b", "--hw", "t4-server"), 2, "'nvme-cloud-1500gb' states no geometry and timing"),
        (("diskann-sift1b", "--hw", "edge-tpu-board"), 2, "--hw: 'edge-tpu-board' has no drive"),
        (("flat-1m", "--hw", "a100-80gb", "--drives", "2"), 2, "--drives: 'a100-80gb' has no drive"),
        (("spann-sift1b", "--hw", "ufs-4"), 3, "1474560000000 bytes do not fit"),
        (("spann-deep1b", "--hw", "workstation"), 3, "bytes are too many"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_call_is_one_line(cli, arguments, code, said):
    outcome = cli("trace", "search", *arguments)
    assert (outcome.code, len(outcome.err.splitlines())) == (code, 1), outcome.err
    assert said in outcome.err
