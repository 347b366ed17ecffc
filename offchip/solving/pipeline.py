"""Pipeline schedules: one by name, all of them beside each other, or the best for given stage times and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from hw_configs.problems import InfeasibleError, InputError, bad_input, nearest
from hw_configs.shown import Shown, Table
from hw_configs.typed_fields import wrong_types
from hw_configs.units import UnitError, format_quantity, parse_quantity
from offchip.keywords import from_keywords

if TYPE_CHECKING:
    from mapping.training.schedule_search.solve import BestSchedule
    from mapping.training.schedules.action import PipelineSchedule
    from mapping.training.schedules.run import ScheduleRun, StageTimes

__all__ = ["PipelineAnswer", "PipelineComparison", "PipelineOptions", "solve_pipeline"]

ALL: Final = "all"
OPTIMAL: Final = "optimal"
MOST_COUNT: Final = 65536
SHOWN_RANKS: Final = 16
PICTURE_RANKS: Final = 64
_PEAK: Final = "peak activations"
"""In micro-batches of a rank's share of the model, or bytes."""


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """A pipeline and what its passes take.

    ``schedule``: a name, ``all`` or ``optimal``. ``times``: F,B or F,I,W of a rank's share of the model and one
    micro-batch; ``stage_times``: relative times along the model, any count. ``communication``: a transfer between
    ranks. ``output_layer``: F,B or F,I,W of the whole output layer, which the last stage has on top, or all ranks in
    parts where the schedule has vocabulary passes. All in one unit of the caller's choice.

    ``memory``: what a rank may hold, in activations of a micro-batch on a rank's share, or bytes with ``activation``
    (bytes of those, or a size with its unit). ``freed_by_input``: the share of them that I frees. ``layout``: of
    ``optimal`` with two stages per rank: v or looped. ``engine``, ``time_limit``, ``seed``: of ``optimal``.
    """

    schedule: str = "1f1b"
    ranks: int = 4
    micro_batches: int = 8
    stages_per_rank: int | None = None
    times: str | Sequence[float] = "1,1,1"
    stage_times: str | Sequence[float] | None = None
    communication: float = 0.0
    output_layer: str | Sequence[float] | None = None
    memory: str | float | None = None
    activation: str | float | None = None
    freed_by_input: float = 0.0
    layout: str = "v"
    engine: str = "auto"
    time_limit: float = 60.0
    seed: int = 0
    plot: str | Path | None = None

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        if problems:
            raise InputError(problems)
        for name in ("ranks", "micro_batches"):
            value = getattr(self, name)
            if not 1 <= value <= MOST_COUNT:
                raise bad_input(
                    f"found {value}; expected 1 to {MOST_COUNT}", path=f"--{name.replace('_', '-')}"
                )
        if not (math.isfinite(self.communication) and self.communication >= 0):
            raise bad_input(f"found {self.communication:g}; expected at least 0", path="--communication")
        if not self.time_limit > 0:
            raise bad_input(f"found {self.time_limit:g}; expected seconds above zero", path="--time-limit")
        if self.layout not in ("v", "looped"):
            raise bad_input(f"found {self.layout!r}; expected v or looped", path="--layout")
        if not 0 <= self.freed_by_input <= 1:
            raise bad_input(f"found {self.freed_by_input:g}; expected 0 to 1", path="--freed-by-input")
        if self.plot is not None and Path(self.plot).suffix.lower() not in (".svg", ".png"):
            found = f"found {Path(self.plot).suffix!r}; expected a file that ends in .svg or .png"
            raise bad_input(found, path="--plot")
        if self.plot is not None and self.schedule == ALL:
            raise bad_input("a picture is of one schedule; found --schedule all", path="--plot")


class PipelineChoices(TypedDict, total=False):
    """The fields of :class:`PipelineOptions`, as keywords."""

    schedule: str
    ranks: int
    micro_batches: int
    stages_per_rank: int | None
    times: str | Sequence[float]
    stage_times: str | Sequence[float] | None
    communication: float
    output_layer: str | Sequence[float] | None
    memory: str | float | None
    activation: str | float | None
    freed_by_input: float
    layout: str
    engine: str
    time_limit: float
    seed: int
    plot: str | Path | None


