"""Narrower storage changes the field a cost model reads and the bytes of that operand alone; arithmetic stays."""

from __future__ import annotations

import pytest

import offchip
from hw_configs.problems import InputError
from simulator.cost.model import COST_MODELS
from simulator.plan import Plan, Sparsity
from simulator.rewrite.apply import rewrite
from simulator.rewrite.element_types import store_as
from workloads.graph import Graph, Operator, Role, Tensor, make_operator
from workloads.operators import Attention, Convolution, Elementwise, GroupedProduct, Product


def decode(name: str = "llama-3-8b", **options: object) -> Graph:
    return (
        offchip.load_model(name, **{"phase": "decode", "batch": 2, "prompt": 512, **options}).phases[0].graph
    )


def of_role(graph: Graph, role: Role, dtype: str) -> dict[str, str]:
    return {name: dtype for name, tensor in graph.tensors.items() if tensor.role is role}


def read_of(operator: Operator, tensor: str) -> int:
    return operator.reads[operator.inputs.index(tensor)]


def stored(graph: Graph, precision: dict[str, str]) -> Graph:
    """As a plan stores them, which is how the simulator meets them."""
    return rewrite(graph, Plan(graph.name, "s", "by hand", (), {}, precision=precision))


def test_int4_weights_of_a_decode_step_are_told_to_every_product() -> None:
    graph = decode()
    narrow = stored(graph, of_role(graph, Role.WEIGHT, "int4"))
    products = [(a, b) for a, b in zip(graph.operators, narrow.operators, strict=True) if a.kind == "matmul"]
    assert len(products) == 4 * 32 + 1
    for before, after in products:
        assert isinstance(after.work, Product)
        assert (before.work.weight_dtype, after.work.weight_dtype) == ("", "int4")
        weight = next(name for name in after.inputs if graph.tensors[name].is_weight)
        for name in after.inputs:
            shrinks = 4 if name == weight else 1
            assert read_of(after, name) * shrinks == read_of(before, name), (after.name, name)
        assert after.flops == before.flops
        assert after.writes == before.writes
        assert after.dtype == before.dtype


def test_a_narrower_cache_is_told_to_attention() -> None:
    graph = decode()
    narrow = stored(graph, of_role(graph, Role.KV_CACHE, "fp8"))
    before, after = (g.operator_by_name["layers.3.attention.attend"] for g in (graph, narrow))
    assert isinstance(after.work, Attention)
    assert after.work.kv_dtype == "fp8"
    for name in after.inputs:
        shrinks = 2 if graph.tensors[name].is_cache else 1
        assert read_of(after, name) * shrinks == read_of(before, name)
    # What is appended to the cache is written in its type, the result in its own.
    made = len(after.outputs)
    assert after.writes[:made] == before.writes[:made]
    assert [2 * size for size in after.writes[made:]] == list(before.writes[made:])
    assert after.flops == before.flops


def test_narrower_storage_takes_less_time_on_a_gpu() -> None:
    """A quarter of a weight's bytes, or an eighth of the cache, takes less than half of the time."""
    graph = decode(batch=16, prompt=8192)
    system = offchip.load_system("a100-80gb")
    node = system.workers()[0]
    model = COST_MODELS.get("by-device")

    def seconds(graph: Graph, name: str) -> float:
        return model.cost(
            graph.operator_by_name[name], node, system.memories[node.memory or node.name]
        ).seconds

    down, attend = "layers.0.mlp.down", "layers.0.attention.attend"
    weights, cache8, cache4 = (
        stored(graph, of_role(graph, role, dtype))
        for role, dtype in ((Role.WEIGHT, "int4"), (Role.KV_CACHE, "fp8"), (Role.KV_CACHE, "int4"))
    )
    assert seconds(weights, down) < 0.5 * seconds(graph, down)
    assert seconds(weights, attend) == seconds(graph, attend)
    # A narrow cache is widened on its way, so its arithmetic bounds it sooner than a weight's product.
    assert seconds(cache4, attend) < seconds(cache8, attend) < 0.75 * seconds(graph, attend)
    assert seconds(cache4, down) == seconds(graph, down)
    sparse = rewrite(graph, Plan(graph.name, "s", "by hand", (), {}, sparsity={attend: Sparsity(0.125)}))
    assert seconds(sparse, attend) < 0.5 * seconds(graph, attend)


