"""Which requests a worker can ever answer: no longer than the model, and no more cache than it has.

Lengths are compared at once. Only requests near the bounds are put before a scheduler of the worker, which knows what
its policy sets aside (drafts, a page, a whole prompt in one step).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hw_configs.problems import InfeasibleError
from hw_configs.units import format_quantity
from simulator.serving.replica import Worker
from simulator.serving.views import seen_by
from workloads.requests import Requests

__all__ = ["Taken", "bounds_of", "refusals", "taken_by"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Taken:
    """Of each request whether a worker can answer it, and for those near the bounds why it can't."""

    worker: Worker
    mask: Bools
    reasons: dict[int, str]

    def reason(self, requests: Requests, request: int) -> str:
        """Why a request is not taken."""
        if request in self.reasons:
            return self.reasons[request]
        worker = self.worker
        most = worker.settings.max_model_len
        told = (
            f"{requests.prompt_tokens[request]} tokens of prompt and {requests.output_tokens[request]} of answer; "
            "expected at most "
        )
        if requests.prompt_tokens[request] + requests.output_tokens[request] > most:
            return f"{told}{most}, the model's length (max_model_len)"
        blocks = worker.space.blocks // worker.groups
        size = format_quantity(blocks * worker.space.block_bytes, "size")
        return (
            f"{told}{blocks * worker.space.block_tokens}, which {blocks} blocks of the KV cache hold ({size})"
        )


def taken_by(requests: Requests, workers: Sequence[Worker]) -> list[Taken]:
    """What each worker takes; workers that are alike are asked once."""
    known: dict[object, Taken] = {}
    found = []
    for worker in workers:
        key = worker.make, worker.settings, worker.space, worker.groups, worker.role
        if key not in known:
            known[key] = _taken(requests, worker)
        found.append(known[key])
    return found


def _taken(requests: Requests, worker: Worker) -> Taken:
    settings, space = worker.settings, worker.space
    space = space._replace(blocks=space.blocks // worker.groups)
    seen = seen_by(worker.role, requests)
    total = seen.prompt_tokens + seen.output_tokens
    mask = requests.prompt_tokens + requests.output_tokens <= settings.max_model_len
    spec = settings.speculation
    ahead = spec.tokens + spec.lookahead + spec.draft_slots if spec is not None else 0
    margin = 2 * (space.block_tokens + ahead) + 16
    room = space.blocks * space.block_tokens
    near = np.zeros(requests.count, np.bool_)
    if space.groups:
        near |= mask
    else:
        mask &= total - margin <= room
        near |= mask & (total + margin > room)
    if not settings.enable_chunked_prefill:
        near |= mask & (total + margin > settings.max_num_batched_tokens)
    reasons: dict[int, str] = {}
    if near.any():
        scheduler = worker.make(seen, settings, space)
        for request in np.flatnonzero(near).tolist():
            try:
                scheduler.add(request)
                scheduler.drop(request)
            except InfeasibleError as error:
                mask[request] = False
                reasons[request] = str(error).removeprefix(f"request {request} ")
    return Taken(worker, mask, reasons)


def bounds_of(requests: Requests, workers: Sequence[Worker]) -> list[Bools | None]:
    """Of each worker the requests that may go there; None: all of them.

    What no worker of a role takes may go to any: its scheduler says why not.
    """
    if len({(w.make, w.settings, w.space, w.groups, w.role) for w in workers}) == len(
        {w.role for w in workers}
    ):
        return [None] * len(workers)
    taken = taken_by(requests, workers)
    bounds: list[Bools | None] = []
    for one in taken:
        some = np.logical_or.reduce([other.mask for other in taken if other.worker.role == one.worker.role])
        mask = one.mask | ~some
        bounds.append(None if bool(mask.all()) else mask)
    return bounds


def refusals(requests: Requests, workers: Sequence[Worker]) -> dict[int, str]:
    """Requests that no worker can answer, with the reason of the worker that has most room.

    With prefill and decode apart both are needed. A request whose prompt holds the answer of one that is refused is
    refused as well.
    """
    taken = taken_by(requests, workers)
    refused: dict[int, str] = {}
    for roles in (("both", "prefill"), ("decode",)):
        own = [one for one in taken if one.worker.role in roles]
        if not own:
            continue
        some = np.logical_or.reduce([one.mask for one in own])
        largest = max(own, key=lambda one: one.worker.space.blocks * one.worker.space.block_tokens)
        for request in np.flatnonzero(~some).tolist():
            refused.setdefault(request, largest.reason(requests, request))
    if refused:
        for request in np.flatnonzero(requests.after >= 0).tolist():
            before = int(requests.after[request])
            if before in refused and request not in refused and _holds_answer(requests, request, before):
                refused[request] = f"its prompt holds the answer of request {before}, which was rejected"
    return dict(sorted(refused.items()))


def _holds_answer(requests: Requests, request: int, before: int) -> bool:
    begin, end = requests.segment_begin[request : request + 2].tolist()
    return int(requests.output_stream[before]) in requests.segment_stream[begin:end].tolist()
