"""What is wrong with a schedule: passes that are missing, twice, on the wrong rank, or that wait for each other.

Shares no code with the writers, the solvers or the run, so that each of them can be held against it.
"""

from __future__ import annotations

from collections import Counter

from mapping.training.schedules.action import Action, PipelineSchedule

__all__ = ["violations"]

_LISTED = 20


def violations(schedule: PipelineSchedule, most: int = _LISTED) -> list[str]:
    """What is wrong, one sentence each, up to ``most``; empty for a schedule that can be run."""
    found = [*_shape(schedule)]
    if not found:
        found = [*_misplaced(schedule), *_counts(schedule)]
    if not found:
        found = _standstill(schedule)
    return found[:most]


def _shape(schedule: PipelineSchedule) -> list[str]:
    words = []
    ranks = len(schedule.orders)
    if schedule.replicas < 1 or len(schedule.rank_of_stage) % max(schedule.replicas, 1):
        words.append(f"{len(schedule.rank_of_stage)} stages are not {schedule.replicas} equal replicas")
    if schedule.vocabulary_barriers not in (0, 1, 2):
        words.append(f"{schedule.vocabulary_barriers} barriers in the output layer; expected 0, 1 or 2")
    words += [
        f"stage {s} lies on rank {r} of {ranks}"
        for s, r in enumerate(schedule.rank_of_stage)
        if not 0 <= r < ranks
    ]
    return words


def _misplaced(schedule: PipelineSchedule) -> list[str]:
    words = []
    for rank, order in enumerate(schedule.orders):
        for action in order:
            home = (
                action.stage
                if action.kind in "ST"
                else schedule.rank_of_stage[action.stage]
                if 0 <= action.stage < len(schedule.rank_of_stage)
                else None
            )
            if home != rank:
                words.append(f"{action} is done on rank {rank}; it belongs to rank {home}")
            if not 0 <= action.micro_batch < schedule.micro_batches:
                words.append(f"{action} on rank {rank}: there are {schedule.micro_batches} micro-batches")
    return words


def _counts(schedule: PipelineSchedule) -> list[str]:
    """Each micro-batch through every stage of one replica: one F, and either one B or one I and one W."""
    words = []
    done = Counter(action for order in schedule.orders for action in order)
    words += [f"{action} is done {times} times" for action, times in done.items() if times > 1]
    stages = len(schedule.rank_of_stage) // schedule.replicas
    for m in range(schedule.micro_batches):
        owners = [r for r in range(schedule.replicas) if Action(r * stages, "F", m) in done]
        if len(owners) != 1:
            words.append(f"micro-batch {m} enters {len(owners)} replicas; expected one")
            continue
        for stage in range(owners[0] * stages, (owners[0] + 1) * stages):
            if Action(stage, "F", m) not in done:
                words.append(f"{stage}F{m} is missing")
            kinds = "".join(k for k in ("B", "I", "W") if Action(stage, k, m) in done)
            if kinds not in ("B", "IW"):
                words.append(
                    f"stage {stage}, micro-batch {m}: found {kinds or 'no backward'}; expected B, or I and W"
                )
        if schedule.vocabulary_barriers:
            for rank in range(len(schedule.orders)):
                words += [f"{rank}{k}{m} is missing" for k in ("S", "T") if Action(rank, k, m) not in done]
    if not schedule.vocabulary_barriers:
        words += [f"{a} without a shared output layer" for a in done if a.kind in "ST"]
    return words


def _standstill(schedule: PipelineSchedule) -> list[str]:
    """Rank by rank as far as it goes, until all is done or nobody can go on."""
    stages = len(schedule.rank_of_stage) // schedule.replicas
    done: set[Action] = set()
    here = [0] * len(schedule.orders)
    moved = True
    while moved:
        moved = False
        for rank, order in enumerate(schedule.orders):
            while here[rank] < len(order) and _may(schedule, order[here[rank]], done, stages):
                done.add(order[here[rank]])
                here[rank] += 1
                moved = True
    return [
        f"rank {rank} cannot go on at {order[at]}"
        for rank, (order, at) in enumerate(zip(schedule.orders, here, strict=True))
        if at < len(order)
    ]


def _may(schedule: PipelineSchedule, action: Action, done: set[Action], stages: int) -> bool:
    s, kind, m = action
    everyone = range(len(schedule.orders))
    if kind == "F":
        return s % stages == 0 or Action(s - 1, "F", m) in done
    if kind == "W":
        return Action(s, "I", m) in done
    if kind == "S":
        return Action(stages - 1, "F", m) in done
    if kind == "T":
        return all(Action(r, "S", m) in done for r in everyone)
    if Action(s, "F", m) not in done:
        return False
    if s % stages != stages - 1:
        return Action(s + 1, "B", m) in done or Action(s + 1, "I", m) in done
    if schedule.vocabulary_barriers == 2:
        return all(Action(r, "T", m) in done for r in everyone)
    return not schedule.vocabulary_barriers or all(Action(r, "S", m) in done for r in everyone)
