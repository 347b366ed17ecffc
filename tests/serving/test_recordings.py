"""Recordings of vLLM's scheduler are met step for step, by the engine and by the plain program it is held against."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from offchip.validation.registry import VALIDATORS, Options
from offchip.validation.scheduler import accepted_drafts, read_case
from serving.plain_scheduler import PlainScheduler

FOLDER = Path(__file__).parents[1] / "reference" / "scheduler"
CASES = sorted(path.name.removesuffix(".json.gz") for path in FOLDER.glob("*.json.gz"))


def test_every_case_is_equal_in_all_three_digests():
    rows = list(VALIDATORS.get("scheduler")(FOLDER, "*", Options()))
    assert [row.id for row in rows] == CASES
    assert len(CASES) == 26
    assert [(row.id, row.note) for row in rows if row.verdict != "ok" or row.note] == []


@pytest.mark.parametrize("name", ["deg-one-token", "mml-4", "preempt-7", "spec-ngram-2", "watermark-idle-0"])
def test_the_plain_program_meets_recordings_too(name):
    case = read_case(FOLDER / f"{name}.json.gz")
    requests, most = case.requests, case.settings.speculation.tokens if case.settings.speculation else 0
    oracle = PlainScheduler(requests, case.settings, case.space.blocks, case.space.block_tokens)
    core, now, added = hashlib.sha256(), 0, 0
    assert not case.timed
    while added < requests.count or oracle.running or oracle.queue:
        if not (oracle.running or oracle.queue):
            now = max(now, int(requests.arrival_s[added]))
        while added < requests.count and requests.arrival_s[added] <= now:
            oracle.add(added)
            added += 1
        step = oracle.schedule()
        q = " ".join(f"{e['job'].number}:{e['n']}" for e in step)
        p = " ".join(map(str, oracle.preempted))
        a = " ".join(f"{i}:{hit}:{int(resumed)}" for i, hit, resumed in oracle.admitted)
        r, w = len(oracle.running), len(oracle.queue)
        i, o, d = (
            np.array([value(e) for e in step], np.int64)
            for value in (lambda e: e["job"].number, lambda e: e["job"].outputs, lambda e: e["drafts"])
        )
        x = " ".join(map(str, oracle.complete(accepted_drafts(i, o, d, most).tolist())))
        core.update(f"{now}|-|{q}|{p}|{a}|{r}|{w}|{x}|{len(oracle.pool.free)}\n".encode())
        now += 1
    assert core.hexdigest() == case.expected["sha256_core"]


def changed(tmp_path, change):
    data = json.loads(gzip.decompress((FOLDER / "deg-one-token.json.gz").read_bytes()))
    change(data)
    (tmp_path / "case.json.gz").write_bytes(gzip.compress(json.dumps(data).encode()))
    return next(iter(VALIDATORS.get("scheduler")(tmp_path, "*", Options())))


def test_another_digest_is_off_and_says_which(tmp_path):
    row = changed(tmp_path, lambda data: data.update(sha256_core="0" * 64))
    assert (row.verdict, row.note) == ("off", "differs: sha256_core")
    row = changed(tmp_path, lambda data: data.update(sha256_blocks="0" * 64))
    assert (row.verdict, row.note) == ("ok", "differs: sha256_blocks")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data.pop("config"), "KeyError 'config'"),
        (lambda data: data["requests"][0].update(max_tokens=0), "expected 1 to"),
        (lambda data: data["config"].update(block_size=0), "engine.block_size"),
        (lambda data: data["requests"][0].update(prompt=[[1, 9000]]), "prompt of 9000 tokens"),
        (lambda data: data.update(requests=3), "TypeError"),
    ],
)
def test_what_is_no_recording_is_said_in_one_line(tmp_path, change, says):
    row = changed(tmp_path, change)
    assert row.verdict == "unsupported"
    assert says in row.note


def test_a_file_that_is_no_archive_is_said(tmp_path):
    (tmp_path / "x.json.gz").write_bytes(b"no")
    row = next(iter(VALIDATORS.get("scheduler")(tmp_path, "*", Options())))
    assert row.verdict == "unsupported"
    assert "not a recording" in row.note


def test_the_command_reports_the_cases(cli):
    outcome = cli("validate", "scheduler", FOLDER, "--rows", "deg-*", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["summary"]["verdicts"]["ok"] == 2
