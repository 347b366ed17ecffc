"""Small machines and graphs to place."""

from __future__ import annotations

from pathlib import Path

from hw_configs.library import load_system
from hw_configs.system import System
from workloads.graph import Graph, Role, Tensor, make_operator
from workloads.importers import load_workload
from workloads.operators import Product
from workloads.workload import WorkloadOptions

TEXT = """
name: three
description: a GPU, a slower one and a CPU with its memory
devices:
  gpu: {{use: rtx-4090}}
  other: {{use: t4}}
  cpu: {{use: ryzen-7950x, memory: host}}
  host: {{use: host-ddr5-4800-2ch-64gb}}
links:
  - {{use: ddr5-4800-2ch-path, between: [cpu, host]}}
  - {{use: pcie4-x16, between: [gpu, cpu]}}
  - {{use: {other}, between: [other, cpu]}}
"""


def three_devices(folder: Path, other: str = "pcie3-x16") -> System:
    """A machine of three devices that compute."""
    path = folder / "three.yaml"
    path.write_text(TEXT.format(other=other), encoding="utf-8")
    return load_system(path)


def decode(model: str, batch: int = 1, prompt: int = 256, dtype: str | None = None) -> Graph:
    """A decode step."""
    options = WorkloadOptions(phase="decode", batch=batch, prompt=prompt, dtype=dtype)
    return load_workload(model, options).phases[0].graph


def products(sizes: list[tuple[int, int, int]], wiring: list[tuple[int, ...]]) -> Graph:
    """Products (m, n, k) one after another: operator i reads the results of the operators in ``wiring[i]``."""
    tensors = {"x": Tensor("x", (1, 64), "fp16")}
    operators = []
    for index, ((m, n, k), before) in enumerate(zip(sizes, wiring, strict=True)):
        weight, out = Tensor(f"w{index}", (n, k), "fp16", Role.WEIGHT), Tensor(f"y{index}", (m, n), "fp16")
        tensors[weight.name], tensors[out.name] = weight, out
        inputs = [*(f"y{other}" for other in before), weight.name] if before else ["x", weight.name]
        operators.append(make_operator(f"op{index}", Product(m=m, n=n, k=k), inputs, [out.name], tensors))
    read = {name for op in operators for name in op.inputs}
    outputs = tuple(op.outputs[0] for op in operators if op.outputs[0] not in read)
    return Graph("products", tensors, tuple(operators), outputs)
