"""What a mapper is, and where mappers are registered.

A mapper decides. It can write a plan for a graph on a system (:class:`PlanWriter`: ``simulate --mapper``), answer what
lives where for a model on a system (:class:`OffloadSolver`: ``solve offload --policy``), or both; one registry knows
them all by one name each. It may ask the simulator's cost models while it searches; the simulator never knows which
mapper wrote a plan. Another package can add one under the entry-point group ``offchip.mappers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeGuard

from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.registry import Registry
from hw_configs.settings import Answer, Model, NoSettings, Settings, read_settings
from hw_configs.system import System
from simulator.plan import Plan
from workloads.graph import Graph

if TYPE_CHECKING:
    from mapping.offload.policy import OffloadAnswer, OffloadRequest

__all__ = [
    "MAPPERS",
    "Mapper",
    "MapperOptions",
    "OffloadSolver",
    "PlanWriter",
    "answers_offload",
    "default_mapper",
    "mapper_settings",
    "offload_solver",
    "plan_writer",
    "settings_as",
    "settings_class",
    "writes_plans",
]


@dataclass(frozen=True, slots=True)
class MapperOptions:
    """What a user may ask of any mapper. ``settings`` are of the class that the mapper declares."""

    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    settings: Settings = field(default_factory=NoSettings)

    def __post_init__(self) -> None:
        problems = [
            Problem(f"found {value}; expected 1 or more", path=flag)
            for flag, value in (("--tp", self.tensor_parallel), ("--pp", self.pipeline_parallel))
            if value < 1
        ]
        if problems:
            raise InputError(problems)

    def of(self, cls: type[Model]) -> Model:
        """The settings as the class a mapper declares; its defaults where none are given."""
        return settings_as(self.settings, cls)


class Mapper(Protocol):
    """What every mapper says of itself: ``DESCRIPTION`` is one line for listings.

    ``SETTINGS``, the class of its settings, may be left out by one that has none; see :func:`settings_class`.
    """

    DESCRIPTION: str


class PlanWriter(Mapper, Protocol):
    """A mapper that writes a plan for any graph it is given."""

    def plan(self, graph: Graph, system: System, options: MapperOptions) -> Plan:
        """The plan; ``InfeasibleError`` with the reason in words when there is none."""
        ...


class OffloadSolver(Mapper, Protocol):
    """A mapper that answers for a model, whose graph it chooses; ``PHASES`` are those it serves."""

    PHASES: tuple[str, ...]

    def solve(self, request: OffloadRequest) -> OffloadAnswer:
        """The answer; ``InfeasibleError`` with the reason in words when nothing fits."""
        ...


def writes_plans(mapper: Mapper) -> TypeGuard[PlanWriter]:
    """Whether a mapper writes plans for graphs."""
    return hasattr(mapper, "plan")


def answers_offload(mapper: Mapper) -> TypeGuard[OffloadSolver]:
    """Whether a mapper answers ``solve offload``."""
    return hasattr(mapper, "solve")


def settings_class(mapper: Mapper) -> type[Settings]:
    """The class of a mapper's settings."""
    found: type[Settings] = getattr(mapper, "SETTINGS", NoSettings)
    return found


def settings_as(settings: Settings, cls: type[Model]) -> Model:
    """Settings as a class: what they are, or its defaults where there are none."""
    if isinstance(settings, cls):
        return settings
    if isinstance(settings, NoSettings):
        return cls()
    raise bad_input(f"found {type(settings).__name__}; expected {cls.__name__}", path="settings")


def plan_writer(name: str) -> PlanWriter:
    """The mapper of that name that writes plans; ``InputError`` for one that cannot, and for unknown names."""
    found = MAPPERS.get(name)
    if writes_plans(found):
        return found
    message = f"mapper {name!r} writes no plan for a given graph; see 'offchip solve offload --policy {name}'"
    raise bad_input(message, path="--mapper")


def offload_solver(name: str) -> OffloadSolver:
    """The mapper of that name that answers ``solve offload``; ``InputError`` otherwise."""
    found = MAPPERS.get(name)
    if answers_offload(found):
        return found
    able = [other for other in MAPPERS if answers_offload(MAPPERS.get(other))]
    message = (
        f"mapper {name!r} only writes plans (offchip simulate --mapper {name}); known here: {', '.join(able)}"
    )
    raise bad_input(message, path="--policy", suggestion=nearest(name, able))


def mapper_settings(name: str, values: Mapping[str, object] | Settings, asked: Answer) -> Settings:
    """The settings of a mapper from what a user gave; ``InputError`` with everything that is wrong with them."""
    cls = settings_class(MAPPERS.get(name))
    if isinstance(values, Settings):
        return settings_as(values, cls)
    try:
        return read_settings(cls, values, asked)
    except InputError as error:
        told = (
            Problem(f"mapper {name!r} has {p.message}", p.file, p.line, p.path, p.suggestion)
            if p.path == "--set"
            else p
            for p in error.problems
        )
        raise InputError(told) from None


def default_mapper(system: System, options: MapperOptions) -> str:
    """The mapper when none is asked for.

    ``tensor-pipeline`` for several devices; ``pim`` for a PIM memory with its host chip and no GPU beside them;
    ``single-device`` otherwise. Raises ``InputError`` where PIM memories alone compute: what their units cannot do
    needs a host, and a roofline over their pins has to be asked for.
    """
    if options.tensor_parallel > 1 or options.pipeline_parallel > 1:
        return "tensor-pipeline"
    in_pim = [
        node
        for node in system.of_kind("accelerator")
        if getattr(node.device, "vector_unit", None) is not None
        and system.nodes[node.memory or node.name].device.kind == "pim"
    ]
    if in_pim and not system.of_kind("gpu"):
        return "pim"
    workers = system.workers()
    if workers and all(node.device.kind == "pim" for node in workers):
        raise bad_input(
            f"the units of {workers[0].name!r} multiply and add; norms, softmax and the rest need a host chip: name a "
            "system that has one (see 'pim-gpt'), or ask for --mapper single-device, which prices every operator "
            "by a roofline over the memory's pins",
            path="--hw",
        )
    return "single-device"


MAPPERS: Final[Registry[Mapper]] = Registry(
    "mapper",
    "offchip.mappers",
    {
        "single-device": "mapping.placement.single_device:MAPPER",
        "co-place": "mapping.placement.co_place:MAPPER",
        "like-engine": "mapping.placement.engine_rule:MAPPER",
        "replay": "mapping.placement.replay:MAPPER",
        "tensor-pipeline": "mapping.partition.tensor_pipeline:MAPPER",
        "stream-weights": "mapping.offload.stream_weights:MAPPER",
        "pim": "mapping.layout.pim:MAPPER",
        "pim-attention": "mapping.layout.pim_attention:MAPPER",
        "offload-kv": "mapping.offload.offload_kv:MAPPER",
        "cache-neurons": "mapping.caching.cache_neurons:MAPPER",
        "block-schedule": "mapping.offload.block_search:MAPPER",
        "choose-training": "mapping.training.policies:EVERYTHING",
        "memo": "mapping.training.policies:MEMO",
        "megatron": "mapping.training.policies:MEGATRON",
        "deepspeed": "mapping.training.policies:DEEPSPEED",
        "rematerialize": "mapping.training.rematerialize:MAPPER",
        "zero-offload": "mapping.training.state_policies:ZERO_OFFLOAD",
        "zero-infinity": "mapping.training.state_policies:ZERO_INFINITY",
        "sequence-groups": "mapping.training.sequence_group_policy:SEQUENCE_GROUPS",
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
