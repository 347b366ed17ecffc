"""Spaces whose points are services: a space file with ``requests`` serves them at every point.

What may be set are the fields of ``ServeOptions``, engine settings as ``settings.NAME``, the requests' file, and
``rate_per_s`` in place of the description's rate. Figures are those of an answer's ``summary()``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field, TypeAdapter

from hw_configs.problems import NoAnswerError
from offchip.sweep.keys import beside
from offchip.sweep.machine import Leaf, Value

if TYPE_CHECKING:
    from hw_configs.system import System
    from offchip.serving.build import Deployment
    from workloads.requests.sources import RequestSource

__all__ = ["ServicePoints", "check_service_option", "service_figures", "service_leaves"]

RATE: Final = "rate_per_s"
REMEMBERED: Final = 8
_TYPES: Final[dict[str, Any]] = {
    "int": Annotated[int, Field(strict=True)], "str": Annotated[str, Field(strict=True)],
}  # fmt: skip


@cache
def service_leaves() -> dict[str, Leaf]:
    """The options of ``serve`` that a space may set, as their class states them."""
    from offchip.serving.options import ServeOptions

    leaves = {}
    for option in fields(ServeOptions):
        kind = str(option.type).split("|")[0].strip()
        if kind in _TYPES:
            leaves[option.name] = Leaf(option.name, None, TypeAdapter(_TYPES[kind]), kind == "int")
    leaves["requests"] = Leaf("requests", None, TypeAdapter(_TYPES["str"]))
    leaves[RATE] = Leaf(RATE, None, TypeAdapter(Annotated[float, Field(gt=0, le=1e9)]))
    return leaves


@cache
def service_figures() -> tuple[str, ...]:
    """Every figure of a service by name."""
    from simulator.serving.result import PERCENTILES

    times = ["mean", *(f"p{p:g}".replace(".", "_") for p in PERCENTILES)]
    names = [
        f"{name}_{time}_s"
        for name in ("ttft", "tpot", "itl", "e2e", "queue", "prefill", "decode")
        for time in times
    ]
    return (
        "duration_s", "requests", "rejected", "finished", "kept", "prompt_tokens", "output_tokens",
        "cached_prompt_tokens", "preemptions", "preempted_requests", "retries", "lost_tokens", "steps", "transfers",
        "attainment", "cache_hit_share", *names, "requests_per_s", "input_tokens_per_s", "output_tokens_per_s",
        "goodput_requests_per_s", "goodput_tokens_per_s", "device_busy", "host_share", "batch", "cache", "cache_peak",
        "energy_j", "idle_energy_j", "dollars", "energy_j_per_million_tokens", "dollars_per_million_tokens",
    )  # fmt: skip


def check_service_option(name: str, value: Value) -> None:
    """``InputError`` for a name that no registry knows, or limits that cannot be read."""
    from simulator.serving.presets import preset
    from simulator.serving.routing import ROUTERS
    from simulator.serving.slo import parse_slo

    if name == "engine":
        preset(str(value))
    elif name == "routing":
        ROUTERS.get(str(value))
    elif name == "slo":
        parse_slo(str(value))


class ServicePoints:
    """Serves points of a space; remembers requests and the last deployments, which other rates use again."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._sources: dict[tuple[str, Any], RequestSource] = {}
        self._deployments: dict[str, Deployment] = {}

    def figures(self, settings: Mapping[str, Value], system: System) -> dict[str, Any]:
        """The figures of a point; those that it does not have are absent."""
        from offchip.serving.options import ServeOptions
        from offchip.serving.serve import run

        known = {field.name for field in fields(ServeOptions)}
        options: dict[str, Any] = {name: value for name, value in settings.items() if name in known}
        options["settings"] = {p[9:]: v for p, v in settings.items() if p.startswith("settings.")}
        asked = ServeOptions(**options)
        source = self._source(beside(str(settings["requests"]), self.folder), asked.seed)
        deployment = self._deployment(beside(str(settings["model"]), self.folder), system, asked, source)
        rate = settings.get(RATE)
        result = run(deployment, source, None if rate is None else source.at_rate(float(str(rate))))
        if result.stopped:
            raise NoAnswerError("stopped")
        return {
            name: value for name, value in result.summary().items() if value is not None and value == value
        }

    def _source(self, path: str, seed: int | None) -> RequestSource:
        from workloads.requests.sources import load_requests

        key = (path, seed)
        if key not in self._sources:
            if len(self._sources) >= REMEMBERED:
                self._sources.pop(next(iter(self._sources)))
            self._sources[key] = load_requests(path, seed)
        return self._sources[key]

    def _deployment(self, model: str, system: System, asked: Any, source: RequestSource) -> Deployment:
        from offchip.serving.build import deploy

        key = repr((model, system.digest, asked, source.requests.adapters))
        if key not in self._deployments:
            if len(self._deployments) >= REMEMBERED:
                self._deployments.pop(next(iter(self._deployments)))
            self._deployments[key] = deploy(model, system, asked, source.requests)
        return self._deployments[key]
