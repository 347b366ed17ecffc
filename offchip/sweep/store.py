"""The store of a sweep: one SQLite file in WAL mode, one row per point and fidelity.

``DIR/sweep.sqlite`` has two tables.

``meta(key TEXT PRIMARY KEY, value TEXT)``: every value is JSON. ``format`` is ``offchip-sweep-1``; ``name``;
``file``, ``path`` and ``text`` of the space's file; ``space`` what is in it, as plain data; ``space_digest``;
``code`` the digest of the code that evaluates; ``parameters`` a list of ``{name, path, dimension, kind}``
(``kind`` is ``number`` or ``choice``; ``dimension`` a key of ``hw_configs.units.DIMENSIONS`` or null); ``objectives``
a list of ``{name, expression, direction}`` (direction is ``minimise`` or ``maximise``); ``stages`` the fidelities in
order; ``expected`` the number of points of the first.

``points``, primary key ``(stage, number)``:

========== ======= ====================================================================================
stage      INTEGER place in ``stages``: 0 is the first fidelity, promoted points have a row per stage
number     INTEGER the point's place in the space; the order of every table
key        TEXT    SHA-256 of everything that decides the outcome: config, options, code, seed
status     TEXT    ``ok``; ``constraint`` (ran, but breaks a constraint); ``infeasible`` (does not fit);
                   ``invalid`` (no such machine, or input that does not fit together); ``excluded`` (a
                   constraint over parameters refuses it before it runs); ``failed``, ``timeout``,
                   ``crashed`` (repeated by ``--resume``)
reason     TEXT    why, when the status is not ``ok``; otherwise empty
parameters TEXT    JSON object: value of every parameter by name, SI units (null where it does not apply)
figures    TEXT    JSON object: figures by name, SI units; the objectives and ``define``d names among them
seconds    REAL    how long the evaluation took; no part of the outcome
attempts   INTEGER how often it was tried; no part of the outcome
========== ======= ====================================================================================

A process that is killed loses the points it had not finished; readers may read while others write.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import OffchipError, bad_input

__all__ = ["FINAL", "FORMAT", "STATUSES", "JsonObject", "Row", "Store", "json_text", "open_store"]

FORMAT: Final = "offchip-sweep-1"
STATUSES: Final = (
    "ok", "constraint", "infeasible", "invalid", "excluded", "failed", "timeout", "crashed",
)  # fmt: skip
FINAL: Final = frozenset({"ok", "constraint", "infeasible", "invalid", "excluded"})
"""Outcomes that another run would only repeat; the others are tried again by ``--resume``."""
FILE: Final = "sweep.sqlite"
WAIT_S: Final = 60.0
"""How long a writer waits for another one's turn."""

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS points (
    stage INTEGER NOT NULL, number INTEGER NOT NULL, key TEXT NOT NULL, status TEXT NOT NULL,
    reason TEXT NOT NULL, parameters TEXT NOT NULL, figures TEXT NOT NULL, seconds REAL NOT NULL,
    attempts INTEGER NOT NULL, PRIMARY KEY (stage, number)
) WITHOUT ROWID;
"""
_COLUMNS: Final = "number, key, status, reason, parameters, figures, seconds, attempts, stage"


class JsonObject(Mapping[str, Any]):
    """A JSON object that is decoded when somebody looks: most rows only pass through."""

    __slots__ = ("_data", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._data: dict[str, Any] | None = None

    def _decoded(self) -> dict[str, Any]:
        if self._data is None:
            self._data = json.loads(self.text)
        return self._data

    def __getitem__(self, key: str) -> Any:
        return self._decoded()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoded())

    def __len__(self) -> int:
        return len(self._decoded())


@dataclass(frozen=True, slots=True)
class Row:
    """The outcome of one point at one stage; see the module's first lines."""

    number: int
    key: str
    status: str
    reason: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    attempts: int = 1
    stage: int = 0

    def outcome(self) -> tuple[Any, ...]:
        """Everything that has to be the same whatever ran the sweep."""
        return (
            self.stage, self.number, self.key, self.status, self.reason,
            dict(self.parameters), dict(self.figures),
        )  # fmt: skip


