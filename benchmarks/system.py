"""How fast the system simulator is: ``python benchmarks/system.py``.

Each row is a scenario, its seconds after start-up, its limit, and the ratio to a baseline: the plain sum of
roofline times by a bare loop over the same operators, which is the least any simulator of these costs does.
The exit code is 1 when a limit is broken. Graphs of 100,000 operators are made here: a chain of blocks with
weights and residual edges, and the same as a training step whose activations live until the backward pass.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import offchip
from hw_configs.system import System
from simulator.cost.model import COST_MODELS
from workloads.graph import Graph, Operator, Role, Tensor, make_operator
from workloads.operators import Elementwise, Product
from workloads.workload import Phase, Workload

PRODUCT = Product(m=64, n=4096, k=191)
ADDITION = Elementwise(m=64, n=64, flops_per_element=5.0, function="add")


@dataclass(frozen=True)
class Row:
    """One scenario: seconds it took, seconds it may take, seconds of the baseline loop."""

    name: str
    operators: int
    seconds: float
    limit: float
    baseline: float


def block_graph(operators: int, fan_out: int = 4) -> Graph:
    """A chain of blocks of ``fan_out`` branches that are summed into a residual stream."""
    tensors: dict[str, Tensor] = {}
    made: list[Operator] = []

    def tensor(name: str, size: int, role: Role = Role.ACTIVATION) -> str:
        tensors[name] = Tensor(name, (size // 2,), "fp16", role)
        return name

    stream = tensor("input", 8192)
    while len(made) < operators:
        number = len(made)
        branches = []
        for branch in range(fan_out):
            weight = tensor(f"w{number}.{branch}", 32768, Role.WEIGHT)
            out = tensor(f"b{number}.{branch}", 8192)
            branches.append(out)
            made.append(make_operator(f"mm{number}.{branch}", PRODUCT, (stream, weight), (out,), tensors))
        summed = tensor(f"s{number}", 8192)
        made.append(make_operator(f"add{number}", ADDITION, (stream, *branches), (summed,), tensors))
        stream = summed
    return Graph("blocks", tensors, tuple(made[:operators]), ())


def training_graph(operators: int) -> Graph:
    """Forward and backward over ``operators`` operators: every activation lives until its gradient."""
    layers = operators // 2
    tensors = {"a0": Tensor("a0", (4096,), "fp16")}
    forward, backward = [], []
    for i in range(layers):
        tensors[f"w{i}"] = Tensor(f"w{i}", (4096,), "fp16", Role.WEIGHT)
        tensors[f"a{i + 1}"] = Tensor(f"a{i + 1}", (4096,), "fp16")
        tensors[f"g{i}"] = Tensor(f"g{i}", (4096,), "fp16", Role.GRADIENT)
        forward.append(make_operator(f"f{i}", PRODUCT, (f"a{i}", f"w{i}"), (f"a{i + 1}",), tensors))
    for i in reversed(range(layers)):
        above = f"g{i + 1}" if i + 1 < layers else f"a{layers}"
        inputs = (above, f"a{i}", f"w{i}")
        backward.append(make_operator(f"b{i}", PRODUCT, inputs, (f"g{i}",), tensors, updates=(f"w{i}",)))
    return Graph("training", tensors, (*forward, *backward), ("g0",))


def baseline_seconds(workload: Workload, system: System) -> float:
    """Time of a bare loop that adds the roofline time of every operator of every phase."""
    graphs = [phase.graph for phase in workload.phases]
    node = system.workers()[0]
    memory = system.memories[node.memory or node.name]
    model = COST_MODELS.get("roofline")
    begin = time.perf_counter()
    total = 0.0
    for graph in graphs:
        for operator in graph.operators:
            cost = model.cost(operator, node, memory)
            total += cost.seconds + cost.launch_seconds
    return time.perf_counter() - begin


def timed(
    name: str,
    limit: float,
    workload: Workload,
    system: System,
    fidelity: str = "event",
    mapper: str | None = None,
) -> Row:
    """Simulate a workload that is built already, and write its result as JSON text."""
    begin = time.perf_counter()
    result = offchip.simulate(workload, system, fidelity=fidelity, mapper=mapper)
    json.dumps(result.to_json())
    seconds = time.perf_counter() - begin
    return Row(name, len(result.timeline), seconds, limit, baseline_seconds(workload, system))


def one_graph(graph: Graph) -> Workload:
    """A workload of one forward phase."""
    return Workload(graph.name, (Phase(graph.name, "forward", graph),))


def help_seconds() -> float:
    """Fastest of three starts of ``offchip --help``; the first fills the file cache."""
    offchip_command = str(Path(sys.executable).with_name("offchip"))
    best = float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        subprocess.run([offchip_command, "--help"], check=True, capture_output=True)
        best = min(best, time.perf_counter() - begin)
    return best


def main() -> int:
    """Print the table; 1 when a limit is broken."""
    system = offchip.load_system("a100-80gb")
    decode = offchip.load_model("llama-3-8b", phase="decode", batch=8, prompt=512)
    offchip.simulate(decode, system)  # imports and caches
    scenarios: list[Callable[[], Row]] = [
        lambda: timed("decode step of llama-3-8b, event", 0.5, decode, system),
        lambda: timed("decode step of llama-3-8b, analytic", 0.5, decode, system, "analytic"),
        lambda: timed(
            "llama-3-8b, 512 + 128 tokens", 5.0,
            offchip.load_model("llama-3-8b", batch=8, prompt=512, generate=128), system,
        ),
        lambda: timed(
            "llama-2-70b from host memory, 64 + 8", 5.0,
            offchip.load_model("llama-2-70b", prompt=64, generate=8), offchip.load_system("workstation"),
            mapper="stream-weights",
        ),
        lambda: timed("100,000 operators in blocks", 30.0, one_graph(block_graph(100_000)), system),
        lambda: timed("100,000 operators, training", 30.0, one_graph(training_graph(100_000)), system),
        lambda: timed(
            "100,000 operators, training, analytic", 30.0, one_graph(training_graph(100_000)), system,
            "analytic",
        ),
    ]  # fmt: skip
    rows = [scenario() for scenario in scenarios]
    print(f"{'scenario':40} {'tasks':>8} {'seconds':>8} {'limit':>6} {'bare loop':>10} {'ratio':>6}")
    for row in rows:
        ratio = row.seconds / row.baseline if row.baseline else float("nan")
        print(
            f"{row.name:40} {row.operators:8} {row.seconds:8.3f} {row.limit:6.1f} {row.baseline:9.3f}s"
            f" {ratio:6.1f}"
        )
    start = help_seconds()
    print(f"{'offchip --help':40} {'':8} {start:8.3f} {0.5:6.1f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'peak memory of this process':40} {'':8} {peak:7.0f}M {'2048M':>6}")
    broken = [row for row in rows if row.seconds > row.limit] or start > 0.5 or peak > 2048
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
