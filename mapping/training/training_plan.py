"""A training plan: the setup, every rank's order of passes, the layers of each stage; and its execution.

The file (format ``offchip-training-plan-1``) says all that decides the step, so that it gives the same figure again on
the same machine. It is read as untrusted input: every problem of its form comes with its line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from hw_configs.output_file import replacing
from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.typed_fields import wrong_types
from hw_configs.whole_number import is_whole
from mapping.training.estimate import Estimator
from mapping.training.executed_step import ExecutedStep, executed
from mapping.training.overlap import reduced_width, speed_beside
from mapping.training.rank_step import RankStep
from mapping.training.sample_loading import SampleLoading
from mapping.training.schedules.action import Action, PipelineSchedule
from mapping.training.schedules.check import violations
from mapping.training.setup import TrainingSetup
from mapping.training.sharding import Sharding
from mapping.training.state_types import StateTypes
from mapping.training.step_program import schedule_of, stages_of, write_step
from simulator.training.run import StepRun, run_program
from workloads.json_file import JsonDocument, read_json
from workloads.trained_file import parts_from_data

__all__ = [
    "FORMAT",
    "TrainingPlan",
    "execute",
    "is_training_plan",
    "plan_of",
    "read_training_plan",
    "write_training_plan",
]

FORMAT: Final = "offchip-training-plan-1"
MAX_FILE_BYTES: Final = 512 * 2**20
_TABLES: Final[Mapping[str, type[Any]]] = {"sharding": Sharding, "loading": SampleLoading}
"""Keys of a setup that hold tables, and what they become."""
_ACTION: Final = re.compile(r"(\d{1,7})([FBIWST])(\d{1,8})")
_KEYS: Final = ("format", "system", "system_digest", "setup", "stage_layers", "schedule")
_SCHEDULE_KEYS: Final = (
    "name", "micro_batches", "rank_of_stage", "replicas", "vocabulary_barriers", "orders",
)  # fmt: skip


@dataclass(frozen=True)
class TrainingPlan:
    """What is run. ``stage_layers`` repeats what the setup says or implies; ``system``: what it was made for."""

    setup: TrainingSetup
    schedule: PipelineSchedule
    stage_layers: tuple[int, ...]
    system: str
    system_digest: str

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        schedule = self.schedule
        return {
            "format": FORMAT,
            "system": self.system,
            "system_digest": self.system_digest,
            "setup": self.setup.to_json(),
            "stage_layers": list(self.stage_layers),
            "schedule": {
                "name": schedule.name,
                "micro_batches": schedule.micro_batches,
                "rank_of_stage": list(schedule.rank_of_stage),
                "replicas": schedule.replicas,
                "vocabulary_barriers": schedule.vocabulary_barriers,
                "orders": [
                    " ".join("+".join(map(str, group)) for group in schedule.groups(rank))
                    for rank in range(schedule.ranks)
                ],
            },
        }


def plan_of(step: RankStep, estimator: Estimator) -> TrainingPlan:
    """The plan of a rank's step on the estimator's system."""
    schedule = schedule_of(step.setup)
    system = estimator.prices.system
    return TrainingPlan(step.setup, schedule, stages_of(step, schedule), system.name, system.digest)


def execute(plan: TrainingPlan, estimator: Estimator, *, folded: bool = True) -> ExecutedStep:
    """Run a plan event by event on the estimator's system.

    Raises ``InputError`` for a plan that does not fit its model or the system.
    """
    setup = plan.setup
    if setup.stage_layers is None and plan.stage_layers and min(plan.stage_layers) > 0:
        setup = replace(setup, stage_layers=plan.stage_layers)
    step = estimator.rank_step(setup, bounded=False)
    step = replace(step, setup=setup)
    prices = estimator.prices

    def run(*, saves: bool) -> StepRun:
        written = write_step(
            step, prices, plan.schedule, folded=folded, speed_beside=speed_beside(setup),
            gradient_scale=reduced_width(setup), saves=saves,
        )  # fmt: skip
        return run_program(written)

    peak = setup.devices * prices.peak(setup.dtype)
    usable = prices.memory.usable_bytes
    saving = run(saves=True)
    if setup.checkpoint_every == 1:
        return executed(plan.setup, saving, estimator.model_flops(setup), peak, usable)
    # Of steps that mostly take no checkpoint, one of these is shown.
    found = executed(plan.setup, run(saves=False), estimator.model_flops(setup), peak, usable)
    return replace(found, saving_s=saving.makespan_s)


def write_training_plan(plan: TrainingPlan, path: str | Path) -> None:
    """Write a plan as JSON, through a temporary name; ``InputError`` when it cannot be written."""
    with replacing(path) as part:
        part.write_text(json.dumps(plan.to_json(), indent=1) + "\n", encoding="utf-8")


def is_training_plan(path: str | Path) -> bool:
    """Whether a file says that it holds a training plan; False for what cannot be read, which its reader reports."""
    try:
        with Path(path).open("rb") as file:
            return f'"{FORMAT}"'.encode() in file.read(4096)
    except OSError:
        return False


def read_training_plan(path: str | Path) -> TrainingPlan:
    """The plan in a JSON file; ``InputError`` with every problem of its form, and the line of each."""
    document = read_json(path, MAX_FILE_BYTES)
    try:
        return _Reader(document).plan()
    except InputError as error:
        raise InputError(_located(problem, document) for problem in error.problems) from None


def _located(problem: Problem, document: JsonDocument) -> Problem:
    path = tuple(int(part) if is_whole(part) else part for part in (problem.path or "").split(".") if part)
    return problem if problem.file else replace(problem, file=document.file, line=document.line_of(path))


class _Reader:
    def __init__(self, document: JsonDocument) -> None:
        self.data: Mapping[str, Any] = document.data if isinstance(document.data, dict) else {}

    def plan(self) -> TrainingPlan:
        if self.data.get("format") != FORMAT:
            raise bad_input(f"found {self.data.get('format')!r:.80}; expected {FORMAT!r}", path="format")
        problems = [*_unknown(self.data, _KEYS, "")]
        layers = self.data.get("stage_layers")
        if not _whole_numbers(layers):
            problems.append(
                Problem(f"found {layers!r:.80}; expected a list of whole numbers", path="stage_layers")
            )
        for key in ("system", "system_digest"):
            if not isinstance(self.data.get(key), str):
                problems.append(Problem(f"found {self.data.get(key)!r:.80}; expected text", path=key))
        if problems:
            raise InputError(problems)
        setup, schedule = self._setup(), self._schedule()
        if schedule.ranks != setup.pipeline or schedule.micro_batches != setup.micro_batches:
            found = f"{schedule.ranks} ranks and {schedule.micro_batches} micro-batches"
            wanted = f"{setup.pipeline} and {setup.micro_batches}"
            raise bad_input(f"found {found}; the setup has {wanted}", path="schedule")
        return TrainingPlan(
            setup, schedule, tuple(self.data["stage_layers"]), self.data["system"], self.data["system_digest"]
        )

    def _setup(self) -> TrainingSetup:
        data = self.data.get("setup")
        if not isinstance(data, dict):
            raise bad_input(f"found {data!r:.80}; expected the setup's fields", path="setup")
        problems = [*_unknown(data, [field.name for field in fields(TrainingSetup)], "setup.")]
        for key in ("model", "sequence"):
            if key not in data:
                problems.append(Problem(f"missing key {key!r}", path="setup"))
        values = dict(data)
        tables: dict[str, dict[str, Any]] = {}
        for key, cls in _TABLES.items():
            table = values.get(key, {})
            if not isinstance(table, dict):
                problems.append(Problem(f"found {table!r:.80}; expected a table", path=f"setup.{key}"))
                table = {}
            problems += _unknown(table, [field.name for field in fields(cls)], f"setup.{key}.")
            problems += _badly_typed(cls, table, f"setup.{key}.")
            tables[key] = table
        nested = ("types", "parts", *_TABLES)
        plain = {key: value for key, value in values.items() if key not in nested}
        problems += _badly_typed(TrainingSetup, plain, "setup.")
        layout, layers = values.get("layout"), values.get("stage_layers")
        if layout is not None and not (
            isinstance(layout, list) and all(isinstance(name, str) for name in layout)
        ):
            problems.append(Problem(f"found {layout!r:.80}; expected a list of degrees", path="setup.layout"))
        if layers is not None and not _whole_numbers(layers):
            problems.append(
                Problem(f"found {layers!r:.80}; expected whole numbers", path="setup.stage_layers")
            )
        if problems:
            raise InputError(problems)
        for key, cls in _TABLES.items():
            try:
                values[key] = cls(**tables[key])
            except InputError as error:
                raise InputError(replace(p, path=f"setup.{key}.{p.path}") for p in error.problems) from None
        if values.get("types") is not None:
            values["types"] = StateTypes.from_json(values["types"])
        if values.get("parts") is not None:
            values["parts"] = parts_from_data(values["parts"], "", str(values.get("trainable", "all")))
        if layout is not None:
            values["layout"] = tuple(layout)
        if layers is not None:
            values["stage_layers"] = tuple(layers)
        try:
            return TrainingSetup(**values)
        except InputError as error:
            raise InputError(replace(p, path=f"setup.{p.path}") for p in error.problems) from None

    def _schedule(self) -> PipelineSchedule:
        data = self.data.get("schedule")
        if not isinstance(data, dict):
            raise bad_input(f"found {data!r:.80}; expected a schedule", path="schedule")
        problems = [*_unknown(data, _SCHEDULE_KEYS, "schedule.")]
        if not isinstance(data.get("name"), str):
            problems.append(Problem(f"found {data.get('name')!r:.80}; expected text", path="schedule.name"))
        for key in ("micro_batches", "replicas", "vocabulary_barriers"):
            if not _whole_numbers([data.get(key)]):
                problems.append(
                    Problem(f"found {data.get(key)!r:.80}; expected a whole number", path=f"schedule.{key}")
                )
        if not _whole_numbers(data.get("rank_of_stage")):
            problems.append(Problem("expected a list of ranks", path="schedule.rank_of_stage"))
        orders = data.get("orders")
        if not isinstance(orders, list) or not all(isinstance(order, str) for order in orders):
            problems.append(Problem("expected a list of texts such as '0F0 0B0'", path="schedule.orders"))
            raise InputError(problems)
        read = [
            tuple(_actions(order, f"schedule.orders.{rank}", problems)) for rank, order in enumerate(orders)
        ]
        joined = [_joined(order, f"schedule.orders.{rank}", problems) for rank, order in enumerate(orders)]
        if problems:
            raise InputError(problems)
        schedule = PipelineSchedule(
            data["name"], data["micro_batches"], tuple(data["rank_of_stage"]), tuple(read), data["replicas"],
            data["vocabulary_barriers"], tuple(joined) if any(joined) else (),
        )  # fmt: skip
        wrong = violations(schedule)
        if wrong:
            raise InputError([Problem(text, path="schedule.orders") for text in wrong])
        return schedule


def _actions(order: str, path: str, problems: list[Problem]) -> Iterator[Action]:
    for word in order.replace("+", " ").split():
        found = _ACTION.fullmatch(word)
        if found is None:
            problems.append(
                Problem(f"found {word!r:.40}; expected stage, F, B, I, W, S or T, and micro-batch", path=path)
            )
            return
        yield Action(int(found[1]), found[2], int(found[3]))  # type: ignore[arg-type]


def _joined(order: str, path: str, problems: list[Problem]) -> frozenset[int]:
    """Places of actions that overlap with the one behind them, as ``0F3+7B0`` has them."""
    found, place = set(), 0
    for word in order.split():
        parts = word.split("+")
        if len(parts) > 1:
            kinds = "".join(part.lstrip("0123456789")[:1] for part in parts)
            if kinds != "FB":
                problems.append(
                    Problem(
                        f"found {word!r:.40}; expected a forward and a whole backward pass, as 0F3+7B0",
                        path=path,
                    )
                )
                break
            found.add(place)
        place += len(parts)
    return frozenset(found)


def _unknown(data: Mapping[str, Any], known: Any, prefix: str) -> Iterator[Problem]:
    for key in data:
        if key not in known:
            yield Problem(
                f"unknown key {key!r:.80}", path=prefix + str(key), suggestion=nearest(str(key), known)
            )


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**31 for item in value
    )


def _badly_typed(cls: type, values: Mapping[str, Any], prefix: str) -> Iterator[Problem]:
    """Problems of values whose types are not those of the fields."""
    given: Any = object.__new__(cls)
    for field in fields(cls):
        object.__setattr__(given, field.name, values.get(field.name, field.default))
    for problem in wrong_types(given):
        name = (problem.path or "").removeprefix("--").replace("-", "_")
        if name in values:
            yield replace(problem, path=prefix + name)
