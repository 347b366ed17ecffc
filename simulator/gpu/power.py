"""Power: what an operator draws, and the clock that keeps the board at its limit.

A load that would draw more than the limit runs its arithmetic at the share of the clock at which idle power,
arithmetic and memory fit together; the energy of an operation is taken as constant over the clock. (The
square-law form with a voltage floor of 0.75 fits tensor-core products equally well and vector products
worse, so the simpler one stands.) Energy per operation grows with the process node and with the clock that a
board is rated at: e = e_ref x process x clock / 1.755 GHz. The references are fitted; this law is an
assumption.
"""

from __future__ import annotations

from typing import Final

from hw_configs.compiled import compiled

__all__ = ["REFERENCE_CLOCK", "clock_share", "operation_joules", "sustained_watts"]

REFERENCE_CLOCK: Final = 1.755e9
LEAST_SHARE: Final = 0.1


@compiled
def clock_share(joules: float, memory_joules: float, seconds: float, budget_w: float) -> float:
    """Share of the boost clock at which arithmetic of ``joules`` fits a power budget above idle.

    ``joules`` and ``memory_joules`` are spent over ``seconds`` at full clock. At least 0.1: a board that
    cannot even feed its memory within the limit is no case that this model knows.
    """
    if seconds <= 0 or joules <= 0 or budget_w <= 0:
        return 1.0
    return min(1.0, max(LEAST_SHARE, (budget_w * seconds - memory_joules) / joules))


def operation_joules(reference_pj: float, process: float, clock: float) -> float:
    """J per FLOP, from the reference at 16 nm and 1.755 GHz in pJ."""
    return reference_pj * 1e-12 * process * clock / REFERENCE_CLOCK


def sustained_watts(joules: float, seconds: float, idle_w: float, tdp_w: float) -> float:
    """Mean board power of an operator that repeats: idle plus its energy over its time, at most the limit."""
    if seconds <= 0:
        return idle_w
    return min(tdp_w, idle_w + joules / seconds)
