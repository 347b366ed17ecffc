"""When requests are sent: at their arrivals, after earlier turns of their session, or as clients become free."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from simulator.serving.events import EventLoop, Rank
from workloads.requests import Requests

__all__ = ["Sender"]


class Sender:
    """Sends each request once. ``send`` is called in the instant in which a request is due."""

    def __init__(self, requests: Requests, loop: EventLoop, send: Callable[[int], None]) -> None:
        self.requests, self.loop, self.send = requests, loop, send
        self.closed = requests.clients > 0
        self.due = np.where(requests.after < 0, requests.arrival_s, np.inf)
        """When each may be sent at the earliest; infinite while the turn before it has not ended."""
        self.next, self.at_work, self.alarm = 0, 0, np.inf
        follows = np.argsort(requests.after, kind="stable")
        self.follows = follows[int((requests.after < 0).sum()) :].tolist()
        self.follows_begin = np.searchsorted(requests.after[self.follows], np.arange(requests.count + 1))
        self.chained = bool(len(self.follows))

    def begin(self) -> None:
        """Announce what is known at the beginning."""
        if self.closed:
            self._announce(0.0)
            return
        for request in np.argsort(self.due, kind="stable").tolist():
            if self.due[request] < np.inf:
                self.loop.at(float(self.due[request]), Rank.SEND, partial(self.send, request))

    def ended(self, request: int) -> None:
        """A request has had its last token in this instant."""
        requests, now = self.requests, self.loop.now
        if self.chained:
            for child in self.follows[self.follows_begin[request] : self.follows_begin[request + 1]]:
                self.due[child] = max(now + float(requests.think_s[child]), float(requests.arrival_s[child]))
                if not self.closed:
                    self.loop.at(float(self.due[child]), Rank.SEND, partial(self.send, child))
        if self.closed:
            self.at_work -= 1
            self._announce(now)

    def _announce(self, time_s: float) -> None:
        """Look again for requests to send at a time, once."""
        if time_s < self.alarm:
            self.alarm = time_s
            self.loop.at(time_s, Rank.SEND, partial(self._look, time_s))

    def _look(self, time_s: float) -> None:
        if self.alarm == time_s:
            self.alarm = np.inf
        self._fill()

    def _fill(self) -> None:
        """Send in order as long as there are free clients; wait for the one whose turn it is."""
        while self.next < self.requests.count and self.at_work < self.requests.clients:
            due = float(self.due[self.next])
            if due > self.loop.now:
                if due < np.inf:
                    self._announce(due)
                return
            self.next += 1
            self.at_work += 1
            self.send(self.next - 1)
