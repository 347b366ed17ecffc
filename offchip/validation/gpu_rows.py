"""Rows of an operator table through the GPU model, each under the setup that its timing names.

The setup decides what the caches held, which generation of library ran and what stands beside kernel time
(:class:`simulator.gpu.constants.Setup`); a row's own column ``residency`` (cold, hot, previous) overrides it.
Communication goes to the model of a GPU library's collectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from hw_configs.problems import InputError, Problem, nearest
from offchip.validation.collective_rows import wire_of
from offchip.validation.engine_rows import setup_name
from offchip.validation.gpu_collectives import collective_line
from offchip.validation.reference_gpu import ReferenceGpu
from simulator.cost.collective import schedule
from simulator.cost.roofline import COMMUNICATION_KINDS
from simulator.gpu import collective
from simulator.gpu.lowering import lowered
from simulator.gpu.model import GpuModel
from simulator.gpu.request import Prediction, Request
from simulator.gpu.rows import predict
from workloads.graph import Operator
from workloads.operator_table import TableRow

__all__ = ["GpuRow", "predict_gpu_rows"]

RESIDENCIES = ("cold", "hot", "previous")


@dataclass(frozen=True, slots=True)
class GpuRow:
    """One row's figures, or a note that says why there are none."""

    total_s: float = 0.0
    launch_s: float = 0.0
    energy_j: float = 0.0
    bound_by: str = ""
    note: str = ""


def predict_gpu_rows(rows: Sequence[tuple[TableRow, ReferenceGpu]], model: GpuModel) -> list[GpuRow]:
    """Predictions of rows on their GPUs, in order; computing rows are priced together, family by family."""
    found: list[GpuRow | None] = [None] * len(rows)
    requests: list[Request] = []
    places: list[tuple[int, int]] = []
    for index, (row, gpu) in enumerate(rows):
        if row.operator is None:
            found[index] = GpuRow(note=row.problem)
        elif row.operator.kind in COMMUNICATION_KINDS:
            found[index] = _collective(row, gpu, model)
        else:
            try:
                sheet = model.sheet(gpu.node, gpu.memory)
                setup = model.constants.setup(setup_name(row))
                run = [lowered(_with_residency(part, row)) for part in (row.operator, *row.then)]
                requests += [Request(operator, sheet, setup) for operator in run]
                places.append((index, len(run)))
            except InputError as error:
                told = "; ".join(problem.message for problem in error.problems)
                found[index] = GpuRow(note=f"{row.op}: {told}")
    done = iter(predict(requests, model.constants))
    for index, count in places:
        found[index] = _in_turn(list(islice(done, count)))
    return [row for row in found if row is not None]


def _in_turn(parts: Sequence[Prediction]) -> GpuRow:
    """What kernels take one after another; the longest says what bounds them."""
    longest = max(parts, key=lambda part: part.seconds)
    joules = sum(part.compute_j + part.memory_j for part in parts)
    seconds, launch = sum(part.seconds for part in parts), sum(part.launch_s for part in parts)
    return GpuRow(seconds, launch, joules, longest.bound_by)


def _with_residency(operator: Operator, row: TableRow) -> Operator:
    given = row.cells.get("residency", "")
    if not given:
        return operator
    if given not in RESIDENCIES:
        message = f"found residency {given!r}; expected {', '.join(RESIDENCIES)}"
        raise InputError([Problem(message, None, row.line, "residency", nearest(given, RESIDENCIES))])
    return replace(operator, residency=given)


def _collective(row: TableRow, gpu: ReferenceGpu, model: GpuModel) -> GpuRow:
    operator = row.operator
    assert operator is not None
    wire = wire_of(row)
    if (gpu.host_bandwidth if wire == "host" else gpu.wire_bandwidth) is None and wire != "network":
        return GpuRow(note=f"{row.op}: no bandwidth is known between GPUs of {gpu.gpu.name}")
    sheet = model.sheet(gpu.node, gpu.memory)
    line = collective_line(row, sheet, gpu.wire_bandwidth or 0.0, gpu.host_bandwidth or 0.0, model.constants)
    empty = list(line)
    empty[collective.BYTES] = 1.0
    out = np.zeros(2)
    constants = model.constants.array("collective", collective.CONSTANTS)
    collective.collective_rows(np.array([line, empty]), constants, out)
    total, least = float(out[0]), float(out[1])
    form = schedule(operator.kind, "ring", int(line[collective.RANKS]), row.exchanged_bytes)
    return GpuRow(
        total, least, form.bytes_sent * 2 * sheet.joule_per_byte, "latency" if least > total / 2 else "wire"
    )
