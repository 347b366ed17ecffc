"""A model served on a machine by a mapper's plans: PIM, computational storage, accelerators, CPUs, weights streamed.

Each worker has the whole machine. A step costs what ``offchip simulate`` says of the plan that the mapper writes, at
points of a grid (:mod:`simulator.serving.grid_pricer`); the cache is as large as its plans still fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from hw_configs.problems import InfeasibleError, InputError, Problem
from hw_configs.system import System
from hw_configs.units import format_quantity
from offchip.api import simulate
from offchip.serving.options import ServeOptions
from simulator.serving.capacity import cache_need
from simulator.serving.engine_constants import EngineConstants
from simulator.serving.grid_pricer import LEAST_CONTEXT, Cost, GridPricer
from simulator.serving.pricing import ServedModel
from simulator.serving.scheduler import KvSpace
from simulator.serving.settings import EngineSettings, Layout

__all__ = ["PlannedCapacity", "default_mapper", "make_planned"]

CLOSE: Final = 1.1
"""The search for the largest cache ends when the smallest that does not fit is no more than so many times it."""


@dataclass(frozen=True, slots=True)
class PlannedCapacity:
    """The cache of a worker whose memories a mapper fills."""

    device: str
    mapper: str
    cache: float
    space: KvSpace

    def describe(self) -> dict[str, str]:
        """The cache with where it comes from."""
        size = format_quantity(float(round(self.cache)), "size")
        return {
            "cache": f"{size}: {self.space.blocks} blocks of {self.space.block_tokens} tokens, the most whose plan by "
            f"{self.mapper} fits, to {CLOSE - 1:.0%}"
        }


def default_mapper(system: System) -> str:
    """The mapper for a machine without GPUs."""
    return "pim" if system.of_kind("pim") else "single-device"


def check_planned(asked: ServeOptions, adapters: bool, settings: EngineSettings) -> None:
    """``InputError`` with a line for each option that a mapper's plans do not know."""
    problems = [
        Problem(
            f"found {getattr(asked, name)}; a worker has the whole machine, which the mapper divides",
            path=f"--{name}",
        )
        for name in ("tp", "pp", "ep", "dp")
        if getattr(asked, name) > 1
    ]
    for name in ("host_cache", "drive_cache", "attention_workers"):
        if getattr(asked, name):
            problems.append(
                Problem("cannot stand beside a mapper's plans", path=f"--{name.replace('_', '-')}")
            )
    for name in ("swap", "speculation"):
        if getattr(settings, name):
            problems.append(Problem(f"{name}: a mapper's plans do not know it", path="--set"))
    if adapters:
        problems.append(Problem("a mapper's plans do not know adapters", path="adapters"))
    if asked.prefill_workers:
        problems.append(Problem("a worker has the whole machine, whose links cannot carry caches to another",
                                path="--prefill-workers"))  # fmt: skip
    if problems:
        raise InputError(problems)


def make_planned(
    source: str | Path, model: ServedModel, system: System, asked: ServeOptions, settings: EngineSettings,
    engine: EngineConstants, mapper: str,
) -> tuple[GridPricer, PlannedCapacity]:  # fmt: skip
    """The price of steps and the cache of a worker. ``InfeasibleError`` with the bytes where nothing fits."""
    run = partial(
        simulate,
        str(source),
        system,
        mapper=mapper,
        fidelity="analytic",
        dtype=asked.dtype,
        kv_dtype=asked.kv_dtype,
    )

    def decode(requests: int, context: int) -> Cost:
        result = run(phase="decode", batch=requests, prompt=context)
        return Cost(result.makespan_s, float(result.summary()["energy_j"] or 0.0))

    def prefill(tokens: int) -> Cost:
        result = run(phase="prefill", prompt=tokens)
        return Cost(result.makespan_s, float(result.summary()["energy_j"] or 0.0))

    pricer = GridPricer(decode, prefill, engine, settings, f"plans by {mapper}, simulated")
    tokens = _cache_tokens(pricer, settings)
    need = cache_need(model.decoder, model.precision.cache, Layout())
    blocks = tokens // settings.block_size
    if not blocks:
        raise InfeasibleError(f"{model.name} on {system.name}: room for {tokens} tokens, less than a block")
    space = KvSpace(blocks, settings.block_size, need.token_bytes * settings.block_size, need.sequence_bytes)
    return pricer, PlannedCapacity(system.name, mapper, tokens * need.token_bytes, space)


def _cache_tokens(pricer: GridPricer, settings: EngineSettings) -> int:
    """Tokens of all requests together that the plans have room for: the most requests of the longest context that fits.

    Contexts are tried from the model's length down, then requests up to the engine's bound; the last by bisection.
    """
    context = LEAST_CONTEXT
    while 2 * context <= settings.max_model_len:
        context *= 2
    pricer.insist(1, LEAST_CONTEXT)
    while not pricer.fits(1, context):
        context //= 2
    most = settings.max_num_seqs
    low, high = 1, 2
    while high <= most and pricer.fits(high, context):
        low, high = high, 2 * high
    if high > most:
        return context * most
    while high / low > CLOSE and high - low > 1:
        middle = (low + high) // 2
        if pricer.fits(middle, context):
            low = middle
        else:
            high = middle
    return context * low
