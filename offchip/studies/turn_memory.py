"""MEM1: an agent that keeps a short state instead of all its turns, as a cache over many turns.

The claim stands in the list of things to reproduce; the paper (MEM1, 2025) was not at hand, so that lengths of turns
are swept, not known.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from offchip.studies.graph_pricer import GraphPricer
from offchip.studies.phase_times import cache_bytes, usable_bytes, weight_bytes
from offchip.studies.study import Claim, Outcome, Study, StudyTable, compare
from simulator.serving.cluster import run_service
from simulator.serving.replica import Worker
from simulator.serving.scheduler import SCHEDULERS, KvSpace
from simulator.serving.service import Service
from simulator.serving.settings import EngineSettings
from workloads.requests import Requests, make_requests

__all__ = ["STUDY"]

MODEL, CARD = "qwen2.5-7b", "a100-80gb"
ASKED: Final = 300
"""Tokens of the task: assumption."""
FOUND, SAID = 200, 50
"""Tokens that a search brings, and that the agent writes in a turn: assumptions."""
STATE: Final = 300
"""Tokens of the state that is kept: assumption."""
TURNS: Final = (2, 4, 8, 16)
SESSIONS: Final = 16
BLOCK: Final = 16


class Kept(NamedTuple):
    """A run: cache in use at most, and seconds until all sessions end."""

    tokens: int
    seconds: float


def sessions(turns: int, state: int) -> Requests:
    """Sessions of so many turns; ``state`` 0: each turn's prompt holds everything before it."""
    prompts: list[list[tuple[int, int]]] = []
    after = []
    stream = 0
    answer_streams = [-1 - i for i in range(SESSIONS * turns)]
    for session in range(SESSIONS):
        stream += 1
        task = (stream, ASKED)
        history: list[tuple[int, int]] = []
        for turn in range(turns):
            number = session * turns + turn
            stream += 1
            found = (stream, FOUND)
            if state:
                kept = [(answer_streams[number - 1], state)] if turn else []
                prompts.append([task, *kept, found])
            else:
                prompts.append([task, *history, found])
                history += [found, (answer_streams[number], SAID)]
            after.append(number - 1 if turn else -1)
    lengths = [sum(tokens for _, tokens in prompt) for prompt in prompts]
    answers = np.full(len(prompts), SAID + state)
    return make_requests(
        lengths, answers, 0.0, prompts=prompts, after=np.array(after), output_stream=np.array(answer_streams)
    )


def kept(turns: int, state: int) -> Kept:
    """Run the sessions side by side under vLLM's scheduler with its prefix cache."""
    room = 0.9 * usable_bytes(CARD) - weight_bytes(MODEL)
    token = cache_bytes(MODEL)
    space = KvSpace(int(room / (BLOCK * token)), BLOCK, float(BLOCK * token))
    worker = Worker("gpu", SCHEDULERS.get("vllm"), EngineSettings(), space, GraphPricer(MODEL, CARD))
    record = run_service(sessions(turns, state), Service((worker,)))
    return Kept(BLOCK * (space.blocks - int(record.steps.free_blocks.min())), record.end_s)


def _run() -> Outcome:
    runs = {turns: (kept(turns, 0), kept(turns, STATE)) for turns in TURNS}
    ratios = {turns: whole.tokens / short.tokens for turns, (whole, short) in runs.items()}
    claim = Claim(
        "memory", "memory less than with all turns in the context (16 objectives)", 3.7, "",
        "MEM1, 2025: the headline as recalled", "recalled", "construction",
    )  # fmt: skip
    result = compare(
        claim, ratios[16],
        f"{SESSIONS} sessions of {MODEL} on one A100 side by side, 16 turns of {FOUND} tokens found and {SAID} "
        "written, "
        f"against a state of {STATE} tokens that each turn writes anew: the most of the cache that is in use at once.",
        "The lengths are assumptions, and the ratio is theirs: it grows with the turns, as the table shows. The paper "
        "counts tokens of the context and compares with a model of twice the size.",
    )  # fmt: skip
    rows = tuple(
        (float(turns), float(whole.tokens), float(short.tokens), ratios[turns], whole.seconds, short.seconds)
        for turns, (whole, short) in runs.items()
    )
    columns = (
        "turns",
        "tokens, all turns",
        "tokens, state",
        "memory",
        "seconds, all turns",
        "seconds, state",
    )
    return Outcome([result], [StudyTable("Cache in use at most, and time to the end", columns, rows)])


STUDY: Final = Study(
    "mem1",
    "MEM1: a state instead of all turns",
    "Zhou et al., MEM1: Learning to Synergize Memory and Reasoning for Efficient Long-Horizon Agents, 2025",
    "Sessions of 2 to 16 turns whose prompts hold all earlier turns, or a state of constant length.",
    _run,
)
