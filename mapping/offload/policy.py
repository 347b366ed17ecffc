"""What is asked of a mapper that decides for a model what lives where and moves when, and its answer.

A request names model, phase, sizes, system and settings. An answer is a report and, where the simulator can execute
the decision, a graph and a plan. ``offchip solve offload`` finds those who answer in the registry of mappers
(:data:`mapping.mapper.MAPPERS`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hw_configs.problems import InputError, Problem
from hw_configs.settings import Model, NoSettings, Settings
from hw_configs.shown import Table
from hw_configs.system import System
from mapping.mapper import OffloadSolver, settings_as
from simulator.cost.model import DEFAULT_COST_MODEL
from simulator.plan import Plan
from workloads.graph import Graph

if TYPE_CHECKING:
    from mapping.training.training_plan import TrainingPlan

__all__ = ["OffloadAnswer", "OffloadRequest", "Table", "check_request"]

MOST_TOKENS: Final = 2**40
"""Of a training step over all devices; what one device computes at once has the bounds of the model's builder."""


@dataclass(frozen=True, slots=True)
class OffloadRequest:
    """What a user asks. ``sequence`` is the tokens of a sequence (training) or of the prompt (inference).

    ``batch`` counts sequences: of a whole step over all devices in training, at once in inference.
    ``settings`` are of the class that the mapper declares.
    """

    model: str
    system: System
    phase: str = "train"
    sequence: int = 2048
    batch: int = 1
    generate: int = 0
    dtype: str | None = None
    cost_model: str = DEFAULT_COST_MODEL
    seed: int = 0
    settings: Settings = field(default_factory=NoSettings)

    def of(self, cls: type[Model]) -> Model:
        """The settings as the class a mapper declares; its defaults where none are given."""
        return settings_as(self.settings, cls)


@dataclass(frozen=True, slots=True)
class OffloadAnswer:
    """A decision. ``why`` says in sentences what decided; ``report`` is plain data for ``--json`` (SI units in
    names). ``plan`` runs on ``graph`` by :func:`simulator.simulate.simulate`, ``training`` by
    :func:`mapping.training.training_plan.execute`; None where a policy only estimates, which ``why`` must then say.
    """

    policy: str
    report: Mapping[str, Any]
    why: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    graph: Graph | None = None
    plan: Plan | None = None
    training: TrainingPlan | None = None


def check_request(name: str, policy: OffloadSolver, request: OffloadRequest) -> None:
    """Raise ``InputError`` for a phase that the mapper does not serve, and for sizes below one."""
    problems: list[Problem] = []
    if request.phase not in policy.PHASES:
        served = ", ".join(policy.PHASES)
        problems.append(Problem(f"mapper {name!r} serves {served}; found {request.phase!r}", path="--phase"))
    for flag, value, least in (
        ("--seq", request.sequence, 1),
        ("--batch", request.batch, 1),
        ("--generate", request.generate, 0),
    ):
        if value < least:
            problems.append(Problem(f"found {value}; expected {least} or more", path=flag))
    if request.sequence * request.batch > MOST_TOKENS:
        found = f"found {request.batch} sequences of {request.sequence} tokens"
        problems.append(Problem(f"{found}; expected at most {MOST_TOKENS} tokens in all", path="--batch"))
    if request.generate and request.phase != "decode":
        problems.append(Problem(f"found {request.generate}; only decode generates tokens", path="--generate"))
    if problems:
        raise InputError(problems)
