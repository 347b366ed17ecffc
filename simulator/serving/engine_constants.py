"""What an engine adds to its kernels: host time of a step, slower kernels, time of a request before and after.

One set per engine and range of versions, written by ``calibration/fit_serving.py`` from public runs alone; nothing
belongs to a model or a chip.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from hw_configs.problems import bad_input, nearest

__all__ = ["EngineConstants", "constants_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConstants:
    """Constants of an engine from version ``since`` on. Microseconds, or factors on device time.

    A step's host time is ``step_us`` and ``sequence_us`` a request and ``chunk_token_us`` a prefill token; the share
    ``overlap`` of the shorter of host and device passes beside the longer. ``kernel_factor``: device time of a step
    over
    that of the kernel model; ``prefill_factor``: the same for steps with prefill chunks. A request passes a front end
    that
    takes ``request_us`` and ``prompt_token_us`` a prompt token, one request after another (HTTP, tokeniser); its
    tokens reach
    the client ``reply_us`` after the step, and the first with ``held_tokens`` after it (streaming in intervals).
    ``handover_us``: where prefill and decode are apart, from a cache's arrival until the worker for decode may begin
    (the router's second request, the connection between the two).
    ``eager_launch_us``: host time of a kernel's launch where no CUDA graph has it (assumption). ``token_budget``:
    tokens of
    a step; ``mixed``: whether prefills and decodes share steps.
    """

    since: str
    step_us: float
    sequence_us: float
    chunk_token_us: float
    request_us: float
    prompt_token_us: float
    kernel_factor: float
    prefill_factor: float
    overlap: float
    reply_us: float
    held_tokens: float
    handover_us: float
    eager_launch_us: float
    token_budget: int
    mixed: bool
    rows: int
    source: str

    def describe(self) -> dict[str, str]:
        """Each figure with its unit and source."""
        units = {
            "kernel_factor": "times",
            "prefill_factor": "times",
            "overlap": "share",
            "held_tokens": "tokens",
            "token_budget": "tokens",
            "mixed": "",
        }
        figures = [n for n in type(self).__dataclass_fields__ if n not in ("since", "rows", "source")]
        return {
            name: f"{getattr(self, name):g} {units.get(name, 'us')} ({self.source}, {self.rows} rows)".replace(
                "  ", " "
            )
            for name in figures
        }


@cache
def _file() -> dict[str, Any]:
    text = files("simulator.serving").joinpath("engine_constants.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def constants_of(engine: str, version: str = "") -> EngineConstants:
    """The constants of an engine's version: the newest set that is not newer; without a version the newest.

    >>> constants_of("vllm", "0.12.0").overlap >= 0
    True
    """
    engines = _file()["engines"]
    if engine not in engines:
        raise bad_input(
            f"unknown engine {engine!r}; known: {', '.join(engines)}", suggestion=nearest(engine, engines)
        )
    sets = [EngineConstants(**entry) for entry in engines[engine]]
    if not version:
        return sets[-1]
    older = [entry for entry in sets if _key(entry.since) <= _key(version)]
    return older[-1] if older else sets[0]


def _key(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]
