"""A model served with attention apart: which device does what, and how much cache that leaves.

Model workers hold the weights and do all but attention, under a tensor-parallel layout. Attention workers hold the
cache and do attention alone, prefill chunks' included, heads divided over them. Both are priced from the tables of
:mod:`simulator.serving.price_tables`, of which each side keeps its part; :mod:`simulator.serving.apart` says how
batches take turns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from hw_configs.problems import InfeasibleError, InputError, Problem
from hw_configs.system import System
from hw_configs.units import format_quantity
from simulator.gpu import attention
from simulator.serving.apart import AttentionApart, AttentionWire
from simulator.serving.capacity import GRAPH_RESERVE, CacheNeed, Capacity, cache_need
from simulator.serving.capacity import capacity_of as whole_capacity
from simulator.serving.engine_constants import EngineConstants, constants_of
from simulator.serving.exchange_time import Exchanges, gpus_of
from simulator.serving.layer_classes import layer_classes
from simulator.serving.price_tables import PriceTables, build_tables
from simulator.serving.pricing import Adapters, ServedModel, make_pricer
from simulator.serving.scheduler import KvSpace
from simulator.serving.settings import EngineSettings, Layout
from simulator.serving.step import ScheduledStep, StepCost
from simulator.serving.step_kernel import PRICE_COLUMNS, price_step
from workloads.dtypes import dtype_bits
from workloads.transformer.shape import Attention

__all__ = ["AttentionPricer", "AttentionWorkers", "apart_capacity", "make_attention_apart"]

OWN: Final = 8
"""Figures that stand beside each row of the attention kernel in the tables."""


@dataclass(frozen=True)
class AttentionWorkers:
    """Devices that do attention, and the wire to them. ``bytes_per_s``, ``latency_s``: of one device's port."""

    system: System
    count: int
    bytes_per_s: float
    latency_s: float
    batches: int = 2
    """Batches that take turns."""
    wire: str = ""
    """What the wire is."""


class AttentionPricer:
    """Attention alone, on one of the attention workers, which all do the same; no time of a host."""

    def __init__(self, tables: PriceTables, engine: EngineConstants) -> None:
        self.tables, self.engine = tables, engine
        self._out = np.zeros(len(PRICE_COLUMNS))

    def price(self, step: ScheduledStep) -> StepCost:
        """The cost of a step's attention over all layers."""
        price_step(self.tables, step.tokens, step.context, step.drafts, 0.0, self._out)
        chunk = float(self._out[5])
        factor = self.engine.prefill_factor if chunk else self.engine.kernel_factor
        seconds = float(self._out[0]) * factor
        return StepCost(seconds, seconds, 0.0, 0.0, float(self._out[2]))


def check_apart(
    model: ServedModel, layout: Layout, settings: EngineSettings, workers: AttentionWorkers
) -> None:
    """``InputError`` with a line for each thing that attention apart does not know."""
    kinds = [layer.mixer for layer in model.decoder.layers]
    problems = []
    if not all(isinstance(mixer, Attention) and mixer.cache_of is None for mixer in kinds):
        problems.append(Problem(
            f"{model.name} has layers without grouped-query attention of their own (latent, recurrent or shared), "
            "whose heads do not lie on attention workers", path="--attention-workers"))  # fmt: skip
    else:
        heads = min(mixer.kv_heads for mixer in kinds if isinstance(mixer, Attention))
        if heads % workers.count:
            problems.append(Problem(
                f"found {workers.count}; expected a divisor of the {heads} heads of keys and values of {model.name}",
                path="--attention-workers"))  # fmt: skip
    for name, value, flag in (("pipeline stages", layout.pp, "--pp"), ("groups of data-parallel attention",
                               layout.attention_dp, "--dp")):  # fmt: skip
        if value > 1:
            problems.append(Problem(f"found {value}; attention apart knows no {name}", path=flag))
    for name in ("swap", "speculation"):
        if getattr(settings, name):
            problems.append(Problem(f"{name}: attention apart does not know it", path="--set"))
    if problems:
        raise InputError(problems)


