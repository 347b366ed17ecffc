"""The KV cache outside the GPU: plans hold, bytes are what they must be, the best placement is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hw_configs.library import load_system
from hw_configs.settings import read_settings
from hw_configs.system import System
from mapping.mapper import MapperOptions, offload_solver
from mapping.offload.offload_kv import MAPPER, OffloadKvSettings
from mapping.offload.policy import OffloadRequest, check_request
from offchip import api
from offchip.sweep.machine import Machines
from simulator.check import check
from simulator.result import Result
from simulator.rewrite.apply import rewrite
from workloads.graph import Graph
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions


def asked(**values: object) -> MapperOptions:
    return MapperOptions(settings=read_settings(OffloadKvSettings, values))


MODEL, BATCH, CONTEXT = "opt-1.3b", 24, 512
TOKEN = 24 * 2048 * 2 * 2
"""Bytes of K and V of one token: 24 layers, width 2048, FP16."""
PLACES = [("gpu", "gpu"), ("host", "gpu"), ("host", "cpu"), ("csd", "gpu"), ("csd", "cpu"), ("csd", "drive")]


def graph(phase: str = "decode", batch: int = BATCH) -> Graph:
    return load_workload(MODEL, WorkloadOptions(phase=phase, batch=batch, prompt=CONTEXT)).phases[0].graph


def run(system: str, phase: str = "decode", context: int = CONTEXT, **settings: str) -> Result:
    return api.simulate(
        MODEL, system, phase=phase, batch=BATCH, prompt=context, mapper="offload-kv", settings=settings
    )


def drive_bytes(result: Result, *, to_drive: bool) -> float:
    """Bytes over the drives' wires, whichever end the wire names first."""
    total = 0.0
    for name, use in result.wires.items():
        if "csd" in name or "ssd" in name:
            first = name.split(":")[-1].startswith(("csd", "ssd"))
            total += use.bytes_backward if first == to_drive else use.bytes_forward
    return total


@pytest.mark.parametrize(("kv", "attend"), PLACES)
@pytest.mark.parametrize("phase", ["decode", "prefill"])
@pytest.mark.parametrize("batch", [1, 3, BATCH])
def test_every_placement_gives_a_plan_that_holds(kv: str, attend: str, phase: str, batch: int) -> None:
    system, source = load_system("csd-node"), graph(phase, batch)
    plan = MAPPER.plan(
        source,
        system,
        asked(kv=kv, attend=attend),
    )
    assert check(plan, rewrite(source, plan), system) == []
    assert (plan.notes.kv, plan.notes.attend) == (kv, attend)


def test_a_cache_on_drives_comes_in_and_only_new_tokens_go_back() -> None:
    result = run("csd-node", kv="csd", attend="gpu")
    old = (CONTEXT - 1) * BATCH * TOKEN
    assert drive_bytes(result, to_drive=False) == pytest.approx(old, rel=1e-6)
    assert drive_bytes(result, to_drive=True) == pytest.approx(BATCH * TOKEN, rel=1e-6)


def test_attention_in_drives_moves_vectors_alone() -> None:
    result = run("csd-node", kv="csd", attend="drive")
    width = 24 * BATCH * 2048 * 2
    assert drive_bytes(result, to_drive=True) == pytest.approx(3 * width, rel=1e-6)
    assert drive_bytes(result, to_drive=False) == pytest.approx(width, rel=1e-6)
    busy = [result.devices[f"csd{i}"].utilisation for i in range(4)]
    assert min(busy) > 0.5


def test_prefill_writes_the_cache_beside_the_computation() -> None:
    kept, written = (run("csd-node", "prefill", kv=kv) for kv in ("gpu", "csd"))
    assert drive_bytes(written, to_drive=True) == pytest.approx(CONTEXT * BATCH * TOKEN, rel=1e-6)
    alone = CONTEXT * BATCH * TOKEN / (4 * 5e9)
    assert written.makespan_s < kept.makespan_s + alone


def test_the_choice_is_the_least_estimate() -> None:
    system = load_system("csd-node")
    plan = MAPPER.plan(graph(), system, MapperOptions())
    fitting = [c for c in plan.notes.considered if not c.obstacle]
    assert plan.notes.estimated_attention_s == min(c.estimated_attention_s for c in fitting)
    assert {(c.kv, c.attend) for c in plan.notes.considered} == set(PLACES)


@pytest.mark.parametrize(("kv", "attend"), [("host", "gpu"), ("csd", "gpu"), ("csd", "drive")])
def test_the_estimate_is_near_the_simulated_step(kv: str, attend: str) -> None:
    system = load_system("csd-node")
    plan = MAPPER.plan(
        graph(),
        system,
        asked(kv=kv, attend=attend),
    )
    rest = run("csd-node", kv="gpu").makespan_s
    took = run("csd-node", kv=kv, attend=attend).makespan_s
    assert plan.notes.estimated_attention_s == pytest.approx(took, abs=rest * 1.2)


def test_more_drives_are_faster_until_the_gpus_link_is_full() -> None:
    machines = Machines()

    def step(count: int) -> float:
        system = machines.system("kv-offload-node", {"ssd.count": count})
        return _simulated(system, kv="ssd", attend="gpu")

    one, two, eight, sixteen = (step(n) for n in (1, 2, 8, 16))
    assert one / two == pytest.approx(2, rel=0.1)
    assert eight == pytest.approx(sixteen, rel=0.05)


