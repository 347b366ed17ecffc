"""The price of a step by the graph route: every phase simulated as a whole graph, nothing from tables."""

from __future__ import annotations

from pathlib import Path

import offchip
from hw_configs.library import load_system
from simulator.serving.pricing import Pricer, ServedModel, make_pricer
from simulator.serving.settings import EngineSettings, Layout
from workloads import models
from workloads.huggingface import read_config
from workloads.workload import WorkloadOptions


def graph_seconds(
    model: str, system: str, phase: str, batch: int, tokens: int, tp: int, dtype: str | None = None
) -> float:
    """Device seconds of a decode step at a context, or of a prefill, as ``offchip simulate`` gives an engine."""
    done = offchip.simulate(
        model,
        system,
        phase=phase,
        batch=batch,
        prompt=tokens,
        tp=tp,
        dtype=dtype,
        fidelity="analytic",
        engine="vllm",
    )
    return done.phases[0].seconds - done.phases[0].host_added_s


def served(model: str, dtype: str | None = None, kv_dtype: str | None = None) -> ServedModel:
    """A built-in model in an element type."""
    path = Path(models.__file__).parent / f"{model}.json"
    return ServedModel(model, *read_config(path, WorkloadOptions(dtype=dtype, kv_dtype=kv_dtype)))


def pricer(
    model: str, system: str = "dgx-h100", tp: int = 1, dtype: str | None = None, kv_dtype: str | None = None
) -> Pricer:
    """A pricer with the library's and the engine's collectives, as the graph route has them."""
    return make_pricer(
        served(model, dtype, kv_dtype),
        load_system(system),
        Layout(tp=tp),
        EngineSettings(),
    )
