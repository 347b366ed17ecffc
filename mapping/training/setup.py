"""How a model is trained: the degrees of parallelism, what is sharded, kept, recomputed and moved; and what that
takes in bytes and seconds.

The figures are those of one device, the fullest of all. Degrees multiply to the number of devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal

from hw_configs.problems import InputError, Problem
from mapping.training.rank_layout import DEGREES
from mapping.training.sample_loading import NO_LOADING, SampleLoading
from mapping.training.sharding import WHOLE, Sharding
from mapping.training.state_places import StatePlaces, places_of
from mapping.training.state_types import StateTypes, framework_types
from workloads.trained_file import trained_parts
from workloads.trained_parts import TrainedParts

__all__ = [
    "ALLOCATORS", "EXCHANGES", "RECOMPUTE", "ZERO_STAGES", "MemoryBudget", "StepTime", "TrainingEstimate",
    "TrainingSetup",
]  # fmt: skip

Recompute = Literal["none", "selective", "pointwise", "every-other", "full", "reversible"]
Allocator = Literal["planned", "caching", "expandable"]
RECOMPUTE: Final = ("none", "selective", "pointwise", "every-other", "full", "reversible")
ALLOCATORS: Final = ("planned", "caching", "expandable")
ZERO_STAGES: Final = (0, 1, 2, 3)
EXCHANGES: Final = ("ring", "all-gather")


@dataclass(frozen=True, slots=True)
class TrainingSetup:
    """One way to train.

    ``batch`` is sequences per step over all devices, ``micro_batch`` sequences per forward pass. ``tensor``
    divides weights and heads (Megatron-LM, arXiv:1909.08053), with ``sequence_parallel`` also what lies
    between them (arXiv:2205.05198); ``ulysses`` divides the sequence and, inside attention, the heads
    (DeepSpeed-Ulysses, arXiv:2309.14509); ``context`` divides the sequence and passes keys round a ring
    (arXiv:2310.01889); ``pipeline`` divides layers; ``data`` divides the batch. ``zero_stage`` shards
    optimizer state (1), gradients (2) and weights (3) over the ranks that hold equal weights
    (arXiv:1910.02054).

    ``recompute``: ``full`` keeps only a layer's input; ``selective`` runs the attention core again (Megatron-LM's word,
    arXiv:2205.05198); ``pointwise`` drops what norms and activations make; ``every-other`` keeps attention and every
    second product (torchtitan's selective checkpointing by operator); ``reversible`` keeps nothing of a layer and works
    its input out of its result. ``recompute_layers`` does so in the first so many layers only. ``swap_tokens`` is the
    share of tokens whose skeletal activations go to host memory while those of the rest are recomputed
    (MEMO's alpha); None swaps nothing.

    ``expert`` divides experts over neighbours among the ranks that hold equal weights. ``schedule`` orders the
    pipeline's passes, with ``stages_per_rank`` (1: the schedule's usual count); ``stage_layers`` says how many layers
    each stage has. ``sharding`` says how states are shared, ``layout`` which degree's ranks are next to each other
    (the innermost first), ``context_exchange`` how keys reach the other context ranks, and ``zigzag`` whether those
    deal out the causal mask evenly. ``framework`` names the element types in which states are kept, unless ``types``
    states them; ``trainable`` says which weights are trained (:mod:`workloads.trained_file`), unless ``parts`` do.
    ``loading`` says how samples reach the devices; ``checkpoint_every``: steps from one checkpoint to the next, where
    ``states`` takes any.
    """

    model: str
    sequence: int
    batch: int = 1
    micro_batch: int = 1
    dtype: str = "bf16"
    tensor: int = 1
    sequence_parallel: bool = True
    ulysses: int = 1
    context: int = 1
    pipeline: int = 1
    data: int = 1
    zero_stage: int = 0
    recompute: Recompute = "none"
    recompute_layers: int | None = None
    swap_tokens: float | None = None
    allocator: Allocator = "planned"
    expert: int = 1
    schedule: str = "1f1b"
    stages_per_rank: int = 1
    stage_layers: tuple[int, ...] | None = None
    framework: str = "plain"
    trainable: str = "all"
    states: str = "device"
    sharding: Sharding = WHOLE
    layout: tuple[str, ...] = DEGREES
    context_exchange: str = "ring"
    zigzag: bool = True
    loading: SampleLoading = NO_LOADING
    checkpoint_every: int = 1
    types: StateTypes | None = None
    parts: TrainedParts | None = None

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise InputError(problems)

    @property
    def devices(self) -> int:
        """Ranks in all."""
        return self.tensor * self.ulysses * self.context * self.pipeline * self.data

    @property
    def shards(self) -> int:
        """Ranks that hold the same weights, over which ZeRO divides: data, context and Ulysses ranks."""
        return self.data * self.context * self.ulysses

    def shard_width(self, *, experts: bool = False) -> int:
        """Ranks over which one copy of the states is divided; of the experts' states, ranks that hold equal experts."""
        width = self.sharding.shard_ranks or self.shards
        return max(width // self.expert, 1) if experts else width

    @property
    def micro_batches(self) -> int:
        """Forward passes per step and rank."""
        return self.batch // (self.data * self.micro_batch)

    @property
    def state_types(self) -> StateTypes:
        """Element types of states, loss and what is kept."""
        return self.types if self.types is not None else framework_types(self.framework)

    @property
    def trained(self) -> TrainedParts:
        """Which weights are trained, and how."""
        return self.parts if self.parts is not None else trained_parts(self.trainable)

    @property
    def places(self) -> StatePlaces:
        """Where states live."""
        return places_of(self.states)

    @property
    def sharding_stage(self) -> int:
        """The ZeRO stage; a distributed optimizer is at least the first."""
        return max(self.zero_stage, int(self.state_types.distributed))

    @property
    def exchange_stage(self) -> int:
        """The ZeRO stage whose traffic the setup has: kept weights are gathered once a step, as in stage 2, and
        gradients may be reduced once, as in stage 1.
        """
        stage, each = self.sharding_stage, self.sharding.reduces_each(self.sharding_stage)
        if stage == ZERO_STAGES[-1] and not self.sharding.reshard:
            stage = 2
        return 1 if stage == 2 and not each else stage

    @property
    def optimizer_shards(self) -> int:
        """Ranks over which the optimizer's state is divided."""
        return self.shards if self.sharding_stage >= 1 else 1

    @property
    def reduces_late(self) -> bool:
        """Whether whole gradients are there from a stage's first backward pass to their one reduction of the step.

        What a rank keeps of them is there from then to the update.
        """
        once = self.zero_stage >= 2 and not self.sharding.reduces_each(self.zero_stage)
        return once and not self.places.off_device

    @property
    def rank_layers(self) -> tuple[int, ...] | None:
        """How many layers each rank of the pipeline has, where that is stated and stages are ranks."""
        own = self.stage_layers
        return own if own is not None and len(own) == self.pipeline else None

    def words(self) -> str:
        """The setup in one line for people."""
        parts = [
            f"{label} {value}"
            for label, value in (
                ("TP", self.tensor), ("Ulysses", self.ulysses), ("CP", self.context), ("PP", self.pipeline),
                ("DP", self.data), ("EP", self.expert),
            )
            if value > 1
        ]  # fmt: skip
        if self.zero_stage:
            width = self.sharding.shard_ranks
            parts.append(f"ZeRO-{self.zero_stage}" + ("" if width is None else f" over {width}"))
        if self.states != "device":
            every = f" every {self.checkpoint_every} steps" if self.checkpoint_every > 1 else ""
            parts.append(f"states {self.states}{every}")
        if self.pipeline > 1 and self.schedule != "1f1b":
            parts.append(self.schedule)
        if self.swap_tokens is not None:
            parts.append(f"swap {self.swap_tokens:.3f} of tokens, recompute the rest")
        else:
            where = ""
            if self.recompute_layers is not None:
                where = f" of {self.recompute_layers} layer{'s' * (self.recompute_layers != 1)}"
            parts.append(
                "no recomputation" if self.recompute == "none" else f"{self.recompute} recomputation{where}"
            )
        parts.append(f"{self.allocator} memory")
        if not self.loading.nothing:
            parts.append(self.loading.words())
        if self.framework != "plain":
            parts.append(f"as {self.framework}")
        if self.trainable != "all":
            parts.append(f"trains {self.trainable}")
        return ", ".join(parts)

    @property
    def _from_file(self) -> bool:
        """Whether a file says what is trained; a plan has to say it itself, since files change."""
        return self.trainable.endswith((".yaml", ".yml"))

    def to_json(self) -> dict[str, Any]:
        """The setup as plain data, complete without other files."""
        return {item.name: getattr(self, item.name) for item in fields(self)} | {
            "sharding": asdict(self.sharding),
            "loading": asdict(self.loading),
            "layout": list(self.layout),
            "stage_layers": None if self.stage_layers is None else list(self.stage_layers),
            "types": None if self.types is None else self.types.to_json(),
            "parts": None if self.parts is None and not self._from_file else self.trained.to_json(),
        }

    def _problems(self) -> Any:
        degrees = (*DEGREES, "expert", "sequence", "batch", "micro_batch", "stages_per_rank")
        for name in degrees:
            if getattr(self, name) < 1:
                yield Problem(f"found {getattr(self, name)}; expected 1 or more", path=name)
                return
        if self.types is None:
            framework_types(self.framework)
        if self.zero_stage not in ZERO_STAGES:
            yield Problem(f"found {self.zero_stage}; expected 0, 1, 2 or 3", path="zero_stage")
        if self.recompute not in RECOMPUTE:
            yield Problem(
                f"found {self.recompute!r}; expected one of {', '.join(RECOMPUTE)}", path="recompute"
            )
        if self.allocator not in ALLOCATORS:
            yield Problem(
                f"found {self.allocator!r}; expected one of {', '.join(ALLOCATORS)}", path="allocator"
            )
        if self.recompute_layers is not None and self.recompute_layers < 0:
            yield Problem(f"found {self.recompute_layers}; expected 0 or more", path="recompute_layers")
        if self.swap_tokens is not None and not 0 <= self.swap_tokens <= 1:
            yield Problem(f"found {self.swap_tokens}; expected a share from 0 to 1", path="swap_tokens")
        yield from self._place_problems()
        yield from self._layout_problems()
        if self.batch % (self.data * self.micro_batch):
            yield Problem(
                f"a batch of {self.batch} sequences cannot be divided over {self.data} data-parallel ranks in "
                f"micro-batches of {self.micro_batch}",
                path="batch",
            )
        cut = self.ulysses * self.context * (self.tensor if self.sequence_parallel else 1)
        if self.sequence % cut:
            yield Problem(
                f"a sequence of {self.sequence} tokens cannot be divided over {cut} ranks", path="sequence"
            )

    def _place_problems(self) -> Iterator[Problem]:
        places = self.places
        if places.weights != "device" and self.zero_stage != 3:
            yield Problem("weights off the device need ZeRO stage 3", path="states")
        if places.inputs and (self.recompute != "full" or self.recompute_layers is not None):
            message = (
                "layers' inputs wait in host memory where all of every layer is recomputed (recompute=full)"
            )
            yield Problem(message, path="states")
        if self.checkpoint_every < 1:
            yield Problem(f"found {self.checkpoint_every}; expected 1 or more", path="checkpoint_every")
        if self.checkpoint_every > 1 and not places.saves:
            message = (
                f"found {self.checkpoint_every}; states={self.states} takes none (states=checkpoint does)"
            )
            yield Problem(message, path="checkpoint_every")
        if places.in_backward and (self.shards > 1 or self.pipeline > 1 or self.micro_batches != 1):
            message = (
                "an update in the backward pass takes one micro-batch and no other rank with equal weights"
            )
            yield Problem(message, path="states")

    def _layout_problems(self) -> Iterator[Problem]:
        if sorted(self.layout) != sorted(DEGREES):
            message = f"found {', '.join(self.layout)}; expected {', '.join(DEGREES)} in some order"
            yield Problem(message, path="layout")
        if self.shards % self.expert:
            message = (
                f"found {self.expert}; expected a divisor of the {self.shards} ranks that hold equal weights"
            )
            yield Problem(message, path="expert")
        width = self.sharding.shard_ranks
        if width is not None and self.shards % width:
            message = f"found {width}; expected a divisor of the {self.shards} ranks that hold equal weights"
            yield Problem(message, path="shard_ranks")
        if self.context_exchange not in EXCHANGES:
            found = f"found {self.context_exchange!r}; expected one of {', '.join(EXCHANGES)}"
            yield Problem(found, path="context_exchange")


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes of one device at its fullest, by role; ``host_*`` are this device's share of host memory.

    ``skeletal`` activations are made in the forward and read in the backward pass; ``transient`` ones (with
    workspace) live inside one pass; ``buffers`` are those that transfers fill and empty; ``fragmentation`` is
    what the allocator holds beyond what is live at the same time.
    """

    weights: int = 0
    gradients: int = 0
    optimizer_state: int = 0
    skeletal: int = 0
    transient: int = 0
    buffers: int = 0
    fragmentation: int = 0
    host_activations: int = 0
    host_states: int = 0

    @property
    def device_bytes(self) -> int:
        """Bytes of device memory."""
        return (
            self.weights + self.gradients + self.optimizer_state + self.skeletal + self.transient
            + self.buffers + self.fragmentation
        )  # fmt: skip

    @property
    def host_bytes(self) -> int:
        """Bytes of host memory."""
        return self.host_activations + self.host_states

    def to_json(self) -> dict[str, int]:
        """By role, names with the unit."""
        own = {f"{item.name}_bytes": int(getattr(self, item.name)) for item in fields(self)}
        return {**own, "device_bytes": self.device_bytes, "host_bytes": self.host_bytes}


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one step on the critical rank, by part.

    Communication and swapping count what is not hidden behind computation.
    """

    forward_s: float = 0.0
    backward_s: float = 0.0
    recompute_s: float = 0.0
    tensor_parallel_s: float = 0.0
    sequence_parallel_s: float = 0.0
    """Ulysses' exchanges and the ring of context parallelism."""
    pipeline_s: float = 0.0
    data_parallel_s: float = 0.0
    swap_s: float = 0.0
    optimizer_s: float = 0.0
    host_s: float = 0.0
    """What the framework's host takes beyond the device."""
    reorganisation_s: float = 0.0

    @property
    def step_s(self) -> float:
        """Seconds of the whole step."""
        return float(sum(getattr(self, item.name) for item in fields(self)))

    def to_json(self) -> dict[str, float]:
        """By part, and ``step_s``."""
        return {
            **{item.name: float(getattr(self, item.name)) for item in fields(self)},
            "step_s": self.step_s,
        }

    def plus(self, **seconds: float) -> StepTime:
        """The same time with some parts added to."""
        return replace(self, **{name: getattr(self, name) + value for name, value in seconds.items()})


@dataclass(frozen=True, slots=True)
class TrainingEstimate:
    """What a setup takes on a system. ``obstacle`` says what does not fit, "" when everything does.

    ``model_flops`` are those of the forward and backward passes over all devices and micro-batches, without
    recomputation and with the causal mask's half left out; ``mfu`` is their share of the devices' peak.
    """

    setup: TrainingSetup
    memory: MemoryBudget
    time: StepTime
    model_flops: float
    mfu: float
    obstacle: str = ""
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether device and host memory hold it."""
        return not self.obstacle

    def to_json(self) -> dict[str, Any]:
        """The estimate as plain data."""
        return {
            "setup": self.setup.to_json(),
            "fits": self.fits,
            "obstacle": self.obstacle,
            "memory": self.memory.to_json(),
            "time": self.time.to_json(),
            "model_flops": self.model_flops,
            "mfu": self.mfu,
            "notes": list(self.notes),
        }
