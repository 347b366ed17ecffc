"""A load on a device over minutes: temperature by one heat capacity and one resistance, the clock by a governor.

Between two looks of the governor power is constant, and the temperature goes exponentially towards where it would stay:
exact steps, not small ones. A hot device lowers the clock of its arithmetic by one step at each look, a cool one raises
it; work that waits for memory does not get slower with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

from hw_configs.problems import InputError, Problem

__all__ = ["Load", "Moment", "ThermalBody", "run_load"]

MOST_LOOKS = 1_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """One unit of work (a token) at the full clock: seconds that follow the clock, seconds of memory, joules of both.

    Arithmetic's joules fall with the square of the clock (voltage falls with it); ``idle_w`` is drawn all the time.
    """

    clocked_s: float
    memory_s: float
    clocked_j: float
    memory_j: float
    idle_w: float

    def seconds(self, share: float) -> float:
        """Of a unit at a share of the clock."""
        return self.clocked_s / share + self.memory_s

    def watts(self, share: float) -> float:
        """Mean power at a share of the clock."""
        return self.idle_w + (self.clocked_j * share**2 + self.memory_j) / self.seconds(share)


@dataclass(frozen=True, slots=True)
class ThermalBody:
    """Joules per kelvin, kelvins per watt to the air of ``ambient_c``, and how the governor sees it.

    ``steps``: shares of the full clock, falling from 1. At ``hot_c`` it takes the next lower one, at ``cool_c`` the
    next higher one, each ``look_s``.
    """

    capacity: float
    resistance: float
    ambient_c: float
    hot_c: float
    cool_c: float
    steps: tuple[float, ...]
    look_s: float = 1.0

    def __post_init__(self) -> None:
        told = {
            "capacity": self.capacity > 0, "resistance": self.resistance > 0, "look_s": self.look_s > 0,
            "cool_c": self.ambient_c < self.cool_c <= self.hot_c,
            "steps": bool(self.steps)
            and self.steps[0] == 1
            and self.steps[-1] > 0
            and list(self.steps) == sorted(set(self.steps), reverse=True),
        }  # fmt: skip
        expected = {
            "cool_c": "above the ambient, at most hot_c", "steps": "shares that fall from 1 and stay above 0",
        }  # fmt: skip
        problems = [
            Problem(f"found {getattr(self, name)}; expected {expected.get(name, 'more than 0')}", path=name)
            for name, holds in told.items()
            if not holds
        ]
        if problems:
            raise InputError(problems)


@dataclass(frozen=True, slots=True)
class Moment:
    """What was between two looks: the second it ended, the temperature then, the clock's share, units done, joules."""

    end_s: float
    temperature_c: float
    share: float
    units: float
    joules: float


def run_load(body: ThermalBody, load: Load, seconds: float, start_c: float | None = None) -> list[Moment]:
    """A load without pause for so many seconds, from the ambient temperature or ``start_c``.

    Raises ``InputError`` for more than a million looks.
    """
    if not 0 < seconds <= MOST_LOOKS * body.look_s:
        raise InputError(
            [Problem(f"found {seconds:g} s; expected up to {MOST_LOOKS * body.look_s:g}", path="seconds")]
        )
    temperature, step, moments, now = body.ambient_c if start_c is None else start_c, 0, [], 0.0
    while now < seconds * (1 - 1e-12):
        span = min(body.look_s, seconds - now)
        share = body.steps[step]
        watts = load.watts(share)
        level = body.ambient_c + watts * body.resistance
        temperature = level + (temperature - level) * exp(-span / (body.capacity * body.resistance))
        now += span
        moments.append(Moment(now, temperature, share, span / load.seconds(share), watts * span))
        if temperature >= body.hot_c:
            step = min(step + 1, len(body.steps) - 1)
        elif temperature <= body.cool_c:
            step = max(step - 1, 0)
    return moments
