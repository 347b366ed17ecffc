"""Transfers that share wires fairly: max-min fair rates, recomputed whenever a flow starts or ends.

A flow needs several resources (wire directions, memory ports) and gets the same rate on each; one that it
crosses twice (a bus in and out, a port that reads and writes) gives it twice that. Rates follow progressive
filling (Bertsekas and Gallager, Data Networks, section 6.5.2): all rates rise together until a
resource is full, its flows are fixed, and the rest go on rising. Between two changes every rate is constant,
so the simulation jumps from change to change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["FlowNetwork", "fair_rates"]

_BYTES_LEFT: Final = 1e-3
"""A flow with less than this left is done: far below a byte, far above rounding."""


def fair_rates(flows: Sequence[Sequence[str]], capacity: Mapping[str, float]) -> list[float]:
    """Max-min fair rates of flows over the resources each lists, in the resources' unit per second.

    A resource that a flow lists twice carries it twice. A flow without resources has no bound.

    >>> fair_rates([["a"], ["a", "b"], ["b"]], {"a": 10.0, "b": 4.0})
    [8.0, 2.0, 2.0]
    >>> fair_rates([["a", "a"], ["a"]], {"a": 9.0})
    [3.0, 3.0]
    """
    members: dict[str, list[int]] = {}
    for flow, resources in enumerate(flows):
        for resource in resources:
            members.setdefault(resource, []).append(flow)
    left = {resource: capacity[resource] for resource in members}
    open_flows = {resource: len(crossings) for resource, crossings in members.items()}
    rates = [float("inf") if not resources else -1.0 for resources in flows]
    while open_flows:
        tightest = min(open_flows, key=lambda r: left[r] / open_flows[r])
        rate = left[tightest] / open_flows[tightest]
        for flow in members[tightest]:
            if rates[flow] >= 0:
                continue
            rates[flow] = rate
            for resource in flows[flow]:
                left[resource] = max(left[resource] - rate, 0.0)
                open_flows[resource] -= 1
                if open_flows[resource] == 0:
                    del open_flows[resource]
    return rates


@dataclass(eq=False, slots=True)
class _Flow:
    resources: tuple[str, ...]
    left: float
    done: Any
    rate: float = 0.0


@dataclass
class FlowNetwork:
    """Flows in progress in a SimPy environment over resources of given capacity (bytes per second)."""

    env: Any
    capacity: Mapping[str, float]
    carried: dict[str, float] = field(default_factory=dict)
    """Bytes that each resource has carried."""
    busy: dict[str, float] = field(default_factory=dict)
    """Seconds during which each resource carried at least one flow."""
    _flows: list[_Flow] = field(default_factory=list)
    _since: float = 0.0
    _alarm: int = 0

    def start(self, resources: Iterable[str], size_bytes: float) -> Any:
        """Begin a flow now; the SimPy event returned fires when its last byte has passed."""
        return self.start_all([(tuple(resources), size_bytes)])[0]

    def start_all(self, flows: Iterable[tuple[tuple[str, ...], float]]) -> list[Any]:
        """Begin several flows at once, with one settlement of the rates."""
        self._settle()
        events = []
        for resources, size_bytes in flows:
            event = self.env.event()
            events.append(event)
            for resource in resources:
                self.carried[resource] = self.carried.get(resource, 0.0) + size_bytes
            if size_bytes <= 0 or not resources:
                event.succeed()
            else:
                self._flows.append(_Flow(resources, float(size_bytes), event))
        self._share()
        return events

    def _settle(self) -> None:
        """Account for the time since the last change at the rates that held."""
        passed = self.env.now - self._since
        self._since = self.env.now
        if passed <= 0:
            return
        for resource in {resource for flow in self._flows for resource in flow.resources}:
            self.busy[resource] = self.busy.get(resource, 0.0) + passed
        for flow in self._flows:
            flow.left -= flow.rate * passed

    def _share(self) -> None:
        finished = [flow for flow in self._flows if flow.left <= _BYTES_LEFT]
        if finished:
            self._flows = [flow for flow in self._flows if flow.left > _BYTES_LEFT]
            for flow in finished:
                flow.done.succeed()
        if not self._flows:
            self._alarm += 1
            return
        rates = fair_rates([flow.resources for flow in self._flows], self.capacity)
        for flow, rate in zip(self._flows, rates, strict=True):
            flow.rate = rate
        self._wake_in(min(flow.left / flow.rate for flow in self._flows))

    def _wake_in(self, seconds: float) -> None:
        self._alarm += 1
        alarm = self._alarm
        # A step below the clock's resolution would never advance it.
        timeout = self.env.timeout(max(seconds, self.env.now * 2e-16))

        def wake(_: Any) -> None:
            if alarm == self._alarm:
                self._settle()
                self._share()

        timeout.callbacks.append(wake)
