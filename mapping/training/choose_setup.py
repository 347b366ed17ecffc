"""How to train a model on a system in the least time that fits, and why so.

Every way to write the number of devices as a product of tensor, Ulysses, context, pipeline and data parallelism is
priced, with every ZeRO stage where weights are held more than once, and with four ways to make activations fit:
keep them, recompute what is cheap, recompute whole layers (as few as needed), or swap token by token to host memory
and recompute the rest. The fastest that fits is then planned to the byte. A layout whose time without any
recomputation is already above the best found is not looked at further: recomputing and swapping only add to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from hw_configs.problems import InfeasibleError, InputError, bad_input
from hw_configs.settings import Settings, count, flag, name_of, seconds, share, size, word
from hw_configs.whole_number import is_whole
from mapping.deadline import OutOfTimeError, is_late
from mapping.offload.policy import OffloadRequest
from mapping.training.estimate import Estimator, RankStep
from mapping.training.pricing import Prices
from mapping.training.rank_layout import DEGREES as LAYOUT
from mapping.training.sample_loading import SAMPLE_PLACES, SampleLoading
from mapping.training.setup import ALLOCATORS, EXCHANGES, RECOMPUTE, TrainingEstimate, TrainingSetup
from mapping.training.sharding import Sharding
from mapping.training.state_types import FRAMEWORKS, StateTypes, framework_types, with_fields
from workloads.step_types import LOSS_FORMS, SAVED_FORMS

__all__ = ["Choice", "Family", "TrainingSettings", "choose"]

_MOST: Final = 1_000_000
_DTYPES: Final = ("fp32", "bf16", "fp16", "fp8")
_STATES: Final = (*_DTYPES, "int8", "int4")
DEGREES: Final = ("tp", "ulysses", "cp", "pp", "dp")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings(Settings):
    """Settings of the mappers that choose how to train; what is left out is searched."""

    devices: int | None = count(None, "how many devices train", least=1, most=_MOST, absent="all")
    tp: int | None = count(None, "degree of tensor parallelism", least=1, most=_MOST, absent="searched")
    ulysses: int | None = count(None, "degree of Ulysses parallelism", least=1, most=_MOST, absent="searched")
    cp: int | None = count(None, "degree of context parallelism", least=1, most=_MOST, absent="searched")
    pp: int | None = count(None, "pipeline stages", least=1, most=_MOST, absent="searched")
    dp: int | None = count(None, "degree of data parallelism", least=1, most=_MOST, absent="searched")
    zero: int | None = count(None, "ZeRO stage", most=3, absent="searched")
    micro_batch: int | None = count(
        None, "sequences per forward pass", least=1, most=_MOST, unit="sequences", absent="searched"
    )
    recompute: str | None = word(None, "what is recomputed", RECOMPUTE, absent="searched")
    alpha: float | None = share(None, "tokens whose activations are swapped", zero=True, absent="searched")
    allocator: str | None = word(None, "what places tensors", ALLOCATORS, absent="the mapper's own")
    ep: int | None = count(
        None, "degree of expert parallelism, over the ranks that hold equal weights", least=1, most=_MOST,
        absent="searched",
    )  # fmt: skip
    schedule: str | None = name_of("pipeline schedule (offchip solve pipeline lists them)", absent="searched")
    interleave: int | None = count(
        None, "stages per rank; 1: the schedule's usual count", least=1, most=1024, absent="searched"
    )
    stages: str | None = name_of("layers of each stage, such as 9+10+10+9", absent="equal")
    shard: int | None = count(
        None,
        "ranks that share one copy of the states (hybrid sharding)",
        least=1,
        most=_MOST,
        absent="searched",
    )
    prefetch: int = count(1, "layers gathered ahead of the one at work (stage 3)", most=1024, unit="layers")
    reshard: bool = flag(True, "gathered weights are given up after the forward pass")
    bucket: int = size(25 << 20, "gradients and weights that are moved at once")
    reduce: str = word(
        "stage",
        "when gradients are reduced; stage: as the ZeRO stage needs",
        ("stage", "step", "micro-batch"),
    )
    overlap: bool = flag(
        True, "gradients are reduced beside the backward pass, weights gathered beside the forward"
    )
    order: str | None = name_of("whose ranks are neighbours, the innermost first", absent="searched")
    exchange: str = word("ring", "how keys reach the other context ranks", EXCHANGES)
    zigzag: bool = flag(True, "context ranks deal out the causal mask evenly")
    states: str | None = name_of(
        "where states live: device, host or nvme, with weights, weights-on-host, weights-on-nvme, delayed, "
        "in-backward, inputs, checkpoint or checkpoint-sync joined by +",
        absent="device",
    )
    checkpoint_every: int = count(
        1, "steps from one checkpoint to the next", least=1, most=_MOST, unit="steps"
    )
    sample: int = size(0, "of a sequence's sample, as it is fetched in every step")
    samples: str = word("host", "where samples lie", SAMPLE_PLACES)
    sample_cpu: float = seconds(0.0, "of one worker, to make a sample ready", zero=True)
    workers: int = count(8, "of each device, that make samples ready", least=1, most=4096)
    ahead: int = count(
        2, "steps that samples come ahead; 0: a step waits for its own", most=1024, unit="steps"
    )
    search: str = word(
        "auto",
        "executed: all degrees, the best few layouts are run; estimated: those above the micro-batch, all layouts "
        "priced; auto: executed for several sequences or more than 16 devices",
        ("auto", "executed", "estimated"),
    )

    def shared(self) -> dict[str, Any]:
        """Fields of a setup that its degrees leave open, as they are fixed here."""
        return {
            "expert": self.ep or 1,
            "schedule": self.schedule or "1f1b",
            "stages_per_rank": self.interleave or 1,
            "stage_layers": _stage_layers(self.stages),
            "sharding": Sharding(
                self.shard, self.prefetch, self.reshard, max(self.bucket, 1),
                {"stage": None, "step": False, "micro-batch": True}[self.reduce], self.overlap,
            ),
            "layout": _layout(self.order),
            "context_exchange": self.exchange,
            "zigzag": self.zigzag,
            "states": self.states or "device",
            "checkpoint_every": self.checkpoint_every,
            "loading": SampleLoading(self.sample, self.samples, self.sample_cpu, self.workers, self.ahead),
        }  # fmt: skip

    framework: str = word(
        "plain", "whose kernels, element types, loss and kept activations", tuple(FRAMEWORKS)
    )
    train: str | None = name_of("which weights are trained: lora, qlora, a pattern or a file", absent="all")
    weights: str | None = word(None, "type of trained weights", _DTYPES, absent="the framework's")
    gradients: str | None = word(None, "type of weights' gradients", _DTYPES, absent="the framework's")
    accumulation: str | None = word(None, "type of sums beside gradients", _DTYPES, absent="the framework's")
    master: str | None = word(None, "type of the master copy", (*_DTYPES, "none"), absent="the framework's")
    moments: str | None = word(None, "type of the optimizer's moments", _STATES, absent="the framework's")
    logits: str | None = word(None, "type in which the loss works", _DTYPES, absent="the framework's")
    softmax: str | None = word(None, "type of probabilities in eager code", _DTYPES, absent="the family's")
    loss: str | None = word(None, "form of the loss", LOSS_FORMS, absent="the framework's")
    loss_chunks: int | None = count(
        None, "pieces of a chunked loss", least=1, most=4096, absent="the framework's"
    )
    saved: str | None = word(None, "whose code's activations are kept", SAVED_FORMS, absent="the framework's")
    distributed: bool | None = flag(
        None, "the optimizer's state divided over data ranks", absent="the framework's"
    )

    def types(self) -> StateTypes | None:
        """The framework's element types with what was set of them; None where nothing was."""
        names = (
            "weights", "gradients", "accumulation", "master", "moments", "logits", "softmax", "loss", "loss_chunks",
            "saved", "distributed",
        )  # fmt: skip
        given = {name: getattr(self, name) for name in names}
        if all(value is None for value in given.values()):
            return None
        return with_fields(framework_types(self.framework), given)

    def degrees(self) -> dict[str, int]:
        """The degrees of parallelism that are fixed."""
        found = {name: getattr(self, name) for name in DEGREES}
        return {name: value for name, value in found.items() if value is not None}


