"""``offchip simulate`` as a user calls it: what it prints, what it writes, how it fails."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

LLAMA = ("simulate", "llama-3-8b", "--hw", "a100-80gb", "--batch", 8, "--prompt", 512)
CONFIG = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 128256, "hidden_act": "silu",
    "max_position_embeddings": 8192, "architectures": ["LlamaForCausalLM"], "attention_bias": False,
}  # fmt: skip


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG, indent=2))
    return path


def test_a_generation_prints_what_a_person_asks_first(cli):
    outcome = cli(*LLAMA, "--generate", 16)
    assert outcome.code == 0
    assert outcome.err == ""
    for words in ("time to first token", "time per token", "bottleneck", "Top operators", "Memory", "Energy"):
        assert words in outcome.out


def test_json_is_one_object_and_the_same_bytes_twice(cli):
    first, second = cli(*LLAMA, "--generate", 4, "--json"), cli(*LLAMA, "--generate", 4, "--json")
    assert first.out == second.out
    result = json.loads(first.out)
    assert result["summary"]["decode_steps"] == 4
    assert result["timeline"]["events"] == len(result["timeline"]["rows"])
    assert set(result["memories"]) == {"a100-80gb"}
    assert result["provenance"]["system_digest"]


def test_a_config_on_disk_is_the_built_in_model(cli, config):
    from_name = json.loads(cli(*LLAMA, "--json").out)
    from_file = json.loads(cli("simulate", config, *LLAMA[2:], "--json").out)
    assert from_file["summary"] == from_name["summary"]


def test_the_python_interface_gives_the_same_result(cli):
    import offchip

    result = offchip.simulate("llama-3-8b", "a100-80gb", batch=8, prompt=512)
    assert json.loads(json.dumps(result.to_json())) == json.loads(cli(*LLAMA, "--json").out)
    frame = result.to_pandas()
    assert len(frame) == len(result.timeline)
    assert frame["end"].max() == pytest.approx(result.makespan_s)


def test_tensor_parallel_runs_on_four_of_eight_gpus(cli):
    arguments = ("simulate", "llama-3-8b", "--hw", "dgx-a100", "--batch", 8, "--prompt", 512, "--tp", 4)
    result = json.loads(cli(*arguments, "--json").out)
    assert set(result["devices"]) == {"gpu0", "gpu1", "gpu2", "gpu3"}
    single = json.loads(cli(*LLAMA, "--json").out)
    speedup = single["summary"]["makespan_s"] / result["summary"]["makespan_s"]
    assert 1.5 < speedup < 4


def test_out_writes_json_tables_and_a_trace(cli, tmp_path):
    import pyarrow.parquet

    outcome = cli(*LLAMA, "--generate", 2, "--out", tmp_path / "run")
    assert outcome.code == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    events = json.loads(gzip.decompress((tmp_path / "run" / "trace.json.gz").read_bytes()))["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert len(spans) == result["timeline"]["events"]
    table = pyarrow.parquet.read_table(tmp_path / "run" / "timeline.parquet")
    assert table.num_rows == len(spans)
    assert not list((tmp_path / "run").glob("*.part"))


def test_a_saved_plan_runs_and_gives_the_same_time(cli, tmp_path):
    plan = tmp_path / "plan.json"
    first = cli(*LLAMA, "--json", "--save-plan", plan)
    second = cli(*LLAMA, "--json", "--plan", plan)
    assert json.loads(first.out)["summary"] == json.loads(second.out)["summary"]


@pytest.mark.parametrize("option", [("--unfused",), ("--dtype", "int8"), ("--prompt", 64)])
def test_a_saved_plan_is_that_of_the_run(cli, tmp_path, option):
    plan = tmp_path / "plan.json"
    call = ("simulate", "llama-3-8b", "--hw", "a100-80gb", "--phase", "prefill", *option, "--json")
    first = cli(*call, "--save-plan", plan)
    assert first.code == 0
    assert json.loads(cli(*call, "--plan", plan).out)["summary"] == json.loads(first.out)["summary"]


# ``--out`` makes a folder that is missing and takes one that is there, so only a file in its way stops it.
UNWRITABLE = [
    *(
        (option, place)
        for option in ("--save-plan", "--figure")
        for place in ("missing/{}", "file/{}", "folder.svg")
    ),
    ("--out", "file/{}"),
]


@pytest.mark.parametrize(("option", "place"), UNWRITABLE)
def test_a_place_that_cannot_be_written_is_one_line(cli, tmp_path, option, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.svg").mkdir()
    path = tmp_path / place.format("x.svg")
    outcome = cli("simulate", "gpt2", "--hw", "a100-80gb", "--json", option, path)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.count("\n") == 1
    assert "cannot be written" in outcome.err
    assert not list(tmp_path.rglob("*.part"))


def test_a_name_that_no_file_system_takes_is_one_line(cli):
    outcome = cli("simulate", "x" * 5000, "--hw", "a100-80gb")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--dim", "batch=4"), "--dim: a language model has no named dimensions"),
        (("--phase", "train", "--generate", 4), "--generate: found 4; a training step generates nothing"),
    ],
)
def test_an_option_that_changes_nothing_is_refused(cli, options, words):
    outcome = cli("simulate", "gpt2", "--hw", "a100-80gb", *options)
    assert outcome.code == 2
    assert words in outcome.err


def test_the_record_of_a_run_in_microbatches_names_the_whole_batch(cli):
    outcome = cli("simulate", "gpt2", "--hw", "a100-80gb", "--batch", 4, "--microbatches", 2, "--json")
    workload = json.loads(outcome.out)["provenance"]["workload"]
    assert (workload["batch"], workload["microbatches"]) == (4, 2)


def test_a_model_too_large_says_by_how_much_and_what_could_help(cli):
    outcome = cli("simulate", "llama-3-70b", "--hw", "a100-80gb")
    assert outcome.code == 3
    assert outcome.out == ""
    for words in ("short by", "weight", "--tp", "stream-weights", "layers."):
        assert words in outcome.err


def test_a_figure_is_drawn(cli, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "overview.svg"
    assert cli(*LLAMA, "--generate", 2, "--figure", path).code == 0
    first = path.read_bytes()
    cli(*LLAMA, "--generate", 2, "--figure", path)
    assert path.read_bytes() == first
    assert b"</svg>" in first


BAD_CALLS = [
    (("--batch", 0), "--batch: found 0; expected 1 or more"),
    (("--prompt", -1), "--prompt: found -1; expected 1 or more"),
    (("--phase", "decoding"), "--phase: found 'decoding'; expected prefill, decode or train"),
    (("--fidelity", "evnt"), "--fidelity: found 'evnt'; expected one of analytic, event, cycle"),
    (("--mapper", "single-devise"), "(did you mean 'single-device'?)"),
    (("--cost-model", "rooflin"), "(did you mean 'roofline'?)"),
    (("--collective", "star"), "--collective: found 'star'; expected one of auto, wires, ring, tree"),
    (("--tp", 0), "--tp: found 0; expected 1 or more"),
    (("--set", "a=b"), "--set: mapper 'single-device' has no setting 'a'; known: device"),
    (("--tp", 3), "--tp, --pp: tp 3 x pp 1 needs 3 devices; system 'a100-80gb' has 1"),
    (("--microbatches", 3), "--microbatches: batch 8 cannot be divided into 3 micro-batches"),
    (("--microbatches", 0), "--microbatches: found 0; expected 1 or more"),
    (("--dim", "batch"), "--dim: found 'batch'; expected NAME=VALUE"),
    (("--dim", "batch=x"), "--dim batch: found 'x'; expected a whole number of 1 or more"),
    (("--dim", "batch=²"), "--dim batch: found '²'; expected a whole number of 1 or more"),
    (("--dim", "batch=1", "--dim", "batch=2"), "--dim: 'batch' is given twice"),
    (("--set", "device=a", "--set", "device=b"), "--set: 'device' is given twice"),
    (("--plan", "nowhere.json"), "nowhere.json: no such file"),
    (("--plan", "/"), "/: not a file"),
    (("--figure", "x.gif"), "x.gif: found '.gif'; expected a name that ends in .svg or .png"),
    (("--batch", "many"), "Invalid value for '--batch'"),
    (("--hww", "x"), "No such option: --hww"),
    (("--dtype", "fp17"), "fp17"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), BAD_CALLS, ids=[" ".join(map(str, a)) for a, _ in BAD_CALLS]
)
def test_a_bad_call_is_one_line_and_exit_2(cli, arguments, message):
    outcome = cli(*LLAMA, *arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("model", "hw", "message"),
    [
        ("llama-3-8c", "a100-80gb", "unknown model 'llama-3-8c'"),
        ("llama-3-8b", "a100-80g", "(did you mean 'a100-80gb'?)"),
        ("no/such/config.json", "a100-80gb", "no/such/config.json: no such file"),
        ("llama-3-8b", "no/such/machine.yaml", "no/such/machine.yaml: no such file"),
        ("llama-3-8b", "nvlink3-x12", "found a link; expected a system or a device"),
    ],
)
def test_a_bad_name_is_one_line_and_exit_2(cli, model, hw, message):
    outcome = cli("simulate", model, "--hw", hw)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


BAD_FILES = {
    "empty.json": ("", "the file is empty"),
    "cut.json": ('{"model_type": "llama", "hidden_size": 40', "cut.json:1"),
    "list.json": ("[1, 2]", "list.json"),
    "text.txt": ("hello", "not a format that Offchip reads"),
    "unknown.json": ('{"model_type": "lama"}', "(did you mean 'llama'?)"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_model_file_is_named_and_exit_2(cli, tmp_path, name):
    text, message = BAD_FILES[name]
    (tmp_path / name).write_text(text)
    outcome = cli("simulate", tmp_path / name, "--hw", "a100-80gb")
    assert outcome.code == 2
    assert message in outcome.err
    assert name in outcome.err
    assert "Traceback" not in outcome.err


def test_a_config_with_a_field_missing_names_it(cli, config):
    broken = {key: value for key, value in CONFIG.items() if key != "hidden_size"}
    config.write_text(json.dumps(broken))
    outcome = cli("simulate", config, "--hw", "a100-80gb")
    assert outcome.code == 2
    assert "hidden_size" in outcome.err
    assert str(config) in outcome.err


def test_help_starts_without_heavy_imports():
    code = (
        "import sys; sys.argv = ['offchip', '--help']\n"
        "from offchip.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numba', 'scipy', 'pandas', 'networkx', 'simpy', 'pulp', 'onnx', 'matplotlib', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert re.search(r"\bsimulate\b", done.stdout)


def test_the_module_runs_from_any_folder(tmp_path):
    command = [sys.executable, "-m", "offchip.cli.main", "mappers", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "single-device" in json.loads(done.stdout)["mappers"]
    assert not list(Path(tmp_path).iterdir())
