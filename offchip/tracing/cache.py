"""Requests for objects through caches: policies side by side, levels, reuse distances, miss-ratio curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from hw_configs.problems import InputError, Problem, bad_input
from hw_configs.typed_fields import wrong_types
from offchip.keywords import from_keywords
from offchip.progress import Reporter, silent, upto

if TYPE_CHECKING:
    from hw_configs.device import ObjectCache
    from hw_configs.settings import Settings
    from simulator.cache.hierarchy import Level
    from simulator.cache.result import CacheResult, Curve
    from simulator.cache.simulate import Hierarchy
    from workloads.cache_trace import CacheTrace

__all__ = ["CacheTraceOptions", "trace_cache"]

MOST_POLICIES: Final = 64


@dataclass(frozen=True, slots=True)
class CacheTraceOptions:
    """How requests meet a cache.

    ``hw``: a cache by name or YAML file; or ``size`` (such as 32GiB) and ``policy``, one name or several with commas.
    With ``hw``, ``policy`` takes the place of every level's own. ``settings``: of the policies that have them.
    ``curve``: miss ratios over sizes. ``sample``: share of the objects that reuse distances look at. ``plot``: an
    .svg or .png file for curves and reuse distances. ``grain``: bytes of pieces; None: whole objects, or the cache's.
    """

    hw: str | None = None
    size: str | None = None
    policy: str | None = None
    settings: Mapping[str, object] | None = None
    format: str | None = None
    grain: str | None = None
    curve: bool = False
    sample: float = 1.0
    plot: str | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        if problems:
            raise InputError(problems)
        if (self.hw is None) == (self.size is None):
            raise bad_input("give a cache (--hw) or a size (--size), one of them")
        if self.seed < 0 or self.seed >= 1 << 62:
            raise bad_input(f"found {self.seed}; expected 0 to 2^62 - 1", path="--seed")
        if self.plot is not None and Path(self.plot).suffix not in (".svg", ".png"):
            raise bad_input(f"found {self.plot!r}; expected a file that ends in .svg or .png", path="--plot")


class CacheTraceChoices(TypedDict, total=False):
    """The fields of :class:`CacheTraceOptions`, as keywords."""

    hw: str | None
    size: str | None
    policy: str | None
    settings: Mapping[str, object] | None
    format: str | None
    grain: str | None
    curve: bool
    sample: float
    plot: str | None
    seed: int


def trace_cache(
    trace: str | Path | CacheTrace, *, progress: Reporter = silent, **options: Unpack[CacheTraceChoices]
) -> Any:
    """Run requests for objects through one cache or several.

    ``trace`` is a trace file, ``PATTERN:REQUESTS:OBJECTS[:SEED[:key=value]]``, or a trace in memory; options are the
    fields of :class:`CacheTraceOptions`. The result is a ``CacheResult``, or that of ``cpu-cache`` devices. Raises
    ``InputError`` for bad input.

    >>> result = trace_cache("zipf1.0:2000:100", size="10 B", policy="lru,sieve")
    >>> [run.label for run in result.runs], result.runs[0].requests
    (['lru', 'sieve'], 2000)
    """
    chosen = from_keywords(CacheTraceOptions, options)
    device = _device(chosen.hw) if chosen.hw is not None else None
    if device is not None and device.kind == "cpu-cache":
        return _cpu_cache(trace, chosen, progress)
    return _run(trace, chosen, device, progress)


def _cpu_cache(trace: Any, chosen: CacheTraceOptions, progress: Reporter) -> Any:
    """A processor's caches have sets and ways: another engine runs them."""
    import importlib

    refused = ("policy", "settings", "grain", "curve", "plot")
    problems = [
        Problem("a cpu-cache takes its own", path=f"--{name}") for name in refused if getattr(chosen, name)
    ]
    if problems:
        raise InputError(problems)
    found = importlib.import_module("offchip.tracing.cpu_cache")
    return found.trace_cpu_cache(trace, chosen.hw, progress=progress, format=chosen.format, seed=chosen.seed)


def _run(
    trace: Any, chosen: CacheTraceOptions, device: ObjectCache | None, progress: Reporter
) -> CacheResult:
    from simulator.cache.distances import Distances
    from simulator.cache.simulate import simulate_caches

    hierarchies = _hierarchies(chosen, device)
    grain = _size(chosen.grain, "--grain") if chosen.grain is not None else None
    if grain is None and device is not None and device.grain is not None:
        grain = int(device.grain)
    requests = _requests(trace, chosen.format, grain)
    distances = Distances(chosen.sample, chosen.seed) if chosen.curve or chosen.sample < 1 else None
    with progress("requests", requests.count or 0) as tally:
        result = simulate_caches(
            requests, hierarchies, distances=distances, seed=chosen.seed, progress=upto(tally)
        )
    if chosen.curve and not result.interrupted:
        result = replace(result, curves=_curves(requests, hierarchies, result, chosen))
    if chosen.plot is not None:
        from offchip.tracing.cache_plot import plot_cache

        plot_cache(Path(chosen.plot), result)
    return result


