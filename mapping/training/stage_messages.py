"""What messages between stages of a pipeline hold in memory: outputs until they have left, inputs until they are read.

Frameworks differ in how long. Megatron-LM asks for a buffer when a message comes and gives an output up when it has
left (``megatron/core/pipeline_parallel``: ``deallocate_output_tensor``): ``message``. PyTorch's pipelining, and with it
torchtitan, has a buffer for the input and one for the gradient of every micro-batch from step to step, keeps each
output until its backward pass, each input's gradient to the end of the step, and the last stage's outputs (logits) to
the end of the step, where they are merged (``torch/distributed/pipelining/stage.py``: ``_prepare_forward_infra``,
``_prepare_backward_infra``, ``fwd_cache``, ``clear_runtime_states``, ``output_chunks``): ``step``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mapping.training.recompute.skeleton import skeleton_of
from mapping.training.schedules.action import PipelineSchedule
from mapping.training.stage_passes import Piece, vocabulary_names
from workloads.graph import Graph

__all__ = ["Messages", "handed_bytes", "messages_of", "output_bytes"]


@dataclass(frozen=True)
class Messages:
    """Bytes that the messages of a schedule hold.

    ``whole_step`` says that buffers live for the step, ``counts`` how many micro-batches each stage takes, ``size`` is
    that of one message, ``output`` that of what the last stage makes of a micro-batch.
    """

    schedule: PipelineSchedule
    whole_step: bool
    counts: tuple[int, ...]
    size: int
    output: int

    @property
    def sent_bytes(self) -> int:
        """Bytes that a message takes at its beginning where it comes, and gives up at its end where it was made."""
        return 0 if self.whole_step else self.size

    def held(self, stage: int) -> int:
        """Bytes of a stage's buffers from step to step."""
        ranks = self.schedule.rank_of_stage
        if not self.whole_step:
            return 0
        apart = [other for other in self._neighbours(stage) if other >= 0 and ranks[other] != ranks[stage]]
        return self.counts[stage] * self.size * len(apart)

    def left(self, stage: int) -> int:
        """Bytes of a stage that the end of the step gives up."""
        before, after = self._neighbours(stage)
        if not self.whole_step:
            return 0
        return self.counts[stage] * (self.size * (before >= 0) + self.output * (after < 0))

    def passed(self, pieces: Sequence[Piece], stage: int, kind: str) -> list[Piece]:
        """A pass's pieces, which find what came where it came and leave what goes where it goes."""
        found = list(pieces)
        before, after = (self.size * (other >= 0) for other in self._neighbours(stage))
        take = give = 0
        if kind == "F":
            take, give = -before, after
            give += self.output * (self.whole_step and not after)
        if kind in "BI":
            take, give = -after, before
        if kind in "BW" and self.whole_step:
            # The buffers of the input and of the gradient stay; the output, of the same size, was kept until now.
            give += before
        found[0] = replace(found[0], take=found[0].take + take)
        found[-1] = replace(found[-1], give=found[-1].give + give)
        return found

    def _neighbours(self, stage: int) -> tuple[int, int]:
        """The stages before and after one, -1 where there is none."""
        count = self.schedule.stages
        return (
            stage - 1 if stage % count else -1,
            stage + 1 if stage % count < count - 1 else -1,
        )


def messages_of(schedule: PipelineSchedule, graph: Graph, buffers: str) -> Messages:
    """The messages of a schedule; ``buffers``: "message" or "step"."""
    counts = Counter(action.stage for order in schedule.orders for action in order if action.kind == "F")
    stages = range(len(schedule.rank_of_stage))
    return Messages(
        schedule, buffers == "step" and schedule.stages > 1, tuple(counts[stage] for stage in stages),
        handed_bytes(graph), output_bytes(graph),
    )  # fmt: skip


def handed_bytes(graph: Graph) -> int:
    """Bytes that one stage hands to the next: a layer's input."""
    entry = next(iter(skeleton_of(graph).inputs.values()), None)
    return graph.tensors[entry].size_bytes if entry is not None else 0


def output_bytes(graph: Graph) -> int:
    """Bytes of the logits of a micro-batch as the output layer makes them."""
    own = vocabulary_names(graph)
    made = (
        sum(graph.tensors[name].size_bytes for name in op.outputs)
        for op in graph.operators
        if op.name in own and op.kind == "matmul" and op.place.training_pass == "forward"
    )
    return next(made, 0)
