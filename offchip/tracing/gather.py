"""Feature rows of sampled mini-batches to a GPU: an epoch of graph learning, stage by stage."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from hw_configs.problems import InputError, bad_input, nearest
from hw_configs.typed_fields import wrong_types
from offchip.keywords import from_keywords
from offchip.progress import Reporter, silent, upto

if TYPE_CHECKING:
    from offchip.tracing.gather_spec import GatherSpec
    from simulator.gather.epoch import EpochSetup
    from simulator.gather.result import GatherResult
    from simulator.gather.stores import StoreOptions
    from workloads.graph_data.adjacency import Adjacency
    from workloads.graph_data.presets import GraphShape
    from workloads.graph_data.sampling import LayerSampling, NeighbourSampling

__all__ = ["GatherTraceOptions", "graph_of", "trace_gather"]

_MADE: Final = ("rmat", "ba", "power-law", "degrees")
_FORMS: Final = {
    "rmat": "rmat:NODES:EDGES[:SEED[:A,B,C,D]]",
    "ba": "ba:NODES:EACH[:SEED]",
    "power-law": "power-law:NODES:EDGES[:SEED]",
}


@dataclass(frozen=True, slots=True)
class GatherTraceOptions:
    """What of a description is different; None leaves what it says, or its default.

    The fields are those of :class:`offchip.tracing.gather_spec.GatherSpec`, where each is explained; lists of numbers
    are texts with commas, sizes texts with units.
    """

    path: str | None = None
    store: str | None = None
    scale: str | None = None
    fan_out: str | None = None
    replace: bool | None = None
    expand: str | None = None
    rule: str | None = None
    batch: int | None = None
    batches: int | None = None
    training_nodes: int | None = None
    features: int | None = None
    feature_dtype: str | None = None
    base: int | None = None
    directed: bool | None = None
    model: str | None = None
    hidden: int | None = None
    gpus: int | None = None
    threads: int | None = None
    pinned: bool | None = None
    shift: bool | None = None
    request_bytes: int | None = None
    gpu_cache: str | None = None
    cpu_cache: str | None = None
    disk: str | None = None
    uvm_memory: str | None = None
    superbatch: int | None = None
    partitions: int | None = None
    buffer: int | None = None
    cover: str | None = None
    queue: int | None = None
    overlap: str | None = None
    queue_depth: int | None = None
    sampling: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        if problems:
            raise InputError(problems)

    def given(self) -> dict[str, Any]:
        """What is different, as a description writes it."""
        found = {part.name: getattr(self, part.name) for part in fields(self)}
        found = {name: value for name, value in found.items() if value is not None}
        if "fan_out" in found:
            found["fan_out"] = _numbers(found["fan_out"])
        return found


class GatherTraceChoices(TypedDict, total=False):
    """The fields of :class:`GatherTraceOptions`, as keywords."""

    path: str | None
    store: str | None
    scale: str | None
    fan_out: str | None
    replace: bool | None
    expand: str | None
    rule: str | None
    batch: int | None
    batches: int | None
    training_nodes: int | None
    features: int | None
    feature_dtype: str | None
    base: int | None
    directed: bool | None
    model: str | None
    hidden: int | None
    gpus: int | None
    threads: int | None
    pinned: bool | None
    shift: bool | None
    request_bytes: int | None
    gpu_cache: str | None
    cpu_cache: str | None
    disk: str | None
    uvm_memory: str | None
    superbatch: int | None
    partitions: int | None
    buffer: int | None
    cover: str | None
    queue: int | None
    overlap: str | None
    queue_depth: int | None
    sampling: str | None
    seed: int | None


def trace_gather(
    graph: str | Path, hw: str | Path, *, progress: Reporter = silent, **options: Unpack[GatherTraceChoices]
) -> GatherResult:
    """Run an epoch of sampled mini-batches, their feature rows over the paths and stores of a system.

    ``graph``: a description (.yaml), a published shape by name (with ``scale``), ``rmat:NODES:EDGES[:SEED]``,
    ``ba:NODES:EACH[:SEED]``, ``power-law:NODES:EDGES[:SEED]``, or a file (edge list, ``.npz``). ``hw``: a system.
    Raises ``InputError`` for bad input.

    >>> result = trace_gather("power-law:2000:20000", "workstation", path="zero-copy", fan_out="5,5", batch=64)
    >>> result.hits["host memory"] == result.rows
    True
    """
    from simulator.gather.epoch import run_epoch
    from simulator.gather.partitions import partitioned_epoch
    from workloads.graph_data.batches import training_batches, training_nodes

    chosen = from_keywords(GatherTraceOptions, options)
    spec = _spec(str(graph), chosen.given())
    made, shape, full = graph_of(spec)
    setup = _setup(spec, made, full, str(hw))
    training = training_nodes(made, _training(spec, shape, made), seed=spec.seed)
    rule, batch = _rule(spec), _scaled_batch(spec)
    if spec.store == "partition-buffer":
        epoch = partitioned_epoch(made, training, batch, rule, setup.table, setup.store)
        return run_epoch(setup, epoch.trace, epoch.plan)
    with progress("batches", min(spec.batches or 2**40, -(-training.size // batch))) as tally:
        trace = training_batches(made, training, batch, rule, most=spec.batches, progress=upto(tally))
    return run_epoch(setup, trace)


def _spec(text: str, given: dict[str, Any]) -> GatherSpec:
    from offchip.tracing.gather_spec import read_spec

    return read_spec(text, given)


def _numbers(text: str) -> list[int]:
    from hw_configs.whole_number import integer

    found = [integer(part, -1, 2**31) for part in text.split(",")]
    numbers = [number for number in found if number is not None]
    if len(numbers) < len(found):
        raise bad_input(
            f"found {text[:80]!r}; expected whole numbers with commas, such as 10,10,10", path="--fan-out"
        )
    return numbers


def graph_of(spec: GatherSpec) -> tuple[Adjacency, GraphShape | None, GraphShape | None]:
    """The adjacency, its shape where it is a published one (scaled), and that shape at full size."""
    from workloads.graph_data.files import load_adjacency
    from workloads.graph_data.presets import PRESETS, generate, preset

    head, _, rest = spec.graph.partition(":")
    if spec.graph in PRESETS:
        full = preset(spec.graph)
        shape = full.scaled(_scale(spec))
        return generate(shape, seed=spec.seed), shape, full
    if spec.scale != "1":
        raise bad_input("only a published shape has a scale", path="--scale")
    if head in _MADE and rest:
        return _made(head, rest, spec.graph), None, None
    if not Path(spec.graph).exists() and "/" not in spec.graph and "." not in spec.graph:
        known = [*PRESETS, *_MADE]
        raise bad_input(f"unknown graph {spec.graph[:80]!r}; known: {', '.join(known)}, or a file",
                        suggestion=nearest(spec.graph, known))  # fmt: skip
    return load_adjacency(spec.graph, directed=spec.directed), None, None


def _made(kind: str, rest: str, text: str) -> Adjacency:
    from hw_configs.whole_number import integer
    from workloads.graph_data.adjacency import MAX_NODES
    from workloads.graph_data.generators import (
        GRAPH500,
        barabasi_albert,
        configuration_model,
        power_law_degrees,
        r_mat,
    )

    if kind == "degrees":
        return _of_degrees(rest)
    words = rest.split(":")
    parts = [integer(part, 0, 2**40) for part in words[:3]]
    if not 2 <= len(words) <= (4 if kind == "rmat" else 3) or None in parts:
        raise bad_input(f"found {text[:80]!r}; expected {_FORMS[kind]}")
    nodes, edges, seed = (*(part for part in parts if part is not None), 1)[:3]
    if not 1 <= nodes <= MAX_NODES:
        raise bad_input(f"found {nodes} nodes; expected 1 to {MAX_NODES}")
    if kind == "rmat":
        return r_mat(nodes, edges, _shares(words[3], text) if len(words) == 4 else GRAPH500, seed=seed)
    if kind == "ba":
        return barabasi_albert(nodes, edges, seed=seed)
    return configuration_model(power_law_degrees(nodes, edges, seed=seed), seed=seed, directed=True)


def _shares(words: str, text: str) -> tuple[float, float, float, float]:
    """The four shares of R-MAT's quadrants."""
    from hw_configs.whole_number import decimal

    found = [decimal(word) for word in words.split(",")]
    shares = tuple(float(share) for share in found if share is not None)
    if len(found) != 4 or len(shares) != 4:
        raise bad_input(
            f"found {text[:80]!r}; expected {_FORMS['rmat']}, such as rmat:1000:9000:1:0.57,0.19,0.19,0.05"
        )
    return shares[0], shares[1], shares[2], shares[3]


