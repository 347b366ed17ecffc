"""How long prompts and answers are: laws that draw numbers of tokens.

Named laws are lognormal through two published figures of a public data set each, and say which (``source``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, model_validator

from hw_configs.config import Config, Count, refuse
from hw_configs.problems import nearest
from workloads.requests.table import MAX_TOKENS

__all__ = ["NAMED", "FixedLength", "Length", "NamedLaw", "draw_lengths"]

Ints = npt.NDArray[np.int64]
NINETIETH: Final = 1.2815515655446004
"""Standard normal quantile at 0.9."""
MOST: Final = 131_072
"""Tokens that a named law draws at most."""

Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]


@dataclass(frozen=True, slots=True)
class NamedLaw:
    """Median and 90th percentile of prompts and answers in tokens, and who measured them."""

    prompt_median: float
    prompt_p90: float
    output_median: float
    output_p90: float
    source: str


NAMED: Final = {
    "sharegpt": NamedLaw(
        1730, 5696, 415, 834, "openchat_sharegpt4 in Agrawal et al., Sarathi-Serve, OSDI 2024, table 2"
    ),
    "arxiv-summarization": NamedLaw(
        7059, 12985, 208, 371, "arxiv_summarization in Agrawal et al., Sarathi-Serve, OSDI 2024, table 2"
    ),
}
"""Laws by name. Only the two quantiles are published; that the law between them is lognormal is an assumption."""


class FixedLength(Config):
    """The same for all."""

    kind: Literal["fixed"] = "fixed"
    tokens: Tokens


class UniformLength(Config):
    """Whole numbers from low to high, each as likely."""

    kind: Literal["uniform"]
    low: Tokens
    high: Tokens

    @model_validator(mode="after")
    def _in_order(self) -> UniformLength:
        refuse(
            (("high",), f"found {self.high}; expected at least {self.low}") if self.high < self.low else None
        )
        return self


class LognormalLength(Config):
    """Lognormal by median and shape (``sigma`` of the logarithm), rounded, cut at ``low`` and ``high``."""

    kind: Literal["lognormal"]
    median: Tokens
    sigma: Annotated[float, Field(ge=0, le=10)]
    low: Tokens = 1
    high: Tokens = MOST

    @model_validator(mode="after")
    def _in_order(self) -> LognormalLength:
        refuse(
            (("high",), f"found {self.high}; expected at least {self.low}") if self.high < self.low else None
        )
        return self


class NamedLength(Config):
    """A law of :data:`NAMED`."""

    kind: Literal["named"]
    name: str

    @model_validator(mode="after")
    def _known(self) -> NamedLength:
        if self.name not in NAMED:
            near = nearest(self.name, NAMED)
            hint = f" (did you mean {near!r}?)" if near else ""
            refuse((("name",), f"found {self.name!r}; known: {', '.join(NAMED)}{hint}"))
        return self


class ChoiceLength(Config):
    """One of some lengths, with weights."""

    kind: Literal["choice"]
    tokens: Annotated[list[Tokens], Field(min_length=1, max_length=10_000)]
    weights: list[Annotated[float, Field(gt=0, le=1e9)]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fit(self) -> ChoiceLength:
        if self.weights and len(self.weights) != len(self.tokens):
            refuse((("weights",), f"found {len(self.weights)} weights; expected {len(self.tokens)}"))
        return self


class FileLength(Config):
    """Lengths of a trace's requests in its order, again from the beginning where it is too short."""

    kind: Literal["file"]
    path: str
    format: str | None = None
    limit: Count | None = None


def _short(value: Any) -> Any:
    """``512`` is a fixed length and ``sharegpt`` a named one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"kind": "fixed", "tokens": value}
    if isinstance(value, str):
        return {"kind": "named", "name": value}
    return value


Length = Annotated[
    Annotated[
        FixedLength | UniformLength | LognormalLength | NamedLength | ChoiceLength | FileLength,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_short),
]


def draw_lengths(law: Any, count: int, which: Literal["prompt", "output"], rng: np.random.Generator) -> Ints:
    """So many lengths in tokens; ``which`` side of a named law or of a file's requests."""
    if isinstance(law, FixedLength):
        return np.full(count, law.tokens, np.int64)
    if isinstance(law, UniformLength):
        return rng.integers(law.low, law.high, count, endpoint=True)
    if isinstance(law, LognormalLength):
        return _lognormal(law.median, law.sigma, (law.low, law.high), rng.standard_normal(count))
    if isinstance(law, NamedLength):
        named = NAMED[law.name]
        median, p90 = (
            (named.prompt_median, named.prompt_p90)
            if which == "prompt"
            else (named.output_median, named.output_p90)
        )
        return _lognormal(median, math.log(p90 / median) / NINETIETH, (1, MOST), rng.standard_normal(count))
    if isinstance(law, ChoiceLength):
        weights = np.asarray(law.weights or [1.0] * len(law.tokens))
        return rng.choice(np.asarray(law.tokens, np.int64), count, p=weights / weights.sum())
    from workloads.requests.files import read_requests

    requests = read_requests(law.path, law.format, limit=law.limit).requests
    return np.resize(requests.prompt_tokens if which == "prompt" else requests.output_tokens, count)


def _lognormal(median: float, sigma: float, bounds: tuple[int, int], normal: npt.NDArray[np.float64]) -> Ints:
    drawn = np.exp(np.minimum(math.log(median) + sigma * normal, math.log(bounds[1]) + 1))
    return np.clip(np.rint(drawn), *bounds).astype(np.int64)
