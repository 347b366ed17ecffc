"""Policy ``sglang``: prompts first, a radix tree of prefixes, admission by an estimate of what is still to come.

A step is either a prefill of new requests (with the one whose prompt was cut) or a decode of all that run. A request is
admitted, in order of arrival, if its tokens and its answer fit beside ``new_token_ratio`` of what the running ones have
still to answer; the ratio falls from 0.7 to 0.098 over 600 decodes. Where a decode finds no room, requests with the
shortest answers are retracted, until 20 more steps have room, and wait behind all others; the ratio rises to what was
seen. A prompt enters the tree when it is computed, an answer when it ends.

Source: SGLang 0.5, ``python/sglang/srt/managers/schedule_policy.py`` (``PrefillAdder``), ``schedule_batch.py``
(``retract_decode``), ``scheduler.py``, ``mem_cache/radix_cache.py``, ``environ.py``; its policy ``fcfs``, no overlap
and mixed chunks. ``max_num_batched_tokens`` is its ``chunked_prefill_size``, ``block_tokens`` its ``page_size``.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import InfeasibleError, bad_input
from simulator.serving.radix import Node, RadixTree, Run, split_runs
from simulator.serving.rules import VLLM_ALONE, refuse
from simulator.serving.scheduler import Admission, KvSpace
from simulator.serving.settings import EngineSettings
from simulator.serving.step import ScheduledStep, StepOutcome
from workloads.requests import Requests

__all__ = ["Sglang", "make"]

Ints = npt.NDArray[np.int64]

INITIAL_RATIO: Final = 0.7
"""``SGLANG_INIT_NEW_TOKEN_RATIO``."""
LEAST_RATIO: Final = 0.7 * 0.14
"""``SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR`` of it."""
DECAY_STEPS: Final = 600
RETRACT_STEPS: Final = 20
"""Decodes that have room after a retraction."""
MOST_NEW: Final = 4096
"""Tokens of an answer that the estimate reckons with at most (``SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION``)."""


def make(requests: Requests, settings: EngineSettings, space: KvSpace) -> Sglang:
    """The scheduler of one replica."""
    refuse(settings, ("swap", *VLLM_ALONE))
    if space.groups:
        raise bad_input("the policy 'sglang' knows one pool of equal pages", path="kv_space.groups")
    page = space.block_tokens
    if settings.max_num_batched_tokens < page:
        raise bad_input(
            f"found {settings.max_num_batched_tokens}; expected a page ({page}) or more",
            path="engine.max_num_batched_tokens",
        )
    return Sglang(requests, settings, space)


class Sglang:
    """A scheduler with a radix tree; ``requests`` are all that may ever be added."""

    def __init__(self, requests: Requests, settings: EngineSettings, space: KvSpace) -> None:
        n = requests.count
        self._requests, self._settings, self._space = requests, settings, space
        self._page = space.block_tokens
        self._drafts = settings.speculation.tokens if settings.speculation else 0
        self.tree = RadixTree(self._page)
        self._free = space.blocks * self._page
        self._computed, self._outputs, self._held = (np.zeros(n, np.int64) for _ in range(3))
        """``held``: tokens of the pages that a request holds, shared ones included."""
        self._known = requests.prompt_tokens.copy()
        self._final = np.minimum(requests.prompt_tokens + requests.output_tokens, settings.max_model_len)
        """Tokens of each request at its end."""
        self._shared = np.zeros(n, np.int64)
        """Of these, tokens that lie in the tree."""
        self._before: dict[int, tuple[int, int]] = {}
        """Of requests that come with a part of their answer: its tokens, and how many of them count as answered."""
        self._node: dict[int, Node] = {}
        self._again: set[int] = set()
        self._queue: list[int] = []
        self._running = np.zeros(0, np.int64)
        self._inside: set[int] = set()
        self._cut = -1
        """The request whose prompt is computed in part."""
        self._prefilling: list[int] = []
        """Requests whose prompt is computed in this step, or is cut."""
        self._full = False
        """Whether the last request that asked was turned away, and none has ended since."""
        self._ratio = INITIAL_RATIO
        self._step: ScheduledStep = self._entries([], [])
        self._retracted: list[int] = []
        self._admitted: list[Admission] = []

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Requests that run, the one whose prompt is cut included."""
        return len(self._running) + len(self._prefilling)

    @property
    def free_blocks(self) -> int:
        """Pages that no request holds: free ones, and those of prefixes that could be evicted."""
        return self._room() // self._page

    @property
    def preempted(self) -> Ints:
        """Requests retracted by the last ``schedule``, in order."""
        return np.array(self._retracted, np.int64)

    @property
    def admitted(self) -> list[Admission]:
        """Requests admitted by the last ``schedule``, in order."""
        return list(self._admitted)

    def add(self, request: int, arrival_s: float | None = None) -> None:  # noqa: ARG002
        """A request has arrived. Raises ``InfeasibleError`` for one that can never be admitted."""
        if request in self._inside:
            raise ValueError(f"request {request} is in the system already")
        prompt = int(self._requests.prompt_tokens[request])
        if prompt >= self._settings.max_model_len:
            raise InfeasibleError(
                f"request {request} has a prompt of {prompt} tokens; the engine takes "
                f"{self._settings.max_model_len - 1} and answers one at least"
            )
        most, capacity = int(self._final[request]), self._space.blocks * self._page
        if most + self._drafts + self._page >= capacity:
            raise InfeasibleError(
                f"request {request} needs {most + self._drafts} tokens and a page of {self._page} to be admitted; the "
                f"cache has {capacity} ({self._space.blocks * self._space.block_bytes:.0f} bytes)"
            )
        had, answered = self._before.pop(request, (0, 0))
        self._inside.add(request)
        self._known[request] = prompt + had
        self._outputs[request] = answered
        self._final[request] = self._end_of(request, had)
        self._queue.append(request)

    def _end_of(self, request: int, had: int) -> int:
        """Tokens of a request at its end, where ``had`` of its answer come with its prompt."""
        r = self._requests
        tokens = int(r.prompt_tokens[request]) + max(int(r.output_tokens[request]), had + 1)
        return min(tokens, self._settings.max_model_len)

    def can_resume(self, request: int, tokens: int) -> bool:
        """Whether a request could be computed here with so many tokens of its answer as a part of its prompt."""
        known, most = int(self._requests.prompt_tokens[request]) + tokens, self._end_of(request, tokens)
        room = self._space.blocks * self._page
        return known < self._settings.max_model_len and most + self._drafts + self._page < room

    def resume(self, request: int, tokens: int, answered: int) -> None:
        """See :class:`simulator.serving.replica.Resumes`."""
        self._before[request] = (tokens, answered)

    def _room(self) -> int:
        return self._free + self.tree.size - self.tree.held

    def _to_come(self, requests: Ints) -> int:
        """Tokens that requests have still to answer, as far as the estimate reckons with them."""
        return int(np.minimum(self._final[requests] - self._known[requests], MOST_NEW).sum())

    def _runs(self, request: int, tokens: int) -> list[Run]:
        """The first tokens of a request."""
        r = self._requests
        first, last = int(r.segment_begin[request]), int(r.segment_begin[request + 1])
        streams, lengths = r.segment_stream[first:last].tolist(), r.segment_tokens[first:last].tolist()
        runs = [Run(stream, 0, length) for stream, length in zip(streams, lengths, strict=True) if length]
        if tokens > r.prompt_tokens[request]:
            runs.append(Run(int(r.output_stream[request]), 0, tokens - int(r.prompt_tokens[request])))
        return split_runs(runs, tokens)[0]

    def _pages(self, tokens: int) -> int:
        """Tokens of the pages that so many tokens take."""
        return -(-tokens // self._page) * self._page

    def schedule(self) -> ScheduledStep:
        """Decide the next step: a prefill if there is one, else a decode of all that run."""
        self._retracted, self._admitted = [], []
        if not self._inside:
            self._ratio = INITIAL_RATIO
        self._prefilling, tokens = self._prefill()
        if self._prefilling:
            self._step = self._entries(self._prefilling, tokens)
        else:
            self._step = self._decode()
        return self._step

    def _entries(self, chosen: list[int] | Ints, tokens: list[int] | Ints) -> ScheduledStep:
        request, n = np.array(chosen, np.int64), np.array(tokens, np.int64)
        context, known = self._computed[request], self._known[request]
        drafts = np.maximum(context + n - known, 0)
        return ScheduledStep(
            request, n, context, drafts, context + n >= known, self._requests.adapter[request]
        )

    def _prefill(self) -> tuple[list[int], list[int]]:
        chosen: list[int] = []
        tokens: list[int] = []
        budget = self._settings.max_num_batched_tokens
        wanted = self._cut >= 0 or (self._queue and not self._full)
        offset = self._ratio * self._to_come(self._running) if wanted else 0.0
        if self._cut >= 0:
            r = self._cut
            left = int(self._known[r] - self._computed[r])
            n = left if left <= budget else budget // self._page * self._page
            self._take(r, int(self._computed[r]) + n)
            chosen, tokens = [r], [n]
            budget -= self._pages(n)
            offset += self._to_come(np.array([r]))
            self._cut = -1 if n == left else r
        while self._queue and self._cut < 0 and not self._full:
            if len(self._running) + len(chosen) >= self._settings.max_num_seqs:
                self._full = True
                break
            n = self._admit(self._queue[0], budget, offset, bool(chosen))
            if n == 0:
                break
            r = self._queue.pop(0)
            chosen.append(r)
            tokens.append(n)
            budget -= self._pages(n)
            offset += self._to_come(np.array([r])) + self._page
            if budget <= 0:
                break
        return chosen, tokens

    def _admit(self, r: int, budget: int, offset: float, others: bool) -> int:
        """Tokens that a waiting request computes in this step; 0: it is not admitted."""
        known = int(self._known[r])
        caching = self._settings.enable_prefix_caching
        found = self.tree.find(int(self._requests.adapter[r]), self._runs(r, known - 1) if caching else [])
        extend = known - found.tokens
        total = extend + self._to_come(np.array([r])) + self._page
        if total >= self._room() - offset:
            self._full = len(self._running) > 0 or others
            return 0
        self.tree.hold(found.node)
        n = extend
        if self._settings.enable_chunked_prefill:
            n = extend if self._pages(extend) <= budget else budget // self._page * self._page
        elif others and self._pages(extend) >= budget:
            n = 0
        # Holding the prefix may have taken what could have been evicted.
        if n <= 0 or total >= self._room() - offset:
            self.tree.let_go(found.node)
            self._full = n > 0 and (len(self._running) > 0 or others)
            return 0
        self._node[r] = found.node
        self._computed[r] = self._shared[r] = self._held[r] = found.tokens
        self._take(r, found.tokens + n)
        self._cut = r if n < extend else -1
        self._admitted.append(Admission(r, found.tokens, r in self._again))
        return n

    def _take(self, r: int, tokens: int) -> None:
        """Give a request pages for its first tokens; there is room."""
        need = self._pages(tokens) - int(self._held[r])
        if need > 0:
            self._make_room(need)
            self._free -= need
            self._held[r] += need

    def _make_room(self, tokens: int) -> None:
        if tokens > self._free:
            self._free += self.tree.evict(tokens - self._free)
        if tokens > self._free:
            raise AssertionError("a request was admitted that does not fit")

    def _decode(self) -> ScheduledStep:
        running = self._running
        if len(running) == 0:
            return self._entries([], [])
        n = self._next(running)
        if int(self._lacks(running, n).sum()) > self._room():
            running = self._retract(running)
            n = self._next(running)
        else:
            self._ratio = max(self._ratio - (INITIAL_RATIO - LEAST_RATIO) / DECAY_STEPS, LEAST_RATIO)
        lacks = self._lacks(running, n)
        need = int(lacks.sum())
        self._make_room(need)
        self._free -= need
        self._held[running] += lacks
        return self._entries(running, n)

    def _next(self, running: Ints) -> Ints:
        """Tokens of a decode: the last one, and drafts to be verified."""
        most = self._settings.max_model_len - 1 - self._computed[running]
        n: Ints = np.minimum(self._known[running] - self._computed[running] + self._drafts, most)
        return n

    def _lacks(self, running: Ints, n: Ints) -> Ints:
        """Tokens of pages that requests need for a decode and do not hold."""
        need = -(-(self._computed[running] + n) // self._page) * self._page
        lacks: Ints = np.maximum(need - self._held[running], 0)
        return lacks

    def _retract(self, running: Ints) -> Ints:
        """Send back requests with the shortest answers, the longest prompts of them first."""
        order = np.lexsort((running, self._requests.prompt_tokens[running], -self._outputs[running])).tolist()
        while len(order) > 1:
            stays = running[order]
            need = int(self._lacks(stays, self._next(stays) + RETRACT_STEPS - 1).sum())
            if self._retracted and need <= self._room():
                break
            r = int(running[order.pop()])
            self._retracted.append(r)
            self._release(r)
            self._again.add(r)
        left: Ints = running[np.sort(order)]
        self._running = left
        self._queue += self._retracted
        self._full = False
        answers = self._final[left] - self._requests.prompt_tokens[left]
        seen = int(self._outputs[left].sum()) + RETRACT_STEPS * len(left)
        self._ratio = min(seen / max(int(answers.sum()), 1), 1.0)
        return left

    def _release(self, r: int) -> None:
        """Give up a request's pages; what lies in the tree stays there."""
        self._free += int(self._held[r] - self._shared[r])
        self.tree.let_go(self._node.pop(r))
        self._held[r] = self._shared[r] = self._computed[r] = 0

    def _keep(self, r: int) -> None:
        """Enter a request's whole pages into the tree, and hold them there."""
        if not self._settings.enable_prefix_caching:
            return
        whole = int(self._computed[r]) // self._page * self._page
        found = self.tree.insert(int(self._requests.adapter[r]), self._runs(r, whole))
        # What another entered meanwhile is there twice: the request's own goes.
        self._free += found.tokens - int(self._shared[r])
        self.tree.hold(found.node)
        self.tree.let_go(self._node[r])
        self._node[r] = found.node
        self._shared[r] = whole

    def complete(self, accepted: Ints) -> StepOutcome:
        """The step has run; what ended leaves its whole pages in the tree."""
        step = self._step
        right = np.ascontiguousarray(accepted, np.int64)
        if right.shape != step.request.shape or (right < 0).any() or (right > step.drafts).any():
            raise ValueError("accepted drafts do not fit the step")
        there = np.array([r in self._node for r in step.request.tolist()], bool)
        self._step = self._entries([], [])
        request, right = step.request[there], right[there]
        self._computed[request] += (step.tokens - step.drafts)[there] + right
        samples = step.samples[there]
        got = request[samples]
        left = self._final[got] - self._known[got]
        new = np.minimum(1 + right[samples], left)
        self._known[got] += new
        self._outputs[got] += new
        ended = got[new >= left]
        if self._prefilling:
            for r in request.tolist():
                self._keep(r)
            self._running = np.append(self._running, got)
            self._prefilling = [self._cut] if self._cut >= 0 else []
        for r in ended.tolist():
            self._end(r)
        if len(ended):
            self._running = self._running[~np.isin(self._running, ended)]
            self._full = False
        return StepOutcome(got, new, ended)

    def _end(self, r: int) -> None:
        """A request has ended: its last token has no keys, drafts beyond it go."""
        self._computed[r] = min(int(self._computed[r]), int(self._known[r]) - 1)
        self._keep(r)
        self._release(r)
        self._inside.discard(r)
        self._again.discard(r)

    def drop(self, request: int) -> None:
        """Forget a request; its pages are free."""
        if request in self._node:
            self._release(request)
            self._running = self._running[self._running != request]
            self._prefilling = [r for r in self._prefilling if r != request]
            self._cut = -1 if self._cut == request else self._cut
            self._full = False
        elif request in self._inside:
            self._queue.remove(request)
        self._inside.discard(request)
        self._again.discard(request)