def _of_degrees(rest: str) -> Adjacency:
    """A graph with the degrees of a file, joined at random."""
    from hw_configs.whole_number import integer
    from workloads.graph_data.files import read_degrees
    from workloads.graph_data.generators import configuration_model

    path, colon, last = rest.rpartition(":")
    seed = integer(last, 0, 2**31 - 1) if colon else None
    degrees = read_degrees(rest if seed is None else path)
    return configuration_model(degrees, seed=1 if seed is None else seed, directed=True)


def _scale(spec: GatherSpec) -> Fraction:
    """The scale as written: a share such as 1/1000 or 0.01."""
    from hw_configs.whole_number import decimal

    above, _, below = spec.scale.partition("/")
    parts = [decimal(part) for part in (above, below or "1")]
    if None in parts or not parts[1] or not 0 < (parts[0] or 0) / parts[1] <= 1:
        raise bad_input(f"found {spec.scale[:80]!r}; expected a share such as 1/1000 or 0.01", path="--scale")
    return Fraction(str(above)) / Fraction(str(below or "1"))


def _scaled_batch(spec: GatherSpec) -> int:
    """Seeds of a scaled batch: so many that it asks for the same share of the table."""
    wanted = spec.batch * _scale(spec)
    if wanted < Fraction(1, 2):
        raise bad_input(
            f"a batch of {spec.batch} is less than half a node at this scale; take 1/{2 * spec.batch} or more",
            path="--scale",
        )
    return max(1, round(wanted))


