"""Whole models through the simulator: what is judged, what is not, and that nothing is dropped."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from hw_configs.problems import InputError
from offchip.validation.end_to_end import ENGINES, MODELS, run_end_to_end
from offchip.validation.gpu import run
from offchip.validation.reference_gpu import machine_of
from offchip.validation.registry import Options
from workloads import models

REFERENCE = Path(__file__).parent.parent / "reference" / "gpu"
HEADER = (
    "source,kind,model,hardware,n_devices,framework,batch,input_tokens,output_tokens,prefill_ms,"
    "decode_ms_per_token,e2e_ms,power_frac_tdp_avg,power_frac_tdp_peak,throughput_tok_s\n"
)
# Two measured runs of LLM-Inference-Bench (argonne-lcf/LLM-Inference-Bench, BSD-3-Clause), and three kinds of
# row that have no scenario.
ROWS = (
    "bench,inference,meta-llama/Llama-2-7b-hf,Nvidia A100 GPU,1,TRT-LLM,1,128,128.0,,,1515.2,,,168.96\n"
    "bench,inference,meta-llama/Llama-2-7b-hf,Nvidia A100 GPU,1,TRT-LLM,16,128,128.0,,,1808.1,,,2265.4\n"
    "bench,inference,nobody/Heard-of-it,Nvidia A100 GPU,1,vLLM,1,128,128.0,,,1,,,1\n"
    "neusight,training step,gpt2_large,Tesla_T4,1,PyTorch,4,1024,,,,452.3,,,\n"
    "x,inference,llama2-70b,Abacus,1,vLLM,1,128,1,,,5,,,\n"
)


def write(folder: Path, rows: str) -> Path:
    (folder / "end_to_end.csv").write_text(HEADER + rows, encoding="utf-8")
    return folder


def test_measured_runs_and_rows_without_a_scenario(tmp_path: Path) -> None:
    results = list(run(write(tmp_path, ROWS), "*", Options(end_to_end=True)))
    assert [result.id for result in results] == ["2", "3", "4", "5", "6"]
    assert [result.verdict for result in results[2:]] == ["unsupported"] * 3
    for result in results[:2]:
        assert set(result.ours) == {"e2e_ms", "throughput_tok_s"}
        assert result.error is not None
        # Whole-model rows are never fitted; a model of the right mechanism is within a third of them.
        assert abs(result.error) < 1 / 3
    one, sixteen = (result.ours for result in results[:2])
    assert sixteen["throughput_tok_s"] > 10 * one["throughput_tok_s"]


def test_only_rows_of_the_glob_run(tmp_path: Path) -> None:
    assert [r.id for r in run(write(tmp_path, ROWS), "4", Options(end_to_end=True))] == ["4"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("x,inference,llama2-70b,a100-80gb,two,v,1,128,1,,,5,,,\n", None),
        ("x,inference,llama2-70b,a100-80gb,2,v,1,128,1,,,abc,,,\n", "end_to_end.csv:2: e2e_ms: found 'abc'"),
    ],
)
def test_cells_that_are_no_numbers(tmp_path: Path, rows: str, message: str | None) -> None:
    folder = write(tmp_path, rows)
    if message is None:
        (result,) = run(folder, "*", Options(end_to_end=True))
        assert "n_devices: found 'two'" in result.note
        return
    with pytest.raises(InputError) as caught:
        list(run(folder, "*", Options(end_to_end=True)))
    assert message in str(caught.value)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "end_to_end.csv").write_text("kind,model\n")
    with pytest.raises(InputError, match="hardware: missing column"):
        list(run(tmp_path, "*", Options(end_to_end=True)))


def test_names_lead_to_what_is_shipped() -> None:
    names = {
        row["hardware"]
        for row in csv.DictReader((REFERENCE / "end_to_end.csv").open())
        if row["kind"] == "inference"
    }
    assert all(machine_of(name) for name in names)
    assert set(MODELS.values()) <= set(models.names())


def test_an_engines_host_time_grows_with_layers_and_sequences(tmp_path: Path) -> None:
    row = "bench,inference,meta-llama/Llama-2-7b-hf,Nvidia A100 GPU,1,{},{},128,128.0,,,1,,,1\n"
    cases = [("vLLM", 1), ("none", 1), ("vLLM", 16), ("none", 16)]
    rows = "".join(row.format(*case) for case in cases)
    steps = [r.ours["e2e_ms"] / 128 for r in run(write(tmp_path, rows), "*", Options(end_to_end=True))]
    own = ENGINES["vllm"].host_ms
    assert steps[0] - steps[1] == pytest.approx(own * (32 + 1), rel=0.01)
    assert steps[2] - steps[3] == pytest.approx(own * (32 + 16), rel=0.01)


def test_eager_passes_and_steps_of_boards_with_their_data_sheets() -> None:
    path = REFERENCE / "end_to_end.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    boards = ("Tesla_V100-PCIE-32GB", "Tesla_T4", "NVIDIA_A100-PCIE-40GB")
    errors: dict[str, list[float]] = {}
    for number, line in enumerate(lines, start=1):
        if line.startswith("neusight") and any(board in line for board in boards):
            (row,) = run_end_to_end(path, str(number), Options())
            if row.verdict == "unsupported":
                assert row.note
                continue
            errors.setdefault(row.groups["hardware"], []).append(abs(row.error or 0.0))
    assert {board: len(found) for board, found in errors.items()} == dict(
        zip(boards, (10, 5, 8), strict=True)
    )
    assert all(sum(found) / len(found) < 0.15 for found in errors.values())
