"""Small questions to the messages of the onnx package: names, attributes, types, twins of fused operators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import onnx
from onnx import TypeProto, helper

__all__ = ["all_text", "attribute_value", "label_of", "names_read", "sides_of", "standard_twin"]


def all_text(message: Any) -> bool:
    """Whether every text in a message is text: a damaged file has bytes there that are no UTF-8."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            if not all(
                isinstance(item, str) for item in ([value] if isinstance(value, str | bytes) else value)
            ):
                return False
        elif field.type == field.TYPE_MESSAGE and not all(
            all_text(item) for item in ([value] if hasattr(value, "ListFields") else value)
        ):
            return False
    return True


def label_of(node: onnx.NodeProto) -> str:
    """How a message names an operator: by its name, or by what it makes."""
    return node.name or f"{node.op_type} making {', '.join(node.output)}"


def names_read(node: onnx.NodeProto) -> Iterator[str]:
    """Names a node reads, those its subgraphs take from outside among them."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            inner = {item.name for item in (*graph.input, *graph.initializer)}
            for child in graph.node:
                yield from (name for name in names_read(child) if name not in inner)
                inner.update(child.output)
            yield from (item.name for item in graph.output if item.name and item.name not in inner)


def attribute_value(attribute: onnx.AttributeProto) -> Any:
    """The plain value of an attribute; None for a subgraph and for what cannot be read."""
    if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
        return None
    try:
        return helper.get_attribute_value(attribute)
    except ValueError:
        return None


def sides_of(
    kind: TypeProto, symbols: Mapping[str, int] | None = None
) -> tuple[tuple[int | None, ...] | None, int]:
    """The sides of a tensor type (None where open) and its element type."""
    if kind.HasField("sequence_type"):
        return sides_of(kind.sequence_type.elem_type, symbols)
    if kind.HasField("optional_type"):
        return sides_of(kind.optional_type.elem_type, symbols)
    tensor = kind.tensor_type
    if not tensor.HasField("shape"):
        return None, tensor.elem_type
    sides = tuple(
        dim.dim_value if dim.HasField("dim_value") else (symbols or {}).get(dim.dim_param)
        for dim in tensor.shape.dim
    )
    return sides, tensor.elem_type


_TWINS: Final = {"FusedConv": "Conv", "NhwcMaxPool": "MaxPool", "QLinearAveragePool": "AveragePool"}


def standard_twin(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node as the standard operator it extends, without attributes and inputs that it lacks."""
    name = _TWINS.get(node.op_type, node.op_type)
    schema = onnx.defs.get_schema(name)
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    twin.op_type, twin.domain = name, ""
    del twin.attribute[:]
    twin.attribute.extend(item for item in node.attribute if item.name in schema.attributes)
    if name == "Conv":
        del twin.input[3:]
    return twin
