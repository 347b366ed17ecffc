"""Every degree of a training step chosen for up to a thousand devices, and a bound on what was not looked at.

The search goes from coarse to fine. What a layer costs depends on few degrees (tensor, Ulysses, context, expert, the
micro-batch): such a **family** is profiled once on a cut model, and its least time, all ranks busy all the time, bounds
all its layouts. A family is left when that is above what the best layout so far is likely to take; so is a layout, by
its own floor (:mod:`mapping.training.layout_floor`). Of the rest, those that fit and are likely to be fastest are
executed event by event; the fastest that fits is the answer, and the plan that it ran is the plan that is written.

No layout that was not executed is faster than the least floor among them (those that the floors' memory says do not fit
left out), which the answer says.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from hw_configs.problems import InfeasibleError, InputError, PhysicsError, bad_input
from hw_configs.units import format_quantity
from mapping.deadline import OutOfTimeError, is_late, tell
from mapping.offload.policy import OffloadRequest
from mapping.training.choose_setup import Family, TrainingSettings
from mapping.training.estimate import Estimator
from mapping.training.executed_step import ExecutedStep
from mapping.training.layer_profile import WAYS, RankProfile, picked_layers, rank_profile, with_recomputation
from mapping.training.layout_floor import LayoutCost, PassSeconds, Wires, layout_cost, passes_floor
from mapping.training.rank_layout import first_group
from mapping.training.rank_step import RankStep
from mapping.training.schedules.write import SCHEDULES
from mapping.training.setup import TrainingEstimate, TrainingSetup
from mapping.training.sharding import Sharding
from mapping.training.training_plan import TrainingPlan, execute, plan_of

__all__ = ["Searched", "can_search", "search_layouts"]

SEARCHED_SCHEDULES: Final = (
    ("1f1b", 1), ("interleaved-1f1b", 2), ("interleaved-1f1b", 4), ("zb-h1", 1), ("zbv-zero-bubble", 1),
    ("v-half", 1),
)  # fmt: skip
"""Schedules that are tried, with stages per rank (1: as many as the schedule has); others by name."""
MICRO_BATCHES: Final = (1, 2, 4, 8, 16)
ORDERS: Final = (
    ("tensor", "ulysses", "context", "data", "pipeline"), ("tensor", "ulysses", "context", "pipeline", "data"),
)  # fmt: skip
KEPT: Final = 64
"""Likely layouts that are remembered."""
EXECUTED: Final = 6
"""Layouts that are executed; more where they turn out not to fit."""
SLACK: Final = 1.05
"""How much longer than the best a layout may be likely to take, and still be remembered."""


@dataclass(frozen=True)
class Searched:
    """The fastest layout that was executed and fits, and what is known of the others.

    Layouts: ``layouts`` in all, of which ``bounded`` were left for their floor, ``unfit`` for their memory, and
    ``priced`` one by one; ``executed`` ran. ``floor_s``: none of the others that fits is faster. ``runs`` are those
    that were executed, fastest first.
    """

    best: ExecutedStep
    plan: TrainingPlan
    step: RankStep
    estimate: TrainingEstimate
    layouts: int
    bounded: int
    unfit: int
    priced: int
    executed: int
    floor_s: float
    runs: tuple[tuple[ExecutedStep, str], ...]
    complete: bool


def can_search(request: OffloadRequest, family: Family, settings: TrainingSettings) -> bool:
    """Whether a model's layers can be profiled apart, and the settings ask for nothing that this does not search."""
    if settings.recompute is not None and settings.recompute not in WAYS:
        return False
    if settings.states is not None or settings.train is not None:
        # A pattern may pick layers by number, of which a cut model has others.
        return False
    if settings.alpha is not None or not set(family.ways) & set(WAYS):
        return False
    if settings.schedule is not None:
        kind = SCHEDULES.get(settings.schedule)
        schedule = kind.write(2, 4, kind.stages_per_rank)
        if schedule.replicas > 1 or schedule.vocabulary_barriers:
            return False
    return picked_layers(request.model, request.dtype or "bf16") is not None


