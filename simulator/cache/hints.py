"""What policies are told of a request: its object's next use, or a bit, true or with errors drawn by chance."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from hw_configs.settings import Settings
from simulator.cache.replacement.policy import POLICIES, Policy
from simulator.cache.running import RunningCache

__all__ = ["NEVER", "discard_bits", "hints_for", "next_uses", "phase_bits"]

Ints = npt.NDArray[np.int64]
NEVER: Final = 1 << 52
"""Next use of an object that is not used again."""


def next_uses(nodes: npt.NDArray[np.int32]) -> Ints:
    """For each request the number of the next one for the same object, ``NEVER`` without one."""
    found = np.empty(len(nodes), np.int64)
    _next_uses(nodes, int(nodes.max(initial=0)) + 1, found)
    return found


@compiled
def _next_uses(nodes: Any, count: int, found: Any) -> None:
    seen = np.full(count, NEVER, dtype=np.int64)
    for i in range(len(nodes) - 1, -1, -1):
        found[i] = seen[nodes[i]]
        seen[nodes[i]] = i


def discard_bits(nodes: npt.NDArray[np.int32], sizes: Ints, capacity: int) -> Ints:
    """1 where Belady's optimum drops the object before its next use, or there is none."""
    uses = next_uses(nodes)
    cache = RunningCache(POLICIES.get("belady"), capacity)
    events = cache.run(nodes, sizes, int(nodes.max(initial=0)) + 1, uses)
    bits = np.ones(len(nodes), np.int64)
    again = uses < NEVER
    bits[again] = (events.what[uses[again]] != 2).astype(np.int64)
    return bits


def phase_bits(nodes: npt.NDArray[np.int32], sizes: Ints, capacity: int) -> Ints:
    """1 where the phase after the request's own does without the object.

    A phase is the longest stretch whose distinct objects fit into the cache.
    """
    bits = np.empty(len(nodes), np.int64)
    _phase_bits(nodes, sizes, capacity, int(nodes.max(initial=0)) + 1, bits)
    return bits


@compiled
def _phase_bits(nodes: Any, sizes: Any, capacity: int, count: int, bits: Any) -> None:
    n = len(nodes)
    phase = np.zeros(n, dtype=np.int64)
    seen = np.full(count, -1, dtype=np.int64)
    used, now = 0, 0
    for i in range(n):
        if seen[nodes[i]] != now:
            if used + sizes[i] > capacity and used > 0:
                now += 1
                used = 0
            seen[nodes[i]] = now
            used += sizes[i]
        phase[i] = now
    # From the end: the phase of each object's first use after this phase.
    later = np.full(count, -1, dtype=np.int64)
    own = np.full(count, -1, dtype=np.int64)
    for i in range(n - 1, -1, -1):
        node = nodes[i]
        if own[node] != phase[i]:
            later[node] = own[node]
            own[node] = phase[i]
        bits[i] = 0 if later[node] == phase[i] + 1 else 1


def hints_for(
    policy: Policy,
    settings: Settings,
    nodes: npt.NDArray[np.int32],
    sizes: Ints,
    capacity: int,
    predicted: Ints,
    seed: int,
) -> Ints:
    """What a policy is told of a whole trace; ``predicted``: the trace's own predictions, perhaps none."""
    if policy.hint == "nothing":
        return np.zeros(0, np.int64)
    chosen: Any = settings
    if not policy.exact and chosen.from_trace and len(predicted):
        return predicted if policy.hint == "next use" else (predicted != 0).astype(np.int64)
    if policy.hint == "next use":
        uses = next_uses(nodes)
        return uses if policy.exact or not chosen.error else _blurred(uses, chosen.error, seed)
    make = discard_bits if policy.hint == "discard bit" else phase_bits
    bits = make(nodes, sizes, capacity)
    if chosen.error:
        turned = np.random.default_rng(seed).random(len(bits)) < chosen.error
        bits = np.where(turned, 1 - bits, bits)
    return bits


def _blurred(uses: Ints, error: float, seed: int) -> Ints:
    index = np.arange(len(uses), dtype=np.int64)
    far = np.where(uses == NEVER, len(uses), uses) - index
    spread = np.exp(error * np.random.default_rng(seed).standard_normal(len(uses)))
    return np.minimum(index + np.maximum(far * spread, 1.0), float(NEVER)).astype(np.int64)
