"""PCIe boxes: ranks share switches, root complexes and the path between sockets; held against measured collectives.

Rows: tests/reference/kernels (aiconfigurator-core 0.12.0, Apache-2.0), L40S with 2, 4 and 8 ranks, buffers of a
megabyte and more. The wires say how bytes share them; what NCCL's protocols lose on top is not in them.
"""

from __future__ import annotations

import statistics
from functools import cache
from pathlib import Path

import pytest

import offchip
from hw_configs.catalog import catalog
from hw_configs.library import load_system
from hw_configs.system import System
from simulator.cost.model import COST_MODELS
from simulator.cost.roofline import COMMUNICATION_KINDS
from simulator.system.costs import CostTable
from tests.typed import operator_of
from workloads.operator_table import TableRow, read_operator_table

ROWS = Path(__file__).parents[1] / "reference" / "kernels" / "kernels.csv"
BOXES = ("l40s-8x", "l4-8x", "rtx-pro-6000-8x", "arc-pro-b60-8x", "rtx-4090-8x")


def seconds(system: System, kind: str, ranks: int, size: int) -> float:
    table = CostTable(system, COST_MODELS.get("by-device"), "auto")
    return table.seconds_alone(
        table.rounds(operator_of(kind, bytes=size), tuple(f"gpu{i}" for i in range(ranks)))
    )


@cache
def measured() -> list[TableRow]:
    rows = read_operator_table(ROWS).rows
    return [r for r in rows if r.gpu == "L40S" and r.operator and r.operator.kind in COMMUNICATION_KINDS]


def ratios(system: System, ranks: int) -> list[float]:
    """Ours over measured, rows of so many ranks."""
    found = []
    for row in measured():
        if int(row.cells["n_devices"]) == ranks and row.exchanged_bytes >= 1e6 and row.measured_us:
            assert row.operator is not None
            ours = seconds(system, row.operator.kind, ranks, row.exchanged_bytes)
            found.append(ours * 1e6 / row.measured_us)
    return found


@pytest.mark.parametrize(("ranks", "least", "most"), [(2, 0.5, 1.0), (4, 0.85, 1.15), (8, 0.4, 1.0)])
def test_measured_collectives_of_an_l40s_box(ranks: int, least: float, most: float) -> None:
    found = ratios(load_system("l40s-8x"), ranks)
    assert len(found) > 12
    assert least < statistics.median(found) < most


def test_lanes_of_their_own_would_be_many_times_too_fast(tmp_path: Path) -> None:
    """The guard trips: without the path between the sockets eight ranks are an order of magnitude off."""
    text = catalog()["l40s-8x"].path.read_text(encoding="utf-8")
    (tmp_path / "wide.yaml").write_text(
        text.replace("use: socket-pcie", "use: root-complex"), encoding="utf-8"
    )
    assert statistics.median(ratios(load_system(tmp_path / "wide.yaml"), 8)) < 0.2


@pytest.mark.parametrize("name", BOXES)
def test_more_ranks_are_never_quicker_and_a_pair_is_quickest(name: str) -> None:
    system = load_system(name)
    times = [seconds(system, "all_reduce", ranks, 2**26) for ranks in (2, 4, 8)]
    assert times == sorted(times)
    assert times[2] > 2 * times[0]


def test_a_model_over_eight_ranks_waits_for_the_sockets() -> None:
    result = offchip.simulate("llama-3-8b", "l40s-8x", tp=8)
    assert result.bottleneck().startswith("link")
    bare = offchip.simulate("llama-3-8b", "l40s-8x", tp=8, collective="wires")
    assert bare.wires["onchip:root0-root1"].utilisation > 0.9
    # A library's ring of eight crosses between the sockets more than once.
    assert result.makespan_s > 2 * bare.makespan_s
    two = offchip.simulate("llama-3-8b", "l40s-8x", tp=2)
    assert two.makespan_s < result.makespan_s
