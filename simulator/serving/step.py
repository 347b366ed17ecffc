"""A step of a serving engine: which requests get how many tokens, and what that takes.

A scheduler makes a :class:`ScheduledStep`, a :class:`StepPricer` says how long it lasts, and the scheduler is told what
was sampled and says what came of it (:class:`StepOutcome`). Neither knows the other, so that every policy runs with
every price.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["ScheduledStep", "StepCost", "StepOutcome", "StepPricer"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class ScheduledStep(NamedTuple):
    """One entry for each request of the step, in the order of scheduling. Empty arrays: nothing can run."""

    request: Ints
    """Numbers of the requests."""
    tokens: Ints
    """Tokens that are computed for each: of its prompt, its last token, and drafts."""
    context: Ints
    """Tokens whose keys and values are there already."""
    drafts: Ints
    """How many of ``tokens`` are drafts to be verified."""
    samples: Bools
    """Whether a token comes out: all that is known of the request is computed with this step."""
    adapter: Ints
    """Adapter of each; -1: none."""
    copied_in_bytes: float = 0.0
    """Cache bytes that must come from the host's memory before the step (swap, offloaded blocks)."""
    copied_out_bytes: float = 0.0
    """Cache bytes that leave for the host's memory in this step."""
    drive_in_bytes: float = 0.0
    """Cache bytes that must come from drives before the step."""
    drive_out_bytes: float = 0.0
    """Cache bytes that leave for drives in this step."""


class StepOutcome(NamedTuple):
    """What a step brought."""

    request: Ints
    """Requests that got tokens."""
    tokens: Ints
    """How many each got."""
    finished: Ints
    """Requests that ended with this step, in order."""


class StepCost(NamedTuple):
    """What a step takes. ``seconds`` from its start to its tokens; the parts may overlap."""

    seconds: float
    device_s: float
    """The longest device's kernels."""
    host_s: float
    """Software of the engine: scheduling, launches, sampling, detokenising."""
    communication_s: float
    """Of ``device_s``, what collectives take."""
    joules: float


class StepPricer(Protocol):
    """Says what steps take; the same step always takes the same."""

    def price(self, step: ScheduledStep, /) -> StepCost:
        """The cost of a step that schedules at least one request."""
        ...
