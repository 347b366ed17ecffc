"""A training step as the sequence of malloc and free requests that its operators make.

An operator asks for its outputs and its workspace before it runs and frees, right after it, the workspace and
every tensor it was the last to read. Weights, their gradients and the optimizer's state are held from step to
step and make no request, and neither does what the step returns (the loss). The form is MEMO's
(arXiv:2407.12117, section 4.2): ``malloc tensor size`` and ``free tensor``, indexed. Requests belong to segments,
one per layer and pass (recomputation counts as backward); a tensor that is freed in another segment than the one
that asked for it crosses, all others are transient.

Workspace: FlashAttention-2's backward kernel sums query gradients in fp32 (arXiv:2307.08691, its repository's
``dq_accum``). Matrix products' workspace is held by the library from step to step and is not requested.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from workloads.graph import PERSISTENT_ROLES, Graph, Operator, Role
from workloads.operators import Attention, Optimizer

__all__ = ["GRANULE_BYTES", "RequestSequence", "held_names", "request_sequence", "workspace_bytes"]

GRANULE_BYTES: Final = 512
"""Sizes are rounded up to whole granules, as PyTorch's allocator does; device pointers need that alignment."""

ACCUMULATOR_BYTES: Final = 4

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RequestSequence:
    """Blocks in order of their malloc. Arrays have one entry per block; ``free`` is past the end for the kept.

    ``malloc`` and ``free`` are indices of the sequence's instructions (0 .. ``instructions`` - 1). ``segment``
    and ``end_segment`` index ``segments``; ``skeletal`` marks activations that the forward pass leaves to the
    backward pass.
    """

    names: tuple[str, ...]
    size: Ints
    malloc: Ints
    free: Ints
    segment: Ints
    end_segment: Ints
    skeletal: NDArray[np.bool_]
    segments: tuple[str, ...]
    instructions: int

    def __len__(self) -> int:
        return len(self.names)

    @property
    def crossing(self) -> NDArray[np.bool_]:
        """Blocks that outlive the segment that asked for them."""
        return np.asarray(self.segment != self.end_segment)

    def order(self) -> Ints:
        """The instructions: block index + 1 for its malloc, minus that for its free."""
        steps = np.zeros(self.instructions, np.int64)
        numbers = np.arange(1, len(self) + 1)
        steps[self.malloc] = numbers
        freed = self.free < self.instructions
        steps[self.free[freed]] = -numbers[freed]
        return steps

    def live_bytes(self) -> Ints:
        """Bytes live after each instruction, in granules."""
        change = np.zeros(self.instructions + 1, np.int64)
        np.add.at(change, self.malloc, rounded(self.size))
        np.subtract.at(change, np.minimum(self.free, self.instructions), rounded(self.size))
        return np.cumsum(change)[:-1]

    def text(self) -> str:
        """The sequence as lines ``index malloc name size`` and ``index free name``."""
        lines = []
        for index, step in enumerate(self.order().tolist()):
            block = abs(step) - 1
            verb = (
                f"malloc {self.names[block]} {int(self.size[block])}"
                if step > 0
                else f"free {self.names[block]}"
            )
            lines.append(f"{index} {verb}")
        return "\n".join(lines) + "\n"


