"""Control flow of ONNX models: If, Loop and Scan, whose bodies are graphs of their own.

A body is counted once. Where the condition of an If is known before the run, its branch is taken; otherwise
the costlier one is. How often a Loop or Scan runs is said in a note, not multiplied in.
"""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import MutableMapping
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from workloads.graph import Operator, Role, Tensor
from workloads.onnx_node import Cost, Node, Value, over_rows
from workloads.operators import Copy

if TYPE_CHECKING:
    import onnx

__all__ = ["Scope", "Walk", "walk_control_flow"]

Scope = MutableMapping[str, Value]
"""The values that a graph or body sees, by name."""


class Walk(Protocol):
    """What control flow needs of the walk over a model: to add to it, and to take back what a branch added."""

    tensors: dict[str, Tensor]
    operators: list[Operator]
    bounded: list[str]
    guessed: list[str]
    control: Counter[str]

    def unique(self, name: str) -> str:
        """A name that no operator has yet."""
        ...

    def register(self, value: Value) -> None:
        """Make a value's tensor known to the graph."""
        ...

    def add(self, name: str, node: Node, cost: Cost) -> None:
        """Add an operator."""
        ...

    def walk_body(self, proto: onnx.GraphProto, scope: Scope, prefix: str, depth: int) -> None:
        """Add the operators of a body; ``scope`` holds its inputs and gains what it makes."""
        ...


def walk_control_flow(walk: Walk, node: onnx.NodeProto, scope: Scope, prefix: str, depth: int) -> None:
    """Walk the body of an If, Loop or Scan and bind the node's outputs in ``scope``."""
    name = walk.unique(prefix + (node.name or node.op_type))
    if node.op_type == "If":
        _if(walk, node, scope, name, depth)
    else:
        _repeated(walk, node, scope, name, depth)


def _graphs(node: onnx.NodeProto) -> dict[str, onnx.GraphProto]:
    return {item.name: item.g for item in node.attribute if item.HasField("g")}


def _if(walk: Walk, node: onnx.NodeProto, scope: Scope, name: str, depth: int) -> None:
    condition = scope[node.input[0]]
    graphs = _graphs(node)
    branches = ["then_branch", "else_branch"]
    if condition.array is not None:
        branches = ["then_branch" if bool(condition.array.reshape(-1)[0]) else "else_branch"]
    else:
        walk.control["If: the condition depends on the data; the costlier branch is counted"] += 1
    start, tensors = len(walk.operators), dict(walk.tensors)
    estimates = list(walk.bounded), list(walk.guessed)
    best: tuple[tuple[float, int], list[Operator], dict[str, Tensor], list[Value]] | None = None
    said = estimates
    weights: dict[str, Tensor] = {}
    for branch in branches:
        outputs = _walked(walk, graphs[branch], scope, {}, f"{name}/{branch.removesuffix('_branch')}/", depth)
        operators = walk.operators[start:]
        cost = (sum(op.flops for op in operators), sum(op.read_bytes + op.write_bytes for op in operators))
        if best is None or cost > best[0]:
            best = (cost, operators, dict(walk.tensors), outputs)
            said = list(walk.bounded), list(walk.guessed)
        walk.bounded[:], walk.guessed[:] = estimates
        weights |= {key: t for key, t in walk.tensors.items() if t.role is Role.WEIGHT}
        del walk.operators[start:]
        walk.tensors.clear()
        walk.tensors.update(tensors)
    walk.bounded[:], walk.guessed[:] = said
    if best is not None:
        walk.operators.extend(best[1])
        walk.tensors.update(best[2])
        walk.tensors.update(weights)  # both branches are loaded with the model
        scope.update({out: value for out, value in zip(node.output, best[3], strict=False) if out})


def _walked(
    walk: Walk, body: onnx.GraphProto, scope: Scope, bound: dict[str, Value], prefix: str, depth: int
) -> list[Value]:
    """The body's outputs, after its operators were added; ``bound`` are its inputs."""
    inner = ChainMap(bound, scope)
    walk.walk_body(body, inner, prefix, depth + 1)
    return [inner[item.name] for item in body.output]


def _repeated(walk: Walk, node: onnx.NodeProto, scope: Scope, name: str, depth: int) -> None:
    body = _graphs(node)["body"]
    inputs = [scope[item] if item else None for item in node.input]
    bound: dict[str, Value] = {}
    if node.op_type == "Loop":
        times, carried, sliced = _trips(inputs[0]), inputs[2:], []
        for item in body.input[:2]:
            bound[item.name] = Value(prefix_of(name, item.name), "", (), "int64", constant=True, element=7)
        names = [item.name for item in body.input[2:]]
        skipped = 1
    else:
        count = next(item.i for item in node.attribute if item.name == "num_scan_inputs")
        carried, sliced = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
        times = sliced[0].shape[0] if sliced and sliced[0] is not None and sliced[0].shape else None
        names = [item.name for item in body.input]
        skipped = 0
    for inner, value in zip(names, carried, strict=False):
        if value is not None:
            walk.register(value)
            bound[inner] = replace(value, constant=False, array=None)
    for inner, value in zip(names[len(carried) :], sliced, strict=False):
        if value is not None:
            bound[inner] = replace(value, shape=value.shape[1:], array=None)
    shown = "an unknown number of times" if times is None else f"{times} times"
    walk.control[f"{node.op_type}: its body runs {shown} and is counted once"] += 1
    outputs = _walked(walk, body, scope, bound, f"{name}/body/", depth)[skipped:]
    for index, (out, value) in enumerate(zip(node.output, outputs, strict=False)):
        if not out:
            continue
        if index < len(carried):
            scope[out] = value
            continue
        stacked = Value(
            prefix_of(name, out),
            prefix_of(name, out),
            (times or 1, *value.shape),
            value.dtype,
            element=value.element,
        )
        collect = Cost(over_rows(Copy, stacked.shape))
        walk.add(f"{name}/{out}", Node(node.op_type, "", {}, (value,), (stacked,)), collect)
        scope[out] = stacked


def prefix_of(name: str, inner: str) -> str:
    """The name of a tensor inside a control-flow operator."""
    return f"{name}/{inner}"


def _trips(limit: Value | None) -> int | None:
    if limit is None or limit.array is None:
        return None
    return max(0, int(limit.array.reshape(-1)[0]))
