"""The operators of attention whose queries and outputs are experts' (JetMoe's mixture of attention heads)."""

from __future__ import annotations

from workloads.expert_load import expected_experts
from workloads.operators import Reduce, Sort, TopK
from workloads.transformer.attention import KeyValue, attended, rotated
from workloads.transformer.shape import Attention, RoutedAttention
from workloads.transformer.step import Step
from workloads.transformer.writer import ExpertProducts, GraphWriter, Linear

__all__ = ["write_routed_attention"]


def write_routed_attention(
    w: GraphWriter, step: Step, spec: RoutedAttention, hidden: int, source: str, known: dict[int, KeyValue]
) -> str:
    """Attention of one layer over ``source``: rows go to their experts for queries and again for outputs."""
    m, rows, wide = step.tokens, step.tokens * spec.active, spec.kv_heads * spec.head_dim
    module = f"model.layers.{w.layer}.self_attn"
    logits = w.linear(
        "attention.router",
        source,
        Linear(m, spec.count, hidden, module=f"{module}.experts.router", tp="replicated"),
    )
    choice = w.activation("attention.topk.out", m, 2 * spec.active, "fp32")
    w.emit(
        "attention.topk", TopK(m=m, n=spec.count, k=spec.active, flops_per_element=5), (logits,), (choice,)
    )
    order = w.activation("attention.sort.out", 1, rows, "int32")
    w.emit("attention.sort", Sort(n=rows), (choice,), (order,))

    def product(name: str, entry: str, n: int, k: int, tp: str) -> str:
        out = w.activation(f"attention.{name}.out", rows, n)
        spec_of = ExpertProducts(
            rows, n, k, experts=spec.count, active=spec.active, touched=expected_experts(spec.count, spec.active, m),
            modules=(f"{module}.experts.{name}",), tp=tp, bias=False,
        )  # fmt: skip
        return w.grouped(f"attention.{name}", (entry, order), out, spec_of)

    query = product("input_linear", source, wide, hidden, "column")
    both = w.linear(
        "attention.kv",
        source,
        Linear(m, 2 * wide, hidden, module=f"{module}.kv_proj", tp="column", heads=0, kv_heads=spec.kv_heads),
    )
    heads = Attention(spec.active * spec.kv_heads, spec.kv_heads, spec.head_dim, spec.head_dim, spec.head_dim)
    columns = (spec.active + 1) * wide
    turned = rotated(w, step, heads, (query, both), "attention.rotary", columns, {both: m * wide})
    out = attended(w, step, heads, (turned, turned, both), known, hidden, source)
    out = product("output_linear", out, hidden, wide, "row")
    summed = w.activation("attention.combine.out", m, hidden)
    bias = w.weight("attention.out_bias", hidden)
    work = Reduce(m=m, n=hidden, flops_per_element=2.0 * spec.active + 1)
    w.emit("attention.combine", work, (out, choice, bias), (summed,), tp="sum")
    return summed
