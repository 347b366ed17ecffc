"""How many tokens a drive can take before its rated erases are used up.

A token costs its K and V in every layer, once more K for the channel-indexed copy of sparse attention. Groups
fill whole pages and a job's blocks are erased together, so nothing is moved and write amplification is 1
unless the caller knows better.
"""

from __future__ import annotations

from collections.abc import Sequence

from hw_configs.device import ComputationalStorage, Flash
from hw_configs.problems import bad_input
from simulator.flash.patterns import endurance_bytes

__all__ = ["kv_bytes_per_token", "tokens_until_wear_out"]


def kv_bytes_per_token(layers: int, kv_width: int, element_bytes: int = 2, *, key_copies: int = 1) -> float:
    """Bytes written per token: ``key_copies`` of K and one V of ``kv_width`` elements in every layer."""
    if min(layers, kv_width, element_bytes, key_copies) < 1:
        raise bad_input("layers, width, element bytes and copies must be 1 or more")
    return float(layers * kv_width * element_bytes * (key_copies + 1))


def tokens_until_wear_out(
    drives: Sequence[Flash | ComputationalStorage], bytes_per_token: float, write_amplification: float = 1.0
) -> float:
    """Tokens whose KV the drives can store one after another, wear spread evenly over all of them."""
    if not bytes_per_token > 0:
        raise bad_input(f"found {bytes_per_token:g} bytes per token; expected more than 0")
    return sum(endurance_bytes(drive, write_amplification) for drive in drives) / bytes_per_token
