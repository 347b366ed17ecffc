"""Validation kind ``serving``: measured closed-loop runs of engines (``serving.csv``), row by row.

Each row is played as a closed loop: on one replica with steps of decode taken together
(:mod:`.serving_loop`), or, where prefill and decode have workers of their own, by the loop of a service
(:mod:`.serving_service`). Lengths: where all rows of a chip, model and engine version have the three pairs that
InferenceMAX uses (1024/1024, 1024/8192, 8192/1024), they are drawn from 0.8 to 1.0 of the nominal; else they are exact.
A row is ok with TPOT within 15 % and TTFT within 25 %; its error is TPOT's. Rows of ``exclude.csv`` are run too and
counted apart (group ``rows``: clean, doubtful). ``peer.csv``, where it stands beside, gives the group ``peer``:
whether ours or the peer's TPOT is nearer.
"""

from __future__ import annotations

import csv
import fnmatch
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from hw_configs.device import Gpu
from hw_configs.problems import InputError, OffchipError, Problem, bad_input
from hw_configs.system import System
from offchip.validation.registry import Options, RowResult, find_file
from offchip.validation.served_models import (
    engine_version,
    layout_of,
    machine,
    served_model,
    settings_of,
    system_of,
)
from offchip.validation.serving_loop import HOST, Loop, Means, run_loop
from offchip.validation.serving_service import Pool, closed_loop, lengths_of, means_of
from simulator.serving.capacity import Capacity, capacity_of
from simulator.serving.engine_constants import EngineConstants, constants_of
from simulator.serving.exchange_time import gpus_of
from simulator.serving.pricing import Pricer, make_pricer

__all__ = ["OK_TPOT", "OK_TTFT", "Prepared", "host_array", "prepare", "read_rows", "run"]

OK_TPOT: Final = 0.15
OK_TTFT: Final = 0.25
DRAWN: Final = frozenset({(1024, 1024), (1024, 8192), (8192, 1024)})
"""Pairs of prompt and output tokens that InferenceMAX runs."""
SPREAD: Final = 0.2
COLUMNS: Final = ("id", "gpu", "model", "precision", "backend", "mode", "isl", "osl", "ttft_ms", "tpot_ms")
Row = Mapping[str, str]
Known = dict[object, tuple[Pricer, Capacity]]
"""Tables and cache by all that they follow from."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A row with all that its prediction needs but the engine's constants."""

    row: Row
    clients: int
    prompt: int
    output: int
    spread: float
    gpu: str
    pools: tuple[Pool, ...]

    def predict(self, engine: EngineConstants) -> Means:
        """Means of the row's run with an engine's constants."""
        pool = self.pools[0]
        if len(self.pools) == 1:
            tokens = float(pool.space.blocks) * pool.space.block_tokens
            loop = Loop(self.clients, engine.token_budget, pool.settings.max_num_seqs, tokens, engine.mixed)
            lengths = lengths_of(self.clients, self.prompt, self.output, self.spread)
            return run_loop(pool.pricer.tables, loop, host_array(engine), lengths)
        return self.serve(engine)

    def serve(self, engine: EngineConstants) -> Means:
        """The same by the loop of a service, every step by itself."""
        requests = closed_loop(self.clients, self.prompt, self.output, self.spread)
        return means_of(self.pools, self.gpu, engine, requests)


def host_array(engine: EngineConstants) -> npt.NDArray[np.float64]:
    """An engine's constants in the order of :data:`.serving_loop.HOST`."""
    return np.array([float(getattr(engine, name)) for name in HOST])


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a ``serving.csv``; ``InputError`` for missing columns and cells that are no numbers."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = set(COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise InputError([Problem("missing column", str(path), 1, name) for name in sorted(missing)])
        rows = [{key: (text or "").strip() for key, text in cells.items() if key} for cells in reader]
    for line, row in enumerate(rows, 2):
        for name in ("isl", "osl", "ttft_ms", "tpot_ms"):
            _number(row, name, str(path), line)
    return rows


def _number(row: Row, name: str, file: str, line: int) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = -1.0
    if not 0.0 < value < float("inf"):
        raise bad_input(f"found {row[name]!r}; expected a number above zero", file=file, line=line, path=name)
    return value


def drawn_groups(rows: list[dict[str, str]]) -> set[tuple[str, ...]]:
    """Chip, model and engine version of which every row has one of InferenceMAX's pairs of lengths."""
    pairs: dict[tuple[str, ...], set[tuple[int, int]]] = {}
    for row in rows:
        pairs.setdefault(_group(row), set()).add((int(float(row["isl"])), int(float(row["osl"]))))
    return {group for group, found in pairs.items() if found <= DRAWN}


def _group(row: Row) -> tuple[str, ...]:
    return row["gpu"], row["model"], row["backend"], row.get("backend_version", "")


