"""What each engine does when nobody tells it otherwise, with the version and source of every default.

Some defaults depend on the chip: its memory in bytes, and for vLLM its name. An operator's own values
(``--set key=value``) replace them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.whole_number import decimal, integer
from simulator.serving.settings import ENGINES, EngineSettings, Speculation

__all__ = ["Default", "Preset", "engine_settings", "preset"]

GIB: Final = 2**30
_VLLM: Final = "vLLM 0.32.0"
_SGLANG: Final = "SGLang 0.5"
_TRTLLM: Final = "TensorRT-LLM 1.3"
_TRUE: Final = ("true", "yes", "on", "1")
_FALSE: Final = ("false", "no", "off", "0")


@dataclass(frozen=True, slots=True)
class Default:
    """A default and where it stands."""

    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class Preset:
    """An engine's defaults by the names of :class:`EngineSettings`."""

    engine: str
    version: str
    defaults: Mapping[str, Default]


def preset(engine: str, memory_bytes: float = 80 * GIB, device: str = "") -> Preset:
    """An engine's defaults on a chip with so much memory.

    >>> preset("vllm", 80 * GIB).defaults["max_num_batched_tokens"].value
    8192
    """
    if engine not in ENGINES:
        raise bad_input(f"found {engine!r}; known: {', '.join(ENGINES)}", path="--engine",
                        suggestion=nearest(engine, ENGINES))  # fmt: skip
    if engine == "vllm":
        return Preset(engine, _VLLM, _vllm(memory_bytes, device))
    if engine == "sglang":
        return Preset(engine, _SGLANG, _sglang(memory_bytes))
    return Preset(engine, _TRTLLM, _trtllm())


def _vllm(memory_bytes: float, device: str) -> dict[str, Default]:
    large = memory_bytes >= 70 * GIB and "a100" not in device.lower()
    batch = "vllm/engine/arg_utils.py: get_batch_defaults, API server, " + (
        "GPUs of 70 GiB and more but A100" if large else "other GPUs"
    )
    cache, sched = "vllm/config/cache.py", "vllm/config/scheduler.py"
    return {
        "scheduler": Default("vllm", "vllm/v1/core/sched/scheduler.py"),
        "max_num_batched_tokens": Default(8192 if large else 2048, batch),
        "max_num_seqs": Default(1024 if large else 256, batch),
        "block_size": Default(16, f"{cache}: DEFAULT_BLOCK_SIZE"),
        "gpu_memory_utilization": Default(0.92, cache),
        "enable_prefix_caching": Default(True, cache),
        "enable_chunked_prefill": Default(True, sched),
        "policy": Default("fcfs", sched),
        "long_prefill_token_threshold": Default(0, sched),
        "scheduler_reserve_full_isl": Default(True, sched),
        "watermark": Default(0.0, sched),
        "async_scheduling": Default(True, f"{sched}: on where the executor can"),
        "cuda_graphs": Default(True, "vllm/config/compilation.py: on unless enforce_eager"),
    }


def _sglang(memory_bytes: float) -> dict[str, Default]:
    chunk = 2048 if memory_bytes < 35 * GIB else 8192 if memory_bytes < 160 * GIB else 16384
    args = "sglang/srt/server_args.py"
    return {
        "scheduler": Default("sglang", "sglang/srt/managers/scheduler.py: radix tree, prefill before decode"),
        "max_num_batched_tokens": Default(chunk, f"{args}: chunked_prefill_size by the GPU's memory"),
        "max_num_seqs": Default(4096, "sglang/srt/model_executor: max_running_requests is at most 4096"),
        "block_size": Default(1, f"{args}: page_size"),
        "gpu_memory_utilization": Default(
            0.88, f"{args}: mem_fraction_static where the GPU's memory is not known"
        ),
        "enable_prefix_caching": Default(True, f"{args}: disable_radix_cache is off"),
        "enable_chunked_prefill": Default(True, f"{args}: chunked_prefill_size is set"),
        "policy": Default("fcfs", f"{args}: schedule_policy"),
        "async_scheduling": Default(True, f"{args}: disable_overlap_schedule is off"),
        "cuda_graphs": Default(True, f"{args}: disable_cuda_graph is off"),
    }


