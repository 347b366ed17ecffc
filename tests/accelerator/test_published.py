"""Frames per second that the makers of an accelerator published, against arrays by their shape; nothing is fitted."""

import csv
import dataclasses
from pathlib import Path

import pytest

from hw_configs.library import load_system
from offchip import api
from workloads.models import build
from workloads.workload import WorkloadOptions

ROWS = Path(__file__).parents[1] / "reference" / "accelerator" / "nvdla_resnet50.csv"


def ratios(**changed):
    """Ours over published, by number of cells; ``changed`` are rules of the operand buffer that do not hold."""
    system = load_system("nvdla-large")
    node = system.nodes["nvdla-large"]
    graph = build("resnet-50", WorkloadOptions(dtype="int8")).phases[0].graph
    found = {}
    for row in csv.DictReader(ROWS.open(encoding="utf-8")):
        device = node.device
        size = 1024 * int(row["conv_buffer_kb"])
        device = device.model_copy(
            update={
                "array_rows": int(row["rows"]),
                "array_columns": int(row["columns"]),
                "operand_buffer": device.operand_buffer.model_copy(update=changed),
                "scratchpad": device.scratchpad.model_copy(update={"size": size}),
                "compute": device.compute.model_copy(update={"matrix": {"int8": 2e9 * int(row["macs"])}}),
                "memory": device.memory.model_copy(update={"bandwidth": 1e9 * float(row["sdram_gb_per_s"])}),
            }
        )
        machine = dataclasses.replace(system, nodes={node.name: dataclasses.replace(node, device=device)})
        result = api.simulate(graph, machine, fidelity="analytic")
        found[int(row["macs"])] = 1 / result.makespan_s / float(row["frames_per_s"])
    return found


def test_resnet_50_runs_about_as_fast_as_published_on_all_seven_designs():
    for macs, ratio in ratios().items():
        assert ratio == pytest.approx(1, abs=0.06), macs


@pytest.mark.parametrize(
    ("rule", "least", "most"),
    [
        ({"folds_strides": False}, 0.87, 1.62), ({"epilogues": ()}, 0.78, 0.92), ({"kernels": 1}, 0.95, 1.40),
        ({"winograd": False}, 0.93, 1.01),
    ],
)  # fmt: skip
def test_what_each_rule_is_worth(rule, least, most):
    found = ratios(**rule)
    assert min(found.values()) == pytest.approx(least, abs=0.02)
    assert max(found.values()) == pytest.approx(most, abs=0.02)
