"""Routers: each against what it says of itself, and all of them in a service."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.serving.cluster import run_service
from simulator.serving.routing import ROUTERS, Pool, RouterOptions
from simulator.serving.routing.session_affinity import session_roots
from simulator.serving.service import Service
from tests.serving.counts import worker
from workloads.requests import make_requests


def pool(*requests: float, tokens=None, workers=None) -> Pool:
    numbers = np.array(workers if workers is not None else range(len(requests)))
    loads = np.array(requests, np.float64)
    return Pool(numbers, loads, np.array(tokens, np.float64) if tokens is not None else 100 * loads)


def router(name: str, requests=None, **options):
    table = requests if requests is not None else make_requests(np.full(50, 10), 1)
    return ROUTERS.get(name)(table, RouterOptions(**options))


def test_round_robin_passes_over_who_is_down() -> None:
    made = router("round-robin")
    assert [made.choose(0, pool(9, 0, 0)) for _ in range(4)] == [0, 1, 2, 0]
    assert [made.choose(0, pool(0, 0, workers=[0, 2])) for _ in range(3)] == [2, 0, 2]


def test_least_loaded_by_requests_or_tokens() -> None:
    seen = pool(3, 1, 1, tokens=[5, 30, 20])
    assert router("least-loaded").choose(0, seen) == 1
    assert router("least-loaded", load="tokens").choose(0, seen) == 0


def test_power_of_two_never_takes_the_fullest_and_repeats_with_its_seed() -> None:
    made, again, other = (router("power-of-two", seed=seed) for seed in (3, 3, 4))
    chosen = [made.choose(0, pool(5, 1, 2, 9)) for _ in range(400)]
    assert chosen == [again.choose(0, pool(5, 1, 2, 9)) for _ in range(400)]
    assert chosen != [other.choose(0, pool(5, 1, 2, 9)) for _ in range(400)]
    shares = np.bincount(chosen, minlength=4) / 400
    # The least of two of four: 3, 2, 1 and 0 of the 6 pairs.
    assert shares == pytest.approx([1 / 6, 3 / 6, 2 / 6, 0], abs=0.07)
    assert router("power-of-two").choose(0, pool(7, workers=[2])) == 2


def test_prefix_aware_goes_where_most_of_the_prompt_was() -> None:
    prompts = [[(1, 40), (10, 5)], [(2, 40), (11, 5)], [(1, 40), (12, 5)], [(2, 30)], [(1, 40), (10, 5), (-1, 3), (13, 2)]]  # fmt: skip # noqa: E501
    table = make_requests([45, 45, 45, 30, 50], 3, prompts=prompts)
    made = router("prefix-aware", table)
    assert [made.choose(0, pool(0, 0)), made.choose(1, pool(1, 0))] == [0, 1]
    assert made.choose(2, pool(5, 1)) == 0
    assert made.choose(3, pool(5, 1)) == 1
    # A later turn finds the answer before it where that was given.
    assert made.choose(4, pool(1, 1)) == 0


def test_prefix_aware_leaves_a_worker_with_too_much_to_do() -> None:
    table = make_requests([40, 40, 40], 1, prompts=[[(1, 40)]] * 3)
    made = router("prefix-aware", table, imbalance=2.0, slack_requests=2)
    assert made.choose(0, pool(0, 0)) == 0
    assert made.choose(1, pool(8, 4)) == 0
    assert made.choose(2, pool(9, 4)) == 1


def test_prefix_aware_forgets_the_oldest() -> None:
    table = make_requests([40] * 4, 1, prompts=[[(1, 40)], [(2, 40)], [(3, 40)], [(1, 40)]])
    for remembered, chosen in ((100, 0), (4, 1)):
        made = router("prefix-aware", table, remembered=remembered)
        for request, loads in ((0, (0, 1)), (1, (0, 1)), (2, (0, 1))):
            assert made.choose(request, pool(*loads)) == 0
        assert made.choose(3, pool(1, 0)) == chosen


def longest_shared(one, other) -> int:
    """Tokens that two prompts share, token by token."""
    spelt = [[(stream, i) for stream, count in prompt for i in range(count)] for prompt in (one, other)]
    count = 0
    for a, b in zip(*spelt, strict=False):
        if a != b:
            return count
        count += 1
    return count


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), min_size=1, max_size=3),
        min_size=2,
        max_size=8,
    )
)
@settings(max_examples=150, deadline=None)
def test_the_shared_prefix_is_the_longest(prompts) -> None:
    # A stream is cut once a prompt, or equal tokens would be written in two ways.
    prompts = [
        list(dict(prompt).items())
        if len({s for s, _ in prompt}) < len(prompt)
        else [(s, n) for s, n in prompt]
        for prompt in prompts
    ]
    table = make_requests([sum(n for _, n in prompt) for prompt in prompts], 1, prompts=prompts)
    made = router("prefix-aware", table, slack_requests=10**6)
    known: dict[int, list] = {0: [], 1: []}
    for request, prompt in enumerate(prompts):
        best = {w: max((longest_shared(prompt, p) for p in known[w]), default=0) for w in known}
        chosen = made.choose(request, pool(1, 0))
        assert best[chosen] == max(best.values())
        known[chosen].append(prompt)


def test_a_session_stays_where_it_began() -> None:
    after = np.array([-1, -1, 0, 1, 2])
    table = make_requests([5] * 5, 1, after=after)
    assert session_roots(table) == [0, 1, 0, 1, 0]
    made = router("session-affinity", table)
    assert [made.choose(0, pool(0, 0)), made.choose(1, pool(1, 0))] == [0, 1]
    assert [made.choose(2, pool(9, 0)), made.choose(3, pool(0, 9))] == [0, 1]
    # Its worker is down: it moves, and stays there.
    assert made.choose(4, pool(5, 1, workers=[1, 2])) == 2


@pytest.mark.parametrize("name", ROUTERS.names())
def test_every_router_serves_everything(name) -> None:
    requests = make_requests(np.arange(1, 61), 7, np.arange(60) * 0.03)
    service = Service(tuple(worker(str(i), speed=1.0 + i) for i in range(3)), router=name)
    record = run_service(requests, service)
    assert record.requests.tokens.tolist() == [7] * 60
    assert set(record.requests.replica.tolist()) == {0, 1, 2}
    assert record.to_bytes() == run_service(requests, service).to_bytes()


def test_a_faster_worker_of_a_mixed_pool_gets_more() -> None:
    requests = make_requests(np.full(300, 20), 5, 0.0)
    pair = (worker("slow"), worker("fast", speed=3.0))
    replica = run_service(requests, Service(pair, router="least-loaded")).requests.replica
    assert (replica == 1).mean() == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(("options", "words"), [({"load": "bytes"}, "requests or tokens"), ({"imbalance": 0.5}, "imbalance from 1")])  # fmt: skip # noqa: E501
def test_wrong_options_are_said(options, words) -> None:
    with pytest.raises(InputError, match=words):
        RouterOptions(**options)
