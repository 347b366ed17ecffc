"""From a decoder and what a user asks to the phases of a workload.

A generation is a prefill, which yields the first token, and ``generate`` decode steps. Decode step ``i``
feeds one token per sequence and has a context of ``prompt + i + 1`` tokens, the new one included; a lone
decode step has a context of ``prompt``. The caches have room for ``prompt + generate`` tokens from the first
phase on. Graphs are built when they are asked for; decode steps share everything that does not depend on
the context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial

from hw_configs.problems import InputError, Problem, bad_input
from workloads.dtypes import dtype_bits
from workloads.graph import Attribute, Graph, Tensor
from workloads.phase_list import PhaseList
from workloads.saved_activations import form_of
from workloads.training import StepOptions, training_step
from workloads.transformer.adapted import adapters_told, with_adapters
from workloads.transformer.cross_attention import Memory
from workloads.transformer.encoder_phases import (
    check_encoder,
    check_encoder_decoder,
    decoder_memory,
    encoder_graph,
    encoder_phases,
    prefill_graph,
    stored_weights,
    write_in_decoder,
)
from workloads.transformer.figures import memory_figures
from workloads.transformer.formats import Precision
from workloads.transformer.layers import write_decoder
from workloads.transformer.shape import Decoder, LatentAttention, Mixer, has_experts
from workloads.transformer.step import Step
from workloads.transformer.tower_phases import (
    check_images,
    tower_facts,
    tower_first,
    tower_graph,
    with_image_tokens,
)
from workloads.transformer.writer import GraphWriter
from workloads.workload import Phase, Workload, WorkloadOptions

__all__ = ["DecodeTemplate", "count_parameters", "decoder_workload", "step_graph"]

MAX_TOKENS = 2**27
"""Tokens in one graph (batch times prompt); beyond that sizes are a slip of the keyboard."""

MAX_STEPS = 2**24


def decoder_workload(name: str, decoder: Decoder, precision: Precision, options: WorkloadOptions) -> Workload:
    """The workload a user asked for; raises ``InputError`` for sizes the model cannot have."""
    if options.layers is not None:
        decoder = _shallower(decoder, options.layers)
    options, shortened = _fitted(decoder, options)
    _check(decoder, options)
    if decoder.encoder is not None:
        check_encoder_decoder(decoder, options)
    bare = decoder
    decoder = with_adapters(decoder, options)
    if options.phase == "train":
        precision = _trainable(precision, options)
    metadata = _metadata(name, decoder, precision, options)
    if shortened:
        metadata["notes"] = "; ".join(str(part) for part in (metadata.get("notes"), shortened) if part)
    metadata |= adapters_told(bare, decoder, precision, options)
    told = (metadata.get(key, "") for key in ("notes", "adapter_notes"))
    notes = tuple(note for text in told for note in str(text).split("; ") if note)
    if options.images:
        return _with_images(name, bare, precision, options, metadata)
    if decoder.encodes:
        return Workload(name, encoder_phases(name, decoder, precision, options), metadata, notes=notes)
    memory = partial(memory_figures, decoder, precision, options.prompt)
    batch, prompt, total = options.batch, options.prompt, options.prompt + options.generate
    if options.phase == "train":
        step = Step(batch, prompt, prompt, prompt, all_logits=True, keeps_cache=False)
        forward = (
            step_graph(
                f"{name}.train",
                decoder,
                precision,
                step,
                options.fused and not options.types.eager,
                flash=options.types.saved == "eager-flash",
            )
            if decoder.encoder is None
            else prefill_graph(f"{name}.train", decoder, precision, options, trains=True)
        )
        graph = training_step(forward, f"{name}.train", step_options(decoder, options))
        return Workload(
            name, [Phase("train", "train", graph, batch * prompt)], metadata, notes=notes, memory=memory
        )
    if decoder.encoder is not None:
        return replace(_encoder_decoder(name, decoder, precision, options, metadata), notes=notes)
    if options.phase == "decode":
        template = DecodeTemplate(name, decoder, precision, _one_token(options, total), options.fused)
        return Workload(
            name,
            [Phase("decode", "decode", template.graph(prompt), batch)],
            metadata,
            notes=notes,
            memory=memory,
        )
    chunk = options.chunk or prompt
    ends = [*range(chunk, prompt, chunk), prompt]

    def prefill(index: int) -> Phase:
        end = ends[index]
        start = ends[index - 1] if index else 0
        step = Step(batch, end - start, end, total, same_prompts=options.same_prompts)
        label = "prefill" if options.chunk is None else f"prefill[{index}]"
        graph = step_graph(f"{name}.{label}", decoder, precision, step, options.fused, f"{name}.prefill")
        return Phase(label, "prefill", graph, batch if end == prompt else 0)

    steps = options.generate if options.phase is None else 0
    phases = _generation(prefill, len(ends), lambda: DecodeTemplate(
        name, decoder, precision, _one_token(options, total), options.fused
    ), prompt, steps, batch)  # fmt: skip
    return Workload(name, phases, metadata, notes=notes, memory=memory)


def step_options(decoder: Decoder, options: WorkloadOptions) -> StepOptions:
    """How a step of a language model is trained, with how its family's eager code is written."""
    return StepOptions(options.types, options.trained, form_of(decoder.model_type))


