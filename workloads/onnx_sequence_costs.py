"""What ONNX operators over sequences cost: attention in its forms, recurrent cells, experts, transforms."""

from __future__ import annotations

from math import log2, prod

from workloads.dtypes import size_bytes
from workloads.graph import Attribute
from workloads.onnx_node import Cost, Node, Rule, rows
from workloads.transformer.writer import NORM_FLOPS, ROTARY_FLOPS

__all__ = [
    "attention",
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
        attributes: dict[str, Attribute] = {
            "batch": batch, "sequence": steps, "hidden": hidden, "input_size": inputs,
            "gates": gates, "directions": directions,
        }  # fmt: skip
        return Cost("recurrent", directions * steps * batch * per_step, attributes)

    return rule


def _attention_cost(
    batch: int, heads: int, kv_heads: int, size: int, v_size: int, q_len: int, kv_len: int, causal: bool
) -> Cost:
    seen = kv_len - (q_len - 1) / 2 if causal and q_len <= kv_len else kv_len
    flops = 2.0 * batch * heads * q_len * seen * (size + v_size)
    attributes: dict[str, Attribute] = {
        "batch": batch, "heads": heads, "kv_heads": kv_heads, "head_dim": size, "v_head_dim": v_size,
        "q_len": q_len, "kv_len": kv_len, "causal": causal, "window": 0,
    }  # fmt: skip
    return Cost("attention", flops, attributes)


def attention(node: Node) -> Cost:
    """The standard operator (opset 23): heads in the third dimension or in the second."""
    q, k, v = node.shape(0), node.shape(1), node.shape(2)
    past = node.at(4)
    before = past.shape[2] if past is not None and len(past.shape) == 4 else 0
    causal = bool(node.get("is_causal", 0))
    if len(q) == 4:
        return _attention_cost(q[0], q[1], k[1], q[3], v[3], q[2], k[2] + before, causal)
    heads, kv_heads = int(node.get("q_num_heads")), int(node.get("kv_num_heads"))
    sizes = q[2] // heads, v[2] // kv_heads
    return _attention_cost(q[0], heads, kv_heads, *sizes, q[1], k[1] + before, causal)


def multi_head_attention(node: Node) -> Cost:
    """com.microsoft: query of three or packed five dimensions; keys of three or four."""
    query, heads = node.shape(0), int(node.get("num_heads"))
    causal = bool(node.get("unidirectional", 0))
    if len(query) == 5:
        batch, length, _, _, size = query
        return _attention_cost(batch, heads, heads, size, size, length, length, causal)
    batch, length, hidden = query
    key, value = node.at(1), node.at(2)
    size = hidden // heads
    if key is None:
        return _attention_cost(batch, heads, heads, size, size, length, length, causal)
    kv_len = key.shape[2] if len(key.shape) == 4 else key.shape[1]
    past = node.at(6)
    before = past.shape[2] if past is not None and len(past.shape) == 4 else 0
    v_size = node.out.shape[-1] // heads if value is not None else size
    return _attention_cost(batch, heads, heads, size, v_size, length, kv_len + before, causal)


def grouped_query_attention(node: Node) -> Cost:
    """com.microsoft: fewer key and value heads than queries, and a cache that grows."""
    batch, length, width = node.shape(0)
    heads, kv_heads = int(node.get("num_heads")), int(node.get("kv_num_heads"))
    packed = node.at(1) is None
    size = width // (heads + 2 * kv_heads) if packed else width // heads
    kv_len = node.outputs[1].shape[2] if len(node.outputs) > 1 else length
    cost = _attention_cost(batch, heads, kv_heads, size, size, length, kv_len, True)
    cost.attributes["window"] = max(0, int(node.get("local_window_size", 0)))
    if len(node.outputs) > 1:
        new = size_bytes(2 * batch * kv_heads * length * size, node.outputs[1].dtype)
        cost.write_bytes = node.out.size + new
    return cost


def linear_attention(node: Node) -> Cost:
    """A state of d_k x d_v per head: updated (4 operations per element) and read (2) for every token."""
    batch, length, width = node.shape(1)
    heads, kv_heads = int(node.get("q_num_heads")), int(node.get("kv_num_heads"))
    size, v_size = width // kv_heads, node.shape(2)[-1] // kv_heads
    flops = batch * length * size * v_size * (4.0 * kv_heads + 2.0 * heads)
    attributes: dict[str, Attribute] = {
        "batch": batch, "sequence": length, "hidden": kv_heads * v_size, "input_size": kv_heads * size,
    }  # fmt: skip
    return Cost("recurrent", flops, attributes)


def rotary(node: Node) -> Cost:
    """Rotary position embedding; its table of angles is small and left out."""
    return Cost("rotary", ROTARY_FLOPS * node.out.elements, rows(node.out.shape), (0,), node.out.size)


def fourier(node: Node) -> Cost:
    """Fast Fourier transforms: 5/2 n log2 n operations for n real samples."""
    out = node.out.elements
    length = max(2, prod(node.shape(0)) // max(1, node.shape(0)[0]))
    if node.op == "STFT":
        frame = node.at(3)
        length = int(frame.array.reshape(-1)[0]) if frame is not None and frame.array is not None else length
        window = node.at(2)
        length = window.elements if window is not None and frame is None else length
    return Cost("elementwise", 2.5 * out * log2(max(2, length)), rows(node.out.shape))


def embed_layer_norm(node: Node) -> Cost:
    """com.microsoft: embedding lookups, their sum and its layer norm."""
    shape = node.out.shape
    tables = sum(1 for index in (2, 3, 4) if node.at(index) is not None)
    read = tables * node.out.size + sum(v.size for v in node.inputs[:2] if v is not None)
    return Cost("embedding", (NORM_FLOPS["layer"] + tables - 1) * prod(shape), rows(shape), None, read)


def mixture(node: Node) -> Cost:
    """com.microsoft MoE: router scores and weights of all experts; k experts a token."""
    tokens = prod(node.shape(0)[:-1])
    hidden, experts = node.shape(0)[-1], node.shape(1)[-1]
    active, inner = int(node.get("k", 1)), node.shape(2)[-1]
    touched = experts * (1 - (1 - active / experts) ** tokens)
    held = sum(v.size for v in node.inputs[2:] if v is not None and v.constant)
    read = sum(v.size for v in node.inputs[:2] if v is not None) + round(held * touched / experts)
    attributes: dict[str, Attribute] = {
        "m": tokens * active, "n": inner, "k": hidden, "groups": experts, "active": active,
    }  # fmt: skip
    return Cost("grouped_matmul", 4.0 * tokens * active * hidden * inner, attributes, None, read)