def _device(hw: str) -> Any:
    from hw_configs.library import load_device

    device = load_device(hw)
    if device.kind not in ("cache", "cpu-cache"):
        raise bad_input(
            f"{hw!r} is a device of kind {device.kind!r}; expected 'cache' or 'cpu-cache'", path="--hw"
        )
    return device


def _hierarchies(chosen: CacheTraceOptions, device: ObjectCache | None) -> list[Hierarchy]:
    from simulator.cache.hierarchy import Level
    from simulator.cache.replacement.policy import POLICIES
    from simulator.cache.simulate import Hierarchy

    names = chosen.policy.split(",") if chosen.policy is not None else []
    names = [name.strip() for name in names]
    if len(names) > MOST_POLICIES or len(set(names)) < len(names):
        raise bad_input(
            f"found {str(chosen.policy)[:80]!r}; expected up to {MOST_POLICIES} names, each once",
            path="--policy",
        )
    given = dict(chosen.settings or {})
    if device is None:
        if not names:
            raise bad_input("give the policy of the cache: --policy NAME[,NAME...]")
        settings = _settings(names, given)
        size = _size(str(chosen.size), "--size")
        return [Hierarchy(n, (Level("cache", size, POLICIES.get(n), settings[n]),)) for n in names]
    if not names:
        return [
            Hierarchy(device.name, tuple(_level(name, level, given) for name, level in device.levels.items()))
        ]
    settings = _settings(names, given)
    found = []
    for n in names:
        policy = POLICIES.get(n)
        levels = (
            Level(name, int(x.size), policy, settings[n], x.latency, x.bandwidth)
            for name, x in device.levels.items()
        )
        found.append(Hierarchy(n, tuple(levels)))
    return found


def _settings(names: list[str], given: Mapping[str, object]) -> dict[str, Settings]:
    """Settings of each policy: each takes those that it has; one that none has is refused."""
    from hw_configs.settings import read_settings, settings_of
    from simulator.cache.replacement.policy import POLICIES

    classes = {name: POLICIES.get(name).settings for name in names}
    spelled = {str(key).replace("_", "-"): value for key, value in given.items()}
    known = {key for cls in classes.values() for key in settings_of(cls)}
    unknown = {key: value for key, value in spelled.items() if key not in known}
    if unknown:
        read_settings(next(iter(classes.values())), unknown)
    return {
        name: read_settings(cls, {key: value for key, value in spelled.items() if key in settings_of(cls)})
        for name, cls in classes.items()
    }


def _level(name: str, level: Any, given: Mapping[str, object]) -> Level:
    from hw_configs.settings import read_settings
    from simulator.cache.hierarchy import Level
    from simulator.cache.replacement.policy import POLICIES

    policy = POLICIES.get(level.policy)
    settings = read_settings(policy.settings, {**level.settings, **given})
    return Level(name, int(level.size), policy, settings, level.latency, level.bandwidth)


def _size(text: str, option: str) -> int:
    from hw_configs.units import UnitError, parse_quantity

    try:
        value = parse_quantity(text, "size")
    except UnitError as error:
        raise bad_input(str(error), path=option) from None
    if not 1 <= value <= 1 << 60:
        raise bad_input(f"found {text[:60]!r}; expected 1 B to 1 EiB", path=option)
    return int(value)


def _requests(trace: Any, format: str | None, grain: int | None) -> CacheTrace:
    from workloads.cache_trace import is_pattern, open_cache_trace, open_pattern
    from workloads.cache_trace.pieces import Pieces

    if not isinstance(trace, str | Path):
        found: CacheTrace = trace
    elif Path(trace).exists() or not is_pattern(str(trace)):
        text = str(trace)
        head = text.partition(":")[0]
        if not Path(text).exists() and ":" in text and "/" not in head and "." not in head:
            found = open_pattern(text)
        else:
            found = open_cache_trace(trace, format, grain)
            if found.format == "msr":
                return found
    else:
        found = open_pattern(str(trace))
    return found if grain is None else Pieces(found, grain)


def _curves(
    requests: CacheTrace, hierarchies: list[Hierarchy], result: CacheResult, chosen: CacheTraceOptions
) -> tuple[Curve, ...]:
    from simulator.cache.curves import curve_of, point_sizes

    if result.distances is None:
        return ()
    sizes = point_sizes(result.distinct_bytes, max(result.distinct_bytes // max(result.objects, 1), 1) * 4)
    firsts: Iterator[Level] = (hierarchy.levels[0] for hierarchy in hierarchies)
    return tuple(curve_of(requests, level, result.distances, sizes, chosen.seed) for level in firsts)
