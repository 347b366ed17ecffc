"""Workers that fail: their requests are answered all the same, once."""

from __future__ import annotations

import numpy as np
import pytest

from hw_configs.problems import InfeasibleError
from simulator.serving.cluster import run_service
from simulator.serving.service import Failure, Service
from tests.serving.counts import worker
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
