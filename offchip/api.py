"""The Python interface: the four verbs on names, files or objects.

Everything the command line does is here as a function; names and paths are accepted wherever an object is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, overload

from hw_configs import library
from hw_configs.problems import bad_input
from hw_configs.system import System
from mapping.mapper import MAPPERS, MapperOptions, check_settings, default_mapper
from mapping.scheduling.execution import is_schedule_file, schedule_planner
from simulator.check import Violation
from simulator.check import check as check_plan
from simulator.cost.model import DEFAULT_COST_MODEL
from simulator.plan import Plan
from simulator.plan_file import read_plan, write_plan
from simulator.result import Result
from simulator.simulate import Planner, Watcher
from simulator.simulate import simulate as run
from simulator.system.rewrite import rewrite
from workloads.graph import Graph
from workloads.importers import load_workload
from workloads.microbatch import microbatched
from workloads.workload import Phase, Workload, WorkloadOptions

__all__ = ["check", "load_model", "load_system", "simulate", "solve"]

MAX_MICROBATCHES: Final = 65536


def load_system(source: str | Path) -> System:
    """A system by name (``dgx-a100``), a device by name (``a100-80gb``), or either from a YAML file."""
    return library.load_system(source)


def load_model(
    source: str | Path,
    *,
    phase: str | None = None,
    batch: int = 1,
    prompt: int = 512,
    generate: int = 0,
    chunk: int | None = None,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    fused: bool = True,
    dims: Mapping[str, int] | None = None,
) -> Workload:
    """A workload from a built-in name, a ``config.json``, an ``.onnx`` file, a graph JSON or a Chakra trace.

    ``phase``: prefill, decode or train; None takes the natural one (a generation for a language model when
    ``generate`` is above zero). ``dims`` gives values to symbolic dimensions of an ONNX file.
    """
    options = WorkloadOptions(phase, batch, prompt, generate, chunk, dtype, kv_dtype, fused, dict(dims or {}))
    return load_workload(source, options)


def simulate(
    model: str | Path | Workload | Graph,
    system: str | Path | System,
    *,
    phase: str | None = None,
    batch: int = 1,
    prompt: int = 512,
    generate: int = 0,
    chunk: int | None = None,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    fused: bool = True,
    dims: Mapping[str, int] | None = None,
    mapper: str | None = None,
    settings: Mapping[str, str] | None = None,
    tp: int = 1,
    pp: int = 1,
    microbatches: int = 1,
    plan: str | Path | Plan | None = None,
    save_plan: str | Path | None = None,
    wrap_planner: Callable[[Planner], Planner] | None = None,
    fidelity: str = "event",
    cost_model: str = DEFAULT_COST_MODEL,
    collective: str = "auto",
    advance: Callable[[int], None] | None = None,
    watch: Watcher | None = None,
) -> Result:
    """Simulate a model on a system.

    The options up to ``dims`` describe the workload and are ignored when ``model`` is one already. ``plan``
    (a file or object) is used for every phase; otherwise ``mapper`` writes one per phase: by default
    ``tensor-pipeline`` when ``tp`` or ``pp`` is above one, ``pim`` on a PIM memory with its host chip, and
    ``single-device`` otherwise. ``microbatches`` divides the batch, also that of a workload which was built before;
    ``save_plan`` is a file for the first phase's
    plan; ``wrap_planner`` gets what writes the plans and gives what is to be asked instead, such as one that
    remembers; ``advance`` and ``watch`` are called after each phase. Raises ``InputError`` for bad input,
    ``InfeasibleError`` when memory is too small.
    """
    target = system if isinstance(system, System) else load_system(system)
    if isinstance(model, (Workload, Graph)):
        workload = _as_workload(model)
        if microbatches != 1:
            build, batch = _divisible(workload), int(workload.metadata["batch"])
            workload = _in_microbatches(build(_part_of(batch, microbatches)), batch, microbatches)
    else:
        workload = load_model(
            model, phase=phase, batch=_part_of(batch, microbatches), prompt=prompt, generate=generate, chunk=chunk,
            dtype=dtype, kv_dtype=kv_dtype, fused=fused, dims=dims,
        )  # fmt: skip
        if microbatches != 1:
            _divisible(workload)
            workload = _in_microbatches(workload, batch, microbatches)
    planner = _planner(mapper, plan, MapperOptions(tp, pp, dict(settings or {})), target)
    if wrap_planner is not None:
        planner = wrap_planner(planner)
    if save_plan is not None:
        planner = _saving(planner, Path(save_plan))
    return run(
        workload,
        target,
        planner,
        fidelity=fidelity,
        cost_model=cost_model,
        collective=collective,
        advance=advance,
        watch=watch,
    )


def solve(
    model: str | Path | Workload | Graph,
    system: str | Path | System,
    mapper: str = "single-device",
    *,
    tp: int = 1,
    pp: int = 1,
    settings: Mapping[str, str] | None = None,
) -> Plan:
    """The plan a mapper writes for a model's first phase. Pass a workload to choose batch and phase."""
    workload = _as_workload(model) if isinstance(model, (Workload, Graph)) else load_model(model)
    target = system if isinstance(system, System) else load_system(system)
    options = MapperOptions(tp, pp, dict(settings or {}))
    check_settings(mapper, MAPPERS.get(mapper), options)
    return MAPPERS.get(mapper).plan(workload.phases[0].graph, target, options)


