"""``offchip trace bank`` from the outside: figures, examples, and one line for every mistake."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BANK = """\
kind: hierarchical
name: small
anchor_parameters: 1_000_000
levels: [{blocks: 4, parameters: 30_000}, {blocks: 16, parameters: 10_000}]
place: drive
"""


@pytest.fixture
def bank(tmp_path):
    def write(**changes):
        lines = [line for line in BANK.splitlines() if line.split(":")[0] not in changes]
        path = tmp_path / "bank.yaml"
        path.write_text(
            "\n".join([*lines, *(f"{k}: {v}" for k, v in changes.items() if v is not None)]) + "\n"
        )
        return path

    return write


def test_json_is_one_object_and_repeats(cli, bank):
    arguments = ("trace", "bank", bank(cache="200 kB"), "--hw", "laptop", "--contexts", 50, "--json")
    first = cli(*arguments)
    assert first.code == 0, first.err
    assert cli(*arguments).out == first.out
    found = json.loads(first.out)
    assert (found["bank_bytes"], found["context_bytes"], found["contexts"]) == (560_000, 80_000, 50)
    assert found["levels"][0]["hit_rate"] > found["levels"][1]["hit_rate"]
    elsewhere = json.loads(cli(*arguments, "--place", "gpu").out)
    assert elsewhere["point"]["fetched_bytes"] == 0


def test_the_table_says_what_matters(cli, bank):
    text = cli("trace", "bank", bank(), "--hw", "desktop", "--contexts", 20).out
    for word in ("taken by a context", "time of a fetch, p99", "least time of a token", "hits by bytes"):
        assert word in text
    text = cli("trace", "bank", "memory-decoder-gpt2-xl", "--hw", "a100-80gb", "--batch", 4).out
    for word in ("one after the other", "on two devices", "one token of 4"):
        assert word in text


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("bank-*.yaml")), ids=lambda path: path.stem)
def test_examples_run(cli, path):
    outcome = cli("trace", "bank", path, "--hw", "desktop")
    assert outcome.code == 0, outcome.err


def test_there_are_examples():
    assert len(list((ROOT / "examples").glob("bank-*.yaml"))) >= 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "hierarchic"}, r"bank.yaml:\d+: kind: found 'hierarchic'; .*did you mean 'hierarchical'"),
        ({"place": "disk"}, r"bank.yaml:\d+: place: found 'disk'; known: drive, memory, gpu"),
        ({"cache": "1 kB"}, r"bank.yaml:\d+: cache: 1000 bytes do not hold the 80000 bytes of one context"),
        ({"levels": "[{blocks: 4, parameters: 1}, {blocks: 6, parameters: 1}]"},
         r"bank.yaml:\d+: levels.1.blocks: 6 blocks are no multiple of the 4"),
        ({"contexts": "none.txt"}, r"none.txt: cannot be read: No such file"),
        ({"contexts": "none.txt", "zipf": 1}, r"bank.yaml:\d+: zipf: the file of contexts says what comes"),
        ({"request": "8 MiB"}, r"bank.yaml:\d+: request: expected 512 B to 4 MiB"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_is_one_line(cli, bank, changes, said):
    outcome = cli("trace", "bank", bank(**changes), "--hw", "desktop")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1), outcome.err
    assert re.search(said, outcome.err), outcome.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("hierarchical-160", "--hw", "desktop"), 2, "did you mean 'hierarchical-160m'"),
        (("hierarchical-160m", "--hw", "a100-80gb"), 2, "--hw: 'a100-80gb' has no drive for the bank"),
        (("hierarchical-160m", "--hw", "ufs-4"), 2, "--hw: 'ufs-4' has no GPU or CPU"),
        (("hierarchical-160m", "--hw", "desktop", "--contexts", "1"), 2, "--contexts: found 1; expected 2 to"),
        (("hierarchical-160m", "--hw", "desktop", "--batch", "2"), 2, "--batch: without effect"),
        (("memory-decoder-gpt2-xl", "--hw", "desktop", "--drives", "2"), 2, "--drives: without effect"),
        (("hierarchical-160m", "--hw", "desktop", "--place", "disk"), 2, "--place: found 'disk'"),
        (("hierarchical-160m", "--hw", "desktop", "--cache", "1 furlong"), 2, "--cache: found '1 furlong'"),
        (("hierarchical-160m", "--hw", "a100-80gb", "--cache", "90 GB", "--place", "gpu"), 3, "bytes are too many"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_call_is_one_line(cli, arguments, code, said):
    outcome = cli("trace", "bank", *arguments)
    assert (outcome.code, len(outcome.err.splitlines())) == (code, 1), outcome.err
    assert said in outcome.err
