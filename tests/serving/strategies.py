"""Random requests and settings for schedulers."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from simulator.serving.settings import EngineSettings, Speculation
from workloads.requests import make_requests

BLOCK_SIZES = (1, 2, 4)
MAX_LEN = 48


@st.composite
def speculations(draw):
    tokens = draw(st.integers(1, 3))
    method = draw(st.sampled_from(["ngram", "draft-model", "eagle"]))
    return Speculation(
        method=method,
        tokens=tokens,
        lookahead=0 if method == "ngram" else tokens,
        draft_slots=int(method == "draft-model"),
        drop_last_hit_block=method == "eagle",
    )


@st.composite
def engine_settings(draw, **fixed):
    spec = draw(st.none() | speculations())
    chunked = draw(st.booleans())
    least = 1 + (spec.tokens + spec.draft_slots if spec else 0)
    values = {
        "max_num_batched_tokens": draw(st.integers(max(least, 4), 24)) if chunked else 0,
        "max_num_seqs": draw(st.integers(1, 6)),
        "max_num_active_seqs": draw(st.sampled_from([0, 0, 2, 3])),
        "max_model_len": draw(st.sampled_from([MAX_LEN, MAX_LEN, 20])),
        "block_size": draw(st.sampled_from(BLOCK_SIZES)),
        "enable_chunked_prefill": chunked,
        "enable_prefix_caching": draw(st.booleans()),
        "policy": draw(st.sampled_from(["fcfs", "priority"])),
        "long_prefill_token_threshold": draw(st.sampled_from([0, 0, 3, 6])),
        "long_prefill_token_threshold_adaptive": draw(st.booleans()),
        "scheduler_reserve_full_isl": draw(st.booleans()),
        "watermark": draw(st.sampled_from([0.0, 0.0, 0.1, 0.25])),
        "speculation": spec,
    }
    if not chunked:
        # A little more than one prompt needs, so that some have to wait for a step of their own.
        values["max_num_batched_tokens"] = values["max_model_len"] + 4
    return EngineSettings(**{**values, **fixed})


@st.composite
def request_tables(draw, longest=19, most=12):
    """Requests of a few streams, so that many share prefixes; some are later turns that hold earlier answers."""
    count = draw(st.integers(1, most))
    prompts, outputs, streams = [], [], []
    for _ in range(count):
        turn = draw(st.integers(-2, len(prompts) - 1)) if prompts else -1
        if turn >= 0:
            said = (draw(st.integers(0, 2)), draw(st.integers(1, 4)))
            segments = [*prompts[turn], (streams[turn], outputs[turn]), said]
        else:
            segments = draw(
                st.lists(st.tuples(st.integers(0, 2), st.integers(1, 12)), min_size=1, max_size=3)
            )
        if sum(tokens for _, tokens in segments) > longest:
            segments = [(draw(st.integers(0, 2)), draw(st.integers(1, longest)))]
        prompts.append(segments)
        outputs.append(draw(st.integers(1, 14)))
        streams.append(draw(st.integers(100, 103)))
    return make_requests(
        [sum(tokens for _, tokens in segments) for segments in prompts],
        outputs,
        sorted(draw(st.lists(st.integers(0, 12), min_size=count, max_size=count))),
        prompts=prompts,
        output_stream=np.array(streams),
        adapter=np.array(draw(st.lists(st.sampled_from([-1, -1, -1, 0]), min_size=count, max_size=count))),
        adapters=("one",),
        priority=np.array(draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))),
    )
