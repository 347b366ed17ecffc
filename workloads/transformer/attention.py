"""The operators of grouped-query attention, fused as serving engines run it or step by step.

Fused: one product for queries, keys and values, one attention operator whose mask skips what it hides. Step
by step: a product each, and scores that go to memory, the whole rectangle of them, as LLM-Viewer counts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from workloads.operators import Activation, Attention, Elementwise, Norm, Product, Rotary, Softmax
from workloads.transformer.block_choice import write_block_choice
from workloads.transformer.recurrent import write_convolution
from workloads.transformer.shape import Attention as AttentionShape
from workloads.transformer.shape import Norm as NormShape
from workloads.transformer.step import Step
from workloads.transformer.writer import (
    NORM_FLOPS,
    ROTARY_FLOPS,
    SOFTMAX_FLOPS,
    GraphWriter,
    Linear,
    Moves,
    Share,
)

__all__ = ["KeyValue", "attended", "rotated", "write_attention"]

KeyValue = tuple[str, str, str, str]
"""Names of a layer's new keys, new values, key cache and value cache."""


def write_attention(
    w: GraphWriter, step: Step, spec: AttentionShape, hidden: int, source: str, known: dict[int, KeyValue]
) -> str:
    """Attention of one layer over ``source``; notes its keys in ``known``; returns the output's name."""
    module = f"model.layers.{w.layer}.self_attn"
    m, v_size = step.tokens, spec.heads * spec.v_head_dim
    made = _projected(w, step, spec, hidden, source, module)
    out = attended(w, step, spec, made, known, hidden, source)
    if spec.gate:
        gated = w.activation("attention.gated.out", m, v_size)
        inputs = (out, w.prefix + ("attention.qkv.out" if w.fused else "attention.gate.out"))
        work = Activation(m=m, n=v_size, flops_per_element=5.0 * spec.gate / v_size, gated=True)
        w.emit(
            "attention.gated",
            work,
            inputs,
            (gated,),
            tp="split",
            moves=Moves(touched={inputs[1]: m * spec.gate}),
        )
        out = gated
    if spec.out_norm is not None:
        out = _write_out_norm(w, m, v_size, spec.out_norm, out)
    wide = spec.out or hidden
    return w.linear(
        "attention.out",
        out,
        Linear(m, wide, v_size, module=f"{module}.o_proj", tp="row", bias=wide if spec.out_bias else 0),
    )


def attended(
    w: GraphWriter, step: Step, spec: AttentionShape, made: tuple[str, str, str], known: dict[int, KeyValue],
    hidden: int, source: str,
) -> str:  # fmt: skip
    """The values that queries attend to, of new queries, keys and values; notes the keys in ``known``."""
    query, key, value = made
    if spec.cache_of is None:
        stored = step.stored(spec.window, spec.chunk)
        caches = (
            w.cache("attention.k_cache", step.batch, spec.kv_heads, stored, spec.head_dim),
            w.cache("attention.v_cache", step.batch, spec.kv_heads, stored, spec.v_head_dim),
        ) if step.keeps_cache else ("", "")  # fmt: skip
        known[w.layer] = (key, value, *caches)
    sources = known[w.layer if spec.cache_of is None else spec.cache_of]
    learned = spec.heads * spec.sinks + spec.vectors
    sinks = w.weight("attention.sinks", learned) if learned else ""
    if spec.relative:
        sinks = w.relative_biases(spec.relative, spec.heads, spec.relative_shared)
    if any(spec.profile):
        sinks = _write_profiles(w, step.tokens, spec, hidden, source)
    out = w.activation("attention.attend.out", step.tokens, spec.heads * spec.v_head_dim)
    chosen = write_block_choice(w, step, spec.choice, hidden, source) if spec.choice else ""

    def attend(writer: GraphWriter, at: Step) -> None:
        # A choice of keys is one with its kernel, which never writes the scores.
        write = _attend_fused if writer.fused or writer.flash or chosen else _attend_apart
        write(writer, at, spec, query, sources, sinks, out)

    w.write_moving(attend, step)
    return out


