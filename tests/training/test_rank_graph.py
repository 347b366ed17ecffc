"""One rank's graph against the simulator's own division of operators, and against the papers' counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from hw_configs.problems import InputError
from mapping.training.rank_graph import rank_graph, training_graph
from mapping.training.sequence_ranks import divide_sequence
from mapping.training.setup import TrainingSetup
from simulator.plan import Plan, Split
from simulator.rewrite.apply import rewrite
from tests.training.small_models import gpt_config
from workloads.graph import Graph, Place, Role, Tensor, check_graph, make_operator
from workloads.operators import Attention, CollectiveWork

DEGREES = [
    {"tensor": 4}, {"tensor": 4, "sequence_parallel": False}, {"ulysses": 4}, {"context": 4},
    {"tensor": 2, "ulysses": 2}, {"tensor": 2, "context": 2}, {"ulysses": 2, "context": 2},
]  # fmt: skip


def collective_bytes(graph: Graph, kind: str, parallel: str) -> int:
    return sum(
        op.work.bytes for op in graph.operators
        if op.kind == kind and isinstance(op.work, CollectiveWork) and op.work.parallel == parallel
    )  # fmt: skip


@pytest.mark.parametrize("degrees", DEGREES, ids=str)
def test_ranks_share_the_work_evenly(tmp_path: Path, degrees: dict[str, int]) -> None:
    model = gpt_config(tmp_path)
    whole = rank_graph(TrainingSetup(model, 1024))
    setup = TrainingSetup(model, 1024, **degrees)  # type: ignore[arg-type]
    rank = rank_graph(setup)
    assert check_graph(rank) is rank

    def products(graph: Graph) -> float:
        """FLOPs of products and attention; norms run whole on every rank without sequence parallelism."""
        return sum(op.flops for op in graph.operators if op.kind in ("matmul", "attention"))

    ranks = setup.tensor * setup.ulysses * setup.context
    assert products(rank) * ranks == pytest.approx(products(whole), rel=1e-9)
    weights = {n: t.size_bytes for n, t in whole.tensors.items() if t.role is Role.WEIGHT}
    divided = {n: t.size_bytes for n, t in rank.tensors.items() if t.role is Role.WEIGHT}
    matrices = [n for n in weights if n.endswith(".weight") and "norm" not in n]
    assert all(divided[n] == -(-weights[n] // setup.tensor) for n in matrices)


def test_tensor_parallelism_agrees_with_the_simulators(tmp_path: Path) -> None:
    setup = TrainingSetup(gpt_config(tmp_path), 512, tensor=4, sequence_parallel=False)
    rank, graph = rank_graph(setup), training_graph(setup)
    devices = tuple(f"gpu{n}" for n in range(4))
    splits = {op.name: Split(op.place.axis or "replicated", devices) for op in graph.operators}  # type: ignore[arg-type]
    split = rewrite(graph, Plan("", "", "", (), {}, splits))
    theirs = {op.name.removesuffix("@0"): op for op in split.operators if op.name.endswith("@0")}
    ours = {op.name: op for op in rank.operators if op.kind not in ("all_reduce", "all_gather")}
    assert sum(op.flops for op in ours.values()) == pytest.approx(
        sum(op.flops for op in theirs.values()), rel=1e-3
    )
    for name, op in ours.items():
        if op.kind in ("matmul", "attention"):
            assert op.flops == pytest.approx(theirs[name].flops)
    reduced = [op for op in split.operators if op.kind == "all_reduce" and op.work.bytes > 4096]
    assert collective_bytes(rank, "all_reduce", "tensor") == sum(op.work.bytes for op in reduced)


def test_megatron_communicates_four_times_per_layer(tmp_path: Path) -> None:
    """Two all-reduces in each pass; sequence parallelism makes each a gather and a scatter of the same bytes, and
    gathers the products' inputs once more for the weights' gradients (arXiv:2205.05198, section 4.2.2)."""
    model = gpt_config(tmp_path, layers=4)
    unit = 512 * 256 * 2
    plain = rank_graph(TrainingSetup(model, 512, tensor=2, sequence_parallel=False))
    layers = [
        op for op in plain.operators
        if op.kind == "all_reduce" and 0 <= op.place.layer < 4
    ]  # fmt: skip
    assert len(layers) == 4 * 4
    assert all(op.work.bytes == unit for op in layers)
    divided = rank_graph(TrainingSetup(model, 512, tensor=2))
    own = [op for op in divided.operators if isinstance(op.work, CollectiveWork) and op.place.layer == 2]
    assert sum(op.kind == "reduce_scatter" for op in own) == 4
    assert sum(op.kind == "all_gather" for op in own) == 6
    assert not [op for op in own if op.kind == "all_reduce"]


def test_ulysses_moves_four_tensors_forward_and_four_back(tmp_path: Path) -> None:
    """Queries, keys, values and the output, each a rank's share of tokens (arXiv:2309.14509, section 3.2)."""
    graph = rank_graph(TrainingSetup(gpt_config(tmp_path), 1024, ulysses=4))
    moved = collective_bytes(graph, "all_to_all", "ulysses")
    assert moved == 4 * 8 * (1024 // 4) * 256 * 2


def test_the_ring_passes_keys_and_values(tmp_path: Path) -> None:
    """Forward every rank sees all keys and values; backward their gradients travel along."""
    graph = rank_graph(TrainingSetup(gpt_config(tmp_path), 1024, context=4))
    assert collective_bytes(graph, "all_gather", "context") == 4 * (1 + 2) * 2 * 1024 * 256 * 2


@pytest.mark.parametrize("degrees", [{"context": 4}, {"ulysses": 4}, {"ulysses": 2, "context": 2}], ids=str)
@pytest.mark.parametrize("window", [0, 100, 1024, 4096])
def test_attention_over_ranks_says_what_it_computes(degrees: dict[str, int], window: int) -> None:
    """A rank's sizes give an equal part of the pairs of the whole sequence, counted one by one."""
    length, width = 1024, 64
    setup = TrainingSetup("gpt2", length, **degrees)  # type: ignore[arg-type]
    local = length // (setup.context * setup.ulysses)
    tensors = {
        name: Tensor(name, (local, 3 * 8 * width if name == "qkv" else 8 * width), "bf16")
        for name in ("qkv", "out")
    }
    work = Attention(
        batch=1, heads=8, kv_heads=8, head_dim=width, q_len=local, kv_len=local, causal=True, window=window
    )
    attend = make_operator(
        "attend", work, ("qkv",), ("out",), tensors, dtype="bf16", place=Place(0, "forward")
    )
    rank = divide_sequence(Graph("g", tensors, (attend,), ("out",)), setup)
    mine = next(op.work for op in rank.operators if isinstance(op.work, Attention))
    pairs = sum(min(query + 1, window or length) for query in range(length))
    assert mine.flops == pytest.approx(
        2.0 * pairs / setup.context * (8 // setup.ulysses) * 2 * width, rel=1e-12
    )
    assert (mine.heads, mine.q_len) == (8 // setup.ulysses, length // setup.context)
    balanced = setup.context > 1 and (window == 0 or window >= length)
    assert (mine.kv_len, mine.causal) == ((length // 2, False) if balanced else (length, True))
    # What sizes cannot say is little: half a diagonal, or the first window's smaller share.
    assert mine.share == pytest.approx(1.0, abs=1e-3 if not window or window >= length else 0.06)


def test_what_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    model = gpt_config(tmp_path, heads=8)
    with pytest.raises(InputError, match="cannot be divided"):
        rank_graph(TrainingSetup(model, 960, tensor=3))
    with pytest.raises(InputError, match="heads"):
        rank_graph(TrainingSetup(model, 1024, ulysses=16))
    with pytest.raises(InputError, match="sequence"):
        TrainingSetup(model, 1000, context=3)
    with pytest.raises(InputError, match="batch"):
        TrainingSetup(model, 1024, batch=3, data=2)
    with pytest.raises(InputError, match="recompute"):
        TrainingSetup(model, 1024, recompute="some")  # type: ignore[arg-type]
