"""A closed loop of clients on one replica, step by step: what a measured serving run does, at its plainest.

``clients`` requests are in flight at any time; each client sends its next when it has its answer, ``requests`` in all,
first come first served. Policies: ``mixed`` steps decode everybody and fill the token budget with prefill chunks (vLLM
v1, TensorRT-LLM); else prefills go first and alone (SGLang's default). A request is admitted when the cache has
room for its prompt and answer. Steps in which nothing changes but the contexts are taken together, priced in their
middle. The exact schedulers are another module's (:mod:`simulator.serving`); this one is for tables of means.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from simulator.serving.price_tables import PriceTables
from simulator.serving.step_kernel import price_step

__all__ = ["HOST", "Loop", "Means", "means_of", "run_loop"]

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
HOST: Final = (
    "step_us", "sequence_us", "chunk_token_us", "request_us", "prompt_token_us", "kernel_factor", "prefill_factor",
    "overlap",
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
    return device + software - host[7] * min(device, software)


@compiled
def closed_loop(t: PriceTables, prompt: Ints, output: Ints, loop: Loop, host: Array, result: Array) -> None:
    """Run all requests; first token and last token times, and send times, to the rows of ``result``."""
    n = len(prompt)
    done, filled, made = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    active, zeros = np.zeros(loop.running, np.int64), np.zeros(loop.running, np.int64)
    tokens, context = np.zeros(loop.running, np.int64), np.zeros(loop.running, np.int64)
    out = np.zeros(6)
    running, sent, admitted, finished, held = 0, min(loop.clients, n), 0, 0, 0.0
    now = 0.0
    while finished < n:
        while admitted < sent and running < loop.running:
            need = prompt[admitted] + output[admitted]
            if held + need > loop.cache_tokens and running > 0:
                break
            active[running] = admitted
            running += 1
            held += need
            admitted += 1
        entries, budget, sampled, filling = 0, loop.budget, 0.0, False
        for i in range(running):
            if filled[active[i]] < prompt[active[i]]:
                filling = True
        if loop.mixed or not filling:
            for i in range(running):
                r = active[i]
                if filled[r] >= prompt[r]:
                    tokens[entries], context[entries] = 1, prompt[r] + made[r] - 1
                    zeros[entries] = 0
                    entries += 1
                    budget -= 1
                    sampled += 1.0
        if filling:
            for i in range(running):
                r = active[i]
                if filled[r] < prompt[r] and budget > 0:
                    part = min(prompt[r] - filled[r], budget)
                    tokens[entries], context[entries] = part, filled[r]
                    entries += 1
                    budget -= part
                    if filled[r] + part == prompt[r]:
                        sampled += 1.0
        steps = 1
        if not filling:
            steps = STRIDE
            for i in range(running):
                steps = min(steps, output[active[i]] - made[active[i]])
            for i in range(entries):
                context[i] += (steps - 1) // 2
        took = _seconds(t, tokens[:entries], context[:entries], zeros[:entries], sampled, host, out)
        now += took * steps
        budget = loop.budget - (running if loop.mixed else 0)
        if filling and loop.mixed:
            budget = loop.budget
            for i in range(running):
                if filled[active[i]] >= prompt[active[i]]:
                    budget -= 1
        kept = 0
        for i in range(running):
            r = active[i]
            if filled[r] >= prompt[r]:
                if loop.mixed or not filling:
                    made[r] += steps
            elif budget > 0:
                part = min(prompt[r] - filled[r], budget)
                filled[r] += part
                budget -= part
                if filled[r] == prompt[r]:
                    made[r] = 1
                    result[1, r] = now
            if made[r] >= output[r]:
                result[2, r] = now
                held -= prompt[r] + output[r]
                finished += 1
                if sent < n:
                    result[0, sent] = now
                    sent += 1
            else:
                active[kept] = r
                kept += 1
        running = kept


def run_loop(tables: PriceTables, loop: Loop, host: Array, lengths: tuple[Ints, Ints]) -> Means:
    """Means of the requests whose prompt and output tokens are ``lengths``."""
    prompt, output = lengths
    result = np.zeros((3, len(prompt)))
    closed_loop(tables, prompt, output, loop, host, result)
    after = 1e-6 * (host[3] + host[4] * prompt)
    ttft = result[1] - result[0] + after
    tpot = (result[2] - result[1]) / np.maximum(1, output - 1)
    span = float(result[2].max())
    return Means(1e3 * float(ttft.mean()), 1e3 * float(tpot.mean()), float(output.sum()) / max(span, 1e-12))


def means_of(
    tables: PriceTables, loop: Loop, host: Array, prompt: int, output: int, spread: float, seed: int = 0
) -> Means:
    """Means of ten requests a client, lengths even from ``1 - spread`` of the nominal to all of it."""
    count = max(10, 10 * loop.clients)
    random = np.random.default_rng(seed)
    lengths = tuple(
        np.maximum(2, np.floor(size * (1.0 - spread * random.random(count)) + 0.5)).astype(np.int64)
        for size in (prompt, output)
    )
    return run_loop(tables, loop, host, (lengths[0], lengths[1]))
