"""A collective's row of an operator table as the GPU model's collective kernel wants it."""

from __future__ import annotations

from offchip.validation.collective_rows import wire_of
from simulator.gpu.collective import KINDS, WIRES
from simulator.gpu.constants import Constants
from simulator.gpu.sheet import GpuSheet
from simulator.system.gpu_library import PCIE_PORT
from workloads.operator_table import TableRow

__all__ = ["collective_line"]

SOCKET_SHARE = 0.25
"""Bandwidth between the sockets of a PCIe box over that of one port, before what protocols take: rows of 4 and 8 L40S
move 4.6 to 6.7 GB/s of 32; that it grows with the ports of a generation is an assumption."""


def collective_line(
    row: TableRow, sheet: GpuSheet, wire_bandwidth: float, host_bandwidth: float, constants: Constants
) -> list[float]:
    """The inputs of :func:`simulator.gpu.collective.collective_rows` for a row.

    ``wire_bandwidth`` joins the GPUs of a node, ``host_bandwidth`` is their PCIe; both per direction.
    """
    operator = row.operator
    assert operator is not None
    wire = wire_of(row)
    ranks = float(row.cells.get("n_devices") or 2)
    per_node = float(row.cells.get("devices_per_node") or ranks)
    if "pairwise" in row.cells.get("label", "") and ranks > per_node:
        wire = "network"
    if wire == "peer" and wire_bandwidth <= PCIE_PORT and not sheet.architecture.switch_reduces:
        wire = "host"
        host_bandwidth = wire_bandwidth
    own = row.cells.get("kernel") == "custom"
    socket = 0.0
    if wire == "host" and "pairwise" not in row.cells.get("label", ""):
        socket = SOCKET_SHARE * host_bandwidth
    bandwidths = {
        "peer": wire_bandwidth, "host": host_bandwidth, "network": constants.network_bandwidth(sheet.generation),
    }  # fmt: skip
    kind = "send" if operator.kind == "receive" else operator.kind
    sharp = sheet.architecture.switch_reduces and wire == "peer" and wire_bandwidth > PCIE_PORT
    return [
        float(KINDS.index(kind)), ranks, float(row.exchanged_bytes), bandwidths[wire],
        float(WIRES.index(wire)), constants.latency_scale(sheet.generation), float(sharp), per_node,
        float(row.timing == "kernel"), socket, constants.engine_scale(sheet.generation) if own else 0.0,
    ]  # fmt: skip
