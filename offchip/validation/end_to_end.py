"""Whole models of a reference folder (``end_to_end.csv``): language-model inference through the simulator.

A row of plain inference is run as one prefill and one decode step in the middle of the generation, on the
node that its hardware names, tensor parallel over its devices. To the devices' time comes the serving
engine's host time of a step: one constant per engine, spent once per layer and once per sequence
(:data:`ENGINES`). FP32 forward passes and training steps on one GPU are those of :mod:`.eager_steps`. Steps over
several GPUs, single layers and offloaded runs are unsupported rows with a note.

A row is ok when prefill and decode are within 20 %, or, where it has neither, its end-to-end time or else its
throughput. (Splitwise's end-to-end times belong to requests that stopped early; they are shown, not judged.)
"""

from __future__ import annotations

import csv
import fnmatch
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

from hw_configs.library import load_system
from hw_configs.problems import InputError, OffchipError, Problem, bad_input
from hw_configs.system import System
from offchip.validation import eager_steps
from offchip.validation.reference_gpu import machine_of
from offchip.validation.registry import Options, RowResult
from simulator.serving.host_time import NO_ENGINE, measured_as
from workloads import models
from workloads.transformer.shape import Decoder, has_experts

__all__ = ["ENGINES", "MODELS", "Step", "figures_of", "run_end_to_end", "step_of"]

MODELS: Final = {
    "llama2-70b": "llama-2-70b",
    "bloom-176b": "bloom-176b",
    "llama-2-7b-hf": "llama-2-7b",
    "llama-2-70b-hf": "llama-2-70b",
    "meta-llama-3-8b": "llama-3-8b",
    "meta-llama-3-70b": "llama-3-70b",
    "mistral-7b-v0.1": "mistral-7b",
    "mixtral-8x7b-v0.1": "mixtral-8x7b",
    "qwen2-7b": "qwen2-7b",
    "qwen2-72b": "qwen2.5-72b",
    "llama-7b": "llama-2-7b",
    "opt-6.7b": "opt-6.7b",
}
"""Built-in models by the sources' names, lower case, without the organisation; equal shapes are equal."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A serving engine: the cost model for its kernels, and its host's milliseconds per layer and sequence.

    The time is the one constant per engine that whole models may set; ``calibration/fit_host.py`` fits it. ``name`` and
    ``version`` say whose all-reduce runs, as ``simulate --engine`` takes them. ``same_prompts``: its benchmark gives
    every sequence of a batch the same prompt.
    """

    cost_model: str
    host_ms: float
    name: str = NO_ENGINE
    version: str = ""
    same_prompts: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """A row's run: device seconds of a prefill and of a decode step, and what the host's time depends on."""

    prefill_s: float
    decode_s: float
    layers: int
    batch: int
    prompt: int
    output: int
    note: str


def _host_ms(engine: str) -> float:
    """Milliseconds per layer and sequence that were fitted on the rows of that source's engine."""
    found = measured_as(engine)
    return found.layer_s * 1e3 if found is not None else 0.0


ENGINES: Final = {
    name: Engine(cost_model, _host_ms(name), engine, version, same_prompts)
    for name, cost_model, engine, version, same_prompts in (
        ("vllm (modified; splitwise paper)", "by-device-eager", "vllm", "0.2", False),
        ("vllm", "by-device", "vllm", "0.5", False),
        ("tensorrt-llm", "by-device", "trtllm", "0.10", True),
    )
}
"""Engines by the sources' names, lower case. The engine of 2023 launches kernels one by one. LLM-Inference-Bench's
script for TensorRT-LLM (``generate_input`` of its ``run_precision_bench.py``) gives one prompt ``batch_size`` times and
decodes greedily; its vLLM script draws each prompt at random."""
DEVICES_ALONE: Final = Engine("by-device", 0.0)
FIGURES: Final = ("prefill_ms", "decode_ms_per_token", "e2e_ms", "throughput_tok_s")
OK_WITHIN: Final = 0.20