def _stage_layers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    words = text.split("+")
    if not all(is_whole(word) and len(word) < 7 and int(word) > 0 for word in words):
        raise bad_input(f"found {text!r:.80}; expected layers such as 9+10+10+9", path="--set stages")
    return tuple(int(word) for word in words)


def _layout(text: str | None) -> tuple[str, ...]:
    if text is None:
        return LAYOUT
    words = [word.strip() for word in text.split(",")]
    if sorted(words) != sorted(DEGREES):
        expected = f"found {text!r:.80}; expected {','.join(DEGREES)} in some order"
        raise bad_input(expected, path="--set order")
    return tuple(LAYOUT[DEGREES.index(word)] for word in words)


@dataclass(frozen=True, slots=True)
class Family:
    """What a policy may use."""

    degrees: tuple[str, ...] = DEGREES
    zero: tuple[int, ...] = (0, 1, 2, 3)
    ways: tuple[str, ...] = ("none", "pointwise", "full", "swap")
    allocator: str = "planned"


@dataclass(frozen=True)
class Choice:
    """The best setup found, the best of each way to make activations fit, and how many were priced."""

    best: TrainingEstimate
    step: RankStep
    by_way: Mapping[str, TrainingEstimate]
    priced: int
    unseen_floor_s: float | None = None
    """Where the time was over first: no setup that was not priced is faster than this. None: all were looked at."""


