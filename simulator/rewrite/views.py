"""A graph without its reshapes: tensors that share bytes become one, which has one address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hw_configs.problems import InputError, Problem, nearest
from workloads.graph import Graph

__all__ = ["without_views"]


def without_views(graph: Graph, views: Mapping[str, str]) -> Graph:
    """The graph whose readers of a reshaped tensor read the tensor that it reshapes.

    ``views`` maps the output of a ``view`` operator to its input, or to what that is a view of in turn. Raises
    ``InputError`` for a tensor that no view operator makes, or a source of other bytes.
    """
    problems = [problem for name, source in views.items() for problem in _wrong(graph, name, source)]
    if problems:
        raise InputError(problems)

    def root(name: str) -> str:
        seen = set()
        while name in views and name not in seen:
            seen.add(name)
            name = views[name]
        return name

    gone = {graph.producer[name] for name in views}
    operators = tuple(
        replace(
            op,
            inputs=tuple(root(name) for name in op.inputs),
            updates=tuple(root(name) for name in op.updates),
            in_place=tuple(
                (root(output), tuple(root(name) for name in over)) for output, over in op.in_place
            ),
        )
        for op in graph.operators
        if op.name not in gone
    )
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name not in views}
    outputs = tuple(dict.fromkeys(root(name) for name in graph.outputs))
    return Graph(graph.name, tensors, operators, outputs, graph.structure, graph.metadata)


def _wrong(graph: Graph, name: str, source: str) -> list[Problem]:
    where = f"views.{name}"
    if name not in graph.producer or graph.operator_by_name[graph.producer[name]].kind != "view":
        return [Problem(f"{name!r} is no reshape", path=where, suggestion=nearest(name, graph.producer))]
    if source not in graph.tensors:
        return [Problem(f"unknown tensor {source!r}", path=where, suggestion=nearest(source, graph.tensors))]
    if graph.tensors[source].size_bytes != graph.tensors[name].size_bytes:
        return [Problem(f"{source!r} and {name!r} differ in bytes", path=where)]
    return []
