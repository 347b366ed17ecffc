"""The operators of attention over a window and over compressed tokens behind it (DeepSeek-V4).

A token attends to the last ``window`` tokens one by one and to what lies behind them in pieces of ``rate`` tokens,
each compressed to one key that is its own value: a weighted mean whose weights a second product makes. Where pieces
overlap an indexer, with compressed keys of its own, picks the ``top_k`` best of them. The one key-value head is shared
by all query heads; the output is projected by groups of heads, then together.
"""

from __future__ import annotations

from workloads.operators import Attention, Norm, Product, Reduce, Rotary, TopK
from workloads.transformer.shape import CompressedAttention, Indexer
from workloads.transformer.step import Step
from workloads.transformer.writer import NORM_FLOPS, ROTARY_FLOPS, SOFTMAX_FLOPS, GraphWriter, Linear, Moves

__all__ = ["write_compressed_attention"]

MEAN_FLOPS = 7.0
"""Per element of a weighted mean: a bias, a softmax over the piece, a multiplication and an addition."""


def write_compressed_attention(
    w: GraphWriter, step: Step, spec: CompressedAttention, hidden: int, source: str
) -> str:
    """Attention of one layer over ``source``; returns the output's name."""
    m, dim, size = step.tokens, spec.head_dim, spec.heads * spec.head_dim
    module = f"model.layers.{w.layer}.self_attn"
    down = w.linear(
        "attention.q_a",
        source,
        Linear(m, spec.q_rank, hidden, module=f"{module}.q_a_proj", tp="replicated"),
    )
    latent = _norm(w, "attention.q_a_norm", m, spec.q_rank, down)
    query = w.linear(
        "attention.q_b",
        latent,
        Linear(m, size, spec.q_rank, module=f"{module}.q_b_proj", tp="column", heads=spec.heads, kv_heads=0),
    )
    new = w.linear(
        "attention.kv", source, Linear(m, dim, hidden, module=f"{module}.kv_proj", tp="replicated")
    )
    key = _norm(w, "attention.kv_norm", m, dim, new)
    turned = w.activation("attention.rotary.out", m, size + dim)
    share = spec.rotary_dim / dim
    work = Rotary(m=m, n=size + dim, flops_per_element=ROTARY_FLOPS * share + NORM_FLOPS["rms"])
    w.emit("attention.rotary", work, (query, key), (turned,), tp="split")
    sinks = w.weight("attention.sinks", spec.heads)
    near = _near(w, step, spec, turned, sinks)
    if spec.rate:
        far = _far(w, step, spec, hidden, source, latent, turned, module)
        out = w.activation("attention.merge.out", m, size)
        w.emit(
            "attention.merge",
            Reduce(m=m, n=size, flops_per_element=3.0),
            (near, far),
            (out,),
            tp="split",
        )
        near = out
    wide = spec.out_groups * spec.out_rank
    grouped = w.linear(
        "attention.out_a",
        near,
        Linear(
            m, spec.out_rank, size // spec.out_groups, module=f"{module}.o_a_proj", tp="head",
            batch=spec.out_groups, heads=spec.heads, kv_heads=spec.heads,
        ),
    )  # fmt: skip
    return w.linear("attention.out", grouped, Linear(m, hidden, wide, module=f"{module}.o_b_proj", tp="row"))


def _norm(w: GraphWriter, name: str, m: int, n: int, source: str) -> str:
    out = w.activation(f"{name}.out", m, n)
    work = Norm(m=m, n=n, flops_per_element=NORM_FLOPS["rms"], norm="rms")
    w.emit(name, work, (source, w.weight(f"{name}.weight", n)), (out,))
    return out


def _near(w: GraphWriter, step: Step, spec: CompressedAttention, turned: str, sinks: str) -> str:
    """Attention to the window, whose keys are cached one by one."""
    m, dim, size = step.tokens, spec.head_dim, spec.heads * spec.head_dim
    stored = step.stored(spec.window)
    cache = w.cache("attention.window_cache", step.batch, stored, dim) if step.keeps_cache else ""
    out = w.activation("attention.near.out", m, size)

    def attend(writer: GraphWriter, at: Step) -> None:
        work = Attention(
            batch=at.batch, heads=spec.heads, kv_heads=1, head_dim=dim, v_head_dim=dim, q_len=at.new,
            kv_len=at.context, causal=True, window=spec.window, latent=True, kv_dtype=w.precision.cache,
        )  # fmt: skip
        old = at.seen(spec.window) - at.new
        touched = {turned: at.tokens * (size + dim)} | ({cache: at.batch * old * dim} if cache else {})
        written = {cache: at.batch * min(at.new, at.stored(spec.window)) * dim} if cache else {}
        writer.emit(
            "attention.near",
            work,
            tuple(name for name in (turned, cache, sinks) if name),
            (out,),
            updates=(cache,) if cache else (),
            tp="head",
            moves=Moves(touched=touched, written=written),
        )

    w.write_moving(attend, step)
    return out