def choose(request: OffloadRequest, family: Family, estimator: Estimator | None = None) -> Choice:
    """The fastest setup of a family that fits.

    Raises ``InfeasibleError`` with the nearest miss when none does, ``InputError`` for settings out of range,
    ``OutOfTimeError`` when the solve around it has to end before one that fits is found.
    """
    estimator = estimator or Estimator(Prices(request.system, request.cost_model))
    search = _Search(request, request.of(TrainingSettings), family, estimator)
    return search.run()


@dataclass
class _Search:
    request: OffloadRequest
    settings: TrainingSettings
    family: Family
    estimator: Estimator
    priced: int = 0
    found: list[tuple[TrainingEstimate, RankStep, str]] = field(default_factory=list)
    misses: dict[str, TrainingEstimate] = field(default_factory=dict)
    unranked: bool = False
    shared: dict[str, Any] = field(default_factory=dict)

    def run(self) -> Choice:
        layouts = self._layouts()
        best = float("inf")
        unseen: float | None = 0.0 if self.unranked else None
        for number, (floor, setup) in enumerate(layouts):
            if floor >= best:
                break
            if is_late():
                unseen = 0.0 if self.unranked else floor
                break
            for way in self._ways():
                here = min((self._price(step, way) for step in self._steps(setup, way)), default=float("inf"))
                best = min(best, here)
                # Where everything can be kept, other ways only add time; the first layout shows by how much.
                if way == "none" and here < float("inf") and number > 0:
                    break
        if unseen is not None and not self.found:
            raise OutOfTimeError
        return replace(self._decide(), unseen_floor_s=unseen)

    def _layouts(self) -> list[tuple[float, TrainingSetup]]:
        """Setups that differ in their degrees, with the least time each could take, fastest first."""
        floors: list[tuple[float, int, TrainingSetup]] = []
        problem: InputError | None = None
        for number, setup in enumerate(self._setups()):
            if is_late(0.5) and floors:
                # The rest of the time prices those there are; of the others nothing is known.
                self.unranked = True
                break
            try:
                step = self.estimator.rank_step(setup)
                floors.append((self.estimator.of_step(step, exact=False).time.step_s, number, setup))
            except InputError as error:
                problem = problem or error
        if not floors:
            raise problem or bad_input("no way to divide the work over the devices", path="--set")
        return [(floor, setup) for floor, _, setup in sorted(floors, key=lambda item: item[:2])]

    def _setups(self) -> Iterator[TrainingSetup]:
        request = self.request
        present = len(self.estimator.prices.devices)
        devices = self.settings.devices or present
        if devices > present:
            raise bad_input(f"found {devices}; {request.system.name!r} has {present}", path="--set devices")
        fixed, self.shared = self.settings.degrees(), self.settings.shared()
        for name, value in fixed.items():
            if value > 1 and name not in self.family.degrees:
                raise bad_input(f"this mapper has no {name} parallelism", path=f"--set {name}")
        reasons: list[InputError] = []
        made = 0
        for degrees in _factorings(devices, DEGREES):
            if any(degrees[name] != value for name, value in fixed.items()):
                continue
            if any(degrees[name] > 1 and name not in self.family.degrees for name in DEGREES):
                continue
            try:
                setup = TrainingSetup(
                    request.model, request.sequence, request.batch, self.settings.micro_batch or 1,
                    request.dtype or "bf16", degrees["tp"], True, degrees["ulysses"], degrees["cp"],
                    degrees["pp"], degrees["dp"], 3 if "weights" in (self.settings.states or "") else 0, **self.shared,
                    allocator=self.settings.allocator or self.family.allocator,  # type: ignore[arg-type]
                    framework=self.settings.framework, trainable=self.settings.train or "all",
                    types=self.settings.types(),
                )  # fmt: skip
            except InputError as error:
                reasons.append(error)
                continue
            made += 1
            yield setup
        if not made:
            if reasons:
                raise reasons[0]
            raise bad_input(f"the degrees asked for do not multiply to {devices} devices", path="--set")

    def _ways(self) -> tuple[str, ...]:
        if self.settings.alpha is not None and self.settings.recompute is not None:
            raise bad_input(
                "alpha swaps tokens and recomputes the rest; recompute must not be set too", path="--set"
            )
        if self.settings.alpha is not None:
            return ("swap",)
        if self.settings.recompute is not None:
            return (self.settings.recompute,)
        return self.family.ways

    def _steps(self, setup: TrainingSetup, way: str) -> Iterator[RankStep]:
        """The rank's step for every ZeRO stage; of full recomputation, for as few layers as fit."""
        stages = [stage for stage in self.family.zero if stage == 0 or setup.shards > 1]
        places = setup.places
        if self.settings.zero is not None:
            stages = [self.settings.zero]
        elif places.weights != "device":
            stages = [3]
        elif places.off_device and setup.shards == 1:
            # Gradients leave layer by layer.
            stages = [2]
        elif setup.shards > 1 and len(stages) > 1:
            stages = [stage for stage in stages if stage > 0]
        for stage in stages or (0,):
            staged = replace(setup, zero_stage=stage)
            if way == "swap":
                alpha = self.settings.alpha
                wanted = replace(staged, swap_tokens=1.0 if alpha is None else alpha)
                try:
                    yield self.estimator.rank_step(wanted, bounded=alpha is None)
                except InputError:
                    # A device without host memory swaps nothing; where nothing else is allowed, say so.
                    if self._ways() == ("swap",):
                        raise
            elif way == "full":
                yield self._fewest_layers(staged)
            else:
                yield self.estimator.rank_step(replace(staged, recompute=way))  # type: ignore[arg-type]

    def _fewest_layers(self, setup: TrainingSetup) -> RankStep:
        """Full recomputation of as few layers as memory allows, or of all."""
        whole = self.estimator.rank_step(replace(setup, recompute="full"))
        if self.settings.recompute is not None or not self.estimator.of_step(whole, exact=False).fits:
            return whole
        low, high, best = 0, self.estimator.layers(setup), whole
        while high - low > 1:
            middle = (low + high) // 2
            step = self._of_layers(setup, middle)
            if self.estimator.of_step(step, exact=False).fits:
                best, high = step, middle
            else:
                low = middle
        while (
            best is not whole
            and high < self.estimator.layers(setup)
            and not self.estimator.of_step(best).fits
        ):
            # What the allocator adds to the bytes that are live takes another layer or two.
            high += 1
            best = self._of_layers(setup, high)
        return best

    def _of_layers(self, setup: TrainingSetup, layers: int) -> RankStep:
        return self.estimator.rank_step(replace(setup, recompute="full", recompute_layers=layers))

    def _price(self, step: RankStep, way: str) -> float:
        """Note a step; its time if it fits."""
        self.priced += 1
        estimate = self.estimator.of_step(step, exact=False)
        if estimate.fits:
            estimate = self.estimator.of_step(step)
        if estimate.fits:
            self.found.append((estimate, step, way))
            return estimate.time.step_s
        known = self.misses.get(way)
        if known is None or _shortage(estimate) < _shortage(known):
            self.misses[way] = estimate
        return float("inf")

    def _decide(self) -> Choice:
        if not self.found:
            nearest = min(self.misses.values(), key=_shortage)
            raise InfeasibleError(
                f"no way to train {self.request.model} at {self.request.sequence} tokens on "
                f"{self.request.system.name} fits, of {self.priced} priced; the nearest miss, {nearest.setup.words()}: "
                f"{nearest.obstacle}"
            )
        by_way: dict[str, TrainingEstimate] = {}
        for estimate, _, way in self.found:
            if way not in by_way or _rank(estimate) < _rank(by_way[way]):
                by_way[way] = estimate
        for way, estimate in self.misses.items():
            by_way.setdefault(way, estimate)
        best = min(self.found, key=lambda item: _rank(item[0]))
        return Choice(best[0], best[1], by_way, self.priced)


def _factorings(count: int, names: tuple[str, ...]) -> Iterator[dict[str, int]]:
    """Every way to write a number as an ordered product with a factor per name."""
    if len(names) == 1:
        yield {names[0]: count}
        return
    for factor in range(1, count + 1):
        if count % factor == 0:
            for rest in _factorings(count // factor, names[1:]):
                yield {names[0]: factor, **rest}


def _rank(estimate: TrainingEstimate) -> tuple[float, int]:
    """Less time first; among equals, less memory."""
    return estimate.time.step_s, estimate.memory.device_bytes


def _shortage(estimate: TrainingEstimate) -> int:
    return estimate.memory.device_bytes
