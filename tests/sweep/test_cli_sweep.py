"""``offchip sweep`` and its sub-calls, and the cache on disk."""

from __future__ import annotations

import csv
import json

import pytest

from offchip.sweep.cache import DiskCache
from tests.sweep.spaces import DECODE, space_file


@pytest.fixture
def folder(tmp_path, cli):
    outcome = cli("sweep", space_file(tmp_path, DECODE), "--out", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    return tmp_path / "out"


def test_status_pareto_best_explain_compare_export(folder, cli, tmp_path):
    status = json.loads(cli("sweep", "status", folder, "--json").out)
    assert status["done"] == status["expected"] == 48
    front = json.loads(cli("sweep", "pareto", folder, "--json").out)["front"]
    assert len(front) == status["front"] > 0
    best = json.loads(cli("sweep", "best", folder, "--json").out)["best"]
    assert best[0]["figures"]["time_per_token_s"] == status["best"][0]["value"]
    explained = json.loads(cli("sweep", "explain", folder, "--json", "--sobol", "32").out)
    assert explained["time_per_token_s"]["effects"][0]["parameter"] == "gpu.memory.bandwidth"
    assert len(explained["tokens_per_j"]["sobol"]) == 5
    compared = json.loads(cli("sweep", "compare", folder, folder, "--json").out)
    assert compared["front_one"] == compared["front_other"] == len(front)
    assert all(entry["median_ratio"] == 1 for entry in compared["objectives"])
    for name in ("t.csv", "t.parquet"):
        assert cli("sweep", "export", folder, "--out", tmp_path / name).code == 0
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert len(rows) == 48
    assert rows[0]["gpu.memory.bandwidth"] == "1000000000000.0"
    for call in ("status", "pareto", "best", "explain"):
        assert "time_per_token_s" in cli("sweep", call, folder).out


def test_parquet_holds_what_csv_holds(folder, cli, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("t.csv", "t.parquet"):
        cli("sweep", "export", folder, "--out", tmp_path / name)
    table = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [row["number"] for row in table] == [int(row["number"]) for row in rows]
    assert [row["status"] for row in table] == [row["status"] for row in rows]


def test_dry_run_writes_nothing(cli, tmp_path):
    path = space_file(tmp_path, DECODE)
    found = json.loads(cli("sweep", path, "--dry-run", "--json").out)
    assert found["points"] == 48
    assert found["stages"][0]["seconds"] > 0
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["SPACE"], "--out"),
        (["SPACE", "--out", "OUT", "--jobs", "0"], "--jobs"),
        (["SPACE", "--out", "OUT", "--shard", "3/2"], "K/N"),
        (["SPACE", "--out", "OUT", "--cluster", "nowhere"], "--cluster"),
        (["absent.yaml", "--out", "OUT"], "no such file"),
        (["status", "absent"], "holds no sweep"),
        (["pareto", "absent"], "holds no sweep"),
    ],
)
def test_mistakes_of_the_call(cli, tmp_path, arguments, words):
    place = {"SPACE": str(space_file(tmp_path, DECODE)), "OUT": str(tmp_path / "out")}
    outcome = cli("sweep", *(place.get(word, word) for word in arguments))
    assert outcome.code == 2
    assert words in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


def test_sweep_of_a_finished_folder_needs_resume(folder, cli):
    outcome = cli("sweep", folder.parent / "space.yaml", "--out", folder)
    assert outcome.code == 2
    assert "--resume" in outcome.err
    assert cli("sweep", folder.parent / "space.yaml", "--out", folder, "--resume").code == 0


def test_cache_is_bounded_and_distrusts_damage(tmp_path):
    cache = DiskCache(tmp_path, limit_bytes=64_000)
    assert cache.get("ab" * 32) is None
    for number in range(300):
        cache.put(f"{number:064x}"[::-1], bytes([number % 256]) * 1000)
    # Between two looks it may outgrow its bound by the entries in between.
    assert cache.size_bytes() <= 64_000 + 64 * 1100
    last = f"{299:064x}"[::-1]
    assert cache.get(last) == bytes([299 % 256]) * 1000
    path = tmp_path / last[:2] / last[2:]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert cache.get(last) is None
    DiskCache(None).put(last, b"x")
    assert DiskCache(None).get(last) is None
