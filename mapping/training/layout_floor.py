"""What a layout takes at least, and about: from its layers' profile, without a program of the whole step.

**At least**: whatever the schedule, a rank of the pipeline waits until one micro-batch has come through the stages
before its first, then does all its passes with the exchanges that stand in their way, each with the wires to itself;
then the gradients of its last backward pass go on through the stages before (not where backward passes are halved:
what nobody waits for may come last), and some optimizer runs. The executed step is no faster.

**About**: the same, with the traffic of ZeRO beside the passes as far as they hide it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mapping.training.layer_profile import RankProfile, seconds_of
from mapping.training.layer_states import StateBytes
from mapping.training.pricing import Prices
from mapping.training.rank_layout import first_group
from mapping.training.schedules.run import PackedSchedule, StageTimes, pack, run_schedule
from mapping.training.schedules.write import SCHEDULES, packed_schedule, write_schedule
from mapping.training.setup import TrainingSetup
from mapping.training.stage_passes import Exchanged
from simulator.system.gpu_library import network_share
from simulator.training.wires import Party

__all__ = ["LayoutCost", "PassSeconds", "Wires", "layout_cost", "passes_floor", "stage_bounds"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ROUNDS: int = 3
"""Rounds of a pipeline after which no rank holds more than before."""


@dataclass(frozen=True, slots=True)
class LayoutCost:
    """Least seconds of a step, seconds that are likely, and bytes of the fullest device."""

    floor_s: float
    likely_s: float
    device_bytes: float


@dataclass
class Wires:
    """Seconds of exchanges among a setup's first groups, remembered by their devices."""

    prices: Prices
    known: dict[tuple[object, ...], float] = field(default_factory=dict, repr=False)

    def seconds(self, setup: TrainingSetup, family: str, kind: str, size: int) -> float:
        """A collective of so many bytes with all wires to itself."""
        group = first_group(setup, family)
        if len(group) < 2 or size <= 0:
            return 0.0
        place = (group, kind, size)
        if place not in self.known:
            self.known[place] = self.prices.wiring.exchange(Party((group,)), kind, size).seconds
        return self.known[place]


@dataclass
class PassSeconds:
    """Seconds of the passes of every layer of the model: F, and by way of recomputation B, I and W, summed up."""

    forward: Floats
    backward: dict[str, Floats]
    inputs: dict[str, Floats]
    weights: dict[str, Floats]

    @classmethod
    def of(cls, profile: RankProfile, setup: TrainingSetup, wires: Wires) -> PassSeconds:
        """Those of a profile, exchanges among the groups of a setup."""

        def exchange(what: Exchanged) -> float:
            return wires.seconds(setup, what.family, what.kind, what.bytes)

        def summed(way: str, kind: str) -> Floats:
            by_kind = [seconds_of(layer.pieces[kind], exchange) for layer in profile.passes[way]]
            return np.concatenate([[0.0], np.cumsum(np.array(by_kind)[list(profile.kind_of)])])

        ways = tuple(profile.passes)
        return cls(
            summed("none", "F"), {way: summed(way, "B") for way in ways}, {way: summed(way, "I") for way in ways},
            {way: summed(way, "W") for way in ways},
        )  # fmt: skip

    @property
    def least(self) -> float:
        """Seconds of one micro-batch through the whole model and back, nothing recomputed."""
        return float(self.forward[-1] + self.backward["none"][-1])