def _training(spec: GatherSpec, shape: GraphShape | None, graph: Adjacency) -> int:
    if spec.training_nodes is not None:
        return max(1, round(spec.training_nodes * _scale(spec)))
    return shape.training_nodes if shape is not None else graph.nodes


def _rule(spec: GatherSpec) -> NeighbourSampling | LayerSampling:
    from workloads.graph_data.sampling import LayerSampling, NeighbourSampling

    if spec.rule == "neighbours":
        return NeighbourSampling(tuple(spec.fan_out), spec.replace, spec.expand, spec.seed)
    budget = tuple(max(1, round(part * _scale(spec))) for part in spec.fan_out)
    return LayerSampling(budget, spec.rule, spec.seed)


def _setup(spec: GatherSpec, graph: Adjacency, full: GraphShape | None, hw: str) -> EpochSetup:
    from hw_configs.library import load_system
    from simulator.gather.epoch import EpochSetup
    from simulator.gather.machine import machine_of
    from simulator.gather.packets import PacketRule
    from simulator.gather.paths import PathOptions
    from simulator.gather.table import FeatureTable
    from simulator.gather.training import GraphModel
    from workloads.dtypes import size_bytes

    features = spec.features or (full.features if full is not None else 128)
    dtype = spec.feature_dtype or (full.feature_dtype if full is not None else "fp32")
    row_bytes = size_bytes(features, dtype)
    batch = _scaled_batch(spec)
    batches = _whole_batches(spec, full, graph)
    width = max(1, size_bytes(1, dtype))
    packets = PacketRule(spec.request_bytes, width if width in (1, 2, 4, 8) else 4, spec.shift)
    uvm = int(spec.uvm_memory * _scale(spec))
    return EpochSetup(
        machine_of(load_system(hw), gpus=spec.gpus, row_bytes=row_bytes),
        FeatureTable(graph.nodes, row_bytes, spec.base),
        GraphModel(spec.model, features, spec.hidden, full.classes if full is not None else 47),
        PathOptions(spec.path, spec.threads, spec.pinned, packets, uvm),
        _store(spec),
        spec.queue,
        spec.overlap,
        spec.sampling,
        spec.queue_depth,
        per_batch=spec.batch / batch if full is not None else 1.0,
        batches=batches,
        name=graph.name if full is None else f"{full.name} at {spec.scale}",
    )


def _whole_batches(spec: GatherSpec, full: GraphShape | None, graph: Adjacency) -> int | None:
    """Batches of the whole epoch at full size; None: those that run (a partition buffer makes its own)."""
    if spec.store == "partition-buffer" and full is None:
        return None
    nodes = spec.training_nodes or (full.training_nodes if full is not None else graph.nodes)
    return math.ceil(nodes / spec.batch)


def _store(spec: GatherSpec) -> StoreOptions:
    from simulator.gather.stores import StoreOptions

    scale = _scale(spec)
    return StoreOptions(
        spec.store, int(spec.gpu_cache * scale), int(spec.cpu_cache * scale),
        None if spec.disk is None else int(spec.disk * scale), spec.superbatch, spec.partitions, spec.buffer,
        spec.cover, spec.seed,
    )  # fmt: skip