@dataclass(frozen=True, slots=True)
class _Passes:
    """F, I and W of a rank's share; ``split``: whether the halves of the backward were given apart."""

    forward: float
    inputs: float
    weights: float
    split: bool


@dataclass(frozen=True)
class PipelineAnswer(Shown):
    """One schedule in time. ``activation_bytes``: what one unit of activations is, where bytes were given."""

    options: PipelineOptions
    run: ScheduleRun
    activation_bytes: float | None
    memory: float | None
    best: BestSchedule | None = None

    @property
    def fits(self) -> bool:
        """Whether every rank keeps to the memory limit."""
        return self.memory is None or float(self.run.peak_bytes.max()) <= self.memory * (1 + 1e-9)

    def as_json(self) -> dict[str, Any]:
        """The figures and the orders, one text per rank."""
        run, plan = self.run, self.run.packed.schedule
        answer: dict[str, Any] = {
            "schedule": self.options.schedule,
            "ranks": plan.ranks,
            "micro_batches": plan.micro_batches,
            "stages_per_rank": plan.stages // plan.ranks,
            "replicas": plan.replicas,
            "makespan": run.makespan_s,
            "bubble_share": run.bubble_share,
            "bubble_share_by_rank": run.bubble.tolist(),
            "longest_span": float(run.span_s.max()),
            "peak_passes_by_rank": run.peak_live.tolist(),
            "peak_activations_by_rank": run.peak_bytes.tolist(),
        }
        if self.activation_bytes is not None:
            answer["peak_bytes_by_rank"] = (run.peak_bytes * self.activation_bytes).tolist()
        if self.memory is not None:
            answer |= {"memory": self.memory, "fits": self.fits}
        if self.best is not None:
            best = self.best
            answer |= {
                "status": best.status, "bound": best.bound_s, "gap": best.gap, "engine": best.engine,
                "nodes": best.nodes, "seconds": round(best.seconds, 6), "seed": best.seed,
            }  # fmt: skip
        return answer | {"orders": [" ".join(map(str, order)) for order in plan.orders]}

    def shown_tables(self) -> tuple[Table, ...]:
        """The figures, what each rank does and holds, and the picture."""
        from mapping.training.schedules.picture import text_picture

        run, plan = self.run, self.run.packed.schedule
        lines: list[tuple[object, ...]] = [
            ("ranks, micro-batches, stages per rank",
             f"{plan.ranks}, {plan.micro_batches}, {plan.stages // plan.ranks}"
             + (f", model held {plan.replicas} times" if plan.replicas > 1 else "")),
            ("makespan", f"{run.makespan_s:.6g}"),
            ("bubble", f"{100 * run.bubble_share:.2f} % of the ranks' time"),
            ("longest span of a rank", f"{run.span_s.max():.6g}"),
            (_PEAK, self.held(float(run.peak_bytes.max()))),
        ]  # fmt: skip
        if self.memory is not None:
            lines.append(("memory limit", f"{self.held(self.memory)}: {'kept' if self.fits else 'broken'}"))
        if self.best is not None:
            best = self.best
            lines += [
                ("status", best.status),
                ("lower bound", f"{best.bound_s:.6g}, gap {100 * best.gap:.3f} %"),
                ("engine", f"{best.engine}, {best.nodes} nodes, {best.seconds:.3g} s, seed {best.seed}"),
            ]
        tables = [Table(f"solve pipeline {self.options.schedule}", ("", ""), tuple(lines))]
        rows = tuple(
            (
                rank,
                f"{100 * run.bubble[rank]:.2f}",
                int(run.peak_live[rank]),
                self.held(run.peak_bytes[rank]),
            )
            for rank in range(min(plan.ranks, SHOWN_RANKS))
        )
        more = f", the first {SHOWN_RANKS} of {plan.ranks}" if plan.ranks > SHOWN_RANKS else ""
        tables.append(Table(f"ranks{more}", ("rank", "bubble %", "peak passes", _PEAK), rows))
        if plan.ranks <= PICTURE_RANKS:
            tables.append(Table("\n".join(["time", *text_picture(run)]), (), ()))
        return tuple(tables)

    def held(self, units: float) -> str:
        """Activations as a person reads them: bytes, or micro-batches of a rank's share of the model."""
        return self.held_units(units, self.activation_bytes)

    @staticmethod
    def held_units(units: float, activation_bytes: float | None) -> str:
        """The same without an answer."""
        return (
            f"{units:.4g}" if activation_bytes is None else format_quantity(units * activation_bytes, "size")
        )

    def insist(self) -> None:
        """Raise ``InfeasibleError`` where a named schedule breaks the memory limit."""
        if not self.fits:
            worst = int(self.run.peak_bytes.argmax())
            raise InfeasibleError(
                f"{self.options.schedule} holds {self.held(float(self.run.peak_bytes[worst]))} on rank {worst}; "
                f"the limit is {self.held(self.memory or 0.0)}"
            )