def prepare(row: Row, drawn: bool, known: Known) -> Prepared:
    """Model, machine and layout of a row; ``known`` keeps tables between rows. ``OffchipError`` in words."""
    clients = int(float(row.get("concurrency") or 0))
    prompt, output = int(float(row["isl"])), int(float(row["osl"]))
    spread, gpu = SPREAD if drawn else 0.0, gpus_of(machine(system_of(row["gpu"])))[0].device.name
    if row["mode"] == "agg":
        clients = clients or int(float(row.get("batch_size") or 0)) * max(
            1, int(float(row.get("attention_dp_size") or 1))
        )
        if clients < 1:
            raise bad_input("the row states neither concurrency nor batch size")
        return Prepared(row, clients, prompt, output, spread, gpu, (_pool(row, "both", 1, known),))
    sides = []
    for role in ("prefill", "decode"):
        workers = int(float(row.get(f"{role}_num_workers") or 0))
        if workers < 1:
            raise bad_input(f"the row does not state {role}_num_workers")
        sides.append(_pool(row, role, workers, known))
    if clients < 1:
        batch = int(float(row.get("decode_batch_size") or 0))
        clients = batch * sides[1].count
    if clients < 1:
        raise bad_input("the row states neither concurrency nor the decode side's batch size")
    return Prepared(row, clients, prompt, output, spread, gpu, tuple(sides))


def _pool(row: Row, role: Literal["both", "prefill", "decode"], workers: int, known: Known) -> Pool:
    layout = layout_of(row, "" if role == "both" else f"{role}_")
    settings = settings_of(row["backend"], row.get("backend_version", ""), layout)
    key = (row["gpu"], row["model"], row["precision"], settings, layout)
    system = machine(system_of(row["gpu"]))
    model = served_model(row["model"], row["precision"], _computes_mxfp(system))
    if key not in known:
        space = capacity_of(model, system, layout, settings)
        known[key] = make_pricer(model, system, layout, settings), space
    pricer, capacity = known[key]
    layers = max(len(model.decoder.layers) // layout.pp, 1)
    return Pool(role, workers, layout, settings, capacity.space, pricer, layers)


def _computes_mxfp(system: System) -> bool:
    """Whether a machine's GPUs have products of microscaling types."""
    return any(
        "mxfp4" in node.device.compute.matrix
        for node in system.of_kind("gpu")
        if isinstance(node.device, Gpu)
    )


def run(folder: Path, rows: str, options: Options) -> Iterator[RowResult]:
    """Rows whose id matches the glob, in the file's order."""
    del options
    path = find_file(folder, "serving.csv")
    listed = read_rows(path)
    doubtful = set(_column(path.with_name("exclude.csv"), "rule"))
    peer = _column(path.with_name("peer.csv"), "pred_tpot_ms")
    drawn, known = drawn_groups(listed), Known()
    for row in listed:
        if not fnmatch.fnmatchcase(row["id"], rows):
            continue
        expected = {name: float(row[name]) for name in ("ttft_ms", "tpot_ms")}
        groups = {
            "gpu": row["gpu"], "backend": row["backend"], "mode": row["mode"],
            "precision": row["precision"] or "bf16", "model": row["model"].rpartition("/")[2],
            "rows": "doubtful" if row["id"] in doubtful else "clean",
        }  # fmt: skip
        start = time.perf_counter()
        try:
            engine = constants_of(
                row["backend"], engine_version(row["backend"], row.get("backend_version", ""))
            )
            means = prepare(row, _group(row) in drawn, known).predict(engine)
        except OffchipError as error:
            note = str(error).partition("\n")[0]
            yield RowResult(row["id"], expected, {}, 0.0, "unsupported", None, note, groups)
            continue
        yield _judged(row, expected, means, time.perf_counter() - start, groups, peer.get(row["id"], ""))


def _judged(
    row: Row, expected: dict[str, float], means: Means, seconds: float, groups: dict[str, str], peer: str
) -> RowResult:
    ours = {"ttft_ms": means.ttft_ms, "tpot_ms": means.tpot_ms}
    tpot, ttft = (ours[name] / expected[name] - 1 for name in ("tpot_ms", "ttft_ms"))
    note = f"TTFT {100 * ttft:+.0f} %"
    if peer:
        other = float(peer) / expected["tpot_ms"] - 1
        groups = {**groups, "nearer": "ours" if abs(tpot) <= abs(other) else "peer"}
        note += f"; the peer's TPOT {100 * other:+.0f} %"
    figures = {"tpot": tpot, "ttft": ttft}
    if peer:
        figures |= {"tpot where the peer answers": tpot, "tpot of the peer": other}
    ok = abs(tpot) <= OK_TPOT and abs(ttft) <= OK_TTFT
    return RowResult(row["id"], expected, ours, seconds, "ok" if ok else "off", tpot, note, groups, figures)


def _column(path: Path, name: str) -> dict[str, str]:
    """A column of a table beside the rows, by row; nothing where there is no such file."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return {cells["id"]: (cells.get(name) or "").strip() for cells in csv.DictReader(stream)}
