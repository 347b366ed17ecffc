"""Mappers of inference as offload policies: their plan of one step, with what they considered as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hw_configs.units import format_quantity
from mapping.caching.cache_neurons import MAPPER as NEURONS
from mapping.mapper import Mapper, MapperOptions
from mapping.offload.offload_kv import MAPPER as KV
from mapping.offload.policy import OffloadAnswer, OffloadRequest, Table
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["CACHE_NEURONS", "OFFLOAD_KV", "MapperPolicy"]


class MapperPolicy:
    """A mapper that answers ``offchip solve offload`` for prefill and decode."""

    PHASES: tuple[str, ...] = ("decode", "prefill")

    def __init__(self, name: str, mapper: Mapper) -> None:
        self.name, self._mapper = name, mapper
        self.DESCRIPTION = mapper.DESCRIPTION
        self.SETTINGS: Mapping[str, str] = mapper.SETTINGS

    def solve(self, request: OffloadRequest) -> OffloadAnswer:
        """The mapper's plan of the step; raises what the mapper raises."""
        options = WorkloadOptions(
            phase=request.phase, batch=request.batch, prompt=request.sequence, dtype=request.dtype
        )
        graph = load_workload(request.model, options).phases[0].graph
        plan = self._mapper.plan(graph, request.system, MapperOptions(settings=request.settings))
        notes = dict(plan.notes)
        tables = [Table("Decision", ("what", "value"), tuple(_facts(notes)))]
        if "considered" in notes:
            tables.append(_considered(notes["considered"]))
        return OffloadAnswer(self.name, notes, _why(notes), tuple(tables), graph, plan)


def _facts(notes: Mapping[str, Any]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for key, value in notes.items():
        if key == "considered":
            continue
        words = key.replace("_", " ")
        if "bandwidth" in key:
            value = format_quantity(float(value), "bandwidth")
        elif key.endswith("_bytes") or "bytes_per_token" in key:
            value = format_quantity(float(value), "size")
        elif key.endswith(("_s", "s_per_token")):
            value = format_quantity(float(value), "time")
        elif isinstance(value, list):
            value = ", ".join(str(item) for item in value)
        elif isinstance(value, float):
            value = f"{value:.4g}"
        rows.append((words, value))
    return rows


def _considered(entries: list[dict[str, Any]]) -> Table:
    rows = tuple(
        (
            e["kv"],
            e["attend"],
            format_quantity(float(e["estimated_attention_s"]), "time"),
            e["obstacle"] or "fits",
        )
        for e in entries
    )
    return Table("Placements of the KV cache", ("cache", "attention", "estimate per step", "obstacle"), rows)


def _why(notes: Mapping[str, Any]) -> tuple[str, ...]:
    if "kv" in notes:
        return (
            f"the cache lives on {notes['kv']} and {notes['attend']} attends: the least estimate that fits",
        )
    if "window_tokens" in notes:
        return (
            f"a window of {notes['window_tokens']} tokens is what the budget holds; it leaves "
            f"{format_quantity(float(notes['loaded_bytes_per_token']), 'size')} to read per token",
        )
    return ()


OFFLOAD_KV: Final = MapperPolicy("offload-kv", KV)
CACHE_NEURONS: Final = MapperPolicy("cache-neurons", NEURONS)
