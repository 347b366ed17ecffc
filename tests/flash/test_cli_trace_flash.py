"""``offchip trace flash`` from the outside: what it prints, and one clear line for every mistake."""

import json

import pytest
from typer.testing import CliRunner

from hw_configs.problems import OffchipError
from offchip.cli.main import app

CLI = CliRunner()
HW = ["--hw", "nvme-pcie4-tlc", "--capacity", "20 GB"]


def run(*arguments):
    result = CLI.invoke(app, ["trace", "flash", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_json_is_one_object_and_repeats():
    one = run("randread:2000", *HW, "--json").stdout
    found = json.loads(one)
    assert found["requests"] == 2000
    assert found["latency_ns"]["read"]["p50"] > 40_000
    assert len(found["utilisation"]["channels"]) == 8
    assert run("randread:2000", *HW, "--json").stdout == one


def test_the_table_says_what_matters():
    text = run("randwrite:3000", *HW, "--block-size", "16 KiB", "--precondition", "fill").stdout
    for word in ("IOPS", "write amplification", "erases of a block", "p99", "written until worn out"):
        assert word in text


def test_a_queue_depth_of_one_takes_what_the_data_sheet_says():
    found = json.loads(run("randread:500", *HW, "--outstanding", "1", "--json").stdout)
    assert found["latency_ns"]["read"]["mean"] == pytest.approx(45_000, rel=0.05)


def test_a_description_and_a_trace(tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text("name: mixed\nrw: randrw\nbs: 16 KiB\nnumber_ios: 1000\nrate_iops: 20000\n")
    found = json.loads(run(str(job), *HW, "--json").stdout)
    assert found["trace"] == "mixed"
    assert found["time_s"] == pytest.approx(0.05, rel=0.1)
    trace = tmp_path / "t.csv"
    trace.write_text(
        "op,offset,size,time_s\n" + "".join(f"read,{i * 4096},4096,{i / 1000}\n" for i in range(50))
    )
    timed = json.loads(run(str(trace), *HW, "--json").stdout)
    loop = json.loads(run(str(trace), *HW, "--json", "--ignore-times").stdout)
    assert timed["time_s"] > 0.049 > loop["time_s"]
    fast = json.loads(run(str(trace), *HW, "--json", "--mode", "fast").stdout)
    assert fast["time_s"] == pytest.approx(timed["time_s"], rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["randred:10", *HW], "did you mean 'randread'"),
        (["randread:x", *HW], "expected PATTERN:REQUESTS"),
        (["randread:0", *HW], "expected 1 to 10^12 requests"),
        (["nowhere/trace.txt", *HW], "no such file"),
        (["randread:10", *HW, "--block-size", "10 GiB"], "--block-size: found '10 GiB'"),
        (["randread:10", "--hw", "a100-80gb"], "expected 'flash' or 'csd'"),
        (["randread:10", "--hw", "nvme-cloud-1500gb"], "states no geometry"),
        (["randread:10", *HW, "--placement", "CWDD"], "each of C, W, D and P once"),
        (["randread:10", *HW, "--gc-policy", "gredy"], "--gc-policy"),
        (["randread:10", *HW, "--suspend", "yes"], "--suspend"),
        (["randread:10", *HW, "--mode", "quick"], "known: event, fast"),
        (["randread:10", *HW, "--outstanding", "100000"], "outstanding"),
        (["randread:10", *HW, "--outstanding", "-1"], "outstanding"),
        (["randread:10", *HW, "--outstanding", "0"], "names no times"),
        (["randread:10", *HW, "--block-size", "4"], "--block-size"),
        (["randread:10", *HW, "--read-percent", "140"], "--read-percent"),
        (["randread:10", *HW, "--precondition", "old"], "known: none, fill, age"),
        (["randread:10", *HW, "--overwrites", "-1", "--precondition", "age"], "overwrites"),
        (["randread:10", "--hw", "nvme-pcie4-tlc", "--capacity", "9 TB"], "no more than the device holds"),
        (["randread:10", "--hw", "nvme-pcie4-tlc", "--capacity", "lots"], "--capacity"),
    ],
)
def test_a_mistake_is_one_clear_line(arguments, words):
    with pytest.raises(OffchipError) as error:
        run(*arguments)
    assert error.value.exit_code == 2
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1
