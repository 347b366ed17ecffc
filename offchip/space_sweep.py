"""A design space run into a folder, and how far it is: points by outcome, best so far, the Pareto front's size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw_configs.problems import bad_input
from hw_configs.shown import Shown, Table

if TYPE_CHECKING:
    from offchip.sweep.analysis import Sweep
    from offchip.sweep.run import Executor, Shard
    from offchip.sweep.space import Space
    from offchip.sweep.store import Row, Store

__all__ = ["SweepStatus", "checked_space", "shard_of", "status_of", "sweep"]


@dataclass(frozen=True)
class SweepStatus(Shown):
    """How far a sweep is. ``stages`` counts points by outcome for each fidelity; ``best`` has a point per objective."""

    name: str
    expected: int
    done: int
    stages: tuple[Mapping[str, Any], ...]
    best: tuple[Mapping[str, Any], ...]
    front: int
    reasons: Mapping[str, int]
    """Why points were refused or failed, and how many."""
    folder: Path

    def points(self) -> Sweep:
        """The rows themselves: ``points().front()``, ``points().ranked(figure, 10)``."""
        from offchip.sweep.analysis import Sweep
        from offchip.sweep.store import open_store

        with open_store(self.folder) as store:
            return Sweep.read(store)

    def as_json(self) -> dict[str, Any]:
        """The status as plain data."""
        found = asdict(self)
        del found["folder"]
        return found | {"stages": list(self.stages), "best": list(self.best)}

    def shown_tables(self) -> tuple[Table, ...]:
        """Points by outcome, the best of each objective, and why points were refused."""
        counts = tuple(
            (stage["fidelity"], name, str(count))
            for stage in self.stages
            for name, count in stage["points"].items()
        )
        title = f"{self.name}: {self.done} of {self.expected} points"
        tables = [Table(title, ("fidelity", "outcome", "points"), counts)]
        if self.best:
            winners = tuple(
                (b["objective"], b["direction"], f"{b['value']:.6g}", str(b["number"])) for b in self.best
            )
            tables.append(
                Table(
                    f"\nBest; Pareto front: {self.front} points", ("objective", "", "value", "point"), winners
                )
            )
        if self.reasons:
            why = tuple((str(count), reason) for reason, count in self.reasons.items())
            tables.append(Table("\nRefused or failed", ("points", "why"), why))
        return tuple(tables)


def sweep(
    space: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    jobs: int = 1,
    cluster: str | None = None,
    shard: str | None = None,
    notice: Callable[[int, int, int, list[Row]], None] | None = None,
) -> SweepStatus:
    """Run a design space into a folder.

    ``space`` is a YAML file. ``resume`` skips what is done and repeats what failed. ``jobs`` worker processes, or a
    Dask ``cluster`` by its scheduler's address ('local' for one here). ``shard`` K/N takes every N-th point. ``notice``
    is told of rows as they come. Raises ``InputError`` for a bad space or option.
    """
    from offchip.sweep.run import run_sweep

    checked = checked_space(space, jobs, shard)
    run_sweep(
        checked, Path(out), lambda cache: _executor(checked, jobs, cluster, cache), resume=resume,
        shard=shard_of(shard), notice=notice,
    )  # fmt: skip
    return status_of(out)


def checked_space(space: str | Path, jobs: int, shard: str | None) -> Space:
    """The space of a file, with the options of its run held against it."""
    from offchip.sweep.space_file import load_space

    found = load_space(Path(space))
    if jobs < 1:
        raise bad_input(f"found {jobs}; expected 1 or more", path="--jobs")
    if shard_of(shard) is not None and found.strategy.kind == "optuna":
        raise bad_input("a search decides its points as it goes; it cannot be cut into parts", path="--shard")
    return found


def status_of(folder: str | Path) -> SweepStatus:
    """How far the sweep in a folder is."""
    from offchip.sweep.store import open_store

    with open_store(Path(folder)) as store:
        return _status(store, Path(folder))


def _status(store: Store, folder: Path) -> SweepStatus:
    from offchip.sweep.analysis import Sweep

    sweep = Sweep.read(store)
    counts = store.counts()
    stages = [
        {"fidelity": name, "points": {status: n for (at, status), n in counts.items() if at == stage}}
        for stage, name in enumerate(sweep.meta["stages"])
    ]
    return SweepStatus(
        sweep.meta["name"],
        sweep.meta["expected"],
        sum(n for (stage, _), n in counts.items() if stage == 0),
        tuple(stages),
        tuple(sweep.best()),
        len(sweep.front()),
        sweep.reasons(),
        folder,
    )


def shard_of(text: str | None) -> Shard | None:
    """The part of a sweep that K/N names; None for the whole."""
    from hw_configs.whole_number import is_whole
    from offchip.sweep.run import Shard

    if text is None:
        return None
    first, _, second = text.partition("/")
    if not (is_whole(first) and is_whole(second) and 1 <= int(first) <= int(second)):
        raise bad_input(f"found {text!r}; expected K/N with K from 1 to N, such as 2/8", path="--shard")
    return Shard(int(first), int(second))


def _executor(space: Space, jobs: int, cluster: str | None, cache: Path) -> Executor:
    if cluster is not None:
        from offchip.sweep.cluster import DaskCluster

        return DaskCluster(space, cluster, jobs, cache)
    if jobs == 1:
        from offchip.sweep.run import serial

        return serial(space, cache)
    from offchip.sweep.pool import Pool

    return Pool(space, jobs, cache)