class Store:
    """One sweep's file. Every write is one transaction; a full disk ends the sweep with one clear line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.executescript(_TABLES)
        except sqlite3.Error as error:
            self._connection.close()
            raise _store_error(path, error) from None

    def close(self) -> None:
        """Close the file; the write-ahead log is folded in by the last one to leave."""
        self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def meta(self) -> dict[str, Any]:
        """The ``meta`` table as plain values."""
        return {key: json.loads(value) for key, value in self._read("SELECT key, value FROM meta")}

    def write_meta(self, values: Mapping[str, Any]) -> None:
        """Set entries of the ``meta`` table."""
        entries = [(key, json_text(value)) for key, value in values.items()]
        self._write("INSERT OR REPLACE INTO meta VALUES (?, ?)", entries)

    def write(self, rows: Iterable[Row]) -> None:
        """Add or replace rows, all or none. A final outcome is never replaced by one that failed."""
        entries = [
            (r.stage, r.number, r.key, r.status, r.reason, json_text(r.parameters), json_text(r.figures), r.seconds,
             r.attempts)
            for r in rows
        ]  # fmt: skip
        keep = ", ".join(f"'{status}'" for status in sorted(FINAL))
        self._write(
            "INSERT INTO points VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (stage, number) DO UPDATE SET "
            "key=excluded.key, status=excluded.status, reason=excluded.reason, "
            "parameters=excluded.parameters, figures=excluded.figures, seconds=excluded.seconds, "
            "attempts=excluded.attempts "
            f"WHERE points.key != excluded.key OR points.status NOT IN ({keep})",
            entries,
        )

    def rows(self, stage: int | None = None, status: str | None = None) -> Iterator[Row]:
        """Rows in the order of stage and number."""
        clauses, values = [], list[Any]()
        for name, value in (("stage", stage), ("status", status)):
            if value is not None:
                clauses.append(f"{name} = ?")
                values.append(value)
        where = f"WHERE {' AND '.join(clauses)} " if clauses else ""
        query = f"SELECT {_COLUMNS} FROM points {where}ORDER BY stage, number"
        for entry in self._read(query, values):
            yield _row(entry)

    def rows_at(self, numbers: list[int], stage: int = 0) -> dict[int, Row]:
        """The rows of these points, by number, as far as there are any."""
        low, high = min(numbers), max(numbers)
        wanted = set(numbers)
        query = f"SELECT {_COLUMNS} FROM points WHERE stage = ? AND number BETWEEN ? AND ?"
        rows = (_row(entry) for entry in self._read(query, [stage, low, high]))
        return {row.number: row for row in rows if row.number in wanted}

    def outcomes(self, stage: int = 0) -> dict[int, tuple[str, str]]:
        """Key and status of every point that has a row at a stage."""
        query = "SELECT number, key, status FROM points WHERE stage = ?"
        return {number: (key, status) for number, key, status in self._read(query, [stage])}

    def counts(self) -> dict[tuple[int, str], int]:
        """Number of rows by stage and status."""
        query = "SELECT stage, status, count(*) FROM points GROUP BY stage, status ORDER BY stage, status"
        return {(stage, status): count for stage, status, count in self._read(query)}

    def drop_stage(self, stage: int) -> None:
        """Forget the rows of a stage and those after it, whose choice of points depended on it."""
        self._write("DELETE FROM points WHERE stage >= ?", [(stage,)])

    def _read(self, query: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(query, list(values)).fetchall()
        except sqlite3.Error as error:
            raise _store_error(self.path, error) from None

    def _write(self, statement: str, entries: list[tuple[Any, ...]]) -> None:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(statement, entries)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise _store_error(self.path, error) from None


def open_store(folder: str | Path, *, create: bool = False) -> Store:
    """The store of a sweep's folder; ``InputError`` when there is none, or the file is something else."""
    path = Path(folder) / FILE
    if create:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise bad_input(f"cannot be made: {error.strerror}", file=str(folder)) from None
    elif not path.is_file():
        raise bad_input("holds no sweep; 'offchip sweep SPACE.yaml --out DIR' makes one", file=str(folder))
    store = Store(path)
    found = store.meta().get("format", FORMAT)
    if found != FORMAT:
        store.close()
        raise bad_input(f"found {found!r}; expected a sweep of format {FORMAT!r}", file=str(path))
    return store


def _row(entry: tuple[Any, ...]) -> Row:
    number, key, status, reason, parameters, figures, seconds, attempts, stage = entry
    return Row(
        number, key, status, reason, JsonObject(parameters), JsonObject(figures), seconds, attempts, stage
    )


def json_text(value: Any) -> str:
    """A value as compact JSON."""
    return value.text if isinstance(value, JsonObject) else json.dumps(value, separators=(",", ":"))


def _store_error(path: Path, error: sqlite3.Error) -> OffchipError:
    text = str(error)
    if isinstance(error, sqlite3.DatabaseError) and "not a database" in text:
        return bad_input("is not a sweep: the file is no SQLite database", file=str(path))
    return OffchipError(f"{path}: {text}; every point written before is kept, '--resume' goes on from there")
