"""How often experts are wanted: shares of the routed rows by expert, and what follows for caches of experts.

A router sends each token to k different experts, and rarely to all alike. What decides everything here is the chance
that a token goes to an expert: k times the expert's share of the routed rows, at most 1. It comes from one of three:

- ``uniform``: every expert is wanted alike;
- ``zipf:S``: the expert of rank r has the weight r to the power of minus S, and a token draws k different experts one
  after another, each in proportion to its weight among those left. The chances follow exactly (:func:`chances_of`);
- a CSV file with the columns ``expert`` and ``count`` (or ``share``), and ``layer`` where layers differ: rows that were
  counted on a machine.

Tokens are independent of one another and of the layer before. Real routers repeat themselves from token to token, so
that a cache that follows them finds more than what is said here; a trace of choices says how much.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.problems import InputError, Problem, bad_input

__all__ = [
    "ExpertFrequency",
    "Fetches",
    "Policy",
    "chances_of",
    "expected_touched",
    "fetches",
    "frequency_of",
    "hit_rate",
    "lru_hit_rate",
    "read_frequency",
    "top_share",
    "zipf_weights",
]

Array = NDArray[np.float64]
Policy = Literal["static", "lfu", "lru"]
MAX_ROWS: Final = 1 << 20
MAX_FILE_BYTES: Final = 1 << 26
MAX_EXPERTS: Final = 1 << 16
MAX_EXPONENT: Final = 5.0
"""Weights beyond any router that was measured, and as far as the integral below is exact to a billionth."""
_NODES: Final = 200
"""Points of the integral over the moment of a draw."""
_ALL_LAYERS: Final = -1


@dataclass(frozen=True, slots=True)
class ExpertFrequency:
    """How often experts are wanted: counted, by layer, or by a law.

    ``exponent`` is that of a Zipf law, 0 for experts that are wanted alike. ``counted`` holds the shares of routed rows
    of each layer's experts, the most wanted first, -1 for all layers; it is empty for a law.
    """

    exponent: float = 0.0
    counted: Mapping[int, tuple[float, ...]] | None = None

    def shares(self, experts: int, active: int, layer: int | None = None) -> tuple[float, ...]:
        """Shares of the routed rows by expert, the most wanted first; they add up to 1.

        ``InputError`` where a file says nothing of the layer, has other experts, or gives one expert more rows than a
        router that sends a token to ``active`` different ones can.
        """
        if self.counted is None:
            chances = chances_of(zipf_weights(experts, self.exponent), active)
            return tuple(chance / active for chance in chances)
        known = self.counted.get(_ALL_LAYERS if layer is None else layer, self.counted.get(_ALL_LAYERS))
        if known is None:
            raise bad_input(
                f"found no experts of layer {layer}; expected {_some(self.counted)}",
                path="expert-frequency",
            )
        if len(known) > experts:
            raise bad_input(
                f"found {len(known)} experts of layer {layer}; the model has {experts}",
                path="expert-frequency",
            )
        if known[0] * active > 1 + 1e-6:
            raise bad_input(
                f"found an expert with {known[0]:.3g} of the rows of layer {layer}; a token goes to {active} different "
                f"experts, so that one gets at most {1 / active:.3g}", path="expert-frequency",
            )  # fmt: skip
        return (*known, *(0.0,) * (experts - len(known)))


def frequency_of(text: str) -> ExpertFrequency:
    """The frequency that a setting names: ``uniform``, ``zipf:1.2``, or the path of a CSV file."""
    if text == "uniform":
        return ExpertFrequency()
    name, _, figure = text.partition(":")
    if name == "zipf":
        try:
            exponent = float(figure)
        except ValueError:
            exponent = math.nan
        if not 0 <= exponent <= MAX_EXPONENT:
            raise bad_input(
                f"found {text!r}; expected zipf: and an exponent from 0 to {MAX_EXPONENT:g}",
                path="expert-frequency",
            )
        return ExpertFrequency(exponent)
    if not Path(text).is_file():
        raise bad_input(
            f"found {text!r}; expected uniform, zipf:EXPONENT or a CSV file", path="expert-frequency"
        )
    return read_frequency(text)


def read_frequency(path: str | Path) -> ExpertFrequency:
    """The frequency in a CSV file with the columns expert, count or share, and perhaps layer.

    ``InputError`` with file and line for every value that is none, an expert named twice, or a layer without rows.
    """
    file = Path(path)
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise bad_input(f"found more than {MAX_FILE_BYTES} bytes", file=str(path))
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise bad_input(f"cannot be read: {error}", file=str(path)) from None
    rows = csv.reader(text.splitlines())
    head = [name.strip().lower() for name in next(rows, [])]
    amount = next((name for name in ("count", "share") if name in head), "")
    known = {"expert", "layer", amount}
    if not amount or "expert" not in head or len(set(head)) < len(head) or set(head) - known:
        found = ", ".join(head) or "nothing"
        expected = "expert, count (or share), and perhaps layer"
        raise InputError([Problem(f"found the columns {found}; expected {expected}", str(path), 1)])
    problems: list[Problem] = []
    by_layer: dict[int, dict[int, float]] = {}
    for line, row in enumerate(rows, start=2):
        if line > MAX_ROWS:
            problems.append(Problem(f"found more than {MAX_ROWS} rows", str(path), line))
            break
        if row:
            _take(row, head, amount, by_layer, problems, (str(path), line))
    for layer, counts in by_layer.items():
        if not sum(counts.values()) > 0:
            problems.append(Problem(f"found no routed rows of layer {layer}", str(path), None, amount))
    if not by_layer and not problems:
        problems.append(Problem("found no experts", str(path)))
    if problems:
        raise InputError(problems)
    return ExpertFrequency(counted={layer: _sorted(counts) for layer, counts in by_layer.items()})


def _take(
    row: Sequence[str], head: Sequence[str], amount: str, by_layer: dict[int, dict[int, float]],
    problems: list[Problem], where: tuple[str, int],
) -> None:  # fmt: skip
    if len(row) != len(head):
        problems.append(Problem(f"found {len(row)} values; expected {len(head)}", *where))
        return
    cells = {name: text.strip() for name, text in zip(head, row, strict=True)}
    numbers: dict[str, int] = {}
    for name in ("layer", "expert"):
        text = cells.get(name, str(_ALL_LAYERS))
        if name in cells and not (text.isascii() and text.isdecimal() and int(text) < MAX_EXPERTS):
            problems.append(
                Problem(f"found {text!r}; expected a whole number below {MAX_EXPERTS}", *where, name)
            )
            return
        numbers[name] = int(text)
    try:
        value = float(cells[amount])
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        problems.append(Problem(f"found {cells[amount]!r}; expected a figure of at least 0", *where, amount))
        return
    counts = by_layer.setdefault(numbers["layer"], {})
    if numbers["expert"] in counts:
        problems.append(Problem(f"found expert {numbers['expert']} of this layer twice", *where, "expert"))
    counts[numbers["expert"]] = value


def _sorted(counts: Mapping[int, float]) -> tuple[float, ...]:
    total = sum(counts.values())
    return tuple(value / total for value in sorted(counts.values(), reverse=True))


def _some(counted: Mapping[int, object]) -> str:
    layers = sorted(counted)
    return f"layers {layers[0]} to {layers[-1]}"


def zipf_weights(experts: int, exponent: float) -> tuple[float, ...]:
    """Weights of experts by rank, the largest 1.

    >>> zipf_weights(3, 1.0)
    (1.0, 0.5, 0.3333333333333333)
    """
    return tuple(float(rank) ** -exponent for rank in range(1, experts + 1))


@lru_cache(maxsize=256)
def chances_of(weights: tuple[float, ...], active: int) -> tuple[float, ...]:
    """The chance of each expert to be among ``active`` different ones, drawn in proportion to weights without return.

    Drawing so is a race: expert e arrives at an exponential moment of rate w_e, and the first k are taken. So e is
    taken if at most k - 1 others came before it, whose number is a sum of independent draws at any given moment; the
    integral over e's moment is taken by Gauss-Legendre. The chances add up to ``active``.

    >>> chances_of((1.0, 1.0, 1.0, 1.0), 2)
    (0.5, 0.5, 0.5, 0.5)
    """
    count = len(weights)
    if not 1 <= active <= count:
        raise bad_input(f"found {active} active of {count} experts", path="active")
    if active == count or len(set(weights)) == 1:
        return (active / count,) * count
    rates = np.array(weights) / max(weights)
    at, part = np.polynomial.legendre.leggauss(_NODES)
    # Moments spread over all orders of magnitude that matter: t = exp(u), from long before the first of the race to
    # long after the last that could still be taken.
    low, high = math.log(1e-9 / rates.sum()), math.log(50.0 / np.sort(rates)[::-1][active])
    steps = (at + 1) / 2 * (high - low) + low
    moments = np.exp(steps)
    come = -np.expm1(-np.outer(rates, moments))
    ahead = _less_than(come, active)
    density = rates[:, None] * np.exp(-np.outer(rates, moments)) * moments
    chances = (density * ahead) @ (part * (high - low) / 2)
    # What the integral misses is spread as the chances are; none is above 1.
    chances = np.minimum(chances * (active / chances.sum()), 1.0)
    return tuple(chances.tolist())


def _less_than(come: Array, active: int) -> Array:
    """For each expert and moment, the chance that fewer than ``active`` of the others have come."""
    count, nodes = come.shape
    before = np.zeros((count + 1, active, nodes))
    after = np.zeros((count + 1, active, nodes))
    before[0, 0] = after[count, 0] = 1.0
    for e in range(count):
        before[e + 1] = _one_more(before[e], come[e])
        after[count - 1 - e] = _one_more(after[count - e], come[count - 1 - e])
    at_most = np.cumsum(after, axis=1)
    found = np.zeros((count, nodes))
    for taken in range(active):
        found += before[:count, taken] * at_most[1:, active - 1 - taken]
    return found


def _one_more(number: Array, come: Array) -> Array:
    """How many have come, with one more who may have."""
    made = number * (1 - come)
    made[1:] += number[:-1] * come
    return made


def top_share(shares: Sequence[float], slots: int) -> float:
    """Share of the routed rows that goes to the ``slots`` most wanted experts.

    >>> top_share((0.4, 0.3, 0.2, 0.1), 2)
    0.7
    """
    return math.fsum(sorted(shares, reverse=True)[:slots])


def expected_touched(shares: Sequence[float], active: int, tokens: float) -> float:
    """Experts of a set that some of ``tokens`` tokens reaches, on average.

    ``shares`` are those of the set's experts among all routed rows. Exact for tokens that choose on their own, however
    a token draws its different experts; :func:`workloads.expert_load.expected_experts` where all are wanted alike.

    >>> expected_touched((0.125,) * 8, 2, 1)
    2.0
    """
    return math.fsum(_reached(min(1.0, active * share), tokens) for share in shares)


def _reached(chance: float, tokens: float) -> float:
    if chance <= 0 or tokens == 1:
        return chance
    return float(tokens > 0) if chance >= 1 else -math.expm1(tokens * math.log1p(-chance))


def hit_rate(
    shares: Sequence[float], active: int, slots: int, policy: Policy = "static", tokens: float = 1
) -> float:
    """Share of the experts that a step of ``tokens`` tokens wants which a cache of ``slots`` experts holds.

    ``static``: the most wanted experts stay; ``lfu`` ends up with the same ones, for how often they are wanted does not
    change; ``lru``: see :func:`lru_hit_rate`.
    """
    if policy == "lru":
        return lru_hit_rate(shares, active, slots, tokens)
    ranked = sorted(shares, reverse=True)
    wanted = expected_touched(ranked, active, tokens)
    return expected_touched(ranked[:slots], active, tokens) / wanted if wanted else 0.0


def lru_hit_rate(shares: Sequence[float], active: int, slots: int, tokens: float = 1) -> float:
    """The hit rate of a cache that drops the expert longest unused, in Che's approximation.

    An expert stays as long as it is wanted again within a time T, in steps, that is the same for all; T is such that
    as many experts stay as there are slots (Che et al., IEEE JSAC 20(7), 2002). A step looks for all of its experts
    before it drops any. Caches that were played, token by token, differ by at most 0.02 where a token wants at most a
    quarter of the slots. A step finds no more experts than there are slots; where it wants as many or more, caches
    that are walked through in turn find less than is said.
    """
    chances = np.array([_reached(min(1.0, active * share), tokens) for share in shares])
    wanted = float(chances.sum())
    if slots >= int((chances > 0).sum()):
        return 1.0
    if slots <= 0 or wanted <= 0:
        return 0.0
    with np.errstate(divide="ignore"):
        missed = np.log1p(-np.minimum(chances, 1.0))
    low, high = 0.0, 1.0
    while _inside(missed, high).sum() < slots and high < 1e15:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(missed, middle).sum() < slots else (low, middle)
    return min(float((chances * _inside(missed, high)).sum()), float(slots)) / wanted


def _inside(missed: Array, steps: float) -> Array:
    """The chance of each expert to have been wanted in so many steps."""
    return np.asarray(-np.expm1(np.where(missed == 0, 0.0, missed) * steps))


class Fetches(NamedTuple):
    """Experts that a step brings into a cache: guessed ahead (right and wrong ones), and once the router has chosen."""

    ahead: float
    demand: float


def fetches(missing: float, guessed: float = 0.0) -> Fetches:
    """What is fetched of ``missing`` experts when a predictor names as many, of which the share ``guessed`` is right.

    Wrong ones are fetched for nothing, and the right ones in their place once they are known.

    >>> fetches(2.0, 0.75)
    Fetches(ahead=2.0, demand=0.5)
    """
    if not 0 <= guessed <= 1:
        raise bad_input(f"found {guessed}; expected 0 to 1", path="prefetch")
    return Fetches(missing if guessed else 0.0, missing * (1 - guessed))
