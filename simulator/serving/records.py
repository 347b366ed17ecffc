"""What an engine remembers, as records over flat arrays that kernels can work on.

One record for the engine as a whole, one a request, one a block. :func:`make_state` lays them out for a set of
requests, an engine's settings and a cache.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.serving.rules import PageGroup, Reserve, Rules
from workloads.requests import Requests

__all__ = ["AWAY", "RUNNING", "WAITING", "State", "make_state"]

Array = npt.NDArray[Any]

AWAY: Final = 0
"""State of a request that is not in the system."""
WAITING: Final = 1
RUNNING: Final = 2


def _fields(kind: str, names: str) -> list[tuple[str, str]]:
    return [(name, kind) for name in names.split()]


ENGINE: Final = np.dtype(
    _fields(
        "i8",
        "budget max_seqs block max_len chunked caching priority threshold adaptive reserve watermark drafts lookahead "
        "draft_slots drop_last swap gate alone take blocks paged tokens_left inputs_left cap running waiting entries "
        "preempted admitted free keys front back rows host_free host_in host_out host_states_in host_states_out "
        "drive_free drive_in drive_out drive_states_in drive_states_out mask",
    )
)
"""Settings, then what is left of a step's budgets, then counts. Tokens or blocks; flags are 0 or 1."""
REQUEST: Final = np.dtype(
    _fields(
        "i8",
        "prompt end peak known computed drafts outputs state prefill resumed row held entered kept tier entry",
    )
    + _fields("i8", "segment offset order")
    + _fields("f8", "arrival")
    + _fields("u8", "low high")
)
"""``end``: answer tokens; ``peak``: blocks it can come to hold; ``kept``: computed tokens that lie on the host
(``tier`` 0) or on drives (1);
``entered``: blocks in the index; ``segment``, ``offset``, ``low``, ``high``: where the chain of keys stands."""
BLOCK: Final = np.dtype(
    _fields("i8", "previous next holders indexed same_previous same_next") + _fields("u8", "low high")
)
"""``previous``, ``next``: the free list, a ring through block 0; ``same_``: ring of blocks under one key."""
GROUP: Final = np.dtype(_fields("i8", "tokens window pages"))
ENTRY: Final = np.dtype(_fields("i8", "request tokens context drafts samples padded first"))
"""``padded``: drafts are placeholders; ``first``: blocks held before; ``request`` -1: dropped."""
ADMISSION: Final = np.dtype(_fields("i8", "request hit resumed"))


class State(NamedTuple):
    """All records of an engine."""

    engine: Array
    requests: Array
    blocks: Array
    slots: Array
    """Open-addressing index: the first block of a key, or 0."""
    table: Array
    """Blocks of running requests, a row each."""
    rows: Array
    """Rows that nobody has, as a stack."""
    running: Array
    queue: Array
    """Waiting requests as a binary heap."""
    entries: Array
    preempted: Array
    admitted: Array
    hits: Array
    """Blocks found by the last look-up."""
    groups: Array
    segment_begin: Array
    segment_stream: Array
    segment_tokens: Array
    output_stream: Array
    adapter: Array


def make_state(requests: Requests, rules: Rules, blocks: int, groups: tuple[PageGroup, ...]) -> State:
    """Records of an engine in which nothing has happened. ``blocks``: blocks or pages that requests can have."""
    n = max(requests.count, 1)
    seqs = min(rules.max_num_seqs, n)
    paged = not groups
    longest = int((requests.prompt_tokens + requests.output_tokens).max()) if requests.count else 1
    longest = min(longest + rules.drafts + rules.lookahead, rules.max_model_len)
    width = -(-longest // rules.block_size) + 1 if paged else 1
    engine = np.zeros(1, ENGINE)
    # Pages behind a window are given back as a prompt goes on, so that they are never taken for all of it.
    take = int(rules.take) if paged or rules.take == Reserve.WHOLE else 0
    settings = {
        "budget": rules.max_num_batched_tokens, "max_seqs": seqs, "block": rules.block_size,
        "max_len": rules.max_model_len, "chunked": rules.chunked, "caching": rules.caching and paged,
        "priority": rules.priority, "threshold": rules.long_prefill_token_threshold,
        "adaptive": rules.adaptive, "reserve": int(rules.reserve),
        "watermark": int(rules.watermark * (blocks + 1)), "drafts": rules.drafts, "lookahead": rules.lookahead,
        "draft_slots": rules.draft_slots, "drop_last": rules.drop_last_hit_block, "swap": rules.swap,
        "gate": rules.batch_at_once, "alone": rules.prefill_alone,
        "take": take, "blocks": blocks, "paged": paged, "free": blocks, "rows": seqs,
        "host_free": rules.host_blocks, "drive_free": rules.drive_blocks,
    }  # fmt: skip
    for name, value in settings.items():
        engine[name] = value
    block = np.zeros(blocks + 1 if paged else 1, BLOCK)
    slots = np.zeros(1 << max(3, (2 * len(block)).bit_length()), np.int64)
    engine["mask"] = len(slots) - 1
    block["next"] = np.roll(np.arange(len(block)), -1)
    block["previous"] = np.roll(np.arange(len(block)), 1)
    group = np.zeros(len(groups), GROUP)
    for place, each in enumerate(groups):
        group[place] = (each.page_tokens, each.window, each.pages)
    request = np.zeros(n, REQUEST)
    request["prompt"][: requests.count] = requests.prompt_tokens
    request["end"][: requests.count] = requests.output_tokens
    ints = partial(np.zeros, dtype=np.int64)
    return State(
        engine, request, block, slots, np.empty((seqs, width), np.int32), np.arange(seqs - 1, -1, -1),
        ints(seqs), ints(n), np.zeros(seqs, ENTRY), ints(n), np.zeros(n, ADMISSION), ints(width), group,
        requests.segment_begin, requests.segment_stream, requests.segment_tokens, requests.output_stream,
        requests.adapter,
    )  # fmt: skip