@dataclass(frozen=True)
class PipelineComparison(Shown):
    """Every schedule that takes the counts, fastest first; ``refused``: names with the reason."""

    options: PipelineOptions
    answers: tuple[PipelineAnswer, ...]
    refused: tuple[tuple[str, str], ...]

    def as_json(self) -> dict[str, Any]:
        """The figures of each schedule, without orders."""
        rows = []
        for answer in self.answers:
            row = answer.as_json() | {"schedule": answer.run.packed.schedule.name}
            row.pop("orders")
            rows.append(row)
        return {"schedules": rows, "refused": dict(self.refused)}

    def shown_tables(self) -> tuple[Table, ...]:
        """One row per schedule, and those that cannot take the counts."""
        options = self.options
        rows = []
        for answer in self.answers:
            run, plan = answer.run, answer.run.packed.schedule
            row: tuple[object, ...] = (
                plan.name, plan.stages // plan.ranks, plan.replicas, f"{run.makespan_s:.6g}",
                f"{100 * run.bubble_share:.2f}", f"{run.span_s.max():.6g}", answer.held(float(run.peak_bytes.max())),
            )  # fmt: skip
            rows.append(row if answer.memory is None else (*row, "yes" if answer.fits else "no"))
        columns: tuple[str, ...] = (
            "schedule", "stages", "copies", "makespan", "bubble %", "longest span", _PEAK,
        )  # fmt: skip
        if any(answer.memory is not None for answer in self.answers):
            columns = (*columns, "fits")
        title = f"solve pipeline all: {options.ranks} ranks, {options.micro_batches} micro-batches"
        tables = [Table(title, columns, tuple(rows))]
        if self.refused:
            tables.append(Table("cannot take these counts", ("schedule", "because"), self.refused))
        return tuple(tables)

    def insist(self) -> None:
        """Nothing to insist on: the table says what fits."""


def solve_pipeline(**options: Unpack[PipelineChoices]) -> PipelineAnswer | PipelineComparison:
    """A pipeline schedule: its order, bubble, memory and picture.

    Options are the fields of :class:`PipelineOptions`. ``schedule="all"`` compares all that take the counts,
    ``"optimal"`` finds the least makespan under the memory limit and says what was proved.
    Raises ``InputError`` for bad input, ``InfeasibleError`` where no schedule keeps to the memory.

    >>> answer = solve_pipeline(schedule="1f1b", ranks=4, micro_batches=8)
    >>> answer.run.makespan_s, answer.run.peak_live.tolist()
    (33.0, [4, 3, 2, 1])
    """
    chosen = from_keywords(PipelineOptions, options)
    passes = _passes(chosen)
    unit, memory = _memory(chosen)
    if chosen.schedule == ALL:
        return _compare(chosen, passes, unit, memory)
    if chosen.schedule == OPTIMAL:
        answer = _optimal(chosen, passes, unit, memory)
    else:
        answer = _named(chosen.schedule, chosen, passes, unit, memory)
    if chosen.plot is not None:
        from mapping.training.schedules.picture import draw_schedule

        run, plan = answer.run, answer.run.packed.schedule
        title = (
            f"{chosen.schedule}: {plan.ranks} ranks, {plan.micro_batches} micro-batches, "
            f"bubble {100 * run.bubble_share:.1f} %"
        )
        draw_schedule(run, title, Path(chosen.plot))
    return answer


