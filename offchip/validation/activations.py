"""Validation kind ``activations``: bytes that PyTorch's autograd keeps of one forward pass, row by row.

A row of ``saved.csv`` names a model, how many of its layers are there, the element type, batch and tokens, and whether
every layer is checkpointed. Ours are the tensors of the training graph that a forward operator makes and the backward
pass reads, without those of the loss, which the recorded pass did not have. A row is ok within 1 %.
"""

from __future__ import annotations

import csv
import fnmatch
import io
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from hw_configs.problems import InputError, bad_input
from mapping.allocation.csv_format import read_text
from mapping.training.recompute.in_graph import drop_and_recompute
from mapping.training.recompute.skeleton import kept_share
from offchip.validation.registry import Options, RowResult, Verdict, find_file
from workloads.dtypes import size_bytes
from workloads.graph import Graph, Role
from workloads.importers import load_workload
from workloads.models import describe
from workloads.saved_activations import form_of
from workloads.step_types import StepTypes
from workloads.workload import WorkloadOptions

__all__ = ["TOLERANCE", "kept_storages", "run"]

TOLERANCE: Final = 0.01
_TABLE: Final = "saved.csv"
_COLUMNS: Final = ("id", "model", "layers", "dtype", "recomputation", "batch", "seq", "saved_bytes")
_DTYPES: Final[Mapping[str, str]] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_MODELS: Final[Mapping[str, str]] = {"gpt2": "gpt2-medium"}
"""Models whose shape the reference states otherwise than by a built-in name: GPT-2 of width 1024 with 16 heads."""
_BACKWARD: Final = frozenset({"backward", "recompute"})
_SHARED: Final = "rotary."
"""Tables that reach a checkpointed layer as keyword arguments: its closure holds them, not autograd."""


def run(folder: Path, rows: str, _options: Options) -> Iterator[RowResult]:
    """Rows of the folder's table whose id or model matches the glob ``rows``, in the file's order."""
    table = find_file(folder, _TABLE)
    reader = csv.DictReader(io.StringIO(read_text(table)))
    for column in _COLUMNS:
        if reader.fieldnames is None or column not in reader.fieldnames:
            raise bad_input(f"the column {column!r} is missing", file=str(table), line=1)
    for row in reader:
        if fnmatch.fnmatchcase(row["id"], rows) or fnmatch.fnmatchcase(row["model"], rows):
            yield _run_row(row)


def _run_row(row: Mapping[str, str]) -> RowResult:
    started = time.perf_counter()
    groups = {"model": row["model"], "dtype": row["dtype"], "recomputation": row["recomputation"]}
    try:
        expected = {"saved_bytes": int(row["saved_bytes"]), "tensors": int(row.get("tensors") or 0)}
        kept = kept_storages(_graph(row), row["recomputation"])
        kept |= _arguments(row)
    except (InputError, ValueError) as error:
        return RowResult(row["id"], {}, {}, 0.0, "unsupported", None, str(error).splitlines()[0], groups)
    ours = sum(kept.values())
    share = ours / expected["saved_bytes"] - 1 if expected["saved_bytes"] else 0.0
    verdict: Verdict = "ok" if abs(share) <= TOLERANCE else "off"
    return RowResult(
        row["id"], expected, {"saved_bytes": ours, "tensors": len(kept)}, time.perf_counter() - started, verdict,
        share, "", groups,
    )  # fmt: skip


def _graph(row: Mapping[str, str]) -> Graph:
    """The training graph of a row's model in eager code; ``InputError`` for what Offchip does not know."""
    if row["dtype"] not in _DTYPES:
        raise bad_input(f"found {row['dtype']!r}; expected one of {', '.join(_DTYPES)}", path="dtype")
    if row.get("attention", "eager") != "eager":
        raise bad_input(f"found {row['attention']!r}; expected eager attention", path="attention")
    model = _MODELS.get(row["model"], row["model"])
    options = WorkloadOptions(
        phase="train", batch=int(row["batch"]), dtype=_DTYPES[row["dtype"]], types=StepTypes(saved="eager")
    )

    if describe(model).modality == "language":
        options = replace(options, prompt=int(row["seq"]), layers=int(row["layers"]))
    elif describe(model).modality == "encoder":
        options = replace(options, prompt=int(row["seq"]))
    return load_workload(model, options).phases[0].graph


def _arguments(row: Mapping[str, str]) -> dict[str, int]:
    """What a family hands to each checkpointed layer beside the states: a causal mask."""
    model = describe(_MODELS.get(row["model"], row["model"]))
    if row["recomputation"] != "full" or not form_of(model.family).mask:
        return {}
    return {"mask": size_bytes(int(row["batch"]) * int(row["seq"]) ** 2, _DTYPES[row["dtype"]])}


def kept_storages(graph: Graph, recomputation: str) -> dict[str, int]:
    """Bytes of every storage that the forward pass of a training graph leaves to the backward pass, by name.

    ``recomputation`` full drops what layers make but their inputs. Raises ``InputError`` for other words than none
    and full.
    """
    if recomputation not in ("none", "full"):
        raise bad_input(f"found {recomputation!r}; expected none or full", path="recomputation")
    if recomputation == "full":
        graph = drop_and_recompute(graph, kept_share(graph, "full"))
    made = {
        name for op in graph.operators if op.place.training_pass == "forward" for name in (*op.outputs, *op.updates)
    }  # fmt: skip
    kept: dict[str, int] = {}
    for op in graph.operators:
        if op.place.training_pass not in _BACKWARD or op.name.startswith("loss"):
            continue
        for name in op.inputs:
            tensor = graph.tensors[name]
            if tensor.role is not Role.ACTIVATION or name.startswith("loss") or tensor.dtype == "int32":
                continue
            if name in made or name not in graph.producer:
                kept[name] = tensor.size_bytes
    if recomputation == "full":
        kept = {name: size for name, size in kept.items() if not name.startswith(_SHARED)}
    return kept
