"""Collectives among GPUs: what their library takes alone, and no less than their bytes take beside others."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import offchip
from hw_configs.library import load_system
from hw_configs.system import System
from offchip.table_prediction import predict
from simulator.cost.by_device import BY_DEVICE
from simulator.plan import Collective, Home, Plan, Transfer
from simulator.serving.device_share import Exchange
from simulator.serving.exchange_time import Exchanges
from simulator.system.analytic import run_analytic
from simulator.system.bound_plan import bind
from simulator.system.costs import CostTable
from simulator.system.engine import PhaseRun, run_events
from simulator.system.gpu_library import GpuLibrary, wires_between
from simulator.system.physics import check_phase
from tests.typed import operator_of
from workloads.graph import Graph, Role, Tensor

RUNS = {"event": run_events, "analytic": run_analytic}
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")
MACHINES = ("dgx-a100", "dgx-h100", "dgx-b200", "l40s-8x", "mi300x-node", "rtx-4090-8x")


def ranks(count: int) -> tuple[str, ...]:
    return tuple(f"gpu{i}" for i in range(count))


def run_one(
    system: System, kind: str, count: int, size: int, fidelity: str, *, own: bool = False, beside: int = 0
) -> PhaseRun:
    """A collective alone, or beside a copy of ``beside`` bytes from the first rank to the second."""
    names = ranks(count)
    tensors = {f"{part}{i}": Tensor(f"{part}{i}", (8,), "int8") for part in "io" for i in range(count)}
    work = operator_of(
        kind, name="c", inputs=tuple(f"i{i}" for i in range(count)), outputs=tuple(f"o{i}" for i in range(count)),
        bytes=size, group=count,
    )  # fmt: skip
    tasks: list[Collective | Transfer] = [Collective(f"c@{n}", f"{n}.compute", "c", n, names) for n in names]
    homes = {f"i{i}": (Home(system.nodes[n].memory or n),) for i, n in enumerate(names)}
    if beside:
        tensors["w"] = Tensor("w", (beside,), "int8", role=Role.WEIGHT)
        first, second = (system.nodes[n].memory or n for n in names[:2])
        homes["w"] = (Home(first),)
        tasks.append(Transfer("copy", "copy", "w", first, second, frees=(("w", second),)))
    graph = Graph("g", tensors, (work,))
    plan = Plan(graph.name, system.name, "hand", tuple(tasks), homes)
    costs = CostTable(system, BY_DEVICE, library=GpuLibrary(system, own))
    outcome = RUNS[fidelity](graph, bind(plan, graph, system), system, costs)
    check_phase(outcome, graph, system, costs)
    return outcome


def took(run: PhaseRun) -> float:
    record = next(r for r in run.records if r.task.kind == "collective")
    return record.end - record.start


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(MACHINES), st.sampled_from(KINDS), st.sampled_from([2, 3, 4, 8]), st.integers(0, 29),
    st.sampled_from(list(RUNS)), st.booleans(),
)  # fmt: skip
def test_an_idle_machine_takes_what_its_library_takes(
    name: str, kind: str, count: int, power: int, fidelity: str, own: bool
) -> None:
    """Bytes on the wires never take longer than the library says where no wire is shared beside the sockets'."""
    system, size = load_system(name), 3 * 2**power
    library = GpuLibrary(system, own).time(kind, size, ranks(count))
    assert library is not None
    bare = CostTable(system, BY_DEVICE, "wires")
    ours = took(run_one(system, kind, count, size, fidelity, own=own))
    assert ours >= library.seconds * (1 - 1e-9)
    wired = bare.seconds_alone(bare.rounds(operator_of(kind, bytes=size, group=count), ranks(count)))
    # A tree's bytes, which a broadcast's library does not send, and the steps of a ring around a box are the wires'.
    if kind != "broadcast" and count in (2, 4, 8) and not name.endswith("8x"):
        assert ours == pytest.approx(library.seconds, rel=1e-9)
    else:
        assert ours <= max(library.seconds, wired) * (1 + 1e-9)


