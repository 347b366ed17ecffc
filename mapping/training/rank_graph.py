"""The training step that one rank runs: the model's graph divided by tensor, Ulysses, context and expert parallelism.

All ranks of these degrees do the same work on shapes of the same size, so one rank's graph, with the
collectives it takes part in, stands for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from hw_configs.problems import InputError, bad_input
from mapping.training.expert_ranks import divide_experts
from mapping.training.in_place import rotate_in_place
from mapping.training.sequence_ranks import divide_sequence
from mapping.training.setup import TrainingSetup
from mapping.training.tensor_ranks import shard
from workloads.graph import Graph
from workloads.huggingface import IMPORTER, read_config
from workloads.importers import load_workload
from workloads.models import config_of
from workloads.transformer import decoder_workload
from workloads.transformer.shape import Decoder
from workloads.workload import WorkloadOptions

__all__ = ["decoder_of", "rank_graph", "training_graph"]

Layers = tuple[int, ...]


def training_graph(setup: TrainingSetup, layers: Layers | None = None) -> Graph:
    """One micro-batch's training step of a rank's share of tokens, before tensor parallelism.

    Raises ``InputError`` for a model that is unknown, is no transformer with fused attention where the
    sequence is divided, or has heads that cannot be divided.
    """
    tokens = setup.sequence // (setup.ulysses * setup.context)
    if tokens < setup.sequence:
        _accepts(setup.model, setup.sequence, setup.micro_batch, setup.dtype)
    options = WorkloadOptions(
        phase="train", batch=setup.micro_batch, prompt=tokens, dtype=setup.dtype, types=setup.state_types.step,
        trained=setup.trained,
    )  # fmt: skip
    whole = _loaded(setup.model, options) if layers is None else _cut(setup.model, options, layers)
    graph = rotate_in_place(whole)
    if setup.ulysses * setup.context == 1:
        return graph
    unfit = next(
        (op.name for op in graph.operators if op.kind in ("recurrent", "linear_attention", "scan")), None
    )
    if unfit is not None:
        raise bad_input(
            f"{setup.model} has {unfit!r}, a recurrence, which cannot divide a sequence", path="--set"
        )
    if not any(op.kind == "attention" for op in graph.operators):
        raise bad_input(f"{setup.model} has no attention, so no sequence to divide over ranks", path="--set")
    return divide_sequence(graph, setup)


def _loaded(model: str, options: WorkloadOptions) -> Graph:
    try:
        return load_workload(model, options).phases[0].graph
    except InputError as error:
        if any("finished graph" in problem.message for problem in error.problems):
            message = (
                "holds a finished graph, which cannot be divided anew; give a model's name or its config.json"
            )
            raise bad_input(message, file=model) from None
        raise


def decoder_of(model: str, dtype: str) -> Decoder | None:
    """The decoder that a built-in name or a ``config.json`` describes, where its graph is made of that alone."""
    path = _config(model)
    if path is None:
        return None
    decoder, _ = read_config(path, WorkloadOptions(phase="train", dtype=dtype))
    return None if decoder.encoder is not None or decoder.encodes else decoder


def _config(model: str) -> Path | None:
    path = config_of(model)
    if path is None and Path(model).suffix == ".json" and Path(model).is_file():
        with Path(model).open("rb") as file:
            path = Path(model) if IMPORTER.recognises(Path(model), file.read(4096)) else None
    return path


def _cut(model: str, options: WorkloadOptions, layers: Sequence[int]) -> Graph:
    """The graph of a model that has only these of its layers."""
    path = _config(model)
    if path is None:
        raise bad_input(f"{model} has no config whose layers could be picked", file=model)
    decoder, precision = read_config(path, options)
    kept = replace(decoder, layers=tuple(decoder.layers[number] for number in layers))
    return decoder_workload(model, kept, precision, options).phases[0].graph


@lru_cache(maxsize=16)
def _accepts(model: str, sequence: int, batch: int, dtype: str) -> bool:
    """Raise ``InputError`` for a sequence that the model itself cannot have, whatever a rank's share of it."""
    load_workload(model, WorkloadOptions(phase="train", batch=batch, prompt=sequence, dtype=dtype))
    return True


def rank_graph(setup: TrainingSetup, layers: Layers | None = None) -> Graph:
    """One rank's training step of one micro-batch, all layers or those picked; see the module's first lines."""
    graph = training_graph(setup, layers)
    if setup.expert > 1:
        graph = divide_experts(graph, setup.expert)
    if setup.tensor == 1:
        return graph
    if not any(op.place.axis for op in graph.operators):
        raise bad_input(f"no operator of {setup.model} says along which axis it is divided", path="--set tp")
    return shard(graph, setup.tensor, setup.sequence_parallel)
