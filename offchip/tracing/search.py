"""Queries against an index of vectors, in memory and on drives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict, Unpack

from hw_configs.problems import InputError, Problem
from hw_configs.typed_fields import wrong_types
from offchip.keywords import from_keywords

if TYPE_CHECKING:
    from simulator.vector_search.result import SearchResult

__all__ = ["SearchTraceOptions", "trace_search"]

_RANGES: Final = {"in_flight": (1, 4096), "queries": (1, 1_000_000), "drives": (1, 64), "seed": (0, 2**31)}


@dataclass(frozen=True, slots=True)
class SearchTraceOptions:
    """How queries meet an index.

    ``in_flight`` queries at a time, of ``queries`` in all; ``sweep``: also at 1, 2, 4, ... up to it. ``drives``:
    instead of the system's own number. ``seed``: of the places that are read.
    """

    in_flight: int = 1
    queries: int = 200
    drives: int | None = None
    seed: int = 1
    sweep: bool = False

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        for name, (least, most) in _RANGES.items() if not problems else ():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                option = "--" + name.replace("_", "-")
                problems.append(Problem(f"found {value}; expected {least} to {most}", path=option))
        if problems:
            raise InputError(problems)


class SearchTraceChoices(TypedDict, total=False):
    """The fields of :class:`SearchTraceOptions`, as keywords."""

    in_flight: int
    queries: int
    drives: int | None
    seed: int
    sweep: bool


def trace_search(index: str | Path, hw: str | Path, **options: Unpack[SearchTraceChoices]) -> SearchResult:
    """Answer queries against an index of vectors.

    ``index`` is a preset or a YAML file; ``hw`` a system, or a drive alone (distances then take no time); options are
    the fields of :class:`SearchTraceOptions`. Recall is an input of the index and never worked out. Raises
    ``InputError`` for bad input, ``InfeasibleError`` where the index does not fit.

    >>> result = trace_search("diskann-sift1b", "nvme-pcie4-dc-tlc", queries=20)
    >>> result.reads_per_query
    36
    """
    from hw_configs.library import load_system
    from simulator.vector_search.search import SearchOptions, machine_of, simulate_search
    from workloads.vector_index import load_index

    chosen = from_keywords(SearchTraceOptions, options)
    levels = _levels(chosen.in_flight) if chosen.sweep else ()
    asked = SearchOptions(chosen.queries, chosen.in_flight, chosen.seed, levels)
    return simulate_search(load_index(index), machine_of(load_system(hw), chosen.drives), asked)


def _levels(most: int) -> tuple[int, ...]:
    """1, 2, 4, ... and the most."""
    powers = [1 << i for i in range(most.bit_length()) if 1 << i < most]
    return (*powers, most)
