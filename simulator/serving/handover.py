"""From prefill to decode: caches wait for room, go over the wires, and are admitted where they come.

A prefill worker keeps a prompt's cache until it has arrived. A decode worker is sent one only when it has that many
blocks free beside those it expects already, first come first served: so decode that is full fills the prefill workers,
and those stop (back-pressure). With ``layers`` the cache of each step's tokens goes while the step computes: all but
the last layer's from the end of the first layer on, the last one's when the step is over. A worker that fails takes
the caches that it was sending with it; what was on its way to one that fails is sent again, to another. Bytes under
way when a worker fails still pass.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import NamedTuple, Protocol

import numpy as np

from simulator.serving.events import EventLoop, Rank
from simulator.serving.record import Growing, TransferColumns
from simulator.serving.replica import Replica, WorkerStep
from simulator.serving.service import Service
from simulator.serving.wires import Sending, Wires
from workloads.requests import Requests

__all__ = ["Handover"]


class Places(Protocol):
    """What the loop of a service knows of its workers."""

    replicas: list[Replica]
    alive: list[bool]
    lives: list[int]
    """How often each worker has begun anew."""

    def choose_decode(self, request: int, workers: list[int]) -> int:
        """One of these workers."""
        ...

    def expect(self, request: int, worker: int, sign: int) -> None:
        """A cache is on its way to a worker (1), or no longer (-1)."""
        ...

    def deliver(self, request: int, worker: int) -> None:
        """A request has come to a decode worker with its cache."""
        ...

    def prompt_of(self, request: int) -> int:
        """Tokens that a prefill worker computes for a request before the one that it answers."""
        ...

    def may_go(self, request: int, worker: int) -> bool:
        """Whether a worker can answer a request, and has a place for it."""
        ...

    def look(self, worker: int) -> None:
        """A worker may be able to begin a step."""
        ...


class _Booking(NamedTuple):
    worker: int
    blocks: int


@dataclass(slots=True)
class _Transfer:
    """A request's cache between two workers."""

    request: int
    source: int
    target: int
    target_life: int
    begin_s: float
    bytes: float
    prompt: int
    sent_tokens: int = 0
    sent_bytes: float = 0.0
    parts: int = 0
    """Parts that have not arrived."""
    closed: bool = False
    """Whether the last part has left."""


