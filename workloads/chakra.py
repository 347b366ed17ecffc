"""MLCommons Chakra execution traces: one file of compute, memory and communication nodes per rank.

A trace is length-delimited protobuf: a GlobalMetadata message, then Node messages (schema: ``et_def.proto``
of mlcommons/chakra). Nodes name their dependencies, not their tensors, so each node makes one tensor that its
dependants read: of the bytes that a load or a receive brings in, and of size 0 otherwise. ``num_ops`` are the
FLOPs of a compute node and ``tensor_size`` the bytes it touches. A trace says neither the precision, so fp16 is
assumed, nor the kind of work, so a node of many FLOPs per byte is taken for a product, nor any shape, so that
product is priced as a square one of the same FLOPs, and any other node as one long row of the bytes it touches. The
measured runtime is kept. One file is the work of one rank, which all ranks are taken to do alike: ``--tp N`` runs it
on N devices that meet in its collectives.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from hw_configs.problems import InputError, Problem, bad_input
from workloads.dtypes import BITS
from workloads.graph import Attribute, Graph, Operator, Tensor, check_graph
from workloads.imported import refuse_resizing, uncosted_operators
from workloads.operators import (
    AllGather,
    AllReduce,
    AllToAll,
    Broadcast,
    CollectiveWork,
    Copy,
    Custom,
    Elementwise,
    Product,
    Receive,
    ReduceScatter,
    Rows,
    Send,
    View,
    Work,
)
from workloads.protobuf_wire import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    Buffer,
    Field,
    WireError,
    encoded_bytes,
    encoded_varint,
    encoded_varint_field,
    fields,
    varint,
)
from workloads.workload import Phase, Workload, WorkloadOptions

__all__ = ["IMPORTER", "TraceNode", "read_trace", "trace_bytes"]

MAX_NODES: Final = 5_000_000
MAX_PROBLEMS: Final = 50
PRODUCT_INTENSITY: Final = 16
"""FLOPs per byte beyond which a compute node is taken for a product: pointwise work does less (assumption)."""

_TYPES: Final = (
    "invalid", "metadata", "memory_load", "memory_store", "compute", "send", "receive", "collective",
    "storage", "batch", "checkpoint",
)  # fmt: skip
_COLLECTIVES: Final = (
    "all_reduce", "reduce", "all_gather", "gather", "scatter", "broadcast", "all_to_all", "reduce_scatter",
    "reduce_scatter_block", "barrier",
)  # fmt: skip
_COLLECTIVE: Final[Mapping[str, type[CollectiveWork]]] = {
    "all_reduce": AllReduce, "reduce": AllReduce, "all_gather": AllGather, "gather": AllGather,
    "scatter": Broadcast, "broadcast": Broadcast, "all_to_all": AllToAll, "reduce_scatter": ReduceScatter,
    "reduce_scatter_block": ReduceScatter, "barrier": AllReduce,
}  # fmt: skip
"""Rooted collectives run as the nearest one that all ranks take part in, which moves at least as much; a
barrier is a reduction of nothing. The trace's own name is kept as the operator's ``source``."""
_DTYPE: Final = "fp16"
"""The precision that is assumed of a trace."""

AttributeValue = int | float | bool | str


@dataclass(frozen=True, slots=True)
class TraceNode:
    """One node of a trace. ``type``: compute, memory_load, memory_store, send, receive, collective, ..."""

    id: int
    name: str
    type: str
    control_dependencies: tuple[int, ...] = ()
    data_dependencies: tuple[int, ...] = ()
    runtime_us: int = 0
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


def read_trace(path: Path) -> tuple[str, list[TraceNode]]:
    """The schema version and the nodes of a trace; raises ``InputError`` for a file that is not whole."""
    if path.stat().st_size == 0:
        raise bad_input("the file is empty", file=str(path))
    nodes: list[TraceNode] = []
    version = ""
    position = 0
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for index, (start, end) in enumerate(_messages(content)):
                position = start
                if index == 0 and _is_metadata(content, start, end):
                    version = _version(content, start, end)
                    continue
                nodes.append(_node(content, start, end))
                if len(nodes) > MAX_NODES:
                    raise bad_input(f"more than {MAX_NODES} nodes", file=str(path))
    except WireError as error:
        if error.missing and nodes:
            text = f"the trace is cut short after {len(nodes)} nodes: {error}"
        else:
            text = f"not a Chakra trace, or a damaged one, at byte {position}: {error}"
        raise bad_input(text, file=str(path)) from None
    except OSError as error:
        raise bad_input(f"cannot be read: {error.strerror}", file=str(path)) from None
    return version, nodes


def trace_bytes(nodes: Sequence[TraceNode], version: str = "0.0.4") -> bytes:
    """A trace file of the nodes, in the form that :func:`read_trace` reads."""
    parts = [_delimited(encoded_bytes(1, version.encode()))]
    parts += [_delimited(_encoded_node(node)) for node in nodes]
    return b"".join(parts)


# --- reading ---------------------------------------------------------------------------------------------


def _messages(content: Buffer) -> Iterator[tuple[int, int]]:
    position, size = 0, len(content)
    while position < size:
        length, start = varint(content, position, size)
        if start + length > size:
            raise WireError("a message is cut short", missing=start + length - size)
        position = start + length
        yield start, position


def _is_metadata(content: Buffer, start: int, end: int) -> bool:
    """GlobalMetadata begins with a text (its version); a node begins with a number (its id)."""
    return all(item.wire_type == BYTES and item.number in (1, 2) for item in fields(content, start, end))


def _version(content: Buffer, start: int, end: int) -> str:
    return next((_text(content, item) for item in fields(content, start, end) if item.number == 1), "")


def _node(content: Buffer, start: int, end: int) -> TraceNode:
    number = kind = runtime = 0
    name = ""
    dependencies: dict[int, list[int]] = {4: [], 5: []}
    attributes: dict[str, AttributeValue] = {}
    for item in fields(content, start, end):
        if item.number == 1 and item.wire_type == VARINT:
            number = item.value
        elif item.number == 2 and item.wire_type == BYTES:
            name = _text(content, item)
        elif item.number == 3 and item.wire_type == VARINT:
            kind = item.value
        elif item.number in dependencies:
            dependencies[item.number] += _numbers(content, item)
        elif item.number == 7 and item.wire_type == VARINT:
            runtime = item.value
        elif item.number == 10 and item.wire_type == BYTES:
            key, value = _attribute(content, item)
            if value is not None:
                attributes[key] = value
    kind_name = _TYPES[kind] if kind < len(_TYPES) else f"type {kind}"
    return TraceNode(
        number, name, kind_name, tuple(dependencies[4]), tuple(dependencies[5]), runtime, attributes
    )


def _numbers(content: Buffer, item: Field) -> list[int]:
    """A repeated number: packed in one field, or one field each."""
    if item.wire_type == VARINT:
        return [item.value]
    values, position = [], item.start
    while position < item.end:
        value, position = varint(content, position, item.end)
        values.append(value)
    return values


def _text(content: Buffer, item: Field) -> str:
    return bytes(content[item.start : item.end]).decode("utf-8", "replace")


_SIGNED: Final = frozenset({7, 9})
_ZIGZAG: Final = frozenset({15, 17})


def _attribute(content: Buffer, outer: Field) -> tuple[str, AttributeValue | None]:
    """The name and value of an attribute; lists and bytes are left aside."""
    name = ""
    value: AttributeValue | None = None
    for item in fields(content, outer.start, outer.end):
        if item.wire_type == BYTES:
            if item.number == 1:
                name = _text(content, item)
            elif item.number == 29:
                value = _text(content, item)
        elif item.wire_type == FIXED64 and item.number == 3:
            value = struct.unpack("<d", item.value.to_bytes(8, "little"))[0]
        elif item.wire_type == FIXED32 and item.number == 5:
            value = struct.unpack("<f", item.value.to_bytes(4, "little"))[0]
        elif item.wire_type in (FIXED64, FIXED32):
            bits = 64 if item.wire_type == FIXED64 else 32
            value = (
                item.value - (1 << bits)
                if item.number in (23, 25) and item.value >> (bits - 1)
                else item.value
            )
        elif item.number == 27:
            value = bool(item.value)
        elif item.number in _SIGNED:
            value = item.value - (1 << 64) if item.value >> 63 else item.value
        elif item.number in _ZIGZAG:
            value = (item.value >> 1) ^ -(item.value & 1)
        elif item.number in (11, 13):
            value = item.value
    return name, value


# --- writing ---------------------------------------------------------------------------------------------


def _delimited(message: bytes) -> bytes:
    return encoded_varint(len(message)) + message


def _encoded_node(node: TraceNode) -> bytes:
    parts = [encoded_varint_field(1, node.id), encoded_bytes(2, node.name.encode())]
    parts.append(encoded_varint_field(3, _TYPES.index(node.type)))
    for number, numbers in ((4, node.control_dependencies), (5, node.data_dependencies)):
        if numbers:
            parts.append(encoded_bytes(number, b"".join(encoded_varint(value) for value in numbers)))
    if node.runtime_us:
        parts.append(encoded_varint_field(7, node.runtime_us))
    parts += [encoded_bytes(10, _encoded_attribute(*item)) for item in node.attributes.items()]
    return b"".join(parts)


def _encoded_attribute(name: str, value: AttributeValue) -> bytes:
    head = encoded_bytes(1, name.encode())
    if isinstance(value, bool):
        return head + encoded_varint_field(27, int(value))
    if isinstance(value, int):
        return head + encoded_varint_field(9, value)
    if isinstance(value, float):
        return head + encoded_varint(3 << 3 | FIXED64) + struct.pack("<d", value)
    return head + encoded_bytes(29, value.encode())


# --- the graph -------------------------------------------------------------------------------------------


def _graph(path: Path, nodes: Sequence[TraceNode]) -> Graph:
    names = _names(path, nodes)
    tensors = {
        f"{name}.done": _result(f"{name}.done", node)
        for node, name in zip(nodes, names.values(), strict=True)
    }
    operators = tuple(_operator(node, names) for node in nodes)
    read = {tensor for op in operators for tensor in op.inputs}
    outputs = tuple(op.outputs[0] for op in operators if op.outputs[0] not in read)
    metadata: dict[str, Attribute] = {"format": "chakra"}
    return check_graph(Graph(path.stem, tensors, operators, outputs, metadata=metadata), str(path))


def _names(path: Path, nodes: Sequence[TraceNode]) -> dict[int, str]:
    """A name for each node id; names repeat in traces, so the id follows a name that is not the first."""
    problems: list[Problem] = []
    names: dict[int, str] = {}
    taken: set[str] = set()
    for node in nodes:
        if node.id in names:
            problems.append(Problem(f"two nodes have the id {node.id}", str(path), None, node.name or None))
        name = node.name or f"node {node.id}"
        names[node.id] = name = name if name not in taken else f"{name} #{node.id}"
        taken.add(name)
    for node in nodes:
        problems += [
            Problem(
                f"depends on node {other}, which the trace does not hold", str(path), None, names[node.id]
            )
            for other in (*node.control_dependencies, *node.data_dependencies)
            if other not in names
        ]
    if problems:
        more = (
            [Problem(f"and {len(problems) - MAX_PROBLEMS} more", str(path))]
            if len(problems) > MAX_PROBLEMS
            else []
        )
        raise InputError([*problems[:MAX_PROBLEMS], *more])
    return names


def _count(node: TraceNode, *keys: str) -> int:
    """The first of the attributes that is there as a finite number of at least zero."""
    for key in keys:
        value = node.attributes.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
            return int(value)
    return 0


def _result(name: str, node: TraceNode) -> Tensor:
    arrives = node.type in ("memory_load", "receive")
    return Tensor(name, (_count(node, "comm_size", "tensor_size") if arrives else 0,), "uint8")


def _operator(node: TraceNode, names: Mapping[int, str]) -> Operator:
    name = names[node.id]
    waits = dict.fromkeys((*node.data_dependencies, *node.control_dependencies))
    inputs = tuple(f"{names[other]}.done" for other in waits)
    size = _count(node, "tensor_size") if node.type == "compute" else _count(node, "comm_size", "tensor_size")
    source = node.type
    if node.type == "collective":
        index = _count(node, "comm_type")
        source = _COLLECTIVES[index] if index < len(_COLLECTIVES) else f"comm_type {index}"
    work = _work(node, source, size)
    read = 0 if isinstance(work, View) or _waits_only(node) else size
    return Operator(
        name, work, inputs, (f"{name}.done",), dtype=_DTYPE, reads=(0,) * len(inputs), writes=(0,),
        beside_read=read, beside_written=0 if node.type == "compute" else read, source=source,
        measured_s=node.runtime_us * 1e-6 if node.runtime_us else None,
    )  # fmt: skip


def _waits_only(node: TraceNode) -> bool:
    """Whether a node of no known type moves nothing."""
    moving = (
        "compute",
        "memory_load",
        "memory_store",
        "storage",
        "checkpoint",
        "collective",
        "send",
        "receive",
    )
    return node.type not in moving


def _work(node: TraceNode, source: str, size: int) -> Work:
    """What a node does; ``source`` is the trace's own name for it."""
    if node.type == "compute":
        return _computed(float(_count(node, "num_ops")), size)
    if node.type == "memory_load":
        return Copy(m=1, n=size)  # the bytes that arrive
    if node.type in ("memory_store", "storage", "checkpoint"):
        return _long_row(Copy, 0.0, size)
    if node.type == "collective":
        kind = _COLLECTIVE.get(source)
        group = _count(node, "comm_group_size", "group_size")
        return Custom() if kind is None else kind(bytes=0 if source == "barrier" else size, group=group)
    if node.type == "send":
        return Send(bytes=size, peer=_count(node, "comm_dst"))
    if node.type == "receive":
        return Receive(bytes=size, peer=_count(node, "comm_src"))
    return View() if node.type in ("metadata", "batch", "invalid") else Custom()


