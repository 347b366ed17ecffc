"""Dividing operators over devices keeps the books: FLOPs, weights, traffic and Megatron's collectives."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from machines import op, tensors

import offchip
from hw_configs.problems import InputError
from simulator.plan import Plan, Split
from simulator.rewrite.apply import rewrite
from simulator.rewrite.split import split_graph
from workloads.graph import Graph, Operator, Place, Role, check_graph
from workloads.microbatch import microbatched
from workloads.operators import Elementwise, Product


def divided(graph: Graph, ranks: int) -> Graph:
    devices = tuple(f"gpu{rank}" for rank in range(ranks))
    return split_graph(graph, {o.name: Split(o.place.axis or "replicated", devices) for o in graph.operators})


def prefill(name: str, **options: object) -> Graph:
    return (
        offchip.load_model(name, **{"phase": "prefill", "batch": 2, "prompt": 64, **options}).phases[0].graph
    )


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("fused", [True, False])
def test_a_llama_divided_as_megatron_does(ranks: int, fused: bool) -> None:
    graph = prefill("llama-3-8b", fused=fused)
    parts = check_graph(divided(graph, ranks))
    by_base: dict[str, float] = Counter()
    for operator in parts.operators:
        by_base[operator.name.rpartition("@")[0]] += operator.flops
    for operator in graph.operators:
        copies = ranks if operator.place.axis in ("", "replicated") else 1
        assert by_base[operator.name] == pytest.approx(operator.flops * copies), operator.name
    for tensor in graph.tensors.values():
        if tensor.role is Role.WEIGHT or tensor.role is Role.KV_CACHE:
            sizes = [parts.tensors[f"{tensor.name}@{rank}"].size_bytes for rank in range(ranks)]
            whole = tensor.size_bytes * (ranks if "norm" in tensor.name else 1)
            assert sum(sizes) == pytest.approx(whole, abs=ranks), tensor.name
    # Two all-reduces of batch x sequence x hidden per layer (Shoeybi et al., section 3), one embedding.
    reduced = [o for o in parts.operators if o.kind == "all_reduce"]
    layers = 32
    assert len(reduced) == 2 * layers + 1
    assert {o.work.bytes for o in reduced} == {2 * 64 * 4096 * 2}


def test_traffic_of_divided_products_is_their_share() -> None:
    graph = prefill("llama-3-8b", phase="decode")
    whole = sum(o.read_bytes for o in graph.operators)
    for ranks in (2, 4, 8):
        parts = divided(graph, ranks)
        mine = sum(o.read_bytes for o in parts.operators if o.name.endswith("@0"))
        assert whole / ranks <= mine <= whole / ranks * 1.02


def test_fewer_kv_heads_than_ranks_are_kept_whole_on_each() -> None:
    graph = prefill("llama-3-8b")
    kv_heads, ranks = 8, 16
    parts = divided(graph, ranks)
    cache = "layers.0.attention.k_cache"
    assert parts.tensors[f"{cache}@0"].size_bytes == graph.tensors[cache].size_bytes // kv_heads
    attend = next(o for o in parts.operators if o.name == "layers.0.attention.attend@0")
    assert (attend.work.heads, attend.work.kv_heads) == (2, 1)
    # The rank's own two query heads, and one whole key and value head.
    weight = "layers.0.attention.qkv.weight"
    share = parts.tensors[f"{weight}@0"].size_bytes / graph.tensors[weight].size_bytes
    assert share == pytest.approx((2 + 1 + 1) / (32 + 8 + 8))
    product = next(o for o in parts.operators if o.name == "layers.0.attention.qkv@0")
    whole = graph.operator_by_name["layers.0.attention.qkv"]
    assert product.flops == pytest.approx(whole.flops * share)
    assert product.work.n == (2 + 1 + 1) * 128


def test_heads_are_divided_and_the_context_is_not() -> None:
    """Scores of a rank's heads run over all keys: fewer products and rows, no shorter ones."""
    graph = prefill("llama-3-8b", fused=False)
    parts = divided(graph, 4)
    for name in ("qk_matmul", "softmax", "sv_matmul"):
        whole = graph.operator_by_name[f"layers.0.attention.{name}"].work
        mine = parts.operator_by_name[f"layers.0.attention.{name}@0"].work
        assert mine.n == whole.n
        assert (mine.heads, mine.kv_heads) == (whole.heads // 4, whole.kv_heads // 4)
        assert mine.share == whole.share
        if isinstance(whole, Product):
            assert (mine.m, mine.k, mine.batch) == (whole.m, whole.k, whole.batch // 4)
        else:
            assert mine.m == whole.m // 4


def test_a_rank_reads_each_operand_as_its_part_of_it_has() -> None:
    graph = prefill("llama-3-8b")
    parts = divided(graph, 4)
    for operator in parts.operators:
        base, at, _ = operator.name.rpartition("@")
        if not at or base not in graph.operator_by_name:
            continue
        whole = graph.operator_by_name[base]
        for name, mine, before, read in zip(
            whole.inputs, operator.inputs, whole.reads, operator.reads, strict=False
        ):
            share = parts.tensors[mine].size_bytes / graph.tensors[name].size_bytes
            assert read in (round(before * share), round(before * share) // 4), (operator.name, name)


def test_a_size_that_does_not_divide_is_rounded_up_and_says_all_of_the_work() -> None:
    data = tensors({"x": 8, "w": 56, "y": 7}, {"w": Role.WEIGHT})
    product = Operator("p", Product(m=1, n=7, k=8), ("x", "w"), ("y",), place=Place(axis="column"))
    parts = divided(Graph("g", data, (product,), ("y",)), 2)
    mine = parts.operator_by_name["p@0"].work
    assert (mine.n, mine.share) == (4, 1.0)
    scale = Operator("s", Elementwise(flops_per_element=7.0), ("x",), ("y",), place=Place(axis="split"))
    parts = divided(Graph("g", data, (scale,), ("y",)), 2)
    assert parts.operator_by_name["s@0"].work == replace(scale.work, share=0.5)


@pytest.mark.parametrize(("heads", "kv_heads", "ranks"), [(12, 12, 8), (24, 6, 4)])
def test_heads_that_cannot_be_shared_are_refused(heads: int, kv_heads: int, ranks: int) -> None:
    attend = op(
        "attend", ["x", "k"], ["y"], kind="attention", batch=1, heads=heads, kv_heads=kv_heads, head_dim=2,
        q_len=1, kv_len=5,
    )  # fmt: skip
    graph = Graph(
        "g",
        tensors({"x": 240, "k": 240, "y": 240}, {"k": Role.KV_CACHE}),
        (replace(attend, place=Place(axis="head")),),
    )
    with pytest.raises(InputError, match="heads"):
        divided(graph, ranks)


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_training_step_keeps_its_books(ranks: int) -> None:
    graph = prefill("llama-3-8b", phase="train", batch=1, prompt=32)
    parts = check_graph(divided(graph, ranks))
    for role in (Role.WEIGHT, Role.OPTIMIZER_STATE):
        replicated = sum(
            t.size_bytes * (ranks - 1) for t in graph.tensors.values() if t.role is role and "norm" in t.name
        )
        assert parts.bytes_by_role()[role] == pytest.approx(
            graph.bytes_by_role()[role] + replicated, rel=1e-6
        )
    for operator in parts.operators:
        assert operator.flops >= 0
        assert operator.read_bytes >= 0


@pytest.mark.parametrize("phase", ["prefill", "decode", "train"])
@pytest.mark.parametrize("name", ["llama-3-8b", "gpt2"])
@pytest.mark.parametrize(("tp", "pp", "microbatches"), [(4, 1, 1), (1, 2, 1), (2, 2, 2), (1, 4, 4)])
def test_plans_over_a_node_are_right(name: str, phase: str, tp: int, pp: int, microbatches: int) -> None:
    from oracle import data_is_right

    from mapping.mapper import MapperOptions, plan_writer
    from simulator.check import check

    system = offchip.load_system("dgx-a100")
    graph = microbatched(prefill(name, phase=phase, batch=1, prompt=32), microbatches)
    plan: Plan = plan_writer("tensor-pipeline").plan(graph, system, MapperOptions(tp, pp))
    rewritten = rewrite(graph, plan)
    assert check(plan, rewritten, system) == []
    assert data_is_right(plan, rewritten, system)


def test_microbatches_keep_the_books() -> None:
    graph = prefill("llama-3-8b", phase="train", batch=1, prompt=32)
    many = check_graph(microbatched(graph, 3))
    optimizer = sum(o.flops for o in graph.operators if o.place.training_pass == "optimizer")
    assert many.flops == pytest.approx(3 * (graph.flops - optimizer) + optimizer)
    for role in (Role.WEIGHT, Role.OPTIMIZER_STATE):
        assert many.bytes_by_role()[role] == graph.bytes_by_role()[role]
    assert many.bytes_by_role()[Role.ACTIVATION] == 3 * graph.bytes_by_role()[Role.ACTIVATION]
    assert len(many.outputs) == 3 * len(graph.outputs)


def test_one_forward_one_backward_bounds_live_microbatches() -> None:
    """Stage s of p holds the activations of at most p - s micro-batches."""
    pp, microbatches = 4, 8
    workload = offchip.load_model("llama-3-8b", phase="train", batch=1, prompt=256)
    graph = microbatched(workload.phases[0].graph, microbatches)
    from mapping.mapper import MapperOptions, plan_writer

    system = offchip.load_system("dgx-a100")
    plan = plan_writer("tensor-pipeline").plan(graph, system, MapperOptions(1, pp))
    live: dict[str, set[int]] = {f"gpu{stage}": set() for stage in range(pp)}
    most = dict.fromkeys(live, 0)
    last: dict[tuple[str, int], str] = {}
    for task in plan.tasks:
        if task.kind == "compute":
            place = graph.operator_by_name[task.operator].place
            if place.training_pass == "backward":
                last[task.device, place.microbatch] = task.name
    for task in plan.tasks:
        if task.kind != "compute":
            continue
        place = graph.operator_by_name[task.operator].place
        if place.training_pass == "optimizer":
            continue
        batch = place.microbatch
        live[task.device].add(batch)
        most[task.device] = max(most[task.device], len(live[task.device]))
        if last.get((task.device, batch)) == task.name:
            live[task.device].discard(batch)
    assert most == {f"gpu{stage}": pp - stage for stage in range(pp)}


@pytest.mark.parametrize("pp", [2, 3, 4, 8])
def test_stages_hold_equal_runs_of_layers(pp: int) -> None:
    from mapping.mapper import MapperOptions, plan_writer

    graph = prefill("llama-3-8b")
    plan = plan_writer("tensor-pipeline").plan(graph, offchip.load_system("dgx-a100"), MapperOptions(1, pp))
    layers: dict[str, set[int]] = {f"gpu{stage}": set() for stage in range(pp)}
    for task in plan.tasks:
        if task.kind == "compute" and task.operator.startswith("layers."):
            layers[task.device].add(int(task.operator.split(".")[1]))
    assert [layer for held in layers.values() for layer in sorted(held)] == list(range(32))
    counts = [len(held) for held in layers.values()]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("ranks", [2, 8])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_latents_are_whole_on_every_rank(ranks: int, phase: str) -> None:
    """All heads share them: a rank keeps, writes and reads all of its sequences' latents, whatever its heads."""
    options = {"phase": phase, "batch": 2, "prompt": 64, **({"chunk": 32} if phase == "prefill" else {})}
    graph = offchip.load_model("deepseek-v3", **options).phases[-1].graph
    parts = check_graph(divided(graph, ranks))
    cache = graph.tensors["layers.0.attention.latent_cache"]
    whole, mine = (g.operator_by_name for g in (graph, parts))
    for rank in range(ranks):
        assert parts.tensors[f"{cache.name}@{rank}"].size_bytes == cache.size_bytes
        for name in ("k_up", "attend"):
            one, part = whole[f"layers.0.attention.{name}"], mine[f"layers.0.attention.{name}@{rank}"]
            if cache.name in one.inputs:
                read = one.reads[one.inputs.index(cache.name)]
                assert part.reads[part.inputs.index(f"{cache.name}@{rank}")] == read > 0


@pytest.mark.parametrize("model", ["deepseek-v2-lite", "mixtral-8x7b", "qwen3-30b-a3b"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_layer_of_experts_is_completed_once(model: str, fused: bool) -> None:
    """The sum over experts and a shared expert's result are partial sums until they are added (vLLM, SGLang)."""
    graph = prefill(model, fused=fused)
    parts = check_graph(divided(graph, 2))
    layers = max(o.place.layer or 0 for o in graph.operators)  # the head is the last
    reduced = [o for o in parts.operators if o.kind == "all_reduce"]
    assert len(reduced) == 2 * layers + 1
    width = graph.tensors["embedding.out"].size_bytes
    assert {o.work.bytes for o in reduced} == {width}


def test_without_sums_of_partial_sums_there_would_be_one_more_and_larger_ones() -> None:
    graph = prefill("deepseek-v2-lite")
    plain = replace(
        graph,
        operators=tuple(
            replace(o, place=replace(o.place, axis="replicated")) if o.place.axis == "sum" else o
            for o in graph.operators
        ),
    )
    once = [o.work.bytes for o in divided(graph, 2).operators if o.kind == "all_reduce"]
    twice = [o.work.bytes for o in divided(plain, 2).operators if o.kind == "all_reduce"]
    assert len(twice) > len(once)
    assert sum(twice) > 2 * sum(once)
