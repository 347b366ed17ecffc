"""One rank's training step with its recomputation and swapping decided, and its cut into pipeline stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from hw_configs.problems import bad_input
from mapping.training.recompute.in_graph import drop_and_recompute
from mapping.training.recompute.reversible import work_out_inputs
from mapping.training.recompute.skeleton import every_other, held_results, kept_share, skeleton_of
from mapping.training.requests import RequestSequence, request_sequence
from mapping.training.setup import TrainingSetup
from mapping.training.styled_step import with_kernels
from mapping.training.token_swap import LayerBytes, TokenShare
from workloads.graph import Graph, Operator

__all__ = ["RankStep", "layer_bytes", "plain_step", "requests_of", "stage_of", "swapping_step"]


@dataclass(frozen=True)
class RankStep:
    """One rank's step: its graph with recomputation written in, and what of it is swapped.

    ``swapped`` maps each layer to the skeletal tensors that live in the rounding buffers and, for all but the
    last two layers, in host memory in between.
    """

    setup: TrainingSetup
    graph: Graph
    swapped: Mapping[int, tuple[str, ...]]
    layer_bytes: LayerBytes | None = None
    share: TokenShare | None = None

    @property
    def elsewhere(self) -> frozenset[str]:
        """Every swapped tensor."""
        return frozenset(name for names in self.swapped.values() for name in names)


def plain_step(graph: Graph, setup: TrainingSetup) -> RankStep:
    """The step under the setup's recomputation; nothing is swapped but layers' inputs that wait in host memory."""
    swapped = _swapped(graph, kept_share(graph, "full")) if setup.places.inputs else {}
    return RankStep(setup, with_kernels(_recomputing(graph, setup), setup), swapped)


def _swapped(graph: Graph, kept: Mapping[str, float]) -> dict[int, tuple[str, ...]]:
    """What of each layer is kept and read by its own backward pass alone."""
    found = {
        number: tuple(name for name in names if kept[name] > 0.0 and _stays_inside(graph, name))
        for number, names in skeleton_of(graph).layers.items()
    }
    return {number: names for number, names in found.items() if names}


def _recomputing(graph: Graph, setup: TrainingSetup) -> Graph:
    """The step with what its recomputation drops and makes again."""
    if setup.recompute == "every-other":
        return drop_and_recompute(held_results(graph), every_other(graph))
    if setup.recompute == "reversible":
        return work_out_inputs(drop_and_recompute(graph, kept_share(graph, "full")), graph)
    return drop_and_recompute(graph, kept_share(graph, setup.recompute, first_layers=setup.recompute_layers))


def swapping_step(
    graph: Graph, setup: TrainingSetup, alpha: float, layer: LayerBytes, share: TokenShare
) -> RankStep:
    """The step that swaps a share ``alpha`` of tokens, whatever bounds it."""
    kept = kept_share(graph, "tokens", alpha)
    return RankStep(
        replace(setup, swap_tokens=alpha),
        with_kernels(drop_and_recompute(graph, kept), setup),
        _swapped(graph, kept),
        layer,
        replace(share, alpha=alpha),
    )


def requests_of(step: RankStep, stage: int = 0) -> RequestSequence:
    """The malloc and free requests of one micro-batch on one pipeline stage."""
    if step.setup.pipeline == 1:
        return request_sequence(step.graph, step.elsewhere)
    number = stage_of(step.graph, step.setup.pipeline, step.setup.rank_layers)
    return request_sequence(step.graph, step.elsewhere, lambda op: number(op) == stage)


def stage_of(
    graph: Graph, stages: int, stage_layers: tuple[int, ...] | None = None
) -> Callable[[Operator], int]:
    """Operator -> pipeline stage: layers in equal runs, or as many a stage as ``stage_layers`` says.

    The embedding lies with the first stage, the head with the last.
    """
    numbers = [op.place.layer for op in graph.operators if op.place.layer is not None]
    head = max(numbers, default=0)
    if stages > max(head, 1):
        layers = f"{head} layers, too few for" if head else "no numbered layers to divide over"
        raise bad_input(f"{graph.name} has {layers} {stages} pipeline stages", path="pp")
    if stage_layers is not None:
        return _stage_by_count(graph, head, stages, stage_layers)

    def stage(op: Operator) -> int:
        return min(max(op.place.layer or 0, 0) * stages // max(head, 1), stages - 1)

    return stage


def _stage_by_count(
    graph: Graph, head: int, stages: int, stage_layers: tuple[int, ...]
) -> Callable[[Operator], int]:
    if len(stage_layers) != stages or sum(stage_layers) != head or min(stage_layers) < 1:
        raise bad_input(
            f"found {'+'.join(map(str, stage_layers))} layers; expected {stages} stages that share the {head} layers "
            f"of {graph.name}",
            path="stage_layers",
        )
    of_layer = [number for number, count in enumerate(stage_layers) for _ in range(count)]

    def stage(op: Operator) -> int:
        return of_layer[min(max(op.place.layer or 0, 0), head - 1)]

    return stage


def layer_bytes(graph: Graph) -> LayerBytes:
    """Skeletal bytes of a layer in the middle."""
    skeleton = skeleton_of(graph)
    if not skeleton.layers:
        raise bad_input(f"{graph.name} has no layers whose activations could be swapped", path="--set")
    layers = sorted(skeleton.layers)
    middle = layers[len(layers) // 2]
    size = {name: graph.tensors[name].size_bytes for name in skeleton.layers[middle]}
    entry = size.pop(skeleton.inputs[middle], 0) if middle in skeleton.inputs else 0
    attention = sum(size.pop(name, 0) for name in skeleton.attention.get(middle, ()))
    return LayerBytes(entry, attention, sum(size.values()))


def _stays_inside(graph: Graph, name: str) -> bool:
    """Whether only a tensor's own layer reads it in the backward pass; what the head reads is not swapped."""
    home = graph.operator_by_name[graph.producer[name]].place.layer
    readers = (graph.operator_by_name[reader] for reader in graph.consumers[name])
    return all(op.place.layer == home for op in readers if op.place.training_pass == "backward")