def test_sparse_attention_in_drives_pays_where_chosen_tokens_cluster() -> None:
    in_drive = {"context": 2048, "kv": "csd", "attend": "drive"}
    dense = run("csd-node", **in_drive).makespan_s
    independent = run("csd-node", **in_drive, kept="0.125").makespan_s
    clustered = run("csd-node", **in_drive, kept="0.125", groups="0.5").makespan_s
    assert clustered < 0.85 * dense
    # Nine pages in ten are read anyway, and channels of K besides.
    assert independent > dense


def test_small_reads_of_a_drive_are_slower() -> None:
    whole, mapped = (
        run("workstation", kv="ssd", attend="gpu", **extra)
        for extra in ({}, {"chunk": "128 KiB", "readers": "1"})
    )
    assert mapped.makespan_s > 2 * whole.makespan_s


def _simulated(system: System, **settings: str) -> float:
    from simulator.simulate import simulate

    options = asked(**settings)
    workload = load_workload(MODEL, WorkloadOptions(phase="decode", batch=BATCH, prompt=CONTEXT))
    return simulate(workload, system, lambda g, s: MAPPER.plan(g, s, options)).makespan_s


def test_a_generation_grows_its_cache_where_it_lives() -> None:
    result = api.simulate(MODEL, "csd-node", batch=4, prompt=64, generate=3, mapper="offload-kv",
                          settings={"kv": "csd", "attend": "drive", "room": "3"})  # fmt: skip
    assert [phase.kind for phase in result.phases] == ["prefill", "decode", "decode", "decode"]
    assert result.warnings == ()


@pytest.mark.parametrize("model", ["gpt-oss-20b", "deepseek-v2-lite", "mistral-7b"])
@pytest.mark.parametrize(("kv", "attend"), [("csd", "drive"), ("host", "cpu"), ("csd", "gpu")])
def test_windows_latents_and_sinks(model: str, kv: str, attend: str) -> None:
    system = load_system("csd-node")
    for phase, batch in (("decode", 8), ("prefill", 4)):
        options = WorkloadOptions(phase=phase, batch=batch, prompt=5000)
        source = load_workload(model, options).phases[0].graph
        plan = MAPPER.plan(
            source,
            system,
            asked(kv=kv, attend=attend),
        )
        assert check(plan, rewrite(source, plan), system) == []


def test_the_plan_says_how_long_the_drives_last() -> None:
    system = load_system("csd-node")
    dense, sparse = (
        MAPPER.plan(
            graph(),
            system,
            asked(kv="csd", attend="drive", kept=k),
        ).notes
        for k in ("1", "0.125")
    )
    assert dense.written_bytes_per_token == TOKEN
    assert dense.tokens_until_worn_out == pytest.approx(4 * 2e12 * 3000 / TOKEN)
    assert sparse.tokens_until_worn_out == pytest.approx(dense.tokens_until_worn_out / 1.5)
    assert MAPPER.plan(graph(), system, asked(kv="host")).notes.tokens_until_worn_out is None


def test_the_example_runs(cli: Callable[..., Any], tmp_path: Path) -> None:
    space = Path(__file__).parent.parent.parent / "examples" / "kv-offload.yaml"
    outcome = cli("sweep", space, "--out", tmp_path / "out", "--json")
    assert outcome.code == 0
    assert "Traceback" not in outcome.err


def test_weights_that_do_not_fit_are_streamed() -> None:
    result = api.simulate("opt-30b", "csd-node", phase="decode", batch=32, prompt=1024, mapper="offload-kv",
                          settings={"kv": "csd"})  # fmt: skip
    assert any("stream layers" in task for task in result.timeline.task)


def test_the_policies_answer() -> None:
    system = load_system("csd-node")
    for name in ("offload-kv", "block-schedule"):
        policy = offload_solver(name)
        request = OffloadRequest(MODEL, system, "decode", CONTEXT, BATCH)
        check_request(name, policy, request)
        answer = policy.solve(request)
        assert answer.policy == name
        assert answer.why
        assert answer.tables
    with_plan = offload_solver("offload-kv").solve(OffloadRequest(MODEL, system, "decode", CONTEXT, BATCH))
    assert with_plan.plan is not None
    assert with_plan.graph is not None
    assert check(with_plan.plan, rewrite(with_plan.graph, with_plan.plan), system) == []


@pytest.mark.parametrize(
    ("hw", "setting", "code", "message"),
    [
        ("csd-node", "kv=tape", 2, "kv: found 'tape'; expected one of gpu, host, ssd, csd, auto"),
        ("csd-node", "kv=ssd", 2, "has no placement ssd/any"),
        ("csd-node", "attend=drve", 2, "did you mean 'drive'"),
        ("csd-node", "kept=0", 2, "share above 0"),
        ("csd-node", "chunk=1 parsec", 2, "chunk: found"),
        ("csd-node", "room=9999999", 3, "no place for the KV cache"),
        ("a6000", "kv=host", 2, "has no placement host/any"),
        ("csd-node", "device=gpu7", 2, "has no device 'gpu7'"),
    ],
)
def test_what_cannot_be(cli: Callable[..., Any], hw: str, setting: str, code: int, message: str) -> None:
    outcome = cli("simulate", MODEL, "--hw", hw, "--phase", "decode", "--batch", BATCH, "--mapper", "offload-kv",
                  "--set", setting)  # fmt: skip
    assert outcome.code == code
    assert message in outcome.err
    assert "Traceback" not in outcome.err
