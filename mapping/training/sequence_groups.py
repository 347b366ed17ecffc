"""Sequences of unequal lengths over groups of ranks: one degree of sequence parallelism, or groups of several.

A group of ``d`` ranks divides each of its sequences by Ulysses and takes, for sequences of s tokens packed into one
micro-batch, sum(a s^2 + b s) + c seconds, with the coefficients of its degree from prices of our own. Long sequences
need wide groups for their memory; short ones waste them on all-to-alls. Per micro-batch the number of groups of each
degree and the sequences of each length in them are chosen for the least time (FlexSP, arXiv:2412.01523, section 4):
for a time C, the programme "does a choice exist whose groups of a degree together take no more than C each" is integer
and linear (HiGHS), and C is halved down. Its least C is a bound; sequences are then dealt to single groups, longest
first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.problems import InfeasibleError, InputError, bad_input
from mapping.solver import SolverOptions, solve_model
from mapping.training.layer_profile import picked_layers, rank_profile
from mapping.training.layout_floor import PassSeconds, Wires
from mapping.training.pricing import Prices
from mapping.training.setup import TrainingSetup

__all__ = ["DegreeCost", "GroupPlan", "degree_costs", "grouped_step", "plan_groups", "static_step"]

Floats = NDArray[np.float64]
SAMPLES: Final = (8192, 32768, 131072)
"""Lengths at which a degree's coefficients are taken."""
BUCKETS: Final = 16
HALVINGS: Final = 10
WHOLE: Final = 4
"""Sequences above a group's half, third and fourth are counted whole: fractions of them do not pack."""


@dataclass(frozen=True, slots=True)
class DegreeCost:
    """Seconds of a group of ``degree`` ranks: per squared token, per token, and once; bytes of each rank per token."""

    degree: int
    squared: float
    linear: float
    once: float
    token_bytes: float

    def seconds(self, lengths: Floats) -> Floats:
        """Of each sequence, what comes once left out."""
        found: Floats = self.squared * lengths**2 + self.linear * lengths
        return found


@dataclass(frozen=True)
class GroupPlan:
    """One micro-batch: degree and lengths of each group, seconds of the slowest, and the least there could be.

    The least is that of lengths rounded up to their buckets; of no more lengths than buckets it is exact.
    """

    groups: tuple[tuple[int, tuple[int, ...]], ...]
    seconds: float
    bound_s: float


def degree_costs(model: str, devices: int, prices: Prices, dtype: str = "bf16") -> dict[int, DegreeCost]:
    """The cost of every degree of Ulysses parallelism that the model's heads take, fitted to prices at three lengths.

    Raises ``InputError`` for a model whose layers cannot be priced apart.
    """
    picked = picked_layers(model, dtype)
    if picked is None:
        raise bad_input(f"{model} has no config whose layers could be picked", file=model)
    wires = Wires(prices)
    found: dict[int, DegreeCost] = {}
    degree = 1
    while degree <= devices:
        rows, kept = [], 0.0
        try:
            for length in SAMPLES:
                setup = TrainingSetup(
                    model, length, devices // degree, 1, dtype, ulysses=degree, data=devices // degree
                )
                profile = rank_profile(replace(setup, batch=1, data=1), prices, picked)
                rows.append(PassSeconds.of(profile, setup, wires).least)
                kept = sum(profile.passes["none"][kind].kept_bytes for kind in profile.kind_of) / length
        except InputError:
            break
        lengths = np.array(SAMPLES, np.float64)
        basis = np.stack([lengths**2, lengths, np.ones(3)], axis=1)
        times = np.array(rows)
        squared, linear, once = np.linalg.solve(basis / times[:, None], np.ones(3))
        found[degree] = DegreeCost(degree, float(squared), float(linear), max(float(once), 0.0), kept)
        degree *= 2
    return found


