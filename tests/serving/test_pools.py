"""Pools of unlike workers: read with lines, placed on machines of their own, loaded by their speed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import offchip
from hw_configs.library import load_link, load_system
from hw_configs.problems import InfeasibleError, InputError
from offchip.serving.build import deploy
from offchip.serving.machines import Machine, joined
from offchip.serving.options import ServeOptions
from offchip.serving.pools import Pool, Pools, read_pools
from offchip.serving.speeds import request_seconds
from offchip.serving.tier_sizes import tiers_of
from workloads.requests import make_requests

APART = """network: roce-400
pools:
  - {name: prompts, hw: h100-sxm, role: prefill, count: 1}
  - {name: answers, hw: a100-80gb, role: decode, count: 2}
"""
MIXED = """pools:
  - {name: fast, hw: h200, count: 1}
  - {name: slow, hw: l40s, count: 1, settings: {max_num_seqs: 32}}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(
        "requests: 60\nprompt: {kind: uniform, low: 50, high: 900}\noutput: {kind: uniform, low: 20, high: 60}\n"
        "arrivals: {kind: poisson, rate: 20 /s}\n"
    )
    return path


def pools(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pools.yaml"
    path.write_text(text)
    return path


def test_prefill_and_decode_on_unlike_machines(cli: Callable[..., Any], spec: Path, tmp_path: Path) -> None:
    command = ("serve", "llama-3-8b", "--pools", pools(tmp_path, APART), "--requests", spec, "--json")
    first = cli(*command, "--out", tmp_path / "out")
    assert first.code == 0, first.err
    told = json.loads(first.out)
    assert told["counts"]["transfers"] == told["counts"]["finished"] == 60
    assert [worker["role"] for worker in told["workers"]] == ["prefill", "decode", "decode"]
    assert set(told["settings"]) == {"prompts", "answers"}
    assert told == json.loads(cli(*command).out)
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_transfer_goes_at_the_narrower_of_two_links(spec: Path) -> None:
    def rate(prefill: str, decode: str) -> float:
        two = [{"hw": "h100-sxm", "role": "prefill", "network": prefill},
               {"hw": "a100-80gb", "role": "decode", "network": decode}]  # fmt: skip
        result = offchip.serve("llama-3-8b", None, make_requests([4000], [3]), pools=two)
        moved = result.record.transfers
        # By layers: the last of 32 leaves when the prompt is done.
        return float(moved.bytes[0]) / 32 / float(result.record.requests.transfer_s[0])

    wide, narrow = load_link("roce-400").bandwidth, load_link("roce-100").bandwidth
    assert rate("roce-400", "roce-400") == pytest.approx(wide, rel=0.05)
    assert rate("roce-400", "roce-100") == pytest.approx(rate("roce-100", "roce-400"), rel=1e-6)
    assert rate("roce-100", "roce-400") == pytest.approx(narrow, rel=0.05)


def test_least_loaded_goes_by_expected_seconds(spec: Path, tmp_path: Path) -> None:
    given = pools(tmp_path, MIXED)
    options = ServeOptions(pools=given, routing="least-loaded")
    source = offchip.serve("llama-3-8b", None, spec, pools=given, routing="least-loaded")
    deployment = deploy("llama-3-8b", None, options, source.requests)
    fast, slow = deployment.service.workers
    prompt, answer = float(source.requests.prompt_tokens.mean()), float(source.requests.output_tokens.mean())
    assert fast.speed / slow.speed == pytest.approx(
        request_seconds(slow, prompt, answer) / request_seconds(fast, prompt, answer)
    )
    assert fast.speed > 1 > slow.speed
    answered = np.bincount(source.record.requests.replica, minlength=2)
    assert answered[0] > 1.5 * answered[1]
    even = offchip.serve("llama-3-8b", None, spec, pools=given)
    assert np.bincount(even.record.requests.replica).tolist() == [30, 30]
    assert "--routing least-loaded goes by speed" in str(even)
    assert source.latency["tpot"].mean < even.latency["tpot"].mean


def test_failures_limits_and_a_rate_with_pools(cli: Callable[..., Any], spec: Path, tmp_path: Path) -> None:
    base = ("serve", "llama-3-8b", "--pools", pools(tmp_path, APART), "--requests", spec, "--json")
    failed = json.loads(cli(*base, "--fail", "1@500ms:2s", "--slo", "ttft=1s").out)
    assert failed["counts"]["finished"] == 60
    assert failed["counts"]["retries"] > 0
    assert failed["counts"]["lost_tokens"] == 0
    found = cli(*base, "--find-rate", "--slo", "tpot=13ms,ttft=300ms", "--tolerance", 0.3)
    assert found.code == 0, found.err
    assert json.loads(found.out)["rate"] > 1
    described = cli(*base[:-3], "--describe", "--json")
    assert len(json.loads(described.out)) == 2


def test_pools_with_attention_apart_and_slower_memories(spec: Path) -> None:
    two = Pools(network="roce-400", pools=[
        Pool(name="p", hw="dgx-h100", role="prefill", tp=2, count=2),
        Pool(name="d", hw="dgx-h100", role="decode", tp=2,
             attention={"hw": "h20", "workers": 4, "wire": "roce-400"}),
    ])  # fmt: skip
    result = offchip.serve("llama-3-70b", None, spec, pools=two)
    assert result.counts["finished"] == 60
    assert [worker.devices for worker in result.facts.workers] == [2, 2, 6]
    tight = [{"hw": "dgx-h100", "settings": {"gpu_memory_utilization": 0.25}, "host_cache": "64 GiB"}]
    many = make_requests(np.full(60, 400), 200, 0.0)
    moved = offchip.serve("llama-3-8b", None, many, pools=tight)
    assert moved.counts["preemptions"] > 0
    assert moved.record.moved_bytes[0] == moved.record.moved_bytes[1] > 0
    assert moved.record.moved_bytes[2:] == (0.0, 0.0)
    assert "moved caches" in str(moved)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("hw: a100-80gb", "hw: a100-80g", ":4: pools.1.hw: unknown hardware 'a100-80g'"),
        ("hw: a100-80gb", "hw: a100-80g", "(did you mean 'a100-80gb'?)"),
        ("role: decode", "role: decod", ":4: pools.1.role: found 'decod'; known: both, prefill, decode"),
        ("role: decode", "rol: decode", "unknown key 'rol'"),
        ("role: decode, ", "", ":4: pools.1.role: found 'both' beside pools for prefill or decode alone"),
        ("role: decode", "role: prefill", "no pool has the role 'decode'"),
        ("network: roce-400\n", "", ":2: pools.0: missing key 'network'"),
        ("roce-400", "roce-40", ":1: network: unknown hardware 'roce-40'"),
        ("name: answers", "name: prompts", ":4: pools.1.name: 'prompts' is the name of another pool"),
        ("count: 2", "count: 0", ":4: pools.1.count"),
        ("count: 2", "count: 2, ep: 3", ":4: pools.1.ep: found 3; expected a divisor of tp x dp"),
        ("count: 2", "count: 2, settings: {max_num_seq: 4}", "pools.1.settings.max_num_seq: unknown setting"),
        ("count: 2", "count: 2, settings: {block_size: x}", ":4: pools.1.settings.block_size: block_size: found 'x'"),
        ("count: 2", "count: 2, engine: vlm", ":4: pools.1.engine: found 'vlm'"),
        ("count: 2", "count: 2, max_concurrency: 0", ":4: pools.1.max_concurrency"),
        ("count: 2", "count: 2, attention: {hw: h20, workers: 2}", ":4: pools.1.attention.wire: missing key 'wire'"),
    ],
)  # fmt: skip
def test_wrong_pools_say_where(
    cli: Callable[..., Any], spec: Path, tmp_path: Path, old: str, new: str, told: str
) -> None:
    given = pools(tmp_path, APART.replace(old, new))
    outcome = cli("serve", "llama-3-8b", "--pools", given, "--requests", spec)
    assert outcome.code == 2
    assert told in outcome.err
    assert "Traceback" not in outcome.err
    assert not outcome.out


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (APART.replace("role: decode", "role: decode, kv_dtype: fp8"), "expected one type"),
        (APART.replace("h100-sxm", "tpu-v4i-card"), "prompts: plans of a mapper have no links"),
    ],
)
def test_pools_that_do_not_go_together(
    cli: Callable[..., Any], spec: Path, tmp_path: Path, text: str, told: str
) -> None:
    outcome = cli("serve", "llama-3-8b", "--pools", pools(tmp_path, text), "--requests", spec)
    assert outcome.code == 2
    assert told in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_pool_without_room_says_the_bytes(spec: Path, tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError, match="short by"):
        offchip.serve("llama-3-70b", None, spec, pools=pools(tmp_path, APART))


