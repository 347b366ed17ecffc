"""Runs a schedule the slow way: the whole list again and again, until no action's time changes."""

from __future__ import annotations

from collections.abc import Callable

from mapping.training.schedules.action import Action, PipelineSchedule


def inputs(schedule: PipelineSchedule, action: Action, rank: int) -> list[tuple[Action, int]]:
    """What has to be there, and from which rank; of B and I, whichever the schedule has."""
    stages = len(schedule.rank_of_stage) // schedule.replicas
    have = {a for order in schedule.orders for a in order}
    s, kind, m = action
    home = schedule.rank_of_stage

    def gradient(stage: int) -> Action:
        return next(a for a in (Action(stage, "B", m), Action(stage, "I", m)) if a in have)

    everyone = range(len(schedule.orders))
    if kind == "F":
        return [(Action(s - 1, "F", m), home[s - 1])] if s % stages else []
    if kind == "W":
        return [(Action(s, "I", m), rank)]
    if kind == "S":
        return [(Action(stages - 1, "F", m), home[stages - 1])]
    if kind == "T":
        return [(Action(r, "S", m), -1) for r in everyone]
    found = [(Action(s, "F", m), rank)]
    if (s + 1) % stages:
        found.append((gradient(s + 1), home[s + 1]))
    elif schedule.vocabulary_barriers:
        found += [(Action(r, "T" if schedule.vocabulary_barriers == 2 else "S", m), -1) for r in everyone]
    return found


def times(
    schedule: PipelineSchedule,
    seconds: Callable[[Action], float],
    transfer: Callable[[int, int], float],
    barrier: float,
) -> dict[Action, tuple[float, float]]:
    """Start and end of every action. ``transfer``: seconds from rank to rank."""
    end: dict[Action, float] = {a: 0.0 for order in schedule.orders for a in order}
    start = dict(end)
    needs = {a: inputs(schedule, a, rank) for rank, order in enumerate(schedule.orders) for a in order}
    for _ in range(len(end) + 1):
        changed = False
        for rank, order in enumerate(schedule.orders):
            clock = 0.0
            for action in order:
                begin = clock
                for need, source in needs[action]:
                    lag = barrier if source < 0 else transfer(source, rank)
                    begin = max(begin, end[need] + lag)
                clock = begin + seconds(action)
                changed |= end[action] != clock
                start[action], end[action] = begin, clock
        if not changed:
            return {a: (start[a], end[a]) for a in end}
    raise AssertionError("the schedule never settles")


def peaks(
    schedule: PipelineSchedule, held: Callable[[int], float], freed_by_input: float, logits: float
) -> list[tuple[int, float]]:
    """Most passes and bytes that each rank holds, counted anew for every place of its order."""
    found = []
    for order in schedule.orders:
        best = (0, 0.0)
        for place in range(len(order)):
            before, now = order[:place], order[: place + 1]
            forward = [a for a in now if a.kind == "F"]
            count = len(forward) - sum(a.kind in "BW" for a in before)
            size = sum(held(a.stage) for a in forward) + logits * sum(a.kind == "S" for a in now)
            for a in before:
                share = {"B": 1.0, "I": freed_by_input, "W": 1.0 - freed_by_input}.get(a.kind, 0.0)
                size -= share * held(a.stage) + (logits if a.kind == "T" else 0.0)
            best = (max(best[0], count), max(best[1], size))
        found.append(best)
    return found
