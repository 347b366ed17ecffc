"""Narrow products with a branch of low rank: bytes and operations of each form, counted by hand."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from workloads.graph import Graph, Role, check_graph
from workloads.importers import load_workload
from workloads.layer_builder import LayerBuilder
from workloads.low_rank import LowRank, narrow_weights, with_low_rank
from workloads.workload import WorkloadOptions


def two_products(rows: int, inner: int, columns: int) -> Graph:
    """Two products of the same activations, and their sum."""
    net = LayerBuilder("two", WorkloadOptions(batch=rows, dtype="fp16"))
    x = net.input("x", inner)
    y = net.add("sum", net.linear("one", x, columns), net.linear("two", x, columns, bias=False))
    return net.graph(y)


def moved(graph: Graph) -> int:
    return sum(o.read_bytes + o.write_bytes for o in graph.operators)


def narrow(elements: int, group: int) -> int:
    return ceil(elements / 2) + 2 * ceil(elements / group)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 70),
    st.integers(1, 50),
    st.integers(0, 6),
    st.booleans(),
    st.sampled_from([16, 64]),
)
def test_bytes_are_those_of_what_each_form_reads_and_writes(
    m: int, k: int, n: int, rank: int, fused: bool, group: int
) -> None:  # fmt: skip
    graph = check_graph(
        with_low_rank(two_products(m, k, n), LowRank("int4", group, rank, fused), lambda _: True)
    )
    bias, total = 2 * n, 2 * 3 * m * n
    # Activations are quantised once; each product reads them narrow, with its weight, and writes its result.
    plain = 2 * m * k + narrow(m * k, group) + bias + total
    plain += 2 * (narrow(m * k, group) + narrow(n * k, group) + 2 * m * n)
    thin = 2 * (2 * rank * k + 2 * n * rank + 2 * 2 * m * rank) if rank else 0
    apart = 2 * (2 * m * k + 2 * (2 * m * n + 2 * m * n)) if rank and not fused else 0
    assert moved(graph) == plain + thin + apart
    weights = sum(t.size_bytes for t in graph.tensors.values() if t.role is Role.WEIGHT)
    assert weights == 2 * narrow(n * k, group) + bias + 2 * 2 * rank * (n + k)


def test_operations_are_those_of_both_branches() -> None:
    graph = two_products(32, 64, 48)
    apart = with_low_rank(graph, LowRank(rank=4, fused=False), lambda o: o.name == "one")
    products = {o.name: o.flops for o in apart.operators if o.kind == "matmul"}
    assert products == {
        "one.down": 2 * 32 * 4 * 64, "one": 2 * 32 * 48 * 64, "one.up": 2 * 32 * 48 * 4, "two": 2 * 32 * 48 * 64,
    }  # fmt: skip
    assert [o.dtype for o in apart.operators if o.name in ("one", "one.up", "two")] == [
        "int4",
        "fp16",
        "fp16",
    ]
    fused = with_low_rank(graph, LowRank(rank=4, wide_cost=8.0), lambda o: o.name == "one")
    assert fused.operator_by_name["one"].work.k == 64 + 32
    assert (
        fused.operator_by_name["x.quantise"].flops
        == apart.operator_by_name["x.quantise"].flops + products["one.down"]
    )


def test_shared_activations_are_quantised_once_and_others_stay() -> None:
    graph = with_low_rank(two_products(8, 16, 16), LowRank(rank=2), lambda _: True)
    assert [o.name for o in graph.operators] == ["x.quantise", "one", "two", "sum"]
    assert set(graph.outputs) <= set(graph.tensors)
    whole = two_products(8, 16, 16)
    same = with_low_rank(whole, LowRank(), lambda _: False)
    assert same.operators == whole.operators
    assert same.tensors == whole.tensors


def test_narrow_weights_keep_the_arithmetic() -> None:
    graph = load_workload("vit-b-16", WorkloadOptions(dtype="bf16")).phases[0].graph
    small = check_graph(narrow_weights(graph, "nf4", lambda o: o.name.startswith("layers.")))
    assert small.flops == graph.flops
    one, other = (g.operator_by_name["layers.0.mlp.up"] for g in (graph, small))
    assert other.work.weight_dtype == "nf4"
    assert one.read_bytes - other.read_bytes == 768 * 3072 * (2 - 4.5 / 8)
    assert small.parameters() == graph.parameters()


def test_a_negative_rank_is_refused() -> None:
    with pytest.raises(InputError, match="found -1; expected 0 or more"):
        with_low_rank(two_products(2, 2, 2), LowRank(rank=-1), lambda _: True)