def _shallower(decoder: Decoder, layers: int) -> Decoder:
    """The model with its first layers alone; ``InputError`` where it has fewer."""
    if layers > len(decoder.layers):
        raise bad_input(
            f"found {layers}; {decoder.model_type} has {len(decoder.layers)} layers", path="--layers"
        )
    return replace(decoder, layers=decoder.layers[:layers])


def _with_images(
    name: str,
    decoder: Decoder,
    precision: Precision,
    options: WorkloadOptions,
    metadata: Mapping[str, Attribute],
) -> Workload:
    """The tower, then the language model with the images' rows in its prompt."""
    graph = tower_graph(name, decoder, precision, options, options.images)
    asked = replace(with_image_tokens(decoder, options), images=0)
    language = decoder_workload(name, decoder, precision, asked)
    found = {**metadata, **language.metadata, "images": options.images}
    if options.phase == "decode":
        return replace(language, metadata=found)
    held, own = stored_weights(graph), stored_weights(language.phases[0].graph)
    tower = Phase("vision", "forward", replace(graph, tensors={**own, **graph.tensors}))
    return replace(language, phases=tower_first(tower, language.phases, held), metadata=found)


def _encoder_decoder(
    name: str,
    decoder: Decoder,
    precision: Precision,
    options: WorkloadOptions,
    metadata: Mapping[str, Attribute],
) -> Workload:
    """Prefill and decode steps of a decoder that looks at an encoder's result."""
    batch, prompt = options.batch, options.prompt
    first = prefill_graph(f"{name}.prefill", decoder, precision, options)
    memory, weights = decoder_memory(decoder, prompt), stored_weights(first)
    if options.phase == "decode":
        context = min(prompt, decoder.max_positions or prompt)
        template = DecodeTemplate(
            name,
            decoder,
            precision,
            _one_token(options, context + options.generate),
            options.fused,
            memory,
            weights,
        )
        return Workload(name, [Phase("decode", "decode", template.graph(context), batch)], metadata)
    template = DecodeTemplate(
        name, decoder, precision, _one_token(options, 1 + options.generate), options.fused, memory, weights
    )
    steps = options.generate if options.phase is None else 0
    phases = _generation(
        lambda _: Phase("prefill", "prefill", first, batch), 1, lambda: template, 1, steps, batch
    )
    return Workload(name, phases, metadata)


def _one_token(options: WorkloadOptions, capacity: int) -> Step:
    """A decode step over caches with room for so many tokens."""
    return Step(options.batch, 1, capacity, capacity, decode=True, same_prompts=options.same_prompts)