def search_layouts(request: OffloadRequest, family: Family, estimator: Estimator) -> Searched:
    """The fastest layout of a family that fits.

    Raises ``InfeasibleError`` with the nearest miss when none does, ``InputError`` for settings out of range,
    ``OutOfTimeError`` when the time is over before one that fits has been executed.
    """
    return _Search(request, request.of(TrainingSettings), family, estimator).run()


@dataclass(order=True)
class _Kept:
    """A layout that may be the best: sorted so that the least likely to be comes first."""

    worst: float
    number: int
    cost: LayoutCost = field(compare=False)
    setup: TrainingSetup = field(compare=False)


@dataclass
class _Degrees:
    """A family of layouts: their degrees inside a stage, micro-batch, and least seconds before it is profiled."""

    setup: TrainingSetup
    floor_s: float = 0.0


@dataclass
class _Search:
    request: OffloadRequest
    settings: TrainingSettings
    family: Family
    estimator: Estimator
    layouts: int = 0
    bounded: int = 0
    unfit: int = 0
    priced: int = 0
    left_floor: float = float("inf")
    """The least floor of what was left without being executed."""
    kept_floor: float = float("inf")
    """The least floor of what was ever kept to be executed."""
    likely: float = float("inf")
    kept: list[_Kept] = field(default_factory=list)
    nearest: tuple[float, TrainingSetup] | None = None

    def run(self) -> Searched:
        request, settings = self.request, self.settings
        prices = self.estimator.prices
        present = len(prices.devices)
        self.devices = settings.devices or present
        if self.devices > present:
            raise bad_input(
                f"found {self.devices}; {request.system.name!r} has {present}", path="--set devices"
            )
        picked = picked_layers(request.model, request.dtype or "bf16")
        assert picked is not None
        self.picked, self.wires = picked, Wires(prices)
        self.model_layers = len(picked[1])
        self.usable = prices.memory.usable_bytes
        self.shared = settings.shared() | {"framework": settings.framework, "types": settings.types()}
        complete = self._look()
        return self._execute(complete)

    # Families.

    def _look(self) -> bool:
        """Price all families, likely ones first; whether the time was enough."""
        families = sorted(self._families(), key=lambda item: item.floor_s)
        problem: InputError | None = None
        seen = 0
        for place, degrees in enumerate(families):
            tell(min(self.left_floor, self.kept_floor, degrees.floor_s), None)
            if is_late(0.6) and self.kept:
                for rest in families[place:]:
                    self._leave(self._count(rest.setup), rest.floor_s)
                return False
            if degrees.floor_s > self.likely * SLACK:
                self._leave(self._count(degrees.setup), degrees.floor_s)
                continue
            try:
                profile = rank_profile(degrees.setup, self.estimator.prices, self.picked)
            except InputError as error:
                problem = problem or error
                continue
            seen += 1
            self._price_family(degrees.setup, profile)
        if not seen:
            raise problem or bad_input("no way to divide the work over the devices", path="--set")
        return True

    def _leave(self, layouts: int, floor: float) -> None:
        self.layouts += layouts
        self.bounded += layouts
        self.left_floor = min(self.left_floor, floor)

    def _families(self) -> Iterator[_Degrees]:
        """Every family; its floor counts a rank's operations at the device's peak."""
        found = 0
        flops: float | None = None
        for tensor, ulysses, context in self._inner():
            for micro_batch in self._micro_batches():
                for expert in self._experts():
                    try:
                        setup = self._setup(tensor, ulysses, context, micro_batch, expert)
                    except InputError:
                        continue
                    if not any(True for _ in self._arrangements(setup)):
                        continue
                    found += 1
                    if flops is None:
                        flops = self._model_flops(setup)
                    yield _Degrees(setup, self._wire_floor(setup) + flops)
        if not found:
            raise self._reason()

    def _model_flops(self, setup: TrainingSetup) -> float:
        """Seconds of the whole step's operations on all devices at their peak: no layout is faster."""
        one = replace(setup, tensor=1, ulysses=1, context=1, expert=1, micro_batch=1, data=1, batch=1)
        profile = rank_profile(one, self.estimator.prices, self.picked)
        self.reference = profile
        peak = self.estimator.prices.peak(setup.dtype) * self.devices
        return profile.flops * self.request.batch / peak

    def _wire_floor(self, setup: TrainingSetup) -> float:
        """Seconds of tensor parallelism's exchanges: of so many bytes per token, whatever else is divided."""
        tensor = setup.tensor
        if tensor == 1:
            return 0.0
        known: dict[int, RankProfile | None] = self.__dict__.setdefault("by_tensor", {})
        if tensor not in known:
            one = replace(setup, ulysses=1, context=1, expert=1, micro_batch=1, data=1, batch=1)
            try:
                known[tensor] = rank_profile(one, self.estimator.prices, self.picked)
            except InputError:
                known[tensor] = None
        profile = known[tensor]
        if profile is None:
            return 0.0
        share = setup.micro_batch / (setup.ulysses * setup.context)
        seconds = 0.0
        for kind in profile.kind_of:
            layer = profile.passes["none"][kind]
            for piece in (*layer.pieces["F"], *layer.pieces["B"]):
                what = piece.exchanged
                if what is not None and what.family == "tensor":
                    # A little less for what does not divide evenly.
                    size = int(what.bytes * share * 0.99)
                    seconds += self.wires.seconds(setup, "tensor", what.kind, size)
        inner = tensor * setup.ulysses * setup.context
        return seconds * self.request.batch * inner / (setup.micro_batch * self.devices)

    def _inner(self) -> Iterator[tuple[int, int, int]]:
        fixed = self.settings.degrees()
        for name, value in fixed.items():
            if value > 1 and name not in self.family.degrees:
                raise bad_input(f"this mapper has no {name} parallelism", path=f"--set {name}")
        for tensor in self._divisors("tp", fixed, self.devices):
            for ulysses in self._divisors("ulysses", fixed, self.devices // tensor):
                for context in self._divisors("cp", fixed, self.devices // tensor // ulysses):
                    yield tensor, ulysses, context

    def _divisors(self, name: str, fixed: dict[str, int], of: int) -> Iterator[int]:
        if name in fixed:
            if of % fixed[name] == 0:
                yield fixed[name]
        elif name not in self.family.degrees:
            yield 1
        else:
            yield from (value for value in range(1, of + 1) if of % value == 0)

    def _micro_batches(self) -> tuple[int, ...]:
        if self.settings.micro_batch is not None:
            return (self.settings.micro_batch,)
        return tuple(value for value in MICRO_BATCHES if self.request.batch % value == 0)

    def _experts(self) -> Iterator[int]:
        if self.settings.ep is not None:
            yield self.settings.ep
            return
        count = max((state.experts.optimizer for state in self._one_layer().states), default=0)
        value = 1
        while value <= (64 if count else 1):
            yield value
            value *= 2

    def _one_layer(self) -> RankProfile:
        """The profile of one sequence on one device."""
        if "alone" not in self.__dict__:
            request = self.request
            setup = TrainingSetup(request.model, request.sequence, 1, 1, request.dtype or "bf16")
            self.__dict__["alone"] = rank_profile(setup, self.estimator.prices, self.picked)
        found: RankProfile = self.__dict__["alone"]
        return found

    def _setup(self, tensor: int, ulysses: int, context: int, micro_batch: int, expert: int) -> TrainingSetup:
        """One stage, as few data ranks as hold the experts."""
        request = self.request
        data = -(-expert // (ulysses * context))
        shared = {**self.shared, "expert": expert, "sharding": Sharding(), "stage_layers": None}
        return TrainingSetup(
            request.model, request.sequence, micro_batch * data, micro_batch, request.dtype or "bf16", tensor, True,
            ulysses, context, 1, data, **shared,
            allocator=self.settings.allocator or self.family.allocator,  # type: ignore[arg-type]
        )  # fmt: skip

    # Layouts of a family.

    def _outer(self, inner: TrainingSetup) -> Iterator[tuple[int, int]]:
        """Pipeline and data degrees."""
        rest = self.devices // (inner.tensor * inner.ulysses * inner.context)
        fixed = self.settings.degrees()
        for pipeline in self._divisors("pp", fixed, rest):
            data = rest // pipeline
            if "dp" in fixed and data != fixed["dp"]:
                continue
            if data > 1 and "dp" not in self.family.degrees:
                continue
            if pipeline > self.model_layers or self.request.batch % (data * inner.micro_batch):
                continue
            shards = data * inner.ulysses * inner.context
            if shards % inner.expert or shards % (self.settings.shard or 1):
                continue
            yield pipeline, data

    def _whole(self, degrees: tuple[int, ...], micro_batch: int) -> TrainingSetup:
        """A setup of all degrees, as the settings have the rest; it says itself what is wrong with it."""
        request = self.request
        tensor, ulysses, context, pipeline, data = degrees
        return TrainingSetup(
            request.model, request.sequence, request.batch, micro_batch, request.dtype or "bf16", tensor, True, ulysses,
            context, pipeline, data, **self.shared,
        )  # fmt: skip

    def _reason(self) -> InputError:
        """Why there is no layout at all."""
        for tensor, ulysses, context in self._inner():
            rest = self.devices // (tensor * ulysses * context)
            for pipeline in self._divisors("pp", self.settings.degrees(), rest):
                if rest // pipeline != (self.settings.dp or rest // pipeline):
                    continue
                try:
                    degrees = (tensor, ulysses, context, pipeline, rest // pipeline)
                    setup = self._whole(degrees, (self._micro_batches() or (1,))[0])
                    plan_of(self.estimator.rank_step(setup), self.estimator)
                except InputError as error:
                    return error
        return bad_input(f"the degrees asked for do not multiply to {self.devices} devices", path="--set")

    def _schedules(self, pipeline: int) -> Iterator[tuple[str, int]]:
        settings = self.settings
        if pipeline == 1:
            yield "1f1b", 1
            return
        for name, stages in SEARCHED_SCHEDULES if settings.schedule is None else ((settings.schedule, 1),):
            per_rank = settings.interleave or stages
            if (
                settings.schedule is None
                and settings.interleave is not None
                and stages != settings.interleave
            ):
                continue
            kind = SCHEDULES.get(name)
            count = per_rank if not kind.fixed and per_rank > 1 else kind.stages_per_rank
            layers = self.shared["stage_layers"]
            if layers is not None and (len(layers) != count * pipeline or sum(layers) != self.model_layers):
                continue
            if count * pipeline <= self.model_layers:
                yield name, per_rank

    def _stages(self, shards: int) -> tuple[int, ...]:
        if self.settings.zero is not None:
            return (self.settings.zero,)
        return tuple(stage for stage in self.family.zero if (stage > 0) == (shards > 1)) or (0,)

    def _shardings(self, setup: TrainingSetup) -> Iterator[Sharding]:
        own: Sharding = self.shared["sharding"]
        yield own
        if self.settings.shard is not None or setup.zero_stage == 0:
            return
        # Hybrid: one copy of the states in as many neighbours as share a machine.
        cluster = self.request.system.cluster
        machine = len(self.estimator.prices.devices) // len(cluster.machines) if cluster is not None else 0
        width = machine // setup.tensor
        if width > 1 and width < setup.shards and setup.shards % width == 0 and width % setup.expert == 0:
            yield replace(own, shard_ranks=width)

    def _orders(self, pipeline: int, data: int) -> tuple[tuple[str, ...], ...]:
        if self.settings.order is not None or pipeline == 1 or data == 1:
            return (self.shared["layout"],)
        return ORDERS

    def _ways(self) -> tuple[str, ...]:
        if self.settings.recompute is not None:
            return (self.settings.recompute,)
        return tuple(way for way in WAYS if way in self.family.ways)

    def _arrangements(self, inner: TrainingSetup) -> Iterator[TrainingSetup]:
        """Layouts of a family but for how they share states and recompute."""
        for pipeline, data in self._outer(inner):
            for order in self._orders(pipeline, data):
                for schedule, stages in self._schedules(pipeline):
                    yield replace(
                        inner, batch=self.request.batch, pipeline=pipeline, data=data, layout=order, schedule=schedule,
                        stages_per_rank=stages, stage_layers=self.shared["stage_layers"] if pipeline > 1 else None,
                    )  # fmt: skip

    def _shared_states(self, base: TrainingSetup) -> Iterator[TrainingSetup]:
        """An arrangement with every way to share its states."""
        for zero in self._stages(base.shards):
            staged = replace(base, zero_stage=zero)
            for sharding in self._shardings(staged):
                yield replace(staged, sharding=sharding)

    def _count(self, inner: TrainingSetup) -> int:
        """How many layouts a family has."""
        count = 0
        for pipeline, data in self._outer(inner):
            schedules = sum(1 for _ in self._schedules(pipeline))
            base = replace(inner, batch=self.request.batch, pipeline=pipeline, data=data)
            shared = sum(1 for _ in self._shared_states(base))
            count += len(self._orders(pipeline, data)) * schedules * shared
        return count * len(self._ways())

    def _price_family(self, inner: TrainingSetup, profile: RankProfile) -> None:
        least = PassSeconds.of(profile, inner, self.wires).least
        m = (
            self.request.batch
            * inner.tensor
            * inner.ulysses
            * inner.context
            / (inner.micro_batch * self.devices)
        )
        if least * m > self.likely * SLACK:
            self._leave(self._count(inner), least * m)
            return
        profile = with_recomputation(profile, self.estimator.prices)
        seconds: dict[tuple[object, ...], PassSeconds] = {}
        for base in self._arrangements(inner):
            place = tuple(first_group(base, family) for family in ("tensor", "ulysses", "context", "expert"))
            if place not in seconds:
                seconds[place] = PassSeconds.of(profile, base, self.wires)
            try:
                floor = passes_floor(base, profile, seconds[place], self.wires)
            except InputError:
                # A schedule that cannot take the counts is no layout.
                continue
            if floor > self.likely * SLACK:
                self._leave(len(self._ways()) * sum(1 for _ in self._shared_states(base)), floor)
                continue
            for setup in self._shared_states(base):
                self._price_layout(setup, profile, seconds[place])

    def _price_layout(self, setup: TrainingSetup, profile: RankProfile, seconds: PassSeconds) -> None:
        """Price a layout's ways to recompute, from the fastest on, until one fits; all only add to the first."""
        ways = self._ways()
        least = layout_cost(replace(setup, recompute="none"), profile, seconds, self.wires)
        self.layouts += len(ways)
        if least.floor_s > self.likely * SLACK:
            self.bounded += len(ways)
            self.left_floor = min(self.left_floor, least.floor_s)
            return
        for place, way in enumerate(ways):
            whole = replace(setup, recompute=way)  # type: ignore[arg-type]
            cost = least if way == "none" else layout_cost(whole, profile, seconds, self.wires)
            self.priced += 1
            if cost.device_bytes > self.usable:
                self.unfit += 1
                if self.nearest is None or cost.device_bytes < self.nearest[0]:
                    self.nearest = (cost.device_bytes, whole)
                continue
            if way == "full" and self.settings.recompute is None:
                whole, cost = self._fewest(whole, cost, profile, seconds)
            self._keep(whole, cost)
            if way == "none":
                self.bounded += len(ways) - place - 1
                self.left_floor = min(self.left_floor, cost.floor_s)
                return

    def _fewest(
        self, whole: TrainingSetup, cost: LayoutCost, profile: RankProfile, seconds: PassSeconds
    ) -> tuple[TrainingSetup, LayoutCost]:
        """Whole layers recomputed, as few as fit."""
        low, high, best = 0, profile.layers, (whole, cost)
        while high - low > 1:
            middle = (low + high) // 2
            setup = replace(whole, recompute_layers=middle)
            found = layout_cost(setup, profile, seconds, self.wires)
            if found.device_bytes <= self.usable:
                best, high = (setup, found), middle
            else:
                low = middle
        return best

    def _keep(self, setup: TrainingSetup, cost: LayoutCost) -> None:
        self.likely = min(self.likely, cost.likely_s)
        if cost.floor_s > self.likely * SLACK:
            self.left_floor = min(self.left_floor, cost.floor_s)
            return
        self.kept_floor = min(self.kept_floor, cost.floor_s)
        item = _Kept(-cost.likely_s, self.priced, cost, setup)
        if len(self.kept) < KEPT:
            heapq.heappush(self.kept, item)
            return
        out = heapq.heappushpop(self.kept, item)
        self.left_floor = min(self.left_floor, out.cost.floor_s)

    # Execution.

    def _execute(self, complete: bool) -> Searched:
        if not self.kept:
            raise self._infeasible()
        queue = sorted(self._refined(), key=lambda item: (item.cost.likely_s, item.number))
        runs: list[tuple[ExecutedStep, TrainingPlan, RankStep, TrainingEstimate]] = []
        executed = 0
        best = float("inf")
        left = self.left_floor
        for place, item in enumerate(queue):
            if (executed >= EXECUTED and runs) or (is_late() and runs) or executed >= 4 * EXECUTED:
                left = min([left, *(rest.cost.floor_s for rest in queue[place:])])
                break
            if item.cost.floor_s >= best:
                left = min(left, item.cost.floor_s)
                continue
            if is_late() and not runs:
                raise OutOfTimeError
            executed += 1
            step = self.estimator.rank_step(item.setup)
            estimate = self.estimator.of_step(step)
            plan = plan_of(step, self.estimator)
            ran = execute(plan, self.estimator)
            if ran.step_s < item.cost.floor_s * (1 - 1e-6):
                raise PhysicsError(
                    f"{item.setup.words()} ran in {ran.step_s:.6g} s, below its floor of {item.cost.floor_s:.6g} s"
                )
            more = estimate.memory.fragmentation
            if ran.peak_bytes + more > self.usable:
                size = ran.peak_bytes + more
                if self.nearest is None or size < self.nearest[0]:
                    self.nearest = (size, item.setup)
                continue
            runs.append((ran, plan, step, estimate))
            best = min(best, ran.step_s)
            waiting = (rest.cost.floor_s for rest in queue[place + 1 :])
            tell(min(best, left, *waiting), best)
        if not runs:
            raise self._infeasible()
        runs.sort(key=lambda run: (run[0].step_s, run[0].peak_bytes))
        ran, plan, step, estimate = runs[0]
        told = tuple((run[0], run[2].setup.words()) for run in runs)
        return Searched(
            ran, plan, step, estimate, self.layouts, self.bounded, self.unfit, self.priced, executed,
            min(left, ran.step_s), told, complete,
        )  # fmt: skip

    def _refined(self) -> Iterator[_Kept]:
        """What is kept, with the likely time of the schedule as it runs."""
        profiles: dict[tuple[object, ...], RankProfile] = {}
        for item in self.kept:
            setup = item.setup
            inner = (setup.tensor, setup.ulysses, setup.context, setup.micro_batch, setup.expert)
            if inner not in profiles:
                base = self._setup(*inner)
                profile = rank_profile(base, self.estimator.prices, self.picked)
                profiles[inner] = with_recomputation(profile, self.estimator.prices)
            seconds = PassSeconds.of(profiles[inner], setup, self.wires)
            yield replace(item, cost=layout_cost(setup, profiles[inner], seconds, self.wires, exact=True))

    def _infeasible(self) -> InfeasibleError:
        request = self.request
        told = ""
        if self.nearest is not None:
            size, setup = self.nearest
            short, whole = (
                format_quantity(int(value), "size") for value in (size - self.usable, self.usable)
            )
            told = f"; the nearest miss, {setup.words()}: device memory is short by {short} of {whole}"
        return InfeasibleError(
            f"no way to train {request.model} at {request.sequence} tokens on {request.system.name} fits, of "
            f"{self.layouts} layouts{told}"
        )


def told(found: Searched) -> dict[str, Any]:
    """The search in numbers, for a report."""
    return {
        "layouts": found.layouts, "bounded_away": found.bounded, "do_not_fit": found.unfit, "priced": found.priced,
        "executed": found.executed, "others_floor_s": found.floor_s, "complete": found.complete,
    }  # fmt: skip