def _projected(
    w: GraphWriter, step: Step, spec: AttentionShape, hidden: int, source: str, module: str
) -> tuple[str, str, str]:
    """New queries, keys and values, normed and turned; keys and values convolved before that where they are."""
    project = _project_fused if w.fused else _project_apart
    if not spec.taps:
        return project(w, step, spec, hidden, source, module)
    bare = replace(spec, q_norm=0, k_norm=0, rotary_dim=0)
    query, key, value = project(w, step, bare, hidden, source, module)
    _, k, v = _sizes(spec)
    key = _convolved(w, step, "attention.k_conv", key, k, spec.taps)
    value = _convolved(w, step, "attention.v_conv", value, v, spec.taps)
    return _normed(w, step.tokens, spec, "q", query), _normed(w, step.tokens, spec, "k", key), value


def _convolved(w: GraphWriter, step: Step, name: str, source: str, n: int, taps: int) -> str:
    """Features and their convolution, added."""
    mixed = write_convolution(w, step, source, n, taps, bias=False, activated=False, name=name)
    out = w.activation(f"{name}_add.out", step.tokens, n)
    work = Elementwise(m=step.tokens, n=n, flops_per_element=1.0, function="add")
    w.emit(
        f"{name}_add",
        work,
        (mixed, source),
        (out,),
        tp="split",
        moves=Moves(touched={source: step.tokens * n}),
    )
    return out


def _normed(w: GraphWriter, m: int, spec: AttentionShape, part: str, source: str) -> str:
    """Queries or keys, normed by heads."""
    n = _sizes(spec)["qk".index(part)]
    out = w.activation(f"attention.{part}_norm.out", m, n)
    work = Norm(m=m, n=n, flops_per_element=NORM_FLOPS["rms"], norm="rms")
    sources = (source, *_norm_weights(w, spec, (part,)))
    w.emit(f"attention.{part}_norm", work, sources, (out,), tp="split", moves=Moves(touched={source: m * n}))
    return out


def _write_profiles(w: GraphWriter, m: int, spec: AttentionShape, hidden: int, source: str) -> str:
    """A bias per head for every distance that it reaches, mixed of learned profiles; they are written, a row a head."""
    rank, reach = spec.profile
    module = f"model.layers.{w.layer}.self_attn.r_proj"
    wide = spec.heads * rank
    states = w.linear(
        "attention.profile_states",
        source,
        Linear(m, wide, hidden, module=module, tp="column", heads=spec.heads),
    )
    table = w.weight("attention.profiles", rank, reach)
    out = w.activation("attention.profile.out", m * spec.heads, reach)
    w.emit(
        "attention.profile", Product(m=m * spec.heads, n=reach, k=rank), (states, table), (out,), tp="split"
    )
    return out


def _write_out_norm(w: GraphWriter, m: int, n: int, norm: NormShape, source: str) -> str:
    """A norm of the attended values (BitNet, Kosmos-2)."""
    out = w.activation("attention.inner_norm.out", m, n)
    parts = [part for part, wanted in (("weight", norm.weight), ("bias", norm.bias)) if wanted]
    weights = [w.weight(f"attention.inner_norm.{part}", n) for part in parts]
    work = Norm(m=m, n=n, flops_per_element=NORM_FLOPS[norm.kind], norm=norm.kind)
    w.emit("attention.inner_norm", work, (source, *weights), (out,), tp="split")
    return out


def _sizes(spec: AttentionShape) -> tuple[int, int, int]:
    """Features of queries, keys and values; a layer without keys of its own has none."""
    if spec.cache_of is not None:
        return spec.heads * spec.head_dim, 0, 0
    value = 0 if spec.shared_kv else spec.kv_heads * spec.v_head_dim
    return spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, value


