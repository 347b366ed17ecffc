"""What an offloading policy for a block of batches says, and the machine and model it is judged on.

A generation that does not fit a GPU runs a *block*: several GPU batches go through a layer one after the
other, so that the layer's weights are fetched once for all of them. A policy fixes the batch, how many make a
block, and which share of the weights, of the KV cache and of the hidden states lives on GPU, host and disk
(FlexGen, Sheng et al., ICML 2023, arXiv:2303.06865, section 4). Sizes are bytes of FP16, times seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from hw_configs.problems import InputError, Problem, bad_input
from workloads.graph import Graph, Operator
from workloads.importers import load_workload
from workloads.operators import Attention, GroupedProduct, Product
from workloads.workload import WorkloadOptions

__all__ = [
    "RELEASED_T4",
    "BlockPolicy",
    "BlockRates",
    "BlockShape",
    "Capacities",
    "shape_of",
    "shape_of_graph",
]

GIB: Final = 2**30


@dataclass(frozen=True, slots=True)
class BlockShape:
    """A decoder and a generation: layers and widths in elements; tokens of the prompt and tokens generated.

    ``kv_width`` is the width of K (and of V) of one token over all KV heads; ``ffn_products`` is 2 for an
    up and a down projection, 3 with a gate.
    """

    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_width: int
    ffn_products: int
    prompt: int
    generate: int
    weight_bits: int = 16

    @property
    def layer_parameters(self) -> float:
        """Elements of one layer's projections."""
        attention = 2.0 * self.hidden * (self.hidden + self.kv_width)
        return attention + float(self.ffn_products) * self.hidden * self.ffn

    @property
    def layer_bytes(self) -> float:
        """Bytes of one layer's projections as they are stored."""
        return self.layer_parameters * self.weight_bits / 8

    @property
    def kv_bytes(self) -> float:
        """Bytes of K and V of one token in one layer, FP16."""
        return 4.0 * self.kv_width


@dataclass(frozen=True, slots=True)
class Capacities:
    """Bytes that a policy may fill on GPU, host and disk."""

    gpu: float
    host: float
    disk: float


@dataclass(frozen=True, slots=True)
class BlockRates:
    """Sustained rates of a machine: links in B/s, arithmetic in FLOP/s.

    ``prefill`` rates serve long products, ``decode`` rates products of one token per sequence. ``disk_weight``
    is the share of the disk's read rate that weights reach beside the KV cache. ``cpu_fit`` are the released
    model's three coefficients of how attention on the host slows with small batches and narrow models.
    """

    host_to_gpu: float
    gpu_to_host_cache: float
    gpu_to_host_hidden: float
    disk_to_host: float
    host_to_disk_cache: float
    host_to_disk_hidden: float
    host_to_disk_decode: float
    matmul_prefill: float
    matmul_decode: float
    attention_prefill: float
    attention_decode: float
    attention_host: float
    disk_weight: float = 1.0
    cpu_fit: tuple[float, float, float] = (0.0, 0.0, 0.0)


RELEASED_T4: Final = BlockRates(
    host_to_gpu=12.89 * GIB,
    gpu_to_host_cache=0.97 * GIB,
    gpu_to_host_hidden=4.82 * GIB,
    disk_to_host=0.473 * GIB,
    host_to_disk_cache=0.746 * GIB,
    host_to_disk_hidden=2.015 * GIB,
    host_to_disk_decode=2.015 * GIB,
    matmul_prefill=21.24e12,
    matmul_decode=4.3e12,
    attention_prefill=9.97e12,
    attention_decode=0.079e12,
    attention_host=0.0123e12,
    disk_weight=0.95,
    cpu_fit=(0.0168, 0.0328, 0.0621),
)
"""Constants of the released cost model, fitted by its authors on a cloud T4 (FlexLLMGen,
experimental/cost_model.py); the disk is that machine's slow persistent disk."""


