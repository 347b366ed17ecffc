"""Predicted times for the rows of an operator table, as each row's timing method would show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hw_configs.problems import InputError
from offchip.validation.collective_rows import predicted_collective_us
from offchip.validation.gpu_rows import GpuRow, predict_gpu_rows
from offchip.validation.reference_gpu import ReferenceGpu
from offchip.validation.timing import added_us
from simulator.cost.by_device import ByDevice
from simulator.cost.collective import schedule
from simulator.cost.model import COST_MODELS, CostModel, wider_type
from simulator.cost.roofline import COMMUNICATION_KINDS, constants, operator_class
from workloads.operator_table import TableRow

__all__ = ["ErrorSummary", "Prediction", "error_summary", "predict_row", "predict_rows"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row's prediction. ``note`` says why there is none, and then every figure is None, or what it rests on.

    ``predicted_us`` is kernel plus launch time plus what the row's timing method adds; ``launch_us`` is the
    launch part alone.
    """

    predicted_us: float | None
    launch_us: float | None
    energy_j: float | None
    bound_by: str
    note: str = ""


def predict_rows(rows: Sequence[TableRow], gpu: ReferenceGpu, model: CostModel) -> list[Prediction]:
    """The predictions for rows on one GPU, in order."""
    if isinstance(model, ByDevice):
        priced = predict_gpu_rows([(row, gpu) for row in rows], model.gpu)
        return [_of_gpu_row(done, _remarks(row, gpu)) for row, done in zip(rows, priced, strict=True)]
    return [predict_row(row, gpu, model) for row in rows]


def _of_gpu_row(done: GpuRow, remarks: str) -> Prediction:
    if done.note:
        return Prediction(None, None, None, "", done.note)
    return Prediction(done.total_s * 1e6, done.launch_s * 1e6, done.energy_j, done.bound_by, remarks)


def _remarks(row: TableRow, gpu: ReferenceGpu) -> str:
    """What was assumed of a row, and the wider types at whose rate its products run."""
    wider = {
        operator.dtype: wider_type(gpu.gpu.compute, operator)
        for operator in (row.operator, *row.then)
        if operator is not None
    }
    told = [f"{dtype} products run at the rate of {served}" for dtype, served in wider.items() if served]
    return "; ".join([*([row.note] if row.note else []), *told])


def predict_row(row: TableRow, gpu: ReferenceGpu, model: CostModel | None = None) -> Prediction:
    """The prediction for a row on a GPU; a row without an operator or a wire comes back with a note.

    The GPU model takes each row under the setup that its timing names; other models take the additions of
    :mod:`offchip.validation.timing`.
    """
    if isinstance(model, ByDevice):
        return predict_rows([row], gpu, model)[0]
    operator = row.operator
    if operator is None:
        return Prediction(None, None, None, "", row.problem)
    if operator.kind in COMMUNICATION_KINDS:
        return _predict_collective(row, gpu)
    try:
        cost = (model or COST_MODELS.get("roofline")).cost(operator, gpu.node, gpu.memory)
    except InputError as error:
        return Prediction(None, None, None, "", f"{row.op}: {error}")
    extra = added_us(row.timing, operator_class(operator), constants()["gpu"])
    total = (cost.seconds + cost.launch_seconds) * 1e6 + extra
    energy = cost.compute_energy_j + cost.memory_energy_j
    return Prediction(total, cost.launch_seconds * 1e6, energy, cost.bound_by, _remarks(row, gpu))


def _predict_collective(row: TableRow, gpu: ReferenceGpu) -> Prediction:
    operator = row.operator
    assert operator is not None
    fit = constants()["collective"]
    total = predicted_collective_us(row, gpu, fit)
    if total is None:
        return Prediction(
            None, None, None, "", f"{row.op}: no bandwidth is known between GPUs of {gpu.gpu.name}"
        )
    least = predicted_collective_us(row, gpu, fit, empty=True)
    form = schedule(operator.kind, "ring", int(float(row.cells.get("n_devices") or 2)), row.exchanged_bytes)
    per_byte = gpu.memory.energy_per_byte_read_j + gpu.memory.energy_per_byte_written_j
    bound = "latency" if least is not None and least > total / 2 else "wire"
    return Prediction(total, least, form.bytes_sent * per_byte, bound)


@dataclass(frozen=True, slots=True)
class ErrorSummary:
    """Absolute relative errors of a group of rows, in percent, and the median of predicted over measured."""

    rows: int
    mean_pct: float
    median_pct: float
    p95_pct: float
    median_ratio: float


def error_summary(pairs: Iterable[tuple[float, float]]) -> ErrorSummary | None:
    """The summary of (predicted, measured) pairs, or None when there are none."""
    listed: Sequence[tuple[float, float]] = list(pairs)
    if not listed:
        return None
    predicted, measured = np.array(listed, dtype=np.float64).T
    off = np.abs(predicted / measured - 1) * 100
    return ErrorSummary(
        len(listed),
        float(np.mean(off)),
        float(np.median(off)),
        float(np.percentile(off, 95)),
        float(np.median(predicted / measured)),
    )
