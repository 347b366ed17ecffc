"""Bytes that share wires and memory ports fairly: max-min fair rates, found again whenever a flow joins or leaves.

A flow loads several resources (wire directions, memory ports): so many bytes on each per byte of its own, 2 on
a bus that it crosses in and out, 0.3 on a port that takes three tenths of a kernel's traffic. Rates follow
progressive filling (Bertsekas and Gallager, Data Networks, section 6.5.2): all rates rise together until a
resource is full or a flow has reached its cap, those flows are fixed, and the rest go on rising. Between two
changes every rate is constant, so the simulation jumps from change to change.

Transfers have no cap of their own. A kernel draws on its memory as a flow whose cap is what it draws when
alone; as long as it has that, its end is its own affair and costs the network nothing. Only flows that are
joined by shared resources are looked at, and one whose rate stays as it was is not touched: it ends to the
last bit when it would have ended anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["Flow", "FlowNetwork", "Load", "fair_rates"]

Load = Mapping[str, float]
"""Resource -> bytes that it carries per byte of the flow, each above zero."""

_BYTES_LEFT: Final = 1e-3
"""A flow with less than this left is done: far below a byte, far above rounding."""
_ROOM: Final = 1 - 1e-9
"""A resource is full from this share of its capacity on."""


def fair_rates(
    loads: Sequence[Load], capacity: Mapping[str, float], caps: Sequence[float] | None = None
) -> list[float]:
    """Max-min fair rates of flows, in the resources' unit per second.

    ``caps`` are the most that each flow takes; none without it. A flow that loads nothing has its cap alone.

    >>> fair_rates([{"a": 1}, {"a": 1, "b": 1}, {"b": 1}], {"a": 10.0, "b": 4.0})
    [8.0, 2.0, 2.0]
    >>> fair_rates([{"a": 2}, {"a": 1}], {"a": 9.0})
    [3.0, 3.0]
    >>> fair_rates([{"a": 1}, {"a": 1}], {"a": 9.0}, [2.0, float("inf")])
    [2.0, 7.0]
    """
    own = list(caps) if caps is not None else [math.inf] * len(loads)
    members: dict[str, list[int]] = {}
    rising: dict[str, float] = {}
    for flow, load in enumerate(loads):
        for resource, weight in load.items():
            members.setdefault(resource, []).append(flow)
            rising[resource] = rising.get(resource, 0.0) + weight
    left = {resource: capacity[resource] for resource in members}
    count = {resource: len(flows) for resource, flows in members.items()}
    rates = [-1.0 if load else cap for load, cap in zip(loads, own, strict=True)]
    by_cap = sorted((cap, flow) for flow, cap in enumerate(own) if loads[flow] and cap < math.inf)
    next_cap = 0
    while count:
        tightest = min(count, key=lambda r: left[r] / rising[r])
        rate, fixed = left[tightest] / rising[tightest], members[tightest]
        while next_cap < len(by_cap) and rates[by_cap[next_cap][1]] >= 0:
            next_cap += 1
        if next_cap < len(by_cap) and by_cap[next_cap][0] <= rate:
            rate, fixed = by_cap[next_cap][0], [by_cap[next_cap][1]]
        for flow in fixed:
            if rates[flow] >= 0:
                continue
            rates[flow] = rate
            for resource, weight in loads[flow].items():
                left[resource] = max(left[resource] - rate * weight, 0.0)
                rising[resource] -= weight
                count[resource] -= 1
                if count[resource] == 0:
                    del count[resource]
    return rates


@dataclass(eq=False, slots=True)
class Flow:
    """A flow in progress: ``left`` bytes at the moment ``since``, going at ``rate``."""

    load: Load
    left: float
    cap: float
    """Bytes per second that it takes at most: infinite for a transfer, what a kernel draws when alone."""
    since: float
    done: Any
    """Fires when the last byte has passed; None for a kernel that has not fallen behind."""
    own_end: bool
    """Whether it ends by itself as long as it goes at its cap: a kernel, not a transfer."""
    rate: float = 0.0
    begun: bool = True
    """False for a kernel that has been launched and draws from ``since`` on."""
    awaited: bool = False
    """Whether something will wake the network when it begins."""
    over: bool = False
    alarm: int = 0
    """Number of the latest alarm set for its end; earlier ones have lapsed. 0: none was ever set."""


@dataclass
class FlowNetwork:
    """Flows in progress in a SimPy environment over resources of given capacity (bytes per second)."""

    env: Any
    capacity: Mapping[str, float]
    carried: dict[str, float] = field(default_factory=dict)
    """Bytes that transfers have put on each resource, as their loads weigh them."""
    busy: dict[str, float] = field(default_factory=dict)
    """Seconds during which each resource carried at least one transfer."""
    _on: dict[str, dict[Flow, None]] = field(default_factory=dict)
    """Flows on each resource, in order of arrival."""
    _transfers: dict[str, int] = field(default_factory=dict)
    _busy_since: dict[str, float] = field(default_factory=dict)

    def start(self, load: Load, size_bytes: float) -> Any:
        """Begin a transfer now; the SimPy event returned fires when its last byte has passed."""
        return self.start_all([(load, size_bytes)])[0]

    def start_all(self, flows: Iterable[tuple[Load, float]]) -> list[Any]:
        """Begin several transfers at once, so that rates are found once."""
        events, begun = [], []
        for load, size_bytes in flows:
            event = self.env.event()
            events.append(event)
            for resource, weight in load.items():
                self.carried[resource] = self.carried.get(resource, 0.0) + size_bytes * weight
            if size_bytes <= 0 or not load:
                event.succeed()
            else:
                flow = Flow(load, float(size_bytes), math.inf, self.env.now, event, own_end=False)
                self._join(flow)
                begun.append(flow)
        if len(begun) != 1 or not self._slips_in(begun[0]):
            self._share(begun)
        return events

    def draw(self, load: Load, size_bytes: float, after_s: float, seconds: float) -> Flow:
        """Begin a kernel's traffic: so many bytes over so many seconds when alone, the first after ``after_s``.

        The caller waits out the kernel's own time and then calls :meth:`leave`.
        """
        flow = Flow(
            load,
            size_bytes,
            size_bytes / seconds,
            self.env.now + after_s,
            None,
            own_end=True,
            begun=after_s <= 0,
        )
        self._join(flow)
        if not self._slips_in(flow):
            self._share([flow])
        return flow

    def leave(self, flow: Flow) -> Any | None:
        """What a kernel still has to wait for at the end of its own time; None when nothing held it up."""
        if not flow.over and flow.done is None:
            self._end(flow)
        return None if flow.over else flow.done

    def _slips_in(self, flow: Flow) -> bool:
        """Let a flow that has just joined go as fast as it can, where that leaves all others as they are.

        That is so where every resource that it shares has room for it: then it holds nobody up, and nobody
        who is on that resource is held up there.
        """
        rate = flow.cap
        if not flow.own_end:
            own = [self.capacity[r] / weight for r, weight in flow.load.items() if len(self._on[r]) == 1]
            rate = min(own, default=math.inf)
        if rate == math.inf or not self._have_room(flow.load, rate):
            return False
        if flow.own_end:
            flow.rate = rate
        else:
            self._go(flow, rate)
        return True

    def _have_room(self, load: Load, rate: float) -> bool:
        """Whether resources with others on them can take a load at a rate beside what they carry now."""
        for resource, weight in load.items():
            flows = self._on[resource]
            if len(flows) > 1:
                used = sum(flow.rate * flow.load[resource] for flow in flows)
                if used + rate * weight > self.capacity[resource] * _ROOM:
                    return False
        return True

    def _end(self, flow: Flow) -> None:
        """Take a flow off; others go on as before unless a resource that they share with it was full."""
        spare = self._have_room(flow.load, 0.0)
        self._leave(flow)
        if flow.done is not None:
            flow.done.succeed()
        if not spare:
            self._share(self._beside(flow.load))

    def _join(self, flow: Flow) -> None:
        for resource in flow.load:
            self._on.setdefault(resource, {})[flow] = None
            if not flow.own_end:
                self._transfers[resource] = self._transfers.get(resource, 0) + 1
                self._busy_since.setdefault(resource, self.env.now)

    def _leave(self, flow: Flow) -> None:
        flow.over = True
        flow.alarm += 1
        for resource in flow.load:
            del self._on[resource][flow]
            if not flow.own_end:
                self._transfers[resource] -= 1
                if not self._transfers[resource]:
                    passed = self.env.now - self._busy_since.pop(resource)
                    self.busy[resource] = self.busy.get(resource, 0.0) + passed

    def _beside(self, resources: Iterable[str]) -> list[Flow]:
        return [flow for resource in resources for flow in self._on[resource]]

    def _joined(self, flows: Iterable[Flow]) -> list[Flow]:
        """These flows and all whom shared resources join to them, as far as they are under way."""
        found: dict[Flow, None] = {}
        seen: set[str] = set()
        ahead = list(flows)
        while ahead:
            flow = ahead.pop()
            if flow in found or not self._draws(flow):
                continue
            found[flow] = None
            ahead += self._beside(resource for resource in flow.load if resource not in seen)
            seen.update(flow.load)
        return list(found)

    def _share(self, flows: Iterable[Flow]) -> None:
        """Let go of flows that are done, and find the rates of the others anew."""
        joined = []
        for flow in self._joined(flows):
            if self._is_done(flow):
                self._leave(flow)
                if flow.done is not None:
                    flow.done.succeed()
            else:
                joined.append(flow)
        if len(joined) == 1:
            (flow,) = joined
            # Alone, a kernel goes as fast as its own time says.
            self._go(flow, flow.cap if flow.own_end else self._widest(flow.load))
        elif joined:
            rates = fair_rates([flow.load for flow in joined], self.capacity, [flow.cap for flow in joined])
            for flow, rate in zip(joined, rates, strict=True):
                self._go(flow, rate)

    def _widest(self, load: Load) -> float:
        return min(self.capacity[resource] / weight for resource, weight in load.items())

    def _draws(self, flow: Flow) -> bool:
        """Whether a flow is under way; one that is still to begin will wake the network when it does."""
        if not flow.begun and flow.since <= self.env.now:
            flow.begun = True
        if not flow.begun and not flow.awaited:
            flow.awaited = True
            self.env.timeout(flow.since - self.env.now).callbacks.append(lambda _: self._begin(flow))
        return flow.begun

    def _begin(self, flow: Flow) -> None:
        if not flow.over:
            flow.begun, flow.rate = True, 0.0
            if not self._slips_in(flow):
                self._share([flow])

    def _is_done(self, flow: Flow) -> bool:
        now: float = self.env.now
        # The clock itself is rounded, by what it stands at.
        return flow.left - flow.rate * (now - flow.since) <= _BYTES_LEFT + flow.rate * 4 * math.ulp(now)

    def _go(self, flow: Flow, rate: float) -> None:
        """Let a flow go on at a rate; nothing happens to one that has it already."""
        on_time = flow.own_end and flow.done is None and rate == flow.cap
        if rate == flow.rate and (on_time or flow.alarm):
            return
        now = self.env.now
        flow.left -= flow.rate * max(now - flow.since, 0.0)
        flow.since, flow.rate = now, rate
        if on_time:
            return
        if flow.done is None:
            flow.done = self.env.event()
        flow.alarm += 1
        alarm = flow.alarm
        # A step below the clock's resolution would never advance it.
        timeout = self.env.timeout(max(flow.left / rate, now * 2e-16))

        def wake(_: Any) -> None:
            if alarm == flow.alarm:
                self._end(flow)

        timeout.callbacks.append(wake)
