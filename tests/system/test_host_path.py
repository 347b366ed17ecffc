"""Pageable copies, software before a transfer and mapped files, at every fidelity, against a plain reckoning."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hw_configs.library import load_system
from hw_configs.problems import InputError
from hw_configs.system import System
from simulator.check import check
from simulator.plan import Home, Plan, Task, Transfer
from simulator.plan_file import plan_from_json, read_plan, write_plan
from simulator.result import Result
from simulator.simulate import simulate
from simulator.system.host_path import mapped_scan
from workloads.graph import Graph, Role, Tensor
from workloads.workload import Phase, Workload

DESKTOP = load_system("rtx-2080-desktop")
SERVER = load_system("rtx-4090-xeon-6454s")
EXAMPLES = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
ROUNDED = 1.0 + 1e-9


def transfer(name: str, source: str, target: str, **more: object) -> Transfer:
    return Transfer(name, f"stream {name}", name, source, target, **more)  # type: ignore[arg-type]


def run(
    tasks: list[Transfer], sizes: dict[str, int], system: System = DESKTOP, fidelity: str = "event"
) -> Result:
    """Transfers of tensors that lie where they begin, each on a stream of its own."""
    tensors = {name: Tensor(name, (size,), "int8", Role.WEIGHT) for name, size in sizes.items()}
    graph = Graph("moves", tensors, ())
    homes = {task.tensor: (Home(task.source),) for task in tasks}
    plan = Plan("moves", system.name, "hand", tuple(tasks), homes)
    workload = Workload("moves", (Phase("moves", "forward", graph),))
    return simulate(workload, system, lambda *_: plan, fidelity=fidelity)


def plainly(task: Transfer, size: int, system: System = DESKTOP) -> float:
    """Seconds of a transfer alone: software, latencies of what it crosses, and the slowest step of its bytes."""
    links = [system.wires[wire].link for wire, _ in system.route(task.source, task.target)]
    seconds = task.wait_s + system.memories[task.source].latency_s + sum(link.latency for link in links)
    host = system.memories["host"]
    steps = [size / link.bandwidth for link in links]
    for memory in (task.source, task.target):
        times = 3 if task.pageable and memory == "host" else 1
        steps.append(times * size / system.memories[memory].read_bandwidth)
    if task.pageable:
        core = system.nodes["cpu"].device.core_bandwidth  # type: ignore[union-attr]
        steps.append(size / (core / 2))
    assert host.ports == 1
    return seconds + max(steps)


@EXAMPLES
@given(
    st.integers(1, 1 << 28), st.booleans(), st.booleans(), st.floats(0.0, 1e-2),
    st.sampled_from(["analytic", "event", "cycle"]), st.sampled_from([DESKTOP, SERVER]),
)  # fmt: skip
def test_a_copy_takes_what_a_plain_reckoning_says(
    size: int, pageable: bool, back: bool, wait_s: float, fidelity: str, system: System
) -> None:
    ends = ("gpu", "host") if back else ("host", "gpu")
    task = transfer("x", *ends, pageable=pageable, wait_s=wait_s)
    took = run([task], {"x": size}, system, fidelity).makespan_s
    if fidelity == "cycle":
        # There the host's DRAM runs at what its engine finds, below its pins.
        assert plainly(task, size, system) <= took * ROUNDED
    else:
        assert took == pytest.approx(plainly(task, size, system), rel=1e-9)


def test_pageable_is_slower_and_books_the_bounce() -> None:
    size = 1 << 28
    system = SERVER
    pinned = run([transfer("x", "host", "gpu")], {"x": size}, system)
    staged = run([transfer("x", "host", "gpu", pageable=True)], {"x": size}, system)
    # A server core streams 13 GB/s, so it copies 6.5, a quarter of the link.
    assert staged.makespan_s == pytest.approx(size / 6.5e9, rel=0.01)
    assert staged.makespan_s > 3 * pinned.makespan_s
    assert staged.memories["host"].read_bytes == 2 * size
    assert staged.memories["host"].written_bytes == size
    assert pinned.memories["host"].read_bytes == size
    assert staged.energy_j["host memory"] > pinned.energy_j["host memory"]


def test_two_pageable_copies_share_the_core_that_copies() -> None:
    sizes = {"x": 1 << 28, "y": 1 << 28}
    system = SERVER
    both = [transfer(name, "host", "gpu", pageable=True) for name in sizes]
    alone = run(both[:1], {"x": sizes["x"]}, system).makespan_s
    for fidelity in ("event", "analytic"):
        assert run(both, sizes, system, fidelity).makespan_s == pytest.approx(2 * alone, rel=0.01)


def test_software_before_a_transfer_holds_its_stream_and_no_wire() -> None:
    size = 1 << 20
    waits = [transfer("x", "host", "gpu", wait_s=276e-6), transfer("y", "host", "gpu")]
    found = run(waits, {"x": size, "y": size})
    alone = run(waits[1:], {"y": size}).makespan_s
    ends = dict(zip(found.timeline.task, found.timeline.end, strict=True))
    assert ends["y"] == pytest.approx(alone), "nobody is on the wire while the other waits"
    assert ends["x"] == pytest.approx(alone + 276e-6)


def test_a_mapped_file_that_fits_stays_and_one_that_does_not_comes_anew() -> None:
    """65 GiB mapped into 64 GiB come from the drive at the rate of one faulting reader; 1 GiB is touched alone."""
    small = run([transfer("x", "ssd", "host", mapped=True)], {"x": 1 << 30})
    assert small.memories["ssd"].read_bytes == 0
    assert small.makespan_s < 0.01
    parts = {f"part{n}": 1 << 30 for n in range(65)}
    tasks = [
        replace(transfer(name, "ssd", "host", mapped=True), stream="reader", frees=((name, "host"),))
        for name in parts
    ]
    large = run(tasks, parts)
    assert large.memories["ssd"].read_bytes == 65 << 30
    scan = mapped_scan(DESKTOP.nodes["ssd"].device, 65 << 30, 64 << 30)  # type: ignore[arg-type]
    assert scan.miss_share == 1.0
    assert large.makespan_s == pytest.approx(
        (65 << 30) * (1 / scan.bytes_per_s + scan.touch_s_per_byte), rel=0.01
    )
    # What one reader gets is far below what the drive streams: read-ahead is 128 KiB.
    assert scan.bytes_per_s < 0.3 * DESKTOP.memories["ssd"].read_bandwidth
    four = run([replace(task, readers=4) for task in tasks], parts)
    assert large.makespan_s / 4.2 < four.makespan_s < large.makespan_s / 3


@pytest.mark.parametrize("fidelity", ["analytic", "event", "cycle"])
def test_mapped_files_run_at_every_fidelity(fidelity: str) -> None:
    sizes = {"x": 1 << 28, "y": 1 << 30}
    tasks = [
        transfer("x", "ssd", "host", mapped=True),
        transfer("y", "host", "gpu", pageable=True, wait_s=1e-3),
    ]
    assert run(tasks, sizes, fidelity=fidelity).makespan_s > 1e-3


WRONG = [
    ("is pageable, but not between", transfer("x", "ssd", "host", pageable=True)),
    ("which is no drive", transfer("x", "gpu", "host", mapped=True)),
    ("which is no CPU's memory", transfer("x", "ssd", "gpu", mapped=True)),
    ("cannot come in chunks", transfer("x", "ssd", "host", mapped=True, chunk_bytes=4096)),
    ("which is no time", transfer("x", "host", "gpu", wait_s=-1.0)),
    ("which is no time", transfer("x", "host", "gpu", wait_s=float("inf"))),
    ("which is no time", transfer("x", "host", "gpu", wait_s=float("nan"))),
]


@pytest.mark.parametrize(("message", "task"), WRONG, ids=lambda value: str(value)[:30])
def test_what_cannot_be_is_said(message: str, task: Transfer) -> None:
    graph = Graph("moves", {"x": Tensor("x", (8,), "int8", Role.WEIGHT)}, ())
    found = check(Plan("moves", DESKTOP.name, "hand", (task,), {"x": (Home(task.source),)}), graph, DESKTOP)
    assert any(message in violation.message for violation in found)


@EXAMPLES
@given(st.booleans(), st.booleans(), st.floats(0.0, 1e6), st.integers(0, 64))
def test_plan_files_keep_them(
    tmp_path_factory, pageable: bool, mapped: bool, wait_s: float, readers: int
) -> None:  # type: ignore[no-untyped-def]
    task: Task = transfer(
        "x", "ssd", "host", pageable=pageable, mapped=mapped, wait_s=wait_s, readers=readers
    )
    path: Path = tmp_path_factory.getbasetemp() / "host-path.json"
    plan = Plan("g", "s", "hand", (task,), {"x": (Home("ssd"),)})
    write_plan(plan, path)
    assert read_plan(path).tasks == plan.tasks


@pytest.mark.parametrize(
    ("key", "value"),
    [("wait_s", "soon"), ("wait_s", -1), ("wait_s", 1e9), ("pageable", 1), ("mapped", "yes")],
)
def test_plan_files_with_wrong_values_are_refused(key: str, value: object) -> None:
    task = {
        "name": "x",
        "kind": "transfer",
        "stream": "s",
        "tensor": "x",
        "source": "a",
        "target": "b",
        key: value,
    }
    data = json.loads(json.dumps({"format": "offchip-plan-1", "tasks": [task]}))
    with pytest.raises(InputError) as error:
        plan_from_json(data, "plan.json")
    assert f"tasks.0.{key}" in str(error.value)
