"""The operators of an indexer: small heads that score what is cached and pick the best (DeepSeek-V3.2, GLM-5)."""

from __future__ import annotations

from typing import Final

from workloads.operators import Norm, Product, Reduce, Rotary, TopK
from workloads.transformer.shape import Indexer, LatentAttention
from workloads.transformer.step import Step
from workloads.transformer.writer import NORM_FLOPS, ROTARY_FLOPS, SOFTMAX_FLOPS, GraphWriter, Linear, Moves

__all__ = ["write_indexer"]

POOL_FLOPS: Final = 7.0
"""Per element of a weighted mean: a bias, a softmax over the pool, a multiplication and an addition."""


def write_indexer(
    w: GraphWriter, step: Step, spec: LatentAttention, indexer: Indexer, hidden: int, source: str,
    query_latent: str, module: str,
) -> str:  # fmt: skip
    """Score every cached token with a few small heads and keep the best; returns the chosen indices."""
    m, dim, heads = step.tokens, indexer.head_dim, indexer.heads
    width = spec.q_rank or hidden
    entry = query_latent if spec.q_rank else source
    if indexer.norm_input:
        own = [w.weight(f"attention.indexer.q_norm.{part}", width) for part in ("weight", "bias")]
        entry, plain = w.activation("attention.indexer.q_norm.out", m, width), entry
        layer = Norm(m=m, n=width, flops_per_element=NORM_FLOPS["layer"], norm="layer")
        w.emit("attention.indexer.q_norm", layer, (plain, *own), (entry,))
    query = w.linear(
        "attention.indexer.q",
        entry,
        Linear(m, heads * dim, width, module=f"{module}.indexer.wq_b", tp="replicated"),
    )
    key = w.linear(
        "attention.indexer.k", source, Linear(m, dim, hidden, module=f"{module}.indexer.wk", tp="replicated")
    )
    weights = [
        w.weight("attention.indexer.k_norm.weight", dim),
        w.weight("attention.indexer.k_norm.bias", dim),
    ]
    normed = w.activation("attention.indexer.k_norm.out", m, dim)
    work = Norm(m=m, n=dim, flops_per_element=NORM_FLOPS["layer"], norm="layer")
    w.emit("attention.indexer.k_norm", work, (key, *weights), (normed,))
    rotated = w.activation("attention.indexer.rotary.out", m, (heads + 1) * dim)
    turned = Rotary(m=m, n=(heads + 1) * dim, flops_per_element=ROTARY_FLOPS * spec.rope_dim / dim)
    learned = (w.weight("attention.indexer.scales", indexer.vectors),) if indexer.vectors else ()
    w.emit("attention.indexer.rotary", turned, (query, normed, *learned), (rotated,))
    scale = w.linear(
        "attention.indexer.weights", source, Linear(m, heads, hidden, module="", tp="replicated")
    )
    gate, wide = "", dim
    if indexer.pool > 1:
        # A pool is built anew of its keys and of scores that weigh them; both are cached, and whether a token counts.
        gate = w.linear(
            "attention.indexer.pool_gate", source, Linear(m, dim, hidden, module="", tp="replicated")
        )
        wide = 2 * dim + 1
    cache = w.cache("attention.indexer.k_cache", step.batch, step.capacity, wide) if step.keeps_cache else ""
    chosen = w.activation("attention.indexer.topk.out", m, indexer.top_k, "int32")

    def score(writer: GraphWriter, at: Step) -> None:
        rows, seen = at.tokens, at.context
        pooled = ""
        if indexer.pool > 1:
            pooled = _write_pools(writer, at, indexer, (rotated, gate), cache)
            seen = -(-seen // indexer.pool)
        # A causal mask leaves only some of the rectangle's pairs.
        share = at.pairs() / (at.new * at.context)
        pairs = round(rows * seen * share)
        scores = writer.activation("attention.indexer.score.out", rows, seen, "fp32")
        work = Product(
            m=at.new * heads, n=seen, k=dim, batch=at.batch, share=share, extra_flops=3.0 * pairs * heads,
        )  # fmt: skip
        keys = (pooled,) if pooled else (cache,)
        moves = Moves(
            touched={rotated: m * (heads + 1) * dim, cache: at.batch * at.past * dim},
            written={cache: rows * dim},
        )
        if pooled:
            moves = Moves(touched={rotated: m * heads * dim})
        writer.emit(
            "attention.indexer.score",
            work,
            tuple(name for name in (rotated, scale, *keys) if name),
            (scores,),
            updates=(cache,) if cache and not pooled else (),
            moves=moves,
        )
        chooses = TopK(
            m=rows, n=seen, k=min(indexer.top_k // indexer.pool, seen),
            flops_per_element=SOFTMAX_FLOPS * pairs / (rows * seen),
        )  # fmt: skip
        writer.emit("attention.indexer.topk", chooses, (scores,), (chosen,))

    w.write_moving(score, step)
    return chosen


def _write_pools(w: GraphWriter, at: Step, indexer: Indexer, new: tuple[str, str], cache: str) -> str:
    """Keys of pools of tokens, each the weighted mean of its tokens' keys; returns their name."""
    dim, pools = indexer.head_dim, -(-at.context // indexer.pool)
    keys, gate = new
    bias = w.weight("attention.indexer.pool_bias", indexer.pool, dim)
    out = w.activation("attention.indexer.pool.out", at.batch * pools, dim)
    past = at.batch * at.past * (2 * dim + 1)
    w.emit(
        "attention.indexer.pool",
        Reduce(m=at.batch * pools, n=dim, flops_per_element=POOL_FLOPS * indexer.pool),
        tuple(name for name in (keys, gate, bias, cache) if name),
        (out,),
        updates=(cache,) if cache else (),
        moves=Moves(
            touched={keys: at.tokens * dim} | ({cache: past} if cache else {}),
            written={cache: at.tokens * (2 * dim + 1)} if cache else {},
        ),
    )
    return out
