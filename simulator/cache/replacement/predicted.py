"""Settings of policies that are told something of the future: how wrong it is."""

from __future__ import annotations

from dataclasses import dataclass

from hw_configs.settings import Settings, flag, number, share

__all__ = ["DistanceSettings", "PredictionSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionSettings(Settings):
    """Of policies with a predicted bit."""

    error: float = share(0.0, "share of the true bits that are turned round, by chance", zero=True)
    from_trace: bool = flag(True, "take the trace's own predictions where it has some, as they are")


@dataclass(frozen=True, slots=True, kw_only=True)
class DistanceSettings(Settings):
    """Of policies with predicted next uses."""

    error: float = number(
        0.0,
        "spread of the predicted distance to the next use: times e to the power of a normal deviate",
        most=20.0,
    )
    from_trace: bool = flag(True, "take the trace's own predictions where it has some, as they are")
