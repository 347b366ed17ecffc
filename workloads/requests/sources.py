"""Requests by name of a file: a description in YAML, or a trace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from hw_configs.problems import bad_input
from workloads.requests.description import RequestDescription, draw_requests, read_description
from workloads.requests.files import read_requests
from workloads.requests.one_adapter import OneAdapter
from workloads.requests.table import Requests

__all__ = ["RequestSource", "load_requests"]


@dataclass(frozen=True)
class RequestSource:
    """Requests and where they come from. ``description`` is None for a trace; its rate cannot be turned."""

    requests: Requests
    description: RequestDescription | None = None
    seed: int | None = None
    notes: tuple[str, ...] = ()
    adapter: OneAdapter | None = None
    """What the adapters of the requests are, in place of what they say."""

    def with_adapter(self, adapter: OneAdapter) -> RequestSource:
        """The same requests with the adapter of a folder."""
        return replace(self, requests=adapter.on(self.requests), adapter=adapter)

    def at_rate(self, rate: float) -> Requests:
        """The same requests at another mean rate in requests (or sessions) per second; the same seed."""
        if self.description is not None:
            drawn = draw_requests(self.description.at_rate(rate), self.seed)
            return drawn if self.adapter is None else self.adapter.on(drawn)
        own = self.requests
        last = float(own.arrival_s.max(initial=0.0))
        if own.clients or last <= 0:
            raise bad_input("these requests have no arrival rate to turn", file=own.name)
        factor = (own.count - 1) / last / rate
        columns = {name: getattr(own, name) for name in Requests.__dataclass_fields__}
        return Requests(**{**columns, "arrival_s": own.arrival_s * factor})

    @property
    def rate(self) -> float | None:
        """Requests per second over the time in which they arrive; None where they come at once or in a loop."""
        last = float(self.requests.arrival_s.max(initial=0.0))
        return (self.requests.count - 1) / last if last > 0 and not self.requests.clients else None


def load_requests(source: str | Path, seed: int | None = None) -> RequestSource:
    """The requests of a YAML description (``.yaml``, ``.yml``) or of a trace file; ``seed`` in place of its own."""
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        description = read_description(path)
        return RequestSource(draw_requests(description, seed), description, seed)
    read = read_requests(path)
    notes = tuple(f"{path.name}: left out {count}: {why}" for why, count in read.skipped.items())
    return RequestSource(read.requests, None, seed, notes)
