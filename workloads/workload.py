"""A workload: one graph, or a sequence of graphs that share weights and caches.

Prefill, one decode step and a training step are workloads of one phase. A whole generation is a prefill and
then a decode step per token, each with its own graph at its own context; the phases run one after the other
and the persistent tensors (weights, KV cache) stay where they are between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from hw_configs.problems import InputError, Problem, nearest
from hw_configs.typed_fields import wrong_types
from workloads.graph import Attribute, Graph
from workloads.step_types import PLAIN_TYPES, StepTypes
from workloads.trained_parts import ALL_TRAINED, TrainedParts

__all__ = ["DURATIONS", "MemoryFigures", "Phase", "Workload", "WorkloadOptions"]

DURATIONS: Final = ("measured", "model")
"""Where the times of a recorded trace come from: what was measured, or the simulator wherever it can say."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One graph of a workload. ``kind``: prefill, decode, train or forward; ``tokens``: what it yields."""

    name: str
    kind: str
    graph: Graph
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class MemoryFigures:
    """What one sequence of a language model keeps, and the weights that one token meets.

    ``kv_bytes_per_token``: bytes that one more token adds beyond all windows. ``state_bytes``: those that are there
    from the first token on and never grow (recurrent layers). ``window_bytes``: those of layers with a window or
    chunks at ``context`` tokens. ``active_parameters``: all but those of experts that a token does not go to.
    """

    kv_bytes_per_token: float
    state_bytes: int
    window_bytes: int
    context: int
    active_parameters: int


@dataclass(frozen=True)
class Workload:
    """Phases in the order they run. ``phases`` may build its graphs on demand, one at a time."""

    name: str
    phases: Sequence[Phase]
    metadata: Mapping[str, Attribute] = field(default_factory=dict)
    unsupported: tuple[str, ...] = ()
    """Source operators without a cost rule, one line each, with their share of the graph."""
    notes: tuple[str, ...] = ()
    """What else a user should know of how the source was read, a line each."""
    at_batch: Callable[[int], Workload] | None = field(default=None, compare=False, repr=False)
    """Builds the same workload at another batch; None for one that is no more than its graphs."""
    memory: Callable[[], MemoryFigures] | None = field(default=None, compare=False, repr=False)
    """Works out what a language model keeps per token and sequence; None for other models."""


@dataclass(frozen=True, slots=True)
class WorkloadOptions:
    """What a user may ask of any model.

    ``phase``: prefill, decode, train, or None for the natural one (a generation for language models when
    ``generate`` is above zero, a forward pass otherwise). ``prompt`` is the context of a decode step.
    ``fused`` asks for the kernels serving engines run (one QKV product, one attention kernel); without it
    every projection and every step of attention is an operator of its own. ``dims`` gives values to the
    symbolic dimensions of an imported graph. Of a recorded trace: ``ranks`` for which one rank's file stands (0: that
    rank alone), and whether what was measured is replayed (``durations``: measured) or predicted (model).
    ``adapters`` are folders of low-rank adapters of a language model, which stand beside its weights unless
    ``merge_adapters`` has them added in.
    ``same_prompts``: all sequences of a batch repeat one prompt, so that they choose the same experts.
    ``images``: of each sequence of a vision-language model. ``steps``: of a diffusion model. Of a training step: its
    element types (``types``) and which weights are ``trained``. ``layers`` keeps the first so many of a language model.
    """

    phase: str | None = None
    batch: int = 1
    prompt: int = 512
    generate: int = 0
    chunk: int | None = None
    dtype: str | None = None
    kv_dtype: str | None = None
    fused: bool = True
    dims: Mapping[str, int] = field(default_factory=dict)
    ranks: int = 0
    durations: str = "measured"
    adapters: tuple[str, ...] = ()
    merge_adapters: bool = False
    images: int = 0
    steps: int = 1
    same_prompts: bool = False
    types: StepTypes = PLAIN_TYPES
    trained: TrainedParts = ALL_TRAINED
    layers: int | None = None

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        if problems:
            raise InputError(problems)
        problems = [
            Problem(f"found {value}; expected {least} or more", path=f"--{name}")
            for name, value, least in (
                ("batch", self.batch, 1),
                ("prompt", self.prompt, 1),
                ("generate", self.generate, 0),
                ("ranks", self.ranks, 0),
                ("images", self.images, 0),
                ("steps", self.steps, 1),
                ("chunk", self.chunk if self.chunk is not None else 1, 1),
                ("layers", self.layers if self.layers is not None else 1, 1),
            )
            if value < least
        ]
        if self.phase not in (None, "prefill", "decode", "train"):
            problems.append(
                Problem(f"found {self.phase!r}; expected prefill, decode or train", path="--phase")
            )
        if self.durations not in DURATIONS:
            found = f"found {self.durations!r}; expected {' or '.join(DURATIONS)}"
            problems.append(Problem(found, path="--durations", suggestion=nearest(self.durations, DURATIONS)))
        if problems:
            raise InputError(problems)
