"""The data of a service's page: load, batch and cache over time, distributions, limits, and the slowest in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hw_configs.units import format_quantity
from simulator.serving.result import ServingResult

__all__ = ["MOST_BINS", "explained", "over_time", "serving_page"]

Floats = npt.NDArray[np.float64]

MOST_BINS: Final = 400
SLOWEST: Final = 25
QUANTILES: Final = tuple(np.linspace(0, 1, 101).tolist())
PARTS: Final = {
    "queue_s": "waiting to begin",
    "prefill_s": "computing its prompt",
    "decode_s": "writing its answer",
}


def serving_page(result: ServingResult, probes: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Everything the page of a service shows, as plain data; ``probes``: rates that a search tried."""
    facts, rows = result.facts, result.record.requests
    return {
        "kind": "serving",
        "title": f"{facts.model} on {facts.system}",
        "subtitle": f"{facts.engine}, {facts.layout}; {facts.requests}; {len(facts.workers)} workers, "
        f"{sum(worker.devices for worker in facts.workers)} devices",
        "slo": str(result.slo),
        "limits": {"ttft": result.slo.ttft_s, "tpot": result.slo.tpot_s, "e2e": result.slo.e2e_s},
        "wanted": result.slo.attainment,
        "summary": result.as_json(),
        "time": over_time(result),
        "distributions": _distributions(result),
        "probes": [dict(probe) for probe in probes],
        "workers": [worker.name for worker in facts.workers],
        "slowest": [_slow(result, number) for number in _slowest(result)],
        "unanswered": int((~result.served.finished).sum()),
        "notes": list(facts.notes),
        "settings": {key: str(value) for key, value in facts.settings.items()},
        "rows": len(rows),
    }


def over_time(result: ServingResult) -> dict[str, list[float]]:
    """Means over equal spans of the run: requests and tokens per second, batch, queue, cache, limits kept."""
    rows, steps, served = result.record.requests, result.record.steps, result.served
    end = max(result.record.end_s, 1e-9)
    count = int(min(MOST_BINS, max(len(steps), 1)))
    edges = np.linspace(0.0, end, count + 1)
    width = end / count

    def per_second(times: Floats, weight: npt.NDArray[Any] | None = None) -> Floats:
        known = ~np.isnan(times)
        return np.histogram(times[known], edges, weights=None if weight is None else weight[known])[0] / width

    blocks = np.array([worker.blocks for worker in result.facts.workers], np.float64)
    held = blocks[steps.replica] - steps.free_blocks
    arrivals = per_second(rows.arrival_s)
    kept = per_second(rows.arrival_s, served.kept.astype(np.float64))
    share = np.divide(kept, arrivals, out=np.full(count, np.nan), where=arrivals > 0)
    found = {
        "edges": edges, "arrived": arrivals,
        "answered": per_second(np.where(served.finished, rows.last_token_s, np.nan)),
        "tokens": per_second(steps.start_s + steps.seconds, steps.delivered.astype(np.float64)),
        "running": _mean(result, steps.sequences, edges), "waiting": _mean(result, steps.waiting, edges),
        "cache": _mean(result, held, edges) / max(float(blocks.sum()), 1.0),
        "busy": _mean(result, np.minimum(steps.device_s / np.maximum(steps.seconds, 1e-30), 1.0), edges)
        / len(blocks),
        "kept": share,
    }  # fmt: skip
    return {name: _plain(values) for name, values in found.items()}


def _mean(result: ServingResult, values: npt.NDArray[Any], edges: Floats) -> Floats:
    """The mean over time, summed over workers, of what holds while a step runs."""
    steps = result.record.steps
    total = np.zeros(len(edges) - 1)
    for worker in range(len(result.facts.workers)):
        own = steps.replica == worker
        if not own.any():
            continue
        start, length = steps.start_s[own], steps.seconds[own]
        knots = np.stack([start, start + length], 1).ravel()
        area = np.repeat(np.concatenate([[0.0], np.cumsum(values[own] * length)]), 2)[1:-1]
        total += np.diff(np.interp(edges, knots, area)) / np.diff(edges)
    return total


def _plain(values: Floats) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]


