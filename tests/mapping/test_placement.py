"""Plans of the simple mappers are right, fit exactly what they say, and errors name the levers."""

from __future__ import annotations

from dataclasses import replace

import pytest

import offchip
from hw_configs.problems import InfeasibleError, InputError
from hw_configs.system import System
from mapping.liveness import footprint
from mapping.mapper import MapperOptions, mapper_settings, plan_writer
from mapping.placement.single_device import SingleDeviceSettings
from simulator.check import check
from workloads.graph import Graph, Role
from workloads.workload import Phase, Workload


def with_gpu_memory(system: System, usable: int) -> System:
    """The system with so many usable bytes in the memory of each GPU."""
    nodes = dict(system.nodes)
    for node in system.of_kind("gpu"):
        memory = node.device.memory.model_copy(update={"capacity": float(usable), "reserved": 0.0})  # type: ignore[union-attr]
        nodes[node.name] = replace(node, device=node.device.model_copy(update={"memory": memory}))
    return replace(system, nodes=nodes)


def graph_of(name: str, **options: object) -> Graph:
    return offchip.load_model(name, **{"phase": "decode", "prompt": 64, **options}).phases[0].graph  # type: ignore[arg-type]


def one(graph: Graph) -> Workload:
    return Workload(graph.name, (Phase(graph.name, "forward", graph),))


@pytest.mark.parametrize("phase", ["prefill", "decode", "train"])
def test_one_device_holds_exactly_the_footprint(phase: str) -> None:
    graph = graph_of("gpt2", phase=phase)
    need = footprint(graph).bytes
    system = offchip.load_system("workstation")
    for fidelity in ("event", "analytic"):
        result = offchip.simulate(one(graph), with_gpu_memory(system, need), fidelity=fidelity)
        assert result.memories["gpu"].peak_bytes == need
        with pytest.raises(InfeasibleError, match="short by 1 B") as error:
            offchip.simulate(one(graph), with_gpu_memory(system, need - 1), fidelity=fidelity)
        for part in ("by role", "weight", "largest", "--mapper stream-weights", "--tp"):
            assert part in str(error.value)


def test_the_first_gpu_that_holds_it_is_taken() -> None:
    plan = plan_writer("single-device").plan(
        graph_of("gpt2"), offchip.load_system("dgx-a100"), MapperOptions()
    )
    assert {task.device for task in plan.tasks} == {"gpu0"}
    named = MapperOptions(settings=SingleDeviceSettings(device="cpu1"))
    plan = plan_writer("single-device").plan(graph_of("gpt2"), offchip.load_system("dgx-a100"), named)
    assert {task.device for task in plan.tasks} == {"cpu1"}


def test_an_unknown_device_is_told() -> None:
    options = MapperOptions(settings=SingleDeviceSettings(device="gpuO"))
    with pytest.raises(InputError, match="has no device 'gpuO'; it has gpu0"):
        plan_writer("single-device").plan(graph_of("gpt2"), offchip.load_system("dgx-a100"), options)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("ahead", ["1", "2", "5"])
def test_streamed_weights_fit_in_what_there_is(share: float, ahead: str) -> None:
    graph = graph_of("llama-3-8b")
    whole = footprint(graph)
    weights = graph.bytes_by_role()[Role.WEIGHT]
    usable = whole.bytes - round(weights * share)
    system = with_gpu_memory(offchip.load_system("workstation"), usable)
    options = MapperOptions(settings=mapper_settings("stream-weights", {"ahead": ahead}, "plan"))
    try:
        plan = plan_writer("stream-weights").plan(graph, system, options)
    except InfeasibleError as error:
        assert share == 0.9 or ahead == "5", str(error)  # noqa: PT017
        return
    assert check(plan, graph, system) == []
    moved = int(plan.notes.streamed_bytes)
    elsewhere = [name for name, homes in plan.homes.items() if homes[0].memory != "gpu"]
    assert sum(graph.tensors[name].size_bytes for name in elsewhere) >= whole.bytes - usable
    # Of a table one row is looked up, and only that comes.
    table = graph.tensors["embedding.weight"].size_bytes if "embedding.weight" in elsewhere else 0
    assert moved >= whole.bytes - usable - table
    for fidelity in ("event", "analytic"):
        result = offchip.simulate(one(graph), system, plan=plan, fidelity=fidelity)
        memory = result.memories["gpu"]
        assert memory.peak_bytes <= usable
        assert result.wires["pcie:gpu-cpu"].bytes_backward == moved
        # The wire's bytes take time, and what is not streamed is computed beside them.
        assert result.makespan_s >= moved / system.wires["pcie:gpu-cpu"].link.bandwidth


def test_nothing_is_streamed_when_all_fits() -> None:
    plan = plan_writer("stream-weights").plan(
        graph_of("gpt2"), offchip.load_system("workstation"), MapperOptions()
    )
    assert plan.notes.streamed_bytes == 0
    assert all(task.kind == "compute" for task in plan.tasks)


@pytest.mark.parametrize("fidelity", ["event", "analytic"])
def test_weights_elsewhere_are_read_over_the_link_or_by_faults(fidelity: str) -> None:
    """Requests need no room; faults bring a kernel's weights once the one before has ended; neither beats the link."""
    graph = graph_of("gpt2")
    usable = footprint(graph).bytes - round(graph.bytes_by_role()[Role.WEIGHT] * 0.4)
    system = with_gpu_memory(offchip.load_system("workstation"), usable)
    link = system.wires["pcie:gpu-cpu"].link
    seconds = {}
    for access in ("copy", "zero-copy", "unified"):
        settings = mapper_settings("stream-weights", {"access": access, "ahead": "1"}, "plan")
        plan = plan_writer("stream-weights").plan(graph, system, MapperOptions(settings=settings))
        assert check(plan, graph, system) == []
        result = offchip.simulate(one(graph), system, plan=plan, fidelity=fidelity)
        moved = int(plan.notes.streamed_bytes)
        assert result.wires["pcie:gpu-cpu"].bytes_backward == moved
        assert result.memories["gpu"].peak_bytes <= usable
        assert result.makespan_s >= moved / link.bandwidth
        seconds[access] = result.makespan_s / moved
        kinds = {task.kind for task in plan.tasks}
        assert kinds == ({"compute"} if access == "zero-copy" else {"compute", "transfer"})
    assert seconds["unified"] > seconds["copy"]


def test_only_a_gpu_reads_over_its_link() -> None:
    settings = mapper_settings("stream-weights", {"access": "zero-copy", "device": "cpu"}, "plan")
    with pytest.raises(InputError, match="--set access: 'cpu' is no GPU"):
        plan_writer("stream-weights").plan(
            graph_of("gpt2"), offchip.load_system("workstation"), MapperOptions(settings=settings)
        )
    with pytest.raises(InputError, match="did you mean 'zero-copy'"):
        mapper_settings("stream-weights", {"access": "zerocopy"}, "plan")


@pytest.mark.parametrize("ahead", ["0", "-1", "two", "1001", ""])
def test_a_wrong_depth_is_told(ahead: str) -> None:
    with pytest.raises(InputError, match=r"--set ahead: found .*whole number"):
        mapper_settings("stream-weights", {"ahead": ahead}, "plan")


def test_a_machine_without_another_memory_cannot_stream() -> None:
    with pytest.raises(InputError, match="no other memory"):
        plan_writer("stream-weights").plan(
            graph_of("gpt2"), offchip.load_system("a100-80gb"), MapperOptions()
        )
