"""Attention of a decoder to what an encoder made of its input.

Keys and values are made once, from the encoder's result, and kept; every decoder step reads all of them. There is no
mask: each query sees the whole input.
"""

from __future__ import annotations

from dataclasses import dataclass

from workloads.operators import Attention, Product, Softmax
from workloads.transformer.shape import Attention as AttentionShape
from workloads.transformer.step import Step
from workloads.transformer.writer import SOFTMAX_FLOPS, GraphWriter, Linear, Moves

__all__ = ["Memory", "write_cross_attention"]


@dataclass(frozen=True, slots=True)
class Memory:
    """An encoder's result: ``length`` states of ``width`` features per sequence.

    ``states`` is the tensor that holds them, empty in a decode step, where keys and values are in the cache.
    """

    states: str
    length: int
    width: int


def write_cross_attention(
    w: GraphWriter, step: Step, spec: AttentionShape, hidden: int, source: str, memory: Memory
) -> str:
    """Cross attention of one layer over ``source``; returns the output's name."""
    m, size = step.tokens, spec.heads * spec.head_dim
    module = f"model.decoder.layers.{w.layer}.encoder_attn"
    query = w.linear(
        "cross.q", source,
        Linear(
            m, size, hidden, module=f"{module}.q_proj", tp="column", bias=size if spec.q_bias else 0,
            heads=spec.heads,
        ),
    )  # fmt: skip
    pair = _keys_and_values(w, step, spec, memory, module)
    out = w.activation("cross.attend.out", m, spec.heads * spec.v_head_dim)
    (_attend_fused if w.fused else _attend_apart)(w, step, spec, query, pair, out, memory.length)
    return w.linear(
        "cross.out", out,
        Linear(
            m, hidden, spec.heads * spec.v_head_dim, module=f"{module}.out_proj", tp="row",
            bias=hidden if spec.out_bias else 0,
        ),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Pair:
    """Tensors of new keys and values ("" in a decode step), and the caches that keep them ("" in training)."""

    key: str
    value: str
    k_cache: str
    v_cache: str


def _keys_and_values(w: GraphWriter, step: Step, spec: AttentionShape, memory: Memory, module: str) -> _Pair:
    k, v = spec.kv_heads * spec.head_dim, spec.kv_heads * spec.v_head_dim
    caches = ("", "")
    if step.keeps_cache:
        shape = (step.batch, spec.kv_heads, memory.length)
        caches = (
            w.cache("cross.k_cache", *shape, spec.head_dim), w.cache("cross.v_cache", *shape, spec.v_head_dim)
        )  # fmt: skip
    if not memory.states:
        return _Pair("", "", *caches)
    rows = step.batch * memory.length
    parts = {"kv": (k + v, spec.k_bias * k + spec.v_bias * v)}
    if not w.fused:
        parts = {"k": (k, spec.k_bias * k), "v": (v, spec.v_bias * v)}
    made = [
        w.linear(
            f"cross.{part}", memory.states,
            Linear(
                rows, n, memory.width, module=f"{module}.k_proj", tp="column", bias=bias, kv_heads=spec.kv_heads
            ),
        )
        for part, (n, bias) in parts.items()
    ]  # fmt: skip
    return _Pair(made[0], made[-1], *caches)


def _attend_fused(
    w: GraphWriter, step: Step, spec: AttentionShape, query: str, pair: _Pair, out: str, length: int
) -> None:
    caches = tuple(name for name in (pair.k_cache, pair.v_cache) if name)
    new = tuple(dict.fromkeys(name for name in (pair.key, pair.value) if name))
    work = Attention(
        batch=step.batch, heads=spec.heads, kv_heads=spec.kv_heads, head_dim=spec.head_dim,
        v_head_dim=spec.v_head_dim, q_len=step.new, kv_len=length, kv_dtype=w.precision.cache,
    )  # fmt: skip
    # New keys and values are read where they were made and written to the cache; later they are read there.
    whole = {name: w.elements(name) for name in caches}
    moves = Moves(written=whole) if new else Moves(touched=whole)
    w.emit(
        "cross.attend",
        work,
        (query, *(new or caches)),
        (out,),
        updates=caches if new else (),
        tp="head",
        moves=moves,
    )


def _attend_apart(
    w: GraphWriter, step: Step, spec: AttentionShape, query: str, pair: _Pair, out: str, length: int
) -> None:
    rows = step.batch * spec.heads * step.new
    scores = w.activation("cross.qk_matmul.out", rows, length)
    weights = w.activation("cross.softmax.out", rows, length)

    def product(name: str, left: str, new: str, cache: str, result: str, n: int, k: int) -> None:
        heads = step.batch * spec.heads
        work = Product(m=step.new, n=n, k=k, batch=heads, heads=spec.heads, kv_heads=spec.kv_heads)
        whole = {cache: w.elements(cache)} if cache else {}
        moves = Moves(written=whole) if new else Moves(touched=whole)
        updates = (cache,) if new and cache else ()
        w.emit(name, work, (left, new or cache), (result,), updates=updates, tp="head", moves=moves)

    product("cross.qk_matmul", query, pair.key, pair.k_cache, scores, length, spec.head_dim)
    softmax = Softmax(
        m=rows, n=length, flops_per_element=SOFTMAX_FLOPS, heads=spec.heads, kv_heads=spec.kv_heads
    )
    w.emit("cross.softmax", softmax, (scores,), (weights,), tp="head")
    product("cross.sv_matmul", weights, pair.value, pair.v_cache, out, spec.v_head_dim, length)
