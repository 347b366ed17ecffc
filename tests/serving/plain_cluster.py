"""The loop of a service once more, in plain Python that looks at everything in every instant. No transfers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Seen:
    """What the plain loop says of a run."""

    arrival: list[float]
    first: list[float]
    last: list[float]
    tokens: list[int]
    retries: list[int]
    worker: list[int]
    steps: list[tuple[int, float, float]] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)


def plain_service(requests, service) -> Seen:
    """Serve requests by round robin or the fewest requests."""
    n, workers = requests.count, service.workers
    nan = math.nan
    seen = Seen([nan] * n, [nan] * n, [nan] * n, [0] * n, [0] * n, [-1] * n)
    made = [w.make(requests, w.settings, w.space) for w in workers]
    here: list[list[int]] = [[] for _ in workers]
    busy: list[tuple[float, object] | None] = [None] * len(workers)
    up = [True] * len(workers)
    produced, ended = [0] * n, [math.inf] * n
    state, had = ["unsent"] * n, [0] * n
    again: list[tuple[float, int, int]] = []
    ready: list[int] = [math.nan] * n
    parked: list[int] = []
    failures = sorted(service.failures, key=lambda f: (f.at_s, f.worker))
    backs: list[tuple[float, int]] = []
    last_chosen, order, now = -1, 0, 0.0

    def due(i: int) -> float:
        if requests.after[i] < 0:
            return float(requests.arrival_s[i])
        return max(ended[requests.after[i]] + float(requests.think_s[i]), float(requests.arrival_s[i]))

    def may_send() -> list[int]:
        unsent = [i for i in range(n) if state[i] == "unsent"]
        if not requests.clients:
            return unsent
        free = requests.clients - sum(s == "sent" for s in state)
        return unsent[:1] if free > 0 else []

    def route(i: int) -> None:
        nonlocal last_chosen
        pool = [w for w in range(len(workers)) if up[w]]
        if not pool:
            parked.append(i)
            return
        if service.router == "round-robin":
            later = [w for w in pool if w > last_chosen]
            chosen = last_chosen = (later or pool)[0]
        else:
            chosen = min(pool, key=lambda w: (len(here[w]) / workers[w].speed, w))
        if had[i]:
            made[chosen].resume(i, had[i], had[i])
        made[chosen].add(i)
        here[chosen].append(i)

    def step_ends(w: int) -> None:
        outcome = made[w].complete(np.zeros(len(busy[w][1].request), np.int64))
        busy[w] = None
        for i, count in zip(outcome.request.tolist(), outcome.tokens.tolist(), strict=True):
            for _ in range(count):
                produced[i] += 1
                if produced[i] > seen.tokens[i]:
                    seen.tokens[i] += 1
                    if seen.tokens[i] == 1:
                        seen.first[i] = now
                    else:
                        seen.gaps.append(now - seen.last[i])
                    seen.last[i] = now
        for i in outcome.finished.tolist():
            here[w].remove(i)
            state[i], ended[i], seen.worker[i] = "done", now, w

    while not all(s == "done" for s in state):
        times = [b[0] for b in busy if b] + [f.at_s for f in failures] + [t for t, _ in backs]
        times += [t for t, _, _ in again] + [due(i) for i in may_send() if due(i) < math.inf]
        if not times:
            break
        now = max(now, min(times))
        for _, w in sorted((b[0], w) for w, b in enumerate(busy) if b and b[0] <= now):
            step_ends(w)
        for failure in [f for f in failures if f.at_s <= now]:
            failures.remove(failure)
            w = failure.worker
            up[w], busy[w] = False, None
            for i in sorted(here[w]):
                # What the client has goes on as a part of the prompt, where that can be everywhere.
                goes_on = all(hasattr(m, "resume") and m.can_resume(i, seen.tokens[i]) for m in made)
                had[i] = produced[i] = seen.tokens[i] if goes_on else 0
                seen.retries[i] += 1
                order += 1
                again.append((now + service.retry_s, order, i))
            here[w] = []
            made[w] = workers[w].make(requests, workers[w].settings, workers[w].space)
            backs += [(failure.back_s, w)] if failure.back_s < math.inf else []
        for back in sorted(b for b in backs if b[0] <= now):
            backs.remove(back)
            up[back[1]] = True
            waiting, parked = parked, []
            for i in waiting:
                route(i)
        for entry in sorted(e for e in again if e[0] <= now):
            again.remove(entry)
            route(entry[2])
        while True:
            sendable = sorted((due(i), i) for i in may_send() if due(i) <= now)
            if not sendable:
                break
            i = sendable[0][1]
            state[i], seen.arrival[i] = "sent", now
            route(i)
        for w in range(len(workers)):
            while up[w] and busy[w] is None and here[w]:
                step = made[w].schedule()
                if len(step.request):
                    seconds = workers[w].pricer.price(step).seconds
                    busy[w] = (now + seconds, step)
                    seen.steps.append((w, now, seconds))
                elif not len(made[w].preempted):
                    made[w].complete(np.zeros(0, np.int64))
                    break
                else:
                    made[w].complete(np.zeros(0, np.int64))
    del ready
    return seen