def stage_bounds(layers: int, stages: int, stage_layers: Sequence[int] | None = None) -> Ints:
    """First layer of each stage, counted with the embedding, and the end of the last: as stages are cut when run."""
    if stage_layers is not None:
        inner = np.cumsum(stage_layers)[:-1]
    else:
        inner = np.array([-(-stage * layers // stages) for stage in range(1, stages)], np.int64)
    return np.concatenate([[0], inner + 1, [layers + 2]]).astype(np.int64)


Counts = tuple[str, int, int, int | None]
"""A schedule by name, ranks, micro-batches and stages per rank."""


@lru_cache(maxsize=1024)
def _packed(counts: Counts) -> tuple[PackedSchedule, tuple[int, ...], bool]:
    """A few rounds of a schedule, where each stage lies, and whether its backward passes are halved.

    As many rounds as show the most that a rank ever holds; all where the last is no whole one.
    """
    name, ranks, micro_batches, stages = counts
    rounds = micro_batches if micro_batches % ranks else min(micro_batches, _ROUNDS * ranks)
    schedule = write_schedule(name, ranks, rounds, stages)
    halved = any(action.kind == "I" for order in schedule.orders for action in order)
    return pack(schedule), schedule.rank_of_stage, halved


@lru_cache(maxsize=4096)
def _in_flight(counts: Counts, between: float) -> tuple[float, ...]:
    """What each rank holds at most, in passes; between its halves a backward pass holds ``between`` of one."""
    packed = _packed(counts)[0]
    change = np.array([1.0, -1.0, between - 1.0, -between, 0.0, 0.0])[packed.kind]
    return tuple(
        float(np.cumsum(change[low:high]).max(initial=0.0)) for low, high in pairwise(packed.begins.tolist())
    )


def passes_floor(setup: TrainingSetup, profile: RankProfile, seconds: PassSeconds, wires: Wires) -> float:
    """Least seconds of a layout by its passes alone: the same for every way to share states.

    Raises ``InputError`` for a schedule that cannot take the counts.
    """
    return _Layout(setup, profile, seconds, wires).floor()


def layout_cost(
    setup: TrainingSetup, profile: RankProfile, seconds: PassSeconds, wires: Wires, *, exact: bool = False
) -> LayoutCost:
    """What a layout takes. ``exact`` runs the schedule itself for the likely time.

    Raises ``InputError`` for a schedule that cannot take the counts.
    """
    return _Layout(setup, profile, seconds, wires).cost(exact)


class _Layout:
    def __init__(
        self, setup: TrainingSetup, profile: RankProfile, seconds: PassSeconds, wires: Wires
    ) -> None:
        self.setup, self.profile, self.seconds, self.wires = setup, profile, seconds, wires
        ranks, m = setup.pipeline, setup.micro_batches
        stages = None
        if ranks > 1 and setup.stages_per_rank > 1:
            stages = None if SCHEDULES.get(setup.schedule).fixed else setup.stages_per_rank
        name = setup.schedule if ranks > 1 else "1f1b"
        self.schedule = (name, ranks, m, stages)
        _, home, self.halved = _packed(self.schedule)
        self.rank_of_stage = np.array(home)
        self.bounds = stage_bounds(profile.layers, len(self.rank_of_stage), setup.stage_layers)
        self.kinds = np.array(profile.kind_of)

    def _by_stage(self, summed: Floats) -> Floats:
        found: Floats = summed[self.bounds[1:]] - summed[self.bounds[:-1]]
        return found

    def _mixed(self, by_way: dict[str, Floats]) -> Floats:
        """Summed seconds where the first so many layers are recomputed and the others are not."""
        setup = self.setup
        count = setup.recompute_layers
        if setup.recompute == "none" or count is None:
            return by_way[setup.recompute]
        change = min(count, self.profile.layers) + 1
        again, plain = by_way[setup.recompute], by_way["none"]
        return np.concatenate([again[: change + 1], plain[change + 1 :] - plain[change] + again[change]])

    def _layers(self, by_kind: Sequence[float], other: Sequence[float] | None = None) -> Floats:
        """A figure of every layer; ``other`` for those that are not recomputed."""
        found: Floats = np.array(by_kind, np.float64)[self.kinds]
        count = self.setup.recompute_layers
        if other is not None and count is not None:
            found[count + 1 :] = np.array(other, np.float64)[self.kinds][count + 1 :]
        return found

    def floor(self) -> float:
        """Least seconds by the passes alone, whatever states are shared."""
        forward, backward = (
            self._by_stage(self.seconds.forward),
            self._by_stage(self._mixed(self.seconds.backward)),
        )
        if self.halved:
            backward = self._by_stage(self._mixed(self.seconds.inputs)) + self._by_stage(
                self._mixed(self.seconds.weights)
            )
        home, ranks = self.rank_of_stage, self.setup.pipeline
        first = np.array([int(np.flatnonzero(home == rank)[0]) for rank in range(ranks)])
        busy = np.bincount(home, forward + backward, minlength=ranks) * self.setup.micro_batches
        around = forward if self.halved else forward + backward
        return float((busy + np.concatenate([[0.0], np.cumsum(around)])[first]).max())

    def cost(self, exact: bool) -> LayoutCost:
        setup, m = self.setup, self.setup.micro_batches
        forward = self._by_stage(self.seconds.forward)
        if self.halved:
            inputs, weights = (
                self._by_stage(self._mixed(part)) for part in (self.seconds.inputs, self.seconds.weights)
            )
            backward = inputs + weights
        else:
            backward = self._by_stage(self._mixed(self.seconds.backward))
            inputs, weights = backward, np.zeros_like(backward)
        ranks = setup.pipeline
        home = self.rank_of_stage
        first = np.array([int(np.flatnonzero(home == rank)[0]) for rank in range(ranks)])
        busy = np.bincount(home, forward + backward, minlength=ranks) * m
        fill = np.concatenate([[0.0], np.cumsum(forward)])[first]
        drain = np.zeros(ranks) if self.halved else np.concatenate([[0.0], np.cumsum(backward)])[first]
        optimizer = self._optimizer(home)
        floor = float((fill + busy + drain).max() + optimizer.min())
        gather, reduce = self._traffic()
        stage3 = setup.zero_stage == 3
        passes = 2 if setup.sharding.reshard else 1
        each = setup.sharding.reduces_each(setup.zero_stage)
        moved = np.bincount(home, gather * (passes * m if stage3 else 1), minlength=ranks)
        if stage3:
            floor = max(floor, float(moved.max()))
        slow_f, slow_b = forward, backward
        if stage3:
            slow_f = np.maximum(forward, gather)
            back, sums = gather * (passes - 1), reduce if each else np.zeros_like(reduce)
            # Both at once: each alone leaves some of the wires free.
            slow_b = np.maximum.reduce([backward, back, sums, (back + sums) * network_share()])
        elif each:
            slow_b = np.maximum(backward, reduce)
        if exact and ranks > 1:
            spread = slow_b / np.maximum(backward, 1e-30)
            send = self.wires.seconds(setup, "pipeline", "send", self.profile.handed_bytes)
            run = run_schedule(
                packed_schedule(*self.schedule),
                StageTimes(slow_f, inputs * spread, weights * spread, slow_b, communication_s=send),
            )
            ends = np.array([
                run.end_s[run.packed.begins[rank] : run.packed.begins[rank + 1]].max() for rank in range(ranks)
            ])  # fmt: skip
        else:
            ends = (
                np.concatenate([[0.0], np.cumsum(slow_f)])[first]
                + np.bincount(home, slow_f + slow_b, minlength=ranks) * m
            )
            whole = (ends + drain).max()
            ends = whole - drain if not self.halved else np.maximum(ends, whole)
        layers = np.maximum(np.diff(self.bounds), 1)
        tail = reduce / layers
        if not each:
            tail = np.maximum(
                tail, np.bincount(home, reduce, minlength=ranks)[home] - backward * (1 - 1 / layers)
            )
        after = np.zeros(ranks)
        np.maximum.at(after, home, tail)
        before = 0.0
        if not stage3:
            wait = gather - np.concatenate([[0.0], np.cumsum(forward)])[:-1] - forward * (1 - 1 / layers)
            before = max(float(np.maximum(wait, gather / layers).max()), 0.0)
        likely = float((ends + after + optimizer).max()) + before
        return LayoutCost(floor, max(likely, floor), self._bytes(home))

    # States.

    def _widths(self) -> tuple[int, int]:
        setup = self.setup
        if setup.zero_stage:
            return setup.shard_width(), setup.shard_width(experts=True)
        return setup.shards, setup.shards // setup.expert

    def _optimizer(self, home: Ints) -> Floats:
        """Seconds of each rank's optimizer."""
        width, experts = self._widths()
        by_kind = []
        for states, seconds in zip(self.profile.states, self.profile.optimizer_s, strict=True):
            whole = states.dense.optimizer + states.experts.optimizer
            shared = states.dense.optimizer / width + states.experts.optimizer / experts
            by_kind.append(seconds * (shared / whole if whole and self.setup.zero_stage else 1.0))
        summed = np.concatenate([[0.0], np.cumsum(self._layers(by_kind))])
        found: Floats = np.bincount(home, self._by_stage(summed), minlength=self.setup.pipeline).astype(
            np.float64
        )
        return found

    def _traffic(self) -> tuple[Floats, Floats]:
        """Seconds by stage to gather all weights once, and to reduce all gradients once."""
        gather, reduce = [], []
        width, experts = self._widths()
        for states in self.profile.states:
            parts = ((states.dense, width, ""), (states.experts, experts, "expert_"))
            gather.append(sum(self._gather(own, prefix) for own, ranks, prefix in parts if ranks > 1))
            reduce.append(sum(self._reduce(own, ranks, prefix) for own, ranks, prefix in parts if ranks > 1))
        summed = [np.concatenate([[0.0], np.cumsum(self._layers(part))]) for part in (gather, reduce)]
        return self._by_stage(summed[0]), self._by_stage(summed[1])

    def _gather(self, own: StateBytes, prefix: str) -> float:
        if self.setup.zero_stage == 0:
            return 0.0
        return self._in_buckets(f"{prefix}within", "all_gather", own.weights)

    def _reduce(self, own: StateBytes, ranks: int, prefix: str) -> float:
        if self.setup.zero_stage == 0:
            return self._in_buckets(f"{prefix}shards", "all_reduce", own.gradients)
        part = -(-own.gradients // ranks)
        return self._in_buckets(f"{prefix}within", "reduce_scatter", own.gradients) + self._in_buckets(
            f"{prefix}across", "all_reduce", part
        )

    def _in_buckets(self, family: str, kind: str, size: int) -> float:
        setup = self.setup
        count = max(size // setup.sharding.bucket_bytes, 1) if setup.zero_stage < 3 else 1
        return count * self.wires.seconds(setup, family, kind, -(-size // count))

    def _bytes(self, home: Ints) -> float:
        """Bytes of the fullest device: states, whole layers that are gathered, activations in flight."""
        setup, profile = self.setup, self.profile
        width, experts = self._widths()
        each = setup.sharding.reduces_each(setup.zero_stage)
        held, gathered, fresh = [], [], []
        for states in profile.states:
            own = 0
            for part, ranks in ((states.dense, width), (states.experts, experts)):
                zero = setup.zero_stage if ranks > 1 else 0
                own += part.held(zero, ranks)
                if zero >= 2 and not each:
                    own += part.gradients - -(-part.gradients // ranks)
            shared = [part for part, ranks in ((states.dense, width), (states.experts, experts)) if ranks > 1]
            held.append(float(own))
            gathered.append(float(sum(part.weights for part in shared)) if setup.zero_stage == 3 else 0.0)
            fresh.append(
                float(sum(part.gradients for part in shared)) if setup.zero_stage >= 2 and each else 0.0
            )
        chosen, plain = profile.passes[setup.recompute], profile.passes["none"]
        kept = self._layers([p.kept_bytes for p in chosen], [p.kept_bytes for p in plain])
        beside = self._layers(
            [max(p.backward_peak, p.forward_peak - p.kept_bytes) for p in chosen],
            [max(p.backward_peak, p.forward_peak - p.kept_bytes) for p in plain],
        )
        ahead = setup.sharding.prefetch + 1
        sums = [np.concatenate([[0.0], np.cumsum(part)]) for part in (self._layers(held), kept)]
        by_stage = [self._by_stage(part) for part in sums]
        states_of, kept_of = (np.bincount(home, part, minlength=setup.pipeline) for part in by_stage)
        per_rank = len(home) // setup.pipeline
        between = 1.0
        if self.halved:
            left = self._layers([p.between_bytes for p in chosen], [p.between_bytes for p in plain])
            between = round(float(left.sum() / max(kept.sum(), 1.0)), 2)
        flight = np.array(_in_flight(self.schedule, between)) / per_rank * kept_of
        extra = np.zeros(setup.pipeline)
        wide, new = self._layers(gathered), self._layers(fresh)
        for stage, rank in enumerate(home.tolist()):
            low, high = self.bounds[stage], self.bounds[stage + 1]
            most = np.sort(wide[low:high])
            weights = most[-ahead:].sum() if setup.sharding.reshard else most.sum()
            extra[rank] = max(extra[rank], float(beside[low:high].max() + weights + new[low:high].max()))
        return float((states_of + flight + extra).max())
