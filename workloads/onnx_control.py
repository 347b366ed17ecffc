"""Control flow of ONNX models: If, Loop and Scan, whose bodies are graphs of their own.

Where the condition of an If is known before the run, its branch is taken; otherwise the costlier one is. Loops are in
:mod:`workloads.onnx_loops`.
"""

from __future__ import annotations

from collections import ChainMap
from typing import TYPE_CHECKING

from workloads.graph import Operator, Role, Tensor
from workloads.onnx_loops import repeated
from workloads.onnx_node import Value
from workloads.onnx_walk import Scope, Walk

if TYPE_CHECKING:
    import onnx

__all__ = ["walk_control_flow"]


def walk_control_flow(walk: Walk, node: onnx.NodeProto, scope: Scope, prefix: str, depth: int) -> None:
    """Walk the body of an If, Loop or Scan and bind the node's outputs in ``scope``."""
    name = walk.unique(prefix + (node.name or node.op_type))
    if node.op_type == "If":
        _if(walk, node, scope, name, depth)
    else:
        repeated(walk, node, scope, name, depth)


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
