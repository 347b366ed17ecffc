"""The measured rows that the GPU model is fitted on and held against, with the sheet of each row's GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from offchip.validation.reference_gpu import ReferenceGpus
from simulator.cost.model import roof_seconds
from simulator.cost.roofline import COMMUNICATION_KINDS
from simulator.gpu.constants import Constants
from simulator.gpu.request import Request, family_of
from simulator.gpu.rows import memory_class
from simulator.gpu.sheet import GpuSheet, gpu_sheet
from workloads.operator_table import TableRow, read_operator_table
from workloads.operators import Product

Array = NDArray[np.float64]

ROOT: Final = Path(__file__).resolve().parent.parent

DATA: Final = ROOT / "tests" / "reference" / "gpu"
ENGINE_ROWS: Final = ROOT / "tests" / "reference" / "kernels" / "kernels.csv"
"""Kernels of today's inference engines."""


@dataclass(frozen=True)
class Sample:
    """One measured row with its GPU."""

    row: TableRow
    sheet: GpuSheet
    chip: str
    wire: float
    host: float
    roof: tuple[float, float]

    @property
    def measured(self) -> float:
        """Measured microseconds."""
        assert self.row.measured_us is not None
        return self.row.measured_us


def chip_of(gpu: str) -> str:
    """The chip of a board: all boards of it are left out together.

    >>> chip_of("A100-PCIe-40GB"), chip_of("RTX-4090")
    ('A100', 'RTX-4090')
    """
    parts = gpu.split("-")
    return "-".join(parts[:2]) if parts[0] == "RTX" else parts[0]


def samples(file: Path | None = None) -> list[Sample]:
    """Every measured row whose operator and GPU are known."""
    gpus = ReferenceGpus(DATA / "hardware.csv")
    found = []
    sheets: dict[str, GpuSheet] = {}
    for row in read_operator_table(file or DATA / "operators.csv").rows:
        gpu = gpus.find(row.gpu)
        if row.operator is None or gpu is None or row.measured_us is None:
            continue
        if row.gpu not in sheets:
            sheets[row.gpu] = gpu_sheet(gpu.gpu, gpu.memory)
        roof = (0.0, 0.0)
        if row.operator.kind not in COMMUNICATION_KINDS:
            roof = roof_seconds(row.operator, gpu.gpu.compute, gpu.memory)
        found.append(
            Sample(
                row, sheets[row.gpu], chip_of(row.gpu), gpu.wire_bandwidth or 0, gpu.host_bandwidth or 0, roof
            )
        )
    return found


def is_collective(sample: Sample) -> bool:
    """Whether a row is communication."""
    assert sample.row.operator is not None
    return sample.row.operator.kind in COMMUNICATION_KINDS


def weights_of(rows: Sequence[Sample]) -> Array:
    """Row weights: each (GPU, source) counts with its number of rows to the power 0.7."""
    keys = [(s.row.gpu, s.row.cells.get("source", "")) for s in rows]
    return np.array([count**-0.3 for count in _counts(keys)])


def _counts(keys: list[tuple[str, str]]) -> list[int]:
    totals: dict[tuple[str, str], int] = {}
    for key in keys:
        totals[key] = totals.get(key, 0) + 1
    return [totals[key] for key in keys]


def measured_of(rows: Sequence[Sample]) -> Array:
    """Measured microseconds."""
    return np.array([s.measured for s in rows])


def requests_of(rows: Sequence[Sample], data: dict[str, Any]) -> list[Request]:
    """The rows as the model's requests under these constants."""
    constants = Constants(data)
    made = []
    for s in rows:
        assert s.row.operator is not None
        made.append(Request(s.row.operator, s.sheet, constants.setup(s.row.timing)))
    return made


def family_of_sample(s: Sample) -> str:
    """The model's family of a row; "collective" for communication."""
    assert s.row.operator is not None
    return "collective" if is_collective(s) else family_of(s.row.operator, s.sheet)


def source_of(s: Sample) -> str:
    """The source of a row."""
    return s.row.cells.get("source", "")


def class_of(s: Sample) -> str:
    """The class of the error tables, named as in the peers' tables."""
    operator = s.row.operator
    assert operator is not None
    if is_collective(s):
        ranks = float(s.row.cells.get("n_devices") or 2)
        if ranks > float(s.row.cells.get("devices_per_node") or ranks):
            return "internode_comm"
        return {"all_reduce": "all_reduce", "send": "send_recv"}.get(operator.kind, "other_collective")
    family = family_of(operator, s.sheet)
    if family == "simt32":
        return "bmm" if isinstance(operator.work, Product) and operator.work.batch != 1 else "gemm_fp32"
    if family in ("tensor16", "tensor8"):
        return "gemm" if family == "tensor16" else "gemm_fp8"
    if family == "memory_bound":
        name = memory_class(operator)
        return "elementwise" if name in ("elementwise", "gated", "lookup") else name
    return family
