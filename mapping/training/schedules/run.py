"""A pipeline schedule in time: when each action begins and ends, how long ranks idle, and how much they hold.

Every rank does its actions in their order, each as soon as its inputs are there: F waits for F of the stage before; B
and I for their own F and for B or I of the stage after; W for its I. What comes from another rank takes the time of
the transfer, during which both ranks go on. With a shared output layer, S waits for the last stage's F, T for all S,
and the last stage's backward for all T or all S (:attr:`PipelineSchedule.vocabulary_barriers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from hw_configs.problems import bad_input
from mapping.training.schedules.action import KINDS, Action, PipelineSchedule

__all__ = ["PackedSchedule", "ScheduleRun", "StageTimes", "pack", "run_schedule"]

_F, _B, _I, _W, _S, _T = range(6)
_FORWARD, _GRADIENT = 0, 1

Seconds = float | Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StageTimes:
    """What a schedule's actions take and hold.

    A figure is one number for all stages, or one per stage (all replicas' stages in turn). ``forward_s``,
    ``input_s`` and ``weight_s`` are F, I and W; ``backward_s`` is B, by default both halves in turn.
    ``logits_s`` and ``logit_gradient_s`` are S and T, per rank. ``communication_s``: a transfer between different
    ranks, one number or from rank (row) to rank; ``barrier_s``: a reduction over all ranks in the output layer.
    ``activation_bytes``: what a forward leaves for its backward; I frees the share ``freed_by_input`` of it, W the
    rest, B all. ``logits_bytes``: what S leaves for T on a rank.
    """

    forward_s: Seconds = 1.0
    input_s: Seconds = 1.0
    weight_s: Seconds = 1.0
    backward_s: Seconds | None = None
    logits_s: Seconds = 0.0
    logit_gradient_s: Seconds = 0.0
    communication_s: Seconds = 0.0
    barrier_s: float = 0.0
    activation_bytes: Seconds = 0.0
    freed_by_input: float = 0.0
    logits_bytes: Seconds = 0.0


@dataclass(frozen=True, slots=True)
class PackedSchedule:
    """A schedule as arrays: the actions of all ranks in turn, rank ``r`` from ``begins[r]`` to ``begins[r + 1]``."""

    schedule: PipelineSchedule
    begins: NDArray[np.int64]
    stage: NDArray[np.int64]
    kind: NDArray[np.int64]
    micro_batch: NDArray[np.int64]

    def action(self, place: int) -> Action:
        """The action at that place."""
        return Action(int(self.stage[place]), KINDS[self.kind[place]], int(self.micro_batch[place]))


@dataclass(frozen=True, slots=True)
class ScheduleRun:
    """A schedule in time; arrays of actions are in the order of :class:`PackedSchedule`, the others by rank.

    ``busy_s``: seconds of work; ``span_s``: from a rank's first action to the end of its last. ``peak_live``: most
    passes (micro-batches x stages) whose forward is done and whose B or W is not; ``peak_bytes``: most bytes held.
    """

    packed: PackedSchedule
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    busy_s: NDArray[np.float64]
    span_s: NDArray[np.float64]
    peak_live: NDArray[np.int64]
    peak_bytes: NDArray[np.float64]

    @property
    def makespan_s(self) -> float:
        """From the first action's start to the last one's end."""
        return float(self.end_s.max(initial=0.0))

    @property
    def bubble(self) -> NDArray[np.float64]:
        """The share of the makespan in which a rank does nothing."""
        whole = self.makespan_s
        return 1.0 - self.busy_s / whole if whole > 0 else np.zeros_like(self.busy_s)

    @property
    def bubble_share(self) -> float:
        """The idle share of all ranks together."""
        return float(self.bubble.mean())


def pack(schedule: PipelineSchedule) -> PackedSchedule:
    """The schedule as arrays; a planner that runs it many times packs it once."""
    number = {kind: at for at, kind in enumerate(KINDS)}
    begins = np.cumsum([0, *map(len, schedule.orders)], dtype=np.int64)
    flat = [(a.stage, number[a.kind], a.micro_batch) for order in schedule.orders for a in order]
    columns = np.array(flat, np.int64).reshape(-1, 3)
    return PackedSchedule(schedule, begins, *(np.ascontiguousarray(columns[:, i]) for i in range(3)))


def run_schedule(schedule: PipelineSchedule | PackedSchedule, times: StageTimes) -> ScheduleRun:
    """Run a schedule. Raises ``InputError`` for times that do not fit it, and for actions that wait for each other."""
    packed = schedule if isinstance(schedule, PackedSchedule) else pack(schedule)
    plan = packed.schedule
    durations, shared, transfer, held = _tables(plan, times)
    count = len(packed.stage)
    start, end = np.empty(count), np.empty(count)
    reached = packed.begins[:-1].copy()
    layout = np.array(plan.rank_of_stage, np.int64)
    done = _run(
        packed.begins, packed.stage, packed.kind, packed.micro_batch, layout, plan.stages, plan.micro_batches,
        plan.vocabulary_barriers, durations, shared, transfer, float(times.barrier_s), start, end, reached,
    )  # fmt: skip
    if done < count:
        raise bad_input(_deadlock(packed, reached), path=f"pipeline schedule {plan.name}")
    ranks = plan.ranks
    busy, span = np.zeros(ranks), np.zeros(ranks)
    live, peak = np.zeros(ranks, np.int64), np.zeros(ranks)
    _hold(
        packed.begins,
        packed.stage,
        packed.kind,
        held,
        times.freed_by_input,
        start,
        end,
        busy,
        span,
        live,
        peak,
    )
    return ScheduleRun(packed, start, end, busy, span, live, peak)


def _tables(
    plan: PipelineSchedule, times: StageTimes
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Seconds by kind and stage, of S and T by rank, of transfers by ranks; bytes of stages, then of logits."""
    every, ranks = len(plan.rank_of_stage), plan.ranks
    forward = _row("forward", times.forward_s, every)
    inputs = _row("input gradient", times.input_s, every)
    weights = _row("weight gradient", times.weight_s, every)
    whole = inputs + weights if times.backward_s is None else _row("backward", times.backward_s, every)
    shared = np.stack(
        [_row("logits", times.logits_s, ranks), _row("logit gradient", times.logit_gradient_s, ranks)]
    )
    transfer = np.asarray(times.communication_s, np.float64)
    if transfer.ndim == 0:
        transfer = np.full((ranks, ranks), float(transfer))
        np.fill_diagonal(transfer, 0.0)
    if transfer.shape != (ranks, ranks):
        raise bad_input(
            f"found {transfer.shape}; expected one number or {ranks} x {ranks}", path="communication"
        )
    held = np.concatenate(
        [
            _row("activation bytes", times.activation_bytes, every),
            _row("logits bytes", times.logits_bytes, ranks),
        ]
    )
    if not 0 <= times.freed_by_input <= 1:
        raise bad_input(
            f"found {times.freed_by_input:g}; expected 0 to 1", path="share freed by the input gradient"
        )
    if not (np.isfinite(transfer).all() and (transfer >= 0).all() and 0 <= times.barrier_s < np.inf):
        raise bad_input("expected seconds of at least zero", path="communication")
    return np.stack([forward, whole, inputs, weights]), shared, np.ascontiguousarray(transfer), held


def _row(what: str, value: Seconds, count: int) -> NDArray[np.float64]:
    found = np.asarray(value, np.float64)
    row = np.full(count, float(found)) if found.ndim == 0 else found
    if row.shape != (count,):
        raise bad_input(f"found {row.size} figures; expected one, or {count}", path=f"times: {what}")
    if not (np.isfinite(row).all() and (row >= 0).all()):
        raise bad_input(
            f"found {row[~(row >= 0)][:1]}; expected figures of at least zero", path=f"times: {what}"
        )
    return np.ascontiguousarray(row)


@compiled
def _run(
    begins: Any, stage: Any, kind: Any, micro_batch: Any, layout: Any, stages: Any, micro_batches: Any, barriers: Any,
    durations: Any, shared: Any, transfer: Any, barrier: Any, start: Any, end: Any, at: Any,
) -> Any:  # fmt: skip
    """Fills ``start`` and ``end``; leaves in ``at`` how far each rank came. Returns how many actions were done."""
    ranks, every = len(begins) - 1, len(layout)
    # When F, and B or I, of a stage and micro-batch were done; below zero: not yet.
    ready = np.full((2, every, micro_batches), -1.0)
    # How many ranks did S and T of a micro-batch, and when the last of them did.
    counted = np.zeros((2, micro_batches), np.int64)
    latest = np.zeros((2, micro_batches))
    clock = np.zeros(ranks)
    # Ranks to look at; each stands there at most once.
    stack = np.empty(ranks, np.int64)
    waiting = np.zeros(ranks, np.bool_)
    height, done = 0, 0
    for rank in range(ranks - 1, -1, -1):
        stack[height] = rank
        waiting[rank] = True
        height += 1
    while height > 0:
        height -= 1
        rank = stack[height]
        waiting[rank] = False
        while at[rank] < begins[rank + 1]:
            place = at[rank]
            s, k, m = stage[place], kind[place], micro_batch[place]
            begin = clock[rank]
            blocked = False
            seconds = 0.0
            if k == _F:
                seconds = durations[0, s]
                if s % stages != 0:
                    came = ready[_FORWARD, s - 1, m]
                    blocked = came < 0
                    begin = max(begin, came + transfer[layout[s - 1], rank])
            elif k in (_B, _I):
                seconds = durations[1 if k == _B else 2, s]
                came = ready[_FORWARD, s, m]
                blocked = came < 0
                if (s + 1) % stages != 0:
                    came = ready[_GRADIENT, s + 1, m]
                    blocked = blocked or came < 0
                    begin = max(begin, came + transfer[layout[s + 1], rank])
                elif barriers > 0:
                    # After all T with two barriers, after all S with one.
                    which = barriers - 1
                    blocked = blocked or counted[which, m] < ranks
                    begin = max(begin, latest[which, m] + barrier)
            elif k == _W:
                seconds = durations[3, s]
                blocked = ready[_GRADIENT, s, m] < 0
            elif k == _S:
                seconds = shared[0, rank]
                came = ready[_FORWARD, stages - 1, m]
                blocked = came < 0
                begin = max(begin, came + transfer[layout[stages - 1], rank])
            else:
                seconds = shared[1, rank]
                blocked = counted[0, m] < ranks
                begin = max(begin, latest[0, m] + barrier)
            if blocked:
                break
            start[place] = begin
            clock[rank] = end[place] = finish = begin + seconds
            at[rank] += 1
            done += 1
            wake = -1
            all_of_them = False
            if k == _F:
                ready[_FORWARD, s, m] = finish
                if (s + 1) % stages != 0:
                    wake = layout[s + 1]
                all_of_them = barriers > 0 and (s + 1) % stages == 0
            elif k in (_B, _I):
                ready[_GRADIENT, s, m] = finish
                if s % stages != 0:
                    wake = layout[s - 1]
            elif k >= _S:
                which = k - _S
                counted[which, m] += 1
                latest[which, m] = max(latest[which, m], finish)
                all_of_them = counted[which, m] == ranks
            if wake >= 0 and wake != rank and not waiting[wake]:
                stack[height] = wake
                waiting[wake] = True
                height += 1
            if all_of_them:
                for other in range(ranks):
                    if other != rank and not waiting[other]:
                        stack[height] = other
                        waiting[other] = True
                        height += 1
    return done


@compiled
def _hold(
    begins: Any, stage: Any, kind: Any, held: Any, freed_by_input: Any, start: Any, end: Any,
    busy: Any, span: Any, live: Any, peak: Any,
) -> None:  # fmt: skip
    """Work, span and what is held of each rank, whose actions come one after the other."""
    ranks = len(begins) - 1
    every = len(held) - ranks
    for rank in range(ranks):
        count, most_count = 0, 0
        size, most_size = 0.0, 0.0
        for place in range(begins[rank], begins[rank + 1]):
            busy[rank] += end[place] - start[place]
            s, k = stage[place], kind[place]
            if k == _F:
                count += 1
                size += held[s]
            elif k == _S:
                size += held[every + rank]
            most_count, most_size = max(most_count, count), max(most_size, size)
            if k == _B:
                count -= 1
                size -= held[s]
            elif k == _I:
                size -= freed_by_input * held[s]
            elif k == _W:
                count -= 1
                size -= (1.0 - freed_by_input) * held[s]
            elif k == _T:
                size -= held[every + rank]
        live[rank], peak[rank] = most_count, most_size
        if begins[rank] < begins[rank + 1]:
            span[rank] = end[begins[rank + 1] - 1] - start[begins[rank]]


def _deadlock(packed: PackedSchedule, reached: NDArray[np.int64]) -> str:
    """Who waits for what: from one rank that stands still to the next, until the circle closes or a pass is missing."""
    begins, plan = packed.begins, packed.schedule
    where = {packed.action(place): place for place in range(len(packed.stage))}
    rank_at = np.searchsorted(begins, np.arange(len(packed.stage)), side="right") - 1
    stuck = [rank for rank in range(plan.ranks) if reached[rank] < begins[rank + 1]]
    rank, seen, words = stuck[0], set[int](), list[str]()
    while rank not in seen:
        seen.add(rank)
        action = packed.action(int(reached[rank]))
        wanted = [
            need for need in _needs(plan, action)
            if not any(option in where and where[option] < reached[rank_at[where[option]]] for option in need)
        ]  # fmt: skip
        missing = wanted[0]
        there = [option for option in missing if option in where]
        said = " or ".join(map(str, there if there else missing))
        words.append(f"rank {rank} waits at {action} for {said}")
        if not there:
            words[-1] += ", which no rank does"
            break
        rank = int(rank_at[where[there[0]]])
    return "deadlock: " + ", ".join(words)


def _needs(plan: PipelineSchedule, action: Action) -> list[tuple[Action, ...]]:
    """The actions that have to be done before; a tuple where one of several will do."""
    stage, kind, m = action
    first, last = stage % plan.stages == 0, (stage + 1) % plan.stages == 0
    everyone = range(plan.ranks)
    if kind == "F":
        return [] if first else [(Action(stage - 1, "F", m),)]
    if kind == "W":
        return [(Action(stage, "I", m),)]
    if kind == "S":
        return [(Action(plan.stages - 1, "F", m),)]
    if kind == "T":
        return [(Action(rank, "S", m),) for rank in everyone]
    needs: list[tuple[Action, ...]] = [(Action(stage, "F", m),)]
    if not last:
        needs.append((Action(stage + 1, "I", m), Action(stage + 1, "B", m)))
    elif plan.vocabulary_barriers:
        needs += [(Action(rank, "T" if plan.vocabulary_barriers == 2 else "S", m),) for rank in everyone]
    return needs
