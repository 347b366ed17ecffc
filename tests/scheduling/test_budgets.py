"""The budgets of a network: what the largest operator needs, and what the best order needs."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from mapping.scheduling import PeakResult
from mapping.scheduling import budgets as budgets_module
from mapping.scheduling.budgets import budgets
from offchip.cli.main import app
from tests.typed import operator_of
from workloads.graph import Graph, Role, Tensor
from workloads.layer_builder import LayerBuilder
from workloads.models import build
from workloads.workload import WorkloadOptions


def graph_of(name, **dims):
    return build(name, WorkloadOptions(dtype="int8", dims=dims)).phases[0].graph


def test_resnet_50_has_the_sizes_that_others_counted():
    """2352 KiB for activations, as a public re-implementation of COSMA counts them for 8 bits."""
    sizes = budgets(graph_of("resnet-50"), "stream")
    assert (sizes.required_bytes, sizes.half_bytes, sizes.peak_bytes) == (2352 * 1024,) * 3
    assert sizes.proven


@pytest.mark.parametrize("name", ["densenet-121", "inception-v3", "nasnet-a-mobile", "vit-b-32"])
@pytest.mark.parametrize("weights", ["stream", "resident"])
def test_budgets_lie_in_order_and_name_the_largest_operator(name, weights):
    graph = graph_of(name)
    sizes = budgets(graph, weights)
    assert sizes.required_bytes <= sizes.half_bytes <= sizes.peak_bytes
    op = graph.operator_by_name[sizes.bounding_operator]
    held = {
        t
        for t in (*op.inputs, *op.outputs)
        if weights == "resident" or graph.tensors[t].role is not Role.WEIGHT
    }
    assert sum(graph.tensors[t].size_bytes for t in held) == sizes.required_bytes


def test_half_way_is_rounded_up_and_never_above_the_peak():
    tensors = {
        name: Tensor(name, (size,), "int8") for name, size in (("x", 100), ("a", 300), ("b", 300), ("y", 9))
    }
    operators = (
        operator_of("activation", name="one", inputs=("x",), outputs=("a",)),
        operator_of("activation", name="two", inputs=("x",), outputs=("b",)),
        operator_of("elementwise", name="sum", inputs=("a", "b"), outputs=("y",)),
    )
    sizes = budgets(Graph("g", tensors, operators, ("y",)), "stream")
    assert (sizes.required_bytes, sizes.half_bytes, sizes.peak_bytes) == (609, 700, 700)


@pytest.mark.parametrize(
    ("peak", "bound", "half"), [(2000, 1500, 1536), (1439, 1439, 1024), (1440, 1440, 1280)]
)
def test_half_way_is_a_multiple_of_256_bytes(monkeypatch, peak, bound, half):
    tensors = {name: Tensor(name, (size,), "int8") for name, size in (("x", 309), ("a", 300), ("y", 9))}
    operators = (
        operator_of("activation", name="one", inputs=("x",), outputs=("a",)),
        operator_of("activation", name="two", inputs=("a",), outputs=("y",)),
    )
    found = PeakResult("feasible", peak, bound, (0, 1), 2.5, 7)
    monkeypatch.setattr(budgets_module, "least_peak", lambda problem, time_limit_s: found)
    sizes = budgets(Graph("g", tensors, operators, ("y",)), "stream")
    assert (sizes.required_bytes, sizes.half_bytes, sizes.peak_bytes) == (609, half, peak)
    assert (sizes.peak_bound_bytes, sizes.proven) == (bound, peak == bound)
    assert (sizes.operators, sizes.bounding_operator, sizes.seconds, sizes.weights) == (
        2,
        "one",
        2.5,
        "stream",
    )


def test_an_operator_that_reads_a_tensor_twice_needs_it_once():
    net = LayerBuilder("twice", WorkloadOptions(dtype="int8"))
    x = net.input("x", 4, 8, 8)
    graph = net.graph(net.add("double", x, x))
    assert budgets(graph, "stream").required_bytes == 2 * 256


def test_the_command_prints_and_writes_them():
    words = CliRunner().invoke(app, ["models", "show", "densenet-121", "--dtype", "int8", "--budgets"])
    assert words.exit_code == 0
    assert "1,605,632" in words.stdout
    plain = CliRunner().invoke(
        app, ["models", "show", "densenet-121", "--dtype", "int8", "--budgets", "--json"]
    )
    found: dict[str, Any] = json.loads(plain.stdout)
    assert [row["weights"] for row in found["budgets"]] == ["stream", "resident"]
    assert found["budgets"][0]["required_bytes"] == 1605632
    assert "budgets" not in json.loads(
        CliRunner().invoke(app, ["models", "show", "densenet-121", "--json"]).stdout
    )
