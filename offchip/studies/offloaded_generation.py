"""A generation with its KV cache outside the GPU, as the studies of offloading measure it.

Prefill is one run. Decode steps are run at three contexts and their sum follows by Simpson's rule: a step's
time is a constant plus a part that grows with the context, so that three points carry the integral.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hw_configs.system import System
from mapping.mapper import MapperOptions, mapper_settings, plan_writer
from simulator.plan import Plan
from simulator.result import Result
from simulator.simulate import simulate
from workloads.graph import Graph
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["Generation", "decode_step", "generation", "prefill"]


@dataclass(frozen=True, slots=True)
class Generation:
    """Seconds of prefill and of all decode steps; tokens made per second over both."""

    batch: int
    prefill_s: float
    decode_s: float
    tokens: int

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all sequences over the whole time."""
        return self.tokens / (self.prefill_s + self.decode_s)


def decode_step(
    model: str,
    system: System,
    batch: int,
    context: int,
    settings: Mapping[str, str],
    mapper: str = "offload-kv",
) -> Result:
    """One decode step at a context."""
    return _run(model, system, WorkloadOptions(phase="decode", batch=batch, prompt=context), settings, mapper)


def prefill(
    model: str,
    system: System,
    batch: int,
    prompt: int,
    settings: Mapping[str, str],
    mapper: str = "offload-kv",
) -> Result:
    """The prompt's pass, in which the cache is written where it will live."""
    return _run(model, system, WorkloadOptions(phase="prefill", batch=batch, prompt=prompt), settings, mapper)


def _run(
    model: str, system: System, options: WorkloadOptions, settings: Mapping[str, str], mapper: str
) -> Result:
    writer = plan_writer(mapper)
    chosen = MapperOptions(settings=mapper_settings(mapper, settings, "plan"))

    def plan(graph: Graph, machine: System) -> Plan:
        return writer.plan(graph, machine, chosen)

    return simulate(load_workload(model, options), system, plan)


def generation(
    model: str,
    system: System,
    batch: int,
    prompt: int,
    generate: int,
    settings: Mapping[str, str],
    prompt_batch: int = 8,
    mapper: str = "offload-kv",
) -> Generation:
    """Times of a generation of ``generate`` tokens per sequence.

    The prompt is taken in by ``prompt_batch`` sequences at a time, which bounds its activations.
    """
    at_once = min(batch, prompt_batch)
    first = prefill(model, system, at_once, prompt, settings, mapper).makespan_s * (batch / at_once)
    low, middle, high = (
        decode_step(model, system, batch, context, settings, mapper).makespan_s
        for context in (prompt + 1, prompt + generate // 2, prompt + generate)
    )
    steps = generate - 1
    return Generation(batch, first, steps * (low + 4 * middle + high) / 6, batch * generate)
