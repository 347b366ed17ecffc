"""What a byte costs: read and written bytes at their own prices, and no device above its cooling."""

from __future__ import annotations

from dataclasses import replace

import pytest
from machines import cpu, drive, move, plan, ram, run_task, system, tensors, wire

import offchip
from hw_configs.library import load_device, load_system
from hw_configs.system import Node, System
from simulator.cost.model import COST_MODELS, arithmetic_joules
from simulator.plan import Plan
from simulator.result import Result
from simulator.simulate import simulate
from simulator.system.costs import CostTable, MeasuredMemory
from tests.typed import operator_of
from workloads.graph import Graph, Operator
from workloads.workload import Phase, Workload

BOARDS = ("a100-80gb", "a100-pcie-40gb", "h100-sxm", "b200", "l4", "t4", "rtx-4090")
MODELS = ("by-device", "by-device-eager", "roofline", "roofline-peak")


def priced_drive() -> System:
    """A drive whose writes cost five times its reads."""
    ssd = drive("ssd", 1 << 20, 500.0, 250.0)
    store = ssd.store.model_copy(update={"energy_per_byte_read": 1.0, "energy_per_byte_written": 5.0})
    devices = {"host": cpu("host", ram(1 << 20, 1e6)), "ssd": ssd.model_copy(update={"store": store})}
    return system(devices, [wire("nvme", [("ssd", "host")], 1e6)])


def moved(machine: System, name: str, source: str, target: str) -> Result:
    graph = Graph("g", tensors({"x": 100}), ())
    made: Plan = plan(graph, machine, [move("x", source, target)], {"x": source})
    return simulate(Workload(name, (Phase(name, "forward", graph),)), machine, lambda *_: made)


@pytest.mark.parametrize(("source", "target", "joules"), [("ssd", "host", 100.0), ("host", "ssd", 500.0)])
def test_a_copy_pays_for_reading_here_and_for_writing_there(source: str, target: str, joules: float) -> None:
    result = moved(priced_drive(), "copy", source, target)
    assert result.energy_j["ssd memory"] == joules
    assert result.energy_j["host memory"] == 0.0
    use = result.memories["ssd"]
    assert (use.read_bytes, use.written_bytes) == ((100, 0) if source == "ssd" else (0, 100))


def test_the_prices_of_a_memory_are_those_of_its_file_or_of_its_measurement() -> None:
    table = CostTable(priced_drive(), COST_MODELS.get("roofline"))
    assert [table.joules_per_byte("ssd", written=w) for w in (False, True)] == [1.0, 5.0]
    found = MeasuredMemory(1.0, 1.0, 2.0, 3.0)
    measured = CostTable(priced_drive(), COST_MODELS.get("roofline"), measured={"host": found})
    assert [measured.joules_per_byte("host", written=w) for w in (False, True)] == [2.0, 3.0]


@pytest.mark.parametrize(
    ("model", "machine", "device"),
    [
        *((model, "a100-80gb", "a100-80gb") for model in ("by-device", "roofline", "roofline-peak")),
        ("scratchpad", "edge-tpu-board", "accelerator"),
    ],
)  # fmt: skip
def test_a_kernel_pays_for_what_it_reads_and_for_what_it_writes(
    model: str, machine: str, device: str
) -> None:
    loaded = load_system(machine)
    node = loaded.nodes[device]
    memory = replace(loaded.memories[device], energy_per_byte_read_j=1e-12, energy_per_byte_written_j=7e-12)
    size = 1 << 24
    work = operator_of(
        "elementwise", 1.0, 3 * size, size, "int8" if device == "accelerator" else "fp16", name="o"
    )
    cost = COST_MODELS.get(model).cost(work, node, memory)
    assert cost.memory_energy_j == pytest.approx(cost.read_bytes * 1e-12 + size * 7e-12)


def test_an_operator_on_a_drive_pays_the_drives_prices() -> None:
    loaded = load_system("csd-node")
    memory = replace(loaded.memories["csd0"], energy_per_byte_read_j=1e-12, energy_per_byte_written_j=7e-12)
    work = operator_of("elementwise", 1.0, 3000, 1000, "fp16", name="o")
    cost = COST_MODELS.get("by-device").cost(work, loaded.nodes["csd0"], memory)
    assert cost.memory_energy_j == pytest.approx(3000e-12 + 7000e-12)


