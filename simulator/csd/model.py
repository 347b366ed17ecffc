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

__all__ = ["context_of", "drive_attention", "engine_serves", "work_of"]


def engine_serves(operator: Operator, node: Node) -> bool:
    """Whether the node is a drive with an attention engine and the operator a decode attention."""
    device = node.device
    if not isinstance(device, ComputationalStorage) or device.engine is None:
        return False
    a = operator.attributes
    # A latent cache is keys and values in one, which the layout of separate pages does not hold.
    plain = not a.get("latent") and a.get("v_head_dim", a.get("head_dim")) == a.get("head_dim")
    return operator.kind == "attention" and a.get("q_len") == 1 and plain


def context_of(operator: Operator) -> int:
    """Tokens that an attention operator looks back on: the context, or its window."""
    a = operator.attributes
    limits = [int(a[key]) for key in ("window", "chunk") if int(a.get(key, 0)) > 0]
    return min([int(a["kv_len"]), *limits])


def work_of(operator: Operator) -> AttentionWork:
    """The engine's view of an attention operator."""
    a = operator.attributes
    kept = a.get("kept")
    bits = dtype_bits(operator.dtype)
    choice = None
    if isinstance(kept, float) and kept < 1:
        groups = a.get("kept_groups")
        choice = SparseChoice(kept, kept, float(groups) if isinstance(groups, float) else None)
    return AttentionWork(
        int(a["batch"]),
        int(a["heads"]),
        int(a["kv_heads"]),
        int(a["head_dim"]),
        context_of(operator),
        int(a["q_len"]),
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
