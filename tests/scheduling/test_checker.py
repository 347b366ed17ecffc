"""The checker notices every kind of broken schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from mapping.scheduling import Residence, Schedule, ScheduleProblem, Transfer, check, solve

CAPACITY = 470_400


@pytest.fixture
def schedule(inception: ScheduleProblem) -> Schedule:
    found = solve(inception, CAPACITY).schedule
    assert found is not None
    assert check(inception, found, CAPACITY) == []
    return found


def _stay(schedule: Schedule, index: int, **changes: int) -> Schedule:
    stays = list(schedule.residences)
    stays[index] = replace(stays[index], **changes)  # type: ignore[arg-type]
    return replace(schedule, residences=tuple(stays))


def _first(schedule: Schedule, kind: str) -> Transfer:
    return next(move for move in schedule.transfers if move.kind == kind)


def _without(schedule: Schedule, move: Transfer) -> Schedule:
    return replace(schedule, transfers=tuple(m for m in schedule.transfers if m != move))


def _swapped(schedule: Schedule) -> Schedule:
    order = list(schedule.order)
    order[0], order[-1] = order[-1], order[0]
    return replace(schedule, order=tuple(order))


BREAKS: dict[str, tuple[str, Callable[[Schedule], Schedule]]] = {
    "an operator is missing": ("order", lambda s: replace(s, order=s.order[:-1])),
    "an operator runs too early": ("order", _swapped),
    "a stay lies outside": ("capacity", lambda s: _stay(s, 0, offset=CAPACITY - 1)),
    "two stays overlap": ("overlap", lambda s: _stay(s, 1, offset=s.residences[0].offset)),
    "a stay ends too early": ("presence", lambda s: _stay(s, 0, end=s.residences[0].start)),
    "a stay is missing": ("presence", lambda s: replace(s, residences=s.residences[1:])),
    "a size is wrong": ("tensor", lambda s: _stay(s, 0, size_bytes=1)),
    "a name is unknown": (
        "tensor",
        lambda s: replace(s, residences=(*s.residences, Residence("nobody", 0, 1, 0, 0))),
    ),
    "a retrieve is missing": ("fill", lambda s: _without(s, _first(s, "retrieve"))),
    "a retrieve goes nowhere": (
        "fill",
        lambda s: replace(s, transfers=(*s.transfers, replace(_first(s, "retrieve"), step=len(s.order)))),
    ),
    "a spill is missing": ("traffic", lambda s: _without(s, _first(s, "spill"))),
    "an output is never stored": ("traffic", lambda s: _without(s, _first(s, "store"))),
    "a spill finds nothing": (
        "traffic",
        lambda s: replace(
            s, transfers=tuple(replace(m, step=0) if m.kind == "spill" else m for m in s.transfers)
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_schedule_is_noticed(name: str, inception: ScheduleProblem, schedule: Schedule) -> None:
    kind, broken = BREAKS[name]
    assert kind in {violation.kind for violation in check(inception, broken(schedule), CAPACITY)}
