"""The phases of encoders, and of encoders with a decoder that generates.

An encoder takes all tokens of a sequence at once: one forward phase, or a training step. An encoder-decoder encodes
``prompt`` tokens in its prefill, makes the keys and values that the decoder will look at, and decodes the start
token, which yields the first one; each decode step then adds a token to the decoder's own cache and reads the whole
cross cache. A lone decode step stands behind as many tokens as the source has.
"""

from __future__ import annotations

from collections.abc import Mapping

from hw_configs.problems import InputError, Problem
from workloads.graph import Attribute, Graph, Role, Tensor
from workloads.saved_activations import form_of
from workloads.training import StepOptions, training_step
from workloads.transformer.cross_attention import Memory
from workloads.transformer.formats import Precision
from workloads.transformer.layers import write_decoder
from workloads.transformer.shape import Decoder
from workloads.transformer.stem import write_stem
from workloads.transformer.step import Step
from workloads.transformer.writer import GraphWriter
from workloads.workload import Phase, WorkloadOptions

__all__ = [
    "check_encoder", "check_encoder_decoder", "decoder_memory", "encoder_graph", "encoder_phases", "prefill_graph",
    "stored_weights", "write_in_decoder",
]  # fmt: skip


def encoder_phases(
    name: str, encoder: Decoder, precision: Precision, options: WorkloadOptions
) -> list[Phase]:
    """One forward pass or training step over ``prompt`` tokens per sequence."""
    length = encoder.rows or options.prompt
    fused = options.fused and not options.types.eager
    graph = encoder_graph(f"{name}.forward", encoder, precision, options.batch, length, fused)
    if options.phase == "train":
        how = StepOptions(options.types, options.trained, form_of(encoder.model_type))
        return [Phase("train", "train", training_step(graph, f"{name}.train", how), options.batch * length)]
    return [Phase("forward", "forward", graph)]


def encoder_graph(
    name: str, encoder: Decoder, precision: Precision, batch: int, length: int, fused: bool, stack: str = ""
) -> Graph:
    """The graph of one pass over ``batch`` sequences of ``length`` tokens."""
    writer = GraphWriter(precision, fused, stack=stack)
    writer.at(-1, stack)
    step = Step(batch, length, length, length, all_logits=True, keeps_cache=False)
    out = _encode(writer, step, encoder)
    sizes: dict[str, Attribute] = {"batch": batch, "new_tokens": length, "context": length}
    return Graph(name, writer.tensors, tuple(writer.operators), (out,), name, sizes)


def _encode(w: GraphWriter, step: Step, encoder: Decoder) -> str:
    source = write_stem(w, step, encoder) if encoder.stem is not None else ""
    return write_decoder(w, step, encoder, source=source)


def prefill_graph(
    name: str, decoder: Decoder, precision: Precision, options: WorkloadOptions, *, trains: bool = False
) -> Graph:
    """The encoder over the source and the decoder's first step; in training the decoder has all its tokens."""
    encoder = decoder.encoder
    assert encoder is not None
    writer = GraphWriter(precision, options.fused)
    batch, length = options.batch, options.prompt
    writer.stack = "encoder."
    writer.at(-1, writer.stack)
    whole = Step(batch, length, length, length, all_logits=True, keeps_cache=False)
    states = _encode(writer, whole, encoder)
    new = length if trains else 1
    step = Step(
        batch, new, new, new if trains else 1 + options.generate, all_logits=trains, keeps_cache=not trains
    )
    logits = write_in_decoder(writer, step, decoder, Memory(states, length, encoder.hidden))
    sizes: dict[str, Attribute] = {"batch": batch, "new_tokens": length, "context": length}
    return Graph(name, writer.tensors, tuple(writer.operators), (logits,), name, sizes)


def write_in_decoder(w: GraphWriter, step: Step, decoder: Decoder, memory: Memory) -> str:
    """The decoder of an encoder-decoder, its names apart from the encoder's."""
    assert decoder.encoder is not None
    first = len(decoder.encoder.layers)
    w.stack = "decoder."
    w.at(first - 1, w.stack)
    return write_decoder(w, step, decoder, first=first, memory=memory)


def decoder_memory(decoder: Decoder, length: int) -> Memory | None:
    """What a decode step looks at; None for a decoder without an encoder."""
    return None if decoder.encoder is None else Memory("", length, decoder.encoder.hidden)


def stored_weights(graph: Graph) -> Mapping[str, Tensor]:
    """Weights of a phase, which stay in memory in the others."""
    return {name: tensor for name, tensor in graph.tensors.items() if tensor.role is Role.WEIGHT}


def check_encoder(encoder: Decoder, options: WorkloadOptions) -> list[Problem]:
    """What cannot be asked of an encoder."""
    asked = {
        "--phase": options.phase not in (None, "prefill", "train") and options.phase,
        "--generate": options.generate,
        "--chunk": options.chunk,
    }
    return [
        Problem(
            f"found {value}; {encoder.model_type} is an encoder and makes no tokens: leave this out",
            path=name,
        )
        for name, value in asked.items()
        if value
    ]


def check_encoder_decoder(decoder: Decoder, options: WorkloadOptions) -> None:
    """Raise ``InputError`` for sizes that an encoder-decoder cannot have."""
    encoder = decoder.encoder
    assert encoder is not None
    problems = []
    if options.chunk is not None:
        problems.append(Problem("an encoder takes its source at once: leave this out", path="--chunk"))
    if encoder.max_positions and options.prompt > encoder.max_positions:
        message = f"found {options.prompt}; the encoder has {encoder.max_positions} positions"
        problems.append(Problem(message, path="--prompt"))
    made = 1 + options.generate
    if decoder.max_positions and made > decoder.max_positions:
        message = (
            f"found {options.generate}; the decoder has {decoder.max_positions} positions, one for the start"
        )
        problems.append(Problem(message, path="--generate"))
    if problems:
        raise InputError(problems)
