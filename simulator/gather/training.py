"""What a mini-batch costs to train: operators of a graph layer over its sampled edges, priced by the GPU's cost model.

Products are products; an aggregation reads a row for each edge and writes one for each target (a fused sparse-dense
product, memory-bound, as DGL's and PyG's kernels are); attention adds scores and a softmax over edges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from hw_configs.problems import bad_input, nearest
from simulator.cost.by_device import BY_DEVICE_EAGER
from simulator.gather.machine import GatherMachine
from workloads.dtypes import size_bytes
from workloads.graph import Operator
from workloads.graph_data.batches import LayerSizes
from workloads.operators import Elementwise, Gather, Optimizer, Product, Reduce, Softmax

__all__ = ["MODELS", "GraphModel", "TrainingCost", "batch_operators", "training_cost"]

Model = Literal["sage", "gcn", "gat"]
MODELS: Final = get_args(Model)


@dataclass(frozen=True, slots=True)
class GraphModel:
    """A graph network: one layer for each sampled one. ``hidden``: width, of all heads together for ``gat``."""

    model: Model = "sage"
    features: int = 128
    hidden: int = 256
    classes: int = 47
    heads: int = 4
    dtype: str = "fp32"

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise bad_input(
                f"found {self.model!r}; known: {', '.join(MODELS)}",
                path="--model",
                suggestion=nearest(self.model, MODELS),
            )
        sizes = (self.features, self.hidden, self.classes, self.heads)
        if min(sizes) < 1 or max(sizes) > 2**20:
            raise bad_input(
                f"found {sizes}; expected 1 to 2^20 features, hidden, classes and heads", path="model"
            )

    def widths(self, layers: int) -> list[int]:
        """Elements of a node before each layer and after the last."""
        return [self.features, *[self.hidden] * (layers - 1), self.classes]


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """Seconds (kernels and launches), joules above idle, FLOP, and bytes of the GPU's memory."""

    seconds: float
    energy_j: float
    flops: float
    bytes: int


def training_cost(machine: GatherMachine, model: GraphModel, layers: Sequence[LayerSizes]) -> TrainingCost:
    """One step on one batch: forward, backward and the update; ``layers`` from the seeds outwards."""
    seconds, energy, flops, moved = 0.0, 0.0, 0.0, 0
    for operator in batch_operators(model, layers):
        cost = BY_DEVICE_EAGER.cost(operator, machine.gpu, machine.gpu_memory)
        seconds += cost.seconds + cost.launch_seconds
        energy += cost.compute_energy_j + cost.memory_energy_j
        flops += operator.flops
        moved += cost.read_bytes + cost.write_bytes
    return TrainingCost(seconds, energy, flops, moved)


def batch_operators(model: GraphModel, layers: Sequence[LayerSizes]) -> Iterator[Operator]:
    """The operators of a step, from the outermost layer to the loss and back."""
    widths = model.widths(len(layers))
    inwards = list(reversed(layers))
    parameters = 0
    for number, (layer, wide, out) in enumerate(zip(inwards, widths[:-1], widths[1:], strict=True)):
        parameters += wide * out * (2 if model.model == "sage" else 1)
        yield from _layer(model, layer, wide, out, first=number == 0)
    seeds = layers[0].targets
    yield _rows(
        "loss",
        Softmax(m=seeds, n=model.classes, flops_per_element=5),
        seeds,
        seeds,
        model.classes,
        model.dtype,
    )
    moved = size_bytes(parameters, model.dtype)
    yield Operator(
        "update", Optimizer(parameters=parameters, states=2, flops_per_parameter=12), (), (), dtype=model.dtype,
        beside_read=4 * moved, beside_written=3 * moved,
    )  # fmt: skip


def _layer(model: GraphModel, layer: LayerSizes, wide: int, out: int, *, first: bool) -> Iterator[Operator]:
    dtype, targets, edges = model.dtype, layer.targets, layer.edges
    # GAT projects before it aggregates; the others aggregate what comes in.
    attention = model.model == "gat"
    rows = layer.sources if attention else targets
    deep = 2 * wide if model.model == "sage" else wide
    mixed = out if attention else wide
    yield _rows(
        "aggregate",
        Reduce(m=targets, n=mixed, flops_per_element=_per(edges, targets)),
        edges,
        targets,
        mixed,
        dtype,
    )
    yield _product("project", rows, out, deep, dtype)
    yield _rows("activate", Elementwise(m=targets, n=out, flops_per_element=1), targets, targets, out, dtype)
    if attention:
        heads = model.heads
        yield _rows(
            "scores", Elementwise(m=edges, n=heads, flops_per_element=3), 2 * edges, edges, heads, dtype
        )
        yield _rows("softmax", Softmax(m=targets, n=max(1, edges * heads // max(1, targets)), flops_per_element=5),
                    edges, edges, heads, dtype)  # fmt: skip
        yield _rows(
            "softmax back", Elementwise(m=edges, n=heads, flops_per_element=4), 3 * edges, edges, heads, dtype
        )
    yield _rows(
        "activate back", Elementwise(m=targets, n=out, flops_per_element=1), 2 * targets, targets, out, dtype
    )
    yield _product("weights back", deep, out, rows, dtype)
    if attention or not first:
        yield _rows(
            "aggregate back",
            Gather(m=edges, n=mixed, flops_per_element=1),
            edges,
            layer.sources,
            mixed,
            dtype,
        )
    if not first:
        yield _product("inputs back", rows, deep, out, dtype)


def _per(edges: int, targets: int) -> float:
    return edges / targets if targets else 0.0


def _product(name: str, m: int, n: int, k: int, dtype: str) -> Operator:
    read = (size_bytes(m * k, dtype), size_bytes(k * n, dtype))
    return Operator(
        name, Product(m=m, n=n, k=k), ("left", "right"), ("out",), dtype=dtype, reads=read,
        writes=(size_bytes(m * n, dtype),),
    )  # fmt: skip


def _rows(
    name: str, work: Reduce | Elementwise | Softmax | Gather, read: int, written: int, n: int, dtype: str
) -> Operator:
    """An operator that reads and writes so many rows of n elements."""
    return Operator(
        name, work, ("in",), ("out",), dtype=dtype, reads=(size_bytes(read * n, dtype),),
        writes=(size_bytes(written * n, dtype),),
    )  # fmt: skip