def rounded(sizes: Ints) -> Ints:
    """Sizes in whole granules; nothing takes less than one."""
    return np.maximum(-(-sizes // GRANULE_BYTES), 1) * GRANULE_BYTES


def workspace_bytes(op: Operator) -> int:
    """Bytes that an operator needs beside its operands while it runs."""
    work = op.work
    if isinstance(work, Attention) and op.place.training_pass == "backward":
        return work.batch * work.q_len * work.heads * work.head_dim * ACCUMULATOR_BYTES
    return 0


def request_sequence(
    graph: Graph,
    elsewhere: Collection[str] = (),
    of_stage: Callable[[Operator], bool] | None = None,
) -> RequestSequence:
    """The requests of a training graph in program order.

    ``elsewhere`` names tensors that live in buffers of their own (those that are swapped). ``of_stage`` picks
    the operators of one pipeline stage; what other stages made is asked for when it is first read.
    """
    writer = _Writer(graph, frozenset(elsewhere))
    writer.run([op for op in graph.operators if of_stage is None or of_stage(op)])
    return writer.sequence()


class _Writer:
    def __init__(self, graph: Graph, elsewhere: frozenset[str]) -> None:
        self.graph, self.elsewhere = graph, elsewhere
        self.names: list[str] = []
        self.size: list[int] = []
        self.malloc: list[int] = []
        self.free: list[int] = []
        self.segment: list[int] = []
        self.end_segment: list[int] = []
        self.forward: list[bool] = []
        self.backward: list[bool] = []
        self.segments: list[str] = []
        self.known: dict[str, int] = {}
        self.clock = 0
        self.held = held_names(graph)

    def run(self, operators: list[Operator]) -> None:
        last: dict[str, int] = {}
        for index, op in enumerate(operators):
            for name in (*op.inputs, *op.updates, *op.outputs):
                last[name] = index
        for index, op in enumerate(operators):
            self._step(op, index, last)

    def _step(self, op: Operator, index: int, last: dict[str, int]) -> None:
        label = _segment(op)
        if not self.segments or self.segments[-1] != label:
            self.segments.append(label)
        which = op.place.training_pass
        touched = dict.fromkeys((*op.inputs, *op.updates, *op.outputs))
        for name in touched:
            if name not in self.known and not self._silent(name):
                self.known[name] = self._ask(name, self.graph.tensors[name].size_bytes, which == "forward")
        scratch = workspace_bytes(op)
        if scratch:
            self._release(self._ask(f"{op.name}.workspace", scratch, False))
        for name in touched:
            block = self.known.get(name)
            if block is None:
                continue
            if which in ("backward", "recompute"):
                self.backward[block] = True
            if last[name] == index:
                self._release(block)

    def _silent(self, name: str) -> bool:
        return name in self.elsewhere or name in self.held

    def _ask(self, name: str, size: int, forward: bool) -> int:
        self.names.append(name)
        self.size.append(size)
        self.malloc.append(self.clock)
        self.free.append(-1)
        self.segment.append(len(self.segments) - 1)
        self.end_segment.append(-1)
        self.forward.append(forward)
        self.backward.append(False)
        self.clock += 1
        return len(self.names) - 1

    def _release(self, block: int) -> None:
        self.free[block] = self.clock
        self.end_segment[block] = len(self.segments) - 1
        self.clock += 1

    def sequence(self) -> RequestSequence:
        free = np.array(self.free, np.int64)
        free[free < 0] = self.clock
        ends = np.array(self.end_segment, np.int64)
        ends[ends < 0] = len(self.segments)
        return RequestSequence(
            tuple(self.names), np.array(self.size, np.int64), np.array(self.malloc, np.int64), free,
            np.array(self.segment, np.int64), ends,
            np.array(self.forward, np.bool_) & np.array(self.backward, np.bool_),
            tuple(self.segments), self.clock,
        )  # fmt: skip


def held_names(graph: Graph) -> frozenset[str]:
    """Tensors that are held from step to step: the model's, and the gradients that the optimizer reads."""
    held = {name for name, tensor in graph.tensors.items() if tensor.role in PERSISTENT_ROLES}
    held.update(graph.outputs)
    for op in graph.operators:
        if isinstance(op.work, Optimizer):
            held.update(name for name in op.inputs if graph.tensors[name].role is Role.GRADIENT)
    return frozenset(held)


def _segment(op: Operator) -> str:
    place = op.place
    which = place.training_pass or "forward"
    if which == "recompute":
        which = "backward"
    if which == "optimizer":
        return which
    lead = "" if place.microbatch is None else f"microbatch {place.microbatch}, "
    return f"{lead}layer {'outside' if place.layer is None else place.layer} {which}"
