"""Occupancy and waves: how many thread blocks a multiprocessor holds, and how many rounds a grid takes.

The arithmetic of NVIDIA's occupancy calculator, with the limits of recent compute capabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

from hw_configs.problems import bad_input

__all__ = ["Occupancy", "occupancy", "wave_quantisation"]

REGISTER_UNIT = 256
WARP = 32


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Thread blocks per multiprocessor, what limits them, and the share of warps that they fill."""

    blocks: int
    limit: str
    share: float


def occupancy(
    threads: int,
    registers_per_thread: int,
    shared_bytes: float,
    shared_per_multiprocessor: float,
    max_threads: int = 2048,
    max_blocks: int = 32,
    registers: int = 65536,
) -> Occupancy:
    """Resident thread blocks of a kernel; ``InputError`` when not even one fits."""
    if threads < 1 or registers_per_thread < 0 or shared_bytes < 0:
        raise bad_input("a kernel needs at least one thread and no negative resources")
    warps = -(-threads // WARP)
    per_warp = -(-registers_per_thread * WARP // REGISTER_UNIT) * REGISTER_UNIT
    limits = {
        "threads": max_threads // (warps * WARP),
        "blocks": max_blocks,
        "registers": registers // (per_warp * warps) if per_warp else max_blocks,
        "shared memory": int(shared_per_multiprocessor // shared_bytes) if shared_bytes else max_blocks,
    }
    limit = min(limits, key=lambda name: limits[name])
    if limits[limit] < 1:
        raise bad_input(f"one thread block needs more {limit} than a multiprocessor has")
    return Occupancy(limits[limit], limit, limits[limit] * warps * WARP / max_threads)


def wave_quantisation(blocks: int, multiprocessors: int, per_multiprocessor: int) -> tuple[int, float]:
    """Waves of a grid, and the share of the slots of those waves that it fills.

    >>> wave_quantisation(109, 108, 1)
    (2, 0.5046296296296297)
    """
    if min(blocks, multiprocessors, per_multiprocessor) < 1:
        raise bad_input("blocks, multiprocessors and blocks per multiprocessor are at least 1")
    slots = multiprocessors * per_multiprocessor
    waves = -(-blocks // slots)
    return waves, blocks / (waves * slots)
