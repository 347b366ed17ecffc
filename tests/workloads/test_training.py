"""Training steps from forward graphs: three times the forward work, a gradient and states per weight."""

from __future__ import annotations

from math import prod

import pytest

from hw_configs.problems import InputError
from tests.typed import operator_of
from workloads import models
from workloads.graph import Graph, Role, Tensor, check_graph
from workloads.training import training_step
from workloads.training_loss import LOSS_FLOPS
from workloads.weight_updates import ADAM_FLOPS
from workloads.workload import WorkloadOptions

NAMES = [
    "gpt2",
    "llama-2-7b",
    "mixtral-8x7b",
    "deepseek-v2-lite",
    "gpt-oss-20b",
    "gemma-4-26b-a4b",
    "opt-350m",
]
PRODUCTS = ("matmul", "grouped_matmul")


def step_of(name: str, **options: object) -> Graph:
    return models.build(name, WorkloadOptions(phase="train", **options)).phases[0].graph


def flops(graph: Graph, part: str, kinds: tuple[str, ...]) -> float:
    return sum(op.flops for op in graph.operators if op.place.training_pass == part and op.kind in kinds)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fused", [True, False])
def test_products_cost_twice_the_forward_pass_again(name: str, fused: bool) -> None:
    graph = check_graph(step_of(name, prompt=32, fused=fused))
    assert flops(graph, "backward", PRODUCTS) == 2 * flops(graph, "forward", PRODUCTS)
    assert flops(graph, "backward", ("attention",)) == 2.5 * flops(graph, "forward", ("attention",))


