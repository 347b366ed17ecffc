"""Records of services made by hand or by a plain clock, for tests of what is worked out from them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from simulator.serving.record import RequestColumns, ServiceRecord, StepColumns, TokenGaps, TransferColumns
from simulator.serving.result import ServiceFacts, ServingResult, WorkerFacts
from simulator.serving.slo import Slo
from workloads.requests import Requests, make_requests


@dataclass
class Row:
    """A request as the plain clock saw it."""

    arrival: float
    begin: float
    tokens: list[float]


def plain_service(
    seed: int, count: int, step_s: float = 0.03, slots: int = 4
) -> tuple[Requests, list[Row], list[tuple[float, int]]]:
    """Requests through a server of so many slots whose every step lasts ``step_s`` and gives each one token."""
    rng = np.random.default_rng(seed)
    requests = make_requests(
        rng.integers(5, 50, count), rng.integers(1, 12, count), np.cumsum(rng.exponential(0.05, count))
    )
    rows = [Row(float(arrival), float("nan"), []) for arrival in requests.arrival_s]
    waiting, running, now = list(range(count)), list[int](), 0.0
    steps: list[tuple[float, int]] = []
    while waiting or running:
        while waiting and len(running) < slots and rows[waiting[0]].arrival <= now:
            running.append(waiting.pop(0))
        if not running:
            now = rows[waiting[0]].arrival
            continue
        steps.append((now, len(running)))
        for number in running:
            if not rows[number].tokens:
                rows[number].begin = now
        now += step_s
        for number in list(running):
            rows[number].tokens.append(now)
            if len(rows[number].tokens) == requests.output_tokens[number]:
                running.remove(number)
    return requests, rows, steps


def record_of(
    requests: Requests, rows: list[Row], steps: list[tuple[float, int]], step_s: float = 0.03
) -> ServiceRecord:
    """The record that such a run leaves."""
    n, m = len(rows), len(steps)
    zero = np.zeros(n, np.int64)
    columns = RequestColumns(
        np.array([r.arrival for r in rows]), np.array([r.begin for r in rows]),
        np.array([r.tokens[0] if r.tokens else np.nan for r in rows]),
        np.array([r.tokens[-1] if r.tokens else np.nan for r in rows]),
        np.array([len(r.tokens) for r in rows]), zero, zero, zero, zero, zero, np.zeros(n),
    )  # fmt: skip
    gaps = np.concatenate([np.diff(r.tokens) for r in rows]) if rows else np.zeros(0)
    values, counts = np.unique(gaps, return_counts=True)
    start = np.array([s for s, _ in steps])
    running = np.array([k for _, k in steps])
    none = np.zeros(m, np.int64)
    step = StepColumns(
        none, start, np.full(m, step_s), np.full(m, step_s * 0.75), np.full(m, step_s * 0.25), np.zeros(m),
        np.full(m, 2.0), running, none, running, none, running, 100 - 10 * running, running, none,
    )  # fmt: skip
    transfers = TransferColumns(*[np.zeros(0) for _ in fields(TransferColumns)])  # type: ignore[arg-type]
    end = max((r.tokens[-1] for r in rows if r.tokens), default=0.0)
    return ServiceRecord(columns, step, transfers, TokenGaps(values, counts), ("gpu",), (1,), end)


def result_of(seed: int = 1, count: int = 60, slo: Slo | None = None, name: str = "made") -> ServingResult:
    """The answer of the plain service."""
    requests, rows, steps = plain_service(seed, count)
    worker = WorkerFacts(
        name="gpu",
        role="both",
        devices=1,
        blocks=100,
        block_tokens=16,
        most_sequences=8,
        price_per_s=0.001,
        idle_w=50.0,
    )
    facts = ServiceFacts(
        model="llama-3-8b", system="box", requests=name, engine="vllm", layout="tp 1",
        settings={"max_num_seqs": 8}, workers=(worker,),
    )  # fmt: skip
    return ServingResult(record_of(requests, rows, steps), requests, facts, slo or Slo())