@pytest.mark.parametrize("engine", ["none", "vllm"])
@pytest.mark.parametrize("name", ["dgx-a100", "dgx-h100", "dgx-b200"])
def test_simulate_and_predict_agree_on_an_all_reduce(tmp_path: Path, name: str, engine: str) -> None:
    table = tmp_path / "rows.csv"
    sizes = [2**power for power in range(9, 31, 3)]
    kernel = "custom" if engine == "vllm" else "NCCL"
    rows = [f"all_reduce,{n},{size},fp16,{kernel}" for n in (2, 4, 8) for size in sizes]
    table.write_text("op,n_devices,bytes,dtype,kernel\n" + "\n".join(rows) + "\n", encoding="utf-8")
    found = iter(predict(table, name).pairs)
    system = load_system(name)
    for count in (2, 4, 8):
        for size in sizes:
            _, expected = next(found)
            assert expected.predicted_us is not None
            for fidelity in RUNS:
                ours = took(run_one(system, "all_reduce", count, size, fidelity, own=engine == "vllm")) * 1e6
                assert ours == pytest.approx(expected.predicted_us, rel=1e-9)


def test_serving_takes_the_same_times() -> None:
    system = load_system("dgx-h100")
    for power in (12, 20, 28):
        served = Exchanges(system).seconds(Exchange("all_reduce", 2**power, 8))
        assert served == took(run_one(system, "all_reduce", 8, 2**power, "event", own=True))


def test_an_engine_has_its_own_all_reduce_in_simulate() -> None:
    asked = {"phase": "decode", "batch": 1, "prompt": 128, "tp": 8, "fidelity": "analytic"}

    def exchanged(engine: str) -> float:
        line = offchip.simulate("llama-3-70b", "dgx-h100", engine=engine, **asked).timeline
        shown = zip(line.operator_kind, line.start, line.end, strict=True)
        return sum(end - start for kind, start, end in shown if kind == "all_reduce")

    assert exchanged("vllm") < 0.7 * exchanged("none")
    assert exchanged("huggingface") == pytest.approx(exchanged("none"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_on_the_same_wires_delays_a_collective(kind: str) -> None:
    system, size = load_system("dgx-h100"), 2**28
    alone = took(run_one(system, kind, 8, size, "event"))
    beside = took(run_one(system, kind, 8, size, "event", beside=2**33))
    assert beside > 1.1 * alone


def test_bare_wires_stay_when_asked_for_and_for_rooflines() -> None:
    system = load_system("dgx-h100")
    work = operator_of("all_reduce", bytes=2**20, group=8)
    library = GpuLibrary(system)
    bare = CostTable(system, BY_DEVICE, "wires").collective_seconds(work, ranks(8))
    assert bare < CostTable(system, BY_DEVICE, library=library).collective_seconds(work, ranks(8))
    for algorithm in ("wires", "ring", "tree"):
        asked = CostTable(system, BY_DEVICE, algorithm, library=library)
        assert asked.collective_seconds(work, ranks(8)) >= bare
        assert asked.library_seconds(work, ranks(8)) == 0.0
    roofline = offchip.simulate("llama-3-8b", "dgx-h100", tp=2, cost_model="roofline-peak")
    plain = offchip.simulate("llama-3-8b", "dgx-h100", tp=2, cost_model="roofline-peak", collective="wires")
    assert roofline.makespan_s == plain.makespan_s


@pytest.mark.parametrize(
    ("name", "devices", "wire"),
    [
        ("dgx-h100", ("gpu0", "gpu7"), "peer"), ("l40s-8x", ("gpu0", "gpu1"), "host"),
        ("l40s-8x", ("gpu0", "gpu1", "gpu4"), "host"), ("dgx-a100-x2", ("gpu0", "gpu1"), "peer"),
        ("dgx-a100-x2", ("gpu7", "gpu8"), "network"), ("gpu-pim", ("gpu0", "pim0"), ""), ("dgx-h100", ("gpu0",), ""),
    ],
)  # fmt: skip
def test_what_ranks_exchange_over(name: str, devices: tuple[str, ...], wire: str) -> None:
    system = load_system(name)
    found = wires_between(system, [node for node in system.nodes.values() if node.name in devices])
    assert (found.wire if found else "") == wire


def test_the_switch_adds_where_the_library_lets_it() -> None:
    system, size = load_system("dgx-h100"), 2**28
    (multicast,) = CostTable(system, BY_DEVICE, library=GpuLibrary(system)).rounds(
        operator_of("all_reduce", bytes=size, group=8), ranks(8)
    )
    assert {sent for _, _, sent in multicast.sends} == {size + size // 8}
    ampere = load_system("dgx-a100")
    rounds = CostTable(ampere, BY_DEVICE, library=GpuLibrary(ampere)).rounds(
        operator_of("all_reduce", bytes=size, group=8), ranks(8)
    )
    assert sum(sent for round_ in rounds for _, _, sent in round_.sends) == 14 * size
