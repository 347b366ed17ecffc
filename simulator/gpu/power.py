"""Power: what an operator draws, and the time that keeps the board at its limit.

A load that would draw more than the limit lowers its clock until idle power, arithmetic and memory fit together. The
energy of an operation is taken as constant over that clock, so an operator lasts at least its energy over the limit
less idle, however the clock moves meanwhile. (The square-law form with a voltage floor of 0.75 fits tensor-core
products equally well and vector products worse, so the simpler one stands.) Energy per operation grows with the process
node and with the clock that a board is rated at: e = e_ref x process x clock / 1.755 GHz. The references are fitted;
this law is an assumption.
"""

from __future__ import annotations

from typing import Final

from hw_configs.compiled import compiled

__all__ = ["REFERENCE_CLOCK", "operation_joules", "within_power"]

REFERENCE_CLOCK: Final = 1.755e9


@compiled
def within_power(seconds: float, joules: float, budget_w: float) -> float:
    """Seconds of an operator that spends ``joules`` above idle on a board whose limit less idle is ``budget_w``.

    ``seconds`` is what it takes at full clock.
    """
    return max(seconds, joules / budget_w)


def operation_joules(reference_pj: float, process: float, clock: float) -> float:
    """J per FLOP, from the reference at 16 nm and 1.755 GHz in pJ."""
    return reference_pj * 1e-12 * process * clock / REFERENCE_CLOCK
