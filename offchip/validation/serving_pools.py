"""Prefill and decode on workers of their own, in balance: closed forms over the price of steps.

Of ``clients`` requests in flight some wait for or are in prefill, the others decode. Requests pass at one rate: what
the
prefill workers can do at most, and what the decoding ones finish. Either prefill is the narrow place, and the rest of
the
clients queue before it, or decoding is, and all but those in prefill decode. Caches travel over one network port a
device
(:meth:`simulator.serving.exchange_time.Exchanges.across_nodes`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offchip.validation.serving_loop import Means
from simulator.serving.price_tables import PriceTables
from simulator.serving.step_kernel import price_step

__all__ = ["Pool", "pools_means"]

Array = npt.NDArray[np.float64]
ROUNDS = 60


@dataclass(frozen=True, slots=True)
class Pool:
    """Workers of one kind: how many, the price of their steps, requests and tokens that one can hold."""

    tables: PriceTables
    workers: int
    running: int
    cache_tokens: float


def _step(pool: Pool, tokens: int, context: int, count: int, host: Array, prefill: bool) -> float:
    out = np.zeros(6)
    ones = np.ones(count, np.int64)
    price_step(pool.tables, tokens * ones, context * ones, np.zeros(count, np.int64), float(count), out)
    device = out[0] * host[6 if prefill else 5]
    software = 1e-6 * (host[0] + host[1] * count + host[2] * out[5])
    return float(device + software - host[7] * min(device, software))


def pools_means(
    prefill: Pool, decode: Pool, clients: int, prompt: int, output: int, host: Array, transfer_s: float
) -> Means:
    """Means of requests of equal length that a closed loop of ``clients`` sends."""
    groups = max(1, int(prefill.tables.layout[0]))
    one = _step(prefill, prompt, 0, groups, host, True)
    most = prefill.workers * groups / one
    room = decode.workers * min(decode.running, int(decode.cache_tokens / (prompt + output)) or 1)
    fixed = one + transfer_s + 1e-6 * (host[3] + host[4] * prompt)
    between, decoding = 0.0, 1.0
    low, high = 1.0, float(min(clients, room))
    for _ in range(ROUNDS):
        decoding = (low + high) / 2
        count = max(1, math.ceil(decoding / decode.workers - 1e-9))
        between = _step(decode, 1, prompt + output // 2, count, host, False)
        rate = min(decoding / (output * between), most)
        # More decode than the rate feeds, or than the clients leave: fewer do.
        if decoding > rate * output * between * (1 + 1e-9) or decoding + rate * fixed > clients:
            high = decoding
        else:
            low = decoding
    rate = decoding / (output * between)
    queue = max(0.0, clients - decoding - rate * fixed)
    # A tenth of the requests, the first of ten a client, come all at once.
    first = 0.1 * min(clients, room) / (2 * most)
    held = min(host[9], output / 2) * between
    ttft = fixed + queue / rate + first + 1e-6 * host[8] + held
    return Means(1e3 * ttft, 1e3 * between * max(0.0, 1 - host[9] / max(2, output)), rate * output)
