"""A collective's row of an operator table: which wires it crosses, and how fast they are."""

from __future__ import annotations

from typing import Any

from offchip.validation.reference_gpu import ReferenceGpu
from simulator.cost.collective_time import collective_seconds
from simulator.cost.roofline import generation
from workloads.operator_table import TableRow

__all__ = ["predicted_collective_us", "wire_of"]


def wire_of(row: TableRow) -> str:
    """peer, host or network: the slowest kind of wire that the row's ranks must cross.

    More ranks than GPUs per node cross the network. A node whose GPUs are joined in pairs (the label says
    ``pairwise``) sends anything beyond a pair through the host.
    """
    ranks = int(float(row.cells.get("n_devices") or 2))
    per_node = int(float(row.cells.get("devices_per_node") or ranks))
    if "pairwise" in row.cells.get("label", ""):
        return "host" if ranks > 2 or per_node < ranks else "peer"
    return "network" if ranks > per_node else "peer"


def predicted_collective_us(
    row: TableRow, gpu: ReferenceGpu, constants: dict[str, Any], empty: bool = False
) -> float | None:
    """Microseconds of a collective, or None where the wires' bandwidth is unknown.

    ``empty`` asks for the same collective of a single byte: what latency alone costs.
    """
    operator = row.operator
    assert operator is not None
    wire = wire_of(row)
    bandwidths = {
        "peer": gpu.wire_bandwidth,
        "host": gpu.host_bandwidth,
        "network": constants["network_bandwidth"],
    }
    bandwidth = bandwidths[wire]
    if bandwidth is None:
        return None
    ranks = int(float(row.cells.get("n_devices") or 2))
    size = 1 if empty else row.exchanged_bytes
    seconds = collective_seconds(operator.kind, ranks, size, bandwidth, constants, wire, generation(gpu.gpu))
    eager = constants["eager_skew_us"] if row.timing == "kernel" and ranks > 2 else 0.0
    return seconds * 1e6 + eager
