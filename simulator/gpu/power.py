"""Power: what an operator draws, and the time that keeps the board at its limit.

A load that would draw more than the limit lowers its clock until idle power, arithmetic and memory fit together. The
energy of an operation is taken as constant over that clock, so an operator lasts at least its energy over the limit
less idle, however the clock moves meanwhile. (The square-law form with a voltage floor of 0.75 fits tensor-core
products equally well and vector products worse, so the simpler one stands.) Energy per operation grows with the process
node and with the clock that a board is rated at: e = e_ref x process x clock / 1.755 GHz. The references are fitted;
this law is an assumption.

A board's limit and its peak rate belong together: boards are designed to reach a good part of their peak. The law
therefore ends at :data:`MOST_OF_LIMIT`, and where the process is not known the energy is what the board implies.
"""

from __future__ import annotations

from typing import Final

from hw_configs.compiled import compiled

__all__ = ["MOST_OF_LIMIT", "REFERENCE_CLOCK", "USUAL_OF_LIMIT", "operation_joules", "within_power"]

REFERENCE_CLOCK: Final = 1.755e9
MOST_OF_LIMIT: Final = 2.1
"""Most that peak rate x energy per operation is of a board's limit less idle: the T4's, which holds least of its peak
among the boards of the reference rows."""
USUAL_OF_LIMIT: Final = 1.2
"""What it is on those boards in the mean, for 16-bit products: V100 0.9, A100 1.0, H100 1.2, L40S 1.3, B200 1.35,
T4 2.1 against GeForce boards of 0.4. Boards of an architecture whose file states no process are taken so."""
UNKNOWN_PROCESS: Final = 0.5
"""Relative energy where neither the process nor the board's power is known; no time depends on it."""


@compiled
def within_power(seconds: float, joules: float, budget_w: float) -> float:
    """Seconds of an operator that spends ``joules`` above idle on a board whose limit less idle is ``budget_w``.

    ``seconds`` is what it takes at full clock.
    """
    return max(seconds, joules / budget_w)


def operation_joules(
    reference_pj: float, process: float | None, clock: float, room_w: float, peak: float
) -> float:
    """J per FLOP, from the reference at 16 nm and 1.755 GHz in pJ.

    ``room_w``: the board's limit less idle; ``peak``: its rate, FLOP/s.
    """
    stated = room_w < float("inf") and peak > 0
    if process is None and stated:
        return USUAL_OF_LIMIT * room_w / peak
    joules = reference_pj * 1e-12 * (process or UNKNOWN_PROCESS) * clock / REFERENCE_CLOCK
    return min(joules, MOST_OF_LIMIT * room_w / peak) if stated else joules