@dataclass(frozen=True, slots=True)
class BlockPolicy:
    """A decision: GPU batch, batches per block, and shares of 0 to 1 on GPU and host; the rest is on disk."""

    gpu_batch: int
    batches: int
    weight_gpu: float
    weight_host: float
    cache_gpu: float
    cache_host: float
    hidden_gpu: float
    hidden_host: float

    def __post_init__(self) -> None:
        problems = [
            Problem(f"found {value}; expected a whole number of 1 or more", path=name)
            for name, value in (("gpu_batch", self.gpu_batch), ("batches", self.batches))
            if value < 1
        ]
        for kind in ("weight", "cache", "hidden"):
            gpu, host = getattr(self, f"{kind}_gpu"), getattr(self, f"{kind}_host")
            fits = isfinite(gpu) and isfinite(host) and gpu >= -1e-9 and host >= -1e-9
            if not (fits and gpu + host <= 1 + 1e-6):
                found = (
                    f"found {gpu} on the GPU and {host} on the host; expected shares of at most 1 together"
                )
                problems.append(Problem(found, path=kind))
        if problems:
            raise InputError(problems)

    @property
    def block(self) -> int:
        """Sequences of one block."""
        return self.gpu_batch * self.batches

    @property
    def weight_disk(self) -> float:
        """Share of the weights on disk."""
        return max(0.0, 1.0 - self.weight_gpu - self.weight_host)

    @property
    def cache_disk(self) -> float:
        """Share of the KV cache on disk."""
        return max(0.0, 1.0 - self.cache_gpu - self.cache_host)

    def to_json(self) -> dict[str, Any]:
        """The policy as plain data; shares of 0 to 1."""
        return {
            "gpu_batch": self.gpu_batch,
            "batches": self.batches,
            "weight": [self.weight_gpu, self.weight_host, self.weight_disk],
            "cache": [self.cache_gpu, self.cache_host, self.cache_disk],
            "hidden": [self.hidden_gpu, self.hidden_host],
        }


def shape_of(model: str, prompt: int, generate: int, weight_bits: int = 16) -> BlockShape:
    """The shape of a dense decoder by its name or config file.

    Raises ``InputError`` for an unknown model, and for one that is no dense decoder.
    """
    for name, value in (("prompt", prompt), ("generate", generate)):
        if value < 1:
            raise bad_input(f"found {value}; expected 1 or more", path=name)
    graph = load_workload(model, WorkloadOptions(phase="decode", prompt=prompt)).phases[0].graph
    return shape_of_graph(graph, prompt, generate, weight_bits)


def shape_of_graph(graph: Graph, prompt: int, generate: int, weight_bits: int = 16) -> BlockShape:
    """The shape of the decoder in a graph, read from its attention operators and the products around them."""
    attends = [op.work for op in graph.operators if isinstance(op.work, Attention)]
    ways = [(op, op.work) for op in graph.operators if isinstance(op.work, Product) and ".mlp." in op.name]
    experts = any(isinstance(op.work, GroupedProduct) for op in graph.operators)
    if not attends or not ways or experts:
        raise bad_input(
            f"{graph.name} has no attention or no dense feed-forward part; a block schedule is for dense decoders"
        )
    attention = attends[0]
    down, out = next((way for way in ways if way[0].name.endswith("down")), ways[-1])
    hidden, ffn = out.n, out.k
    first = next(op for op, _ in ways if op is not down)
    return BlockShape(
        layers=len(attends),
        hidden=hidden,
        ffn=ffn,
        heads=attention.heads,
        kv_width=attention.kv_heads * attention.head_dim,
        ffn_products=1 + round(sum(work.n for op, work in ways if _together(op, first)) / ffn),
        prompt=prompt,
        generate=generate,
        weight_bits=weight_bits,
    )


def _together(operator: Operator, first: Operator) -> bool:
    """Whether a product belongs to the same layer's way up: the gate and the up projection, fused or not."""
    same = operator.place.layer == first.place.layer
    return same and not operator.name.endswith("down")