def static_step(
    lengths: Sequence[int], degree: DegreeCost, devices: int, room_bytes: float, longest: int
) -> float:
    """Seconds of all sequences under one degree; ``InfeasibleError`` where ``longest`` tokens do not fit a group.

    Every group works through its sequences at its own pace, longest dealt first to the least laden: groups wait for
    each other at the end alone, and micro-batches are as full as memory lets them.
    """
    most = room_bytes / degree.token_bytes
    if longest > most:
        raise InfeasibleError(f"{longest} tokens do not fit {degree.degree} ranks, which hold {int(most)}")
    load = np.zeros(devices // degree.degree)
    tokens = np.zeros(len(load))
    for length in sorted(lengths, reverse=True):
        group = int(load.argmin())
        load[group] += float(degree.seconds(np.array([float(length)]))[0])
        tokens[group] += length
    return float((load + degree.once * np.ceil(tokens / most)).max())


def grouped_step(
    lengths: Sequence[int],
    costs: Mapping[int, DegreeCost],
    devices: int,
    room_bytes: float,
    micro_batches: int,
) -> tuple[float, list[GroupPlan]]:
    """Seconds of all sequences in so many micro-batches of about equal tokens, each with groups of its own.

    Sequences go to micro-batches longest first, to the one with the fewest tokens. Micro-batches run one after another.
    """
    loads = np.zeros(micro_batches)
    parts: list[list[int]] = [[] for _ in range(micro_batches)]
    for length in sorted(lengths, reverse=True):
        place = int(loads.argmin())
        loads[place] += length
        parts[place].append(length)
    plans = [plan_groups(part, costs, devices, room_bytes) for part in parts if part]
    return sum(plan.seconds for plan in plans), plans


def plan_groups(
    lengths: Sequence[int], costs: Mapping[int, DegreeCost], devices: int, room_bytes: float
) -> GroupPlan:
    """The groups of one micro-batch; ``InfeasibleError`` when memory does not hold it."""
    edges = _buckets(lengths)
    of = np.searchsorted(edges, np.array(lengths))
    counts = np.bincount(of, minlength=len(edges))
    high = _upper(edges, counts, costs, devices)
    low, best = 0.0, _best_of_one_degree(lengths, edges, of, costs, devices, room_bytes)
    if best is not None:
        high = best[1]
    for _ in range(HALVINGS):
        limit = high if best is None else (low + high) / 2
        chosen, proven = _choose(edges, counts, costs, devices, limit, room_bytes)
        if proven:
            low = max(low, limit)
        if chosen is None:
            if best is None:
                high *= 2
            elif not proven:
                break
            continue
        dealt = _deal(lengths, edges, of, chosen, costs, room_bytes)
        if dealt is not None and (best is None or dealt[1] < best[1]):
            best = dealt
        high = limit
        if dealt is None and best is None:
            high *= 2
    if best is None:
        raise InfeasibleError(f"{sum(lengths)} tokens do not fit {devices} devices")
    return GroupPlan(best[0], best[1], min(low, best[1]))


def _buckets(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Upper ends of at most so many buckets with about as many tokens each."""
    ordered = np.sort(np.array(lengths, np.int64))
    distinct = np.unique(ordered)
    if len(distinct) <= BUCKETS:
        return distinct
    ends = np.searchsorted(np.cumsum(ordered), np.linspace(0, ordered.sum(), BUCKETS + 1)[1:])
    return np.unique(ordered[np.minimum(ends, len(ordered) - 1)])


def _best_of_one_degree(
    lengths: Sequence[int], edges: NDArray[np.int64], of: NDArray[np.int64],
    costs: Mapping[int, DegreeCost], devices: int, room: float,
) -> tuple[tuple[tuple[int, tuple[int, ...]], ...], float] | None:  # fmt: skip
    """The fastest dealing over groups of equal width; None where none of them holds every sequence."""
    counts = np.bincount(of, minlength=len(edges)).tolist()
    dealt = [
        _deal(lengths, edges, of, {d: (devices // d, counts)}, costs, room) for d in costs if d <= devices
    ]
    return min((found for found in dealt if found is not None), key=lambda found: found[1], default=None)


def _upper(
    edges: NDArray[np.int64], counts: NDArray[np.int64], costs: Mapping[int, DegreeCost], devices: int
) -> float:
    """A time to begin with: the whole work in the widest groups."""
    widest = costs[max(costs)]
    whole = float((counts * widest.seconds(edges.astype(np.float64))).sum()) + widest.once
    return whole / max(devices // widest.degree, 1) * 2


def _choose(
    edges: NDArray[np.int64],
    counts: NDArray[np.int64],
    costs: Mapping[int, DegreeCost],
    devices: int,
    limit: float,
    room: float,
) -> tuple[dict[int, tuple[int, list[int]]] | None, bool]:
    """Groups of each degree and sequences of each bucket in them, none over ``limit`` seconds; or None, and whether
    there are proven to be none.
    """
    import pulp

    model = pulp.LpProblem("groups", pulp.LpMinimize)
    width = {d: model.add_variable(f"m{d}", 0, devices // d, cat=pulp.LpInteger) for d in costs}
    number = {
        (q, d): model.add_variable(f"a{q}_{d}", 0, int(counts[q]), cat=pulp.LpInteger)
        for q in range(len(edges))
        for d, cost in costs.items()
        if edges[q] * cost.token_bytes <= room
        and cost.seconds(np.array([float(edges[q])]))[0] + cost.once <= limit
    }
    model += pulp.lpSum(d * width[d] for d in costs)
    model += pulp.lpSum(d * width[d] for d in costs) <= devices
    for q in range(len(edges)):
        model += pulp.lpSum(number[q, d] for d in costs if (q, d) in number) == int(counts[q])
    for d, cost in costs.items():
        own = [(q, number[q, d]) for q in range(len(edges)) if (q, d) in number]
        seconds = cost.seconds(edges.astype(np.float64)) / limit
        model += pulp.lpSum(float(seconds[q]) * a for q, a in own) <= (1 - cost.once / limit) * width[d]
        shares = edges * cost.token_bytes / room
        model += pulp.lpSum(float(shares[q]) * a for q, a in own) <= width[d]
        for most in range(1, WHOLE):
            # Of sequences above one (most + 1)th of a group, no group takes more than ``most``.
            large = [
                a
                for q, a in own
                if max(shares[q], seconds[q] / (1 - cost.once / limit)) * (most + 1) > 1 + 1e-9
            ]
            if large:
                model += pulp.lpSum(large) <= most * width[d]
    report = solve_model(model, SolverOptions(time_limit_s=3.0, relative_gap=0.02))
    if report.status not in ("optimal", "feasible"):
        return None, report.status == "infeasible"
    found = {
        d: (
            round(width[d].value() or 0),
            [round(number[q, d].value() or 0) if (q, d) in number else 0 for q in range(len(edges))],
        )
        for d in costs
    }
    return found, False


def _deal(
    lengths: Sequence[int], edges: NDArray[np.int64], of: NDArray[np.int64],
    chosen: Mapping[int, tuple[int, list[int]]], costs: Mapping[int, DegreeCost], room: float,
) -> tuple[tuple[tuple[int, tuple[int, ...]], ...], float] | None:  # fmt: skip
    """Sequences dealt to single groups, longest first to the least laden with room; None where one finds no room."""
    waiting = {q: sorted(np.array(lengths)[of == q].tolist()) for q in range(len(edges))}
    groups: list[tuple[int, tuple[int, ...]]] = []
    slowest = 0.0
    for d, (count, by_bucket) in chosen.items():
        own = sorted((waiting[q].pop() for q, a in enumerate(by_bucket) for _ in range(a)), reverse=True)
        if not own:
            continue
        load, tokens = np.full(count, costs[d].once), np.zeros(count)
        parts: list[list[int]] = [[] for _ in range(count)]
        for length in own:
            free = np.where((tokens + length) * costs[d].token_bytes <= room, load, np.inf)
            place = int(free.argmin())
            if not np.isfinite(free[place]):
                return None
            load[place] += float(costs[d].seconds(np.array([float(length)]))[0])
            tokens[place] += length
            parts[place].append(length)
        slowest = max(slowest, float(load.max()))
        groups += [(d, tuple(part)) for part in parts if part]
    return tuple(groups), slowest