def run_end_to_end(path: Path, rows: str, options: Options) -> Iterator[RowResult]:
    """Rows whose id (the column ``id``, else the line of the file) matches the glob, in the file's order."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = {"kind", "model", "hardware", "n_devices", "batch", "input_tokens"} - set(
            reader.fieldnames or ()
        )
        if missing:
            raise InputError([Problem("missing column", str(path), 1, name) for name in sorted(missing)])
        for cells in reader:
            row = {key: (text or "").strip() for key, text in cells.items() if key is not None}
            identity = row.get("id") or str(reader.line_num)
            if fnmatch.fnmatchcase(identity, rows):
                yield _run_row(identity, row, f"{path}:{reader.line_num}", options)


def _run_row(identity: str, row: Mapping[str, str], where: str, options: Options) -> RowResult:
    expected = {name: _number(row[name], where, name) for name in FIGURES if row.get(name)}
    groups = {"source": row.get("source", ""), "hardware": row["hardware"]}
    start = time.perf_counter()
    try:
        ours, note = _predict(row, where, options)
    except OffchipError as error:
        return RowResult(
            identity, expected, {}, 0.0, "unsupported", None, str(error).partition("\n")[0], groups
        )
    seconds = time.perf_counter() - start
    ours = {name: ours[name] for name in expected if name in ours}
    judged = [name for name in FIGURES[:2] if name in ours] or [name for name in FIGURES if name in ours][:1]
    if not judged:
        return RowResult(identity, expected, {}, seconds, "unsupported", None, note, groups)
    worst = max((ours[name] / expected[name] - 1 for name in judged), key=abs)
    within = abs(worst) <= OK_WITHIN
    return RowResult(identity, expected, ours, seconds, "ok" if within else "off", worst, note, groups)


def _predict(row: Mapping[str, str], where: str, options: Options) -> tuple[dict[str, float], str]:
    if row["kind"] in eager_steps.KINDS:
        batch, tokens = (int(_number(row[name], where, name)) for name in ("batch", "input_tokens"))
        seconds, note = eager_steps.predict_step(row, batch, tokens)
        return ({} if seconds is None else {"e2e_ms": seconds * 1e3}), note
    engine = ENGINES.get(row.get("framework", "").lower(), DEVICES_ALONE)
    step = step_of(row, where, replace(engine, cost_model=options.cost_model or engine.cost_model))
    if isinstance(step, str):
        return {}, step
    return figures_of(step, engine.host_ms), step.note


def step_of(row: Mapping[str, str], where: str, engine: Engine) -> Step | str:
    """Device times of a row of inference, or why it has no scenario; ``InputError`` for cells that are no numbers."""
    if row["kind"] != "inference":
        return f"no scenario for {row['kind']!r}"
    model = MODELS.get(row["model"].rpartition("/")[2].lower(), "")
    if model not in models.names():
        return f"no built-in model for {row['model']!r}"
    batch, prompt, devices = (
        int(_number(row[name], where, name)) for name in ("batch", "input_tokens", "n_devices")
    )
    machine = machine_of(row["hardware"], devices)
    if machine is None:
        return f"no system for {devices} x {row['hardware']!r}"
    output = int(_number(row.get("output_tokens") or "1", where, "output_tokens"))
    return Step(
        _seconds(model, machine.name, devices, "prefill", batch, prompt, engine),
        _seconds(model, machine.name, devices, "decode", batch, prompt + output // 2, engine),
        _layers(model), batch, prompt, output, f"{model} on {devices} devices of {machine.name}",
    )  # fmt: skip


def figures_of(step: Step, host_ms: float) -> dict[str, float]:
    """What a row measures, with so many milliseconds of host time per layer and sequence."""
    host = host_ms * 1e-3 * (step.layers + step.batch)
    prefill, decode = host + step.prefill_s, host + step.decode_s
    whole = prefill + max(0, step.output - 1) * decode
    return {
        "prefill_ms": prefill * 1e3,
        "decode_ms_per_token": decode * 1e3,
        "e2e_ms": whole * 1e3,
        "throughput_tok_s": step.batch * (step.prompt + step.output) / whole,
    }


@cache
def _seconds(
    model: str, system: str, devices: int, phase: str, batch: int, tokens: int, engine: Engine
) -> float:
    """Seconds of the devices, and of the engine's own all-reduce between them."""
    from offchip.api import simulate

    done = simulate(
        model, _machine(system), phase=phase, batch=batch, prompt=tokens, tp=devices, fidelity="analytic",
        cost_model=engine.cost_model, engine=engine.name, engine_version=engine.version,
        same_prompts=engine.same_prompts and _has_experts(model),
    )  # fmt: skip
    return done.phases[0].seconds - done.phases[0].host_added_s


@cache
def _machine(name: str) -> System:
    """A shipped system, read once."""
    return load_system(name)


@cache
def _decoder(model: str) -> Decoder | None:
    """A built-in language model; None for one that is built otherwise than from a config."""
    from workloads.huggingface import read_config
    from workloads.workload import WorkloadOptions

    config = Path(models.__file__).parent / f"{model}.json"
    return read_config(config, WorkloadOptions())[0] if config.is_file() else None


def _layers(model: str) -> int:
    """Layers of a built-in language model; none where that is not known."""
    decoder = _decoder(model)
    return len(decoder.layers) if decoder is not None else 0


def _has_experts(model: str) -> bool:
    decoder = _decoder(model)
    return decoder is not None and has_experts(decoder)


def _number(text: str, where: str, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value > 0:
        file, _, line = where.rpartition(":")
        raise bad_input(
            f"found {text!r}; expected a number above zero", file=file, line=int(line), path=column
        )
    return value
