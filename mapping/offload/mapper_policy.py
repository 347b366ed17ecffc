"""A mapper of inference as an answer to ``solve offload``: its plan of one step, with what it considered as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hw_configs.units import format_quantity
from mapping.mapper import MapperOptions, PlanWriter
from mapping.offload.policy import OffloadAnswer, OffloadRequest, Table
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["answer_by_plan"]


def answer_by_plan(name: str, mapper: PlanWriter, request: OffloadRequest, why: str) -> OffloadAnswer:
    """A mapper's plan of one step of the model that is asked about; raises what the mapper raises.

    ``why`` says in a sentence what decides, with the names of notes in braces.
    """
    options = WorkloadOptions(
        phase=request.phase, batch=request.batch, prompt=request.sequence, dtype=request.dtype
    )
    graph = load_workload(request.model, options).phases[0].graph
    plan = mapper.plan(graph, request.system, MapperOptions(settings=request.settings))
    notes = plan.notes.to_json()
    facts = _facts(notes)
    tables = [Table("Decision", ("what", "value"), tuple(facts.items()))]
    if "considered" in notes:
        tables.append(_considered(notes["considered"]))
    told = why.format_map({key: facts.get(key.replace("_", " "), "") for key in notes})
    return OffloadAnswer(name, notes, (told,), tuple(tables), graph, plan)


def _facts(notes: Mapping[str, Any]) -> dict[str, object]:
    rows: dict[str, object] = {}
    for key, value in notes.items():
        if key == "considered":
            continue
        words = key.replace("_", " ")
        if isinstance(value, Mapping):
            value = ", ".join(
                f"{name} {format_quantity(float(size), 'size')}" for name, size in value.items()
            )
        elif "bandwidth" in key:
            value = format_quantity(float(value), "bandwidth")
        elif key.endswith("_bytes") or "bytes_per_token" in key:
            value = format_quantity(float(value), "size")
        elif key.endswith(("_s", "s_per_token")):
            value = format_quantity(float(value), "time")
        elif isinstance(value, list | tuple):
            value = ", ".join(str(item) for item in value)
        elif isinstance(value, float):
            value = f"{value:.4g}"
        rows[words] = value
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