def _named(
    name: str, chosen: PipelineOptions, passes: _Passes, unit: float | None, memory: float | None
) -> PipelineAnswer:
    from mapping.training.schedules.run import run_schedule
    from mapping.training.schedules.write import SCHEDULES, write_schedule

    if name not in SCHEDULES:
        known = [*SCHEDULES.names(), ALL, OPTIMAL]
        raise bad_input(
            f"unknown pipeline schedule {name!r}; known: {', '.join(known)}", path="--schedule",
            suggestion=nearest(name, known),
        )  # fmt: skip
    schedule = write_schedule(name, chosen.ranks, chosen.micro_batches, chosen.stages_per_rank)
    run = run_schedule(schedule, _stage_times(schedule, chosen, passes))
    return PipelineAnswer(chosen, run, unit, memory)


def _compare(
    chosen: PipelineOptions, passes: _Passes, unit: float | None, memory: float | None
) -> PipelineComparison:
    from mapping.training.schedules.write import SCHEDULES

    answers, refused = [], []
    for name in SCHEDULES:
        kind = SCHEDULES.get(name)
        if kind.fixed and chosen.stages_per_rank not in (None, kind.stages_per_rank):
            refused.append((name, f"has {kind.stages_per_rank} stages per rank"))
            continue
        try:
            answers.append(_named(name, chosen, passes, unit, memory))
        except InputError as error:
            refused.append((name, str(error).removeprefix("pipeline schedule: ")))
    answers.sort(key=lambda answer: (not answer.fits, answer.run.makespan_s))
    return PipelineComparison(chosen, tuple(answers), tuple(refused))


def _optimal(
    chosen: PipelineOptions, passes: _Passes, unit: float | None, memory: float | None
) -> PipelineAnswer:
    from mapping.training.schedule_search.problem import PipelineProblem, least_bytes
    from mapping.training.schedule_search.solve import best_schedule
    from mapping.training.schedules.action import PipelineSchedule, looped, v_shaped

    per_rank = chosen.stages_per_rank or 1
    if per_rank < 1 or per_rank * chosen.ranks > MOST_COUNT:
        raise bad_input(f"found {per_rank}; expected at least 1", path="--stages-per-rank")
    layout = (
        v_shaped(chosen.ranks) if per_rank == 2 and chosen.layout == "v" else looped(chosen.ranks, per_rank)
    )
    empty = PipelineSchedule(OPTIMAL, chosen.micro_batches, layout, ((),) * chosen.ranks)
    times = _stage_times(empty, chosen, passes)
    problem = PipelineProblem(layout, chosen.micro_batches, times, passes.split, memory)
    need = float(least_bytes(problem).max())
    if need > problem.room:
        shown = PipelineAnswer.held_units(need, unit), PipelineAnswer.held_units(memory or 0.0, unit)
        raise InfeasibleError(
            f"infeasible (proved): a rank holds one micro-batch at all its stages, {shown[0]}; the limit is {shown[1]}"
        )
    best = best_schedule(
        problem, engine=chosen.engine, time_limit_s=chosen.time_limit, seed=chosen.seed,  # type: ignore[arg-type]
    )  # fmt: skip
    return PipelineAnswer(chosen, best.run, unit, memory, best)


