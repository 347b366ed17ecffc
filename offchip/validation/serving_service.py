"""A measured closed loop as a service: workers, engine settings and requests of a row, run by the loop that
``offchip serve`` runs.

Requests pass the engine's front end one after another; where prefill and decode are apart, the worker that decodes
answers the client, caches go over one network port a GPU, and prompts' lengths are drawn as in an aggregated row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from hw_configs.compose import compose
from hw_configs.config import parse
from hw_configs.system import System, SystemFile
from hw_configs.yaml_file import read_yaml_text
from offchip.validation.serving_loop import Means
from simulator.serving.cluster import run_service
from simulator.serving.engine_constants import EngineConstants
from simulator.serving.pricing import Pricer
from simulator.serving.replica import Worker
from simulator.serving.scheduler import SCHEDULERS, KvSpace
from simulator.serving.service import FrontEnd, Service
from simulator.serving.settings import EngineSettings, Layout
from workloads.requests import Requests, make_requests

Ints = npt.NDArray[np.int64]
__all__ = ["Pool", "closed_loop", "lengths_of", "means_of"]

PER_CLIENT: Final = 10
"""Requests that a client sends, as InferenceMAX does."""


@dataclass(frozen=True)
class Pool:
    """Workers that are alike: how many, what each is, its cache, and the price of its steps."""

    role: Literal["both", "prefill", "decode"]
    count: int
    layout: Layout
    settings: EngineSettings
    space: KvSpace
    pricer: Pricer
    layers: int


def lengths_of(clients: int, prompt: int, output: int, spread: float, seed: int = 0) -> tuple[Ints, Ints]:
    """Prompt and output tokens of ten requests a client, even from ``1 - spread`` of the nominal to all of it."""
    count = PER_CLIENT * max(clients, 1)
    random = np.random.default_rng(seed)
    drawn = [
        np.maximum(2, np.floor(size * (1.0 - spread * random.random(count)) + 0.5)).astype(np.int64)
        for size in (prompt, output)
    ]
    return drawn[0], drawn[1]


def closed_loop(clients: int, prompt: int, output: int, spread: float) -> Requests:
    """The requests of a run."""
    return replace(make_requests(*lengths_of(clients, prompt, output, spread)), clients=clients)


def means_of(pools: Sequence[Pool], gpu: str, engine: EngineConstants, requests: Requests) -> Means:
    """Means of a run on these workers with an engine's constants."""
    record = run_service(requests, _service(pools, gpu, engine, requests)).requests
    output = record.tokens
    between = (record.last_token_s - record.first_token_s) / np.maximum(1, output - 1)
    reply = 1e-6 * engine.reply_us
    # Workers that decode alone send the first token at once.
    held = engine.held_tokens if len(pools) == 1 else 0.0
    first = record.first_token_s + reply + np.minimum(held, output / 2) * between
    tpot = (record.last_token_s + reply - first) / np.maximum(1, output - 1)
    span = float(record.last_token_s.max())
    return Means(
        1e3 * float((first - record.arrival_s).mean()),
        1e3 * float(tpot.mean()),
        float(output.sum()) / max(span, 1e-12),
    )


def _service(pools: Sequence[Pool], gpu: str, engine: EngineConstants, requests: Requests) -> Service:
    workers: list[Worker] = []
    longest = int((requests.prompt_tokens + requests.output_tokens).max())
    for pool in pools:
        pricer = pool.pricer.with_engine(engine)
        # A worker's GPUs each carry an equal part, at once: one of them, with its part, stands for all.
        space = pool.space._replace(
            blocks=min(pool.space.blocks, _most_blocks(pool, requests.clients, longest)),
            block_bytes=pool.space.block_bytes / pool.layout.devices,
        )
        for number in range(pool.count):
            workers.append(Worker(
                f"{pool.role} {number}", SCHEDULERS.get(pool.settings.scheduler), pool.settings, space, pricer,
                groups=pool.layout.attention_dp, role=pool.role, devices=(f"gpu{len(workers)}",), layers=pool.layers,
            ))  # fmt: skip
    apart = len(pools) > 1
    return Service(
        tuple(workers),
        router="least-loaded",
        transfer="end",
        system=fleet(gpu, len(workers)) if apart else None,
        first_token="decode",
        handover_s=1e-6 * engine.handover_us,
        front_end=FrontEnd(1e-6 * engine.request_us, 1e-6 * engine.prompt_token_us),
    )


def _most_blocks(pool: Pool, clients: int, longest: int) -> int:
    """Blocks beyond which a worker has no use for more: room for all clients and a step in every group."""
    size = pool.space.block_tokens
    step = -(-pool.settings.max_num_batched_tokens // size)
    return pool.layout.attention_dp * (clients * (longest // size + 2) + 2 * step)


@cache
def fleet(gpu: str, count: int) -> System:
    """So many GPUs of a kind, each with a port of 400 Gb/s to one network."""
    text = (
        f"name: {count}-{gpu}\ndevices:\n  gpu: {{use: {gpu}, count: {max(count, 2)}}}\n  network: {{use: ib-switch}}\n"
        "links:\n  - {use: ib-ndr, between: [gpu, network]}\n"
    )
    document = read_yaml_text(text, "fleet")
    return compose(parse(SystemFile, document), document)
