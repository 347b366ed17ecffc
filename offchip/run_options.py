"""What a user may ask of a run, stated once: command line, Python and sweeps all read it here.

:class:`~workloads.workload.WorkloadOptions` says what is run, :class:`RunOptions` how. Functions of the Python
interface take both as keywords (:class:`Options`); :func:`split_options` sorts them and refuses what is no option.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypedDict

from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.settings import Settings
from hw_configs.system import System
from hw_configs.typed_fields import wrong_types
from mapping.mapper import MapperOptions, PlanWriter, default_mapper, mapper_settings, plan_writer
from offchip.keywords import insist_on_known
from simulator.cost.collective import AUTO, CHOICES
from simulator.cost.model import COST_MODELS, DEFAULT_COST_MODEL
from simulator.serving.host_time import NO_ENGINE, host_time
from simulator.simulate import FIDELITIES
from workloads.step_types import StepTypes
from workloads.trained_parts import TrainedParts
from workloads.workload import WorkloadOptions

__all__ = ["Options", "RunOptions", "WorkloadChoices", "split_options", "workload_options"]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a workload is run.

    ``mapper`` writes the plans; None takes ``tensor-pipeline`` when ``tp`` or ``pp`` is above one, ``pim`` on a PIM
    memory with its host chip, and ``single-device`` otherwise. ``settings`` are the mapper's own: its settings class,
    or names and values (see ``offchip mappers show NAME``). ``tp`` devices share each operator, ``pp`` stages share
    the layers, ``microbatches`` parts the batch. ``fidelity`` is analytic, event or cycle. ``engine`` adds the host
    time of an inference engine's steps (:data:`~simulator.serving.host_time.HOST_ENGINES`), ``engine_version`` says of
    which version. ``collective``: what collectives take, the GPU library's time (``auto``, where all ranks are GPUs) or
    that of bare wires (``wires``, ``ring``, ``tree``).
    """

    mapper: str | None = None
    settings: Mapping[str, object] | Settings = field(default_factory=dict)
    tp: int = 1
    pp: int = 1
    microbatches: int = 1
    fidelity: str = "event"
    cost_model: str = DEFAULT_COST_MODEL
    collective: str = AUTO
    engine: str = NO_ENGINE
    engine_version: str = ""

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        if not isinstance(self.settings, Mapping | Settings):
            found = f"found {self.settings!r:.80}; expected names and values, or a mapper's settings"
            problems.append(Problem(found, path="--set"))
        if problems:
            raise InputError(problems)
        problems = [
            Problem(f"found {value}; expected 1 or more", path=f"--{name}")
            for name, value in (("tp", self.tp), ("pp", self.pp), ("microbatches", self.microbatches))
            if value < 1
        ]
        for name, value, known in (
            ("fidelity", self.fidelity, FIDELITIES),
            ("cost-model", self.cost_model, tuple(COST_MODELS)),
            ("collective", self.collective, CHOICES),
        ):
            if value not in known:
                found = f"found {value!r}; expected one of {', '.join(known)}"
                problems.append(Problem(found, path=f"--{name}", suggestion=nearest(value, known)))
        if problems:
            raise InputError(problems)
        host_time(self.engine, self.engine_version)

    def writer(self, system: System) -> tuple[PlanWriter, MapperOptions]:
        """Who writes the plans for a system, and the options for it; ``InputError`` for settings it has not."""
        name = self.mapper or default_mapper(system, MapperOptions(self.tp, self.pp))
        if (self.tp > 1 or self.pp > 1) and name not in ("tensor-pipeline", "replay"):
            raise bad_input(
                f"mapper {name!r} uses one device; --tp and --pp need 'tensor-pipeline'", path="--tp"
            )
        settings = mapper_settings(name, self.settings, "plan")
        return plan_writer(name), MapperOptions(self.tp, self.pp, settings)


class WorkloadChoices(TypedDict, total=False):
    """The fields of :class:`~workloads.workload.WorkloadOptions`, as keywords."""

    phase: str | None
    batch: int
    prompt: int
    generate: int
    chunk: int | None
    dtype: str | None
    kv_dtype: str | None
    fused: bool
    dims: Mapping[str, int]
    ranks: int
    durations: str
    adapters: tuple[str, ...]
    merge_adapters: bool
    images: int
    steps: int
    same_prompts: bool
    types: StepTypes
    trained: TrainedParts
    layers: int | None


class Options(WorkloadChoices, total=False):
    """The fields of :class:`~workloads.workload.WorkloadOptions` and :class:`RunOptions`, as keywords."""

    mapper: str | None
    settings: Mapping[str, object] | Settings
    tp: int
    pp: int
    microbatches: int
    fidelity: str
    cost_model: str
    collective: str
    engine: str
    engine_version: str


_WORKLOAD: Final = tuple(f.name for f in fields(WorkloadOptions))
_RUN: Final = tuple(f.name for f in fields(RunOptions))


def workload_options(options: Mapping[str, Any]) -> WorkloadOptions:
    """What is run, from keywords; ``InputError`` for a name that is no option of a workload."""
    insist_on_known(options, _WORKLOAD)
    return WorkloadOptions(**options)


def split_options(options: Mapping[str, Any]) -> tuple[WorkloadOptions, RunOptions]:
    """What is run and how, from keywords; ``InputError`` for a name that is no option, with the nearest one.

    >>> split_options({"prompt": 64, "tp": 2})[1].tp
    2
    >>> split_options({"promt": 64})
    Traceback (most recent call last):
        ...
    hw_configs.problems.InputError: promt: unknown option (did you mean 'prompt'?)
    """
    insist_on_known(options, (*_WORKLOAD, *_RUN))
    workload = WorkloadOptions(**{name: options[name] for name in _WORKLOAD if name in options})
    return workload, RunOptions(**{name: options[name] for name in _RUN if name in options})
