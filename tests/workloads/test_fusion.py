"""Questions to pointwise fusion: is less moved, is nothing lost, and is what others read left alone?"""

from hypothesis import given
from hypothesis import strategies as st

from workloads.fusion import behind_arrays, fuse_pointwise
from workloads.graph import Graph, Role, Tensor, check_graph, make_operator
from workloads.operators import Activation, Convolution, Elementwise, Norm, Pool, Product

ROWS = {"m": 8, "n": 4, "flops_per_element": 1.0}
WORK = {
    "conv": Convolution(
        in_channels=4, out_channels=4, height=8, width=1, kernel_h=1, kernel_w=1, out_height=8, out_width=1
    ),
    "matmul": Product(m=8, n=4, k=4), "pool": Pool(**ROWS), "norm": Norm(**ROWS),
    "activation": Activation(**ROWS), "elementwise": Elementwise(**ROWS),
}  # fmt: skip


def graph_of(rows, outputs):
    """Rows of (name, kind, inputs); every tensor has 8 x 4 elements, but for weights of 4 called w..."""
    tensors = {}
    operators = []
    for name in dict.fromkeys(
        ["x", *(name for _, _, inputs in rows for name in inputs), *(row[0] for row in rows)]
    ):
        weight = name.startswith("w")
        tensors[name] = Tensor(
            name, (4,) if weight else (8, 4), "fp16", Role.WEIGHT if weight else Role.ACTIVATION
        )
    for name, kind, inputs in rows:
        operators.append(make_operator(f"make {name}", WORK[kind], inputs, (name,), tensors))
    return Graph("g", tensors, tuple(operators), tuple(outputs))


def shown(graph):
    return [(op.kind, op.inputs, op.outputs[0]) for op in graph.operators]


def test_a_hard_swish_becomes_one_operator_and_then_an_epilogue():
    rows = [
        ("c", "conv", ["x", "w1"]), ("a", "elementwise", ["c"]), ("b", "activation", ["a"]),
        ("d", "elementwise", ["c", "b"]), ("y", "elementwise", ["d", "w2"]),
    ]  # fmt: skip
    fused = fuse_pointwise(graph_of(rows, ["y"]))
    assert shown(fused) == [("conv", ("x", "w1", "w2"), "y")]
    (op,) = fused.operators
    assert (op.flops, op.read_bytes, op.write_bytes) == (WORK["conv"].flops, 64 + 8 + 8, 64)
    assert op.work.activation, "the epilogue is named"


def test_what_another_operator_reads_stays():
    rows = [("c", "conv", ["x", "w1"]), ("r", "activation", ["c"]), ("p", "pool", ["c"])]
    assert len(fuse_pointwise(graph_of(rows, ["r", "p"])).operators) == 3


def test_what_the_graph_gives_out_stays():
    rows = [("c", "conv", ["x", "w1"]), ("r", "activation", ["c"])]
    assert len(fuse_pointwise(graph_of(rows, ["c", "r"])).operators) == 2


def test_a_residual_sum_stays_an_operator_with_its_activation_inside():
    rows = [("c", "conv", ["x", "w1"]), ("s", "elementwise", ["c", "x"]), ("y", "activation", ["s"])]
    fused = fuse_pointwise(graph_of(rows, ["y"]))
    assert shown(fused) == [("conv", ("x", "w1"), "c"), ("elementwise", ("c", "x"), "y")]


@st.composite
def pointwise_graphs(draw):
    names, rows = ["x"], []
    for index in range(draw(st.integers(1, 14))):
        kind = draw(
            st.sampled_from(["conv", "matmul", "activation", "elementwise", "elementwise", "pool", "norm"])
        )
        inputs = draw(st.lists(st.sampled_from(names[-4:]), min_size=1, max_size=2, unique=True))
        if draw(st.booleans()):
            inputs.append(f"w{index}")
        rows.append((f"t{index}", kind, inputs))
        names.append(f"t{index}")
    read = {name for _, _, inputs in rows for name in inputs}
    extra = draw(st.lists(st.sampled_from(names[1:]), max_size=2, unique=True))
    return graph_of(rows, dict.fromkeys([*(name for name in names[1:] if name not in read), *extra]))


def roots(graph, tensor):
    """Every weight and graph input that a tensor is computed from."""
    makers = {name: op for op in graph.operators for name in op.outputs}
    found, open_ends = set(), [tensor]
    while open_ends:
        name = open_ends.pop()
        if name in makers:
            open_ends += makers[name].inputs
        else:
            found.add(name)
    return found


@given(pointwise_graphs())
def test_fusion_keeps_the_outputs_and_all_they_come_from_and_never_moves_more(graph):
    fused = fuse_pointwise(graph)
    assert check_graph(fused) is fused
    assert fused.outputs == graph.outputs
    assert fused.parameters() == graph.parameters()
    for output in graph.outputs:
        assert roots(fused, output) == roots(graph, output)

    def moved(g):
        return sum(op.read_bytes + op.write_bytes for op in g.operators)

    assert moved(fused) <= moved(graph)
    assert fused.flops <= graph.flops
    for kind in ("conv", "matmul", "pool", "norm"):
        count = [sum(op.kind == kind for op in g.operators) for g in (graph, fused)]
        assert count[0] == count[1]


@given(pointwise_graphs(), st.sampled_from([("elementwise",), ("pool",), ("elementwise", "pool")]))
def test_what_runs_behind_arrays_keeps_outputs_and_roots_and_moves_less(graph, kinds):
    fused = behind_arrays(graph, kinds)
    assert check_graph(fused) is fused
    assert fused.outputs == graph.outputs
    for output in graph.outputs:
        assert roots(fused, output) == roots(graph, output)
    gone = {op.name for op in graph.operators} - {op.name for op in fused.operators}
    assert all(graph.operator_by_name[name].kind in kinds for name in gone)
    # Each that ran inside spares one write and one read of what it took, of 8 x 4 elements of two bytes, at least.
    moved = [sum(op.read_bytes + op.write_bytes for op in g.operators) for g in (graph, fused)]
    assert moved[1] <= moved[0] - 2 * 64 * len(gone)


@given(pointwise_graphs())
def test_fusing_twice_changes_nothing_in_kind_or_traffic(graph):
    once = fuse_pointwise(graph)
    twice = fuse_pointwise(once)
    assert shown(twice) == shown(once)
