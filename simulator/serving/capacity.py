"""How much cache a replica has: device memory less weights, work space and what the engine leaves alone.

``gpu_memory_utilization`` is of the whole device memory in vLLM, of what all else leaves free in TensorRT-LLM (its
``free_gpu_memory_fraction``), and of weights and cache alone in SGLang (its ``mem_fraction_static``). Weights are those
of the fullest device (tables and heads divided as the layout says); activations of the
largest step and what CUDA graphs keep go too. The rest is cache: keys and values of full
attention in blocks, the windows of local layers up to their window, states of recurrences per request.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from hw_configs.problems import InfeasibleError
from hw_configs.system import System
from hw_configs.units import format_quantity
from simulator.serving.device_share import expert_groups
from simulator.serving.exchange_time import gpus_of
from simulator.serving.pricing import ServedModel
from simulator.serving.scheduler import KvSpace
from simulator.serving.settings import EngineSettings, Layout
from workloads.dtypes import dtype_bits
from workloads.graph import Role
from workloads.operators import GroupedProduct
from workloads.transformer.phases import step_graph
from workloads.transformer.shape import Attention, Decoder, LatentAttention, Recurrence
from workloads.transformer.step import Step

__all__ = ["CacheNeed", "Capacity", "cache_need", "capacity_of", "weight_bytes"]

GRAPH_RESERVE: Final = 1.5e9
"""Bytes that captured CUDA graphs, NCCL buffers and the library work spaces keep: assumption, the order of what engines
print at their start."""
PIECES: Final = 6.0
"""Activations of the model's width that live at once in a step, per token: residual, normed, and a product's two
sides."""


@dataclass(frozen=True, slots=True)
class CacheNeed:
    """Cache of one request on one device: bytes a token, and bytes whatever its length (windows, states)."""

    token_bytes: float
    sequence_bytes: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """Where the memory of the fullest device goes, in bytes, and the cache that it leaves for the replica."""

    device: str
    total: float
    usable: float
    weights: float
    activations: float
    reserve: float
    adapters: float
    cache: float
    need: CacheNeed
    space: KvSpace
    cache_device: str = ""
    """Where the cache lies, if it is apart from the weights."""

    def describe(self) -> dict[str, str]:
        """Each part with what it is."""
        return {
            "device memory": f"{_size(self.total)}, of which the engine may use {_size(self.usable)}",
            "weights": f"{_size(self.weights)} on the fullest device",
            "activations": f"{_size(self.activations)} for the largest step (assumption: {PIECES:g} widths a token)",
            "reserve": f"{_size(self.reserve)} for CUDA graphs and libraries (assumption)",
            **({"adapters": f"{_size(self.adapters)}, all of them resident"} if self.adapters else {}),
            "cache": f"{_size(self.cache)}{self.cache_device and f' on each {self.cache_device}'}: "
            f"{self.space.blocks} blocks of {self.space.block_tokens} tokens",
        }


def _size(count: float) -> str:
    return format_quantity(float(round(count)), "size")


def weight_bytes(model: ServedModel, layout: Layout) -> float:
    """Bytes of weights on the fullest device: products over ``tp``, experts over their devices, layers over ``pp``."""
    graph = step_graph("weights", model.decoder, model.precision, Step(1, 1, 8, 8, decode=True), fused=True)
    moe_tp, moe_ep = expert_groups(layout)
    total, seen = 0.0, set[str]()
    for op in graph.operators:
        expert = isinstance(op.work, GroupedProduct)
        share = 1.0
        if expert:
            share = moe_tp * max(1, moe_ep)
        elif op.place.axis in ("column", "row", "head", "split", "vocab"):
            share = layout.tp
        for name in op.inputs:
            tensor = graph.tensors[name]
            if tensor.role is Role.WEIGHT and name not in seen:
                seen.add(name)
                total += tensor.size_bytes / share
    layers = len(model.decoder.layers)
    return total * math.ceil(layers / layout.pp) / layers


def cache_need(decoder: Decoder, dtype: str, layout: Layout) -> CacheNeed:
    """Cache of one request on the fullest device under a layout."""
    size = dtype_bits(dtype) / 8
    token = sequence = 0.0
    for layer in decoder.layers:
        mixer = layer.mixer
        if isinstance(mixer, LatentAttention):
            width = mixer.kv_rank + mixer.rope_dim + (mixer.indexer.head_dim if mixer.indexer else 0)
            token += width * size
        elif isinstance(mixer, Attention) and mixer.cache_of is None:
            heads = max(1.0, mixer.kv_heads / layout.tp)
            own = heads * (mixer.head_dim + mixer.v_head_dim) * size
            bound = mixer.window or mixer.chunk
            token += 0.0 if bound else own
            sequence += own * bound
        elif isinstance(mixer, Recurrence):
            state = 4.0 * mixer.heads * mixer.key_dim * mixer.value_dim
            sequence += (state + 2.0 * mixer.conv_channels * max(mixer.kernel - 1, 1)) / layout.tp
    stages = layout.pp
    return CacheNeed(token / stages, sequence / stages)


def capacity_of(
    model: ServedModel, system: System, layout: Layout, settings: EngineSettings, adapter_bytes: float = 0.0
) -> Capacity:
    """The cache of a replica. ``InfeasibleError`` with the bytes where weights and work space leave none.

    ``adapter_bytes``: of all adapters together, divided as the products that they stand beside.
    """
    node = gpus_of(system)[0]
    memory = system.memories[node.memory or node.name]
    share, whole = settings.gpu_memory_utilization, float(memory.usable_bytes)
    weights = weight_bytes(model, layout)
    activations = PIECES * 2.0 * model.decoder.hidden * settings.max_num_batched_tokens
    adapters = adapter_bytes / (layout.tp * layout.pp)
    beside = weights + activations + GRAPH_RESERVE + adapters
    usable = min(share * memory.capacity_bytes, whole)
    left = usable - beside
    if settings.engine == "trtllm":
        # Its share is of what the rest leaves free.
        left = share * (whole - beside)
        usable = left + beside
    elif settings.engine == "sglang":
        # Its share is of weights and cache alone; the rest has to fit beside it.
        left = min(usable - weights, whole - beside)
        usable = left + beside
    if left <= 0:
        raise InfeasibleError(
            f"{model.name} does not fit on {node.name} under tp {layout.tp}, pp {layout.pp}: weights "
            f"{_size(weights)}, activations {_size(activations)}, reserve {_size(GRAPH_RESERVE)}"
            + (f", adapters {_size(adapters)}" if adapters else "")
            + "; the "
            f"engine has {_size(usable)} of it: short by {_size(-left)}"
        )
    need = cache_need(model.decoder, model.precision.cache, layout)
    devices, groups = layout.devices, layout.attention_dp
    block = need.token_bytes * settings.block_size
    # Windows and states are set aside for as many requests as may run; the rest is blocks.
    aside = min(0.5 * left, need.sequence_bytes * settings.max_num_seqs / groups) if need.token_bytes else 0.0
    blocks = int((left - aside) / block) * groups if block else 1 << 40
    space = KvSpace(
        blocks, settings.block_size, block * devices / groups, need.sequence_bytes * devices / groups
    )
    return Capacity(
        node.name,
        float(memory.capacity_bytes),
        usable,
        weights,
        activations,
        GRAPH_RESERVE,
        adapters,
        left,
        need,
        space,
    )
