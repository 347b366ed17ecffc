"""What ONNX operators over sequences cost: attention in its forms, recurrent cells, experts, transforms."""

from __future__ import annotations

from dataclasses import replace
from math import log2, prod
from typing import Final

from workloads.dtypes import size_bytes
from workloads.onnx_node import Cost, Node, Rule, over_rows
from workloads.operators import Attention, Elementwise, Embedding, GroupedProduct, Recurrence, Rotary
from workloads.transformer.writer import NORM_FLOPS, ROTARY_FLOPS

__all__ = [
    "attention",
    "attention_of",
    "embed_layer_norm",
    "fourier",
    "grouped_query_attention",
    "linear_attention",
    "mixture",
    "multi_head_attention",
    "recurrent",
    "rotary",
]


def recurrent(gates: int) -> Rule:
    """LSTM, GRU and RNN: ``gates`` products of input and hidden state for every step."""

    def rule(node: Node) -> Cost:
        steps, batch, inputs = node.shape(0)
        if int(node.get("layout", 0)):
            steps, batch = batch, steps
        directions, rows, _ = node.shape(1)
        hidden = rows // gates
        per_step = 2.0 * gates * hidden * (inputs + hidden) + 10.0 * hidden
        work = Recurrence(
            batch=batch, sequence=steps, hidden=hidden, input_size=inputs, gates=gates, directions=directions,
            flops_per_token=per_step,
        )  # fmt: skip
        return Cost(work)

    return rule


HEAD_SINK: Final = 11
"""Place of the sinks' logits among the inputs of GroupQueryAttention (onnxruntime, docs/ContribOperators.md)."""


def attention_of(
    batch: int, heads: int, kv_heads: int, size: int, v_size: int, q_len: int, kv_len: int, causal: bool
) -> Attention:
    """Attention over all that its sizes say."""
    return Attention(
        batch=batch, heads=heads, kv_heads=kv_heads, head_dim=size, v_head_dim=v_size, q_len=q_len,
        kv_len=kv_len, causal=causal,
    )  # fmt: skip


def attention(node: Node) -> Cost:
    """The standard operator (opset 23): heads in the third dimension or in the second."""
    q, k, v = node.shape(0), node.shape(1), node.shape(2)
    past = node.at(4)
    before = past.shape[2] if past is not None and len(past.shape) == 4 else 0
    causal = bool(node.get("is_causal", 0))
    if len(q) == 4:
        return Cost(attention_of(q[0], q[1], k[1], q[3], v[3], q[2], k[2] + before, causal))
    heads, kv_heads = int(node.get("q_num_heads")), int(node.get("kv_num_heads"))
    sizes = q[2] // heads, v[2] // kv_heads
    return Cost(attention_of(q[0], heads, kv_heads, *sizes, q[1], k[1] + before, causal))


def multi_head_attention(node: Node) -> Cost:
    """com.microsoft: query of three or packed five dimensions; keys of three or four."""
    query, heads = node.shape(0), int(node.get("num_heads"))
    causal = bool(node.get("unidirectional", 0))
    if len(query) == 5:
        batch, length, _, _, size = query
        return Cost(attention_of(batch, heads, heads, size, size, length, length, causal))
    batch, length, hidden = query
    key, value = node.at(1), node.at(2)
    size = hidden // heads
    if key is None:
        return Cost(attention_of(batch, heads, heads, size, size, length, length, causal))
    kv_len = key.shape[2] if len(key.shape) == 4 else key.shape[1]
    past = node.at(6)
    before = past.shape[2] if past is not None and len(past.shape) == 4 else 0
    v_size = node.out.shape[-1] // heads if value is not None else size
    return Cost(attention_of(batch, heads, heads, size, v_size, length, kv_len + before, causal))


def grouped_query_attention(node: Node) -> Cost:
    """com.microsoft: fewer key and value heads than queries, and a cache that grows."""
    batch, length, width = node.shape(0)
    heads, kv_heads = int(node.get("num_heads")), int(node.get("kv_num_heads"))
    packed = node.at(1) is None
    size = width // (heads + 2 * kv_heads) if packed else width // heads
    kv_len = node.outputs[1].shape[2] if len(node.outputs) > 1 else length
    work = attention_of(batch, heads, kv_heads, size, size, length, kv_len, True)
    window = max(0, int(node.get("local_window_size", 0)))
    cost = Cost(replace(work, window=window, sink_logits=node.at(HEAD_SINK) is not None))
    for index, cache in enumerate(node.outputs[1:3], 1):  # only the new tokens' keys and values are written
        cost.written[index] = size_bytes(batch * kv_heads * length * size, cache.dtype)
    return cost


def linear_attention(node: Node) -> Cost:
    """A state of d_k x d_v per head: updated (4 operations per element) and read (2) for every token."""
    batch, length, width = node.shape(1)
    heads, kv_heads = int(node.get("q_num_heads")), int(node.get("kv_num_heads"))
    size, v_size = width // kv_heads, node.shape(2)[-1] // kv_heads
    per_token = size * v_size * (4.0 * kv_heads + 2.0 * heads)
    work = Recurrence(
        batch=batch, sequence=length, hidden=kv_heads * v_size, input_size=kv_heads * size,
        flops_per_token=per_token,
    )  # fmt: skip
    return Cost(work)


def rotary(node: Node) -> Cost:
    """Rotary position embedding; its table of angles is small and left out."""
    return Cost(over_rows(Rotary, node.out.shape, ROTARY_FLOPS), (0,))


def fourier(node: Node) -> Cost:
    """Fast Fourier transforms: 5/2 n log2 n operations for n real samples."""
    length = max(2, prod(node.shape(0)) // max(1, node.shape(0)[0]))
    if node.op == "STFT":
        frame = node.at(3)
        length = int(frame.array.reshape(-1)[0]) if frame is not None and frame.array is not None else length
        window = node.at(2)
        length = window.elements if window is not None and frame is None else length
    return Cost(over_rows(Elementwise, node.out.shape, 2.5 * log2(max(2, length))))


def embed_layer_norm(node: Node) -> Cost:
    """com.microsoft: embedding lookups, their sum and its layer norm."""
    tables = sum(1 for index in (2, 3, 4) if node.at(index) is not None)
    return Cost(over_rows(Embedding, node.out.shape, NORM_FLOPS["layer"] + tables - 1))


def mixture(node: Node) -> Cost:
    """com.microsoft MoE: router scores and weights of all experts; k experts a token, two products each."""
    tokens = prod(node.shape(0)[:-1])
    hidden, experts = node.shape(0)[-1], node.shape(1)[-1]
    active, inner = int(node.get("k", 1)), node.shape(2)[-1]
    touched = experts * (1 - (1 - active / experts) ** tokens)
    work = GroupedProduct(
        m=tokens * active, n=inner, k=hidden, groups=experts, active=active, expected_groups=touched, share=2.0
    )  # fmt: skip
    return Cost(work)