class Handover:
    """All caches between prefill and decode workers of a service."""

    def __init__(self, service: Service, requests: Requests, loop: EventLoop, places: Places) -> None:
        assert service.system is not None
        self.service, self.requests, self.loop, self.places = service, requests, loop, places
        self.wires = Wires(service.system, loop, service.handover_s)
        self.decoders = service.of_role("decode")
        self.queue: deque[int] = deque()
        """Requests whose prompts are computed and whose target has no room yet, in order."""
        self.held: dict[int, _Booking] = {}
        """Blocks that requests keep on their prefill worker after their prefill."""
        self.booked: dict[int, _Booking] = {}
        """Blocks that a decode worker keeps free for requests that come or wait there."""
        self.held_blocks = [0] * len(service.workers)
        self.booked_blocks = [0] * len(service.workers)
        self.under_way: dict[int, _Transfer] = {}
        self.ready = np.full(requests.count, np.nan)
        self.seconds = np.zeros(requests.count)
        self.rows = Growing(TransferColumns)

    def may_begin(self, worker: int) -> bool:
        """Whether a prefill worker has room for a step beside the caches that wait to leave."""
        held = self.held_blocks[worker]
        if not held:
            return True
        replica = self.places.replicas[worker]
        space, settings = replica.worker.space, replica.worker.settings
        step = ceil(settings.max_num_batched_tokens / space.block_tokens)
        if replica.progress().free_blocks - held >= step:
            return True
        # Room that is booked for prompts under way here may be what the held caches wait for.
        return any(t.source == worker and not t.closed for t in self.under_way.values())

    def step_begun(self, worker: int, step: WorkerStep) -> None:
        """A prefill step starts: what it computes leaves layer by layer, if there is room for it elsewhere."""
        if self.service.transfer != "layers":
            return
        parts, layers = [], self.places.replicas[worker].worker.layers
        for group in step.groups:
            for request, tokens, context in zip(
                group.request.tolist(), group.tokens.tolist(), group.context.tolist(), strict=True
            ):
                transfer = self.under_way.get(request) or self._open(request, worker)
                if transfer is not None:
                    parts.append((transfer, self._new_bytes(transfer, context + tokens)))
        if parts and layers > 1:
            share, life = (layers - 1) / layers, self.places.lives[worker]
            start = partial(self._send_early, worker, life, [(t, size * share) for t, size in parts])
            self.loop.at(self.loop.now + step.cost.seconds / layers, Rank.FLOW, start)

    def step_ended(self, worker: int, step: WorkerStep) -> None:
        """A prefill step is over: the rest of what it computed leaves."""
        parts = []
        for group in step.groups:
            for request in group.request.tolist():
                transfer = self.under_way.get(request)
                if transfer is not None and transfer.source == worker and not transfer.closed:
                    size = transfer.bytes * transfer.sent_tokens / transfer.prompt - transfer.sent_bytes
                    transfer.closed = transfer.sent_tokens >= transfer.prompt
                    parts.append((transfer, size))
        self._send(parts)

    def computed(self, request: int, worker: int) -> None:
        """A request has its first token and needs a decode worker."""
        blocks = self._blocks(request, worker)
        self.held[request] = _Booking(worker, blocks)
        self.held_blocks[worker] += blocks
        self.ready[request] = self.loop.now
        if request not in self.under_way:
            self.queue.append(request)

    def settle(self) -> None:
        """Begin the transfers for which there is room now, in order."""
        parts = []
        while self.queue:
            request = self.queue[0]
            transfer = self._open(request, self.held[request].worker)
            if transfer is None:
                break
            self.queue.popleft()
            transfer.closed, transfer.sent_tokens = True, transfer.prompt
            parts.append((transfer, transfer.bytes))
        self._send(parts)

    def admitted(self, request: int) -> None:
        """A decode worker's scheduler has taken the request's blocks."""
        booking = self.booked.pop(request, None)
        if booking is not None:
            self.booked_blocks[booking.worker] -= booking.blocks

    def failed(self, worker: int) -> list[int]:
        """A worker is down: requests whose cache it kept, which are lost with it."""
        lost = [request for request, booking in self.held.items() if booking.worker == worker]
        for request in lost:
            self._release(request)
        if lost:
            self.queue = deque(request for request in self.queue if request in self.held)
        for request, transfer in list(self.under_way.items()):
            if transfer.source == worker:
                transfer.closed = False
                self._row(transfer, lost=True)
                del self.under_way[request]
                self.places.expect(request, transfer.target, -1)
                self.admitted(request)
        for request in [r for r, booking in self.booked.items() if booking.worker == worker]:
            self.admitted(request)
        return lost

    def _release(self, request: int) -> None:
        booking = self.held.pop(request)
        self.held_blocks[booking.worker] -= booking.blocks
        self.places.look(booking.worker)

    def _blocks(self, request: int, worker: int) -> int:
        tokens = self.places.prompt_of(request) + 1
        return -(-tokens // self.places.replicas[worker].worker.space.block_tokens)

    def _room(self, worker: int, request: int) -> bool:
        if not self.places.alive[worker] or not self.places.may_go(request, worker):
            return False
        replica, booked = self.places.replicas[worker], self.booked_blocks[worker]
        if not replica.group and not booked:
            return True
        return replica.progress().free_blocks - booked >= self._blocks(request, worker)

    def _open(self, request: int, source: int) -> _Transfer | None:
        """A transfer to a worker with room, which is booked; None while there is none."""
        prompt = self.places.prompt_of(request)
        left = int(self.requests.prompt_tokens[request] + self.requests.output_tokens[request]) - prompt
        if left == 1 or (self.queue and self.queue[0] != request):
            return None
        free = [worker for worker in self.decoders if self._room(worker, request)]
        if not free:
            return None
        target = self.places.choose_decode(request, free)
        blocks = self._blocks(request, target)
        self.booked[request] = _Booking(target, blocks)
        self.booked_blocks[target] += blocks
        space = self.places.replicas[source].worker.space
        size = -(-prompt // space.block_tokens) * space.block_bytes + space.sequence_bytes
        transfer = _Transfer(
            request, source, target, self.places.lives[target],
            self.loop.now, size, prompt,
        )  # fmt: skip
        self.under_way[request] = transfer
        self.places.expect(request, target, 1)
        return transfer

    def _new_bytes(self, transfer: _Transfer, tokens: int) -> float:
        # After a preemption what has been sent is computed again, but not sent again.
        new = max(tokens - transfer.sent_tokens, 0)
        transfer.sent_tokens += new
        return transfer.bytes * new / transfer.prompt

    def _send_early(self, worker: int, life: int, parts: list[tuple[_Transfer, float]]) -> None:
        if self.places.lives[worker] != life or not self.places.alive[worker]:
            return
        self._send(parts)

    def _send(self, parts: list[tuple[_Transfer, float]]) -> None:
        """Bytes of transfers leave now."""
        replicas, sendings = self.places.replicas, []
        for transfer, size in parts:
            transfer.parts += 1
            transfer.sent_bytes += size
            ends = replicas[transfer.source].worker.devices, replicas[transfer.target].worker.devices
            sendings.append(Sending(*ends, size, partial(self._arrived, transfer)))
        if sendings:
            self.wires.send_all(sendings)

    def _arrived(self, transfer: _Transfer) -> None:
        transfer.parts -= 1
        if transfer.parts or not transfer.closed:
            return
        request, places, now = transfer.request, self.places, self.loop.now
        there = places.alive[transfer.target] and places.lives[transfer.target] == transfer.target_life
        self._row(transfer, lost=not there)
        del self.under_way[request]
        places.expect(request, transfer.target, -1)
        if not there:
            self.queue.appendleft(request)
            return
        self._release(request)
        self.seconds[request] += now - self.ready[request]
        places.deliver(request, transfer.target)

    def _row(self, transfer: _Transfer, lost: bool) -> None:
        replicas = self.places.replicas
        ends = replicas[transfer.source].worker.devices, replicas[transfer.target].worker.devices
        joules = self.wires.joules(*ends, transfer.sent_bytes)
        self.rows.add(
            transfer.request, transfer.source, transfer.target, self.ready[transfer.request], transfer.begin_s,
            self.loop.now, transfer.sent_bytes, joules, int(lost),
        )  # fmt: skip
