"""Attention apart from the rest of a model: attention workers hold the caches, model workers the weights.

As Lamina does it (arXiv:2405.01814). For each layer the model workers send the new tokens' queries, keys and values to
the attention workers and get the attention's outputs back. Several batches take turns (ping-pong): while one is with
the attention workers, others are with the model workers. In the steady state a layer of all batches takes as long as
whatever is busy longest: the model workers, the attention workers, the wire in either direction, or one batch on its
own way around.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hw_configs.problems import bad_input
from hw_configs.units import format_quantity
from simulator.serving.step import ScheduledStep, StepCost, StepPricer

__all__ = ["ApartTimes", "AttentionApart", "AttentionWire"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWire:
    """The wire between model and attention workers, each way, and what a token puts on it."""

    bytes_per_s: float
    latency_s: float
    """Of one transfer, one way."""
    out_bytes: float
    """Queries, keys and values of one token and layer."""
    back_bytes: float
    """Attention's output of one token and layer."""

    def __post_init__(self) -> None:
        if not (self.bytes_per_s > 0 and min(self.latency_s, self.out_bytes, self.back_bytes) >= 0):
            raise bad_input("expected bytes per second above 0, and no negative time or bytes", path="wire")


class ApartTimes(NamedTuple):
    """Seconds of a step of all batches by what would bound it; the step takes the longest."""

    model: float
    attention: float
    out: float
    back: float
    around: float
    """One batch that meets nobody."""

    @property
    def seconds(self) -> float:
        """Seconds of the step."""
        return max(self)


@dataclass(frozen=True)
class AttentionApart:
    """Prices steps of batches that share model workers and attention workers.

    ``model`` prices all but attention on one set of model workers, of which there are ``model_sets``; ``attention``
    prices attention alone on the attention workers. Both for all ``layers``.
    """

    model: StepPricer
    attention: StepPricer
    wire: AttentionWire
    layers: int
    model_sets: int = 1

    def describe(self) -> dict[str, str]:
        """What decides a price: the model workers' figures, and the wire."""
        own: dict[str, str] = getattr(self.model, "describe", dict)()
        rate, wire = format_quantity(self.wire.bytes_per_s, "bandwidth"), self.wire
        return {
            **own,
            "attention apart": f"{rate} each way, {format_quantity(wire.latency_s, 'time')} a transfer; "
            f"{wire.out_bytes:g} B out and {wire.back_bytes:g} B back for a token and layer",
        }

    def price(self, step: ScheduledStep) -> StepCost:
        """The cost of one batch's step alone."""
        return self.price_groups([step])

    def price_groups(self, steps: Sequence[ScheduledStep]) -> StepCost:
        """The cost of one step of all batches."""
        steps = [step for step in steps if len(step.request)]
        model = [self.model.price(step) for step in steps]
        attention = [self.attention.price(step) for step in steps]
        times = self.times(steps, model, attention)
        wire = max(times.out, times.back)
        host = max(cost.host_s for cost in model)
        joules = sum(cost.joules for cost in (*model, *attention))
        return StepCost(times.seconds, max(times.model, times.attention), host, wire, joules)

    def times(
        self, steps: Sequence[ScheduledStep], model: Sequence[StepCost], attention: Sequence[StepCost]
    ) -> ApartTimes:
        """What each part of the machine takes for these batches."""
        wire = self.wire
        tokens = [float(np.sum(step.tokens)) for step in steps]
        out = [self.layers * wire.out_bytes * count / wire.bytes_per_s for count in tokens]
        back = [self.layers * wire.back_bytes * count / wire.bytes_per_s for count in tokens]
        latency = 2 * self.layers * wire.latency_s
        alone = [
            m.seconds + a.seconds + o + b + latency
            for m, a, o, b in zip(model, attention, out, back, strict=True)
        ]
        # With more sets than batches each batch has one of its own; its time bounds the step by itself.
        sets = min(self.model_sets, len(steps))
        return ApartTimes(
            sum(cost.seconds for cost in model) / sets,
            sum(cost.seconds for cost in attention), sum(out), sum(back), max(alone),
        )  # fmt: skip
