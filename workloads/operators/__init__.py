"""The operator kinds: one frozen class each, whose fields are all that a price, a rewrite or a check may ask.

A new kind is one class with a name (``kind``), its fields and its arithmetic, listed in :data:`KINDS`.
Importers and builders fill the fields, graph files are parsed into them (:mod:`workloads.operators.parse`),
rewrites change them, cost models take them.
"""

from __future__ import annotations

from typing import Final

from workloads.operators.communication import (
    AllGather,
    AllReduce,
    AllToAll,
    Broadcast,
    CollectiveWork,
    Message,
    Receive,
    ReduceScatter,
    Send,
)
from workloads.operators.linear_attention import LinearAttention
from workloads.operators.products import Convolution, GroupedProduct, Product
from workloads.operators.rows import (
    Activation,
    Copy,
    Custom,
    Elementwise,
    Embedding,
    Gather,
    Host,
    Loss,
    Norm,
    Optimizer,
    Pool,
    Quantize,
    Reduce,
    Resize,
    Rotary,
    Rows,
    Scatter,
    Softmax,
    Sort,
    TopK,
    View,
)
from workloads.operators.scan import Scan
from workloads.operators.sequence import Attention, Recurrence, causal_pairs
from workloads.operators.work import FieldInfo, FieldValue, Work, fields_of

__all__ = [
    "KINDS", "Activation", "AllGather", "AllReduce", "AllToAll", "Attention", "Broadcast", "CollectiveWork",
    "Convolution", "Copy", "Custom", "Elementwise", "Embedding", "FieldInfo", "FieldValue", "Gather",
    "GroupedProduct", "Host", "LinearAttention", "Loss", "Message", "Norm", "Optimizer", "Pool", "Product", "Quantize",
    "Receive", "Recurrence", "Reduce", "ReduceScatter", "Resize", "Rotary", "Rows", "Scan", "Scatter", "Send",
    "Softmax", "Sort", "TopK", "View", "Work", "causal_pairs", "fields_of",
]  # fmt: skip

KINDS: Final[dict[str, type[Work]]] = {
    kind.kind: kind
    for kind in (
        Product, GroupedProduct, Attention, Convolution, Norm, Quantize, Softmax, Activation, Elementwise, Rotary,
        Embedding, Gather, Scatter, Sort, TopK, Pool, Reduce, Resize, Copy, View, Recurrence, LinearAttention, Scan,
        Loss, Optimizer, AllReduce, AllGather, ReduceScatter, AllToAll, Broadcast, Send, Receive, Host, Custom,
    )
}  # fmt: skip
"""Every operator kind by the name that files give it, as the field's operator tables do."""
