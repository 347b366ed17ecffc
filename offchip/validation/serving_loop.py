"""A closed loop of clients on one replica, step by step: what a measured serving run does, at its plainest.

``clients`` requests are in flight at any time; each client sends its next when it has its answer, ``requests`` in all,
first come first served. Policies: ``mixed`` steps decode everybody and fill the token budget with prefill chunks (vLLM
v1, TensorRT-LLM); else prefills go first and alone (SGLang's default). A request is admitted when the cache has
room for its prompt and answer. Requests pass a
serial front end (HTTP, tokeniser) before they reach the queue, which keeps equal requests from running in step for
ever;
a stream that is sent a few tokens at a time shows its first token so many tokens late (``held_tokens``). Steps in
which nothing changes but the contexts are taken together, priced in their
middle. The exact schedulers are another module's (:mod:`simulator.serving`); this one is for tables of means.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from simulator.serving.price_tables import PriceTables
from simulator.serving.step_kernel import price_step

__all__ = ["HOST", "Loop", "Means", "run_loop"]

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
HOST: Final = (
    "step_us", "sequence_us", "chunk_token_us", "request_us", "prompt_token_us", "kernel_factor", "prefill_factor",
    "overlap", "reply_us", "held_tokens",
)  # fmt: skip
"""Engine constants in the order of the kernel's array."""
STRIDE: Final = 128
"""Decode steps that are taken together at most."""


class Loop(NamedTuple):
    """Numbers of a closed loop: clients, token budget of a step, requests that may run, tokens the cache holds."""

    clients: int
    budget: int
    running: int
    cache_tokens: float
    mixed: bool


class Requests(NamedTuple):
    """Prompt and output tokens, tokens filled and made so far, and which run."""

    prompt: Ints
    output: Ints
    filled: Ints
    made: Ints
    active: Ints
    pending: Ints


class Entries(NamedTuple):
    """Entries of a step, and how many there are."""

    request: Ints
    tokens: Ints
    context: Ints
    drafts: Ints
    used: Ints


class Means(NamedTuple):
    """Means over all requests, in milliseconds, and output tokens per second."""

    ttft_ms: float
    tpot_ms: float
    tokens_per_s: float


@compiled
def _seconds(
    t: PriceTables, tokens: Ints, context: Ints, drafts: Ints, sampled: float, host: Array, out: Array
) -> float:
    """Seconds of a step with the engine's share."""
    price_step(t, tokens, context, drafts, sampled, out)
    device = out[0] * (host[6] if out[5] > 0 else host[5])
    software = 1e-6 * (host[0] + host[1] * out[4] + host[2] * out[5])
    return float(device + software - host[7] * min(device, software))


@compiled
def _schedule(r: Requests, loop: Loop, running: int, filling: bool, entry: Entries) -> float:
    """The entries of the next step; returns how many tokens are sampled. Their number goes to ``entry.used``."""
    entries, budget, sampled = 0, loop.budget, 0.0
    if loop.mixed or not filling:
        for i in range(running):
            one = r.active[i]
            if r.filled[one] >= r.prompt[one]:
                entry.request[entries], entry.tokens[entries] = one, 1
                entry.context[entries] = r.prompt[one] + r.made[one] - 1
                entries += 1
                budget -= 1
                sampled += 1.0
    if filling:
        for i in range(running):
            one = r.active[i]
            if r.filled[one] < r.prompt[one] and budget > 0:
                part = min(r.prompt[one] - r.filled[one], budget)
                entry.request[entries], entry.tokens[entries] = one, part
                entry.context[entries] = r.filled[one]
                entries += 1
                budget -= part
                if r.filled[one] + part == r.prompt[one]:
                    sampled += 1.0
    entry.used[0] = entries
    return sampled


@compiled
def _advance(r: Requests, entry: Entries, steps: int, now: float, times: Array) -> None:
    """Give each entry of a step its tokens; note first tokens."""
    for i in range(entry.used[0]):
        one = entry.request[i]
        if r.filled[one] >= r.prompt[one]:
            r.made[one] += steps
        else:
            r.filled[one] += entry.tokens[i]
            if r.filled[one] == r.prompt[one]:
                r.made[one] = 1
                times[1, one] = now


