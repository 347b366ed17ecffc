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
    window = c("window", 0)
    causal, sink_tokens = c.flag("causal", True), c("sink_tokens", 0)
    if sink_tokens and not window:
        raise UnfitError(f"{sink_tokens} sink_tokens without a window; a query sees the first tokens anyway")
    if heads % kv_heads:
        raise UnfitError(f"{heads} heads cannot share {kv_heads} KV heads evenly")
    if causal and q_len > kv_len:
        raise UnfitError(f"{q_len} queries see only {kv_len} keys under a causal mask")
    work = Attention(
        batch=batch, heads=heads, kv_heads=kv_heads, head_dim=dim, v_head_dim=v_dim, q_len=q_len, kv_len=kv_len,
        causal=causal, window=window, sink_logits=c.flag("sink_logits", False), sink_tokens=sink_tokens,
        kv_dtype=_cache_dtype(c), split_kv=c.text.get("label", "") not in _KERNELS_WITHOUT_SPLIT,
    )  # fmt: skip
    cache = c.size(batch * kv_heads * work.seen * (dim + v_dim), work.kv_dtype)
    read = c.size(batch * heads * q_len * dim) + cache + (c.size(heads, "bf16") if work.sink_logits else 0)
    return Built(work, read, c.size(batch * heads * q_len * v_dim, c.output_dtype()))


def _cache_dtype(c: Cells) -> str:
    """The element type of the cache; nothing where it is that of the arithmetic."""
    given = c.text.get("kv_dtype", "")
    return "" if given == c.dtype else given


# DeepSeek-V3 (arXiv:2412.19437, table of section 4.2): latent 512, rotary 64, 128 elements of a head's key beside the
# rotary part and of its value. A table that gives heads alone means this shape.
_LATENT, _ROTARY, _NOPE, _VALUE = 512, 64, 128, 128


def _latent_prefill(c: Cells) -> Built:
    """Keys and values of each head, expanded from the latents before the kernel: attention over 192 and 128."""
    batch, heads, q_len = c("batch", 1), c("heads"), c("q_len")
    kv_len, key = c("kv_len", q_len), _NOPE + _ROTARY
    if q_len > kv_len:
        raise UnfitError(f"{q_len} queries see only {kv_len} keys under a causal mask")
    work = Attention(
        batch=batch, heads=heads, kv_heads=heads, head_dim=key, v_head_dim=_VALUE, q_len=q_len, kv_len=kv_len,
        causal=True, kv_dtype=_cache_dtype(c),
    )  # fmt: skip
    read = c.size(batch * heads * (q_len * key + kv_len * (key + _VALUE)))
    return Built(work, read, c.size(batch * heads * q_len * _VALUE, c.output_dtype()))


def _latent_decode(c: Cells) -> Built:
    """Absorbed: every query head reads the same latents, which are keys and values in one."""
    batch, heads, q_len = c("batch", 1), c("heads"), c("q_len", 1)
    kv_len, key = c("kv_len"), _LATENT + _ROTARY
    if q_len > kv_len:
        raise UnfitError(f"{q_len} queries see only {kv_len} keys under a causal mask")
    work = Attention(
        batch=batch, heads=heads, kv_heads=1, head_dim=key, v_head_dim=_LATENT, q_len=q_len, kv_len=kv_len,
        causal=True, latent=True, kv_dtype=_cache_dtype(c),
    )  # fmt: skip
    read = c.size(batch * heads * q_len * key) + c.size(batch * kv_len * key, work.kv_dtype)
    return Built(work, read, c.size(batch * heads * q_len * _LATENT, c.output_dtype()))


OPS: Final[dict[str, Rule]] = {
    "attention": _attention, "attention_prefill": _attention, "attention_decode": _attention,
    "mla_prefill": _latent_prefill, "mla_decode": _latent_decode,
}  # fmt: skip