def _stage_times(schedule: PipelineSchedule, chosen: PipelineOptions, passes: _Passes) -> StageTimes:
    """What the schedule's stages take: their parts of the model, and the output layer where it lies."""
    import numpy as np

    from mapping.training.schedules.run import StageTimes

    stages = schedule.stages
    share = schedule.ranks / stages
    factor = _along_the_model(chosen, stages) * share
    forward, inputs, weights = (factor * t for t in (passes.forward, passes.inputs, passes.weights))
    logits = gradient = 0.0
    if chosen.output_layer is not None:
        f, i, w, _ = _numbers("--output-layer", chosen.output_layer)
        if schedule.vocabulary_barriers == 0:
            for row, more in ((forward, f), (inputs, i), (weights, w)):
                row[-1] += more
        elif schedule.vocabulary_barriers == 2:
            logits, gradient = f / schedule.ranks, (i + w) / schedule.ranks
        else:
            logits, gradient = (f + i) / schedule.ranks, w / schedule.ranks
    copies = schedule.replicas
    return StageTimes(
        np.tile(forward, copies), np.tile(inputs, copies), np.tile(weights, copies),
        logits_s=logits, logit_gradient_s=gradient, communication_s=chosen.communication,
        activation_bytes=share, freed_by_input=chosen.freed_by_input,
    )  # fmt: skip


def _along_the_model(chosen: PipelineOptions, stages: int) -> Any:
    """The mean of the relative times over each stage's part of the model."""
    import numpy as np

    if chosen.stage_times is None:
        return np.ones(stages)
    given = np.array(_figures("--stage-times", chosen.stage_times))
    edges = np.linspace(0, len(given), stages + 1)
    so_far = np.interp(edges, np.arange(len(given) + 1), np.concatenate([[0.0], np.cumsum(given)]))
    mean: Any = np.diff(so_far) * stages / len(given)
    return mean


def _passes(chosen: PipelineOptions) -> _Passes:
    return _Passes(*_numbers("--times", chosen.times))


def _numbers(option: str, given: str | Sequence[float]) -> tuple[float, float, float, bool]:
    """F, I and W from two figures (the backward halved) or three, and whether there were three."""
    figures = _figures(option, given)
    if len(figures) == 2:
        return figures[0], figures[1] / 2, figures[1] / 2, False
    if len(figures) == 3:
        return figures[0], figures[1], figures[2], True
    raise bad_input(f"found {len(figures)} figures; expected F,B or F,I,W", path=option)


def _figures(option: str, given: str | Sequence[float]) -> list[float]:
    parts = given.split(",") if isinstance(given, str) else list(given)
    figures = []
    for part in parts:
        try:
            figure = float(part)
        except ValueError:
            raise bad_input(
                f"found {str(part).strip()!r}; expected numbers with commas between", path=option
            ) from None
        if not (math.isfinite(figure) and figure > 0):
            raise bad_input(f"found {figure:g}; expected numbers above zero", path=option)
        figures.append(figure)
    return figures


def _memory(chosen: PipelineOptions) -> tuple[float | None, float | None]:
    """Bytes of a unit of activations, and the limit in units."""
    unit = None
    if chosen.activation is not None:
        unit = _bytes("--activation", chosen.activation)
    if chosen.memory is None:
        return unit, None
    if unit is not None:
        limit = _bytes("--memory", chosen.memory) / unit
    else:
        try:
            limit = float(chosen.memory)
        except ValueError:
            raise bad_input(
                f"found {chosen.memory!r}; expected micro-batches, or a size together with --activation",
                path="--memory",
            ) from None  # fmt: skip
    if not (math.isfinite(limit) and limit > 0):
        raise bad_input(f"found {chosen.memory}; expected above zero", path="--memory")
    return unit, limit


def _bytes(option: str, text: str | float) -> float:
    try:
        size = float(text)
    except ValueError:
        try:
            size = parse_quantity(text, "size")
        except UnitError as error:
            raise bad_input(str(error), path=option) from None
    if not (math.isfinite(size) and size > 0):
        raise bad_input(f"found {text}; expected a size above zero", path=option)
    return size