@compiled
def _steps(r: Requests, entry: Entries, until: float) -> int:
    """Decode steps that can be taken together: until a request ends, and ``until`` steps at most."""
    steps = STRIDE
    for i in range(entry.used[0]):
        one = entry.request[i]
        steps = min(steps, r.output[one] - r.made[one])
    return max(1, min(steps, int(until) + 1 if until < STRIDE else STRIDE))


@compiled
def closed_loop(
    t: PriceTables, r: Requests, loop: Loop, host: Array, entry: Entries, times: Array, out: Array
) -> None:
    """Run all requests; rows of ``times``: sent, first token, last token, arrived behind the serial front end."""
    n = len(r.prompt)
    running, sent, pending, finished, held, now, front = 0, 0, 0, 0, 0.0, 0.0, 0.0
    while sent < min(loop.clients, n):
        front += 1e-6 * (host[3] + host[4] * r.prompt[sent])
        times[3, sent] = front
        r.pending[pending] = sent
        pending += 1
        sent += 1
    while finished < n:
        next_at = 1e30
        while pending > 0 and running < loop.running:
            best = 0
            for i in range(1, pending):
                if times[3, r.pending[i]] < times[3, r.pending[best]]:
                    best = i
            one = r.pending[best]
            need = r.prompt[one] + r.output[one]
            if times[3, one] > now:
                next_at = times[3, one]
                break
            if held + need > loop.cache_tokens and running > 0:
                break
            r.active[running] = one
            running += 1
            held += need
            pending -= 1
            r.pending[best] = r.pending[pending]
        if running == 0:
            now = next_at
            continue
        filling = False
        for i in range(running):
            if r.filled[r.active[i]] < r.prompt[r.active[i]]:
                filling = True
        sampled = _schedule(r, loop, running, filling, entry)
        count = entry.used[0]
        took = _seconds(
            t, entry.tokens[:count], entry.context[:count], entry.drafts[:count], sampled, host, out
        )
        steps = 1
        if not filling:
            until = 1e9
            if next_at < 1e29:
                until = (next_at - now) / took
            steps = _steps(r, entry, until)
            if steps > 8:
                for i in range(count):
                    entry.context[i] += steps // 2
                took = _seconds(
                    t, entry.tokens[:count], entry.context[:count], entry.drafts[:count], sampled, host, out
                )
        now += took * steps
        _advance(r, entry, steps, now, times)
        kept = 0
        for i in range(running):
            one = r.active[i]
            if r.made[one] < r.output[one]:
                r.active[kept] = one
                kept += 1
                continue
            times[2, one] = now
            held -= r.prompt[one] + r.output[one]
            finished += 1
            if sent < n:
                times[0, sent] = now
                work = 1e-6 * (host[3] + host[4] * r.prompt[sent])
                front = max(front, now) + work
                times[3, sent] = front
                r.pending[pending] = sent
                pending += 1
                sent += 1
        running = kept


def run_loop(tables: PriceTables, loop: Loop, host: Array, lengths: tuple[Ints, Ints]) -> Means:
    """Means of the requests whose prompt and output tokens are ``lengths``."""
    prompt, output = lengths
    n, most = len(prompt), min(loop.running, loop.clients)
    own = loop._replace(running=most)
    zeros = np.zeros(n, np.int64)
    requests = Requests(
        prompt, output, zeros, zeros.copy(), np.zeros(most, np.int64),
        np.zeros(min(loop.clients, n) + 1, np.int64),
    )  # fmt: skip
    columns = np.zeros((4, most), np.int64)
    entry = Entries(columns[0], columns[1], columns[2], columns[3], np.zeros(1, np.int64))
    times = np.zeros((4, n))
    closed_loop(tables, requests, own, host, entry, times, np.zeros(6))
    between = (times[2] - times[1]) / np.maximum(1, output - 1)
    first = times[1] + 1e-6 * host[8] + np.minimum(host[9], output / 2) * between
    tpot = (times[2] + 1e-6 * host[8] - first) / np.maximum(1, output - 1)
    span = float(times[2].max())
    return Means(
        1e3 * float((first - times[0]).mean()),
        1e3 * float(tpot.mean()),
        float(output.sum()) / max(span, 1e-12),
    )
