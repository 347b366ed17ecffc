"""The command: what it prints and writes, what Python says of the same, and one line for everything that is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import offchip
from hw_configs.problems import InfeasibleError, InputError
from offchip.serving.build import deploy
from offchip.serving.layouts import best_layout, layouts_of
from offchip.serving.options import ServeChoices, ServeOptions
from offchip.serving.serve import find_serving_rate, source_of
from simulator.serving.settings import ENGINES
from workloads.requests import make_requests
from workloads.requests.description import draw_requests, read_description
from workloads.requests.one_adapter import read_one_adapter
from workloads.requests.sources import RequestSource

SPEC = """requests: 40
prompt: {kind: uniform, low: 50, high: 600}
output: {kind: uniform, low: 5, high: 30}
arrivals: {kind: poisson, rate: 20 /s}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


def described(text: str = SPEC) -> RequestSource:
    of = read_description("spec.yaml", text)
    return RequestSource(draw_requests(of), of)


def test_python_and_command_say_the_same_and_a_seed_gives_the_same_bytes(
    cli: Callable[..., Any], spec: Path
) -> None:
    command = (
        "serve",
        "llama-3-8b",
        "--hw",
        "h100-sxm",
        "--requests",
        spec,
        "--slo",
        "ttft=1s",
        "--seed",
        5,
        "--json",
    )
    first, second = cli(*command), cli(*command)
    assert first.code == 0, first.err
    assert first.out == second.out
    result = offchip.serve("llama-3-8b", "h100-sxm", spec, slo="ttft=1s", seed=5)
    assert json.loads(first.out) == json.loads(json.dumps(result.as_json()))
    assert json.loads(first.out)["counts"]["finished"] == 40
    assert json.loads(cli(*command[:-2], 6, "--json").out) != json.loads(first.out)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_answers_every_request_once(engine: str) -> None:
    source = described()
    result = offchip.serve("llama-3-8b", "h100-sxm", source.requests, engine=engine)
    assert np.array_equal(result.record.requests.tokens, source.requests.output_tokens)
    assert result.record.steps.free_blocks[-1] <= result.facts.workers[0].blocks
    assert result.record.steps.delivered.sum() == source.requests.output_tokens.sum()


def test_several_workers_failures_and_apart(cli: Callable[..., Any], spec: Path) -> None:
    base = ("serve", "llama-3-8b", "--hw", "dgx-h100", "--requests", spec, "--json")
    two = json.loads(cli(*base, "--replicas", 2, "--routing", "least-loaded", "--fail", "0@300ms:1s").out)
    assert two["counts"]["finished"] == 40
    assert two["counts"]["retries"] > 0
    apart = json.loads(cli(*base, "--prefill-workers", 1, "--decode-workers", 2).out)
    assert apart["counts"]["transfers"] == 40
    assert [worker["role"] for worker in apart["workers"]] == ["prefill", "decode", "decode"]


def test_more_replicas_than_gpus_stand_on_further_machines() -> None:
    result = offchip.serve("llama-3-8b", "h100-sxm", described().requests, replicas=3)
    assert "3 GPUs stand on 3 machines like this one" in str(result)
    assert result.cost["dollars"] == pytest.approx(
        3 * result.facts.workers[0].price_per_s * result.duration_s
    )


