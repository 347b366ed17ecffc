"""The Python interface: the four verbs on names, files or objects.

Everything the command line does is here as a function; names and paths are accepted wherever an object is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final, Unpack, overload

from hw_configs import library
from hw_configs.board import as_board
from hw_configs.problems import InputError, Problem, bad_input
from hw_configs.settings import Settings
from hw_configs.system import System
from mapping.mapper import MapperOptions, plan_writer
from mapping.scheduling.execution import is_schedule_file, schedule_planner
from offchip.run_options import Options, RunOptions, WorkloadChoices, split_options, workload_options
from simulator.accelerator.operand_buffer import epilogues_of
from simulator.check import Violation
from simulator.check import check as check_plan
from simulator.plan import Plan
from simulator.plan_file import read_plan, write_plan
from simulator.result import Result
from simulator.rewrite.apply import rewrite
from simulator.serving.host_time import host_time
from simulator.simulate import Planner, Watcher
from simulator.simulate import simulate as run
from simulator.system.bound_plan import BoundPlan
from simulator.system.engine import PhaseRun
from workloads.fusion import behind_arrays
from workloads.graph import Graph
from workloads.importers import load_workload
from workloads.microbatch import microbatched
from workloads.workload import Phase, Workload, WorkloadOptions

__all__ = [
    "check", "load_model", "load_system", "machine_of", "planner_of", "run_workload", "simulate", "solve",
    "workload_of",
]  # fmt: skip

MAX_MICROBATCHES: Final = 65536


def load_system(source: str | Path) -> System:
    """A system by name (``dgx-a100``), a device by name (``a100-80gb``), or either from a YAML file."""
    return library.load_system(source)


def load_model(source: str | Path, **options: Unpack[WorkloadChoices]) -> Workload:
    """A workload from a built-in name, a ``config.json``, an ``.onnx`` file, a graph JSON or a Chakra trace.

    Options are the fields of :class:`~workloads.workload.WorkloadOptions`. ``phase``: prefill, decode or train; None
    takes the natural one (a generation for a language model when ``generate`` is above zero). ``dims`` gives values
    to symbolic dimensions of an ONNX file.

    >>> load_model("gpt2", phase="decode", prompt=64).phases[0].kind
    'decode'
    """
    return load_workload(source, workload_options(options))


def simulate(
    model: str | Path | Workload | Graph,
    system: str | Path | System,
    *,
    plan: str | Path | Plan | None = None,
    save_plan: str | Path | None = None,
    advance: Callable[[int], None] | None = None,
    watch: Watcher | None = None,
    **options: Unpack[Options],
) -> Result:
    """Simulate a model on a system.

    Options are the fields of :class:`~workloads.workload.WorkloadOptions` (what is run; not for a model that is a
    workload or a graph already) and :class:`~offchip.run_options.RunOptions` (how). ``plan`` (a file or object) is
    used for every phase; otherwise the mapper writes one per phase. ``microbatches`` divides the batch, also that of
    a workload which was built before. ``save_plan`` is a file for the first phase's plan; ``advance`` and ``watch``
    are called after each phase. Raises ``InputError`` for bad input,
    ``InfeasibleError`` when memory is too small.

    >>> result = simulate("gpt2", "a100-80gb", prompt=64)
    >>> result.summary()["time_to_first_token_s"] < 0.01
    True
    """
    what, how = split_options(options)
    target = machine_of(system, how, plan)
    planner = planner_of(how, target, plan)
    if save_plan is not None:
        planner = _saving(planner, Path(save_plan))
    return run_workload(workload_of(model, what, how), target, how, planner, advance=advance, watch=watch)


def workload_of(model: str | Path | Workload | Graph, what: WorkloadOptions, how: RunOptions) -> Workload:
    """The workload of a run, its batch divided into micro-batches where that is asked for.

    A workload or graph that is given is what it is: ``InputError`` for options that would change it.
    """
    count = how.microbatches
    if isinstance(model, (Workload, Graph)):
        problems = [
            Problem("the workload is built already; give the option when it is built", path=f"--{name}")
            for name in (f.name for f in fields(what))
            if getattr(what, name) != getattr(WorkloadOptions(), name)
        ]
        if problems:
            raise InputError(problems)
        workload = _as_workload(model)
        if count == 1:
            return workload
        build, batch = _divisible(workload), int(workload.metadata["batch"])
        return _in_microbatches(build(_part_of(batch, count)), batch, count)
    ranks = what.ranks or (how.tp if how.tp > 1 else 0)
    workload = load_workload(model, replace(what, batch=_part_of(what.batch, count), ranks=ranks))
    if count == 1:
        return workload
    _divisible(workload)
    return _in_microbatches(workload, what.batch, count)


def run_workload(
    workload: Workload,
    system: System,
    how: RunOptions,
    planner: Planner,
    *,
    advance: Callable[[int], None] | None = None,
    watch: Watcher | None = None,
) -> Result:
    """Run a workload with the plans of a planner, as the machine runs it (:func:`_behind_arrays`)."""
    return run(
        _behind_arrays(workload, system),
        system,
        planner,
        fidelity=how.fidelity,
        cost_model=how.cost_model,
        collective=how.collective,
        host=host_time(how.engine, how.engine_version),
        watch=_counting(watch, advance),
    )


def _counting(watch: Watcher | None, advance: Callable[[int], None] | None) -> Watcher | None:
    """The watcher, which also counts a phase."""
    if advance is None:
        return watch

    def both(graph: Graph, bound: BoundPlan, run: PhaseRun) -> None:
        if watch is not None:
            watch(graph, bound, run)
        advance(1)

    return both


def solve(
    model: str | Path | Workload | Graph,
    system: str | Path | System,
    mapper: str = "single-device",
    *,
    tp: int = 1,
    pp: int = 1,
    microbatches: int = 1,
    settings: Mapping[str, object] | Settings | None = None,
    **options: Unpack[WorkloadChoices],
) -> Plan:
    """The plan a mapper writes for a model's first phase. ``options`` say what is run.

    >>> len(solve("gpt2", "dgx-a100", "tensor-pipeline", phase="decode", prompt=16, tp=2).splits) > 0
    True
    """
    how = RunOptions(mapper, settings or {}, tp, pp, microbatches)
    what = workload_options(options)
    target = machine_of(system, how, None)
    writer, chosen = how.writer(target)
    workload = _behind_arrays(workload_of(model, what, how), target)
    return writer.plan(workload.phases[0].graph, target, chosen)


def check(plan: str | Path | Plan, graph: Graph, system: str | Path | System) -> list[Violation]:
    """Everything that is wrong with a plan for a graph on a system; empty when it can run."""
    chosen, target = plan if isinstance(plan, Plan) else read_plan(plan), _system(system)
    run = _behind_arrays(_as_workload(graph), target).phases[0].graph
    return check_plan(chosen, rewrite(run, chosen), target)


def planner_of(how: RunOptions, system: System, plan: str | Path | Plan | None = None) -> Planner:
    """What writes the plans of a run: the plan given (a file or object), or the mapper asked for."""
    if plan is None:
        writer, chosen = how.writer(system)

        def planned(graph: Graph, system: System) -> Plan:
            if how.mapper is None and any(op.place.ranks for op in graph.operators):
                return plan_writer("replay").plan(graph, system, MapperOptions())
            return writer.plan(graph, system, chosen)

        return planned
    if how.mapper is not None:
        raise bad_input("a plan is given; a mapper would write another", path="--plan, --mapper")
    if not isinstance(plan, Plan) and is_schedule_file(plan):
        return schedule_planner(plan)
    given = plan if isinstance(plan, Plan) else read_plan(plan)
    return lambda _graph, _system: given


def _system(system: str | Path | System) -> System:
    return system if isinstance(system, System) else load_system(system)


def machine_of(system: str | Path | System, how: RunOptions, plan: str | Path | Plan | None = None) -> System:
    """The system; a spatial device alone as a board where a plan fills its scratchpad."""
    found = _system(system)
    if plan is None:
        fills = (how.mapper or "").startswith("scratchpad")
    elif isinstance(plan, Plan) or not is_schedule_file(plan):
        given = plan if isinstance(plan, Plan) else read_plan(plan)
        fills = any(task.kind == "transfer" for task in given.tasks)
    else:
        fills = True
    return as_board(found) if fills else found


def _behind_arrays(workload: Workload, system: System) -> Workload:
    """The workload with what all devices of a system run behind their arrays inside the operator before it."""
    kinds = epilogues_of(system)
    if not kinds:
        return workload
    fused = _Changed(workload.phases, lambda phase: replace(phase, graph=behind_arrays(phase.graph, kinds)))
    return replace(workload, phases=fused)


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
    phases = _Changed(part.phases, lambda phase: _phase_in_microbatches(phase, count))
    return replace(part, phases=phases, metadata=metadata, at_batch=None)


def _as_workload(model: Workload | Graph) -> Workload:
    if isinstance(model, Workload):
        return model
    return Workload(model.name, (Phase(model.name, "forward", model),))


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
class _Changed(Sequence[Phase]):
    """Phases changed one by one, each when it is asked for."""

    phases: Sequence[Phase]
    change: Callable[[Phase], Phase]

    def __len__(self) -> int:
        return len(self.phases)

    @overload
    def __getitem__(self, index: int) -> Phase: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Phase]: ...
    def __getitem__(self, index: int | slice) -> Phase | Sequence[Phase]:
        if isinstance(index, slice):
            return _Changed(self.phases[index], self.change)
        return self.change(self.phases[index])


def _phase_in_microbatches(phase: Phase, batches: int) -> Phase:
    graph = microbatched(phase.graph, batches)
    return Phase(phase.name, phase.kind, graph, phase.tokens * batches)
