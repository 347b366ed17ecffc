"""Frozen parts: no gradient nobody wants, nothing kept for it; every method's bytes by hand; bad input in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from workloads.graph import Graph, Role, check_graph
from workloads.importers import load_workload
from workloads.step_types import PLAIN_TYPES, StepTypes
from workloads.trained_file import trained_parts
from workloads.trained_parts import ALL_TRAINED, AdapterRule, TrainedParts, WeightMethod
from workloads.workload import WorkloadOptions

MODEL = "qwen3-0.6b"
LAYERS = 3


def step_of(parts: TrainedParts, model: str = MODEL, types: StepTypes = PLAIN_TYPES) -> Graph:
    options = WorkloadOptions(
        phase="train", prompt=16, dtype="bf16", layers=LAYERS, trained=parts, types=types
    )
    return check_graph(load_workload(model, options).phases[0].graph)


def rules(*entries: tuple[str, WeightMethod]) -> TrainedParts:
    return TrainedParts(tuple(entries))


def bytes_of(graph: Graph, role: Role) -> int:
    return sum(tensor.size_bytes for tensor in graph.tensors.values() if tensor.role is role)


def forward_of(graph: Graph) -> list:  # type: ignore[type-arg]
    return [
        op for op in graph.operators if op.place.training_pass == "forward" and not op.name.startswith("loss")
    ]


_WHOLE = load_workload(MODEL, WorkloadOptions(phase="train", prompt=16, layers=LAYERS)).phases[0].graph
NAMES = sorted(tensor.name for tensor in _WHOLE.tensors.values() if tensor.is_weight)


@given(st.sets(st.sampled_from(NAMES), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_gradients_are_those_that_are_needed(trained: set[str]) -> None:
    """Against a plain walk: a tensor needs a gradient when a trained weight leads to it, and nothing else has one."""
    graph = step_of(rules(*((name, WeightMethod()) for name in sorted(trained))))
    forward = forward_of(graph)
    needs = set(trained)
    for op in forward:
        if needs & set(op.inputs):
            needs |= set(op.outputs)
    states = {t.name.rpartition(".")[0] for t in graph.tensors.values() if t.role is Role.OPTIMIZER_STATE}
    assert states == trained
    lowest = min(index for index, op in enumerate(forward) if trained & set(op.inputs))
    below = {op.name for op in forward[:lowest]}
    for op in graph.operators:
        if op.place.training_pass != "backward" or op.name.startswith("loss"):
            continue
        source = op.name.rpartition(".backward")[0]
        assert source not in below, (source, sorted(trained))
        # What is read again is a gradient, a weight, or a forward tensor.
        for name in op.outputs:
            assert graph.tensors[name].role is Role.GRADIENT
    # A frozen weight has a gradient of no kind.
    gradients = {t.name.partition(".grad")[0] for t in graph.tensors.values() if t.role is Role.GRADIENT}
    assert gradients & set(NAMES) == trained


def test_a_guard_would_see_a_gradient_of_a_frozen_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guard: with every weight marked as wanted the check above fails."""
    from workloads import training

    monkeypatch.setattr(training, "FROZEN", WeightMethod("frozen", rank=9))
    graph = step_of(rules((NAMES[0], WeightMethod())))
    gradients = {t.name.partition(".grad")[0] for t in graph.tensors.values() if t.role is Role.GRADIENT}
    assert gradients & set(NAMES) != {NAMES[0]}


def test_inputs_of_frozen_products_are_not_kept() -> None:
    """Of a frozen feed-forward product nothing is read again but the weight; of a trained one its input."""
    whole, head = step_of(ALL_TRAINED), step_of(rules(("layers.0.attention_norm.weight", WeightMethod())))
    name = "layers.1.mlp.down"

    def read_again(graph: Graph) -> set[str]:
        return {
            tensor for op in graph.operators if op.name.startswith(f"{name}.backward") for tensor in op.inputs
            if graph.tensors[tensor].role is Role.ACTIVATION
        }  # fmt: skip

    assert read_again(whole) == {"layers.1.mlp.act.out"}
    assert not read_again(head)


