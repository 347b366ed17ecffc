"""The mapper ``co-place``: bounds that hold, plans that run, and nothing worse than the mappers it stands above."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hw_configs.library import load_system
from hw_configs.problems import InfeasibleError, InputError
from hw_configs.system import System
from mapping.mapper import MAPPERS, MapperOptions, writes_plans
from mapping.placement.co_place import OTHERS, CoPlaceSettings, co_place
from mapping.placement.machine import Machine
from mapping.placement.trial import try_plan
from simulator.plan import Compute, Transfer
from simulator.plan_file import read_plan, write_plan
from tests.conftest import Outcome
from tests.placement.machines import decode
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

QUICK = CoPlaceSettings(limit=2.5, compare=False)
CASES = (
    ("opt-1.3b", "t4-server", 1, 256), ("llama-3-8b", "desktop", 1, 512), ("gpt2", "gpu-pim", 4, 64),
    ("opt-1.3b", "csd-node", 8, 256), ("llama-3-8b", "laptop", 1, 256),
)  # fmt: skip
MORE_CASES = tuple(
    (model, system, batch, prompt)
    for model in ("llama-3-8b", "opt-13b", "mixtral-8x7b", "qwen3-30b-a3b", "llama-3-70b")
    for system in ("workstation", "desktop", "gpu-pim", "csd-node")
    for batch, prompt in ((1, 512), (16, 1024))
)


def with_vram(system: System, size: float) -> System:
    """The machine with another size of the GPU's memory."""
    spaces = dict(system.memories)
    spaces["gpu"] = replace(spaces["gpu"], usable_bytes=int(size), capacity_bytes=int(size))
    other = replace(system)
    other.__dict__["memories"] = spaces
    return other


@pytest.mark.parametrize(("model", "name", "batch", "prompt"), CASES)
def test_the_plan_runs_and_the_bound_holds(model: str, name: str, batch: int, prompt: int) -> None:
    graph, machine = decode(model, batch, prompt), Machine(load_system(name))
    found = co_place(graph, machine, QUICK)
    assert try_plan(graph, machine, found.plan).seconds == pytest.approx(found.notes.simulated_s)
    assert found.notes.bound <= found.notes.simulated_s * (1 + 1e-6)
    assert 0 <= found.notes.gap < 0.5


@pytest.mark.parametrize(("model", "name", "batch", "prompt"), CASES[:4])
def test_never_worse_than_a_mapper_that_decides_a_part(
    model: str, name: str, batch: int, prompt: int
) -> None:
    _never_worse(model, name, batch, prompt, replace(QUICK, compare=True))


@pytest.mark.slow
@pytest.mark.parametrize(("model", "name", "batch", "prompt"), MORE_CASES)
def test_never_worse_on_a_grid(model: str, name: str, batch: int, prompt: int) -> None:
    _never_worse(model, name, batch, prompt, CoPlaceSettings(limit=4.0))


def _never_worse(model: str, name: str, batch: int, prompt: int, settings: CoPlaceSettings) -> None:
    graph, machine = decode(model, batch, prompt), Machine(load_system(name))
    try:
        found = co_place(graph, machine, settings).notes.simulated_s
    except InfeasibleError:
        found = float("inf")
    for other in OTHERS:
        mapper = MAPPERS.get(other)
        assert writes_plans(mapper)
        try:
            plan = mapper.plan(graph, machine.system, MapperOptions())
        except (InfeasibleError, InputError):
            continue
        assert found <= try_plan(graph, machine, plan).seconds * (1 + 1e-9), other


def test_a_model_too_large_for_the_gpu_is_shared_with_the_cpu() -> None:
    graph = decode("llama-3-8b", 1, 256)
    machine = Machine(with_vram(load_system("desktop"), 6e9))
    found = co_place(graph, machine, QUICK)
    devices = {task.device for task in found.plan.tasks if isinstance(task, Compute)}
    assert devices == {"gpu", "cpu"}
    streamed = MAPPERS.get("stream-weights")
    assert writes_plans(streamed)
    plan = streamed.plan(graph, machine.system, MapperOptions())
    assert found.trial.seconds < 0.75 * try_plan(graph, machine, plan).seconds