def on(name: str) -> tuple[Node, System]:
    device = load_device(name)
    node = Node(name, device.kind, device, name)
    return node, System(name, {name: node}, {})


def watts(model: str, operator: Operator, node: Node, machine: System) -> float:
    """Mean power of a board that runs an operator, idle included."""
    cost = COST_MODELS.get(model).cost(operator, node, machine.memories[node.name])
    seconds = cost.launch_seconds + cost.seconds
    return float(node.device.power.idle + (cost.compute_energy_j + cost.memory_energy_j) / seconds)


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("model", MODELS)
def test_no_operator_of_a_training_step_draws_more_than_the_board_cools(board: str, model: str) -> None:
    """Convolutions whose tiles skip rows of the image, and attention there and back, among all others."""
    node, machine = on(board)
    for name, options in (("resnet-50", {"batch": 32}), ("gpt3-large", {"batch": 4, "prompt": 1024})):
        for phase in offchip.load_model(name, phase="train", **options).phases:
            for operator in phase.graph.operators:
                if operator.kind != "view":
                    drawn = watts(model, operator, node, machine)
                    assert drawn <= node.device.power.tdp * (1 + 1e-9), (operator.name, drawn)


@pytest.mark.parametrize("board", BOARDS)
def test_attention_backward_does_five_products_at_the_price_of_five(board: str) -> None:
    """Its energy per FLOP is the forward pass's: 2.5 times the arithmetic, not 2.5 times 2.5."""
    node, machine = on(board)
    graph = offchip.load_model("gpt3-large", phase="train", batch=4, prompt=1024).phases[0].graph
    forward = next(o for o in graph.operators if o.kind == "attention")
    backward = graph.operator_by_name[f"{forward.name}.backward"]
    costs = [COST_MODELS.get("by-device").cost(o, node, machine.memories[board]) for o in (forward, backward)]
    there, back = (c.compute_energy_j / o.flops for c, o in zip(costs, (forward, backward), strict=True))
    assert back == pytest.approx(there, rel=0.1)


def test_arithmetic_draws_what_idle_power_and_memory_leave_of_the_tdp() -> None:
    node, machine = on("a100-80gb")
    memory, room = machine.memories["a100-80gb"], 350.0
    assert arithmetic_joules(1.0, 100.0, 1.0, node, memory) == 1.0
    assert arithmetic_joules(1e9, 100.0, 1.0, node, memory) == room - 100.0
    assert arithmetic_joules(1e9, 1e9, 1.0, node, memory) == 0.0
    elsewhere = replace(memory, name="host")
    assert arithmetic_joules(1e9, 100.0, 2.0, node, elsewhere) == 2 * room
    assert arithmetic_joules(1e9, 0.0, 1.0, Node("free", "cpu", cpu("free", None), "free"), memory) == 1e9


def test_a_kernel_that_waits_for_its_memory_spends_no_more() -> None:
    """Contention stretches time, not energy: two kernels side by side cost what they cost one after another."""
    machine = load_system("laptop")
    work = tuple(
        operator_of("elementwise", 1000000.0, 1 << 28, 1 << 28, "fp32", name=d) for d in ("gpu", "cpu")
    )
    graph = Graph("pair", {}, work)

    def run(*after: str) -> Result:
        tasks = [run_task("gpu", "gpu"), run_task("cpu", "cpu", after=after)]
        made = plan(graph, machine, tasks, {})
        return simulate(Workload("pair", (Phase("pair", "forward", graph),)), machine, lambda *_: made)

    beside, apart = run(), run("gpu")
    assert beside.makespan_s <= apart.makespan_s * (1 + 1e-9)
    kept = {name: joules for name, joules in beside.energy_j.items() if not name.endswith("idle")}
    assert kept == {name: joules for name, joules in apart.energy_j.items() if not name.endswith("idle")}
