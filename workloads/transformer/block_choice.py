"""The choice of blocks of keys that a query attends to (MiniMax-M3).

A few small heads score every cached token against keys of their own; the best token of a block stands for the block,
and a query attends to the tokens of the best blocks, those nearest to it among them.
"""

from __future__ import annotations

from workloads.operators import Norm, Product, TopK
from workloads.transformer.shape import BlockChoice
from workloads.transformer.step import Step
from workloads.transformer.writer import NORM_FLOPS, ROTARY_FLOPS, SOFTMAX_FLOPS, GraphWriter, Linear, Moves

__all__ = ["write_block_choice"]


def write_block_choice(w: GraphWriter, step: Step, spec: BlockChoice, hidden: int, source: str) -> str:
    """Score the cached tokens and keep the best blocks; returns the tensor of their indices."""
    m, dim, heads = step.tokens, spec.head_dim, spec.heads
    module = f"model.layers.{w.layer}.self_attn.indexer"
    query = w.linear(
        "attention.indexer.q",
        source,
        Linear(m, heads * dim, hidden, module=f"{module}.q_proj", tp="replicated"),
    )
    key = w.linear(
        "attention.indexer.k", source, Linear(m, dim, hidden, module=f"{module}.k_proj", tp="replicated")
    )
    weights = [w.weight(f"attention.indexer.{part}_norm.weight", dim) for part in "qk"]
    n = (heads + 1) * dim
    normed = w.activation("attention.indexer.norm.out", m, n)
    work = Norm(m=m, n=n, flops_per_element=NORM_FLOPS["rms"] + ROTARY_FLOPS, norm="rms")
    w.emit("attention.indexer.norm", work, (query, key, *weights), (normed,))
    cache = ""
    if step.keeps_cache:
        cache = w.cache("attention.indexer.k_cache", step.batch, step.capacity, dim)
    chosen = w.activation("attention.indexer.topk.out", m, heads * spec.blocks, "int32")

    def score(writer: GraphWriter, at: Step) -> None:
        blocks = -(-at.context // spec.size)
        pairs = at.batch * at.pairs()
        scores = writer.activation("attention.indexer.score.out", at.tokens * heads, blocks, "fp32")
        # The maximum over a block is taken as the scores are made: one number per block goes to memory.
        product = Product(
            m=at.new * heads, n=at.context, k=dim, batch=at.batch, share=at.pairs() / (at.new * at.context),
            extra_flops=float(pairs * heads),
        )  # fmt: skip
        writer.emit(
            "attention.indexer.score",
            product,
            tuple(name for name in (normed, cache) if name),
            (scores,),
            updates=(cache,) if cache else (),
            moves=Moves(
                touched={cache: at.batch * at.past * dim} if cache else {},
                written={cache: at.tokens * dim} if cache else {},
            ),
        )
        best = TopK(
            m=at.tokens * heads, n=blocks, k=min(spec.blocks, blocks), flops_per_element=SOFTMAX_FLOPS
        )
        writer.emit("attention.indexer.topk", best, (scores,), (chosen,))

    w.write_moving(score, step)
    return chosen
