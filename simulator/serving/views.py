"""A service's requests as its prefill and its decode workers see them.

A prefill worker is asked for one token. A decode worker gets a prompt that is longer by this token, of which all but
the token is in its cache already, and is asked for the rest.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from workloads.requests import Requests

__all__ = ["decode_view", "prefill_view", "seen_by"]


def seen_by(role: str, requests: Requests) -> Requests:
    """Requests as a worker of a role sees them."""
    if role == "prefill":
        return prefill_view(requests)
    return decode_view(requests) if role == "decode" else requests


def prefill_view(requests: Requests) -> Requests:
    """The same prompts, each for one token."""
    return replace(requests, output_tokens=np.ones(requests.count, np.int64), clients=0)


def decode_view(requests: Requests) -> Requests:
    """Prompts with their first token at the end, for one token less (at least one, where no decode worker is asked).

    The first token is a segment of a stream of its own, since it is shared with nobody.
    """
    n = requests.count
    ends = requests.segment_begin[1:]
    known = np.concatenate((requests.segment_stream, requests.output_stream, [0]))
    own = int(known.min()) - 1 - np.arange(n)
    return replace(
        requests,
        prompt_tokens=requests.prompt_tokens + 1,
        output_tokens=np.maximum(requests.output_tokens - 1, 1),
        segment_begin=requests.segment_begin + np.arange(n + 1),
        segment_stream=np.insert(requests.segment_stream, ends, own),
        segment_tokens=np.insert(requests.segment_tokens, ends, 1),
        clients=0,
    )
