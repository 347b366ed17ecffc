"""``co-place`` on machines of many memories: one plan from end to end, no slower than what it may also do."""

from __future__ import annotations

import json
from functools import cache

import pytest
from typer.testing import CliRunner

import offchip
from mapping.mapper import MapperOptions, mapper_settings, plan_writer
from mapping.placement.machine import Machine
from mapping.placement.trial import try_plan
from offchip.cli.main import app
from simulator.check import check
from simulator.plan import Compute, Plan
from simulator.rewrite.apply import rewrite
from workloads.graph import Graph
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions


@cache
def graph_of(layers: int = 2, batch: int = 1, prompt: int = 64) -> Graph:
    options = WorkloadOptions(phase="decode", batch=batch, prompt=prompt, layers=layers)
    return load_workload("llama-3.1-8b", options).phases[0].graph


def planned(graph: Graph, system: str, **values: str) -> tuple[Plan, float]:
    machine = offchip.load_system(system)
    text = {name.replace("_", "-"): value for name, value in values.items()}
    options = MapperOptions(settings=mapper_settings("co-place", text, "plan"))
    plan = plan_writer("co-place").plan(graph, machine, options)
    assert check(plan, rewrite(graph, plan), machine) == []
    trial = try_plan(graph, Machine(machine), plan)
    assert trial.obstacle == ""
    return plan, trial.seconds


@pytest.mark.parametrize("system", ["every-memory", "csd-node", "gpu-pim", "pim-gpt"])
def test_one_plan_on_every_kind_of_memory(system: str) -> None:
    graph = graph_of()
    _, seconds = planned(graph, system)
    mapper = plan_writer("pim" if system == "pim-gpt" else "single-device")
    other = mapper.plan(graph, offchip.load_system(system), MapperOptions())
    assert seconds <= try_plan(graph, Machine(offchip.load_system(system)), other).seconds * (1 + 1e-9)


@pytest.mark.parametrize(
    ("caches", "attends"), [("gpu", "gpu"), ("host", "gpu cpu"), ("pim", "pim"), ("csd", "gpu csd")]
)
def test_a_cache_that_may_live_in_one_memory_is_attended_from_there(caches: str, attends: str) -> None:
    plan, _ = planned(graph_of(batch=8, prompt=2048), "every-memory", caches=caches)
    held = {home.memory.rstrip("0123") for homes in plan.homes.values() for home in homes}
    assert caches in held
    devices = {
        task.device.rstrip("0123")
        for task in plan.tasks
        if isinstance(task, Compute) and ".attend" in task.name
    }
    assert devices <= set(attends.split())


@pytest.mark.parametrize(("batch", "prompt"), [(1, 64), (8, 2047), (1, 16383)])
def test_grouped_queries_are_laid_out_in_banks_that_share_a_unit(batch: int, prompt: int) -> None:
    graph, system = graph_of(batch=batch, prompt=prompt), offchip.load_system("gpu-pim")
    plan = plan_writer("pim").plan(graph, system, MapperOptions())
    assert try_plan(graph, Machine(system), plan).obstacle == ""


def test_work_stays_on_the_devices_of_its_role() -> None:
    plan, _ = planned(graph_of(), "desktop", products="gpu", attention="cpu", caches="host")
    at = {task.operator: task.device for task in plan.tasks if isinstance(task, Compute)}
    assert {device for name, device in at.items() if name.endswith(".attend")} == {"cpu"}
    assert {device for name, device in at.items() if not name.endswith(".attend")} == {"gpu"}


@pytest.mark.slow
@pytest.mark.parametrize("system", ["every-memory", "pim-gpt"])
def test_solve_answers_with_tables(system: str) -> None:
    asked = (
        "solve",
        "offload",
        "gpt2",
        "--hw",
        system,
        "--phase",
        "decode",
        "--policy",
        "co-place",
        "--seq",
        "256",
    )
    result = CliRunner().invoke(app, [*asked, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)
