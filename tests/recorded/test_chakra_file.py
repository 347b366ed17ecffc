"""Questions to the reader of Chakra's files: does it read what protobuf writes, and protobuf what it writes?"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.recorded.chakra_file import TraceNode, read_trace, trace_bytes

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
    start_us=st.integers(0, 2**64 - 1),
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
        (5, "data_deps", "uint64", True, False), (6, "start_time_micros", "uint64", False, False),
        (7, "duration_micros", "uint64", False, False),
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
        data_deps=node.data_dependencies, start_time_micros=node.start_us, duration_micros=node.runtime_us,
        attr=attributes,
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


def test_signed_fixed_and_zigzag_numbers_are_read(messages, tmp_path):
    attributes = [
        messages["Attribute"](name="a", sint64_val=-5),
        messages["Attribute"](name="b", fixed64_val=2**40),
        messages["Attribute"](name="c", int64_val=-1),
    ]
    node = messages["Node"](id=3, name="n", type=4, attr=attributes)
    path = tmp_path / "t.et"
    path.write_bytes(delimited(messages["Metadata"](version="1")) + delimited(node))
    _, (read,) = read_trace(path)
    assert read.attributes == {"a": -5, "b": 2**40, "c": -1}