def _project_fused(
    w: GraphWriter, step: Step, spec: AttentionShape, hidden: int, source: str, module: str
) -> tuple[str, str, str]:
    """One product, then norms and rotary embedding; returns where queries, keys and values end up."""
    m = step.tokens
    q, k, v = _sizes(spec)
    bias = spec.q_bias * q + spec.gate_bias * spec.gate + spec.k_bias * k + spec.v_bias * v
    out = w.linear(
        "attention.qkv",
        source,
        Linear(
            m,
            q + spec.gate + k + v,
            hidden,
            module="",
            tp="column",
            bias=bias,
            heads=spec.heads,
            kv_heads=spec.kv_heads if k else 0,
            shares=(
                Share(f"{module}.q_proj", q + spec.gate),
                Share(f"{module}.k_proj", k),
                Share(f"{module}.v_proj", v),
            ),
        ),
    )
    query = key = value = out
    if spec.q_norm or spec.k_norm or spec.v_norm or spec.plain_norm:
        makes_value = spec.v_norm and k > 0
        columns = q + k + (spec.kv_heads * spec.v_head_dim if makes_value else 0)
        normed = w.activation("attention.qk_norm.out", m, columns)
        weights = _norm_weights(w, spec, ("q", "k") if k else ("q",))
        w.emit(
            "attention.qk_norm",
            Norm(m=m, n=columns, flops_per_element=NORM_FLOPS["rms"], norm="rms"),
            (out, *weights),
            (normed,),
            tp="split",
            moves=Moves(touched={out: m * (q + k + (v if makes_value else 0))}),
        )
        query = key = normed
        value = normed if makes_value else value
    if spec.rotary_dim:
        query = key = rotated(w, step, spec, (query,), "attention.rotary", q + k)
    return query, key, value


def _project_apart(
    w: GraphWriter, step: Step, spec: AttentionShape, hidden: int, source: str, module: str
) -> tuple[str, str, str]:
    """A product for each of queries, keys and values."""
    m = step.tokens
    parts = dict(zip("qkv", _sizes(spec), strict=True))
    biases = {"q": spec.q_bias, "k": spec.k_bias, "v": spec.v_bias}
    made: dict[str, str] = {}
    for part, n in parts.items():
        if n:
            made[part] = w.linear(
                f"attention.{part}",
                source,
                Linear(
                    m,
                    n,
                    hidden,
                    module=f"{module}.{part}_proj",
                    tp="column",
                    bias=n if biases[part] else 0,
                    heads=spec.heads if part == "q" else 0,
                    kv_heads=0 if part == "q" else spec.kv_heads,
                ),
            )
    if spec.gate:
        w.linear(
            "attention.gate",
            source,
            Linear(
                m,
                spec.gate,
                hidden,
                module=f"{module}.q_proj",
                tp="column",
                bias=spec.gate if spec.gate_bias else 0,
                heads=spec.heads,
                kv_heads=0,
            ),
        )
    if spec.shared_kv and "k" in made:
        made["v"] = made["k"]
    norms = {
        "q": spec.q_norm or spec.plain_norm,
        "k": spec.k_norm or spec.plain_norm,
        "v": spec.v_norm,
    }
    for part, wanted in norms.items():
        if wanted and part in made:
            n = w.tensors[made[part]].shape[1]
            normed = w.activation(f"attention.{part}_norm.out", m, n)
            weights = _norm_weights(w, spec, (part,))
            w.emit(
                f"attention.{part}_norm", Norm(m=m, n=n, flops_per_element=NORM_FLOPS["rms"], norm="rms"),
                (made[part], *weights), (normed,), tp="split",
            )  # fmt: skip
            made[part] = normed
    if spec.rotary_dim:
        for part in ("q", "k"):
            if part in made:
                n = w.tensors[made[part]].shape[1]
                made[part] = rotated(w, step, spec, (made[part],), f"attention.{part}_rotary", n)
    return made["q"], made.get("k", ""), made.get("v", "")


def _norm_weights(w: GraphWriter, spec: AttentionShape, parts: tuple[str, ...]) -> list[str]:
    sizes = {"q": spec.q_norm, "k": spec.k_norm, "v": 0}
    names = []
    for part in parts:
        if sizes[part]:
            names.append(w.weight(f"attention.{part}_norm.weight", sizes[part]))
            if spec.norm_bias:
                names.append(w.weight(f"attention.{part}_norm.bias", sizes[part]))
    return names


def rotated(
    w: GraphWriter, step: Step, spec: AttentionShape, sources: tuple[str, ...], name: str, columns: int,
    touched: dict[str, int] | None = None,
) -> str:  # fmt: skip
    """Rotate ``rotary_dim`` of each head; the angles come from a small table that is left out."""
    m = step.tokens
    out = w.activation(f"{name}.out", m, columns)
    work = Rotary(m=m, n=columns, flops_per_element=ROTARY_FLOPS * spec.rotary_dim / spec.head_dim)
    moves = Moves(touched=touched or {sources[0]: m * columns})
    w.emit(name, work, sources, (out,), tp="split", moves=moves)
    return out


