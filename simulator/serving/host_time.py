"""Host time of an engine's step beside the devices' time, for models that are simulated step by step.

Three kinds of constants stand in ``engine_constants.json``, one home for all. For engine versions that serving was
fitted on, a step's host time is theirs (``engines``). For older versions, whole-model runs gave one figure per layer
and sequence (``whole_steps``, written by ``calibration/fit_host.py``). For engines without measured rows it is an
assumption with its reason. Of the shorter of host and device time, the share ``overlap`` passes beside the longer, as
in serving.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from hw_configs.problems import bad_input, nearest
from simulator.serving.engine_constants import constants_of

__all__ = ["HOST_ENGINES", "NO_ENGINE", "HostTime", "host_time", "measured_as"]

NO_ENGINE: Final = "none"
HOST_ENGINES: Final = (NO_ENGINE, "vllm", "sglang", "trtllm", "gpt-fast", "huggingface", "llama.cpp")
"""Engines whose host time is known or assumed; ``none`` for devices alone."""
OWN_ALL_REDUCE: Final = frozenset({"vllm", "sglang", "trtllm"})
"""Engines whose served versions bring an all-reduce along: vLLM's and SGLang's custom all-reduce, TensorRT-LLM's
one-shot and two-shot kernels (their repositories); older versions say it in the constants. Others call the GPU library.
"""


@dataclass(frozen=True, slots=True)
class HostTime:
    """What an engine's host takes for a step, in seconds: for itself, a layer, a sequence and a prompt token.

    ``overlap`` is the share of the shorter of host and device time that passes beside the longer. ``versions`` are
    those of the engine that the figures stand for; ``origin`` is ``source`` or ``assumption``, ``reason`` its words.
    ``own_all_reduce``: the engine's own all-reduce takes the GPU library's place where it is quicker.
    """

    engine: str
    versions: str
    step_s: float
    layer_s: float
    sequence_s: float
    token_s: float
    overlap: float
    origin: str
    reason: str
    own_all_reduce: bool = False

    def seconds(self, layers: int, sequences: int, prompt_tokens: int) -> float:
        """Host seconds of a step over so many layers, sequences and tokens of prompts."""
        work = self.layer_s * layers + self.sequence_s * sequences + self.token_s * prompt_tokens
        return self.step_s + work

    def added(self, device_s: float, host_s: float) -> float:
        """Seconds by which a step lasts longer than its devices' time.

        >>> beside = HostTime("x", "", 0.0, 0.0, 0.0, 0.0, 1.0, "assumption", "")
        >>> beside.added(2.0, 0.5), beside.added(2.0, 3.0)
        (0.0, 1.0)
        """
        return host_s - self.overlap * min(device_s, host_s)

    def as_json(self) -> dict[str, Any]:
        """The constants in SI units, with where they come from."""
        figures = {
            name: getattr(self, name) for name in ("step_s", "layer_s", "sequence_s", "token_s", "overlap")
        }
        return {"engine": self.engine, "versions": self.versions, **figures, self.origin: self.reason}


def host_time(engine: str, version: str = "") -> HostTime | None:
    """The host time of an engine's version, without one the newest; None for ``none``.

    Raises ``InputError`` for an unknown engine, and for a version that is no version.
    """
    if engine not in HOST_ENGINES:
        raise bad_input(
            f"found {engine!r}; expected one of {', '.join(HOST_ENGINES)}", path="--engine",
            suggestion=nearest(engine, HOST_ENGINES),
        )  # fmt: skip
    if version and not re.fullmatch(r"v?\d+(\.\d+)*([.-]?\w+)?", version):
        raise bad_input(f"found {version!r}; expected a version, such as 0.14", path="--engine-version")
    if engine == NO_ENGINE:
        if version:
            raise bad_input("a version needs an engine", path="--engine-version")
        return None
    for entry in _whole_steps().get(engine, ()):
        newest_of_all = not version and not entry["until"]
        if newest_of_all or (version and _key(version) < (_key(entry["until"]) or [10**9])):
            return _of_whole_steps(engine, entry)
    constants = constants_of(engine, version)
    return HostTime(
        engine, f"from {constants.since}" if constants.since != "0" else "all that were fitted",
        constants.step_us * 1e-6, 0.0, constants.sequence_us * 1e-6, constants.chunk_token_us * 1e-6,
        constants.overlap, "source", f"{constants.source}, {constants.rows} rows", engine in OWN_ALL_REDUCE,
    )  # fmt: skip


def measured_as(name: str) -> HostTime | None:
    """The host time fitted on whole-model rows whose source calls the engine so, in lower case; None if none was."""
    for engine, entries in _whole_steps().items():
        for entry in entries:
            if entry["measured_as"] == name:
                return _of_whole_steps(engine, entry)
    return None


def _of_whole_steps(engine: str, entry: Mapping[str, Any]) -> HostTime:
    origin = "source" if "source" in entry else "assumption"
    reason = entry[origin] + (f", {entry['rows']} rows" if entry["rows"] else "")
    since, until = (entry[name] for name in ("since", "until"))
    versions = " ".join((f"from {since}" if since != "0" else "", f"before {until}" if until else "")).strip()
    return HostTime(
        engine, versions or "all", entry["step_us"] * 1e-6, entry["layer_us"] * 1e-6, entry["sequence_us"] * 1e-6,
        0.0, entry["overlap"], origin, reason, bool(entry["own_all_reduce"]),
    )  # fmt: skip


@cache
def _whole_steps() -> dict[str, list[dict[str, Any]]]:
    text = files("simulator.serving").joinpath("engine_constants.json").read_text(encoding="utf-8")
    return dict(json.loads(text)["whole_steps"])


def _key(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]
