"""Seconds of a training step, from the rank's own graph.

Each operator is priced by the cost model, each collective over its ranks, and summed by pass. The slowest pipeline
stage sets the pace; the fill and drain of 1F1B (PipeDream, SOSP 2019) add the time of the other stages.
Tensor-parallel and Ulysses collectives stand in the way of computation; the ring of context parallelism runs beside
attention, ZeRO's collectives beside passes, swaps beside a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from mapping.training.kernel_style import style_of
from mapping.training.overlap import Sharing, reduced_width, shown_seconds
from mapping.training.pricing import Prices
from mapping.training.rank_step import RankStep, stage_of
from mapping.training.recompute.chain import ChainStage
from mapping.training.recompute.skeleton import skeleton_of
from mapping.training.setup import StepTime, TrainingSetup
from mapping.training.sharded_states import ModelStates, exposed_seconds
from mapping.training.stage_messages import handed_bytes
from mapping.training.step_memory import model_states
from workloads.graph import Graph, Operator
from workloads.operators import Attention, CollectiveWork

__all__ = ["chain_of", "layer_forward", "step_time"]


@dataclass
class _Passes:
    """Seconds of one micro-batch on one stage. ``ring`` is what context ranks send ahead of an attention."""

    forward: float = 0.0
    backward: float = 0.0
    recompute: float = 0.0
    optimizer: float = 0.0
    tensor: float = 0.0
    sequence: float = 0.0
    ring: float = 0.0
    kernels: int = 0

    @property
    def seconds(self) -> float:
        """Everything but the optimizer."""
        return self.forward + self.backward + self.recompute + self.tensor + self.sequence

    def add(self, which: str, seconds: float) -> None:
        """Count an operator of a pass."""
        setattr(self, which, getattr(self, which) + seconds)


def step_time(step: RankStep, prices: Prices) -> StepTime:
    """Seconds of a step by part; see the module's first lines."""
    setup, graph = step.setup, step.graph
    number = stage_of(graph, setup.pipeline, setup.rank_layers)
    stages = [_Passes() for _ in range(setup.pipeline)]
    for op in graph.operators:
        _add(stages[number(op)], op, setup, prices)
    slowest = max(stages, key=lambda passes: passes.seconds)
    m = setup.micro_batches
    swap = _exposed_swap(step, prices)
    micro = slowest.seconds + swap
    states = model_states(step, stages.index(slowest))
    exposed = _data_parallel(step, states, slowest, prices)
    share = setup.optimizer_shards
    chunks = setup.stages_per_rank
    return StepTime(
        forward_s=m * slowest.forward,
        backward_s=m * slowest.backward,
        recompute_s=m * slowest.recompute,
        tensor_parallel_s=m * slowest.tensor,
        sequence_parallel_s=m * slowest.sequence,
        pipeline_s=(setup.pipeline - 1) * micro / chunks + _hand_over(graph, setup, prices),
        data_parallel_s=exposed,
        swap_s=m * swap,
        optimizer_s=slowest.optimizer / share,
        host_s=m * _beyond(slowest.kernels * style_of(setup.framework).host_kernel_us * 1e-6, micro),
    )


def _data_parallel(step: RankStep, states: ModelStates, slowest: _Passes, prices: Prices) -> float:
    """Seconds per step of collectives among ranks with equal weights that show."""
    setup, data = step.setup, prices.group(step.setup, "shards")
    if len(data) < 2:
        return 0.0

    def seconds(kind: str, size: int) -> float:
        return prices.collective(kind, size, data)

    style = style_of(setup.framework)
    backward = slowest.backward + slowest.recompute
    if style.ideal:
        return exposed_seconds(
            states, setup.exchange_stage, setup.micro_batches, slowest.forward, backward, seconds
        )
    layers = len(skeleton_of(step.graph).layers) // setup.pipeline
    moved = states.gradients * reduced_width(setup)
    sharing = Sharing(setup.exchange_stage, layers, states.weights, moved, setup.micro_batches)
    return shown_seconds(sharing, slowest.forward, backward, seconds)


def _add(passes: _Passes, op: Operator, setup: TrainingSetup, prices: Prices) -> None:
    work = op.work
    if not isinstance(work, CollectiveWork) or not work.parallel:
        seconds = prices.operator(op)
        if isinstance(work, Attention) and passes.ring:
            # The ring passes blocks of keys while attention works on the block before.
            passes.sequence += max(0.0, passes.ring - seconds)
            passes.ring = 0.0
        passes.add(op.place.training_pass, seconds)
        passes.kernels += op.place.training_pass != "optimizer"
        return
    seconds = prices.collective(op.kind, work.bytes, prices.group(setup, work.parallel))
    if work.parallel == "tensor":
        passes.tensor += seconds
    elif work.parallel == "context":
        passes.ring += seconds
    else:
        passes.sequence += seconds


def _hand_over(graph: Graph, setup: TrainingSetup, prices: Prices) -> float:
    """Activations and their gradients between neighbouring stages, on the critical path."""
    if setup.pipeline == 1:
        return 0.0
    group = prices.group(setup, "pipeline")[:2]
    return 2 * (setup.pipeline - 1) * prices.collective("send", handed_bytes(graph), group)


def _exposed_swap(step: RankStep, prices: Prices) -> float:
    """Seconds per micro-batch in which a layer waits for its bytes to leave or to come back."""
    if not step.swapped:
        return 0.0
    setup, graph = step.setup, step.graph
    host = prices.host(setup.devices)
    layers = sorted(step.swapped)
    forward, backward = _Passes(), _Passes()
    middle = layers[len(layers) // 2]
    for op in graph.operators:
        if op.place.layer == middle:
            _add(forward if op.place.training_pass == "forward" else backward, op, setup, prices)
    moved = sum(graph.tensors[name].size_bytes for name in step.swapped[middle])
    stalls = _beyond(moved / host.out_rate, forward.seconds) + _beyond(
        moved / host.back_rate, backward.seconds
    )
    return max(len(layers) // setup.pipeline - 2, 0) * stalls


def layer_forward(graph: Graph, setup: TrainingSetup, prices: Prices) -> float:
    """Forward seconds of a layer in the middle, collectives included."""
    layers = sorted(skeleton_of(graph).layers)
    middle = layers[len(layers) // 2]
    passes = _Passes()
    for op in graph.operators:
        if op.place.layer == middle and op.place.training_pass == "forward":
            _add(passes, op, setup, prices)
    return passes.seconds


def chain_of(graph: Graph, setup: TrainingSetup, prices: Prices) -> list[ChainStage]:
    """The layers as a chain: seconds of their passes with collectives, bytes handed on and bytes saved."""
    skeleton = skeleton_of(graph)
    passes = {layer: (_Passes(), _Passes()) for layer in skeleton.layers}
    for op in graph.operators:
        layer, which = op.place.layer, op.place.training_pass
        if layer in passes and which in ("forward", "backward"):
            _add(passes[layer][which == "backward"], op, setup, prices)
    size = {name: tensor.size_bytes for name, tensor in graph.tensors.items()}
    handed = max((size[name] for name in skeleton.inputs.values()), default=0)
    return [
        ChainStage(
            forward.seconds, backward.seconds, handed,
            handed + sum(size[name] for name in skeleton.layers[layer] if name != skeleton.inputs.get(layer)),
        )
        for layer, (forward, backward) in sorted(passes.items())
    ]  # fmt: skip


def _beyond(seconds: float, hidden_s: float) -> float:
    """Seconds that stick out from behind others; what rounding leaves does not count."""
    return seconds - hidden_s if seconds > hidden_s * (1 + 1e-9) else 0.0