def test_more_memory_on_the_gpu_lowers_the_bound() -> None:
    graph = decode("llama-3-8b", 1, 256)
    bounds = [
        co_place(graph, Machine(with_vram(load_system("desktop"), size)), QUICK).notes.bound
        for size in (5e9, 9e9, 20e9)
    ]
    assert bounds == sorted(bounds, reverse=True)


def test_another_device_lowers_the_bound() -> None:
    graph, machine = decode("llama-3-8b", 1, 256), Machine(with_vram(load_system("desktop"), 6e9))
    alone = co_place(graph, machine, replace(QUICK, devices="gpu"))
    assert co_place(graph, machine, QUICK).notes.bound <= alone.notes.bound


def test_experts_that_are_wanted_unevenly_are_cheaper() -> None:
    graph, machine = decode("qwen3-30b-a3b", 1, 256), Machine(load_system("desktop"))
    even = co_place(graph, machine, QUICK)
    uneven = co_place(graph, machine, replace(QUICK, experts="zipf:1.2"))
    assert uneven.notes.bound < even.notes.bound


def test_limits_are_kept() -> None:
    graph, machine = decode("llama-3-8b", 1, 256), Machine(load_system("desktop"))
    found = co_place(graph, machine, replace(QUICK, devices="cpu"))
    assert {task.device for task in found.plan.tasks if isinstance(task, Compute)} == {"cpu"}
    with pytest.raises(InputError, match="did you mean 'cpu'"):
        co_place(graph, machine, replace(QUICK, devices="cpv"))


def test_what_does_not_fit_is_told_with_demand_and_supply() -> None:
    graph, machine = decode("llama-3.1-405b", 1, 256), Machine(load_system("laptop"))
    small = replace(QUICK, weights="unified")
    with pytest.raises(
        InfeasibleError, match=r"unified would have to hold .* and has .*, short by .*What could help"
    ):
        co_place(graph, machine, small)
    with pytest.raises(InfeasibleError, match="bound on its latency"):
        co_place(decode("llama-3-8b"), Machine(load_system("desktop")), replace(QUICK, latency=1e-3))


def test_energy_can_be_what_is_least() -> None:
    graph, machine = decode("llama-3-8b", 1, 256), Machine(load_system("desktop"))
    by_energy = co_place(graph, machine, replace(QUICK, objective="energy"))
    assert by_energy.notes.bound <= by_energy.trial.joules * (1 + 1e-6)
    assert by_energy.trial.joules <= co_place(graph, machine, QUICK).trial.joules * (1 + 1e-6)


def test_a_plan_is_a_file_that_the_simulator_runs(tmp_path: Path) -> None:
    graph, machine = decode("mixtral-8x7b", 1, 256), Machine(load_system("workstation"))
    found = co_place(graph, machine, replace(QUICK, limit=3.0))
    write_plan(found.plan, tmp_path / "plan.json")
    again = try_plan(graph, machine, read_plan(tmp_path / "plan.json"))
    assert again.seconds == pytest.approx(found.notes.simulated_s)


def test_the_command_prints_who_has_what_and_what_to_buy(cli: Callable[..., Outcome]) -> None:
    command = "solve offload opt-1.3b --hw t4-server --phase decode --seq 256 --policy co-place"
    ran = cli(*command.split(), "--objective", "time", "--bound", "latency=1s", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert report["gap"] < 0.01
    assert {"bottleneck", "levers", "placed", "held_bytes"} <= set(report)
    assert cli(*command.split(), "--bound", "speed=1s").code == 2
    assert cli(*command.split(), "--bound", "latency=1ns").code == 3


def test_activations_of_a_training_step_wait_elsewhere_where_they_do_not_fit() -> None:
    options = WorkloadOptions(phase="train", batch=4, prompt=512)
    graph = load_workload("gpt2", options).phases[0].graph
    machine = Machine(with_vram(load_system("desktop"), 1.1e9))
    found = co_place(graph, machine, replace(QUICK, devices="gpu", limit=6.0))
    parked = [task for task in found.plan.tasks if task.name.startswith("park ")]
    assert parked
    assert {task.target for task in parked if isinstance(task, Transfer)} <= {"host", "ssd"}
    assert found.notes.bound <= found.notes.simulated_s
