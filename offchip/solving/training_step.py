"""Training steps that are run: of a plan from a file, as a framework runs them; and as files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from hw_configs.output_file import replacing
from hw_configs.problems import InputError, Problem, bad_input
from hw_configs.shown import Shown, Table
from hw_configs.typed_fields import wrong_types
from hw_configs.whole_number import is_whole
from offchip.keywords import from_keywords
from simulator.cost.model import DEFAULT_COST_MODEL

if TYPE_CHECKING:
    from mapping.training.executed_step import ExecutedStep
    from offchip.solving.offload import OffloadSolution
    from simulator.training.run import StepRun

__all__ = ["TrainingStep", "simulate_framework_step", "simulate_training_plan", "step_trace", "write_step"]

MOST_EVENTS: Final = 200_000
"""Of a trace; of a longer step only the first classes are written."""


@dataclass(frozen=True)
class TrainingStep(Shown):
    """A training plan that has been run."""

    model: str
    system: str
    step: ExecutedStep

    def as_json(self) -> dict[str, Any]:
        """The step as plain data."""
        return {"model": self.model, "system": self.system, **self.step.to_json()}

    def shown_tables(self) -> tuple[Table, ...]:
        """What was run, and the step's tables."""
        head = Table(f"{self.model} on {self.system}: {self.step.setup.words()}", ("",), (("",),))
        notes = Table("Notes", ("",), tuple((f"  {note}",) for note in self.step.notes))
        return (head, *self.step.tables(), *((notes,) if self.step.notes else ()))


def simulate_training_plan(
    model: str | Path, hw: str | Path, plan: str | Path, cost_model: str = DEFAULT_COST_MODEL
) -> TrainingStep:
    """Run a training plan from its file, event by event.

    ``model`` must be the one that the plan is for. Raises ``InputError`` for bad input.
    """
    from hw_configs.library import load_system
    from mapping.training.estimate import Estimator
    from mapping.training.pricing import Prices
    from mapping.training.training_plan import execute, read_training_plan

    read = read_training_plan(plan)
    if Path(str(model)).name != Path(read.setup.model).name:
        message = f"found {str(model)!r}; the plan is for {read.setup.model!r}"
        raise bad_input(message, file=str(plan), path="setup.model")
    read = replace(read, setup=replace(read.setup, model=str(model)))
    system = load_system(hw)
    step = execute(read, Estimator(Prices(system, cost_model)))
    if system.digest != read.system_digest:
        note = f"the plan was made for {read.system}, which is not this machine in every figure"
        step = replace(step, notes=(*step.notes, note))
    return TrainingStep(str(model), system.name, step)


@dataclass(frozen=True, slots=True)
class FrameworkOptions:
    """What is asked of a framework's step.

    ``prompt``: tokens of a sequence. ``batch``: sequences per step over all devices. ``tp``, ``pp``: degrees.
    ``microbatches``: parts that a copy's share of the batch is divided into. ``settings``: those of ``offchip solve
    offload``, which may ask for more (``dp``, ``zero``, ``recompute``); what nothing says is one rank, everything kept.
    """

    prompt: int = 512
    batch: int = 1
    tp: int = 1
    pp: int = 1
    microbatches: int = 1
    dtype: str | None = None
    train: str = "all"
    settings: Mapping[str, object] = field(default_factory=dict)
    cost_model: str = DEFAULT_COST_MODEL
    out: str | Path | None = None

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        if not problems:
            problems = [
                Problem(f"found {value}; expected 1 or more", path=f"--{name}")
                for name in ("prompt", "batch", "tp", "pp", "microbatches")
                if (value := getattr(self, name)) < 1
            ]
        if problems:
            raise InputError(problems)


class FrameworkChoices(TypedDict, total=False):
    """The fields of :class:`FrameworkOptions`, as keywords."""

    prompt: int
    batch: int
    tp: int
    pp: int
    microbatches: int
    dtype: str | None
    train: str
    settings: Mapping[str, object]
    cost_model: str
    out: str | Path | None


