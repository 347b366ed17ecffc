"""Serve requests with a model on a machine: ``offchip serve`` as a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Unpack

import numpy as np

from hw_configs.problems import InputError, Problem, bad_input
from hw_configs.system import System
from hw_configs.units import format_quantity
from offchip.keywords import from_keywords
from offchip.progress import Reporter, silent
from offchip.serving.build import Deployment, deploy
from offchip.serving.options import ServeChoices, ServeOptions
from simulator.serving.cluster import run_service
from simulator.serving.result import ServingResult
from simulator.serving.taken import refusals
from workloads.requests import Requests
from workloads.requests.sources import RequestSource, load_requests

if TYPE_CHECKING:
    from offchip.serving.find_rate import FoundRate

__all__ = ["find_serving_rate", "run", "serve", "source_of", "too_short"]

MOST_TOLD: Final = 5
"""Requests that can never be answered that are named."""
ENOUGH: Final = 10
"""Median answers that arrivals must last for a load to count as lasting."""


def serve(
    model: str | Path,
    hw: str | Path | System | None,
    requests: str | Path | Requests,
    *,
    report: Reporter = silent,
    **options: Unpack[ServeChoices],
) -> ServingResult:
    """Serve requests, step by step as an engine does it.

    ``requests``: a description (YAML), a trace, or :class:`~workloads.requests.Requests`. Options are the fields of
    :class:`~offchip.serving.options.ServeOptions`. Raises ``InputError`` for bad input, ``InfeasibleError`` when the
    weights leave no room. An interrupt ends the run, and the result holds what was answered until then.

    >>> from workloads.requests import make_requests
    >>> result = serve("llama-3-8b", "h100-sxm", make_requests([500] * 4, [20] * 4))
    >>> result.counts["finished"], result.latency["tpot"].mean < 0.1
    (4, True)
    """
    asked = from_keywords(ServeOptions, options)
    source = source_of(requests, asked.seed)
    deployment = deploy(model, hw, asked, source.requests)
    with report("requests answered", source.requests.count) as tally:
        return run(deployment, source, advance=tally.advance)


def source_of(requests: str | Path | Requests | RequestSource, seed: int | None = None) -> RequestSource:
    """Requests with where they come from."""
    if isinstance(requests, RequestSource):
        return requests
    if isinstance(requests, Requests):
        if not requests.count:
            raise bad_input("found no request", file=requests.name)
        return RequestSource(requests, seed=seed)
    return load_requests(requests, seed)


def run(
    deployment: Deployment,
    source: RequestSource,
    requests: Requests | None = None,
    advance: Callable[[int], None] | None = None,
) -> ServingResult:
    """Run a deployment; ``requests`` in place of the source's, such as the same ones at another rate.

    Requests that no worker can ever answer are rejected, each with its reason, and the others served. ``InputError``
    where there are no others, or with the option ``strict``.
    """
    served = requests if requests is not None else source.requests
    refused = refusals(served, deployment.service.workers)
    if refused and (deployment.asked.strict or len(refused) == served.count):
        raise InputError(_too_long(served, refused))
    if refused:
        kept = np.ones(served.count, np.bool_)
        kept[list(refused)] = False
        record = run_service(served.part(kept), deployment.service, advance).with_rejected(kept, refused)
    else:
        record = run_service(served, deployment.service, advance)
    own = source.description.seed if source.description is not None else 0
    facts = deployment.facts(served, own if source.seed is None else source.seed, source.notes)
    return ServingResult(record, served, facts, deployment.asked.limits)


def _too_long(requests: Requests, refused: dict[int, str]) -> list[Problem]:
    """A line for each of the first requests that can never be answered."""
    more = f" ({len(refused)} requests can never be answered)" if len(refused) > 1 else ""
    return [
        Problem(f"found {why}{more if place == 0 else ''}", requests.name, path=f"request {request}")
        for place, (request, why) in enumerate(list(refused.items())[:MOST_TOLD])
    ]


def find_serving_rate(
    deployment: Deployment, source: RequestSource, tolerance: float = 0.02, report: Reporter = silent
) -> tuple[FoundRate, ServingResult]:
    """The largest rate within the limits, and the answer at that rate. ``InputError`` without limits."""
    from offchip.serving.find_rate import find_rate

    slo = deployment.asked.limits
    if slo.empty:
        raise bad_input("a search needs limits, such as --slo ttft=200ms,tpot=30ms", path="--find-rate")
    answers: dict[float, ServingResult] = {}
    with report("rates tried", 0) as tally:

        def probe(rate: float) -> tuple[float, float]:
            answers[rate] = run(deployment, source, source.at_rate(rate))
            tally.advance(1)
            if answers[rate].stopped:
                raise KeyboardInterrupt
            return answers[rate].attainment, answers[rate].throughput["goodput_requests_per_s"]

        found = find_rate(probe, slo.attainment, source.rate or 1.0, tolerance)
    return replace(found, note=too_short(answers[found.rate])), answers[found.rate]


def too_short(result: ServingResult) -> str:
    """A warning where requests arrive in so short a time that a queue could not grow; empty where they do not."""
    arrivals, usual = result.requests.arrival_s, result.latency["e2e"].p50
    window = float(arrivals.max() - arrivals.min())
    if not window < ENOUGH * usual:
        return ""
    return (
        f"the requests arrive in {format_quantity(window, 'time')}, less than {ENOUGH} times the median answer of "
        f"{format_quantity(usual, 'time')}: a lasting load is not shown; give more requests"
    )
