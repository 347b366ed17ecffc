"""When requests are sent: laws of arrivals, each with a mean rate that can be turned."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from hw_configs.config import Config, Count, Latency, Time
from hw_configs.problems import bad_input
from hw_configs.whole_number import decimal

__all__ = ["Arrivals", "AtOnce", "ClosedLoop", "Rate", "draw_arrivals", "read_rate", "with_rate"]

Floats = npt.NDArray[np.float64]

_RATE: Final = re.compile(r"\s*([-+0-9.eE]+)\s*(?:requests?|req|sessions?)?\s*/\s*(s|min|h)\s*")
_SECONDS: Final = {"s": 1.0, "min": 60.0, "h": 3600.0}
MOST_RATE: Final = 1e9


def read_rate(value: Any) -> float:
    """Requests per second from a text such as ``4 /s``, ``240 requests/min``; ``ValueError`` otherwise.

    >>> read_rate("240 /min")
    4.0
    """
    if isinstance(value, float):
        number, unit = value, "s"
    else:
        match = _RATE.fullmatch(str(value)[:64])
        found = decimal(match[1]) if match else None
        if match is None or found is None:
            raise ValueError(
                f"found {str(value)[:64]!r}; expected a rate with its unit, such as '4 /s' or '90 /min'"
            )
        number, unit = found, match[2]
    if not 0 < number / _SECONDS[unit] <= MOST_RATE:
        raise ValueError(
            f"found {value!r}; a request rate must be greater than zero and at most {MOST_RATE:g} /s"
        )
    return number / _SECONDS[unit]


Rate = Annotated[float, BeforeValidator(read_rate)]


class Poisson(Config):
    """Independent of one another, so many a second on average."""

    kind: Literal["poisson"]
    rate: Rate


class Gamma(Config):
    """Gaps from a gamma law: ``cv`` is their standard deviation over their mean (1: Poisson, above: bursty)."""

    kind: Literal["gamma"]
    rate: Rate
    cv: Annotated[float, Field(gt=0, le=100)]


class Constant(Config):
    """Equal gaps, the first at once."""

    kind: Literal["constant"]
    rate: Rate


class Bursts(Config):
    """``size`` requests every ``every``, each at a random time ``within`` the beginning of that span."""

    kind: Literal["bursts"]
    size: Count
    every: Time
    within: Latency = 0.0


class ClosedLoop(Config):
    """So many clients, each sends its next request ``think`` after the last token of the one before."""

    kind: Literal["closed-loop"]
    clients: Count
    think: Latency = 0.0


class AtOnce(Config):
    """All at time zero."""

    kind: Literal["at-once"]


class FileArrivals(Config):
    """Arrivals of a trace, ``speed`` times as fast; again behind its end where it is too short."""

    kind: Literal["file"]
    path: str
    format: str | None = None
    speed: Annotated[float, Field(gt=0, le=1e6)] = 1.0


Arrivals = Annotated[
    Poisson | Gamma | Constant | Bursts | ClosedLoop | AtOnce | FileArrivals, Field(discriminator="kind")
]


def draw_arrivals(law: Any, count: int, rng: np.random.Generator) -> Floats:
    """Seconds from the beginning at which requests are sent, in order."""
    if isinstance(law, Poisson):
        return np.cumsum(rng.exponential(1 / law.rate, count))
    if isinstance(law, Gamma):
        shape = law.cv**-2
        return np.cumsum(rng.gamma(shape, 1 / (law.rate * shape), count))
    if isinstance(law, Constant):
        return np.arange(count) / law.rate
    if isinstance(law, Bursts):
        return np.sort((np.arange(count) // law.size) * law.every + rng.random(count) * law.within)
    if isinstance(law, FileArrivals):
        from workloads.requests.files import read_requests

        times = np.sort(read_requests(law.path, law.format).requests.arrival_s)
        gap = times[-1] / max(len(times) - 1, 1)
        rounds = np.arange(count) // len(times)
        return np.asarray((np.resize(times, count) + rounds * (times[-1] + gap)) / law.speed)
    return np.zeros(count)


def with_rate(law: Any, rate: float) -> Any:
    """The law at another mean rate in requests per second; ``InputError`` for one that has none.

    >>> with_rate(Bursts(kind="bursts", size=8, every=2.0), 2.0).every
    4.0
    """
    if isinstance(law, Poisson | Gamma | Constant):
        return law.model_copy(update={"rate": rate})
    if isinstance(law, Bursts):
        factor = law.size / law.every / rate
        return law.model_copy(update={"every": law.every * factor, "within": law.within * factor})
    raise bad_input(
        f"arrivals of kind {law.kind!r} have no rate to turn; expected poisson, gamma, constant or bursts",
        path="arrivals.kind",
    )
