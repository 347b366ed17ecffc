from __future__ import annotations

from pathlib import Path

import pytest

from mapping.scheduling import ScheduleProblem, problem_from_graph
from workloads.graph_json import read_graph

REFERENCE = Path(__file__).parent.parent / "reference" / "alloc"


@pytest.fixture
def reference() -> Path:
    return REFERENCE


@pytest.fixture
def inception() -> ScheduleProblem:
    """The first block of Inception v3: 13 operators, M_R 470400, M_H 490240, M_P 509600."""
    return problem_from_graph(read_graph(REFERENCE / "graphs" / "inception_v3_a.json"))
