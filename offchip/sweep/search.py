"""Multi-objective search: Optuna proposes points, the sweep evaluates them, and tells it what came out.

Trials are asked for in batches of a size that the space file sets, and told in order, so that the search takes
the same way whatever evaluates it. A resumed search starts over from its seed and finds what is already in
the store there, so it arrives where it was. Optuna keeps its own record in ``DIR/optuna.journal``.
A point that is not ``ok`` (infeasible, excluded, breaking a constraint) is told as failed: it guides nothing.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw_configs.problems import bad_input
from offchip.sweep.axis import Axis
from offchip.sweep.machine import Value
from offchip.sweep.points import Point
from offchip.sweep.space import Space
from offchip.sweep.store import Row

if TYPE_CHECKING:
    import optuna

__all__ = ["search"]


def search(
    space: Space,
    run_batch: Callable[[int, Iterable[Point], int], None],
    rows_of: Callable[[list[int]], dict[int, Row]],
    folder: Path,
) -> None:
    """Search a space. ``run_batch`` evaluates points into the store, ``rows_of`` reads their rows back."""
    study = _study(space, folder)
    total, number = space.strategy.points or 0, 0
    while number < total:
        many = min(space.strategy.batch, total - number)
        trials = [study.ask() for _ in range(many)]
        points = [
            (number + i, space.applied({axis.name: _value(axis, trial) for axis in space.axes}))
            for i, trial in enumerate(trials)
        ]
        run_batch(0, points, total)
        rows = rows_of([point[0] for point in points])
        for trial, (at, _) in zip(trials, points, strict=True):
            _tell(study, space, trial, rows.get(at))
        number += many


def _study(space: Space, folder: Path) -> optuna.Study:
    try:
        import optuna
    except ImportError:
        raise bad_input(
            "this strategy needs Optuna: pip install 'offchip[sweep]'", file=space.file, path="strategy"
        ) from None
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    record = folder / "optuna.journal"
    for old in (record, record.with_name(record.name + ".lock")):
        with suppress(OSError):
            old.unlink()
    samplers = optuna.samplers
    size = space.strategy.batch
    sampler: Any = {
        "nsga2": lambda: samplers.NSGAIISampler(population_size=max(size, 2), seed=space.seed),
        "nsga3": lambda: samplers.NSGAIIISampler(population_size=max(size, 2), seed=space.seed),
        "tpe": lambda: samplers.TPESampler(seed=space.seed, constant_liar=True),
        "random": lambda: samplers.RandomSampler(seed=space.seed),
    }[space.strategy.sampler]
    with warnings.catch_warnings():
        # Optuna calls the handling of trials that are asked for together experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        made = sampler()
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(record))),
        sampler=made,
        study_name=space.name,
        directions=[objective.direction.replace("imise", "imize") for objective in space.objectives],
    )


def _value(axis: Axis, trial: optuna.Trial) -> Value:
    """Ask for one parameter: a choice, a number in a range, or a quantile of a distribution."""
    if axis.choices:
        if axis.numeric:
            ordered = sorted(axis.choices, key=lambda v: float(v or 0))
            return ordered[trial.suggest_int(axis.name, 0, len(ordered) - 1)]
        return axis.choices[trial.suggest_categorical(axis.name, list(range(len(axis.choices))))]
    if axis.form in ("range", "log"):
        low, high = axis.bounds
        if axis.grid:
            return axis.grid[trial.suggest_int(axis.name, 0, len(axis.grid) - 1)]
        if axis.leaf.whole:
            return trial.suggest_int(axis.name, math.ceil(low), math.floor(high), log=axis.form == "log")
        return trial.suggest_float(axis.name, low, high, log=axis.form == "log")
    return axis.at(trial.suggest_float(axis.name, 0.0, 1.0 - 2**-53))


def _tell(study: optuna.Study, space: Space, trial: optuna.Trial, row: Row | None) -> None:
    from optuna.trial import TrialState

    figures = row.figures if row is not None and row.status == "ok" else {}
    values = [figures.get(objective.name) for objective in space.objectives]
    if any(not isinstance(v, int | float) or not math.isfinite(v) for v in values):
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, [float(v) for v in values if v is not None])