def test_pools_from_python_are_checked_as_files_are() -> None:
    with pytest.raises(InputError, match="did you mean 'h100-sxm'"):
        ServeOptions(pools=[{"hw": "h100-sx"}])
    with pytest.raises(InputError, match="expected a YAML file"):
        ServeOptions(pools=3)  # type: ignore[arg-type]
    assert read_pools("x.yaml", MIXED).workers == 2


def test_machines_are_joined_at_their_ports() -> None:
    dgx, card = load_system("dgx-h100"), load_system("a100-80gb")
    link = load_link("roce-400")
    system = joined("both", [Machine("a", dgx, link), Machine("b", card, link)])
    route = [wire for wire, _ in system.route("a/gpu0", "b/a100-80gb")]
    assert any("nic" in wire for wire in route)
    assert route[-1] == "rdma:b/a100-80gb-network"
    inside = [wire for wire, _ in system.route("a/gpu0", "a/gpu1")]
    assert all("nvswitch" in wire for wire in inside)


def test_sizes_of_slower_memories() -> None:
    dgx = load_system("dgx-h100")
    tiers = tiers_of(dgx, "64 GiB", "ssd:1 TiB", 4)
    store = dgx.nodes["ssd0"].device.store  # type: ignore[union-attr]
    assert tiers.host_bytes == 64 * 2**30
    assert tiers.drive == (
        8 * store.read_bandwidth / 4, 8 * store.write_bandwidth / 4, "8 x nvme-pcie4-dc-tlc, shared by 4 workers",
    )  # fmt: skip
    with pytest.raises(InfeasibleError, match="short by"):
        tiers_of(dgx, "300 GiB", "", 8)
    with pytest.raises(InfeasibleError, match="short by"):
        tiers_of(dgx, "", "ssd:100 TiB", 1)
