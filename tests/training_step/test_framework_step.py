"""A training step as a framework runs it: what ``solve offload`` gives of that layout, and bad input in one line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from hw_configs.problems import InfeasibleError, InputError
from offchip.cli.main import app
from offchip.solving.offload import solve_offload
from offchip.solving.training_step import simulate_framework_step

LAYOUT = {
    "devices": 2,
    "tp": 1,
    "pp": 2,
    "ulysses": 1,
    "cp": 1,
    "dp": 1,
    "recompute": "none",
    "micro_batch": 2,
}


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["simulate", "gpt2", "--hw", "a800-node", *words])


@pytest.mark.parametrize("framework", ["plain", "torchtitan", "megatron", "deepspeed", "hf-trainer"])
def test_it_is_the_step_that_solve_offload_runs_of_that_layout(framework: str) -> None:
    one = simulate_framework_step("gpt2", "a800-node", framework, prompt=256, batch=4, pp=2, microbatches=2)
    settings = {**LAYOUT, "framework": framework, "search": "estimated"}
    other = solve_offload("gpt2", "a800-node", seq=256, batch=4, settings=settings, simulate=True)
    assert one.as_json() == other.as_json()
    assert one.simulated is not None
    assert one.simulated["step_s"] > 0


def test_frameworks_differ_in_time_and_memory() -> None:
    found = [
        simulate_framework_step("gpt2", "a100-80gb", name, prompt=256, batch=4)
        for name in ("eager", "compile")
    ]
    times = [one.simulated["step_s"] for one in found if one.simulated is not None]
    held = [one.answer.report["memory"]["device_bytes"] for one in found]
    assert times[0] > times[1]
    assert held[0] > held[1]


def test_the_command_prints_json_and_takes_settings() -> None:
    found = run("--phase", "train", "--framework", "megatron", "--batch", "4", "--set", "dp=2", "--json")
    assert found.exit_code == 0
    report = json.loads(found.output)
    assert report["setup"]["data"] == 2
    assert report["setup"]["framework"] == "megatron"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--framework", "torchtitan"), "add --phase train"),
        (("--phase", "decode", "--framework", "torchtitan"), "add --phase train"),
        (("--phase", "train", "--framework", "torchtitn"), "did you mean 'torchtitan'"),
        (("--phase", "train", "--framework", "eager", "--unfused"), "--unfused"),
        (
            ("--phase", "train", "--framework", "eager", "--batch", "4", "--microbatches", "3"),
            "--microbatches",
        ),
        (("--phase", "train", "--framework", "eager", "--set", "tp=2"), "give tp as --tp"),
        (("--phase", "train", "--framework", "eager", "--set", "dp=two"), "--set dp"),
        (("--phase", "train", "--framework", "eager", "--set", "recompte=full"), "recompute"),
    ],
)
def test_bad_input_is_one_line(words: tuple[str, ...], line: str) -> None:
    found = run(*words)
    assert isinstance(found.exception, InputError)
    assert len(found.exception.problems) == 1
    assert line in str(found.exception)


def test_options_are_checked() -> None:
    with pytest.raises(InputError, match="expected 1 or more"):
        simulate_framework_step("gpt2", "a100-80gb", "eager", batch=0)
    with pytest.raises(InputError, match="did you mean 'prompt'"):
        simulate_framework_step("gpt2", "a100-80gb", "eager", promt=64)  # type: ignore[call-arg]


def test_a_step_that_does_not_fit_says_by_how_much() -> None:
    with pytest.raises(InfeasibleError, match="device memory is short by"):
        simulate_framework_step("llama-3-8b", "t4", "torchtitan", prompt=256)
