"""Questions to the Chakra importer: does it read what protobuf writes, and keep nodes, waits and bytes?"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from workloads.chakra import IMPORTER, TraceNode, read_trace, trace_bytes
from workloads.graph import check_graph
from workloads.importers import load_workload
from workloads.operators import AllReduce, Elementwise, Product
from workloads.workload import WorkloadOptions

LAYER = [
    TraceNode(0, "load weights", "memory_load", attributes={"tensor_size": 4096}),
    TraceNode(1, "gemm", "compute", (), (0,), 37, {"num_ops": 2_000_000, "tensor_size": 8192}),
    TraceNode(
        2, "all reduce", "collective", (), (1,), 12, {"comm_type": 0, "comm_size": 1024, "comm_group_size": 8}
    ),
    TraceNode(3, "send", "send", (2,), (), 0, {"comm_size": 512, "comm_dst": 3, "comm_tag": 7}),
    TraceNode(4, "receive", "receive", (3,), (), 0, {"comm_size": 256, "comm_src": 1}),
    TraceNode(5, "gemm", "compute", (), (4, 1), 0, {"num_ops": 10, "tensor_size": 20}),
    TraceNode(6, "store", "memory_store", (), (5,), 0, {"tensor_size": 64}),
]


@pytest.fixture
def saved(tmp_path):
    def save(nodes, name="rank.0.et"):
        path = tmp_path / name
        path.write_bytes(nodes if isinstance(nodes, bytes) else trace_bytes(nodes))
        return path

    return save


def problems_of(path, **options):
    with pytest.raises(InputError) as caught:
        IMPORTER.load(path, WorkloadOptions(**options))
    return [str(problem).removeprefix(f"{path}: ") for problem in caught.value.problems]


def test_nodes_become_operators_with_their_waits_and_bytes(saved):
    workload = load_workload(saved(LAYER))
    graph = workload.phases[0].graph
    assert check_graph(graph) is graph
    rows = [(op.name, op.kind, op.flops, op.read_bytes, op.write_bytes) for op in graph.operators]
    assert rows == [
        ("load weights", "copy", 0, 4096, 4096),
        ("gemm", "matmul", 2_000_000, 8192, 0),
        ("all reduce", "all_reduce", 0, 1024, 1024),
        ("send", "send", 0, 512, 512),
        ("receive", "receive", 0, 256, 256),
        ("gemm #5", "elementwise", 10, 20, 0),
        ("store", "copy", 0, 64, 64),
    ]
    assert graph.dependencies["gemm #5"] == ("receive", "gemm")
    assert graph.dependencies["send"] == ("all reduce",)
    by_name = graph.operator_by_name
    assert by_name["gemm"].measured_s == pytest.approx(37e-6)
    assert by_name["all reduce"].work == AllReduce(bytes=1024, group=8)
    assert (by_name["send"].work.peer, by_name["receive"].work.peer) == (3, 1)
    assert workload.metadata["ranks"] == 1


def test_a_node_without_a_shape_is_a_square_product_or_one_long_row_of_its_flops(saved):
    by_name = load_workload(saved(LAYER)).phases[0].graph.operator_by_name
    product, pointwise = by_name["gemm"].work, by_name["gemm #5"].work
    assert isinstance(product, Product)
    assert (product.m, product.n, product.k) == (100, 100, 100)
    assert product.flops == 2_000_000
    assert pointwise == Elementwise(m=1, n=10, flops_per_element=1.0), "20 bytes of fp16"


def test_numbers_that_are_no_counts_are_left_aside(saved):
    node = TraceNode(1, "c", "compute", attributes={"num_ops": float("inf"), "tensor_size": -4})
    (op,) = load_workload(saved([node])).phases[0].graph.operators
    assert (op.kind, op.flops, op.read_bytes) == ("custom", 0, 0)


def test_only_what_arrives_takes_memory(saved):
    graph = load_workload(saved(LAYER)).phases[0].graph
    sizes = {name: t.size_bytes for name, t in graph.tensors.items() if t.size_bytes}
    assert sizes == {"load weights.done": 4096, "receive.done": 256}


@pytest.mark.parametrize(
    ("comm_type", "kind", "source"),
    [
        (0, "all_reduce", "all_reduce"), (1, "all_reduce", "reduce"), (2, "all_gather", "all_gather"),
        (3, "all_gather", "gather"), (4, "broadcast", "scatter"),
        (5, "broadcast", "broadcast"),
        (6, "all_to_all", "all_to_all"), (7, "reduce_scatter", "reduce_scatter"),
        (8, "reduce_scatter", "reduce_scatter_block"), (9, "all_reduce", "barrier"),
        (10, "custom", "comm_type 10"),
    ],
)  # fmt: skip
def test_collectives_keep_their_kind(saved, comm_type, kind, source):
    node = TraceNode(1, "c", "collective", attributes={"comm_type": comm_type, "comm_size": 64})
    (op,) = load_workload(saved([node])).phases[0].graph.operators
    assert (op.kind, op.source) == (kind, source)
    if kind != "custom":
        assert op.work.bytes == (0 if source == "barrier" else 64)


def test_nodes_out_of_order_are_sorted_and_a_cycle_is_named(saved):
    graph = load_workload(saved(LAYER[::-1])).phases[0].graph
    assert [op.name for op in graph.operators][:2] == ["load weights", "gemm #1"]
    loop = [TraceNode(1, "a", "compute", (2,)), TraceNode(2, "b", "compute", (), (1,))]
    assert problems_of(saved(loop)) == ["a: the graph has a cycle: a -> b -> a"]


def test_broken_references_are_all_named(saved):
    nodes = [
        TraceNode(1, "a", "compute"),
        TraceNode(1, "b", "compute"),
        TraceNode(2, "c", "compute", (7,), (8,)),
    ]
    assert problems_of(saved(nodes)) == [
        "b: two nodes have the id 1",
        "c: depends on node 7, which the trace does not hold",
        "c: depends on node 8, which the trace does not hold",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"<html></html>", "not a Chakra trace, or a damaged one, at byte 0: a message is cut short"),
        (trace_bytes([]), "the trace holds no node"),
        (b"", "the file is empty"),
    ],
)
def test_what_is_no_trace_is_refused(saved, content, expected):
    assert problems_of(saved(content)) == [expected]


def test_a_trace_cut_short_says_after_how_many_nodes(saved):
    assert problems_of(saved(trace_bytes(LAYER)[:-3])) == [
        "the trace is cut short after 6 nodes: a message is cut short"
    ]


def test_options_that_cannot_apply_are_refused(saved):
    path = saved(LAYER)
    assert problems_of(path, batch=4) == ["--batch: the file holds a finished graph; leave this option out"]
    assert problems_of(path, phase="train") == ["--phase: a trace holds what ran; leave this option out"]


# --- against protobuf itself -----------------------------------------------------------------------------

ids = st.integers(0, 2**64 - 1)
values = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.booleans() | st.text(max_size=5)
nodes = st.builds(
    TraceNode,
    id=ids,
    name=st.text(max_size=8),
    type=st.sampled_from(
        ["metadata", "memory_load", "compute", "send", "receive", "collective", "checkpoint"]
    ),
    control_dependencies=st.lists(ids, max_size=3).map(tuple),
    data_dependencies=st.lists(ids, max_size=3).map(tuple),
    runtime_us=st.integers(0, 2**64 - 1),
    attributes=st.dictionaries(st.text(min_size=1, max_size=6), values, max_size=4),
)


@pytest.fixture(scope="module")
def messages():
    """The message classes of the published schema, made by the protobuf package at run time."""
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    from google.protobuf import descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="et_subset.proto", package="subset", syntax="proto3")
    numeric = {"double": 1, "int64": 3, "uint64": 4, "bool": 8, "string": 9, "sint64": 18, "fixed64": 6}

    def message(name, *members):
        made = file.message_type.add(name=name)
        for number, member, kind, repeated, one_of in members:
            made.field.add(
                name=member, number=number, label=3 if repeated else 1,
                type=numeric.get(kind, 11), type_name=None if kind in numeric else f".subset.{kind}",
                oneof_index=0 if one_of else None,
            )  # fmt: skip
        if any(member[4] for member in members):
            made.oneof_decl.add(name="value")

    message(
        "Attribute", (1, "name", "string", False, False), (3, "double_val", "double", False, True),
        (9, "int64_val", "int64", False, True), (17, "sint64_val", "sint64", False, True),
        (21, "fixed64_val", "fixed64", False, True), (27, "bool_val", "bool", False, True),
        (29, "string_val", "string", False, True),
    )  # fmt: skip
    message("Metadata", (1, "version", "string", False, False), (2, "attr", "Attribute", True, False))
    message(
        "Node", (1, "id", "uint64", False, False), (2, "name", "string", False, False),
        (3, "type", "int64", False, False), (4, "ctrl_deps", "uint64", True, False),
        (5, "data_deps", "uint64", True, False), (7, "duration_micros", "uint64", False, False),
        (10, "attr", "Attribute", True, False),
    )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"subset.{name}"))
        for name in ("Attribute", "Metadata", "Node")
    }


TYPES = {
    "metadata": 1,
    "memory_load": 2,
    "compute": 4,
    "send": 5,
    "receive": 6,
    "collective": 7,
    "checkpoint": 10,
}


def as_protobuf(messages, node):
    attributes = [
        messages["Attribute"](
            name=name,
            **{
                "bool_val" if isinstance(value, bool) else
                "int64_val" if isinstance(value, int) else
                "double_val" if isinstance(value, float) else "string_val": value
            },
        )
        for name, value in node.attributes.items()
    ]  # fmt: skip
    return messages["Node"](
        id=node.id, name=node.name, type=TYPES[node.type], ctrl_deps=node.control_dependencies,
        data_deps=node.data_dependencies, duration_micros=node.runtime_us, attr=attributes,
    )  # fmt: skip


def delimited(message):
    content = message.SerializeToString()
    length, head = len(content), bytearray()
    while length > 127:
        head.append(length % 128 + 128)
        length //= 128
    return bytes([*head, length]) + content


@given(trace=st.lists(nodes, min_size=1, max_size=5))
@settings(max_examples=80, deadline=None)
def test_what_protobuf_writes_is_read_and_what_is_written_protobuf_reads(messages, tmp_path_factory, trace):
    path = tmp_path_factory.mktemp("t") / "t.et"
    head = messages["Metadata"](version="0.0.4")
    path.write_bytes(b"".join(delimited(m) for m in [head, *(as_protobuf(messages, node) for node in trace)]))
    assert read_trace(path) == ("0.0.4", trace)
    path.write_bytes(trace_bytes(trace))
    assert read_trace(path) == ("0.0.4", trace)
    back = messages["Node"].FromString(trace_bytes(trace[:1])[_after(trace_bytes([])) :][_prefix(trace[0]) :])
    assert back == as_protobuf(messages, trace[0])


def _after(head):
    return len(head)


def _prefix(node):
    """Bytes of the length before the one message of a trace."""
    body = len(trace_bytes([node])) - len(trace_bytes([]))
    return next(n for n in range(1, 6) if body - n < 128**n)


def test_signed_fixed_and_zigzag_numbers_are_read(messages, saved):
    attributes = [
        messages["Attribute"](name="a", sint64_val=-5),
        messages["Attribute"](name="b", fixed64_val=2**40),
        messages["Attribute"](name="c", int64_val=-1),
    ]
    node = messages["Node"](id=3, name="n", type=4, attr=attributes)
    _, (read,) = read_trace(saved(delimited(messages["Metadata"](version="1")) + delimited(node)))
    assert read.attributes == {"a": -5, "b": 2**40, "c": -1}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_damage_ends_in_anything_but_an_answer_or_an_input_error(tmp_path_factory, data):
    content = bytearray(trace_bytes(LAYER))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("d") / "d.et"
    path.write_bytes(content)
    try:
        IMPORTER.load(path, WorkloadOptions())
    except InputError:
        return


def test_ranks_run_the_trace_together_and_meet_in_its_collectives(saved, cli):
    """One file is one rank's work; --tp N runs it on N devices, and one device alone is refused in words."""
    path = saved(LAYER)
    alone = cli("simulate", path, "--hw", "a100-80gb")
    assert alone.code == 2
    assert "is the work of one of several ranks" in alone.err
    outcome = cli("simulate", path, "--hw", "dgx-a100", "--tp", 4, "--collective", "ring", "--json")
    assert outcome.code == 0
    rows = [
        row for row in json.loads(outcome.out)["timeline"]["rows"] if row["operator_kind"] == "all_reduce"
    ]
    assert len(rows) == 4
    assert len({(row["start"], row["end"]) for row in rows}) == 1
    # Ring all-reduce of 1024 bytes over 4 ranks: each sends 2 x 3/4 of them.
    assert [row["bytes"] for row in rows] == [1536.0] * 4
