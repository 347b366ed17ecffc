"""What of a model lives in which memory and what moves when: a mapper's answer, and its plan run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from hw_configs.problems import InputError, NoAnswerError, Problem, bad_input, nearest
from hw_configs.settings import Settings
from hw_configs.shown import Shown, Table
from hw_configs.typed_fields import wrong_types
from hw_configs.units import format_quantity
from offchip.keywords import from_keywords
from simulator.cost.model import DEFAULT_COST_MODEL

if TYPE_CHECKING:
    from hw_configs.system import System
    from mapping.mapper import OffloadSolver
    from mapping.offload.policy import OffloadAnswer, OffloadRequest
    from mapping.training.executed_step import ExecutedStep
    from mapping.training.training_plan import TrainingPlan

__all__ = ["OffloadOptions", "OffloadSolution", "solve_offload", "tokens"]

DEFAULTS: Final = {"train": "choose-training"}
PHASES: Final = ("train", "prefill", "decode")
MOST_TOKENS: Final = 2**40
_GRACE: Final = 1.05
_GRACE_S: Final = 0.5
"""A mapper that looks at no clock is stopped so much after the limit."""


@dataclass(frozen=True, slots=True)
class OffloadOptions:
    """What is asked.

    ``phase``: train, prefill or decode. ``seq``: tokens per sequence, a number or such as 64K. ``batch``: sequences,
    per step over all devices in training, at once in inference. ``settings``: of the mapper (see ``offchip mappers
    show NAME``). ``simulate`` runs the plan, event by event. ``out``: a folder for graph, plan and report.
    ``time_limit``: seconds for the decision; None: to its end, the same answer every time.
    """

    phase: str = "train"
    seq: int | str = 2048
    batch: int = 1
    generate: int = 0
    dtype: str | None = None
    settings: Mapping[str, object] | Settings = field(default_factory=dict)
    cost_model: str = DEFAULT_COST_MODEL
    seed: int = 0
    simulate: bool = False
    out: str | Path | None = None
    time_limit: float | None = None

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        if not isinstance(self.settings, Mapping | Settings):
            found = f"found {self.settings!r:.80}; expected names and values, or a mapper's settings"
            problems.append(Problem(found, path="--set"))
        if self.time_limit is not None and not problems and not self.time_limit > 0:
            message = f"found {self.time_limit:g}; expected seconds above zero"
            problems.append(Problem(message, path="--time-limit"))
        if problems:
            raise InputError(problems)
        if self.phase not in PHASES:
            near = nearest(self.phase, PHASES)
            message = f"found {self.phase!r}; expected {', '.join(PHASES)}"
            raise bad_input(message, path="--phase", suggestion=near)


class OffloadChoices(TypedDict, total=False):
    """The fields of :class:`OffloadOptions`, as keywords."""

    phase: str
    seq: int | str
    batch: int
    generate: int
    dtype: str | None
    settings: Mapping[str, object] | Settings
    cost_model: str
    seed: int
    simulate: bool
    out: str | Path | None
    time_limit: float | None


@dataclass(frozen=True)
class OffloadSolution(Shown):
    """A mapper's answer for a model on a system; ``simulated`` holds figures of its plan where it was run."""

    model: str
    system: str
    answer: OffloadAnswer
    simulated: Mapping[str, Any] | None = None
    written: tuple[Path, ...] = ()
    step: ExecutedStep | None = None
    """The training step that was run."""

    def as_json(self) -> dict[str, Any]:
        """The report as plain data."""
        report = dict(self.answer.report) | {"why": list(self.answer.why)}
        return report if self.simulated is None else report | {"simulated": dict(self.simulated)}

    def shown_tables(self) -> tuple[Table, ...]:
        """Why, then the answer's own tables, then what the simulation gave."""
        head = Table(
            f"{self.model} on {self.system}, policy {self.answer.policy}",
            ("",),
            tuple((f"  {text}",) for text in self.answer.why),
        )
        own = list(self.answer.tables)
        if self.step is not None:
            # A mapper that ran what it chose has shown it already.
            own += [table for table in self.step.tables() if table not in own]
        tables = [Table(f"\n{table.title}", table.columns, table.rows) for table in own]
        ran = self.simulated
        if ran is not None and self.step is None:
            peak = format_quantity(ran["fullest_memory_peak_bytes"], "size")
            rows = (
                ("step", f"{ran['step_s']:.4g} s"),
                (f"peak of {ran['fullest_memory']}", peak),
                ("energy", f"{ran['energy_j']:.4g} J"),
            )
            tables.append(Table("\nSimulated, event by event (the plan written)", ("", ""), rows))
        return (head, *tables)


