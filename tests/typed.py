"""Operators for tests: some fields of a kind, and FLOPs and bytes as totals, without tensors behind them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from workloads.graph import Operator
from workloads.operators import KINDS, Rows, Work, fields_of

__all__ = ["operator_of", "work_of"]


def work_of(kind: str, flops: float | None = None, **fields: Any) -> Work:
    """The work of a kind; fields that are required and not given are 1, and FLOPs come out as ``flops`` if given."""
    known = fields_of(KINDS[kind])
    given = {info.name: info.type(1) for info in known.values() if info.required} | fields
    work = KINDS[kind](**given)
    if flops is None or work.flops == flops:
        return work
    if isinstance(work, Rows) and work.m * work.n:
        work = replace(work, flops_per_element=flops / (work.m * work.n))
    return replace(work, extra_flops=work.extra_flops + flops - work.flops)


def operator_of(
    kind: str,
    flops: float | None = None,
    read: int = 0,
    written: int = 0,
    dtype: str = "fp16",
    *,
    name: str = "x",
    inputs: tuple[str, ...] = (),
    outputs: tuple[str, ...] = (),
    updates: tuple[str, ...] = (),
    residency: str = "",
    **fields: Any,
) -> Operator:
    """An operator that reads and writes so many bytes beside any tensor it names."""
    return Operator(
        name, work_of(kind, flops, **fields), inputs, outputs, updates, dtype, beside_read=read,
        beside_written=written, residency=residency,
    )  # fmt: skip
