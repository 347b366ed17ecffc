"""An engine that runs by :class:`~simulator.serving.rules.Rules`: the scheduler that most policies are.

It keeps the records, hands them to the compiled passes and shows what they decided.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hw_configs.problems import InfeasibleError
from simulator.serving.line import push
from simulator.serving.pages import pages_of
from simulator.serving.passes import complete, drop, schedule
from simulator.serving.records import AWAY, State, make_state
from simulator.serving.rules import Reserve, Rules
from simulator.serving.scheduler import Admission, KvSpace
from simulator.serving.step import ScheduledStep, StepOutcome
from simulator.serving.tiers import TIERS, CacheTier
from workloads.requests import Requests

__all__ = ["Engine", "NewBlocks"]

Ints = npt.NDArray[np.int64]


class NewBlocks(NamedTuple):
    """Blocks that a request got in a step, in the order of its table; all of them if it was admitted in it."""

    request: int
    blocks: Ints


class Engine:
    """A scheduler by rules. ``requests`` are all that may ever be added, ``space`` the cache of the replica."""

    def __init__(self, requests: Requests, rules: Rules, space: KvSpace) -> None:
        self._requests = requests
        self._rules = rules
        self._space = space
        self._state: State = make_state(requests, rules, space.blocks, space.groups)
        self._engine = self._state.engine[0]
        self.host, self.drive = (CacheTier(self._state, space, name) for name in TIERS)
        self._before: dict[int, tuple[int, int]] = {}
        """Of requests that come with a part of their answer: its tokens, and how many of them count as answered."""

    @property
    def state(self) -> State:
        """The records, for kernels that run many steps at once."""
        return self._state

    def move(self, name: str, array: npt.NDArray[Any]) -> None:
        """Go on with a record where it has been moved to."""
        self._state = self._state._replace(**{name: array})
        self._engine = self._state.engine[0]
        self.host, self.drive = (CacheTier(self._state, self._space, name) for name in TIERS)

    def add(self, request: int, arrival_s: float | None = None) -> None:
        """A request has arrived, at ``arrival_s`` (else its own). Raises ``InfeasibleError`` if it can never fit."""
        q = self._state.requests[request]
        if q["state"] != AWAY:
            raise ValueError(f"request {request} is in the system already")
        had, answered = self._before.pop(request, (0, 0))
        peak = self._peak(request, had)
        known = int(self._requests.prompt_tokens[request]) + had
        q["known"], q["peak"], q["entry"] = known, peak, -1
        for name in ("computed", "drafts", "prefill", "resumed", "held", "entered", "kept"):
            q[name] = 0
        q["outputs"] = answered
        q["arrival"] = self._requests.arrival_s[request] if arrival_s is None else arrival_s
        push(self._state, request, int(self._requests.priority[request]))

    def can_resume(self, request: int, tokens: int) -> bool:
        """Whether a request could be computed here with so many tokens of its answer as a part of its prompt."""
        try:
            self._peak(request, tokens)
        except InfeasibleError:
            return False
        return True

    def resume(self, request: int, tokens: int, answered: int) -> None:
        """See :class:`simulator.serving.replica.Resumes`."""
        self._before[request] = (tokens, answered)
        s = self._state
        width = -(-self._last(request, tokens) // self._rules.block_size) + 1
        if not self._space.groups and width > s.table.shape[1]:
            # A prefill worker's table is as wide as prompts, of which this one has become longer.
            more = width - s.table.shape[1]
            table = np.pad(s.table, ((0, 0), (0, more)))
            self._state = s._replace(table=table, hits=np.zeros(width, np.int64))

    def _last(self, request: int, had: int) -> int:
        """Tokens of a request whose keys and values come to be there, drafts included."""
        rules, requests = self._rules, self._requests
        tokens = int(requests.prompt_tokens[request]) + max(int(requests.output_tokens[request]), had + 1)
        return min(tokens - 1 + rules.drafts + rules.lookahead, rules.max_model_len)

    def _peak(self, request: int, had: int = 0) -> int:
        """Blocks or pages that a request comes to hold; ``had``: tokens of its answer that count as prompt."""
        rules, space = self._rules, self._space
        prompt, last = int(self._requests.prompt_tokens[request]) + had, self._last(request, had)
        if prompt >= rules.max_model_len:
            raise InfeasibleError(
                f"request {request} has a prompt of {prompt} tokens; the engine takes "
                f"{rules.max_model_len - 1} and answers one at least"
            )
        whole = min(last, rules.max_model_len - 1)
        if not rules.chunked and rules.reserve != Reserve.WHOLE:
            prompt = whole
        if not rules.chunked and prompt > rules.max_num_batched_tokens - rules.draft_slots:
            raise InfeasibleError(
                f"request {request} comes to {prompt} tokens that must be computed in one step; a step takes "
                f"{rules.max_num_batched_tokens - rules.draft_slots}"
            )
        peak = (
            -(-last // rules.block_size)
            if not space.groups
            else pages_of(space.groups, last, rules.max_num_batched_tokens)
        )
        if peak > space.blocks:
            raise InfeasibleError(
                f"request {request} comes to hold {peak} blocks ({peak * space.block_bytes:.0f} bytes) for "
                f"{last} tokens; the cache has {space.blocks} ({space.blocks * space.block_bytes:.0f} bytes)"
            )
        return peak

    def schedule(self) -> ScheduledStep:
        """Decide the next step. Raises ``InfeasibleError`` where the engine stands still for ever."""
        before = self._moved()
        schedule(self._state)
        e = self._engine
        if e["entries"] == e["preempted"] == e["running"] == 0 < e["waiting"]:
            # Nothing that could still happen would let it in.
            raise InfeasibleError(
                f"request {self._state.queue[0]} waits for ever: it asks for more than a step of {e['budget']} tokens"
            )
        entries = self._state.entries[: e["entries"]]
        request = entries["request"].copy()
        return ScheduledStep(
            request, entries["tokens"].copy(), entries["context"].copy(), entries["drafts"].copy(),
            entries["samples"] != 0, self._requests.adapter[request],
            *(now - then for now, then in zip(self._moved(), before, strict=True)),
        )  # fmt: skip

    def _moved(self) -> tuple[float, float, float, float]:
        """Bytes from and to the host, from and to drives, since the engine began."""
        return self.host.bytes_in, self.host.bytes_out, self.drive.bytes_in, self.drive.bytes_out

    def complete(self, accepted: Ints) -> StepOutcome:
        """The step has run; placeholder drafts are never accepted, whatever ``accepted`` says of them."""
        n = int(self._engine["entries"])
        entries = self._state.entries[:n]
        right = np.ascontiguousarray(accepted, np.int64)
        if right.shape != (n,) or (right < 0).any() or (right > entries["drafts"]).any():
            raise ValueError("accepted drafts do not fit the step")
        request = entries["request"].copy()
        got, finished = np.empty(n, np.int64), np.empty(n, np.int64)
        ended = complete(self._state, right, got, finished)
        some = got >= 0
        return StepOutcome(request[some], got[some], finished[:ended].copy())

    def drop(self, request: int) -> None:
        """Forget a request; its blocks are free."""
        drop(self._state, request)

    def new_blocks(self) -> list[NewBlocks]:
        """Blocks given out by the last ``schedule``, request by request; asked for before ``complete``."""
        s = self._state
        given = []
        for entry in s.entries[: self._engine["entries"]]:
            q = s.requests[entry["request"]]
            if q["held"] > entry["first"]:
                blocks = s.table[q["row"], entry["first"] : q["held"]].astype(np.int64)
                given.append(NewBlocks(int(entry["request"]), blocks))
        return given

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return int(self._engine["waiting"])

    @property
    def running(self) -> int:
        """Requests that run."""
        return int(self._engine["running"])

    @property
    def free_blocks(self) -> int:
        """Blocks that no request holds."""
        return int(self._engine["free"])

    @property
    def cached_keys(self) -> int:
        """Different prefixes in the index."""
        return int(self._engine["keys"])

    @property
    def preempted(self) -> Ints:
        """Requests preempted by the last ``schedule``, in order."""
        return self._state.preempted[: self._engine["preempted"]].copy()

    @property
    def admitted(self) -> list[Admission]:
        """Requests admitted by the last ``schedule``, in order."""
        notes = self._state.admitted[: self._engine["admitted"]].tolist()
        return [Admission(request, hit, bool(resumed)) for request, hit, resumed in notes]