def test_files_and_page(cli: Callable[..., Any], spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = cli("serve", "llama-3-8b", "--hw", "h100-sxm", "--requests", spec, "--out", out)
    assert outcome.code == 0, outcome.err
    assert "answered" in outcome.out
    assert {"result.json", "trace.json", "report.html"} <= {path.name for path in out.iterdir()}
    assert cli("report", out, "--out", tmp_path / "again.html").code == 0
    assert (tmp_path / "again.html").read_bytes() == (out / "report.html").read_bytes()


def test_describe_names_a_source_for_every_setting(cli: Callable[..., Any]) -> None:
    outcome = cli(
        "serve", "llama-3-8b", "--hw", "h100-sxm", "--describe", "--set", "max_num_seqs=64", "--json"
    )
    told = json.loads(outcome.out)
    assert all(entry["source"] for entry in told["settings"].values())
    assert told["settings"]["max_num_seqs"] == {"value": "64", "source": "given"}
    assert told["settings"]["max_model_len"]["value"] == "8192"
    assert told["memory"]
    assert told["price"]


def test_a_trace_is_served_and_its_note_is_told(cli: Callable[..., Any], tmp_path: Path) -> None:
    trace = tmp_path / "azure.csv"
    lines = [f"2023-11-16 18:15:{46 + k}.68,{100 + k},{10 + k}" for k in range(5)]
    trace.write_text(
        "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines, "2023-11-16 18:15:59.0,3,0"]) + "\n"
    )
    outcome = cli("serve", "llama-3-8b", "--hw", "h100-sxm", "--requests", trace)
    assert "5 of 5 requests" in outcome.out
    assert "azure.csv: left out 1" in outcome.out


WRONG: list[tuple[tuple[object, ...], int, str]] = [
    (("--slo", "ttft=200"), 2, "a number without a unit"),
    (("--set", "max_num_seq=4"), 2, "did you mean 'max_num_seqs'"),
    (("--set", "max_model_len=9000"), 2, "llama-3-8b has 8192 positions"),
    (("--set", "scheduler=vlm"), 2, "vlm"),
    (("--routing", "round"), 2, "round-robin"),
    (("--ep", 2, "--tp", 2), 2, "llama-3-8b has no experts"),
    (("--ep", 2, "--tp", 4), 2, "vllm knows expert parallelism"),
    (("--prefill-workers", 8, "--decode-workers", 8), 2, "found 16 workers of 1 GPUs; the machine has 8"),
    (("--set", "max_model_len=300", "--strict"), 2, "expected at most 300, the model's length"),
    (("--set", "max_model_len=30"), 2, "(40 requests can never be answered)"),
    (("--find-rate",), 2, "a search needs limits"),
    (("--best-layout",), 2, "go together"),
    (("--fail", "0@3"), 2, "without a unit"),
    (("--tp", 0), 2, "--tp: found 0"),
]


@pytest.mark.parametrize(("more", "code", "told"), WRONG)
def test_what_is_wrong_is_one_line(
    cli: Callable[..., Any], spec: Path, more: tuple[object, ...], code: int, told: str
) -> None:
    outcome = cli("serve", "llama-3-8b", "--hw", "dgx-h100", "--requests", spec, *more)
    assert outcome.code == code
    assert told in outcome.err
    assert "Traceback" not in outcome.err
    assert not outcome.out


def test_requests_longer_than_the_cache_are_named_and_weights_without_room_say_the_bytes(
    cli: Callable[..., Any], tmp_path: Path
) -> None:
    long = tmp_path / "long.yaml"
    long.write_text("requests: 3\nprompt: {kind: choice, tokens: [100, 120000]}\noutput: 10\nseed: 4\n")
    command = ("serve", "llama-3.1-8b", "--requests", long, "--hw")
    tight = (*command, "h100-sxm", "--set", "gpu_memory_utilization=0.25")
    outcome = cli(*tight, "--strict")
    assert outcome.code == 2
    assert "tokens of prompt and 10 of answer; expected at most" in outcome.err
    assert "blocks of the KV cache hold" in outcome.err
    assert "request " in outcome.err
    served = cli(*tight)
    assert served.code == 0
    assert "2 of 3 requests can never be answered" in served.out
    assert "blocks of the KV cache hold" in served.out
    outcome = cli("serve", "llama-3-70b", "--requests", long, "--hw", "h100-sxm")
    assert outcome.code == 3
    assert "GiB" in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("model", ["resnet-18", "nothing", "bert-base"])
def test_what_writes_no_tokens_cannot_be_served(cli: Callable[..., Any], spec: Path, model: str) -> None:
    outcome = cli("serve", model, "--hw", "h100-sxm", "--requests", spec)
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1


def test_a_machine_without_room_and_wrong_keywords_are_refused() -> None:
    with pytest.raises(InfeasibleError, match="128 MiB usable"):
        offchip.serve("llama-3-8b", "tpu-v4i-card", described().requests)
    with pytest.raises(InputError, match="did you mean 'replicas'"):
        offchip.serve("llama-3-8b", "h100-sxm", described().requests, replica=2)  # type: ignore[call-arg]
    with pytest.raises(InputError, match="found no request"):
        offchip.serve("llama-3-8b", "h100-sxm", make_requests([], []))


def test_keywords_are_the_options() -> None:
    assert set(ServeChoices.__annotations__) == set(ServeOptions.__dataclass_fields__)


def test_adapters_and_speculation_cost_what_they_cost() -> None:
    plain = offchip.serve("llama-3-8b", "h100-sxm", described().requests)
    adapted = offchip.serve("llama-3-8b", "h100-sxm", described(SPEC + "adapters: {count: 4}\n").requests)
    assert adapted.latency["tpot"].mean > plain.latency["tpot"].mean
    guessed = {"speculation.method": "ngram", "speculation.tokens": 3, "speculation.acceptance": 1.0}
    quick = offchip.serve("llama-3-8b", "h100-sxm", described().requests, settings=guessed)
    assert quick.counts["steps"] < plain.counts["steps"]
    assert np.array_equal(quick.record.requests.tokens, plain.record.requests.tokens)


def test_best_layout_tries_every_division_and_ranks_by_goodput() -> None:
    source = described()
    tried = best_layout("llama-3-8b", "dgx-h100", source, ServeOptions(slo="ttft=1s"), 4)
    found = {(t.asked.tp, t.asked.pp, t.asked.replicas) for t in tried.tried}
    assert found == {(1, 1, 4), (2, 1, 2), (1, 2, 2), (4, 1, 1), (2, 2, 1), (1, 4, 1)}
    goodputs = [t.result.throughput["goodput_requests_per_s"] for t in tried.tried if t.result is not None]
    assert goodputs == sorted(goodputs, reverse=True)
    assert json.dumps(tried.as_json())
    assert "best layout" in str(tried)
    with pytest.raises(InfeasibleError, match="no layout of 1 GPUs"):
        best_layout("llama-3-70b", "dgx-h100", source, ServeOptions(), 1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gpus", [1, 4, 6])
def test_layouts_use_all_gpus_and_only_what_the_engine_knows(engine: str, gpus: int) -> None:
    made = list(layouts_of(ServeOptions(engine=engine), gpus, experts=True))
    assert len(set(map(repr, made))) == len(made)
    assert all(o.tp * o.pp * o.dp * o.replicas == gpus for o in made)
    if engine == "vllm":
        assert all(o.ep in (1, o.tp * o.dp) for o in made)


def test_the_largest_rate_of_a_service() -> None:
    text = SPEC.replace("requests: 40", "requests: 150").replace("low: 5, high: 30", "low: 20, high: 40")
    source = described(text)
    deployment = deploy("llama-3-8b", "h100-sxm", ServeOptions(slo="tpot=12ms"), source.requests)
    found, result = find_serving_rate(deployment, source, 0.1)
    assert result.attainment >= 0.9
    assert any(not probe.passed for probe in found.probes)
    again, _ = find_serving_rate(deployment, source, 0.1)
    assert again.as_json() == found.as_json()
    assert "give more requests" in found.note or found.note == ""
    closed = described(SPEC.replace("{kind: poisson, rate: 20 /s}", "{kind: closed-loop, clients: 4}"))
    with pytest.raises(InputError, match="have no rate to turn"):
        find_serving_rate(deployment, closed, 0.1)


def test_an_interrupt_leaves_what_was_answered(tmp_path: Path) -> None:
    spec = tmp_path / "long.yaml"
    spec.write_text(SPEC.replace("requests: 40", "requests: 200000"))
    code = "from offchip.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", "llama-3-8b", "--hw", "h100-sxm", "--requests", str(spec)]
    process = subprocess.Popen(
        [*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"}, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stderr is not None
    lines = []
    while not any("requests answered:" in line for line in lines):
        line = process.stderr.readline()
        assert line, "ended before it said how far it is"
        lines.append(line)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    told = json.loads(out)
    assert told["stopped"]
    assert 0 < told["counts"]["finished"] < 200000
    assert "stopped" in err


def test_source_of_takes_what_it_is_given() -> None:
    source = described()
    assert source_of(source) is source
    assert source_of(source.requests).requests is source.requests


SPACE = """name: services
model: llama-3-8b
hw: h100-sxm
requests: spec.yaml
options: {slo: "ttft=1s,tpot=20ms"}
vary:
  rate_per_s: [5, 20]
  settings.max_num_seqs: [4, 64]
constraints: [attainment >= 0.0]
objectives: {goodput_requests_per_s: maximise, energy_j_per_million_tokens: minimise}
"""


def test_a_space_of_services(cli: Callable[..., Any], spec: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(SPACE)
    status = offchip.sweep(space, tmp_path / "out")
    assert (status.done, status.expected) == (4, 4)
    rows = status.points().rows
    assert {row.status for row in rows} == {"ok"}
    for row in rows:
        rate, seqs = row.parameters["rate_per_s"], row.parameters["settings.max_num_seqs"]
        source = source_of(spec)
        result = offchip.serve(
            "llama-3-8b", "h100-sxm", source.at_rate(float(rate)), slo="ttft=1s,tpot=20ms",  # type: ignore[arg-type]
            settings={"max_num_seqs": int(seqs)},  # type: ignore[call-overload]
        )  # fmt: skip
        assert row.figures["ttft_p99_s"] == result.latency["ttft"].p99
        assert row.figures["goodput_requests_per_s"] == result.throughput["goodput_requests_per_s"]
    assert cli("report", tmp_path / "out").code == 0


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("rate_per_s: [5, 20]", "rate: [5, 20]", "unknown option 'rate'"),
        ("rate_per_s: [5, 20]", "rate_per_s: [0, 20]", "rate_per_s"),
        ("attainment >= 0.0", "attainmint >= 0.0", "did you mean 'attainment'"),
        ("requests: spec.yaml", "requests: nowhere.yaml", "no such file"),
        ("ttft=1s", "ttft=1", "a number without a unit"),
        ('options: {slo: "ttft=1s,tpot=20ms"}', "options: {engine: vlm}", "did you mean 'vllm'"),
        ('options: {slo: "ttft=1s,tpot=20ms"}', "options: {batch: 3}", "unknown option 'batch'"),
    ],
)
def test_wrong_spaces_say_where(
    cli: Callable[..., Any], spec: Path, tmp_path: Path, old: str, new: str, told: str
) -> None:
    assert spec.is_file()
    space = tmp_path / "space.yaml"
    space.write_text(SPACE.replace(old, new))
    outcome = cli("sweep", space, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert told in outcome.err


def test_the_figures_of_a_service_are_those_that_spaces_know() -> None:
    from offchip.sweep.services import service_figures

    result = offchip.serve("llama-3-8b", "h100-sxm", described().requests)
    assert set(result.summary()) == set(service_figures())


def test_examples_are_read() -> None:
    folder = Path(__file__).parents[2] / "examples"
    for path in folder.glob("serving-*.yaml"):
        if path.name == "serving-pools.yaml":
            from offchip.serving.pools import read_pools

            assert read_pools(path).workers > 1
        elif path.name == "serving-space.yaml":
            from offchip.sweep.space_file import load_space

            assert load_space(path).axes
        else:
            assert source_of(path).requests.count > 0


ADAPTER = {"peft_type": "LORA", "r": 64, "lora_alpha": 32, "target_modules": ["q_proj", "model.down_proj"]}


def adapter_folder(folder: Path, **changed: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**ADAPTER, **changed}))
    return folder


def test_an_adapter_folder_says_what_the_adapters_of_requests_are(
    cli: Callable[..., Any], spec: Path, tmp_path: Path
) -> None:
    one = read_one_adapter(adapter_folder(tmp_path / "law"))
    assert (one.name, one.rank, one.targets) == ("law", 64, ("q_proj", "down_proj"))
    alone = described()
    all_of_them = alone.with_adapter(one)
    assert all_of_them.requests.adapters == ("law",)
    assert set(all_of_them.requests.adapter) == {0}
    assert set(all_of_them.at_rate(5.0).adapter) == {0}
    some = described(SPEC + "adapters: {count: 3, share: 0.5, rank: 8}\n").with_adapter(one).requests
    assert (len(some.adapters), some.adapter_rank, some.adapter_targets) == (3, 64, one.targets)
    command = ("serve", "llama-3-8b", "--hw", "h100-sxm", "--requests", spec, "--json")
    runs = [json.loads(cli(*command, *more).out) for more in ((), ("--adapter", tmp_path / "law"))]
    assert runs[0]["latency_s"]["tpot"]["mean"] < runs[1]["latency_s"]["tpot"]["mean"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"use_dora": True}, "use_dora: DoRA is not served"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern: a rank by module is not served"),
        ({"target_modules": ["lm_head"]}, "target_modules: found 'lm_head'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: a copy of whole modules"),
    ],
)
def test_an_adapter_that_is_not_served_is_named(changed: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        read_one_adapter(adapter_folder(tmp_path / "law", **changed))
