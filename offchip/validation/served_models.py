"""What a row of measured serving ran: model, element types, machine, layout and engine settings, by stated rules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

from hw_configs.library import load_system
from hw_configs.problems import bad_input
from hw_configs.system import System
from offchip.validation.reference_gpu import machine_of
from simulator.serving.engine_constants import constants_of
from simulator.serving.pricing import ServedModel
from simulator.serving.settings import EngineSettings, Layout
from workloads import models
from workloads.huggingface import read_config
from workloads.transformer.formats import Format
from workloads.transformer.module_names import EXPERTS
from workloads.workload import WorkloadOptions

__all__ = ["Side", "engine_version", "layout_of", "served_model", "settings_of", "system_of"]

SAME_SHAPE: Final = {
    "deepseek-r1": "deepseek-v3", "deepseek-v3.1": "deepseek-v3", "deepseek-v3-0324": "deepseek-v3",
    "deepseek-r1-0528": "deepseek-v3", "llama-3.3-70b": "llama-3.1-70b", "kimi-k2-instruct": "kimi-k2",
    "kimi-k2.5": "kimi-k2", "kimi-k2.6": "kimi-k2", "kimi-k2-thinking": "kimi-k2", "minimax-m2": "minimax-m2.5",
    "minimax-m2.1": "minimax-m2.5", "minimax-m2.7": "minimax-m2.5", "meta-llama-3.1-8b": "llama-3.1-8b",
    "meta-llama-3.1-70b": "llama-3.1-70b", "meta-llama-3.1-405b": "llama-3.1-405b", "glm-5.1": "glm-5",
}  # fmt: skip
"""Checkpoints whose shape is that of a built-in model (the hub's configs agree but for the tokeniser)."""
ENDINGS: Final = re.compile(
    r"-(fp8|nvfp4|fp4|mxfp4|bf16|instruct|block|dynamic|v2|2507|thinking|static|pertensor)$"
)
QUANTISED: Final = {"fp8": "fp8", "fp8_block": "fp8", "fp4": "nvfp4", "nvfp4": "nvfp4", "mxfp4": "mxfp4"}
SCHEDULER: Final = {"vllm": "vllm", "trtllm": "trtllm-guaranteed-no-evict", "sglang": "prefill-first"}
"""Engines' own policies; SGLang's as it is where no two prompts share a prefix."""
MEMORY: Final = {"vllm": 0.92, "sglang": 0.9, "trtllm": 0.9}
"""Share of device memory that an engine uses by default."""


@dataclass(frozen=True, slots=True)
class Side:
    """One pool of workers of a row: how many, the layout of each, and requests of a batch."""

    workers: int
    layout: Layout
    batch: int


def built_in(name: str) -> str:
    """The built-in model of a hub name: organisation and endings of quantisation or tuning do not change the shape.

    >>> built_in("nvidia/DeepSeek-V3.1-NVFP4")
    'deepseek-v3'
    """
    short = name.rpartition("/")[2].lower()
    known = models.names()
    while True:
        short = SAME_SHAPE.get(short, short)
        if short in known:
            return short
        cut = ENDINGS.sub("", short)
        if cut == short:
            raise bad_input(f"unknown model {name!r}: no built-in model has its shape")
        short = cut


@cache
def served_model(name: str, precision: str, narrow: bool = False) -> ServedModel:
    """A row's model in its element types.

    fp8: 8-bit products and an 8-bit cache; fp4: nvfp4 products in 4-bit arithmetic and an 8-bit cache, but a checkpoint
    that is quantised by itself (gpt-oss: mxfp4 experts) stays as it is, with a cache in its own type. ``narrow``: on
    GPUs whose matrix units take mxfp8, engines' recipes give such experts activations of mxfp8.
    """
    short = built_in(name)
    path = Path(models.__file__).parent / f"{short}.json"
    if not path.is_file():
        raise bad_input(f"{name!r} is no language model")
    decoder, own = read_config(path, WorkloadOptions())
    dtype = QUANTISED.get(precision, "") if precision else ""
    if precision and not dtype:
        raise bad_input(f"unknown precision {precision!r}; known: {', '.join(QUANTISED)}")
    if own.covers == {EXPERTS}:
        if narrow and own.linear.dtype == "mxfp4" and not own.linear.arithmetic:
            own = replace(own, linear=replace(own.linear, arithmetic="mxfp8"))
        return ServedModel(short, decoder, own)
    if not dtype:
        # A checkpoint that is quantised by itself, asked for as bf16, is widened.
        wide = read_config(path, WorkloadOptions(dtype="bf16"))[1]
        return ServedModel(short, decoder, wide)
    if dtype == "fp8" and own.linear.dtype == "fp8":
        return ServedModel(short, decoder, replace(own, kv="fp8"))
    _, asked = read_config(path, WorkloadOptions(dtype=dtype, kv_dtype="fp8"))
    if dtype == "nvfp4":
        asked = replace(asked, linear=Format("nvfp4", "nvfp4"))
    return ServedModel(short, decoder, asked)


def system_of(gpu: str) -> str:
    """The machine of a row's GPU. ``InputError`` for one that is not here."""
    # Sources add the form of the board, or its memory, that no machine of ours tells apart.
    machine = machine_of(gpu) or machine_of(re.split(r"[-_ ]", gpu)[0])
    if machine is None:
        raise bad_input(f"unknown chip {gpu!r}: no machine with it")
    return machine.name


def layout_of(row: Mapping[str, str], prefix: str = "") -> Layout:
    """The layout that a row states; experts without one lie as the rest."""

    def number(name: str) -> int:
        return int(float(row.get(f"{prefix}{name}_size") or 0))

    tp, dp = max(1, number("tp")), max(1, number("attention_dp"))
    moe_tp, moe_ep = number("moe_tp"), number("moe_ep")
    devices = tp * dp
    if moe_tp * moe_ep != devices:
        # A label that is not a division of these devices says nothing (dense models carry 1 x 1).
        moe_tp, moe_ep = (devices, 1) if dp == 1 else (1, devices)
    return Layout(tp=tp, pp=max(1, number("pp")), attention_dp=dp, moe_tp=moe_tp, moe_ep=moe_ep)


def engine_version(engine: str, version: str) -> str:
    """The version of the engine that a row's label means.

    TensorRT-LLM "0.8.1" with prefill and decode apart is the tag of Dynamo 0.8.1's containers, which hold
    TensorRT-LLM 1.2; TensorRT-LLM 0.8 of 2024 knows neither B200 nor DeepSeek-V3.

    >>> engine_version("trtllm", "0.8.1.post1")
    '1.2'
    """
    return "1.2" if engine == "trtllm" and version.startswith("0.8.1") else version


def settings_of(engine: str, version: str, layout: Layout) -> EngineSettings:
    """An engine's defaults; of runs that share no prefix, prefixes are not looked for.

    Tokens of a step and requests that run are those of each group of data-parallel attention; SGLang divides its
    chunk by their number.
    """
    if engine not in MEMORY:
        raise bad_input(f"unknown engine {engine!r}; known: {', '.join(MEMORY)}")
    version = engine_version(engine, version)
    budget = constants_of(engine, version).token_budget
    if engine == "sglang":
        budget = max(budget // layout.attention_dp, 1)
    return EngineSettings(
        engine=engine,
        version=version,
        scheduler=SCHEDULER[engine],
        max_num_batched_tokens=budget,
        gpu_memory_utilization=MEMORY[engine],
        enable_prefix_caching=False,
    )


@cache
def machine(name: str) -> System:
    """A system, loaded once."""
    return load_system(name)
