"""The operators of multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1).

Prefill expands the latent of every token into keys and values per head. A decode step does not: the
up-projection of keys is absorbed into the query (``k_up`` after the query), and the up-projection of values
comes after the weighted sum (``v_up``), so that attention reads one latent per cached token, whatever the
number of heads. Both forms use the same weights under the same names.

With an indexer (DeepSeek sparse attention, DeepSeek-V3.2) a query attends to the ``top_k`` best tokens only;
once the context is longer than that, prefill takes the absorbed form too, as its sparse kernels do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from workloads.graph import Role
from workloads.operators import Activation, Attention, Copy, Norm, Rotary
from workloads.transformer.indexer import write_indexer
from workloads.transformer.shape import LatentAttention
from workloads.transformer.step import Step
from workloads.transformer.writer import (
    NORM_FLOPS,
    ROTARY_FLOPS,
    GraphWriter,
    Linear,
    Moves,
    Share,
)

__all__ = ["write_latent_attention"]


Known = dict[int, str]
"""By layer, the tensor of the tokens that its indexer chose."""


class _Sources(NamedTuple):
    """Tensors that attention reads: the query, rotated halves, the new latent; a cache, the chosen and sinks, or ""."""

    query: str
    rotated: str
    latent: str
    cache: str
    chosen: str
    sinks: str


class _Form(NamedTuple):
    """Expanded or absorbed attention: the cache it updates, key-value heads, elements of a key and a value, choice."""

    cache: str
    kv_heads: int
    qk: int
    v: int
    top_k: int
    absorbed: bool


def write_latent_attention(
    w: GraphWriter, step: Step, spec: LatentAttention, hidden: int, source: str, known: Known
) -> str:
    """Latent attention of one layer over ``source``; returns the output's name.

    What later layers may take over, the tokens an indexer chose, is noted in ``known``.
    """
    m, heads = step.tokens, spec.heads
    module = f"model.layers.{w.layer}.self_attn"
    query, query_latent, latent = _project(w, m, spec, hidden, source, module)
    rotated = _rotate(w, m, spec, query, latent) if spec.rope_dim else ""
    normed = w.activation("attention.kv_a_norm.out", m, spec.kv_rank)
    weight = w.weight("attention.kv_a_norm.weight", spec.kv_rank)
    work = Norm(m=m, n=spec.kv_rank, flops_per_element=NORM_FLOPS["rms"], norm="rms")
    w.emit(
        "attention.kv_a_norm",
        work,
        (latent, weight),
        (normed,),
        moves=Moves(touched={latent: m * spec.kv_rank}),
    )
    cache = ""
    if step.keeps_cache:
        stored = step.stored(spec.window)
        cache = w.cache("attention.latent_cache", step.batch, stored, spec.kv_rank + spec.rope_dim)
    chosen = ""
    if spec.indexer is not None and spec.indexer.of is not None:
        chosen = known[spec.indexer.of]
    elif spec.indexer is not None:
        chosen = known[w.layer] = write_indexer(
            w, step, spec, spec.indexer, hidden, source, query_latent, module
        )
    sparse = spec.indexer is not None and step.context > spec.indexer.top_k
    form = _absorbed if step.decode or sparse else _expanded
    learned = spec.heads * spec.sinks + spec.vectors
    sinks = w.weight("attention.sinks", learned) if learned else ""
    out = form(w, step, spec, _Sources(query, rotated, normed, cache, chosen, sinks), module)
    if spec.gate:
        gate = query if spec.joint_gate else _gate_product(w, m, spec, hidden, source, module)
        out = _gated(w, m, spec, gate, out)
    return w.linear(
        "attention.out",
        out,
        Linear(
            m,
            hidden,
            heads * spec.v_head_dim,
            module=f"{module}.o_proj",
            tp="row",
            bias=hidden if spec.bias else 0,
        ),
    )


def _rotate(w: GraphWriter, m: int, spec: LatentAttention, query: str, latent: str) -> str:
    """The rotary features of all queries and of the one shared key, turned; the key is normed first if it is."""
    n = (spec.heads + 1) * spec.rope_dim
    rotated = w.activation("attention.rotary.out", m, n)
    weights = (w.weight("attention.rope_norm.weight", spec.rope_dim),) if spec.rope_norm else ()
    extra = NORM_FLOPS["rms"] / (spec.heads + 1) if spec.rope_norm else 0.0
    w.emit(
        "attention.rotary",
        Rotary(m=m, n=n, flops_per_element=ROTARY_FLOPS + extra),
        (query, latent, *weights),
        (rotated,),
        tp="split",
        moves=Moves(
            touched=Counter({query: m * spec.heads * spec.rope_dim}) + Counter({latent: m * spec.rope_dim})
        ),
    )
    return rotated


def _gate_product(
    w: GraphWriter, m: int, spec: LatentAttention, hidden: int, source: str, module: str
) -> str:
    """What the gate on the attended values is made of, one number per feature or one per head."""
    return w.linear(
        "attention.gate",
        source,
        Linear(m, spec.gate, hidden, module=f"{module}.gate_proj", tp="column", heads=spec.heads, kv_heads=0),
    )


def _gated(w: GraphWriter, m: int, spec: LatentAttention, gate: str, attended: str) -> str:
    """The attended values under a sigmoid gate."""
    size = spec.heads * spec.v_head_dim
    out = w.activation("attention.gated.out", m, size)
    work = Activation(m=m, n=size, flops_per_element=1 + 4.0 * spec.gate / size, gated=True)
    moves = Moves(touched={gate: m * spec.gate})
    w.emit("attention.gated", work, (attended, gate), (out,), tp="split", moves=moves)
    return out


def _project(
    w: GraphWriter, m: int, spec: LatentAttention, hidden: int, source: str, module: str
) -> tuple[str, str, str]:
    """Queries, the latent they come from, and the tensor that holds the new key-value latent."""
    q_size = spec.heads * (spec.nope_dim + spec.rope_dim)
    kv_size = spec.kv_rank + spec.rope_dim
    compressed = Linear(
        m,
        kv_size,
        hidden,
        module=f"{module}.kv_a_proj_with_mqa",
        tp="replicated",
        bias=kv_size if spec.bias else 0,
    )
    if spec.q_rank is None:
        query = w.linear(
            "attention.q",
            source,
            Linear(m, q_size, hidden, module=f"{module}.q_proj", tp="column", heads=spec.heads, kv_heads=0),
        )
        latent = w.linear("attention.kv_a", source, compressed)
        return query, query, latent
    rank = spec.q_rank
    if w.fused:
        latent = down = w.linear(
            "attention.qkv_a",
            source,
            Linear(
                m,
                rank + kv_size,
                hidden,
                module="",
                tp="replicated",
                bias=rank + kv_size if spec.bias else 0,
                shares=(Share(f"{module}.q_a_proj", rank), Share(f"{module}.kv_a_proj_with_mqa", kv_size)),
            ),
        )
    else:
        down = w.linear(
            "attention.q_a",
            source,
            Linear(
                m, rank, hidden, module=f"{module}.q_a_proj", tp="replicated", bias=rank if spec.bias else 0
            ),
        )
        latent = w.linear("attention.kv_a", source, compressed)
    weight = w.weight("attention.q_a_norm.weight", rank)
    normed = w.activation("attention.q_a_norm.out", m, rank)
    work = Norm(m=m, n=rank, flops_per_element=NORM_FLOPS["rms"], norm="rms")
    w.emit("attention.q_a_norm", work, (down, weight), (normed,), moves=Moves(touched={down: m * rank}))
    entry, size, name = normed, q_size, "q_b_proj"
    if spec.joint_gate:
        entry = w.activation("attention.q_joined.out", m, 2 * rank)
        w.emit("attention.q_joined", Copy(m=m, n=2 * rank), (normed, down), (entry,),
               moves=Moves(touched={down: m * rank}))  # fmt: skip
        size, name = q_size + spec.gate, "q_gate_proj"
    query = w.linear(
        "attention.q_b",
        entry,
        Linear(
            m,
            size,
            2 * rank if spec.joint_gate else rank,
            module=f"{module}.{name}",
            tp="column",
            heads=spec.heads,
            kv_heads=0,
        ),
    )
    return query, normed, latent


def _expanded(w: GraphWriter, step: Step, spec: LatentAttention, sources: _Sources, module: str) -> str:
    """Keys and values of every token of the context, then ordinary multi-head attention."""
    query, rotated, latent, cache, chosen, sinks = sources
    seen = step.seen(spec.window)
    heads, rows = spec.heads, step.batch * seen
    past = (cache, step.batch * (seen - step.new) * spec.kv_rank) if cache and step.past else None
    parts = {}
    for part, size in (("k_up", spec.nope_dim), ("v_up", spec.v_head_dim)):
        parts[part] = w.linear(
            f"attention.{part}",
            latent,
            Linear(
                rows,
                heads * size,
                spec.kv_rank,
                module=f"{module}.kv_b_proj",
                tp="column",
                past=past,
                heads=heads,
                kv_heads=heads,
            ),
        )
    out = w.activation("attention.attend.out", step.tokens, heads * spec.v_head_dim)

    def attend(writer: GraphWriter, at: Step) -> None:
        qk = spec.nope_dim + spec.rope_dim
        used = {
            query: at.tokens * heads * spec.nope_dim, rotated: at.tokens * (heads + 1) * spec.rope_dim,
            latent: 0, cache: at.batch * (at.seen(spec.window) - at.new) * spec.rope_dim, chosen: 0,
        }  # fmt: skip
        inputs = (query, rotated, parts["k_up"], parts["v_up"], latent, cache, chosen, sinks)
        _emit_attention(
            writer,
            at,
            spec,
            inputs,
            out,
            used,
            _Form(cache, kv_heads=heads, qk=qk, v=spec.v_head_dim, top_k=0, absorbed=False),
        )

    w.write_moving(attend, step)
    return out


def _absorbed(w: GraphWriter, step: Step, spec: LatentAttention, sources: _Sources, module: str) -> str:
    """Attention over the latents themselves, as one key-value head shared by all query heads."""
    query, rotated, latent, cache, chosen, sinks = sources
    own = w.precision.own
    heads, m = spec.heads, step.tokens
    fmt = w.precision.format_of(f"{module}.kv_b_proj")

    def up_weight(part: str, size: int) -> str:
        rows = heads * size
        return w.tensor(
            f"attention.{part}.weight", (rows, spec.kv_rank), fmt.dtype or own, Role.WEIGHT,
            fmt.bytes(1, rows, spec.kv_rank, own),
        )  # fmt: skip

    absorbed = w.linear(
        "attention.k_up",
        query,
        Linear(
            m,
            spec.kv_rank,
            spec.nope_dim,
            module=f"{module}.kv_b_proj",
            tp="head",
            batch=heads,
            weight=up_weight("k_up", spec.nope_dim),
            heads=heads,
            kv_heads=heads,
        ),
    )
    mixed = w.activation("attention.attend.out", m, heads * spec.kv_rank)
    top_k = spec.indexer.top_k if spec.indexer is not None else 0

    def attend(writer: GraphWriter, at: Step) -> None:
        qk = spec.kv_rank + spec.rope_dim
        old = min(at.past, top_k * at.new) if top_k else at.seen(spec.window) - at.new
        used = {
            absorbed: at.tokens * heads * spec.kv_rank, rotated: at.tokens * (heads + 1) * spec.rope_dim,
            latent: at.tokens * spec.kv_rank, cache: at.batch * old * qk, chosen: 0,
        }  # fmt: skip
        _emit_attention(
            writer, at, spec, (absorbed, rotated, latent, cache, chosen, sinks), mixed, used,
            _Form(cache, kv_heads=1, qk=qk, v=spec.kv_rank, top_k=top_k, absorbed=True),
        )  # fmt: skip

    w.write_moving(attend, step)
    return w.linear(
        "attention.v_up",
        mixed,
        Linear(
            m,
            spec.v_head_dim,
            spec.kv_rank,
            module=f"{module}.kv_b_proj",
            tp="head",
            batch=heads,
            weight=up_weight("v_up", spec.v_head_dim),
            heads=heads,
            kv_heads=heads,
        ),
    )


def _emit_attention(
    w: GraphWriter, step: Step, spec: LatentAttention, inputs: tuple[str, ...], out: str,
    used: Mapping[str, int], form: _Form,
) -> None:  # fmt: skip
    cache = form.cache
    kept = step.batch * min(step.new, step.stored(spec.window))
    work = Attention(
        batch=step.batch, heads=spec.heads, kv_heads=form.kv_heads, head_dim=form.qk, v_head_dim=form.v,
        q_len=step.new, kv_len=step.context, causal=True, window=spec.window, top_k=form.top_k, latent=form.absorbed,
        kv_dtype=w.precision.cache,
    )  # fmt: skip
    w.emit(
        "attention.attend",
        work,
        tuple(name for name in inputs if name),
        (out,),
        updates=(cache,) if cache else (),
        tp="head",
        moves=Moves(
            touched={name: size for name, size in used.items() if name},
            written={cache: kept * (spec.kv_rank + spec.rope_dim)},
        ),
    )