def _computed(flops: float, size: int) -> Work:
    """A square product of the FLOPs where there are many per byte, pointwise work otherwise."""
    if flops > PRODUCT_INTENSITY * size:
        side = max(1, round((flops / 2) ** (1 / 3)))
        square = Product(m=side, n=side, k=side)
        return replace(square, extra_flops=flops - square.flops)
    return _long_row(Elementwise, flops, size) if size else Custom()


def _long_row(kind: type[Rows], flops: float, size: int) -> Rows:
    elements = max(1, math.ceil(size * 8 / BITS[_DTYPE]))
    return kind(m=1, n=elements, flops_per_element=flops / elements)


class _ChakraImporter:
    """Reads Chakra traces; see :class:`workloads.importers.Importer`."""

    FORMAT = "a Chakra execution trace"

    def recognises(self, path: Path, head: bytes) -> bool:
        """By the name, or by a first message that is the metadata of a trace."""
        if path.suffix.lower() == ".et":
            return True
        if head.lstrip()[:1] in (b"{", b"["):
            return False
        try:
            start, end = next(_messages(head))
            return (
                0 < end - start < 4096 and _is_metadata(head, start, end) and bool(_version(head, start, end))
            )
        except (WireError, StopIteration):
            return False

    def load(self, path: Path, options: WorkloadOptions) -> Workload:
        """The trace of one rank as a workload of one phase."""
        refuse_resizing(options, str(path))
        if options.phase is not None:
            raise bad_input("a trace holds what ran; leave this option out", file=str(path), path="--phase")
        version, nodes = read_trace(path)
        if not nodes:
            raise bad_input("the trace holds no node", file=str(path))
        graph = _graph(path, nodes)
        metadata: dict[str, Attribute] = {"format": "chakra", "schema": version or "unknown", "ranks": 1}
        return Workload(graph.name, [Phase("forward", "forward", graph)], metadata, uncosted_operators(graph))


IMPORTER: Final = _ChakraImporter()
