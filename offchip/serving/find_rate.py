"""The largest rate of requests within limits: doubling until it fails, then bisection; the same requests every time.

More requests a second keep their limits less often, all else equal. A finite run need not obey that to the last
request, so what was tried is held against it: the answer is never above the smallest rate that failed, and
``monotone`` says whether some larger rate passed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hw_configs.problems import NoAnswerError, bad_input
from hw_configs.shown import Shown, Table

__all__ = ["FoundRate", "Probe", "find_rate"]

TOLERANCE: Final = 0.02
MOST_DOUBLINGS: Final = 40
LEAST_RATE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Probe:
    """One rate that was tried, in requests (or sessions) per second, and what came of it."""

    rate: float
    attainment: float
    """Share of requests within the limits."""
    goodput: float
    """Requests per second within the limits."""
    passed: bool

    def as_json(self) -> dict[str, Any]:
        """The probe as plain data."""
        return {
            "rate": self.rate,
            "attainment": self.attainment,
            "goodput": self.goodput,
            "passed": self.passed,
        }


@dataclass(frozen=True)
class FoundRate(Shown):
    """The largest rate that passed; the true one is below ``rate * (1 + tolerance)``."""

    rate: float
    tolerance: float
    wanted: float
    """Share of requests that must keep the limits."""
    probes: tuple[Probe, ...]
    note: str = ""
    """What a reader must know before believing the rate."""

    @property
    def monotone(self) -> bool:
        """Whether no rate passed above one that failed."""
        failed = min((probe.rate for probe in self.probes if not probe.passed), default=float("inf"))
        return all(probe.rate < failed for probe in self.probes if probe.passed)

    def as_json(self) -> dict[str, Any]:
        """The search as plain data."""
        return {
            "rate": self.rate, "tolerance": self.tolerance, "attainment_wanted": self.wanted,
            "monotone": self.monotone, "note": self.note, "probes": [probe.as_json() for probe in self.probes],
        }  # fmt: skip

    def shown_tables(self) -> Sequence[Table]:
        """The rate, then what was tried, by rate."""
        note = "" if self.monotone else "; some larger rate passed by chance: ask for more requests"
        head = (
            f"largest rate: {self.rate:.4g} /s ({self.wanted:.0%} of requests within the limits, "
            f"tolerance {self.tolerance:.0%}{note})"
        )
        if self.note:
            head += f"\nnote: {self.note}"
        rows = [
            (f"{p.rate:.4g} /s", f"{p.attainment:.1%}", f"{p.goodput:.4g} /s", "yes" if p.passed else "no")
            for p in sorted(self.probes, key=lambda probe: probe.rate)
        ]
        return (Table(head, ("rate", "within limits", "goodput", "passes"), tuple(rows)),)


def find_rate(
    probe: Callable[[float], tuple[float, float]],
    wanted: float,
    start: float = 1.0,
    tolerance: float = TOLERANCE,
) -> FoundRate:
    """The largest rate at which ``probe`` (rate to attainment and goodput) reaches ``wanted``.

    ``NoAnswerError`` where no rate passes; ``InputError`` where all do: the requests are too few to load the service.

    >>> round(find_rate(lambda rate: (1.0 if rate <= 3 else 0.5, rate), 0.9, tolerance=0.001).rate, 2)
    3.0
    """
    if not 0 < tolerance < 1:
        raise bad_input(f"found {tolerance}; expected a share above 0 and below 1", path="--tolerance")
    if not 0 < start < float("inf"):
        raise bad_input(f"found {start}; expected a rate above 0", path="rate")
    tried: list[Probe] = []

    def passes(rate: float) -> bool:
        attainment, goodput = probe(rate)
        tried.append(Probe(rate, attainment, goodput, attainment >= wanted))
        return tried[-1].passed

    low, high = _bracket(passes, start)
    while high / low > 1 + tolerance:
        middle = (low * high) ** 0.5
        if passes(middle):
            low = middle
        else:
            high = middle
    failed = min(p.rate for p in tried if not p.passed)
    best = max((p.rate for p in tried if p.passed and p.rate < failed), default=low)
    return FoundRate(best, tolerance, wanted, tuple(tried))


def _bracket(passes: Callable[[float], bool], start: float) -> tuple[float, float]:
    """A rate that passes and twice it, which does not."""
    rate = start
    if passes(rate):
        for _ in range(MOST_DOUBLINGS):
            if not passes(rate * 2):
                return rate, rate * 2
            rate *= 2
        raise bad_input(
            "every rate keeps the limits: ask for more requests, or closer limits", path="--find-rate"
        )
    while rate > LEAST_RATE:
        rate /= 2
        if passes(rate):
            return rate, rate * 2
    raise NoAnswerError(
        f"no rate keeps the limits: even at {rate:.1g} requests per second too few requests do"
    )