def test_a_step_of_a_large_model_is_six_flops_per_weight_and_token() -> None:
    """6 N D (Kaplan et al., arXiv:2001.08361, section 2.1), attention and embeddings apart."""
    tokens = 4 * 128
    graph = step_of("llama-2-7b", prompt=128, batch=4)
    weights = graph.parameters() - 32000 * 4096
    step = flops(graph, "forward", PRODUCTS) + flops(graph, "backward", PRODUCTS)
    assert step == pytest.approx(6 * weights * tokens, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_gets_a_gradient_and_its_states(name: str) -> None:
    graph = step_of(name, prompt=16)
    weights = {tensor.name: tensor for tensor in graph.tensors.values() if tensor.role is Role.WEIGHT}
    updates = {op.updates[0]: op for op in graph.operators if op.kind == "optimizer"}
    assert set(updates) == set(weights)
    for name_, op in updates.items():
        elements = prod(weights[name_].shape)
        gradient = graph.tensors[op.inputs[0]]
        assert gradient.role is Role.GRADIENT
        assert gradient.shape == weights[name_].shape
        states = [graph.tensors[state] for state in op.updates[1:]]
        assert {state.role for state in states} == {Role.OPTIMIZER_STATE}
        narrow = weights[name_].dtype != "fp32"
        assert sum(state.size_bytes for state in states) == (12 if narrow else 8) * elements
        assert op.flops == ADAM_FLOPS * elements
        assert op.place.training_pass == "optimizer"


def test_mixed_precision_takes_sixteen_bytes_a_parameter() -> None:
    """ZeRO (arXiv:1910.02054, section 3.1): 16-bit weights and gradients, 12 bytes of states."""
    graph = step_of("llama-2-7b", prompt=16)
    roles = graph.bytes_by_role()
    assert roles[Role.WEIGHT] + roles[Role.OPTIMIZER_STATE] == 14 * graph.parameters()
    gradients = {op.inputs[0] for op in graph.operators if op.kind == "optimizer"}
    assert sum(graph.tensors[name].size_bytes for name in gradients) == 2 * graph.parameters()


def test_a_tied_embedding_adds_two_gradients() -> None:
    graph = step_of("gpt2", prompt=16)
    total = graph.operator_by_name["embedding.weight.grad_sum"]
    assert len(total.inputs) == 2
    assert graph.operator_by_name["optimizer.embedding.weight"].inputs == total.outputs


def test_what_the_backward_pass_reads_is_made_in_the_forward_pass() -> None:
    graph = step_of("llama-2-7b", prompt=16)
    passes = [op.place.training_pass for op in graph.operators]
    assert passes == sorted(passes, key=["forward", "backward", "optimizer"].index)
    reader = graph.operator_by_name["layers.3.mlp.down.backward_weight"]
    assert "layers.3.mlp.act.out" in reader.inputs
    assert "layers.3.mlp.down.weight" not in reader.inputs
    other = graph.operator_by_name["layers.3.mlp.down.backward_input"]
    assert "layers.3.mlp.down.weight" in other.inputs
    assert other.place.axis == "column"
    assert not [tensor for tensor in graph.tensors.values() if tensor.role is Role.KV_CACHE]


def test_residual_additions_pass_their_gradient_on_without_work() -> None:
    graph = step_of("gpt2", prompt=16, fused=False)
    names = set(graph.operator_by_name)
    assert "layers.0.mlp_add" in names
    assert not [name for name in names if name.startswith("layers.0.mlp_add.backward")]


def test_a_tiny_chain_operator_by_operator() -> None:
    """x -> (x W) -> relu -> (h V) -> loss, with every size counted by hand."""
    tensors = [
        Tensor("x", (4, 3), "fp16"),
        Tensor("W", (5, 3), "fp16", Role.WEIGHT),
        Tensor("a", (4, 5), "fp16"),
        Tensor("h", (4, 5), "fp16"),
        Tensor("V", (2, 5), "fp16", Role.WEIGHT),
        Tensor("y", (4, 2), "fp16"),
    ]
    operators = (
        operator_of("matmul", 120, 54, 40, name="up", inputs=("x", "W"), outputs=("a",), m=4, n=5, k=3),
        operator_of("activation", 20, 40, 40, name="relu", inputs=("a",), outputs=("h",)),
        operator_of("matmul", 80, 60, 16, name="down", inputs=("h", "V"), outputs=("y",), m=4, n=2, k=5),
    )
    graph = check_graph(training_step(Graph("chain", {t.name: t for t in tensors}, operators, ("y",))))
    by_name = graph.operator_by_name
    assert [op.name for op in graph.operators] == [
        "up", "relu", "down", "loss", "loss.backward", "down.backward_input", "down.backward_weight",
        "relu.backward", "up.backward_weight", "optimizer.V", "optimizer.W",
    ]  # fmt: skip
    assert by_name["loss"].flops == LOSS_FLOPS * 8
    down = by_name["down.backward_input"]
    assert (down.flops, down.read_bytes, down.write_bytes) == (80, 16 + 20, 40)
    assert (down.work.m, down.work.n, down.work.k) == (4, 5, 2)
    up = by_name["up.backward_weight"]
    assert (up.flops, up.read_bytes, up.write_bytes) == (120, 40 + 24, 30)
    assert (up.work.m, up.work.n, up.work.k) == (5, 3, 4)
    optimizer = by_name["optimizer.W"]
    assert (optimizer.read_bytes, optimizer.write_bytes) == (30 + 180, 180 + 30)
    assert "up.backward_input" not in by_name


def test_narrow_weights_are_trained_in_the_type_they_expand_to() -> None:
    graph = step_of("gpt-oss-20b", prompt=8)
    assert graph.tensors["layers.0.mlp.experts.down.weight"].dtype == "bf16"
    with pytest.raises(
        InputError, match="--dtype: found int4; weights of less than 8 bits cannot be trained"
    ):
        step_of("llama-2-7b", prompt=8, dtype="int4")


def test_graphs_that_cannot_be_trained_are_refused() -> None:
    x = Tensor("x", (2, 2), "fp16")
    op = operator_of("activation", 4, 8, 8, name="act", inputs=("x",), outputs=("y",))
    tensors = {"x": x, "y": Tensor("y", (2, 2), "fp16")}
    with pytest.raises(InputError, match="names no outputs"):
        training_step(Graph("a", tensors, (op,)))
    with pytest.raises(InputError, match="no weights to train"):
        training_step(Graph("a", tensors, (op,), ("y",)))


@pytest.mark.parametrize("name", ["resnet-18", "mobilenet-v2", "unet", "bert-base-uncased", "vit-b-16"])
def test_other_builders_train_too(name: str) -> None:
    graph = check_graph(models.build(name, WorkloadOptions(phase="train", prompt=64)).phases[0].graph)
    trained = {op.updates[0] for op in graph.operators if op.kind == "optimizer"}
    products = ("matmul", "conv", "attention")
    ratio = flops(graph, "backward", products) / flops(graph, "forward", products)
    assert trained
    assert 1.8 < ratio < 2.2
