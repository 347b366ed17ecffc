"""Cache traces by recipe: ``PATTERN:REQUESTS:OBJECTS[:SEED[:key=value ...]]``, the same on every machine.

Objects are numbered from 1; random numbers are SplitMix64 with the seed. ``zipfA``: popularity 1 / rank^A. ``loop``:
1, 2, ..., again and again. ``scan-mix``: in turn 400 requests among a fifth of the objects and 100 that walk on
through the rest. ``walk``: steps of up to 8 either way, a jump in one of 50. ``phases``: eight phases, each among a
quarter of the objects, a tenth further on. ``experts``: the experts that tokens of a mixture-of-experts model ask for,
layer by layer. ``adapters``: LoRA adapters of requests that arrive at random times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.settings import Settings, count, number, read_settings, share, size, word
from hw_configs.whole_number import integer
from workloads.cache_trace.random_numbers import random_numbers, random_units
from workloads.cache_trace.trace import MAX_OBJECT, CacheRequests

__all__ = [
    "PATTERNS", "AdapterSettings", "ExpertSettings", "Pattern", "PatternSettings", "hashed_sizes", "is_pattern",
    "open_pattern",
]  # fmt: skip

Ints = npt.NDArray[np.int64]
MAX_REQUESTS: Final = 10**12
MAX_OBJECTS: Final = 1 << 26
"""A popularity takes 8 bytes for each object."""
_RANKS: Final = np.array([1, 2, 4, 8], np.int64)
_NONE: Final = np.zeros(0, np.int64)
_WRITES: Final = 0x5752495445
"""Apart from the seed of what is asked for: numbers for what is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternSettings(Settings):
    """Of the plain patterns."""

    size: int = size(1, "bytes of an object")
    sizes: str = word("unit", "all objects alike, or 1 to 63 times as large by a hash", ("unit", "hashed"))
    writes: float = share(0.0, "share of the requests that write", zero=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertSettings(Settings):
    """Of ``experts``; OBJECTS are the experts of one layer."""

    size: int = size(352321536, "bytes of an expert: three matrices of 4096 x 14336 in 16 bits by default")
    layers: int = count(32, "layers, each with experts of its own", least=1, most=4096)
    top: int = count(2, "experts that a token asks for in a layer", least=1, most=4096)
    skew: float = number(0.8, "exponent of the Zipf popularity", most=10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings(Settings):
    """Of ``adapters``."""

    size: int = size(8388608, "bytes of an adapter of rank 8; others have 1, 2, 4 or 8 times that by a hash")
    rate: float = number(10.0, "requests that arrive, Poisson", least=0.001, most=1e9, unit="1/s")
    skew: float = number(1.0, "exponent of the Zipf popularity", most=10.0)


def hashed_sizes(objects: Ints) -> Ints:
    """1 + (o x 2654435761 mod 2^32) mod 63.

    >>> hashed_sizes(np.array([1, 2])).tolist()
    [62, 56]
    """
    return (
        1 + ((objects.astype(np.uint64) * np.uint64(2654435761)) % np.uint64(1 << 32)).astype(np.int64) % 63
    )


def _popularity(objects: int, skew: float) -> npt.NDArray[np.float64]:
    # Python's own power, the same everywhere; arrays' power differs in the last bit between machines.
    weights = np.fromiter((1 / rank**skew for rank in range(1, objects + 1)), np.float64, objects)
    return np.asarray(np.cumsum(weights / np.cumsum(weights)[-1]), np.float64)


@dataclass(frozen=True)
class Pattern:
    """A trace by recipe; ``settings`` are of the pattern's own class."""

    name: str
    kind: str
    requests: int
    objects: int
    seed: int
    settings: Settings
    skew: float = 0.0
    _cumulative: list[npt.NDArray[Any]] = field(default_factory=list, repr=False, compare=False)

    @property
    def count(self) -> int | None:
        """Number of requests."""
        return self.requests

    def popularity(self) -> npt.NDArray[np.float64]:
        """Cumulative shares of the objects by rank, worked out once."""
        if not self._cumulative:
            self._cumulative.append(_popularity(self.objects, self.skew))
        return self._cumulative[0]

    def guide(self) -> Ints:
        """Where a bisection in the popularity begins, for steps of its argument from 0 to 1; worked out once."""
        sums = self.popularity()
        if len(self._cumulative) == 1:
            steps = 1 << max(len(sums) - 1, 1).bit_length()
            self._cumulative.append(np.searchsorted(sums, np.arange(steps + 1) / steps, side="left"))
        return np.asarray(self._cumulative[1], np.int64)

    def chunks(self, size: int) -> Iterator[CacheRequests]:
        """The requests from the beginning, at most ``size`` at a time."""
        make = PATTERNS[self.kind].make
        carried: dict[str, Any] = {}
        for start in range(0, self.requests, size):
            index = np.arange(start, min(start + size, self.requests), dtype=np.int64)
            yield make(self, index, carried)


def _numbers(p: Pattern, index: Ints, below: int) -> Ints:
    return (random_numbers(p.seed, index) % np.uint64(below)).astype(np.int64)


def _ranked(p: Pattern, index: Ints) -> Ints:
    """Objects by popularity: bisection to the left in the cumulative shares."""
    found = np.empty(len(index), np.int64)
    _bisect(p.popularity(), p.guide(), random_units(p.seed, index), found)
    return found


@compiled
def _bisect(sums: Any, guide: Any, units: Any, found: Any) -> None:
    # The guide says for each step of u where the bisection has to look; 1 + the first sum that is not below u.
    last, steps = len(sums) - 1, len(guide) - 1
    for i in range(len(units)):
        u = units[i]
        step = min(int(u * steps), steps - 1)
        low, high = guide[step], guide[step + 1]
        while low < high:
            middle = (low + high) >> 1
            if sums[middle] < u:
                low = middle + 1
            else:
                high = middle
        found[i] = min(low, last) + 1


def _plain(objects: Callable[[Pattern, Ints, dict[str, Any]], Ints]) -> Callable[..., CacheRequests]:
    def make(p: Pattern, index: Ints, carried: dict[str, Any]) -> CacheRequests:
        chosen: Any = p.settings
        numbers = objects(p, index, carried)
        sizes = np.full(len(index), chosen.size, np.int64)
        if chosen.sizes == "hashed":
            sizes *= hashed_sizes(numbers)
        written = np.zeros(len(index), np.bool_)
        if chosen.writes:
            written = random_units(p.seed ^ _WRITES, index) < chosen.writes
        return CacheRequests(numbers, sizes, written, _NONE, _NONE)

    return make


def _zipf(p: Pattern, index: Ints, carried: dict[str, Any]) -> Ints:  # noqa: ARG001
    return _ranked(p, index)


def _loop(p: Pattern, index: Ints, carried: dict[str, Any]) -> Ints:  # noqa: ARG001
    return index % p.objects + 1


def _scan_mix(p: Pattern, index: Ints, carried: dict[str, Any]) -> Ints:  # noqa: ARG001
    hot = max(p.objects // 5, 1)
    group, at = index // 500, index % 500
    among = _numbers(p, group * 400 + np.minimum(at, 399), hot) + 1
    on = (group * 100 + at - 400) % max(p.objects - hot, 1) + hot + 1
    return np.where(at < 400, among, np.minimum(on, p.objects))


def _walk(p: Pattern, index: Ints, carried: dict[str, Any]) -> Ints:
    jumps = _numbers(p, 2 * index, 50) == 0
    second = random_numbers(p.seed, 2 * index + 1)
    steps = np.where(jumps, 0, (second % np.uint64(17)).astype(np.int64) - 8)
    sums = np.cumsum(steps)
    # Each request counts from the last jump at or before it, or from where the chunk before ended.
    last = np.maximum.accumulate(np.where(jumps, np.arange(len(index)), -1))
    begin = (second % np.uint64(p.objects)).astype(np.int64)
    base: Ints = np.where(last >= 0, begin[last] - sums[last], carried.get("position", p.objects // 2))
    positions: Ints = (base + sums) % p.objects
    carried["position"] = int(positions[-1])
    return positions + 1


def _phases(p: Pattern, index: Ints, carried: dict[str, Any]) -> Ints:  # noqa: ARG001
    phase = np.minimum(index // max(p.requests // 8, 1), 7)
    among = max(p.objects // 4, 1)
    near = np.minimum(_numbers(p, 2 * index, among), _numbers(p, 2 * index + 1, among))
    return (phase * (p.objects // 10) + near) % p.objects + 1


def _experts(p: Pattern, index: Ints, carried: dict[str, Any]) -> CacheRequests:  # noqa: ARG001
    chosen: Any = p.settings
    top = min(chosen.top, p.objects)
    weights = np.diff(p.popularity(), prepend=0.0)
    # A visit is one token in one layer. Its experts are drawn one after another without putting back: those with
    # the least -ln(u) / weight.
    first, last = int(index[0]) // top, int(index[-1]) // top
    visits = np.arange(first, last + 1, dtype=np.int64)
    parts = []
    for some in np.array_split(visits, max(len(visits) * p.objects // (1 << 22), 1)):
        places = (some[:, None] * p.objects + np.arange(p.objects)).ravel()
        waits = -np.log(random_units(p.seed, places).reshape(len(some), -1) + 2.0**-65) / weights
        parts.append(
            np.argsort(waits, axis=1, kind="stable")[:, :top] + (some % chosen.layers * p.objects)[:, None]
        )
    start = int(index[0]) - first * top
    numbers = np.concatenate(parts).ravel()[start : start + len(index)] + 1
    zeros = np.zeros(len(index), np.bool_)
    return CacheRequests(
        numbers.astype(np.int64), np.full(len(index), chosen.size, np.int64), zeros, _NONE, _NONE
    )


def _adapters(p: Pattern, index: Ints, carried: dict[str, Any]) -> CacheRequests:
    chosen: Any = p.settings
    numbers = _ranked(p, 2 * index)
    gaps = -np.log(random_units(p.seed, 2 * index + 1) + 2.0**-65) * (1e9 / chosen.rate)
    arrival = carried.get("time", 0.0) + np.cumsum(gaps)
    carried["time"] = float(arrival[-1])
    times = _RANKS[(random_numbers(0, numbers) % np.uint64(4)).astype(np.int64)]
    written = np.zeros(len(index), np.bool_)
    return CacheRequests(numbers, chosen.size * times, written, arrival.astype(np.int64), _NONE)


@dataclass(frozen=True, slots=True)
class _Kind:
    settings: type[Settings]
    make: Callable[[Pattern, Ints, dict[str, Any]], CacheRequests]


PATTERNS: Final[Mapping[str, _Kind]] = {
    "zipf": _Kind(PatternSettings, _plain(_zipf)),
    "loop": _Kind(PatternSettings, _plain(_loop)),
    "scan-mix": _Kind(PatternSettings, _plain(_scan_mix)),
    "walk": _Kind(PatternSettings, _plain(_walk)),
    "phases": _Kind(PatternSettings, _plain(_phases)),
    "experts": _Kind(ExpertSettings, _experts),
    "adapters": _Kind(AdapterSettings, _adapters),
}
"""What a recipe's first word may be; ``zipf`` is written with its exponent, such as ``zipf0.8``."""


def is_pattern(text: str) -> bool:
    """Whether a text names a pattern before its first colon."""
    head = text.partition(":")[0]
    return head in PATTERNS or (head.startswith("zipf") and head[4:].replace(".", "", 1).isdigit())


def open_pattern(text: str) -> Pattern:
    """The trace of a recipe. Raises ``InputError`` that says what is wrong with it.

    >>> next(open_pattern("loop:5:3").chunks(9)).object.tolist()
    [1, 2, 3, 1, 2]
    """
    head, *parts = text.split(":")
    kind, skew = ("zipf", head[4:]) if head.startswith("zipf") else (head, "")
    if kind not in PATTERNS or (kind == "zipf" and not is_pattern(head)):
        known = ", ".join("zipfA" if name == "zipf" else name for name in PATTERNS)
        raise bad_input(f"unknown pattern {head[:40]!r}; known: {known}", suggestion=nearest(head, PATTERNS))
    pairs = [part for part in parts if "=" in part]
    plain = [part for part in parts if "=" not in part]
    expected = "PATTERN:REQUESTS:OBJECTS[:SEED[:key=value]]"
    if not 2 <= len(plain) <= 3 or parts[: len(plain)] != plain:
        raise bad_input(f"found {text[:80]!r}; expected {expected}")
    requests = integer(plain[0].replace("_", ""), 1, MAX_REQUESTS)
    objects = integer(plain[1].replace("_", ""), 1, MAX_OBJECTS)
    seed = integer(plain[2], 0, (1 << 63) - 1) if len(plain) == 3 else 1
    for value, what, most in ((requests, "requests", MAX_REQUESTS), (objects, "objects", MAX_OBJECTS)):
        if value is None or not 1 <= value <= most:
            raise bad_input(f"found {text[:80]!r}; expected 1 to {most} {what}: {expected}")
    if requests is None or objects is None or seed is None or not 0 <= seed < 1 << 63:
        raise bad_input(f"found {text[:80]!r}; expected a seed from 0 to 2^63 - 1")
    settings = _settings(kind, pairs, text)
    chosen: Any = settings
    exponent = float(skew) if skew else float(getattr(chosen, "skew", 0.0))
    if exponent > 10:
        raise bad_input(f"found {text[:80]!r}; expected an exponent of at most 10")
    if not 1 <= chosen.size <= MAX_OBJECT // 63:
        raise bad_input(f"found {text[:80]!r}; expected a size from 1 to {MAX_OBJECT // 63} bytes")
    return Pattern(text, kind, requests, objects, seed, settings, exponent)


def _settings(kind: str, pairs: list[str], text: str) -> Settings:
    given = [part.partition("=") for part in pairs]
    try:
        if len({key for key, _, _ in given}) < len(given):
            raise bad_input(f"found {text[:80]!r}; a key is given twice")
        return read_settings(PATTERNS[kind].settings, {key: _sized(key, value) for key, _, value in given})
    except InputError as error:
        raise InputError(
            [Problem(p.message, path=text[:80], suggestion=p.suggestion) for p in error.problems]
        ) from None


def _sized(key: str, value: str) -> str:
    """Plain numbers of bytes need no unit here."""
    return f"{value} B" if key == "size" and value.isdigit() else value
