"""Attention of an operator table."""

from __future__ import annotations

from typing import Final

from workloads.operator_table.cells import Built, Cells, Rule, UnfitError
from workloads.operators import Attention

__all__ = ["OPS"]


# LLMServingSim's first profiler calls flash-attn's variable-length kernel, which gives each query head of
# each sequence to one multiprocessor, however long the cache.
_KERNELS_WITHOUT_SPLIT: Final = frozenset({"v0 flash-attn"})


def _attention(c: Cells) -> Built:
    batch, heads, dim = c("batch", 1), c("heads"), c("head_dim")
    q_len, v_dim = c("q_len", 1), c("v_head_dim", dim)
    kv_heads = c("kv_heads", heads)
    kv_len = c("kv_len", q_len)
    window = c("window", kv_len)
    causal = c.text.get("causal", "") not in ("0", "false", "False", "no")
    if heads % kv_heads:
        raise UnfitError(f"{heads} heads cannot share {kv_heads} KV heads evenly")
    if causal and q_len > kv_len:
        raise UnfitError(f"{q_len} queries see only {kv_len} keys under a causal mask")
    work = Attention(
        batch=batch, heads=heads, kv_heads=kv_heads, head_dim=dim, v_head_dim=v_dim, q_len=q_len, kv_len=kv_len,
        causal=causal, window=window if window < kv_len else 0,
        split_kv=c.text.get("label", "") not in _KERNELS_WITHOUT_SPLIT,
    )  # fmt: skip
    read = c.size(batch * heads * q_len * dim) + c.size(batch * kv_heads * work.seen * (dim + v_dim))
    return Built(work, read, c.size(batch * heads * q_len * v_dim, c.output_dtype()))


OPS: Final[dict[str, Rule]] = {
    "attention": _attention, "attention_prefill": _attention, "attention_decode": _attention,
}  # fmt: skip