def _distributions(result: ServingResult) -> dict[str, list[float]]:
    """Of each time its percentiles 0 to 100 by nearest rank."""
    served, found = result.served, {}
    for name in ("ttft", "tpot", "e2e", "queue"):
        known = np.sort(getattr(served, f"{name}_s"))
        known = known[~np.isnan(known)]
        if len(known):
            ranks = np.maximum(np.ceil(np.array(QUANTILES) * len(known) - 1e-9), 1).astype(int) - 1
            found[name] = _plain(known[ranks])
    gaps = result.record.gaps
    if gaps.total:
        found["itl"] = _plain(np.array([gaps.quantile(share) for share in QUANTILES]))
    return found


def _slowest(result: ServingResult) -> list[int]:
    """Numbers of the requests that took longest from end to end; those never answered last."""
    times = np.where(np.isnan(result.served.e2e_s), -1.0, result.served.e2e_s)
    order = np.lexsort((np.arange(len(times)), -times))
    return [int(number) for number in order[:SLOWEST] if times[number] >= 0]


def _slow(result: ServingResult, number: int) -> dict[str, Any]:
    served, rows, asked = result.served, result.record.requests, result.requests
    return {
        "request": number, "arrival_s": float(rows.arrival_s[number]), "e2e_s": float(served.e2e_s[number]),
        "ttft_s": float(served.ttft_s[number]), "queue_s": float(served.queue_s[number]),
        "prompt": int(asked.prompt_tokens[number]), "output": int(asked.output_tokens[number]),
        "why": explained(result, number),
    }  # fmt: skip


def explained(result: ServingResult, number: int) -> str:
    """Why a request took as long as it did, in words: its longest part first, then what stands out.

    The queue and the cache are those of the worker that answered, in its step under way when the request came.
    """
    served, rows, asked = result.served, result.record.requests, result.requests
    whole = float(served.e2e_s[number])
    if np.isnan(whole):
        return "was not answered"
    parts = sorted(
        ((float(getattr(served, name)[number]), words) for name, words in PARTS.items()), reverse=True
    )
    longest, words = parts[0]
    share = longest / whole if whole > 0 else 1.0
    said = [f"{format_quantity(longest, 'time')} of {format_quantity(whole, 'time')} ({share:.0%}) {words}"]
    if words == PARTS["queue_s"]:
        said += _when_it_came(result, number)
    elif words == PARTS["prefill_s"]:
        said.append(_length("prompt", int(asked.prompt_tokens[number]), asked.prompt_tokens))
    else:
        said.append(_length("answer", int(asked.output_tokens[number]), asked.output_tokens))
        pace, usual = float(served.tpot_s[number]), result.latency["tpot"].p50
        if pace > 1.5 * usual:
            said.append(f"{pace / usual:.1f} times the usual time a token")
    if rows.preemptions[number]:
        said.append(f"preempted {_times(int(rows.preemptions[number]))}, and computed again what it had")
    if rows.retries[number]:
        said.append(f"began again {_times(int(rows.retries[number]))} because its worker failed")
    if rows.transfer_s[number] > 0.1 * whole:
        said.append(f"{format_quantity(float(rows.transfer_s[number]), 'time')} in moving its cache")
    return "; ".join(said)


def _when_it_came(result: ServingResult, number: int) -> list[str]:
    rows, steps = result.record.requests, result.record.steps
    worker = int(rows.prefill_replica[number])
    own = np.flatnonzero(steps.replica == worker)
    place = int(np.searchsorted(steps.start_s[own], rows.arrival_s[number], side="right")) - 1
    if place < 0:
        return []
    step = own[place]
    waiting, running = int(steps.waiting[step]), int(steps.running[step])
    held = float(result.cache_held[step])
    said = [f"{waiting} waited and {running} ran when it came"]
    if held > 0.9:
        said.append(f"the KV cache was {held:.0%} full")
    elif running >= result.facts.workers[worker].most_sequences:
        said.append("no more sequences may run at once")
    return said


def _length(what: str, tokens: int, every: npt.NDArray[Any]) -> str:
    usual = float(np.median(every))
    times = f", {tokens / usual:.1f} times the median" if tokens > 1.5 * usual else ""
    return f"{'an' if what[0] == 'a' else 'a'} {what} of {tokens} tokens{times}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
