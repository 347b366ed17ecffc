"""Static memory allocation: one address per buffer, such that buffers alive together never overlap.

``solve`` finds a plan below a capacity or with the least peak and says what it proved; ``check`` is the
independent judge of any plan. The heavy parts are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mapping.allocation.check import Violation, check, peak_of
from mapping.allocation.problem import NO_OFFSET, AllocationProblem, Buffer, Gap, Span
from mapping.allocation.result import AllocationResult, Explanation

if TYPE_CHECKING:
    from mapping.allocation.solving import lower_bound, solve

__all__ = [
    "NO_OFFSET",
    "AllocationProblem",
    "AllocationResult",
    "Buffer",
    "Explanation",
    "Gap",
    "Span",
    "Violation",
    "check",
    "lower_bound",
    "peak_of",
    "solve",
]


def __getattr__(name: str) -> Any:
    if name in ("solve", "lower_bound"):
        from mapping.allocation import solving

        return getattr(solving, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