def test_adapters_train_nothing_else() -> None:
    graph = step_of(TrainedParts((), AdapterRule(4, targets=("q_proj", "down_proj"))))
    states = {t.name for t in graph.tensors.values() if t.role is Role.OPTIMIZER_STATE}
    assert states
    assert all(".lora" in name for name in states)
    dropped = step_of(TrainedParts((), AdapterRule(4, targets=("q_proj",), dropout=0.1)))
    assert any(op.name.endswith("dropout") for op in dropped.operators)
    # Half the backward work of full training: no products for frozen weights.
    full = step_of(ALL_TRAINED)

    def backward(one: Graph) -> float:
        return sum(
            op.flops for op in one.operators if op.place.training_pass == "backward" and op.kind == "matmul"
        )

    assert backward(graph) < 0.6 * backward(full)


def test_quantised_base_is_expanded_where_it_is_read() -> None:
    parts = trained_parts("qlora:rank=8")
    graph = step_of(parts)
    weight = graph.tensors["layers.0.mlp.down.weight"]
    bits = 4 + 8 / 64 + 32 / (64 * 256)
    assert weight.dtype == "nf4"
    assert weight.size_bytes == round(weight.shape[0] * weight.shape[1] * bits / 8)
    expansions = [op for op in graph.operators if weight.name in op.inputs]
    assert {op.place.training_pass for op in expansions} == {"forward", "backward"}
    assert all(graph.tensors[op.outputs[0]].dtype == "bf16" for op in expansions)
    assert graph.tensors["embedding.weight"].dtype == "bf16"


TOKENS = 16


def only(method: WeightMethod) -> Graph:
    return step_of(rules(("layers.1.mlp.down.weight", method)))


def test_columns_keep_their_inputs_alone() -> None:
    graph = only(WeightMethod("columns", rank=32))
    n, _ = graph.tensors["layers.1.mlp.down.weight"].shape
    assert graph.tensors["layers.1.mlp.down.columns"].shape == (TOKENS, 32)
    moments = bytes_of(graph, Role.OPTIMIZER_STATE)
    assert moments == 3 * 4 * n * 32
    product = graph.operator_by_name["layers.1.mlp.down.backward_weight"]
    assert product.flops == 2 * n * 32 * TOKENS


