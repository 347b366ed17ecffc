"""What a service answered: times of every request, and what they come to. All of it is worked out from the record.

A percentile is the smallest value that at least that share of all values do not exceed (nearest rank), so that it is
always a time that some request or token had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from hw_configs.shown import Shown, Table
from hw_configs.units import format_quantity
from simulator.serving.record import ServiceRecord
from simulator.serving.slo import Slo
from workloads.requests import Requests

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PERCENTILES", "ServedRequests", "ServiceFacts", "ServingResult", "Spread", "WorkerFacts"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

PERCENTILES: Final = (50.0, 90.0, 95.0, 99.0, 99.9)
MOST_TOLD: Final = 5
"""Rejected requests that a summary names."""
MOST_REJECTED_JSON: Final = 1000
ENERGY_UNIT: Final = 1e6
"""Tokens to which energy and dollars are put in relation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """What of a worker its record does not say."""

    name: str
    role: str
    devices: int
    blocks: int
    """KV blocks of all its groups."""
    block_tokens: int
    most_sequences: int
    """Requests that may run at once, in all its groups."""
    price_per_s: float | None = None
    """Dollars per second of its devices; None: not stated."""
    idle_w: float = 0.0
    """What its devices draw while no step runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFacts:
    """What was asked: names, settings and workers."""

    model: str
    system: str
    requests: str
    engine: str
    layout: str
    settings: Mapping[str, object]
    workers: tuple[WorkerFacts, ...]
    seed: int = 0
    routing: str = ""
    notes: tuple[str, ...] = ()
    request_s: float = 0.0
    """Seconds of a request outside the steps: HTTP, tokenising, detokenising."""
    prompt_token_s: float = 0.0
    """The same for each token of its prompt."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and percentiles of a time in seconds; NaN without values."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    p99_9: float

    @classmethod
    def of(cls, values: Floats) -> Spread:
        """The spread of the values that are numbers.

        >>> Spread.of(np.array([1.0, 2.0, 3.0, np.nan])).p50
        2.0
        """
        known = np.sort(values[~np.isnan(values)])
        if not len(known):
            return cls(0, *[float("nan")] * 6)
        ranks = [max(int(np.ceil(p / 100 * len(known) - 1e-9)), 1) - 1 for p in PERCENTILES]
        return cls(len(known), float(known.mean()), *(float(known[rank]) for rank in ranks))

    def as_json(self) -> dict[str, float]:
        """The figures by name."""
        return {
            "count": self.count, "mean": self.mean, "p50": self.p50, "p90": self.p90, "p95": self.p95,
            "p99": self.p99, "p99.9": self.p99_9,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class ServedRequests:
    """Times of each request in seconds, NaN where it has none: not begun, not finished, or one token alone."""

    finished: Bools
    queue_s: Floats
    """From arrival to the first step that computes something for it."""
    prefill_s: Floats
    """From then to the first token."""
    decode_s: Floats
    """From the first token to the last."""
    ttft_s: Floats
    """From arrival to the first token at the client: with the engine's time outside the steps."""
    tpot_s: Floats
    """Mean time between its tokens."""
    e2e_s: Floats
    kept: Bools
    """Whether it is finished within the limits and its deadline."""


@dataclass(frozen=True, eq=False)
class ServingResult(Shown):
    """A service's answer. ``slo`` decides what counts as goodput."""

    record: ServiceRecord
    requests: Requests
    facts: ServiceFacts
    slo: Slo = field(default_factory=Slo)

    @cached_property
    def served(self) -> ServedRequests:
        """Times of each request."""
        rows = self.record.requests
        finished = rows.tokens >= self.requests.output_tokens
        last = np.where(finished, rows.last_token_s, np.nan)
        decode = last - rows.first_token_s
        gaps = self.requests.output_tokens - 1
        tpot = np.where(gaps > 0, decode / np.maximum(gaps, 1), np.nan)
        outside = self.facts.request_s + self.facts.prompt_token_s * self.requests.prompt_tokens
        ttft, e2e = rows.first_token_s - rows.arrival_s + outside, last - rows.arrival_s + outside
        kept = finished & (e2e <= self.requests.deadline_s)
        for limit, values in ((self.slo.ttft_s, ttft), (self.slo.tpot_s, tpot), (self.slo.e2e_s, e2e)):
            if limit is not None:
                kept &= np.isnan(values) | (values <= limit)
        return ServedRequests(
            finished, rows.first_scheduled_s - rows.arrival_s, rows.first_token_s - rows.first_scheduled_s, decode,
            ttft, tpot, e2e, kept,
        )  # fmt: skip

    @cached_property
    def duration_s(self) -> float:
        """From the first arrival to the end of the run."""
        arrivals = self.record.requests.arrival_s
        known = arrivals[~np.isnan(arrivals)]
        return max(self.record.end_s - float(known.min()), 0.0) if len(known) else 0.0

    @cached_property
    def latency(self) -> dict[str, Spread]:
        """The spread of each time: ``ttft``, ``tpot``, ``itl``, ``e2e``, ``queue``, ``prefill``, ``decode``."""
        served = self.served
        gaps = self.record.gaps
        itl = Spread(gaps.total, gaps.mean(), *(gaps.quantile(p / 100) for p in PERCENTILES))
        return {
            "ttft": Spread.of(served.ttft_s), "tpot": Spread.of(served.tpot_s), "itl": itl,
            "e2e": Spread.of(served.e2e_s), "queue": Spread.of(served.queue_s),
            "prefill": Spread.of(served.prefill_s), "decode": Spread.of(served.decode_s),
        }  # fmt: skip

    @property
    def stopped(self) -> bool:
        """Whether the run was interrupted: a whole one answers every request that was not rejected."""
        return int(self.served.finished.sum()) + len(self.record.rejected) < self.requests.count

    @property
    def attainment(self) -> float:
        """Share of all requests, rejected ones among them, that were answered within the limits and their deadlines."""
        return float(self.served.kept.mean()) if len(self.served.kept) else 0.0

    @cached_property
    def throughput(self) -> dict[str, float]:
        """Per second: requests answered, tokens in and out, and requests and tokens within the limits."""
        served, length = self.served, self.duration_s or float("nan")
        done, kept = served.finished, served.kept
        delivered = self.record.requests.tokens
        started = ~np.isnan(self.record.requests.first_token_s)
        return {
            "requests_per_s": float(done.sum()) / length,
            "input_tokens_per_s": float(self.requests.prompt_tokens[started].sum()) / length,
            "output_tokens_per_s": float(delivered.sum()) / length,
            "goodput_requests_per_s": float(kept.sum()) / length,
            "goodput_tokens_per_s": float(delivered[kept].sum()) / length,
        }

    @cached_property
    def utilisation(self) -> dict[str, float]:
        """Shares: of the time, devices that compute; of the steps, time in which devices wait for the host; how full.

        ``device_busy``: step time in kernels over workers times duration. ``host_share``: of the steps' time, what
        kernels do not cover. ``batch``: sequences of a step over the most that may run, by time. ``cache``: blocks
        held, by step time, and ``cache_peak``.
        """
        steps, workers = self.record.steps, self.facts.workers
        total = float(steps.seconds.sum())
        if not total:
            return dict.fromkeys(("device_busy", "host_share", "batch", "cache", "cache_peak"), 0.0)
        busy = np.minimum(steps.device_s, steps.seconds)
        most = np.array([worker.most_sequences for worker in workers])[steps.replica]
        held = self.cache_held
        return {
            "device_busy": float(busy.sum()) / (self.duration_s * len(workers)),
            "host_share": 1 - float(busy.sum()) / total,
            "batch": float((steps.sequences / most * steps.seconds).sum()) / total,
            "cache": float((held * steps.seconds).sum()) / total,
            "cache_peak": float(held.max()),
        }

    @cached_property
    def cache_held(self) -> Floats:
        """Share of its worker's blocks that requests hold, per step."""
        blocks = np.array([max(worker.blocks, 1) for worker in self.facts.workers])[self.record.steps.replica]
        return np.asarray(1 - self.record.steps.free_blocks / blocks)

    @cached_property
    def cost(self) -> dict[str, float | None]:
        """Joules and dollars in all and for a million tokens of answers; None where a device has no stated rate."""
        steps, length = self.record.steps, self.duration_s
        busy = np.bincount(steps.replica, steps.seconds, len(self.facts.workers))
        idle = sum(
            w.idle_w * max(length - float(b), 0.0) for w, b in zip(self.facts.workers, busy, strict=True)
        )
        joules = float(steps.joules.sum()) + idle
        rates = [worker.price_per_s for worker in self.facts.workers]
        known = [rate for rate in rates if rate is not None]
        dollars = sum(known) * length if known and len(known) == len(rates) else None
        tokens = int(self.record.requests.tokens.sum())
        each = ENERGY_UNIT / tokens if tokens else None
        return {
            "energy_j": joules, "idle_energy_j": idle, "dollars": dollars,
            "energy_j_per_million_tokens": joules * each if each else None,
            "dollars_per_million_tokens": dollars * each if each and dollars is not None else None,
        }  # fmt: skip

    @cached_property
    def counts(self) -> dict[str, int]:
        """Requests asked and answered, tokens, preemptions, tokens from caches, retries, steps."""
        rows = self.record.requests
        return {
            "requests": self.requests.count, "rejected": len(self.record.rejected),
            "finished": int(self.served.finished.sum()), "kept": int(self.served.kept.sum()),
            "prompt_tokens": int(self.requests.prompt_tokens.sum()),
            "output_tokens": int(rows.tokens.sum()), "cached_prompt_tokens": int(rows.cached_prompt_tokens.sum()),
            "preemptions": int(rows.preemptions.sum()), "preempted_requests": int((rows.preemptions > 0).sum()),
            "retries": int(rows.retries.sum()), "lost_tokens": self.record.lost_tokens,
            "steps": len(self.record.steps), "transfers": len(self.record.transfers),
        }  # fmt: skip

    @property
    def cache_hit_share(self) -> float:
        """Of all prompt tokens, those found in a cache at first admission."""
        return self.counts["cached_prompt_tokens"] / max(self.counts["prompt_tokens"], 1)

    def summary(self) -> dict[str, float | int | None]:
        """Every total as one flat table of figures, seconds and shares; what sweeps and searches speak of."""
        flat: dict[str, float | int | None] = {"duration_s": self.duration_s, **self.counts}
        flat["attainment"] = self.attainment
        flat["cache_hit_share"] = self.cache_hit_share
        for name, spread in self.latency.items():
            for figure, value in spread.as_json().items():
                if figure != "count":
                    flat[f"{name}_{figure.replace('.', '_')}_s"] = value
        return {**flat, **self.throughput, **self.utilisation, **self.cost}

    def as_json(self) -> dict[str, Any]:
        """The answer as plain data, without one row a request (``to_pandas`` has those)."""
        facts = self.facts
        return {
            "model": facts.model, "system": facts.system, "requests": facts.requests, "engine": facts.engine,
            "layout": facts.layout, "routing": facts.routing, "seed": facts.seed, "stopped": self.stopped,
            "settings": dict(facts.settings), "workers": [_worker_json(worker) for worker in facts.workers],
            "slo": {"ttft_s": self.slo.ttft_s, "tpot_s": self.slo.tpot_s, "e2e_s": self.slo.e2e_s,
                    "attainment": self.slo.attainment},
            "duration_s": self.duration_s, "counts": self.counts, "attainment": self.attainment,
            "latency_s": {name: spread.as_json() for name, spread in self.latency.items()},
            "throughput": self.throughput, "utilisation": self.utilisation, "cost": self.cost,
            "cache_hit_share": self.cache_hit_share, "notes": list(facts.notes),
            "moved_bytes": dict(
                zip(("host_in", "host_out", "drive_in", "drive_out"), self.record.moved_bytes, strict=True)
            ),
            "rejected": [
                {"request": request, "reason": reason}
                for request, reason in list(self.record.rejected.items())[:MOST_REJECTED_JSON]
            ],
        }  # fmt: skip

    def request_columns(self) -> dict[str, npt.NDArray[Any]]:
        """One column for each thing known of a request, in the order of their numbers."""
        served, asked = self.served, self.requests
        columns: dict[str, npt.NDArray[Any]] = {
            "request": np.arange(asked.count), "prompt_tokens": asked.prompt_tokens,
            "output_tokens": asked.output_tokens, "priority": asked.priority, "adapter": asked.adapter,
            **self.record.requests.to_dict(),
        }  # fmt: skip
        columns["rejected"] = np.isin(columns["request"], list(self.record.rejected))
        for name in ("finished", "queue_s", "prefill_s", "decode_s", "ttft_s", "tpot_s", "e2e_s", "kept"):
            columns[name] = getattr(served, name)
        return columns

    def step_columns(self) -> dict[str, npt.NDArray[Any]]:
        """One column for each thing known of a step."""
        return {**self.record.steps.to_dict(), "cache_held": self.cache_held}

    def to_pandas(self, what: str = "requests") -> pd.DataFrame:
        """``requests`` or ``steps`` as a data frame; needs pandas (the extra ``results``)."""
        from hw_configs.problems import bad_input

        if what not in ("requests", "steps"):
            raise bad_input(f"found {what!r}; expected requests or steps", path="what")
        try:
            import pandas as pd
        except ImportError:
            raise bad_input("a data frame needs pandas: pip install 'offchip[results]'") from None
        return pd.DataFrame(self.request_columns() if what == "requests" else self.step_columns())

    def shown_tables(self) -> Sequence[Table]:
        """What was served, its times, and what it took."""
        facts, counts = self.facts, self.counts
        head = f"{facts.model} on {facts.system}, {facts.engine}, {facts.layout}: {facts.requests}"
        stopped = " (stopped before the end)" if self.stopped else ""
        times = tuple(
            (name, *(_time(value) for key, value in spread.as_json().items() if key != "count"))
            for name, spread in self.latency.items()
        )
        return (
            Table(head + stopped, ("", ""), tuple(self._totals(counts))),
            Table("\nTimes", ("", "mean", "p50", "p90", "p95", "p99", "p99.9"), times),
            *self._workers_table(),
        )

    def rejections(self) -> list[str]:
        """How many requests were rejected, and the first of them with their reasons."""
        rejected = self.record.rejected
        if not rejected:
            return []
        first = [f"request {request}: {why}" for request, why in list(rejected.items())[:MOST_TOLD]]
        more = [f"and {len(rejected) - MOST_TOLD} more"] if len(rejected) > MOST_TOLD else []
        return [f"{len(rejected)} of {self.requests.count} requests can never be answered", *first, *more]

    def _totals(self, counts: Mapping[str, int]) -> list[tuple[object, ...]]:
        through, use, cost = self.throughput, self.utilisation, self.cost
        rows: list[tuple[object, ...]] = [
            ("answered", f"{counts['finished']} of {counts['requests']} requests in {_time(self.duration_s)}"),
            ("throughput", f"{through['requests_per_s']:.4g} requests/s, "
                           f"{through['output_tokens_per_s']:.4g} tokens/s out, "
                           f"{through['input_tokens_per_s']:.4g} tokens/s in"),
        ]  # fmt: skip
        rows += [("rejected", text) for text in self.rejections()]
        if not self.slo.empty or np.isfinite(self.requests.deadline_s).any():
            within = f"{self.attainment:.1%} of requests, {through['goodput_requests_per_s']:.4g} requests/s"
            rows.append(("within " + (str(self.slo) if not self.slo.empty else "their deadlines"), within))
        rows += [
            ("devices busy", f"{use['device_busy']:.1%}; host {use['host_share']:.1%} of step time"),
            ("batch", f"on average {use['batch']:.1%} of the sequences that may run"),
            ("KV cache", f"{use['cache']:.1%} held, peak {use['cache_peak']:.1%}; {self.cache_hit_share:.1%} of prompt "
                         f"tokens found there; {counts['preemptions']} preemptions"),
        ]  # fmt: skip
        back, away, drive_back, drive_away = (
            format_quantity(float(b), "size") for b in self.record.moved_bytes
        )
        if any(self.record.moved_bytes):
            rows.append(("moved caches", f"{away} to the host and {back} back; {drive_away} to drives and {drive_back} "
                         "back"))  # fmt: skip
        each = cost["energy_j_per_million_tokens"]
        if each is not None:
            rows.append(("energy", f"{format_quantity(each, 'energy')} per million tokens"))
        dollars = cost["dollars_per_million_tokens"]
        rows.append(
            ("cost", f"{dollars:.4g} USD per million tokens" if dollars is not None else "no price stated")
        )
        if counts["retries"]:
            rows.append(
                ("failures", f"{counts['retries']} retries, {counts['lost_tokens']} tokens computed again")
            )
        rows += [("note", note) for note in self.facts.notes]
        return rows

    def _workers_table(self) -> list[Table]:
        if len(self.facts.workers) < 2:
            return []
        steps, count = self.record.steps, len(self.facts.workers)
        busy = np.bincount(steps.replica, np.minimum(steps.device_s, steps.seconds), count)
        number = np.bincount(steps.replica, minlength=count)
        answered = self.record.requests.replica
        ended = np.bincount(answered[answered >= 0], minlength=count)
        rows = [
            (
                w.name,
                w.role,
                w.devices,
                number[i],
                ended[i],
                f"{busy[i] / self.duration_s:.1%}" if self.duration_s else "-",
            )
            for i, w in enumerate(self.facts.workers)
        ]
        return [Table("\nWorkers", ("worker", "role", "devices", "steps", "answered", "busy"), tuple(rows))]


def _worker_json(worker: WorkerFacts) -> dict[str, Any]:
    return {name: getattr(worker, name) for name in WorkerFacts.__dataclass_fields__}


def _time(value: float) -> str:
    return "-" if np.isnan(value) else format_quantity(value, "time")
