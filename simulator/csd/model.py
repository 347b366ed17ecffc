"""Operators on a computational storage drive, for the system simulator.

Decode attention over a cache in the drive goes to the attention engine (:mod:`simulator.csd.attention`).
Everything else that a plan puts there runs on the drive's processors under the analytic roofline.
"""

from __future__ import annotations

from functools import lru_cache

from hw_configs.device import ComputationalStorage
from hw_configs.system import MemorySpace, Node
from simulator.cost.model import OperatorCost, peak_rate
from simulator.csd.attention import AttentionStep, AttentionWork, attention_step
from simulator.csd.kv_layout import SparseChoice
from workloads.dtypes import dtype_bits
from workloads.graph import Operator
from workloads.operators import Attention

__all__ = ["context_of", "drive_attention", "engine_serves", "work_of"]


def engine_serves(operator: Operator, node: Node) -> bool:
    """Whether the node is a drive with an attention engine and the operator a decode attention."""
    device = node.device
    if not isinstance(device, ComputationalStorage) or device.engine is None:
        return False
    work = operator.work
    # A latent cache is keys and values in one, which the layout of separate pages does not hold.
    return (
        isinstance(work, Attention)
        and work.q_len == 1
        and not work.latent
        and work.value_dim == work.head_dim
    )


def context_of(operator: Operator) -> int:
    """Tokens that an attention operator looks back on: the context, or what its window, chunk or indexer leaves."""
    assert isinstance(operator.work, Attention)
    return operator.work.limit


def work_of(operator: Operator) -> AttentionWork:
    """The engine's view of an attention operator; the width of an element is the cache's."""
    work = operator.work
    assert isinstance(work, Attention)
    choice = None
    if work.kept < 1:
        choice = SparseChoice(work.kept, work.kept, work.kept_groups or None)
    bits = dtype_bits(work.kv_dtype or operator.dtype)
    return AttentionWork(
        work.batch,
        work.heads,
        work.kv_heads,
        work.head_dim,
        work.limit,
        work.q_len,
        max(1, int(bits) // 8),
        choice,
    )


def drive_attention(operator: Operator, node: Node, memory: MemorySpace) -> OperatorCost:
    """The cost of a decode attention on a drive; bytes are pages read and programmed inside it."""
    assert isinstance(node.device, ComputationalStorage)
    step = _step(node.device.model_dump_json(), work_of(operator))
    compute = node.device.compute
    arithmetic = operator.flops / peak_rate(compute, operator.kind, operator.dtype)
    energies = compute.energy_per_operation
    per_operation = energies.get(operator.dtype, next(iter(energies.values()), 0.0))  # type: ignore[call-overload]
    return OperatorCost(
        max(step.seconds, arithmetic),
        compute.launch,
        step.bound_by,
        int(step.read_bytes),
        int(step.written_bytes),
        operator.flops * per_operation,
        step.read_bytes * memory.energy_per_byte_read_j
        + step.written_bytes * memory.energy_per_byte_written_j,
    )


@lru_cache(maxsize=4096)
def _step(device_json: str, work: AttentionWork) -> AttentionStep:
    return attention_step(ComputationalStorage.model_validate_json(device_json), work)