def solve_offload(
    model: str | Path, hw: str | Path, policy: str | None = None, **options: Unpack[OffloadChoices]
) -> OffloadSolution:
    """Decide what lives in which memory and what moves when, and say why.

    ``policy`` is a mapper that answers this (``offchip mappers list``); for training it may be left out. Options are
    the fields of :class:`OffloadOptions`. Raises ``InputError`` for bad input, ``InfeasibleError`` when nothing fits,
    ``NoAnswerError`` when the time was over before anything was decided.

    >>> found = solve_offload("opt-1.3b", "csd-node", "offload-kv", phase="decode", seq=1024)
    >>> found.answer.plan is not None
    True
    """
    from hw_configs.library import load_system
    from mapping.mapper import mapper_settings, offload_solver
    from mapping.offload.policy import OffloadRequest, check_request

    chosen = from_keywords(OffloadOptions, options)
    name = policy or DEFAULTS.get(chosen.phase)
    if name is None:
        raise bad_input(f"phase {chosen.phase!r} has no default policy; see --policy list", path="--policy")
    solver = offload_solver(name)
    settings = mapper_settings(name, chosen.settings, "offload")
    system = load_system(hw)
    request = OffloadRequest(
        str(model), system, chosen.phase, tokens(str(chosen.seq)), chosen.batch, chosen.generate, chosen.dtype,
        chosen.cost_model, chosen.seed, settings,
    )  # fmt: skip
    check_request(name, solver, request)
    answer = _decided(solver, request, chosen.time_limit)
    found = OffloadSolution(str(model), system.name, answer)
    if chosen.simulate and answer.training is not None:
        step = _executed(answer.training, request)
        found = replace(found, step=step, simulated=step.to_json())
    elif chosen.simulate:
        found = replace(found, simulated=_run(answer, request, system))
    if chosen.out is None:
        return found
    written = _write(answer, found.as_json(), Path(chosen.out), found.step)
    return replace(found, written=tuple(written))


def _executed(plan: TrainingPlan, request: OffloadRequest) -> ExecutedStep:
    """The training plan that was decided on, run event by event."""
    from mapping.training.estimate import Estimator
    from mapping.training.pricing import Prices
    from mapping.training.training_plan import execute

    return execute(plan, Estimator(Prices(request.system, request.cost_model)))


def _decided(solver: OffloadSolver, request: OffloadRequest, seconds: float | None) -> OffloadAnswer:
    """The mapper's answer within so many seconds: its best so far where it looks at the clock, else none."""
    from mapping.deadline import Budget, OutOfTimeError, cut_off

    answer: OffloadAnswer | None = None
    budget = Budget(seconds)
    with budget.running():
        try:
            with cut_off(budget, None if seconds is None else _GRACE * seconds + _GRACE_S):
                answer = solver.solve(request)
        except OutOfTimeError:
            pass
    if answer is None and seconds is None:
        raise KeyboardInterrupt
    if answer is None:
        raise NoAnswerError(
            f"nothing was decided within {seconds:g} s; what could help: more time (--time-limit)"
        )
    return answer


def tokens(text: str) -> int:
    """A count of tokens: a whole number, or one with the suffix K (1024) or M (1024 x 1024)."""
    from hw_configs.whole_number import integer

    plain = text.strip().upper().replace("_", "")
    factor = {"K": 2**10, "M": 2**20}.get(plain[-1:], 1)
    digits = plain[:-1] if factor > 1 else plain
    count = integer(digits, 1, MOST_TOKENS // factor)
    if count is None:
        raise bad_input(f"found {text!r}; expected a number of tokens such as 4096, 64K or 1M", path="--seq")
    return count * factor


def _run(answer: OffloadAnswer, request: OffloadRequest, system: System) -> dict[str, Any]:
    """Execute the plan; the figures to hold against the estimate."""
    if answer.graph is None or answer.plan is None:
        reason = next((text for text in reversed(answer.why) if "simulator" in text), "it has no plan")
        raise bad_input(f"policy {answer.policy!r} only estimates this: {reason}", path="--simulate")
    from simulator.simulate import simulate
    from workloads.workload import Phase, Workload

    graph, plan = answer.graph, answer.plan
    count = request.sequence * request.batch
    workload = Workload(request.model, (Phase(request.phase, request.phase, graph, count),))
    result = simulate(workload, system, lambda _graph, _system: plan, cost_model=request.cost_model)
    fullest = max(result.memories.values(), key=lambda use: use.peak_bytes / max(use.usable_bytes, 1))
    return {
        "step_s": result.makespan_s,
        "fullest_memory": fullest.memory,
        "fullest_memory_peak_bytes": fullest.peak_bytes,
        "energy_j": result.total_energy_j,
    }


def _write(answer: OffloadAnswer, report: dict[str, Any], out: Path, step: ExecutedStep | None) -> list[Path]:
    import json

    from hw_configs.output_file import replacing
    from simulator.plan_file import write_plan
    from workloads.graph_json import write_graph

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise bad_input(f"cannot write: {error.strerror}", file=str(out), path="--out") from None
    written = [out / "report.json"]
    with replacing(written[0]) as part:
        part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if answer.training is not None:
        from mapping.training.training_plan import write_training_plan

        written.append(out / "plan.json")
        write_training_plan(answer.training, written[-1])
    if answer.graph is not None and answer.plan is not None:
        # Of a training step this is the same plan with an address for every tensor.
        name = "plan.json" if answer.training is None else "addresses.json"
        written += [out / "graph.json", out / name]
        write_graph(answer.graph, written[-2])
        write_plan(answer.plan, written[-1])
    if step is not None:
        from offchip.solving.training_step import write_step

        written += write_step(step, out)
    return written
