"""Requests to a language model as columns: when each comes, how long it is, and what of it others share.

What a prompt says is given by segments: a segment is so many tokens from the beginning of a stream, and two requests
whose prompts begin with equal segments begin with equal tokens. An answer is a stream of its own, so that a later turn
of a session holds the answers before it. Different streams differ in every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input

__all__ = ["ADAPTER_TARGETS", "ATTENTION_TARGETS", "MAX_TOKENS", "Requests", "make_requests"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ATTENTION_TARGETS: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
ADAPTER_TARGETS: Final = (*ATTENTION_TARGETS, "gate_proj", "up_proj", "down_proj")
"""Products of a layer that an adapter may stand beside, by their names in model files."""
MAX_TOKENS: Final = 1 << 31
"""Tokens of one prompt or answer at most."""


@dataclass(frozen=True)
class Requests:
    """Requests in order of their numbers. All columns have one entry a request, but for the segments.

    A request is sent at ``arrival_s``; or, where ``after`` names another (its number; -1: none), ``think_s`` seconds
    after that one's last token, and never before ``arrival_s``. ``clients`` above 0 closes the loop: requests are sent
    in order, no more than so many at a time. Request ``i``'s prompt is segments ``segment_begin[i]`` to
    ``segment_begin[i + 1]``.
    """

    arrival_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    segment_begin: Ints
    """One entry more than there are requests."""
    segment_stream: Ints
    segment_tokens: Ints
    output_stream: Ints
    priority: Ints
    """Smaller is more urgent."""
    deadline_s: Floats
    """Seconds from arrival to the last token; infinity: none."""
    adapter: Ints
    """Place in ``adapters``; -1: the model alone."""
    after: Ints
    think_s: Floats
    adapters: tuple[str, ...] = ()
    adapter_rank: int = 16
    """Rank of every adapter."""
    adapter_targets: tuple[str, ...] = ATTENTION_TARGETS
    """Products that adapters stand beside."""
    clients: int = 0
    name: str = "requests"

    @property
    def count(self) -> int:
        """Number of requests."""
        return len(self.prompt_tokens)

    def __post_init__(self) -> None:
        n = self.count
        columns = (
            "arrival_s", "output_tokens", "output_stream", "priority", "deadline_s", "adapter", "after", "think_s",
        )  # fmt: skip
        for column in columns:
            if len(getattr(self, column)) != n:
                raise bad_input(
                    f"found {len(getattr(self, column))} entries of {column}; expected {n}", file=self.name
                )
        if len(self.segment_begin) != n + 1 or len(self.segment_stream) != len(self.segment_tokens):
            raise bad_input("segments and requests do not fit together", file=self.name)
        for column in ("prompt_tokens", "output_tokens"):
            tokens = getattr(self, column)
            if n and not 1 <= int(tokens.min()) <= int(tokens.max()) <= MAX_TOKENS:
                raise bad_input(
                    f"{column}: found {int(tokens.min())}; expected 1 to {MAX_TOKENS}", file=self.name
                )
        totals = (
            np.add.reduceat(np.append(self.segment_tokens, 0), self.segment_begin[:-1])
            if n
            else self.prompt_tokens
        )
        if n and not np.array_equal(totals, self.prompt_tokens):
            raise bad_input("the segments of a prompt do not have its number of tokens", file=self.name)
        if n and not (
            np.isfinite(self.arrival_s).all() and (self.arrival_s >= 0).all() and (self.think_s >= 0).all()
        ):
            raise bad_input("arrivals and think times are finite and not negative", file=self.name)
        if (self.after >= np.arange(n)).any():
            raise bad_input("a request can only come after an earlier one", file=self.name)

    def part(self, kept: npt.NDArray[np.bool_]) -> Requests:
        """The requests where ``kept`` holds, in their order, renumbered.

        One that comes after a request that is left out comes after that one's own predecessor, both think times
        later; without one, at its predecessor's arrival and its think time.
        """
        number = np.cumsum(kept) - 1
        after, think, arrival = self.after.copy(), self.think_s.copy(), self.arrival_s.copy()
        for i in np.flatnonzero(self.after >= 0).tolist():
            before = after[i]
            if not kept[before]:
                # Predecessors stand earlier, so that theirs is settled already.
                after[i] = after[before]
                if after[i] < 0:
                    arrival[i] = max(arrival[i], arrival[before] + think[i])
                think[i] += think[before]
        lengths = np.diff(self.segment_begin)
        inside = np.repeat(kept, lengths)
        columns = {name: getattr(self, name)[kept] for name in _PER_REQUEST}
        linked = after[kept]
        columns |= {
            "after": np.where(linked >= 0, number[linked], -1),
            "think_s": think[kept],
            "arrival_s": arrival[kept],
        }
        return replace(
            self, **columns, segment_begin=np.concatenate(([0], np.cumsum(lengths[kept]))),
            segment_stream=self.segment_stream[inside], segment_tokens=self.segment_tokens[inside],
        )  # fmt: skip


_PER_REQUEST: Final = ("prompt_tokens", "output_tokens", "output_stream", "priority", "deadline_s", "adapter")


def make_requests(
    prompt_tokens: npt.ArrayLike,
    output_tokens: npt.ArrayLike,
    arrival_s: npt.ArrayLike = 0.0,
    *,
    prompts: Sequence[Sequence[tuple[int, int]]] | None = None,
    **columns: object,
) -> Requests:
    """Requests from arrays; what is not given takes its neutral value.

    ``prompts``: segments (stream, tokens) of each; without it no two requests share a token. Raises
    ``InputError`` where columns do not fit together.

    >>> make_requests([100, 200], [10, 20], [0.0, 0.5]).count
    2
    """
    prompt = np.atleast_1d(np.ascontiguousarray(prompt_tokens, np.int64))
    n = len(prompt)
    if prompts is None:
        begin, stream, tokens = np.arange(n + 1), np.arange(n), prompt
    else:
        begin = np.concatenate(([0], np.cumsum([len(segments) for segments in prompts])))
        flat = np.array([pair for segments in prompts for pair in segments], np.int64).reshape(-1, 2)
        stream, tokens = flat[:, 0], flat[:, 1]
    neutral: dict[str, object] = {
        "output_stream": -1 - np.arange(n, dtype=np.int64), "priority": np.zeros(n, np.int64),
        "deadline_s": np.full(n, np.inf), "adapter": np.full(n, -1, np.int64), "after": np.full(n, -1, np.int64),
        "think_s": np.zeros(n),
    }  # fmt: skip
    return Requests(
        np.broadcast_to(np.asarray(arrival_s, np.float64), n).copy(), prompt,
        np.broadcast_to(np.asarray(output_tokens, np.int64), n).copy(), np.asarray(begin, np.int64),
        np.asarray(stream, np.int64), np.asarray(tokens, np.int64), **{**neutral, **columns},  # type: ignore[arg-type]
    )  # fmt: skip