def _far(
    w: GraphWriter, step: Step, spec: CompressedAttention, hidden: int, source: str, latent: str, turned: str,
    module: str,
) -> str:  # fmt: skip
    """Attention to the compressed tokens, all of them or those that the indexer picks."""
    dim, size = spec.head_dim, spec.heads * spec.head_dim
    overlaps = 2 if spec.indexer is not None else 1
    names = f"{module}.compressor"
    made, cache = _compress(w, step, spec.rate, overlaps, dim, hidden, source, "attention.compressor", names)
    chosen = ""
    if spec.indexer is not None:
        chosen = _choose(w, step, spec, spec.indexer, hidden, source, latent, module)
    out = w.activation("attention.far.out", step.tokens, size)

    def attend(writer: GraphWriter, at: Step) -> None:
        pairs = _pairs(at, spec.rate, spec.indexer.top_k if spec.indexer else 0)
        # On average a query sees so many compressed keys; a causal mask is in that number.
        keys = max(-(-pairs // at.new), 1)
        work = Attention(
            batch=at.batch, heads=spec.heads, kv_heads=1, head_dim=dim, v_head_dim=dim, q_len=at.new, kv_len=keys,
            causal=False, latent=True, kv_dtype=w.precision.cache,
        )  # fmt: skip
        read = min(pairs, at.context // spec.rate) if at.new > 1 else pairs
        touched = {turned: at.tokens * size, made: 0} | ({cache: at.batch * read * dim} if cache else {})
        if chosen:
            touched[chosen] = at.batch * pairs
        writer.emit(
            "attention.far",
            work,
            tuple(name for name in (turned, made, cache, chosen) if name),
            (out,),
            tp="head",
            moves=Moves(touched=touched),
        )

    w.write_moving(attend, step)
    return out


def _pairs(step: Step, rate: int, top_k: int) -> int:
    """(query, compressed key) pairs per sequence: a query sees the whole pieces before it, at most ``top_k``."""

    def seen(length: int) -> int:
        # Sum of floor(p / rate) over the first positions p = 1 .. length, each at most top_k.
        whole, rest = divmod(length, rate)
        if top_k and whole > top_k:
            full = seen(top_k * rate)
            return full + (length - top_k * rate) * top_k
        return rate * whole * (whole - 1) // 2 + whole * (rest + 1)

    return seen(step.context) - seen(step.past)


def _compress(
    w: GraphWriter, step: Step, rate: int, overlaps: int, dim: int, hidden: int, source: str, name: str, module: str
) -> tuple[str, str]:  # fmt: skip
    """Weighted means of ``rate`` tokens each, normed; returns the new ones and the cache that they join."""
    m, width = step.tokens, overlaps * dim
    values = w.linear(
        f"{name}.kv", source, Linear(m, width, hidden, module=f"{module}.kv_proj", tp="replicated")
    )
    gate = w.linear(
        f"{name}.gate", source, Linear(m, width, hidden, module=f"{module}.gate_proj", tp="replicated")
    )
    position = w.weight(f"{name}.position_bias", rate, width)
    norm = w.weight(f"{name}.norm.weight", dim)
    rows = step.batch * max(step.new // rate, 1)
    out = w.activation(f"{name}.out", rows, dim)
    cache = state = ""
    if step.keeps_cache:
        cache = w.cache(f"{name}.cache", step.batch, max(step.capacity // rate, 1), dim)
        # Values and gates of the piece that is not whole yet; of the one before, where pieces overlap, one half.
        open_piece = 2 * width * min(step.capacity, rate) + (overlaps - 1) * 2 * rate * dim
        state = w.cache(f"{name}.state", step.batch, open_piece)
    # A decode step adds to the open piece; one step in ``rate`` closes it.
    closed = step.batch * step.new / rate
    work = Reduce(m=m, n=width, flops_per_element=MEAN_FLOPS + NORM_FLOPS["rms"] * dim / (width * rate))
    kept = 2 * width * min(step.new, rate) * step.batch
    held = w.tensors[state].shape[1] * step.batch if state else 0
    used = min(round(2 * width * overlaps * rate * closed), held) if step.past else 0
    w.emit(
        f"{name}.mean",
        work,
        tuple(part for part in (values, gate, position, norm, state) if part),
        (out,),
        updates=tuple(part for part in (cache, state) if part),
        moves=Moves(
            touched={state: used} if state else {},
            written={cache: round(closed * dim), state: kept} if cache else {},
        ),
    )
    return out, cache


def _choose(
    w: GraphWriter, step: Step, spec: CompressedAttention, indexer: Indexer, hidden: int, source: str, latent: str,
    module: str,
) -> str:  # fmt: skip
    """Score every compressed token with a few small heads and keep the best; returns the chosen indices."""
    m, dim, heads = step.tokens, indexer.head_dim, indexer.heads
    names = f"{module}.compressor.indexer"
    made, cache = _compress(w, step, spec.rate, 2, dim, hidden, source, "attention.indexer", names)
    query = w.linear(
        "attention.indexer.q",
        latent,
        Linear(m, heads * dim, spec.q_rank, module=f"{names}.q_b_proj", tp="replicated"),
    )
    scale = w.linear(
        "attention.indexer.weights", source, Linear(m, heads, hidden, module="", tp="replicated")
    )
    chosen = w.activation("attention.indexer.topk.out", m, indexer.top_k, "int32")

    def score(writer: GraphWriter, at: Step) -> None:
        pieces = max(at.context // spec.rate, 1)
        pairs = max(at.batch * _pairs(at, spec.rate, 0), 1)
        scores = writer.activation("attention.indexer.score.out", at.tokens, pieces, "fp32")
        work = Product(
            m=at.new * heads, n=pieces, k=dim, batch=at.batch, share=min(pairs / (at.tokens * pieces), 1.0),
            extra_flops=3.0 * pairs * heads,
        )  # fmt: skip
        touched = {made: 0} | ({cache: at.batch * pieces * dim} if cache else {})
        writer.emit(
            "attention.indexer.score",
            work,
            tuple(name for name in (query, scale, made, cache) if name),
            (scores,),
            moves=Moves(touched=touched),
        )
        chooses = TopK(
            m=at.tokens, n=pieces, k=min(indexer.top_k, pieces),
            flops_per_element=SOFTMAX_FLOPS * pairs / (at.tokens * pieces),
        )  # fmt: skip
        writer.emit("attention.indexer.topk", chooses, (scores,), (chosen,))

    w.write_moving(score, step)
    return chosen
