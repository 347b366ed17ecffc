"""What an epoch of gathers came to, as one typed object; tables and JSON are views of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from hw_configs.shown import Shown, Table
from hw_configs.units import format_quantity

__all__ = ["Energy", "GatherResult", "Stages"]


@dataclass(frozen=True, slots=True)
class Stages:
    """Seconds that each stage works in the epoch, all batches together."""

    sample: float
    read: float
    transfer: float
    train: float

    def named(self) -> dict[str, float]:
        """By name, in order."""
        return {part.name: float(getattr(self, part.name)) for part in fields(self)}

    @property
    def total(self) -> float:
        """What an epoch without overlap takes."""
        return sum(self.named().values())


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules of the epoch by part, idle power included."""

    gpu: float
    cpu: float
    host_memory: float
    link: float
    drive: float

    def named(self) -> dict[str, float]:
        """By name, in order."""
        return {part.name: float(getattr(self, part.name)) for part in fields(self)}

    @property
    def total(self) -> float:
        """All parts."""
        return sum(self.named().values())


@dataclass(frozen=True)
class GatherResult(Shown):
    """One epoch. Counts are of the full-size epoch: ``per_batch`` and ``epoch_share`` say what was multiplied.

    ``bytes`` cross each boundary; ``useful_bytes`` are those of the rows wanted. ``hits``: requests for rows by
    the level that had them. ``read_amplification``: bytes read of the drive over those of the rows wanted of it.
    ``prepared_...``: read, written and spent before the first epoch (within each, for an inspector, whose time is in
    ``stages.read``). ``payload_bytes``: of zero-copy requests, headers excluded.
    """

    graph: str
    system: str
    path: str
    store: str
    model: str
    batches: int
    rows: float
    edges: float
    epoch_s: float
    stages: Stages
    bytes: dict[str, float]
    useful_bytes: float
    hits: dict[str, float]
    read_amplification: float
    reads: float
    requests: float
    payload_bytes: float
    bound_by: str
    energy: Energy
    prepared_read_bytes: float
    prepared_written_bytes: float
    prepared_s: float
    disk_bytes: float
    drive_rates: dict[str, float]
    gpus: int
    per_batch: float
    epoch_share: float

    @property
    def power_w(self) -> float:
        """Mean power of GPU, CPU, host memory, link and drive."""
        return self.energy.total / self.epoch_s if self.epoch_s else 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain data: the same run gives the same bytes."""
        plain = {part.name: getattr(self, part.name) for part in fields(self)}
        return plain | {
            "stages": self.stages.named(), "energy": self.energy.named(), "energy_j": self.energy.total,
            "power_w": self.power_w,
        }  # fmt: skip

    def shown_tables(self) -> tuple[Table, ...]:
        """The epoch: time by stage, bytes by boundary, hits by level."""
        title = f"{self.graph}, {self.model} on {self.system}: path {self.path}, store {self.store}"
        return (
            Table(title, ("", "value", ""), tuple(self._rows())),
            Table("Stages", ("stage", "busy", "share of the epoch"), tuple(self._stages())),
            Table("Bytes over each boundary", ("boundary", "bytes", "per useful byte"), tuple(self._bytes())),
            Table("Rows by the level that had them", ("level", "rows", "share"), tuple(self._hits())),
        )

    def _rows(self) -> Iterator[tuple[object, ...]]:
        scaled = f"a scaled batch stands for {self.per_batch:g}" if self.per_batch != 1 else ""
        if self.epoch_share != 1:
            scaled += f"{'; ' if scaled else ''}1 of {self.epoch_share:.3g} batches ran"
        yield "epoch", format_quantity(self.epoch_s, "time"), f"bound by {self.bound_by}"
        yield "batches", f"{self.batches:,}", scaled
        yield "rows", f"{self.rows:,.0f}", f"{format_quantity(self.useful_bytes, 'size')} wanted"
        yield "edges sampled", f"{self.edges:,.0f}", ""
        if self.requests:
            yield "requests to host memory", f"{self.requests:,.0f}", ""
        if self.reads:
            rates = ", ".join(
                f"{name} {format_quantity(r, 'bandwidth')}" for name, r in self.drive_rates.items()
            )
            yield "reads of the drive", f"{self.reads:,.0f}", rates
        if self.read_amplification:
            yield (
                "read amplification",
                f"{self.read_amplification:.3f}",
                "bytes read over bytes of rows wanted",
            )
        if self.prepared_written_bytes:
            yield (
                "prepared", format_quantity(self.prepared_written_bytes, "size"),
                f"written, {format_quantity(self.prepared_s, 'time')} before the first epoch" if self.prepared_s
                else "written in each epoch",
            )  # fmt: skip
        shares = ", ".join(
            f"{name.replace('_', ' ')} {joules / self.energy.total:.0%}"
            for name, joules in self.energy.named().items()
            if joules
        )
        yield "energy", format_quantity(self.energy.total, "energy"), shares
        yield "power", f"{self.power_w:.1f} W", "mean over the epoch"

    def _stages(self) -> Iterator[tuple[object, ...]]:
        for name, seconds in self.stages.named().items():
            yield name, format_quantity(seconds, "time"), f"{seconds / self.gpus / self.epoch_s:.1%}"

    def _bytes(self) -> Iterator[tuple[object, ...]]:
        for name, moved in self.bytes.items():
            yield name, format_quantity(moved, "size"), f"{moved / self.useful_bytes:.3f}"

    def _hits(self) -> Iterator[tuple[object, ...]]:
        for name, count in self.hits.items():
            yield name, f"{count:,.0f}", f"{count / self.rows:.1%}"