def check(plan: str | Path | Plan, graph: Graph, system: str | Path | System) -> list[Violation]:
    """Everything that is wrong with a plan for a graph on a system; empty when it can run."""
    target = system if isinstance(system, System) else load_system(system)
    chosen = plan if isinstance(plan, Plan) else read_plan(plan)
    return check_plan(chosen, rewrite(graph, chosen), target)


def _part_of(batch: int, microbatches: int) -> int:
    """The batch of one micro-batch."""
    if not 1 <= microbatches <= MAX_MICROBATCHES:
        expected = f"expected 1 to {MAX_MICROBATCHES}" if microbatches > 0 else "expected 1 or more"
        raise bad_input(f"found {microbatches}; {expected}", path="--microbatches")
    if batch % microbatches:
        raise bad_input(
            f"batch {batch} cannot be divided into {microbatches} micro-batches", path="--microbatches"
        )
    return batch // microbatches


def _divisible(workload: Workload) -> Callable[[int], Workload]:
    """What builds a workload at the batch of one micro-batch: finished graphs have sizes, and no batch to divide."""
    if workload.at_batch is None:
        raise bad_input(
            f"{workload.name!r} is a finished graph, which has no batch to divide into micro-batches",
            path="--microbatches",
        )
    return workload.at_batch


def _in_microbatches(part: Workload, batch: int, count: int) -> Workload:
    """A workload that was built for one micro-batch, run for ``count`` of them; ``batch`` is that of all."""
    metadata = {**part.metadata, "microbatches": count, "batch": batch}
    return replace(part, phases=_Microbatched(part.phases, count), metadata=metadata, at_batch=None)


def _as_workload(model: Workload | Graph) -> Workload:
    if isinstance(model, Workload):
        return model
    return Workload(model.name, (Phase(model.name, "forward", model),))


def _planner(
    mapper: str | None, plan: str | Path | Plan | None, options: MapperOptions, system: System
) -> Planner:
    if plan is not None:
        if mapper is not None:
            raise bad_input("a plan is given; a mapper would write another", path="--plan, --mapper")
        if not isinstance(plan, Plan) and is_schedule_file(plan):
            return schedule_planner(plan)
        chosen = plan if isinstance(plan, Plan) else read_plan(plan)
        return lambda _graph, _system: chosen
    parallel = options.tensor_parallel > 1 or options.pipeline_parallel > 1
    name = mapper or default_mapper(system, options)
    if parallel and name != "tensor-pipeline":
        raise bad_input(f"mapper {name!r} uses one device; --tp and --pp need 'tensor-pipeline'", path="--tp")
    writer = MAPPERS.get(name)
    check_settings(name, writer, options)
    return lambda graph, system: writer.plan(graph, system, options)


def _saving(planner: Planner, path: Path) -> Planner:
    """The planner, with the first plan it makes written to a file."""
    saved = False

    def plan(graph: Graph, system: System) -> Plan:
        nonlocal saved
        chosen = planner(graph, system)
        if not saved:
            write_plan(chosen, path)
            saved = True
        return chosen

    return plan


@dataclass(frozen=True)
class _Microbatched(Sequence[Phase]):
    """Phases in micro-batches, each built when it is asked for."""

    phases: Sequence[Phase]
    batches: int

    def __len__(self) -> int:
        return len(self.phases)

    @overload
    def __getitem__(self, index: int) -> Phase: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Phase]: ...
    def __getitem__(self, index: int | slice) -> Phase | Sequence[Phase]:
        if isinstance(index, slice):
            return _Microbatched(self.phases[index], self.batches)
        phase = self.phases[index]
        graph = microbatched(phase.graph, self.batches)
        return Phase(phase.name, phase.kind, graph, phase.tokens * self.batches)
