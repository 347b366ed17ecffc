"""Workers that fail: their requests are answered all the same, once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hw_configs.problems import InfeasibleError
from simulator.serving.cluster import run_service
from simulator.serving.scheduler import SCHEDULERS
from simulator.serving.service import Failure, Service
from simulator.serving.settings import EngineSettings
from tests.serving.counts import Resuming, worker
from tests.serving.test_disaggregated import holds, split
from workloads.requests import make_requests


def test_a_failure_by_hand() -> None:
    """One request of 8 + 4 on two workers; the first fails after two tokens, and only the other two are delivered."""
    requests = make_requests([8], [4])
    service = Service((worker("a"), worker("b")), failures=(Failure(0, 0.03),), retry_s=0.005, keep_gaps=True)
    record = run_service(requests, service)
    columns = record.requests
    assert columns.first_token_s[0] == pytest.approx(0.018)
    # Tokens at 0.018 and 0.029; again from 0.035: 0.053, 0.064, then 0.075 and 0.086 are new.
    assert record.gaps.gap_s == pytest.approx([0.011, 0.046, 0.011])
    assert columns.last_token_s[0] == pytest.approx(0.086)
    assert (columns.retries[0], columns.replica[0], record.lost_tokens) == (1, 1, 2)
    assert record.steps.lost.tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert record.steps.seconds[2] == pytest.approx(0.001)
    assert record.steps.delivered.tolist() == [1, 1, 0, 0, 0, 1, 1]
    assert record.down_s == (pytest.approx(0.086 - 0.03), 0.0)


def test_requests_wait_for_a_worker_to_return() -> None:
    requests = make_requests(np.full(5, 8), 4, np.arange(5) * 0.01)
    record = run_service(requests, Service((worker(),), failures=(Failure(0, 0.015, 3.0),)))
    assert record.requests.tokens.tolist() == [4] * 5
    assert record.requests.retries.tolist() == [1, 1, 0, 0, 0]
    assert (record.requests.last_token_s > 3.0).all()
    assert record.down_s == (2.985,)


def test_no_worker_left_is_said() -> None:
    requests = make_requests(np.full(5, 8), 4, np.arange(5) * 0.01)
    with pytest.raises(InfeasibleError, match="5 of 5 requests can never end: 0 of 1 workers are up"):
        run_service(requests, Service((worker(),), failures=(Failure(0, 0.015),)))


def test_a_worker_that_fails_again_and_again() -> None:
    requests = make_requests(np.full(12, 20), 10, 0.0)
    failures = tuple(
        Failure(i, 0.05 + 0.1 * k + 0.03 * i, 0.1 + 0.1 * k + 0.03 * i) for i in range(2) for k in range(5)
    )
    record = run_service(requests, Service((worker("a"), worker("b")), failures=failures))
    assert record.requests.tokens.tolist() == [10] * 12
    assert record.requests.retries.max() > 1
    assert int(record.steps.delivered.sum()) == 120
    assert int(record.steps.lost.sum()) <= 10


def test_a_decode_worker_fails_while_a_cache_is_on_its_way() -> None:
    """What was on its way is sent again to the other worker; the prompt is not computed again."""
    requests = make_requests([8], [3])
    service = split(1, 2, transfer="end", block_bytes=45e9, failures=(Failure(1, 0.1),))
    record = run_service(requests, service)
    holds(requests, service, record)
    assert record.transfers.lost.tolist() == [1, 0]
    assert record.transfers.target.tolist() == [1, 2]
    assert record.requests.retries.tolist() == [0]
    assert (record.steps.replica == 0).sum() == 1


def test_a_prefill_worker_fails_while_its_cache_is_on_its_way() -> None:
    """The prompt is computed again elsewhere; its first token is not delivered again."""
    requests = make_requests([8], [3])
    service = split(2, 1, transfer="end", block_bytes=45e9, failures=(Failure(0, 0.1),))
    record = run_service(requests, service)
    holds(requests, service, record)
    assert record.requests.retries.tolist() == [1]
    assert record.requests.first_token_s[0] == pytest.approx(0.018)
    assert record.steps.delivered.tolist() == [1, 0, 1, 1]
    assert record.transfers.lost.tolist() == [1, 0]
    assert record.lost_tokens == 1


def test_a_prefill_worker_fails_while_layers_leave() -> None:
    requests = make_requests([60, 60], [3, 3])
    service = split(2, 1, transfer="layers", block_bytes=1e9, failures=(Failure(0, 0.05),))
    record = run_service(requests, service)
    holds(requests, service, record)
    assert record.requests.retries.sum() == 1
    assert 0 < record.transfers.bytes[record.transfers.lost == 1].sum() < 15e9


def test_a_retry_goes_on_with_the_tokens_that_its_client_has() -> None:
    """By hand: 8 + 4; two tokens are out at 0.029. From 0.035 a prompt of 10 (0.020 s), then the last token."""
    requests = make_requests([8], [4])
    workers = (worker("a", make=Resuming), worker("b", make=Resuming))
    service = Service(workers, failures=(Failure(0, 0.03),), retry_s=0.005, keep_gaps=True)
    record = run_service(requests, service)
    assert record.gaps.gap_s == pytest.approx([0.011, 0.026, 0.011])
    assert record.requests.last_token_s[0] == pytest.approx(0.066)
    assert (record.requests.retries[0], record.lost_tokens) == (1, 0)
    assert record.steps.tokens.tolist() == [8, 1, 1, 10, 1]
    assert record.steps.delivered.tolist() == [1, 1, 0, 1, 1]


@pytest.mark.parametrize("policy", SCHEDULERS.names())
def test_no_policy_computes_a_delivered_token_again(policy: str) -> None:
    settings = EngineSettings(block_size=4, max_num_batched_tokens=64, max_num_seqs=8, max_model_len=256)
    make = SCHEDULERS.get(policy)
    workers = tuple(worker(name, make=make, settings=settings, blocks=64) for name in "ab")
    requests = make_requests(np.full(6, 20), 30, 0.0)
    record = run_service(requests, Service(workers, failures=(Failure(0, 0.2, 0.25), Failure(1, 0.6, 0.8))))
    assert record.requests.tokens.tolist() == [30] * 6
    assert record.requests.retries.sum() >= 5
    assert record.lost_tokens == 0
    assert int(record.steps.delivered.sum()) == 180


def test_a_resumed_prompt_of_a_prefill_worker_is_longer_than_its_table() -> None:
    """Its table of blocks is as wide as prompts are; the retry of a long answer must not write beyond it."""
    settings = EngineSettings(block_size=4, max_num_batched_tokens=64, max_num_seqs=8, max_model_len=512)
    made = split(1, 1, block_bytes=1e6, failures=(Failure(1, 1.5, 1.6),), decode_blocks=80)
    make = SCHEDULERS.get("vllm")
    workers = tuple(replace(one, make=make, settings=settings) for one in made.workers)
    requests = make_requests([5, 5], [200, 190])
    service = replace(made, workers=workers)
    record = run_service(requests, service)
    holds(requests, service, record)
    assert record.requests.retries.tolist() == [1, 1]
    assert record.lost_tokens == 0
    assert record.steps.tokens[record.steps.replica == 0].sum() > 10 + 200


def test_what_no_longer_fits_in_one_step_begins_anew() -> None:
    """Without chunks a prompt that has grown beyond a step can't go on; its tokens are still delivered once."""
    settings = EngineSettings(
        scheduler="trtllm-guaranteed-no-evict", block_size=4, max_num_batched_tokens=24, max_num_seqs=8,
        max_model_len=256, enable_chunked_prefill=False,
    )  # fmt: skip
    make = SCHEDULERS.get(settings.scheduler)
    workers = tuple(worker(name, make=make, settings=settings, blocks=64) for name in "ab")
    record = run_service(make_requests([20], [30]), Service(workers, failures=(Failure(0, 0.2),)))
    assert record.requests.tokens.tolist() == [30]
    assert record.lost_tokens > 4


class Forgets(Resuming):
    """Is told of a part of the answer, and gives it again."""

    def add(self, request: int, arrival_s=None) -> None:
        self.had.pop(request, None)
        super().add(request, arrival_s)


class Skips(Resuming):
    """Takes one token more for answered than there is."""

    def resume(self, request: int, tokens: int, answered: int) -> None:
        super().resume(request, tokens, answered + 1)


@pytest.mark.parametrize("make", [Forgets, Skips])
def test_a_token_twice_or_never_is_noticed(make) -> None:
    workers = (worker("a", make=make), worker("b", make=make))
    service = Service(workers, failures=(Failure(0, 0.03),), retry_s=0.005)
    record = run_service(make_requests([8], [4]), service)
    assert record.requests.tokens.tolist() != [4]
