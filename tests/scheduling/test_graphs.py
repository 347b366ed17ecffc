"""From graphs to problems: views, weights, in-place updates, workspaces, loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hw_configs.problems import InputError
from mapping.scheduling import ScheduleOperator, ScheduleProblem, ScheduleTensor, problem_from_graph, solve
from workloads.graph import KINDS, Graph, Operator, Role, Tensor
from workloads.graph_json import read_graph
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions


def small(*operators: Operator, **sizes: int) -> Graph:
    tensors = {
        name: Tensor(name, (size,), "int8", Role.WEIGHT if name.startswith("w") else Role.ACTIVATION)
        for name, size in sizes.items()
    }
    return Graph("small", tensors, operators, (operators[-1].outputs[-1],))


def op(name: str, inputs: str, outputs: str, kind: str = "elementwise", updates: str = "") -> Operator:
    return Operator(
        name, KINDS[kind](), tuple(inputs.split()), tuple(outputs.split()), tuple(updates.split())
    )


def test_weights_stream_or_lie_whole() -> None:
    graph = small(op("one", "x w1", "y"), op("two", "y w1 w2", "z"), x=4, w1=3, w2=5, y=2, z=1)
    stream, resident = (problem_from_graph(graph, weights) for weights in ("stream", "resident"))  # type: ignore[arg-type]
    assert stream.need_bytes == (6, 3)
    assert [t.name for t in stream.tensors] == ["x", "y", "z"]
    assert resident.need_bytes == (9, 11)
    assert resident.tensors[resident.tensor_index["w1"]].copy_free


def test_a_view_takes_no_step_and_no_bytes() -> None:
    graph = small(
        op("one", "x", "y"), op("flat", "y", "yf", "view"), op("two", "yf", "z"), x=4, y=6, yf=6, z=1
    )
    problem = problem_from_graph(graph)
    assert [o.name for o in problem.operators] == ["one", "two"]
    assert problem.need_bytes == (10, 7)
    assert problem.views == {"yf": "y"}
    assert problem.predecessors == ((), (0,))


def test_tensors_updated_in_place_are_streamed_and_keep_their_order() -> None:
    graph = small(
        op("one", "x", "y", updates="c"), op("two", "x c", "z"), op("three", "y z", "e"),
        x=2, c=50, y=2, z=2, e=1,
    )  # fmt: skip
    problem = problem_from_graph(graph)
    assert "c" not in problem.tensor_index
    assert problem.predecessors[1] == (0,)


def test_a_tensor_read_twice_by_one_operator_counts_once() -> None:
    problem = problem_from_graph(small(op("one", "x", "y"), op("square", "y y", "z"), x=1, y=5, z=5))
    assert problem.need_bytes == (6, 10)


def test_outputs_are_stored_and_inputs_loaded_once() -> None:
    result = solve(problem_from_graph(small(op("one", "x", "y"), op("two", "y x", "z"), x=1, y=5, z=5)), 11)
    assert [(move.tensor, move.kind) for move in result.transfers] == [("x", "load"), ("z", "store")]


def test_built_in_networks_become_problems() -> None:
    graph = load_workload("resnet-50", WorkloadOptions(dtype="int8")).phases[0].graph
    problem = problem_from_graph(graph)
    # The add of the first stage: three tensors of 56 x 56 x 256 bytes, the 2352 KB of the literature.
    assert problem.least_budget == 3 * 56 * 56 * 256 == 2352 * 1024
    with_weights = problem_from_graph(graph, "resident")
    result = solve(with_weights, with_weights.least_budget)
    # 602112 bytes for ResNet-50 in int8 with parameters: the figure of a public re-implementation of COSMA.
    assert (result.status, result.cost_bytes) == ("optimal", 602_112)


def test_a_network_of_hundreds_of_operators_is_proved() -> None:
    graph = load_workload("densenet-121", WorkloadOptions(dtype="int8")).phases[0].graph
    problem = problem_from_graph(graph)
    result = solve(problem, problem.least_budget)
    assert (result.status, result.cost_bytes) == ("optimal", 1_404_928)


def test_wrong_input_is_told() -> None:
    with pytest.raises(InputError, match="stream"):
        problem_from_graph(small(op("one", "x", "y"), x=1, y=1), "streams")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no operators"):
        problem_from_graph(Graph("empty", {}, ()))
    tensor = ScheduleTensor("t", 4, 1, (0,), False)
    first, second = ScheduleOperator("a", (0,), ()), ScheduleOperator("b", (), (0,))
    with pytest.raises(InputError, match="stands before"):
        ScheduleProblem("late", (first, second), (tensor,))
    with pytest.raises(InputError, match="2\\*\\*60"):
        ScheduleProblem("huge", (second,), (ScheduleTensor("t", 2**61, 0, (), True),))


@pytest.mark.parametrize("kind", ["input", "placeholder"])
def test_what_an_operator_loads_from_outside_costs_no_write(kind: str, tmp_path: Path) -> None:
    rows = [("load", [], 3), ("a", ["load"], 2), ("b", ["a"], 6), ("c", ["b"], 1), ("d", ["load", "c"], 1)]
    graph = {
        "format": "dnn-scratchpad-graph-1",
        "name": "outside",
        "ops": [
            {"name": name, "kind": kind if name == "load" else "conv", "inputs": inputs, "outputs": [name]}
            for name, inputs, _ in rows
        ],
        "tensors": [
            {"name": name, "bytes": size, "graph_input": name == "load", "graph_output": name == "d"}
            for name, _, size in rows
        ],
    }
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(graph), encoding="utf-8")
    result = solve(problem_from_graph(read_graph(path)), 8)
    assert (result.status, result.cost_bytes, result.transfer_count) == ("optimal", 3, 1)
