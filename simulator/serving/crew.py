"""The engines of several workers in one piece of memory, so that one compiled function can run any of them.

A worker has one engine, or one for each of its groups.

Each record of an engine (:class:`~simulator.serving.records.State`) lies in one flat array with those of the other
engines, and the tables of prices in another; a table of places says where each engine's are. What several engines
read and none writes (the requests' segments) lies there once.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from simulator.serving.engine import Engine
from simulator.serving.price_tables import PriceTables
from simulator.serving.records import State

__all__ = ["Crew", "make_crew", "state_of", "tables_of"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Crew(NamedTuple):
    """Memory of all engines. ``places``: engine, record, then where it begins, its rows and its columns (0: flat)."""

    memory: State
    places: Ints
    prices: Floats
    price_places: Ints
    """Tables, array, then where it begins and its three lengths (0: no such axis)."""
    kind: Ints
    """Which tables each engine's are."""
    first: Ints
    """Number of each worker's first engine; one more than there are workers."""


def make_crew(workers: Sequence[Sequence[Engine]], tables: Sequence[PriceTables]) -> Crew:
    """Move the records of the workers' engines together; the engines go on with them where they are."""
    engines = [engine for own in workers for engine in own]
    first = np.cumsum([0, *(len(own) for own in workers)])
    places = np.zeros((len(engines), len(State._fields), 3), np.int64)
    memory = []
    for field, name in enumerate(State._fields):
        arrays = [getattr(engine.state, name) for engine in engines]
        flat, begins = _together(arrays)
        for number, (array, begin) in enumerate(zip(arrays, begins, strict=True)):
            places[number, field, : 1 + array.ndim] = (begin, *array.shape)
            engines[number].move(name, flat[begin : begin + array.size].reshape(array.shape))
        memory.append(flat)
    different: list[PriceTables] = []
    kind = np.zeros(len(engines), np.int64)
    for worker, own in enumerate(tables):
        known = [place for place, other in enumerate(different) if other is own]
        kind[first[worker] : first[worker + 1]] = known[0] if known else len(different)
        if not known:
            different.append(own)
    prices, price_places = _prices(different)
    return Crew(State(*memory), places, prices, price_places, kind, first)


def _together(arrays: Sequence[npt.NDArray[Any]]) -> tuple[npt.NDArray[Any], list[int]]:
    """Arrays one after another, each different one once, and where each begins."""
    begins, size, known = [], 0, dict[int, int]()
    for array in arrays:
        if id(array) not in known:
            known[id(array)] = size
            size += array.size
        begins.append(known[id(array)])
    if len(known) == 1 and arrays[0].flags.writeable and arrays[0].flags.c_contiguous:
        return arrays[0].reshape(-1), begins
    flat = np.empty(size, arrays[0].dtype)
    for array, begin in zip(arrays, begins, strict=True):
        flat[begin : begin + array.size] = array.reshape(-1)
    return flat, begins


def _prices(tables: Sequence[PriceTables]) -> tuple[Floats, Ints]:
    places = np.zeros((len(tables), len(PriceTables._fields), 4), np.int64)
    parts, size = [], 0
    for number, own in enumerate(tables):
        for field, array in enumerate(own):
            places[number, field, : 1 + array.ndim] = (size, *array.shape)
            parts.append(array.reshape(-1))
            size += array.size
    return np.concatenate(parts), places


@compiled
def _cut(array, place):
    return array[place[0] : place[0] + place[1]]


@compiled
def state_of(crew, engine):
    """One engine's records."""
    m = crew.memory
    p = crew.places[engine]
    table = m.table[p[4, 0] : p[4, 0] + p[4, 1] * p[4, 2]].reshape((p[4, 1], p[4, 2]))
    return State(
        _cut(m.engine, p[0]), _cut(m.requests, p[1]), _cut(m.blocks, p[2]), _cut(m.slots, p[3]), table,
        _cut(m.rows, p[5]), _cut(m.running, p[6]), _cut(m.queue, p[7]), _cut(m.entries, p[8]),
        _cut(m.preempted, p[9]), _cut(m.admitted, p[10]), _cut(m.hits, p[11]), _cut(m.groups, p[12]),
        _cut(m.segment_begin, p[13]), _cut(m.segment_stream, p[14]), _cut(m.segment_tokens, p[15]),
        _cut(m.output_stream, p[16]), _cut(m.adapter, p[17]),
    )  # fmt: skip


@compiled
def _flat(prices, place):
    return prices[place[0] : place[0] + place[1]]


@compiled
def _table(prices, place):
    return prices[place[0] : place[0] + place[1] * place[2]].reshape((place[1], place[2]))


@compiled
def _cube(prices, place):
    size = place[1] * place[2] * place[3]
    return prices[place[0] : place[0] + size].reshape((place[1], place[2], place[3]))


@compiled
def tables_of(crew, engine):
    """The tables of prices of an engine's steps."""
    f = crew.prices
    p = crew.price_places[crew.kind[engine]]
    return PriceTables(
        _flat(f, p[0]), _cube(f, p[1]), _table(f, p[2]), _table(f, p[3]), _table(f, p[4]), _table(f, p[5]),
        _table(f, p[6]), _table(f, p[7]), _table(f, p[8]), _cube(f, p[9]), _cube(f, p[10]), _flat(f, p[11]),
        _table(f, p[12]),
    )  # fmt: skip
