"""``offchip validate gpu`` and ``offchip predict`` on the shipped rows."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hw_configs.problems import InputError
from offchip.validation.gpu import run
from offchip.validation.reference_gpu import ReferenceGpus
from offchip.validation.registry import Options, RowResult
from offchip.validation.summary import summarise

REFERENCE = Path(__file__).parent.parent / "reference" / "gpu"

# Mean absolute percentage errors that a roofline with three tuned constants per class has on these rows.
TUNED_ROOFLINE = {
    "gemm16": 13.7, "gemm8": 25.3, "gemm32": 20.3, "bmm": 21.9, "attention_prefill": 23.3,
    "attention_decode": 27.2, "norm": 26.7, "elementwise": 22.8, "softmax": 29.9, "all_reduce": 33.2,
    "other_collective": 22.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def results() -> list[RowResult]:
    return list(run(REFERENCE, "*", Options()))


def test_every_row_is_there_and_runs(results: list[RowResult]) -> None:
    assert len(results) == 4294
    assert {result.verdict for result in results} <= {"ok", "off"}
    assert all(result.ours["median_us"] > 0 for result in results)


def test_errors_are_below_a_tuned_roofline(results: list[RowResult]) -> None:
    by_class = summarise(results)["by"]["class"]
    for name, error in TUNED_ROOFLINE.items():
        assert by_class[name]["error_pct"]["mean"] < error, name


def test_verdicts_follow_the_errors(results: list[RowResult]) -> None:
    for result in results:
        assert result.error is not None
        wide = result.groups["class"].startswith(("attention", "all_reduce", "send", "other", "between"))
        assert (result.verdict == "ok") == (abs(result.error) <= (0.25 if wide else 0.20))
        assert result.error == pytest.approx(result.ours["median_us"] / result.expected["median_us"] - 1)


def test_rows_by_glob() -> None:
    assert [result.id for result in run(REFERENCE, "10?", Options())] == [str(i) for i in range(100, 110)]


def test_unknown_gpu_and_operator_are_unsupported(tmp_path: Path) -> None:
    nested = tmp_path / "some" / "where"
    nested.mkdir(parents=True)
    (nested / "operators.csv").write_text(
        "id,gpu,op,m,n,k,median_us\na,Z9000,gemm,8,8,8,5\nb,T4,frob,8,8,8,5\nc,T4,gemm,8,8,8,\nd,T4,gemm,8,8,8,9\n"
    )
    found = {result.id: result for result in run(tmp_path, "*", Options())}
    assert [result.verdict for result in found.values()][:3] == ["unsupported"] * 3
    assert "unknown GPU 'Z9000'" in found["a"].note
    assert "no rule for operator 'frob'" in found["b"].note
    assert "no measured time" in found["c"].note
    assert found["d"].verdict in ("ok", "off")


def test_a_gpu_that_only_the_folder_knows(tmp_path: Path) -> None:
    header, first = (REFERENCE / "hardware.csv").read_text().splitlines()[:2]
    (tmp_path / "hardware.csv").write_text(f"{header}\n{first.replace('A100-80GB', 'Prototype-1')}\n")
    gpu = ReferenceGpus(tmp_path / "hardware.csv").find("prototype-1")
    assert gpu is not None
    assert gpu.memory.read_bandwidth == 2039e9
    (tmp_path / "hardware.csv").write_text(f"{header}\nProto,Ampere,,1410\n")
    with pytest.raises(InputError, match=r"hardware.csv:2: sms: no figure"):
        ReferenceGpus(tmp_path / "hardware.csv").find("proto")


def offchip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "offchip.cli.main", *arguments], capture_output=True, text=True, check=False
    )


def test_validate_prints_one_json_object_of_the_promised_form() -> None:
    done = offchip("validate", "gpu", str(REFERENCE), "--rows", "10?", "--json")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert set(answer) == {"rows", "summary"}
    assert len(answer["rows"]) == 10
    assert set(answer["rows"][0]) == {"id", "expected", "ours", "seconds", "verdict"}
    assert set(answer["rows"][0]["ours"]) == {"median_us"}
    assert answer["summary"]["rows"] == 10


def test_validate_refuses_what_it_cannot_read() -> None:
    assert offchip("validate", "gpuu", str(REFERENCE)).returncode == 2
    assert offchip("validate", "gpu", "/nowhere").returncode == 2
    done = offchip("validate", "gpu", str(REFERENCE), "--rows", "nothing")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_predict_writes_the_table_with_new_columns(tmp_path: Path) -> None:
    lines = (REFERENCE / "operators.csv").read_text().splitlines()
    chosen = [lines[0], *(line for line in lines if ",A100-SXM4-80GB," in line)][:400]
    (tmp_path / "ops.csv").write_text(
        "\n".join([*chosen, "zz,T4,,frob" + "," * (lines[0].count(",") - 3)]) + "\n"
    )
    out = tmp_path / "out.csv"
    done = offchip("predict", str(tmp_path / "ops.csv"), "--hw", "a100-80gb", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["not_predicted"] == ["zz"]
    assert answer["errors"]["all"]["rows"] == len(chosen) - 1
    with out.open(newline="") as stream:
        written = list(csv.DictReader(stream))
    assert [row["id"] for row in written] == [line.partition(",")[0] for line in chosen[1:]] + ["zz"]
    for row in written[:-1]:
        assert float(row["predicted_us"]) > 0
        assert float(row["energy_j"]) > 0
        assert row["bound_by"]
    assert written[-1]["note"].startswith("no rule for operator")
    assert list(tmp_path.iterdir()) == [tmp_path / "ops.csv", out] or len(list(tmp_path.iterdir())) == 2


def test_predict_needs_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "ops.csv").write_text("op,m,n,k\ngemm,8,8,8\n")
    assert offchip("predict", str(tmp_path / "ops.csv"), "--hw", "a100-80gbb").returncode == 2
    assert offchip("predict", str(tmp_path / "none.csv"), "--hw", "a100-80gb").returncode == 2
