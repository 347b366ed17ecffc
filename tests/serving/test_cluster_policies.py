"""Every scheduling policy of the house in a service of several workers: nothing lost, nothing twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.serving.cluster import run_service
from simulator.serving.routing import ROUTERS
from simulator.serving.scheduler import SCHEDULERS
from simulator.serving.service import Failure, Service
from simulator.serving.settings import EngineSettings
from tests.serving.counts import worker
from tests.serving.test_cluster import holds
from tests.serving.test_disaggregated import holds as holds_apart
from tests.serving.test_disaggregated import split
from workloads.requests import make_requests

ENGINE = EngineSettings(
    block_size=4,
    max_num_batched_tokens=64,
    max_num_seqs=8,
    scheduler_reserve_full_isl=False,
    max_model_len=1024,
)


def mixed(seed: int):
    random = np.random.default_rng(seed)
    return make_requests(
        random.integers(1, 60, 40), random.integers(1, 60, 40), np.sort(random.uniform(0, 2, 40))
    )


@pytest.mark.parametrize("policy", SCHEDULERS.names())
def test_a_policy_under_failures(policy: str) -> None:
    make = SCHEDULERS.get(policy)
    workers = tuple(worker(f"w{i}", make=make, settings=ENGINE, blocks=40) for i in range(3))
    service = Service(workers, failures=(Failure(0, 0.4, 0.9), Failure(1, 0.7)), keep_gaps=True)
    requests = mixed(1)
    record = run_service(requests, service)
    holds(requests, service, record)
    assert record.requests.retries.sum() > 0
    assert record.to_bytes() == run_service(requests, service).to_bytes()


@pytest.mark.parametrize("transfer", ["layers", "end"])
@pytest.mark.parametrize("policy", SCHEDULERS.names())
def test_a_policy_with_prefill_apart(policy: str, transfer: str) -> None:
    made = split(
        2, 2, transfer=transfer, block_bytes=1e9, failures=(Failure(0, 0.5, 1.0), Failure(2, 0.8, 1.2))
    )
    make = SCHEDULERS.get(policy)
    workers = tuple(replace(one, make=make, settings=ENGINE) for one in made.workers)
    requests = mixed(2)
    record = run_service(requests, replace(made, workers=workers))
    holds_apart(requests, made, record)
    assert record.requests.retries.sum() > 0


def test_sessions_find_their_cache_where_affinity_sends_them() -> None:
    """Turns that hold the turns before them: the prefix cache serves those that come back to its worker."""
    turns, sessions = 4, 8
    prompts = []
    for session in range(sessions):
        said: list[tuple[int, int]] = []
        for turn in range(turns):
            prompts.append([*said, (100 * session + turn, 12)])
            said = [*prompts[-1], (-1 - (turns * session + turn), 8)]
    lengths = [sum(tokens for _, tokens in prompt) for prompt in prompts]
    after = np.array([turns * s + t - 1 if t else -1 for s in range(sessions) for t in range(turns)])
    requests = make_requests(lengths, 8, 0.0, prompts=prompts, after=after, think_s=np.full(len(after), 0.2))
    workers = tuple(
        worker(f"w{i}", make=SCHEDULERS.get("vllm"), settings=ENGINE, blocks=400) for i in range(3)
    )
    cached = {
        router: int(
            run_service(requests, Service(workers, router=router)).requests.cached_prompt_tokens.sum()
        )
        for router in ROUTERS.names()
    }
    assert cached["session-affinity"] == max(cached.values())
    assert cached["prefix-aware"] > 0.9 * cached["session-affinity"]
    assert cached["round-robin"] < 0.7 * cached["session-affinity"]
