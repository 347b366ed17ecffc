"""Folders that a run and a sweep wrote, made once for all tests of the reports."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from offchip import api
from offchip.export import write_result
from offchip.report.record import Record

# The random plans of the system simulator's tests serve here too.
sys.path.append(str(Path(__file__).parents[1] / "system"))

SPACE = """
name: gpu-choice
model: llama-3-8b
hw: a100-80gb
options: {phase: decode}
vary:
  batch: [1, 4, 16, 64, 256]
  prompt: [512, 8192, 32768]
  hw: [a100-80gb, h100-sxm, v100-32gb]
objectives:
  time_per_token_s: minimise
  energy_per_token_j: minimise
"""


def write_run(folder: Path, model: str, system: str, **options: object) -> Path:
    record = Record(api.load_system(system))
    result = api.simulate(model, system, watch=record.watch, **options)  # type: ignore[arg-type]
    write_result(result, folder, record)
    return folder


@pytest.fixture(scope="session")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generation of 90 tokens: more than 26,000 tasks on one device."""
    return write_run(tmp_path_factory.mktemp("long"), "llama-3-8b", "a100-80gb", prompt=512, generate=90)


@pytest.fixture(scope="session")
def parallel_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four devices with collectives, two phases."""
    return write_run(tmp_path_factory.mktemp("tp"), "llama-3-8b", "dgx-a100", prompt=256, generate=1, tp=4)


@pytest.fixture(scope="session")
def streamed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights streamed from the host: compute and transfers overlap."""
    return write_run(
        tmp_path_factory.mktemp("st"),
        "llama-3-70b",
        "dgx-a100",
        prompt=128,
        generate=1,
        mapper="stream-weights",
    )


@pytest.fixture(scope="session")
def sweep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 points, some of which do not fit."""
    from offchip.sweep.run import run_sweep, serial
    from offchip.sweep.space_file import load_space

    folder = tmp_path_factory.mktemp("sweep")
    (folder / "space.yaml").write_text(SPACE)
    space = load_space(folder / "space.yaml")
    run_sweep(space, folder, lambda cache: serial(space, cache))
    return folder
