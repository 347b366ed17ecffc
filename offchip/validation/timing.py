"""What a source's timing method adds to kernel and launch time, so that like is compared with like.

A mean over a CUDA graph holds kernels and the gap between them: Offchip's kernel plus launch time. Wall
clock around one call from Python adds the host's work. A profiler's time of an attention kernel lacks the
helper kernels that a serving engine runs beside it. The additions are fitted like the model's own constants.
"""

from __future__ import annotations

from typing import Any

__all__ = ["added_us"]


def added_us(timing: str, operator_class: str, constants: dict[str, Any]) -> float:
    """Microseconds a timing method adds for a class of operators; below zero where it leaves work out."""
    table: dict[str, float] = constants["timing_us"]
    return table.get(timing, 0.0) + table.get(f"{timing}:{operator_class}", 0.0)
