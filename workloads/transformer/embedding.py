"""What stands before the first block: rows of the tables, and the inputs that layers have for themselves."""

from __future__ import annotations

from workloads import operators
from workloads.graph import Role
from workloads.operators import Embedding
from workloads.transformer.adapter_products import write_copies
from workloads.transformer.shape import Decoder, Norm
from workloads.transformer.step import Step
from workloads.transformer.stream import Stream, add_to, settle, write_norm
from workloads.transformer.writer import ACTIVATION_FLOPS, NORM_FLOPS, GraphWriter, Linear, Moves

__all__ = ["write_embedding", "write_per_layer_block", "write_per_layer_inputs"]


def write_embedding(w: GraphWriter, step: Step, decoder: Decoder) -> Stream:
    """Rows of all tables added up, normed and brought to the model's width."""
    m, hidden = step.tokens, decoder.hidden
    width = decoder.embedding_width or hidden
    tokens = w.tensor("tokens", (step.batch, step.new), "int32", Role.ACTIVATION)
    out = _lookup(w, "embedding", tokens, decoder.vocab, m, width, "vocab", not decoder.own_table)
    projected = bool(decoder.embedding_width)
    if projected and not decoder.narrow_tables:
        out = w.linear("project_in", out, Linear(m, hidden, width, module="", tp="replicated"))
    wide = width if decoder.narrow_tables else hidden
    stream = Stream(out)
    if decoder.positions:
        at = _lookup(w, "position_embedding", tokens, decoder.positions, m, wide, "replicated")
        add_to(w, step, wide, stream, "position_add", at)
    if decoder.segments:
        kind = _lookup(w, "segment_embedding", tokens, decoder.segments, m, wide, "replicated")
        add_to(w, step, wide, stream, "segment_add", kind)
    if decoder.embedding_norm:
        stream.residual = write_norm(w, "embedding_norm", decoder.embedding_norm, m, wide, stream)
    if projected and decoder.narrow_tables:
        source = settle(w, step, wide, stream, "embedding_add")
        spec = Linear(m, hidden, width, module="", tp="replicated", bias=hidden)
        stream.residual = w.linear("project_in", source, spec)
    return stream


def _lookup(
    w: GraphWriter, name: str, tokens: str, rows: int, m: int, n: int, tp: str, shared: bool = False
) -> str:
    """Rows of a table; a ``shared`` one is that of all stacks."""
    module = "embed_tokens" if name == "embedding" else ""
    table = (w.shared_weight if shared else w.weight)(f"{name}.weight", rows, n, module=module)
    if name == "embedding" and w.adapters:
        write_copies(w, name, [("embed_tokens", rows)], n)
    out = w.activation(f"{name}.out", m, n)
    w.emit(name, Embedding(m=m, n=n), (tokens, table), (out,), tp=tp)
    return out


def write_per_layer_inputs(w: GraphWriter, step: Step, decoder: Decoder, embedded: str) -> str:
    """One lookup and one product give every layer its own small input (Gemma 4)."""
    m, width = step.tokens, sum(layer.per_layer_input for layer in decoder.layers)
    looked_up = _lookup(w, "layer_embedding", "tokens", decoder.per_layer_rows, m, width, "replicated")
    projected = w.linear(
        "layer_projection", embedded, Linear(m, width, decoder.hidden, module="", tp="replicated")
    )
    out = w.activation("layer_inputs.out", m, width)
    weight = w.weight("layer_inputs.weight", decoder.layers[0].per_layer_input)
    work = operators.Norm(m=m, n=width, flops_per_element=NORM_FLOPS["rms"] + 1, norm="rms")
    w.emit("layer_inputs", work, (projected, looked_up, weight), (out,))
    return out


def write_per_layer_block(
    w: GraphWriter, step: Step, hidden: int, width: int, stream: Stream, inputs: str
) -> None:
    """A gate on the layer's own input, projected back and added to the stream."""
    m = step.tokens
    source = settle(w, step, hidden, stream, "layer_input_add")
    gate = w.linear("layer_input.gate", source, Linear(m, width, hidden, module="", tp="replicated"))
    gated = w.activation("layer_input.act.out", m, width)
    work = operators.Activation(m=m, n=width, flops_per_element=ACTIVATION_FLOPS["gelu"] + 1)
    w.emit("layer_input.act", work, (gate, inputs), (gated,), moves=Moves(touched={inputs: m * width}))
    out = w.linear("layer_input.out", gated, Linear(m, hidden, width, module="", tp="replicated"))
    normed = write_norm(w, "layer_input_norm", Norm("rms"), m, hidden, Stream(out))
    add_to(w, step, hidden, stream, "layer_add", normed)
