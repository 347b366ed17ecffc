"""The price of steps of a machine that no table of kernels knows: points of a grid, asked when they are needed.

A decode step is asked at numbers of requests and contexts in powers of two, a prefill at lengths of two to an octave;
what lies between is interpolated linearly. Requests of a step count with their mean context. A chunk of a prompt takes
what the prompt takes up to its end less what it takes up to its beginning, and no less than a prompt of its own length.
Chunks and decodes of one step run one after another. The engine's host time comes on top.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from hw_configs.problems import InfeasibleError, bad_input
from simulator.serving.engine_constants import EngineConstants
from simulator.serving.settings import EngineSettings
from simulator.serving.step import ScheduledStep, StepCost

__all__ = ["Cost", "GridPricer"]

LEAST_CONTEXT: Final = 32
LEAST_PROMPT: Final = 8


class Cost(NamedTuple):
    """What a step takes on its devices, without a host."""

    seconds: float
    joules: float

    def plus(self, other: Cost, times: float = 1.0) -> Cost:
        """The sum of it and so many times the other."""
        return Cost(self.seconds + times * other.seconds, self.joules + times * other.joules)


class GridPricer:
    """Prices steps from ``decode(requests, context)`` and ``prefill(tokens)``, each point asked once.

    Both raise ``InfeasibleError`` where a point does not fit the machine; a step near it is priced in line with the
    points that fit.
    """

    def __init__(
        self, decode: Callable[[int, int], Cost], prefill: Callable[[int], Cost], engine: EngineConstants,
        settings: EngineSettings, source: str = "",
    ) -> None:  # fmt: skip
        self._ask_decode, self._ask_prefill = decode, prefill
        self.engine, self.settings, self.source = engine, settings, source
        self._decodes: dict[tuple[int, int], Cost | None] = {}
        self._prefills: dict[int, Cost] = {}

    def price(self, step: ScheduledStep) -> StepCost:
        """The cost of a step that schedules at least one request."""
        if not len(step.request):
            raise bad_input("a step without requests has no price")
        decodes = (step.tokens == 1) & (step.context > 0)
        total, chunk_tokens = Cost(0.0, 0.0), 0
        count = int(np.count_nonzero(decodes))
        if count:
            total = self.decode(count, float(step.context[decodes].mean()) + 1)
        for tokens, context in zip(
            step.tokens[~decodes].tolist(), step.context[~decodes].tolist(), strict=True
        ):
            total = total.plus(self.chunk(tokens, context))
            chunk_tokens += tokens
        e = self.engine
        host = 1e-6 * (e.step_us + e.sequence_us * len(step.request) + e.chunk_token_us * chunk_tokens)
        beside = e.overlap * min(total.seconds, host) if self.settings.async_scheduling else 0.0
        return StepCost(total.seconds + host - beside, total.seconds, host, 0.0, total.joules)

    def chunk(self, tokens: int, context: int) -> Cost:
        """A chunk of a prompt after so many tokens of it."""
        alone = self.prefill(tokens)
        if not context:
            return alone
        later = self.prefill(context + tokens).plus(self.prefill(context), -1.0)
        return max(alone, later)

    def prefill(self, tokens: int) -> Cost:
        """A whole prompt."""
        low = LEAST_PROMPT
        while 2 * low <= tokens:
            low *= 2
        if tokens <= low:
            return self._prefill(low)
        middle = low + low // 2
        low, high = (low, middle) if tokens <= middle else (middle, low * 2)
        first = self._prefill(low)
        return first.plus(self._prefill(high).plus(first, -1.0), (tokens - low) / (high - low))

    def _prefill(self, tokens: int) -> Cost:
        if tokens not in self._prefills:
            self._prefills[tokens] = self._ask_prefill(tokens)
        return self._prefills[tokens]

    def decode(self, requests: int, context: float) -> Cost:
        """A decode step of so many requests at a mean context."""
        few = 1 << (requests.bit_length() - 1)
        many = few if few == requests else 2 * few
        short = LEAST_CONTEXT
        while 2 * short <= context:
            short *= 2
        u, v = (requests - few) / few, max(context - short, 0.0) / short
        found = Cost(0.0, 0.0)
        for batch, at, share in (
            (few, short, (1 - u) * (1 - v)), (many, short, u * (1 - v)), (few, 2 * short, (1 - u) * v),
            (many, 2 * short, u * v),
        ):  # fmt: skip
            if share:
                found = found.plus(self._at(batch, at), share)
        return found

    def _at(self, requests: int, context: int) -> Cost:
        """A point of the grid; where it does not fit, in line with points of fewer requests, or of shorter contexts.

        Requests that share prefixes come to more tokens than there is room for.
        """
        here = self._decode(requests, context)
        if here is not None:
            return here
        if requests > 1:
            half = self._at(requests // 2, context)
            quarter = self._at(requests // 4, context) if requests > 2 else Cost(0.0, 0.0)
            return half.plus(half.plus(quarter, -1.0), 2.0 if requests > 2 else 1.0)
        if context <= LEAST_CONTEXT:
            raise InfeasibleError(f"a request of {context} tokens does not fit the machine")
        half = self._at(1, context // 2)
        quarter = self._at(1, context // 4) if context > 2 * LEAST_CONTEXT else half
        return half.plus(half.plus(quarter, -1.0), 2.0)

    def fits(self, requests: int, context: int) -> bool:
        """Whether so many requests of a context fit the machine."""
        return self._decode(requests, context) is not None

    def insist(self, requests: int, context: int) -> None:
        """Raise the ``InfeasibleError`` that says why so many requests of a context do not fit, if they do not."""
        self._decodes[requests, context] = self._ask_decode(requests, context)

    def _decode(self, requests: int, context: int) -> Cost | None:
        key = requests, context
        if key not in self._decodes:
            try:
                self._decodes[key] = self._ask_decode(requests, context)
            except InfeasibleError:
                self._decodes[key] = None
        return self._decodes[key]

    def describe(self) -> dict[str, str]:
        """What decides a price, figure by figure, with its source."""
        return {
            "steps": f"{self.source}, at powers of two of requests and context and two prompts to an octave, linear "
            "between them",
            **self.engine.describe(),
        }
