"""What an operator asks of cores: clocks of one of them, how evenly they share it, bytes that come from DRAM or not.

Each kind is dealt out as kernels of CPUs do it (ggml's): products by blocks of 16 columns and rows, experts' products
all together, attention by query rows of a head, everything else by rows, so that a decode step's norm is one core's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from hw_configs.device import Cpu
from simulator.cost.model import MATRIX_KINDS, by_name
from simulator.cpu import rates
from workloads.dtypes import BITS, dtype_bits
from workloads.graph import Operator
from workloads.operators import Activation, Attention, GroupedProduct, Norm, Product, Rows

__all__ = ["Demand", "demand"]

BLOCK: Final = 16
"""Columns, and rows, of a result that one core takes at a time (ggml-cpu's chunks)."""
EXPERT_S: Final = 0.5e-6
"""Of each expert that is touched, beside its arithmetic: its rows are looked up and gathered (assumption)."""
SOFTMAX_CLOCKS: Final = {"avx2": 3.0, "avx-vnni": 3.0, "avx512": 2.0, "avx512-vnni": 2.0, "amx": 2.0, "neon": 4.0,
                         "sve": 3.0, "apple": 3.0}  # fmt: skip
"""Of a score: the passes for the largest, the exponential and the sum, and the scaling (assumption)."""
POINTWISE_SHARE: Final = 0.25
"""Of the vector peak in loops with exponentials and roots (assumption)."""
OTHER_SHARE: Final = 0.4
"""Of the peak rate of kinds that no rule of their own covers: convolutions, recurrences, scans (assumption)."""
PASSES: Final = {"norm": 2.0, "softmax": 3.0, "quantize": 2.0, "loss": 2.0}
"""Times that a kernel goes over its rows; the passes after the first find them in the cache."""
PIECE: Final = 128 * 1024
"""Bytes of a row that one core takes at a time where a row can be cut: 32,768 elements of fp32, PyTorch's grain."""
WHOLE_ROWS: Final = frozenset({"norm", "softmax", "sort", "topk", "loss", "reduce"})
"""Kinds that look at all of a row, which one core does."""
NODES: Final = {"grouped_matmul": 2, "attention": 6, "rotary": 2, "topk": 3, "sort": 1}
"""Operators that an engine runs for one of a graph, and after each of which all threads meet: experts' products sort
rows as well; attention appends keys and values, multiplies, takes the softmax, multiplies and copies; queries and keys
turn one after another; a router takes its softmax, its choice and the weights (ggml's graphs of LLaMA and Mixtral)."""


@dataclass(frozen=True, slots=True)
class Demand:
    """``clocks``: of one core for all of it, ``cores`` of which share it, the busiest ``uneven`` times its even part.

    ``streamed``: bytes that come from memory whatever the cache holds; ``passing``: activations that are read and
    ``written`` ones, which the cache may hold; ``again``: bytes read a second time from the cache.
    """

    clocks: float
    cores: int
    uneven: float
    streamed: float
    passing: float
    written: float
    again: float
    barriers: int
    beside_s: float = 0.0


def demand(operator: Operator, cpu: Cpu) -> Demand:
    """What an operator asks of a CPU's cores and memory."""
    work = operator.work
    if isinstance(work, Product):
        return _product(operator, work, cpu)
    if isinstance(work, GroupedProduct):
        return _experts(operator, work, cpu)
    if isinstance(work, Attention):
        return _attention(operator, work, cpu)
    return _rows(operator, cpu)


def _product(operator: Operator, work: Product, cpu: Cpu) -> Demand:
    dtype = work.weight_dtype or operator.dtype
    weights = float(work.batch * work.n * work.k)
    stored = work.batch * work.weight_bytes or weights * dtype_bits(dtype) / 8
    clocks = weights * _clocks(cpu, dtype, work.m, work.n, work.k) / work.rate * work.share
    tasks = work.batch * math.ceil(work.n / BLOCK) * math.ceil(work.m / BLOCK)
    clocks += _pointwise(cpu, max(work.extra_flops, 0.0))
    return _dealt(operator, cpu, clocks, tasks, stored)


def _experts(operator: Operator, work: GroupedProduct, cpu: Cpu) -> Demand:
    dtype = work.weight_dtype or operator.dtype
    touched = max(work.touched, 1.0)
    rows = work.m / touched
    weights = touched * work.n * work.k
    clocks = weights * _clocks(cpu, dtype, rows, work.n, work.k) * work.share
    tasks = math.ceil(touched) * math.ceil(work.n / BLOCK) * max(math.ceil(rows / BLOCK), 1)
    clocks += _pointwise(cpu, max(work.extra_flops, 0.0))
    found = _dealt(operator, cpu, clocks, tasks, weights * dtype_bits(dtype) / 8)
    return _with_seconds(found, EXPERT_S * touched)


def _attention(operator: Operator, work: Attention, cpu: Cpu) -> Demand:
    """Keys and values are weights of a product whose rows are the queries that share them."""
    dtype = work.kv_dtype or operator.dtype
    pairs = float(work.batch * work.heads * work.pairs) * work.sparse_share
    rows = float(work.q_len * (work.heads if work.latent else 1))
    per_pair = (
        (work.head_dim + work.value_dim)
        * _clocks(cpu, dtype, rows, work.limit, work.head_dim)
        / max(rows, 1.0)
    )
    clocks = pairs * (per_pair + SOFTMAX_CLOCKS[cpu.isa]) * work.share + _pointwise(
        cpu, max(work.extra_flops, 0.0)
    )
    queries = operator.read_bytes - _cache_bytes(operator, work, dtype)
    return _dealt(
        operator, cpu, clocks, work.batch * work.heads * work.q_len, operator.read_bytes - max(queries, 0.0)
    )


def _cache_bytes(operator: Operator, work: Attention, dtype: str) -> float:
    """Keys and values that are read, the newest included; of them no more than the operator reads."""
    width = work.head_dim if work.latent else work.head_dim + work.value_dim
    size = work.batch * (1 if work.latent else work.kv_heads) * work.seen * width * dtype_bits(dtype) / 8
    return min(size, float(operator.read_bytes))


def _rows(operator: Operator, cpu: Cpu) -> Demand:
    work = operator.work
    rows = work.m if isinstance(work, Rows) else cpu.busy_cores
    if operator.kind not in WHOLE_ROWS:
        rows = max(rows, math.ceil((operator.read_bytes + operator.write_bytes) / PIECE))
    matrix = operator.kind in MATRIX_KINDS
    peak = rates.plain_rate(cpu, operator.dtype if operator.dtype in BITS else "fp32") / rates.BLAS_SHARE
    clocks = (
        operator.flops / (OTHER_SHARE * peak) * cpu.cores * cpu.clock
        if matrix
        else _pointwise(cpu, operator.flops)
    )
    cores = max(1, min(cpu.busy_cores, rows))
    uneven = math.ceil(rows / cores) * cores / rows if rows else 1.0
    passes = PASSES.get(operator.kind, 1.0)
    passing, written = float(operator.read_bytes), float(operator.write_bytes)
    streamed = passing if matrix else 0.0
    return Demand(
        clocks, cores, uneven, streamed, passing - streamed, written, (passes - 1) * passing, _meetings(operator)
    )  # fmt: skip


def _dealt(operator: Operator, cpu: Cpu, clocks: float, tasks: int, stored: float) -> Demand:
    cores = max(1, min(cpu.busy_cores, tasks))
    uneven = math.ceil(tasks / cores) * cores / tasks if tasks else 1.0
    streamed = min(stored, float(operator.read_bytes))
    passing = operator.read_bytes - streamed
    return Demand(
        clocks, cores, uneven, streamed, passing, float(operator.write_bytes), 0.0, _meetings(operator)
    )  # fmt: skip


def _meetings(operator: Operator) -> int:
    """How often all threads meet: after each operator of an engine, and in a product after packing the activations."""
    work = operator.work
    if isinstance(work, Product):
        return 2 * (3 if work.heads and work.kv_heads else 1)
    if isinstance(work, GroupedProduct):
        return 2 + NODES["grouped_matmul"]
    if isinstance(work, Norm):
        return 2 + work.adds
    if isinstance(work, Activation):
        return 1 + work.gated
    return NODES.get(operator.kind, 1)


def _with_seconds(found: Demand, seconds: float) -> Demand:
    return Demand(
        found.clocks, found.cores, found.uneven, found.streamed, found.passing, found.written, found.again,
        found.barriers, seconds,
    )  # fmt: skip


def _clocks(cpu: Cpu, dtype: str, rows: float, columns: float, depth: float) -> float:
    """Clocks of a core for one weight with so many rows; dense products lose rate at small sides."""
    rate = rates.kernel_rate(cpu, dtype)
    if not rates.is_packed(dtype):
        filled = _filled(rows, rates.HALF_ROWS) * _filled(depth, rates.HALF_K)
        filled *= _filled(
            max(columns / cpu.busy_cores, rows * columns / cpu.busy_cores / 64), rates.HALF_COLUMNS
        )
        rate = rates.KernelRate(rate.dot, max(rate.gemm * filled, rate.dot))
    return rates.clocks_per_weight(rate, max(rows, 1.0), rates.row_block(cpu.isa, dtype))


def _filled(side: float, half: float) -> float:
    return side / (side + half)


def _pointwise(cpu: Cpu, flops: float) -> float:
    """Clocks of one core for arithmetic outside products."""
    vector = by_name(cpu.compute.vector)
    peak = vector.get("fp32") or max([*vector.values(), *by_name(cpu.compute.matrix).values()])
    return flops / (POINTWISE_SHARE * peak) * cpu.cores * cpu.clock
