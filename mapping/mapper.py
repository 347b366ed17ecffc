"""The interface of mappers and where they are registered.

A mapper is a function from a graph and a system to a plan. It may ask the simulator's cost models while it
searches; the simulator never knows which mapper wrote a plan. Another package can add one under the
entry-point group ``offchip.mappers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from hw_configs.problems import InputError, Problem, nearest
from hw_configs.registry import Registry
from hw_configs.system import System
from simulator.plan import Plan
from workloads.graph import Graph

__all__ = ["MAPPERS", "Mapper", "MapperOptions", "check_settings", "default_mapper"]


@dataclass(frozen=True, slots=True)
class MapperOptions:
    """What a user may ask of any mapper. ``settings`` are a mapper's own options, as text."""

    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = [
            Problem(f"found {value}; expected 1 or more", path=flag)
            for flag, value in (("--tp", self.tensor_parallel), ("--pp", self.pipeline_parallel))
            if value < 1
        ]
        if problems:
            raise InputError(problems)


class Mapper(Protocol):
    """Writes plans. ``DESCRIPTION`` is one line for listings, ``SETTINGS`` what it reads of ``settings``."""

    DESCRIPTION: str
    SETTINGS: Mapping[str, str]

    def plan(self, graph: Graph, system: System, options: MapperOptions) -> Plan:
        """The plan; ``InfeasibleError`` with the reason in words when there is none."""
        ...


def check_settings(name: str, mapper: Mapper, options: MapperOptions) -> None:
    """Raise ``InputError`` for settings that the mapper does not know."""
    known = ", ".join(mapper.SETTINGS) or "none"
    problems = [
        Problem(
            f"mapper {name!r} has no setting {key!r}; known: {known}",
            path="--set",
            suggestion=nearest(key, mapper.SETTINGS),
        )
        for key in options.settings
        if key not in mapper.SETTINGS
    ]
    if problems:
        raise InputError(problems)


def default_mapper(system: System, options: MapperOptions) -> str:
    """The mapper when none is asked for.

    ``tensor-pipeline`` for several devices; ``pim`` for a PIM memory with its host chip and no GPU beside them;
    ``single-device`` otherwise.
    """
    if options.tensor_parallel > 1 or options.pipeline_parallel > 1:
        return "tensor-pipeline"
    in_pim = [
        node
        for node in system.of_kind("accelerator")
        if getattr(node.device, "vector_unit", None) is not None
        and system.nodes[node.memory or node.name].device.kind == "pim"
    ]
    return "pim" if in_pim and not system.of_kind("gpu") else "single-device"


MAPPERS: Final[Registry[Mapper]] = Registry(
    "mapper",
    "offchip.mappers",
    {
        "single-device": "mapping.placement.single_device:MAPPER",
        "tensor-pipeline": "mapping.partition.tensor_pipeline:MAPPER",
        "stream-weights": "mapping.offload.stream_weights:MAPPER",
        "pim": "mapping.layout.pim:MAPPER",
        "pim-attention": "mapping.layout.pim_attention:MAPPER",
        "offload-kv": "mapping.offload.offload_kv:MAPPER",
        "cache-neurons": "mapping.caching.cache_neurons:MAPPER",
        "block-schedule": "mapping.offload.block_plan:MAPPER",
        "scratchpad": "mapping.scheduling.mappers:MAPPER",
        "scratchpad-given-belady": "mapping.scheduling.mappers:GIVEN_BELADY",
        "scratchpad-given-lru": "mapping.scheduling.mappers:GIVEN_LRU",
        "scratchpad-given-greedy-ilp": "mapping.scheduling.mappers:GIVEN_GREEDY",
        "scratchpad-min-peak-belady": "mapping.scheduling.mappers:MIN_PEAK_BELADY",
        "scratchpad-min-peak-lru": "mapping.scheduling.mappers:MIN_PEAK_LRU",
        "scratchpad-min-peak-greedy-ilp": "mapping.scheduling.mappers:MIN_PEAK_GREEDY",
        "scratchpad-depth-first-belady": "mapping.scheduling.mappers:DEPTH_FIRST_BELADY",
        "scratchpad-depth-first-lru": "mapping.scheduling.mappers:DEPTH_FIRST_LRU",
        "scratchpad-depth-first-greedy-ilp": "mapping.scheduling.mappers:DEPTH_FIRST_GREEDY",
        "scratchpad-static-arena": "mapping.scheduling.mappers:STATIC_ARENA",
        "scratchpad-tiled": "mapping.scheduling.tiling:MAPPER",
    },
)
