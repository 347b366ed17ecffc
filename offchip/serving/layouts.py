"""The best layout for so many GPUs: every division into replicas, stages and shares is served and compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hw_configs.problems import InfeasibleError, InputError, OffchipError, bad_input
from hw_configs.shown import Shown, Table
from hw_configs.system import System
from hw_configs.units import format_quantity
from offchip.progress import Reporter, silent
from offchip.serving.build import deploy, load_served
from offchip.serving.options import ServeOptions
from offchip.serving.serve import run
from simulator.serving.result import ServingResult
from workloads.requests.sources import RequestSource

__all__ = ["LayoutTried", "LayoutsTried", "best_layout", "layouts_of"]


@dataclass(frozen=True)
class LayoutTried:
    """One layout, and its answer or why there is none."""

    asked: ServeOptions
    result: ServingResult | None
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """The layout with its totals."""
        asked = self.asked
        base: dict[str, Any] = {
            "tp": asked.tp,
            "pp": asked.pp,
            "ep": asked.ep,
            "dp": asked.dp,
            "replicas": asked.replicas,
        }
        if self.result is None:
            return {**base, "reason": self.reason}
        return {**base, "figures": self.result.summary()}


@dataclass(frozen=True)
class LayoutsTried(Shown):
    """All layouts, the best first, those without an answer last."""

    gpus: int
    tried: tuple[LayoutTried, ...]

    @property
    def best(self) -> LayoutTried:
        """The layout with most requests within the limits a second; of equals the one with the shortest times."""
        return self.tried[0]

    def as_json(self) -> dict[str, Any]:
        """The comparison as plain data."""
        return {"gpus": self.gpus, "layouts": [entry.as_json() for entry in self.tried]}

    def shown_tables(self) -> Sequence[Table]:
        """One row a layout."""
        rows = []
        for entry in self.tried:
            words, result = entry.asked.describe_layout(), entry.result
            if result is None:
                rows.append((words, "-", "-", "-", "-", entry.reason.splitlines()[0][:90]))
                continue
            rows.append((
                words, f"{result.throughput['goodput_requests_per_s']:.4g} /s", f"{result.attainment:.1%}",
                format_quantity(result.latency["ttft"].p90, "time"),
                format_quantity(result.latency["tpot"].p90, "time"), "",
            ))  # fmt: skip
        columns = ("layout", "goodput", "within limits", "ttft p90", "tpot p90", "why not")
        return (
            Table(
                f"{self.gpus} GPUs, best layout: {self.best.asked.describe_layout()}", columns, tuple(rows)
            ),
        )


def layouts_of(asked: ServeOptions, gpus: int, experts: bool) -> Iterator[ServeOptions]:
    """Every division of the GPUs that the engine knows; those of experts only for a model that has them.

    >>> [(o.tp, o.replicas) for o in layouts_of(ServeOptions(), 2, experts=False) if o.pp == 1]
    [(1, 2), (2, 1)]
    """
    for devices in _divisors(gpus):
        for tp in _divisors(devices):
            for pp in _divisors(devices // tp):
                dp = devices // tp // pp
                if dp > 1 and not experts:
                    continue
                for ep in _divisors(tp * dp) if experts else (1,):
                    try:
                        yield replace(asked, tp=tp, pp=pp, dp=dp, ep=ep, replicas=gpus // devices)
                    except InputError:
                        continue


def _divisors(number: int) -> list[int]:
    return [part for part in range(1, number + 1) if number % part == 0]


def best_layout(
    model: str | Path,
    hw: str | Path | System | None,
    source: RequestSource,
    asked: ServeOptions,
    gpus: int,
    report: Reporter = silent,
) -> LayoutsTried:
    """Serve the requests with every layout of so many GPUs. ``InfeasibleError`` where none has room."""
    if asked.pools is not None or asked.attention_workers:
        raise bad_input("cannot stand beside pools or attention apart", path="--best-layout")
    if asked.apart:
        raise bad_input("cannot stand beside workers for prefill and decode", path="--best-layout")
    if not 1 <= gpus <= 1024:
        raise bad_input(f"found {gpus}; expected 1 to 1024", path="--gpus")
    served = load_served(model, asked.dtype, asked.kv_dtype)
    experts = any(layer.experts is not None for layer in served.model.decoder.layers)
    tried: list[LayoutTried] = []
    with report("layouts tried", 0) as tally:
        for options in layouts_of(replace(asked, fail=()), gpus, experts):
            try:
                result = run(deploy(model, hw, options, source.requests), source)
                if result.stopped:
                    raise KeyboardInterrupt
                tried.append(LayoutTried(options, result))
            except OffchipError as error:
                tried.append(LayoutTried(options, None, str(error)))
            tally.advance(1)
    ranked = sorted(tried, key=_rank)
    if ranked[0].result is None:
        raise InfeasibleError(f"no layout of {gpus} GPUs serves this: {ranked[0].reason}")
    return LayoutsTried(gpus, tuple(ranked))


def _rank(entry: LayoutTried) -> tuple[bool, float, float]:
    if entry.result is None:
        return True, 0.0, 0.0
    return False, -entry.result.throughput["goodput_requests_per_s"], entry.result.latency["e2e"].mean
