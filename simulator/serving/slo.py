"""What a service promises: limits on times of a request, and the share of requests that must keep them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from hw_configs.problems import InputError, Problem, nearest
from hw_configs.units import UnitError, format_quantity, parse_quantity
from hw_configs.whole_number import decimal

__all__ = ["Slo", "parse_slo"]

DEFAULT_ATTAINMENT: Final = 0.9
"""Share of requests, as DistServe (OSDI 2024) has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Limits in seconds on a request's time to first token, mean time per later token, and end to end; None: none."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None
    attainment: float = DEFAULT_ATTAINMENT
    """Share of requests that must keep all limits."""

    def __post_init__(self) -> None:
        problems = [
            Problem(f"found {value!r}; expected seconds above zero", path=f"slo.{name}")
            for name in ("ttft_s", "tpot_s", "e2e_s")
            if (value := getattr(self, name)) is not None and not 0 < value < float("inf")
        ]
        if not 0 < self.attainment <= 1:
            problems.append(
                Problem(f"found {self.attainment!r}; expected a share above 0 up to 1", path="slo.attainment")
            )
        if problems:
            raise InputError(problems)

    @property
    def empty(self) -> bool:
        """Whether there is no limit."""
        return self.ttft_s is None and self.tpot_s is None and self.e2e_s is None

    def __str__(self) -> str:
        limits = [("ttft", self.ttft_s), ("tpot", self.tpot_s), ("e2e", self.e2e_s)]
        words = [f"{name} <= {format_quantity(limit, 'time')}" for name, limit in limits if limit is not None]
        return ", ".join(words) or "no limit"


def parse_slo(text: str) -> Slo:
    """Limits from text such as ``ttft=200ms,tpot=30ms,attainment=90%``; ``InputError`` for each part that is wrong.

    >>> parse_slo("ttft=200ms,tpot=30ms").tpot_s
    0.03
    """
    found: dict[str, float] = {}
    problems: list[Problem] = []
    names = [field.name.removesuffix("_s") for field in fields(Slo)]
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in names:
            message = f"found {part.strip()[:60]!r}; expected {', '.join(f'{n}=...' for n in names)}"
            problems.append(Problem(message, path="--slo", suggestion=nearest(name, names)))
            continue
        key = name if name == "attainment" else f"{name}_s"
        if key in found:
            problems.append(Problem(f"{name!r} is given twice", path="--slo"))
        try:
            found[key] = _share(value) if name == "attainment" else parse_quantity(value, "time")
        except (UnitError, ValueError) as error:
            problems.append(Problem(f"{name}: {error}", path="--slo"))
    if problems:
        raise InputError(problems)
    return Slo(**found)


def _share(text: str) -> float:
    number = decimal(text.removesuffix("%").strip())
    if number is None:
        raise ValueError(f"found {text[:40]!r}; expected a share such as 90% or 0.9")
    return number / 100 if text.endswith("%") else number