def test_sampled_rows_make_the_gradient() -> None:
    graph = only(WeightMethod("sampled", share=0.25))
    n, k = graph.tensors["layers.1.mlp.down.weight"].shape
    assert graph.tensors["layers.1.mlp.down.sampled"].shape == (TOKENS // 4, k)
    assert graph.operator_by_name["layers.1.mlp.down.backward_weight"].flops == 2 * n * k * TOKENS // 4
    assert bytes_of(graph, Role.OPTIMIZER_STATE) == 3 * 4 * n * k


def test_scales_of_a_quantised_weight() -> None:
    graph = only(WeightMethod("scales", bits=4, group=64))
    weight = graph.tensors["layers.1.mlp.down.weight"]
    n, k = weight.shape
    assert weight.dtype == "int4"
    assert weight.size_bytes == n * k // 2 + 4 * (n * k // 64)
    assert bytes_of(graph, Role.OPTIMIZER_STATE) == 3 * 4 * n * -(-k // 64)


def test_low_rank_moments() -> None:
    graph = only(WeightMethod("low-rank", rank=16, history=2))
    n, k = graph.tensors["layers.1.mlp.down.weight"].shape
    small, wide = min(n, k), max(n, k)
    expected = 2 * 4 * 16 * wide + 4 * n * k + 2 * (small * 16 + 2 * 16 * wide)
    assert bytes_of(graph, Role.OPTIMIZER_STATE) == expected
    held = {name for op in graph.operators if op.kind == "optimizer" for name in op.inputs}
    assert any(graph.tensors[name].shape == (n, k) for name in held)
    at_once = only(WeightMethod("low-rank", rank=16, layerwise=True))
    held = {name for op in at_once.operators if op.kind == "optimizer" for name in op.inputs}
    assert not any(at_once.tensors[name].shape == (n, k) for name in held)


def test_sparse_scores() -> None:
    graph = only(WeightMethod("sparse", rank=4))
    n, k = graph.tensors["layers.1.mlp.down.weight"].shape
    assert bytes_of(graph, Role.OPTIMIZER_STATE) == 3 * 4 * (2 * 4 * (n + k) + n + k)


def test_saved_in_few_bits() -> None:
    parts = TrainedParts(saved_bits=(("matmul", 8.0), ("norm", 4.0)))
    graph, plain = step_of(parts), step_of(ALL_TRAINED)
    packed = graph.tensors["layers.1.mlp.act.out.packed"]
    elements = packed.shape[0] * packed.shape[1]
    assert packed.size_bytes == elements + -(-elements // 256) * 4
    # What is packed is not read by the backward pass itself.
    readers = [graph.operator_by_name[name] for name in graph.consumers["layers.1.mlp.act.out"]]
    assert {op.place.training_pass for op in readers} == {"forward"}
    assert bytes_of(graph, Role.WEIGHT) == bytes_of(plain, Role.WEIGHT)


def test_forward_only_runs_twice_and_keeps_nothing() -> None:
    parts = TrainedParts((("layers.0.*norm*", WeightMethod()),), forward_only=True)
    graph = step_of(parts)
    assert not [op for op in graph.operators if op.place.training_pass == "backward"]
    assert sum(op.name.startswith("layers.0.mlp.down") for op in graph.operators) == 2
    forward = sum(op.flops for op in forward_of(step_of(ALL_TRAINED)))
    assert sum(op.flops for op in forward_of(graph)) == pytest.approx(2 * forward)


def test_eight_bit_states_carry_scales() -> None:
    graph = step_of(ALL_TRAINED, types=StepTypes(moments="int8"))
    state = graph.tensors["layers.1.mlp.down.weight.m"]
    elements = state.shape[0] * state.shape[1]
    assert state.size_bytes == elements + -(-elements // 256) * 4
    assert graph.tensors["layers.1.mlp_norm.weight.m"].dtype == "fp32"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layers.*.nothing", "fits no weight; names are such as"), ("re:(", "found 're:\\('"),
        ("lora:rnk=3", "did you mean 'rank'"), ("lora:rank=x", "expected a number"), ("", "found nothing"),
        ("lora:targets=q_prj", "did you mean 'q_proj'"), ("missing.yaml", "no such file"),
    ],
)  # fmt: skip
def test_bad_words_are_told(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        step_of(trained_parts(text))


def test_a_pattern_that_fits_nothing_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"such as layers\.0\.mlp\.down\.weight"):
        step_of(trained_parts("layers.0.mlp.dwn.weight"))


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "parts.yaml"
    path.write_text(
        'trainable:\n  "layers.*.mlp.down.weight": {method: columns, rank: 16}\n  "*norm*": full\n'
        "adapters: {rank: 4, targets: [q_proj]}\nbase: nf4\ndouble: true\nsaved: {matmul: 8}\ncopies: 3\n"
    )
    parts = trained_parts(str(path))
    assert parts.method_of("layers.2.mlp.down.weight") == WeightMethod("columns", rank=16)
    assert parts.method_of("layers.2.mlp_norm.weight") == WeightMethod()
    assert parts.method_of("embedding.weight").method == "frozen"
    assert (parts.base, parts.double, parts.copies, parts.saved_bits) == ("nf4", True, 3, (("matmul", 8.0),))
    assert any("columns (rank 16)" in line for line in parts.words())
    assert step_of(parts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "expected keys"), ("trainble: {}\n", "did you mean 'trainable'"),
        ("base: nf4\n", "names nothing to train"),
        ('trainable: {"*": {method: colums}}\n', "did you mean|expected one of"),
        ('trainable: {"*": {method: columns, rnk: 3}}\n', "did you mean 'rank'"),
        ('trainable: {"*": {method: columns, rank: 0}}\n', "expected 1 to"),
        ('trainable: {"*": {method: sampled, share: 2.0}}\n', "share above 0"),
        ('trainable: {"*": full}\nbase: nf5\n', "unknown element type"),
        ('trainable: {"*": full}\nsaved: {matmull: 8}\n', "did you mean 'matmul'"),
        ('trainable: {"*": full}\nsaved: {matmul: 99}\n', "1 to 32 bits"),
        ('trainable: {"*": full}\ncopies: -1\n', "0 to 64"),
        ("adapters: {rank: 4, targets: []}\n", "found no targets"),
    ],
)  # fmt: skip
def test_bad_files_are_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "parts.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        trained_parts(str(path))
    assert "parts.yaml" in str(caught.value)


def test_everything_frozen_is_told() -> None:
    with pytest.raises(InputError, match="nothing is left to train"):
        step_of(rules(("embedding.weight", WeightMethod("frozen"))))
