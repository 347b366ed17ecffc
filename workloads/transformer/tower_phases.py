"""Vision-language models with images: the tower as a phase of its own, then the language model.

Each sequence of a batch has ``images``. Their rows stand among the prompt's tokens and come on top of them, so a prompt
of P tokens with N images of T rows is a context of P + N T. Weights of both parts stay in memory in every phase.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hw_configs.problems import Problem
from workloads.graph import Attribute, Graph, Tensor
from workloads.phase_list import PhaseList
from workloads.transformer.encoder_phases import encoder_graph
from workloads.transformer.formats import PLAIN, Precision
from workloads.transformer.shape import Decoder
from workloads.workload import Phase, WorkloadOptions

__all__ = ["check_images", "image_tokens", "tower_facts", "tower_first", "tower_graph", "with_image_tokens"]


def image_tokens(tower: Decoder) -> int:
    """Rows of one image among the language model's tokens.

    >>> from workloads.transformer.shape import PatchStem, Projector
    >>> image_tokens(Decoder("t", 8, 0, (), None, True, rows=577, projector=Projector((), dropped=1)))
    576
    """
    projector = tower.projector
    if projector is None:
        return tower.rows
    return (tower.rows - projector.dropped) // projector.merge


def check_images(decoder: Decoder, options: WorkloadOptions) -> list[Problem]:
    """What is wrong with asking a model for images."""
    if not options.images:
        return []
    if decoder.tower is None:
        message = decoder.tower_trouble or f"{decoder.model_type} has no vision tower"
        return [Problem(f"found {options.images}; {message}", path="--images")]
    if options.phase == "train":
        return [Problem("training with images is not modelled: leave this option out", path="--images")]
    return []


def with_image_tokens(decoder: Decoder, options: WorkloadOptions) -> WorkloadOptions:
    """The options of the language model: a prompt that holds the images' rows too."""
    if decoder.tower is None or not options.images:
        return options
    return replace(options, prompt=options.prompt + options.images * image_tokens(decoder.tower))


def tower_graph(
    name: str, decoder: Decoder, precision: Precision, options: WorkloadOptions, images: int
) -> Graph:
    """One pass of the tower over all images of the batch; its weights are not quantised."""
    assert decoder.tower is not None
    plain = replace(precision, linear=PLAIN)
    return encoder_graph(
        f"{name}.vision", decoder.tower, plain, options.batch * images, decoder.tower.rows, options.fused,
        stack="vision.",
    )  # fmt: skip


def tower_facts(decoder: Decoder, precision: Precision) -> dict[str, Attribute]:
    """What a person wants to know of the tower: its kind, parameters and rows per image."""
    if decoder.tower is None:
        return {}
    graph = tower_graph(decoder.model_type, decoder, precision, WorkloadOptions(), 1)
    return {
        "tower": decoder.tower.model_type,
        "tower_parameters": graph.parameters(),
        "image_tokens": image_tokens(decoder.tower),
    }


def tower_first(tower: Phase, rest: Sequence[Phase], held: Mapping[str, Tensor]) -> PhaseList:
    """The tower's phase before those of the language model; each holds the other's weights."""

    def build(index: int) -> Phase:
        if index == 0:
            return tower
        phase = rest[index - 1]
        return replace(phase, graph=replace(phase.graph, tensors={**held, **phase.graph.tensors}))

    return PhaseList(build, 1 + len(rest))
