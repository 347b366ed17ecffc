"""``offchip solve offload``: what it prints, writes and refuses."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hw_configs.problems import OffchipError
from offchip.cli.main import app
from offchip.solving.offload import tokens
from tests.training.small_models import gpt_config

RUNNER = CliRunner()


def call(*arguments: str) -> tuple[int, str]:
    result = RUNNER.invoke(app, ["solve", "offload", *arguments])
    if isinstance(result.exception, OffchipError):
        return result.exception.exit_code, str(result.exception)
    return result.exit_code, result.stdout


def test_it_plans_simulates_and_writes(tmp_path: Path) -> None:
    model, out = gpt_config(tmp_path, hidden=1024), tmp_path / "out"
    code, text = call(
        model, "--hw", "a800-node", "--seq", "8K", "--policy", "memo", "--set", "tp=2", "--set", "devices=2",
        "--simulate", "--out", str(out), "--json",
    )  # fmt: skip
    assert code == 0, text
    report = json.loads(text)
    assert report["fits"] is True
    assert report["why"]
    assert report["simulated"]["step_s"] == pytest.approx(report["time"]["step_s"], rel=0.1)
    assert json.loads((out / "report.json").read_text()) == report

    def makespan(*arguments: str) -> float:
        again = RUNNER.invoke(app, ["simulate", *arguments, "--hw", "a800-node", "--json"])
        assert again.exit_code == 0, again.output
        found = json.loads(again.stdout)
        return float(found["step_s"] if "step_s" in found else found["summary"]["makespan_s"])

    step_s = report["simulated"]["step_s"]
    assert makespan(model, "--phase", "train", "--plan", str(out / "plan.json")) == step_s
    # The same plan with every tensor at its address, on the engine that knows tensors and not classes.
    assert makespan(str(out / "graph.json"), "--plan", str(out / "addresses.json")) == pytest.approx(
        step_s, rel=0.02
    )
    assert json.loads(gzip.decompress((out / "step-trace.json.gz").read_bytes()))["traceEvents"]


def test_it_says_why_in_words(tmp_path: Path) -> None:
    code, text = call(gpt_config(tmp_path), "--hw", "a800-node", "--seq", "4096", "--set", "devices=2")
    assert code == 0
    assert "the least of" in text
    assert "Step time" in text


def test_policies_are_listed() -> None:
    code, text = call("--policy", "list", "--json")
    assert code == 0
    assert {"choose-training", "memo", "megatron", "deepspeed", "rematerialize"} <= set(
        json.loads(text)["policies"]
    )


def test_rematerialize(tmp_path: Path) -> None:
    model = gpt_config(tmp_path, layers=6, hidden=1024)
    code, text = call(
        model, "--hw", "a800-node", "--seq", "64K", "--policy", "rematerialize", "--set", "limit=300 MiB", "--json"
    )  # fmt: skip
    assert code == 0, text
    report = json.loads(text)
    assert report["peak_bytes"] <= 300 * 2**20
    assert report["layers_s"] > report["layers_without_recomputation_s"]
    assert call(model, "--hw", "a800-node", "--policy", "rematerialize", "--set", "limit=1 B")[0] == 3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["llama-7b"], 2, "--hw"),
        (["llama-7c", "--hw", "a800-node"], 2, "llama-7b"),
        (["llama-7b", "--hw", "a800-nod"], 2, "a800-node"),
        (["llama-7b", "--hw", "a800-node", "--policy", "choose"], 2, "choose-training"),
        (["llama-7b", "--hw", "a800-node", "--phase", "decode", "--policy", "memo"], 2, "--phase"),
        (["llama-7b", "--hw", "a800-node", "--phase", "dance"], 2, "phase"),
        (["llama-7b", "--hw", "a800-node", "--seq", "1G"], 2, "--seq"),
        (["llama-7b", "--hw", "a800-node", "--seq", "0"], 2, "--seq"),
        (["llama-7b", "--hw", "a800-node", "--batch", "0"], 2, "--batch"),
        (["llama-7b", "--hw", "a800-node", "--set", "zer=3"], 2, "did you mean 'zero'"),
        (["llama-7b", "--hw", "a800-node", "--set", "tp"], 2, "KEY=VALUE"),
        (["llama-7b", "--hw", "a800-node", "--set", "tp=x"], 2, "whole number"),
        (["llama-7b", "--hw", "a800-node", "--set", "devices=9"], 2, "devices"),
        (["llama-7b", "--hw", "a800-node", "--set", "zero=7"], 2, "zero"),
        (["llama-7b", "--hw", "a800-node", "--set", "allocator=best"], 2, "caching"),
        (["llama-7b", "--hw", "a800-node", "--dtype", "fp17"], 2, "fp17"),
        (["gpt2", "--hw", "a800-node", "--seq", "8K"], 2, "positions"),
        (["resnet-50", "--hw", "a800-node", "--set", "tp=8"], 2, "divided"),
        (["resnet-50", "--hw", "a800-node"], 2, "no numbered layers"),
        (["llama-7b", "--hw", "a800-node", "--phase", "trian"], 2, "did you mean 'train'"),
        (["llama-7b", "--hw", "a800-node", "--generate", "5"], 2, "only decode generates tokens"),
        (["llama-7b", "--hw", "a800-node", "--batch", "9" * 23], 2, "tokens in all"),
        (["llama-7b", "--hw", "a800-node", "--set", "tp=²"], 2, "whole number"),
        (["llama-7b", "--hw", "a800-node", "--set", "tp=" + "9" * 5000], 2, "whole number"),
        ([str(Path(__file__).parent), "--hw", "a800-node"], 2, "offload: not a file"),
        (
            [
                "opt-6.7b",
                "--hw",
                "csd-node",
                "--phase",
                "decode",
                "--policy",
                "offload-kv",
                "--set",
                "groups=0",
            ],
            2,
            "groups: found '0'",
        ),
        (
            [
                "opt-6.7b",
                "--hw",
                "csd-node",
                "--phase",
                "decode",
                "--policy",
                "offload-kv",
                "--set",
                "groups=0.5",
            ],
            2,
            "fewer than kept tokens (1)",
        ),
    ],
)
def test_bad_input_is_one_clear_line(arguments: list[str], code: int, words: str) -> None:
    found, text = call(*arguments)
    assert found == code, text
    assert words in text
    assert "Traceback" not in text


def test_nothing_fits_is_exit_code_three() -> None:
    command = [
        sys.executable, "-m", "offchip.cli.main", "solve", "offload", "memo-65b", "--hw", "a800-node", "--seq", "1M",
        "--set", "tp=8", "--set", "recompute=none",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "short by" in done.stderr


@pytest.mark.parametrize(("text", "count"), [("4096", 4096), ("64K", 65536), ("1m", 2**20), ("1_000", 1000)])
def test_counts_of_tokens(text: str, count: int) -> None:
    assert tokens(text) == count


ENUMERATED = (
    "gpt2-xl", "--hw", "a800-node", "--policy", "choose-training", "--seq", "1024", "--set", "devices=8", "--json",
)  # fmt: skip


@pytest.mark.parametrize("limit", ["0.02", "1"])
def test_what_enumerates_answers_within_its_limit(limit: str) -> None:
    """The best of what was looked at, or exit code 4; in seconds of the processor."""
    start = time.process_time()
    code, text = call(*ENUMERATED, "--time-limit", limit)
    assert time.process_time() - start <= 1.1 * float(limit) + 3
    assert code in (0, 4), text
    if code == 0:
        assert json.loads(text)["fits"] in (True, False)
    else:
        assert "--time-limit" in text


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="signals of POSIX")
def test_an_interrupt_ends_what_enumerates() -> None:
    """The signal comes while choices are looked at; the answer is the best so far, or none."""
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    start = time.process_time()
    try:
        code, text = call(*ENUMERATED, "--time-limit", "100")
    finally:
        timer.cancel()
        timer.join()
    assert time.process_time() - start <= 6
    assert code in (0, 4, 130), text