def test_keys_and_values_of_two_types_go_at_the_wider_ones_pace() -> None:
    graph = decode()
    caches = {f"layers.0.attention.{part}_cache": dtype for part, dtype in (("k", "int4"), ("v", "fp8"))}
    attend = store_as(graph, caches).operator_by_name["layers.0.attention.attend"]
    assert attend.work.kv_dtype == "fp8"


def test_scores_over_a_narrower_cache_have_a_narrower_right_operand() -> None:
    graph = decode(fused=False)
    narrow = stored(graph, of_role(graph, Role.KV_CACHE, "fp8"))
    for name in ("layers.0.attention.qk_matmul", "layers.0.attention.sv_matmul"):
        assert narrow.operator_by_name[name].work.weight_dtype == "fp8"


def test_experts_and_filters_have_a_storage_type_too() -> None:
    graph = decode("mixtral-8x7b")
    narrow = stored(graph, of_role(graph, Role.WEIGHT, "int4"))
    experts = [
        (a, b)
        for a, b in zip(graph.operators, narrow.operators, strict=True)
        if isinstance(a.work, GroupedProduct)
    ]
    assert experts
    for before, after in experts:
        assert after.work.weight_dtype == "int4"
        weight = next(name for name in after.inputs if graph.tensors[name].is_weight)
        assert read_of(after, weight) == pytest.approx(read_of(before, weight) / 4, abs=1)
    image = offchip.load_model("resnet-18", dtype="fp16").phases[0].graph
    filters = [op for op in stored(image, of_role(image, Role.WEIGHT, "int8")).operators if op.kind == "conv"]
    assert filters
    assert all(isinstance(op.work, Convolution) and op.work.weight_dtype == "int8" for op in filters)


def product_over(precision: dict[str, str]) -> tuple[Operator, Operator]:
    tensors = {
        "x": Tensor("x", (4, 64), "fp16"),
        "w": Tensor("w", (32, 64), "fp16", Role.WEIGHT),
        "b": Tensor("b", (32,), "fp16", Role.WEIGHT),
        "y": Tensor("y", (4, 32), "fp16"),
    }
    op = make_operator("p", Product(m=4, n=32, k=64, weight_bytes=9.0), ("x", "w", "b"), ("y",), tensors)
    graph = Graph("g", tensors, (op,), ("y",))
    return op, store_as(graph, precision).operators[0]


def test_only_the_operand_that_is_stored_otherwise_changes() -> None:
    op, bias = product_over({"b": "int8"})
    assert bias.work == op.work
    assert bias.reads == (op.reads[0], op.reads[1], op.reads[2] // 2)
    op, weight = product_over({"w": "int8"})
    assert (weight.work.weight_dtype, weight.work.weight_bytes) == ("int8", 0.0)
    assert weight.reads == (op.reads[0], op.reads[1] // 2, op.reads[2])
    op, left = product_over({"x": "int8"})
    assert (left.work.left_bytes, left.work.weight_dtype) == (4 * 64, "")
    assert left.reads == (4 * 64, *op.reads[1:])
    op, out = product_over({"y": "int8"})
    assert out.work == op.work
    assert (out.reads, out.writes) == (op.reads, (op.writes[0] // 2,))
    # A wider weight costs more bytes, and the type of the arithmetic needs no name.
    op, wide = product_over({"w": "fp32"})
    assert (wide.work.weight_dtype, wide.reads[1]) == ("fp32", 2 * op.reads[1])
    assert product_over({"w": "fp16"})[1].work.weight_dtype == ""


def test_bytes_known_as_totals_alone_are_dealt_out_by_size() -> None:
    tensors = {name: Tensor(name, (size,), "fp16") for name, size in (("a", 100), ("b", 300), ("c", 300))}
    op = Operator("sum", Elementwise(function="add"), ("a", "b"), ("c",), beside_read=400, beside_written=600)
    narrow = store_as(Graph("g", tensors, (op,), ("c",)), {"b": "int8"}).operators[0]
    # Half of 800 bytes was read, so 100 of a and 300 of b, which is now half as wide.
    assert (narrow.reads, narrow.beside_read) == ((100, 150), 0)
    assert (narrow.writes, narrow.beside_written) == ((600,), 0)


def test_an_unknown_tensor_is_named_with_its_nearest() -> None:
    with pytest.raises(InputError, match=r"k_cache"):
        store_as(decode(), {"layers.0.attention.k_cach": "fp8"})
