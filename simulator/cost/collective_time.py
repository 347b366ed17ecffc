"""How long a collective of a GPU library takes over like wires, in closed form.

Time is the better of two protocols, as NCCL chooses them: a low-latency one that spends wire bandwidth on
flags, and a simple one with more latency per step at nearly full bandwidth (NCCL's documentation of
``NCCL_PROTO``). Each is ``base + steps x step + (critical bytes + copied bytes) / (share x bandwidth)`` over
the ring of :mod:`simulator.cost.collective`; an all-to-all posts its messages at once and pays one step. The
constants are fitted (``calibration/fit_roofline.py``), per kind of wire; latencies scale by GPU generation.

The system simulator puts a collective's messages on real wires instead; this form serves operator tables.
"""

from __future__ import annotations

from typing import Any, Final

from simulator.cost.collective import schedule

__all__ = ["WIRES", "collective_seconds"]

WIRES: Final = ("peer", "host", "network")
"""Between GPUs of a node (NVLink, or PCIe where a node has no other), over the host's PCIe, between nodes."""


def collective_seconds(
    kind: str,
    ranks: int,
    size_bytes: int,
    bandwidth: float,
    constants: dict[str, Any],
    wire: str = "peer",
    generation: str = "",
) -> float:
    """Seconds of a collective over ``ranks`` GPUs joined by wires of ``bandwidth`` bytes per second each way.

    ``constants`` is the part ``collective`` of the constants file. Raises ``InputError`` for an unknown kind.
    """
    form = schedule(kind, "ring", ranks, size_bytes)
    if not form.steps:
        return 0.0
    own = constants["send" if form.kind == "send" else "ring"][wire]
    scale = constants["latency_by_generation"].get(generation, 1.0)
    steps = 1 if form.kind == "all_to_all" else form.steps
    moved_us = (form.critical_bytes + own["copy"] * form.bytes) / bandwidth * 1e6
    simple = own["simple_base_us"] + own["simple_step_us"] * steps
    quick = own["base_us"] + own["step_us"] * steps
    best = min(
        scale * simple + moved_us / own["simple_share"],
        scale * quick + moved_us / own["share"],
    )
    # No protocol moves more than the wire carries.
    return max(float(best) * 1e-6, form.critical_bytes / bandwidth)