def _trtllm() -> dict[str, Default]:
    args = "tensorrt_llm/llmapi/llm_args.py"
    return {
        "scheduler": Default(
            "trtllm-guaranteed-no-evict", f"{args}: CapacitySchedulerPolicy.GUARANTEED_NO_EVICT"
        ),
        "max_num_batched_tokens": Default(8192, f"{args}: max_num_tokens"),
        "max_num_seqs": Default(2048, f"{args}: max_batch_size"),
        "block_size": Default(32, f"{args}: KvCacheConfig.tokens_per_block"),
        "gpu_memory_utilization": Default(
            0.9, f"{args}: KvCacheConfig.free_gpu_memory_fraction, of what weights leave"
        ),
        "enable_prefix_caching": Default(True, f"{args}: KvCacheConfig.enable_block_reuse"),
        "enable_chunked_prefill": Default(False, f"{args}: enable_chunked_prefill"),
        "policy": Default("fcfs", "first come, first served"),
        "async_scheduling": Default(True, f"{args}: disable_overlap_scheduler is off"),
        "cuda_graphs": Default(True, f"{args}: CudaGraphConfig"),
    }


def engine_settings(base: Preset, given: Mapping[str, object]) -> EngineSettings:
    """The preset's settings with an operator's own; texts are read by each setting's type.

    ``speculation`` is given by parts: ``speculation.method``, ``speculation.tokens``, ``speculation.acceptance``.
    """
    values: dict[str, Any] = {name: default.value for name, default in base.defaults.items()}
    values.update(engine=base.engine)
    speculation: dict[str, Any] = {}
    kinds = {field.name: str(field.type) for field in fields(EngineSettings)}
    inner = {f"speculation.{field.name}": str(field.type) for field in fields(Speculation)}
    problems: list[Problem] = []
    for name, value in given.items():
        kind = kinds.get(name) or inner.get(name)
        if kind is None or name in ("engine", "speculation"):
            known = [*(n for n in kinds if n not in ("engine", "speculation")), *inner]
            problems.append(Problem(f"unknown setting {name!r}; see --describe", path="--set",
                                    suggestion=nearest(name, known)))  # fmt: skip
            continue
        try:
            read = _read(value, kind)
        except ValueError as error:
            problems.append(Problem(f"{name}: {error}", path="--set"))
            continue
        if name in inner:
            speculation[name.partition(".")[2]] = read
        else:
            values[name] = read
    problems += _out_of_range(values, speculation)
    if problems:
        raise InputError(problems)
    if speculation:
        values["speculation"] = Speculation(**speculation)
    return EngineSettings(**values)


def _out_of_range(values: Mapping[str, Any], speculation: Mapping[str, Any]) -> list[Problem]:
    problems = []
    if not 0 < values["gpu_memory_utilization"] <= 1:
        found = f"gpu_memory_utilization: found {values['gpu_memory_utilization']}; expected a share above 0 up to 1"
        problems.append(Problem(found, path="--set"))
    if not 0 <= values.get("watermark", 0.0) < 1:
        problems.append(
            Problem(f"watermark: found {values['watermark']}; expected 0 to below 1", path="--set")
        )
    if speculation:
        missing = [name for name in ("method", "tokens") if name not in speculation]
        problems += [Problem(f"missing setting 'speculation.{name}'", path="--set") for name in missing]
        if not 0 <= speculation.get("acceptance", 0.7) <= 1:
            problems.append(Problem(f"speculation.acceptance: found {speculation['acceptance']}; expected 0 to 1",
                                    path="--set"))  # fmt: skip
        if speculation.get("tokens", 1) < 1:
            problems.append(Problem(f"speculation.tokens: found {speculation['tokens']}; expected 1 or more",
                                    path="--set"))  # fmt: skip
    return problems


def _read(value: object, kind: str) -> Any:
    """A setting's value from text or as it is; ``ValueError`` for one of another type."""
    if kind.startswith("Literal"):
        words = [word.strip(" \"'") for word in kind[len("Literal[") : -1].split(",")]
        if value not in words:
            raise ValueError(f"found {value!r}; expected {', '.join(words)}")
        return value
    if kind == "bool" and not isinstance(value, str) and value in (0, 1):
        return bool(value)
    if not isinstance(value, str):
        wanted: tuple[type, ...] = {"int": (int,), "float": (int, float), "bool": (bool,)}.get(kind, (str,))
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "bool"):
            raise ValueError(f"found {value!r}; expected {kind}")
        return value
    if kind == "bool":
        if value.lower() not in (*_TRUE, *_FALSE):
            raise ValueError(f"found {value!r}; expected true or false")
        return value.lower() in _TRUE
    if kind in ("int", "float"):
        number = integer(value, -(2**62), 2**62) if kind == "int" else decimal(value)
        if number is None:
            raise ValueError(f"found {value!r}; expected a {'whole ' if kind == 'int' else ''}number")
        return number
    return value