def _attend_fused(
    w: GraphWriter, step: Step, spec: AttentionShape, query: str, sources: KeyValue, sinks: str, out: str
) -> None:
    """One kernel: reads queries and the visible keys and values once, appends the new ones to the cache."""
    key, value, k_cache, v_cache = sources
    m = step.tokens
    from_cache = step.seen(spec.window, spec.chunk) - step.new
    top_k = spec.choice.size * spec.choice.blocks if spec.choice else 0
    if top_k:
        from_cache = min(from_cache, top_k * step.new)
    inputs = dict.fromkeys(name for name in (query, key, value, k_cache, v_cache, sinks) if name)
    used = Counter({query: m * spec.heads * spec.head_dim})
    used[key] += m * spec.kv_heads * spec.head_dim
    used[value] += m * spec.kv_heads * spec.v_head_dim
    if k_cache:
        used[k_cache] = step.batch * from_cache * spec.kv_heads * spec.head_dim
        used[v_cache] = step.batch * from_cache * spec.kv_heads * spec.v_head_dim
    appended: dict[str, int] = {}
    if k_cache and spec.cache_of is None:
        rows = step.batch * min(step.new, step.stored(spec.window, spec.chunk)) * spec.kv_heads
        appended = {k_cache: rows * spec.head_dim, v_cache: rows * spec.v_head_dim}
    work = Attention(
        batch=step.batch, heads=spec.heads, kv_heads=spec.kv_heads, head_dim=spec.head_dim,
        v_head_dim=spec.v_head_dim, q_len=step.new, kv_len=step.context, causal=spec.causal, window=spec.window,
        chunk=spec.chunk, top_k=top_k, sink_logits=bool(spec.sinks), kv_dtype=w.precision.cache,
    )  # fmt: skip
    w.emit(
        "attention.attend",
        work,
        tuple(inputs),
        (out,),
        updates=tuple(appended),
        tp="head",
        moves=Moves(touched=used, written=appended),
    )


def _attend_apart(
    w: GraphWriter, step: Step, spec: AttentionShape, query: str, sources: KeyValue, sinks: str, out: str
) -> None:
    """Scores, softmax and weighted sum as three operators; the rectangle of scores goes to memory."""
    key, value, k_cache, v_cache = sources
    seen = step.seen(spec.window, spec.chunk)
    rows = step.batch * spec.heads * step.new
    scores = w.activation("attention.qk_matmul.out", rows, seen)
    weights = w.activation("attention.softmax.out", rows, seen)
    kept = min(step.new, step.stored(spec.window, spec.chunk))
    owns = bool(k_cache) and spec.cache_of is None

    def product(name: str, left: str, new: str, cache: str, result: str, n: int, k: int, dim: int) -> None:
        used = {new: step.tokens * spec.kv_heads * dim}
        if cache:
            used[cache] = step.batch * (seen - step.new) * spec.kv_heads * dim
        if new == left:
            used.pop(new)
        work = Product(
            m=step.new, n=n, k=k, batch=step.batch * spec.heads, heads=spec.heads, kv_heads=spec.kv_heads
        )
        w.emit(
            name,
            work,
            tuple(part for part in (left, new, cache) if part),
            (result,),
            updates=(cache,) if owns else (),
            tp="head",
            moves=Moves(touched=used, written={cache: step.batch * kept * spec.kv_heads * dim}),
        )

    product("attention.qk_matmul", query, key, k_cache, scores, seen, spec.head_dim, spec.head_dim)
    softmax = Softmax(
        m=rows, n=seen, flops_per_element=SOFTMAX_FLOPS, heads=spec.heads, kv_heads=spec.kv_heads
    )
    w.emit("attention.softmax", softmax, (scores, sinks) if sinks else (scores,), (weights,), tp="head")
    product("attention.sv_matmul", weights, value, v_cache, out, spec.v_head_dim, seen, spec.v_head_dim)