def make_attention_apart(
    model: ServedModel, system: System, layout: Layout, settings: EngineSettings, workers: AttentionWorkers,
    adapters: Adapters | None = None,
) -> AttentionApart:  # fmt: skip
    """The price of steps of batches that take turns between model workers and attention workers.

    ``InputError`` for a model or layout that cannot be divided so. Model workers that share the products are one set;
    each has a port, as each attention worker has, and the fewer ports decide what the wire carries.
    """
    check_apart(model, layout, settings, workers)
    whole = make_pricer(model, system, layout, settings, adapters=adapters)
    width = len(attention.COLUMNS)
    none, own = np.zeros((0, width)), np.zeros((0, OWN))
    rest = whole.tables._replace(decode_rows=none, decode_own=own, prefill_rows=none, prefill_own=own)
    whole.tables = rest
    return AttentionApart(
        whole, _attention(model, settings, workers), _wire(model, layout, workers), len(model.decoder.layers)
    )


def _attention(model: ServedModel, settings: EngineSettings, workers: AttentionWorkers) -> AttentionPricer:
    node = gpus_of(workers.system)[0]
    memory = workers.system.memories[node.memory or node.name]
    layout = Layout(tp=workers.count)
    tables = build_tables(
        layer_classes(model.decoder), model.precision, layout, node, memory,
        Exchanges(workers.system), most=16,
    )  # fmt: skip
    return AttentionPricer(
        tables._replace(tables=np.zeros_like(tables.tables)), constants_of(settings.engine, settings.version)
    )


def _wire(model: ServedModel, layout: Layout, workers: AttentionWorkers) -> AttentionWire:
    out = back = 0.0
    for layer in model.decoder.layers:
        mixer = layer.mixer
        assert isinstance(mixer, Attention)
        queries, values = mixer.heads * mixer.head_dim, mixer.heads * mixer.v_head_dim
        out += queries + mixer.kv_heads * (mixer.head_dim + mixer.v_head_dim)
        back += values
    size = dtype_bits(model.precision.own) / 8 / len(model.decoder.layers)
    ports = min(layout.tp, workers.count)
    return AttentionWire(
        bytes_per_s=ports * workers.bytes_per_s, latency_s=workers.latency_s, out_bytes=size * out,
        back_bytes=size * back,
    )  # fmt: skip


def apart_capacity(
    model: ServedModel, system: System, layout: Layout, settings: EngineSettings, workers: AttentionWorkers,
    adapter_bytes: float = 0.0,
) -> Capacity:  # fmt: skip
    """The cache that attention workers have, all of their share of memory but the reserve.

    ``InfeasibleError`` with the bytes where the weights do not fit on the model workers, or nothing is left.
    """
    weights = whole_capacity(model, system, layout, settings, adapter_bytes)
    node = gpus_of(workers.system)[0]
    memory = workers.system.memories[node.memory or node.name]
    usable = min(settings.gpu_memory_utilization * memory.capacity_bytes, float(memory.usable_bytes))
    left = usable - GRAPH_RESERVE
    if left <= 0:
        raise InfeasibleError(
            f"{node.name}: {format_quantity(usable, 'size')} leave no cache beside a reserve of "
            f"{format_quantity(GRAPH_RESERVE, 'size')}"
        )
    need: CacheNeed = cache_need(model.decoder, model.precision.cache, Layout(tp=workers.count))
    block = need.token_bytes * settings.block_size
    aside = min(0.5 * left, need.sequence_bytes * settings.max_num_seqs) if block else 0.0
    # Each batch that takes turns has blocks of its own.
    blocks = int((left - aside) / block) // workers.batches * workers.batches if block else 1 << 40
    space = KvSpace(blocks, settings.block_size, block * workers.count, need.sequence_bytes * workers.count)
    return replace(weights, cache=left, need=need, space=space, cache_device=node.name)