def step_graph(
    name: str,
    decoder: Decoder,
    precision: Precision,
    step: Step,
    fused: bool,
    structure: str = "",
    *,
    flash: bool = False,
) -> Graph:
    """The graph of one step. Steps of equal ``structure`` are wired alike, whatever their sizes."""
    # The backward rules know one weight per product.
    writer = GraphWriter(precision, fused, flash, splits=not step.all_logits)
    logits = write_decoder(writer, step, decoder)
    form = structure or name
    if any(_is_sparse(layer.mixer, step) for layer in decoder.layers):
        form += ".sparse"
    return Graph(name, writer.tensors, tuple(writer.operators), (logits,), form, _sizes(step))


def _is_sparse(mixer: Mixer | None, step: Step) -> bool:
    """Whether latent attention picks among the tokens, which changes how prefill is wired."""
    indexer = mixer.indexer if isinstance(mixer, LatentAttention) else None
    return indexer is not None and step.context > indexer.top_k


class DecodeTemplate:
    """Decode steps of one batch: written once, then only what depends on the context is written anew."""

    def __init__(
        self,
        name: str,
        decoder: Decoder,
        precision: Precision,
        step: Step,
        fused: bool,
        memory: Memory | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.name = name
        self._step = step
        self._writer = GraphWriter(precision, fused)
        self._logits = (
            write_decoder(self._writer, self._step, decoder)
            if memory is None
            else write_in_decoder(self._writer, self._step, decoder, memory)
        )
        # Weights that other phases read stay in memory.
        self._writer.tensors.update({**(weights or {}), **self._writer.tensors})

    def graph(self, context: int, label: str = "decode") -> Graph:
        """The step whose new token is the last of ``context``."""
        base, step = self._writer, replace(self._step, context=context)
        tensors = base.tensors
        if any(part.scratch for part in base.moving):
            gone = {name for part in base.moving for name in part.scratch}
            tensors = {name: tensor for name, tensor in tensors.items() if name not in gone}
        writer = GraphWriter(base.precision, base.fused, tensors=tensors)
        operators = list(base.operators)
        for part in base.moving:
            writer.at(part.layer, part.prefix)
            writer.operators = []
            part.write(writer, step)
            operators[part.first : part.last] = writer.operators
        structure = f"{self.name}.decode"
        return Graph(
            f"{self.name}.{label}", tensors, tuple(operators), (self._logits,), structure, _sizes(step)
        )


def _generation(
    prefill: Callable[[int], Phase],
    chunks: int,
    template: Callable[[], DecodeTemplate],
    prompt: int,
    steps: int,
    batch: int,
) -> PhaseList:
    """Prefill chunks and decode steps, each built when it is asked for and not kept; the template is made once."""
    decode = cache(template)

    def build(index: int) -> Phase:
        if index < chunks:
            return prefill(index)
        label = f"decode[{index - chunks}]"
        return Phase(label, "decode", decode().graph(prompt + index - chunks + 1, label), batch)

    return PhaseList(build, chunks + steps)


def _fitted(decoder: Decoder, options: WorkloadOptions) -> tuple[WorkloadOptions, str]:
    """The options with a prompt that fits, where the usual one does not; and what was done, or "".

    A prompt that a user chose is left for the checks; the usual one is no more than a stand-in.
    """
    if options.prompt != WorkloadOptions().prompt or decoder.rows:
        return options, ""
    source = decoder.encoder or decoder
    learned = source.max_positions if source.positions or decoder.encoder is not None else 0
    most = learned - (0 if decoder.encoder is not None else options.generate)
    if not learned or not 0 < most < options.prompt:
        return options, ""
    return replace(
        options, prompt=most
    ), f"{most} tokens, as many as there are positions, not {options.prompt}"


def _check(decoder: Decoder, options: WorkloadOptions) -> None:
    problems = check_encoder(decoder, options) if decoder.encodes else []
    total = options.prompt + options.generate
    problems += check_images(decoder, options)
    if options.steps != 1:
        message = f"found {options.steps}; {decoder.model_type} does not denoise: leave this option out"
        problems.append(Problem(message, path="--steps"))
    if options.same_prompts and (not has_experts(decoder) or options.phase == "train"):
        why = f"{decoder.model_type} has no experts that sequences could choose alike"
        if has_experts(decoder):
            why = "a training step's sequences differ"
        problems.append(Problem(f"{why}: leave this option out", path="--same-prompts"))
    if options.batch * total > MAX_TOKENS:
        message = f"found {options.batch} sequences of {total} tokens; expected at most {MAX_TOKENS} in all"
        problems.append(Problem(message, path="--batch"))
    if options.chunk is not None and options.phase in ("decode", "train"):
        problems.append(Problem(f"chunks divide a prefill; the phase is {options.phase}", path="--chunk"))
    if options.generate and options.phase == "train":
        message = f"found {options.generate}; a training step generates nothing: leave this option out"
        problems.append(Problem(message, path="--generate"))
    sized = decoder.tower is not None and set(options.dims) == {"height", "width"}
    if options.dims and not sized:
        message = "a language model has no named dimensions: --batch and --prompt set its sizes"
        problems.append(Problem(message, path="--dim"))
    if (
        decoder.positions
        and decoder.encoder is None
        and decoder.stem is None
        and total > decoder.max_positions
    ):
        message = f"found {total} tokens; {decoder.model_type} has {decoder.max_positions} learned positions"
        problems.append(Problem(message, path="--prompt"))
    if problems:
        raise InputError(problems)


def _trainable(precision: Precision, options: WorkloadOptions) -> Precision:
    """Weights stored below 8 bits are trained in the model's own type, to which they are expanded first."""
    stored = [fmt.dtype for fmt in precision.formats if fmt.dtype]
    if not stored or (len(stored) == 1 and not precision.rules and dtype_bits(stored[0]) >= 8):
        return precision
    if options.dtype is not None:
        raise bad_input(
            f"found {options.dtype}; weights of less than 8 bits cannot be trained, "
            "expected fp32, bf16, fp16, fp8 or int8",
            path="--dtype",
        )
    names = " and ".join(dict.fromkeys(stored))
    return precision.plain(f"the checkpoint's {names} weights are trained as {precision.own}")


def _sizes(step: Step) -> dict[str, Attribute]:
    return {"batch": step.batch, "new_tokens": step.new, "context": step.context, "capacity": step.capacity}


def _metadata(
    name: str, decoder: Decoder, precision: Precision, options: WorkloadOptions
) -> dict[str, Attribute]:
    found: dict[str, Attribute] = {
        "model": name,
        "family": decoder.model_type,
        "layers": len(decoder.layers),
        "hidden": decoder.hidden,
        "batch": options.batch,
        "prompt": options.prompt,
        "generate": options.generate,
        "dtype": precision.own,
        "kv_dtype": precision.cache,
        "weight_dtype": precision.weight_dtype,
    }
    found |= tower_facts(decoder, precision)
    if decoder.omitted:
        found["left_out"] = "; ".join(decoder.omitted)
    notes = [note for note in (precision.note, *decoder.notes) if note]
    if notes:
        found["notes"] = "; ".join(notes)
    return found


def count_parameters(decoder: Decoder, precision: Precision) -> int:
    """Elements of all weights, each stored once."""
    if decoder.encodes:
        length = decoder.rows or 1
        return encoder_graph(decoder.model_type, decoder, precision, 1, length, fused=True).parameters()
    if decoder.encoder is not None:
        return prefill_graph(decoder.model_type, decoder, precision, WorkloadOptions(prompt=1)).parameters()
    step = Step(1, 1, 1, 1, decode=True)
    return step_graph(decoder.model_type, decoder, precision, step, fused=True).parameters()
