"""Measured rows put on chips without measurements: all supported, and as far apart as the data sheets are.

Bounds, not timings: what a row takes on another chip of its family lies between what its resources say (bandwidth,
rate, clock, power, multiprocessors), launches and hosts are as quick, and what one resource binds moves with it alone.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from offchip.validation.gpu_rows import GpuRow, predict_gpu_rows
from offchip.validation.reference_gpu import ReferenceGpu, ReferenceGpus
from simulator.gpu.constants import shipped_constants
from simulator.gpu.model import GPU
from simulator.gpu.sheet import GpuSheet
from workloads.operator_table import TableRow, read_operator_table

KERNELS = Path(__file__).parent.parent / "reference" / "kernels" / "kernels.csv"
NEAREST = {
    "h200": "h100-sxm", "h800": "h100-sxm", "h20": "h100-sxm", "h100-pcie": "h100-sxm", "gh200": "h100-sxm",
    "b300": "b200", "gb200": "b200", "gb300": "b200", "a100-pcie-80gb": "a100-80gb", "a30": "a100-80gb",
    "rtx-6000-ada": "l40s", "rtx-pro-6000": "l40s", "rtx-5090": "l40s",
}  # fmt: skip
EVERY = 5
"""Of the rows every so manyth is taken: enough of each kernel."""
WAVES = 1.35
"""How far a whole number of waves and another tile may lie from the ratio of rates."""
TYPES = ("bf16", "fp8", "int8", "nvfp4")


@cache
def table() -> tuple[TableRow, ...]:
    return read_operator_table(KERNELS).rows


def board(name: str) -> ReferenceGpu:
    found = ReferenceGpus().find(name)
    assert found is not None
    return found


def priced(rows: tuple[TableRow, ...], name: str) -> list[GpuRow]:
    on = board(name)
    return predict_gpu_rows([(row, on) for row in rows], GPU)


@cache
def rows_of(name: str) -> tuple[TableRow, ...]:
    """Rows of a measured chip."""
    gpus = ReferenceGpus()
    same = {
        gpu: (found := gpus.find(gpu)) is not None and found.gpu.name == name
        for gpu in {r.gpu for r in table()}
    }
    return tuple(row for row in table() if same[row.gpu])[::EVERY]


def sheet_of(name: str) -> GpuSheet:
    on = board(name)
    return GPU.sheet(on.node, on.memory)


def bandwidth(sheet: GpuSheet) -> float:
    return sheet.bandwidth * shipped_constants().memory_share(sheet.memory)


def slowest_and_quickest(name: str) -> tuple[float, float]:
    """Ratios of seconds that the resources of two sheets allow."""
    own, twin = sheet_of(name), sheet_of(NEAREST[name])
    width = own.sms * own.clock / (twin.sms * twin.clock)
    ratios = [
        own.clock / twin.clock, width, bandwidth(own) / bandwidth(twin), (own.tdp - own.idle) / (twin.tdp - twin.idle),
        width * own.architecture.exponentials_per_clock / twin.architecture.exponentials_per_clock,
        *(own.rate(t) * width / twin.rate(t) for t in TYPES),
        own.l2_visible_bytes / twin.l2_visible_bytes, 1.0,
    ]  # fmt: skip
    own_wire, twin_wire = board(name).wire_bandwidth, board(NEAREST[name]).wire_bandwidth
    assert own_wire
    assert twin_wire
    ratios.append(own_wire / twin_wire)
    return 1 / max(ratios), 1 / min(ratios)


@pytest.mark.parametrize("name", NEAREST)
def test_every_row_has_a_price_between_what_the_sheets_allow(name: str) -> None:
    rows = rows_of(NEAREST[name])
    own, twin = priced(rows, name), priced(rows, NEAREST[name])
    assert not [row.note for row in own if row.note]
    least, most = slowest_and_quickest(name)
    for row, here, there in zip(rows, own, twin, strict=True):
        if row.op == "mla_decode" and "rtx" in name:
            continue  # another kernel, which splits a sequence's keys
        ratio = here.total_s / there.total_s
        assert least / WAVES <= ratio <= most * WAVES, (row.id, row.op, ratio, least, most)


@pytest.mark.parametrize("name", ["h200", "gb200", "b300", "rtx-pro-6000", "rtx-6000-ada"])
def test_what_the_memory_binds_moves_with_the_memory(name: str) -> None:
    wanted = bandwidth(sheet_of(NEAREST[name])) / bandwidth(sheet_of(name))
    rows = tuple(
        row for row in rows_of(NEAREST[name])
        if row.op in ("gemm", "attention_decode") and "block" not in row.cells["dtype"]
    )  # fmt: skip
    found = [
        here.total_s / there.total_s
        for here, there in zip(priced(rows, name), priced(rows, NEAREST[name]), strict=True)
        if there.bound_by == here.bound_by == "memory" and there.total_s > 4e-5
    ]
    assert len(found) >= 3
    # What stands beside the stream, and caches that hold part of it, keep some rows nearer to one.
    assert min(found, key=lambda ratio: abs(ratio - wanted)) == pytest.approx(wanted, rel=0.06)
    assert min(1.0, wanted) * 0.9 <= float(np.median(found)) <= max(1.0, wanted) * 1.05


@pytest.mark.parametrize("name", ["h200", "h800", "b300"])
def test_launches_and_hosts_take_as_long(name: str) -> None:
    clock = sheet_of(NEAREST[name]).clock / sheet_of(name).clock
    rows = tuple(row for row in rows_of(NEAREST[name]) if row.op in ("gemm", "attention_decode"))
    for row, here, there in zip(rows, priced(rows, name), priced(rows, NEAREST[name]), strict=True):
        if there.bound_by == here.bound_by == "launch":
            assert 0.95 * min(1.0, clock) <= here.total_s / there.total_s <= 1.05, row.id


def test_exponentials_of_twice_the_rate_quicken_short_heads() -> None:
    rows = tuple(
        row for row in table()
        if row.gpu == "B200-SXM" and row.op == "attention_prefill" and row.cells["head_dim"] == "64"
        and row.measured_us is not None and row.measured_us > 1000 and row.cells["kernel"] != "vllm_triton_attn"
        and row.cells["window"] in ("", "0")
    )  # fmt: skip
    assert len(rows) >= 5
    ratios = [
        here.total_s / there.total_s
        for here, there in zip(priced(rows, "b300"), priced(rows, "b200"), strict=True)
    ]
    assert 0.5 < float(np.median(ratios)) < 0.8


def test_a_box_on_pcie_has_the_latencies_of_its_host_and_the_width_of_its_port() -> None:
    rows = tuple(
        row for row in table()
        if row.gpu == "L40S" and row.op in ("all_reduce", "all_gather", "alltoall", "reduce_scatter")
    )  # fmt: skip
    for row, here, there in zip(rows, priced(rows, "rtx-pro-6000"), priced(rows, "l40s"), strict=True):
        ratio = here.total_s / there.total_s
        assert 0.49 <= ratio <= 1.0 + 1e-9, row.id
        if row.exchanged_bytes <= 1024:
            assert ratio > 0.9, row.id
        if row.exchanged_bytes >= 1 << 28:
            assert ratio == pytest.approx(0.5, rel=0.05), row.id


def test_a_layer_that_its_host_calls_takes_the_host_s_time_on_a_chip_without_its_type() -> None:
    rows = tuple(
        row for row in table()
        if row.gpu == "L40S" and row.cells["dtype"] == "fp8_block" and row.op == "gemm" and (row.measured_us or 0) < 350
    )  # fmt: skip
    least = min(row.total_s for row in priced(rows, "l40s"))
    assert min(row.total_s for row in priced(rows, "arc-pro-b60")) >= 0.99 * least


@pytest.mark.parametrize("name", ["arc-pro-b60", "rtx-pro-6000", "b300"])
def test_kernels_that_nobody_knows_are_priced(name: str, tmp_path: Path) -> None:
    with KERNELS.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        columns = list(reader.fieldnames or ())
        # The kernel alone says which part of linear attention a row is.
        rows = [dict(row, kernel="a_new_kernel") for row in reader if "delta" not in row["op"]]
    cells = rows[:: 3 * EVERY]
    file = tmp_path / "operators.csv"
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(cells)
    for row, found in zip(cells, priced(read_operator_table(file).rows, name), strict=True):
        assert not found.note, row["id"]
        assert found.total_s > 0, row["id"]
