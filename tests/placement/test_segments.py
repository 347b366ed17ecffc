"""A graph as segments that repeat and units that are placed as one."""

from __future__ import annotations

import pytest

from mapping.placement.segments import apart, one_after_another, segment_classes, waits
from tests.placement.machines import decode
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

MODELS = ("llama-3-8b", "mixtral-8x7b", "gemma-2-2b", "deepseek-v2-lite", "opt-1.3b", "gpt-oss-20b")


@pytest.mark.parametrize("model", MODELS)
def test_every_operator_stands_in_one_unit_and_classes_follow_one_another(model: str) -> None:
    graph = decode(model)
    classes = segment_classes(graph)
    names = [op.name for found in classes for segment in found.members for op in segment.operators]
    assert sorted(names) == sorted(op.name for op in graph.operators)
    assert one_after_another(graph, classes)
    layers = max(op.place.layer for op in graph.operators if op.place.layer is not None) + 1
    assert sum(found.count for found in classes if found.count > 1) >= layers - 2


def test_attention_and_experts_are_units_of_their_own() -> None:
    graph = decode("mixtral-8x7b")
    roles = [unit.role for unit in segment_classes(graph)[2].example.units]
    assert roles == ["products", "attend", "products", "products", "experts"]


def test_a_network_that_branches_has_segments_that_wait_for_several() -> None:
    graph = load_workload("inception-v3", WorkloadOptions(batch=1)).phases[0].graph
    classes = segment_classes(graph)
    assert not one_after_another(graph, classes)
    alone = apart(classes)
    before = waits(graph, alone)
    assert len(alone) == len(before)
    assert max(len(others) for others in before) >= 3