def simulate_framework_step(
    model: str | Path, hw: str | Path, framework: str, **options: Unpack[FrameworkChoices]
) -> OffloadSolution:
    """Run one training step of one layout as a framework runs it.

    Options are the fields of :class:`FrameworkOptions`. Raises ``InputError`` for bad input, with the nearest name of
    an unknown framework, and ``InfeasibleError`` where the step does not fit.
    """
    from mapping.training.state_types import framework_types
    from offchip.solving.offload import solve_offload

    try:
        framework_types(framework)
    except InputError as error:
        raise InputError(replace(problem, path="--framework") for problem in error.problems) from None
    chosen = from_keywords(FrameworkOptions, options)
    return solve_offload(
        model, hw, phase="train", seq=chosen.prompt, batch=chosen.batch, dtype=chosen.dtype,
        settings={**_layout(chosen), "framework": framework}, cost_model=chosen.cost_model, simulate=True,
        out=chosen.out,
    )  # fmt: skip


def _layout(chosen: FrameworkOptions) -> dict[str, object]:
    """The settings that leave nothing of a layout open."""
    asked = dict(chosen.settings)
    for name in ("framework", "train", "tp", "pp"):
        if name in asked:
            raise bad_input(f"give {name} as --{name}", path=f"--set {name}")
    given: dict[str, object] = {
        "tp": chosen.tp, "pp": chosen.pp, "ulysses": 1, "cp": 1, "dp": 1, "recompute": "none", **asked,
        "search": "estimated",
    }  # fmt: skip
    degrees = {name: _degree(given[name], name) for name in ("tp", "pp", "ulysses", "cp", "dp")}
    given["devices"] = prod(degrees.values())
    if "alpha" in asked:
        del given["recompute"]
    if "micro_batch" not in asked and "micro-batch" not in asked:
        parts = chosen.microbatches * degrees["dp"]
        if chosen.batch % parts:
            message = f"found a batch of {chosen.batch}, which {parts} equal parts do not make"
            raise bad_input(message, path="--microbatches")
        given["micro_batch"] = chosen.batch // parts
    if chosen.train != "all":
        given["train"] = chosen.train
    return given


def _degree(value: object, name: str) -> int:
    text = str(value)
    if not is_whole(text) or len(text) > 7 or int(text) < 1:
        raise bad_input(f"found {text!r:.40}; expected a whole number of 1 or more", path=f"--set {name}")
    return int(text)


def write_step(step: ExecutedStep, folder: Path) -> list[Path]:
    """Write ``step.json`` and ``step-trace.json.gz``, the timeline for ui.perfetto.dev; the files written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise bad_input(f"cannot write: {error.strerror}", file=str(folder), path="--out") from None
    written = [folder / "step.json", folder / "step-trace.json.gz"]
    with replacing(written[0]) as part:
        part.write_text(json.dumps(step.to_json(), indent=1) + "\n", encoding="utf-8")
    events = b",\n".join(json.dumps(event, separators=(",", ":")).encode() for event in step_trace(step.run))
    content = b'{"displayTimeUnit":"ms","traceEvents":[\n' + events + b"\n]}\n"
    with replacing(written[1]) as part:
        # No time stamp in the archive: the same run gives the same bytes.
        part.write_bytes(gzip.compress(content, compresslevel=6, mtime=0))
    return written


def step_trace(run: StepRun) -> Iterator[dict[str, Any]]:
    """Events of the Trace Event Format: a process per class, a thread per stream, a counter of its bytes."""
    from simulator.training.program import TaskKind

    program = run.program
    task_class, left = program.task_class(), MOST_EVENTS
    for number, name in enumerate(program.class_names):
        own = (task_class == number).nonzero()[0]
        if number and len(own) > left:
            break
        left -= len(own)
        yield {"ph": "M", "name": "process_name", "pid": number + 1, "tid": 0, "args": {"name": name}}
        for stream in dict.fromkeys(program.tasks.stream[own].tolist()):
            title = {"name": program.stream_names[stream]}
            yield {"ph": "M", "name": "thread_name", "pid": number + 1, "tid": stream + 1, "args": title}
        for task in own.tolist():
            micro_batch = int(program.tasks.micro_batch[task])
            begin, end = float(run.start[task]), float(run.end[task])
            yield {
                "ph": "X",
                "name": program.labels[int(program.tasks.label[task])],
                "cat": TaskKind(int(program.tasks.kind[task])).name.lower(),
                "pid": number + 1,
                "tid": int(program.tasks.stream[task]) + 1,
                "ts": begin * 1e6,
                "dur": (end - begin) * 1e6,
                "args": {"micro_batch": micro_batch, "bytes": float(program.tasks.bytes[task])},
            }
        moments, used = run.memory_over_time(number)
        for moment, size in zip(moments.tolist(), used.tolist(), strict=True):
            yield {"ph": "C", "name": "bytes", "pid": number + 1, "ts": moment * 1e6, "args": {"bytes": size}}
