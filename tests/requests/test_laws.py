"""Arrival and length laws against their closed forms; a description gives the same requests for the same seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from workloads.requests.arrivals import read_rate, with_rate
from workloads.requests.description import RequestDescription, draw_requests, read_description
from workloads.requests.lengths import NAMED, NINETIETH, draw_lengths
from workloads.requests.table import Requests

N = 40_000


def described(text: str) -> RequestDescription:
    return read_description("test.yaml", text)


def arrivals(law: str, count: int = N, seed: int = 3) -> np.ndarray:
    text = f"requests: {count}\nprompt: 1\noutput: 1\narrivals: {law}"
    return draw_requests(described(text), seed).arrival_s


@pytest.mark.parametrize(
    ("law", "rate", "cv"),
    [
        ("{kind: poisson, rate: 4 /s}", 4, 1.0),
        ("{kind: poisson, rate: 240 /min}", 4, 1.0),
        ("{kind: gamma, rate: 4 /s, cv: 2.5}", 4, 2.5),
        ("{kind: gamma, rate: 4 /s, cv: 0.25}", 4, 0.25),
        ("{kind: constant, rate: 7200 /h}", 2, 0.0),
    ],
)
def test_gaps_have_the_mean_and_the_variation_that_is_asked_for(law: str, rate: float, cv: float) -> None:
    gaps = np.diff(arrivals(law))
    sure = 4 / math.sqrt(N)
    assert np.mean(gaps) == pytest.approx(1 / rate, rel=sure * max(cv, 1e-9) + 1e-9)
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(cv, abs=1e-6 + 12 * sure * cv)


def test_the_guard_on_gaps_sees_another_law() -> None:
    gaps = np.diff(arrivals("{kind: gamma, rate: 4 /s, cv: 2.0}"))
    assert np.std(gaps) / np.mean(gaps) != pytest.approx(1.0, abs=0.3)


def test_bursts_come_together_and_as_often_as_said() -> None:
    times = arrivals("{kind: bursts, size: 8, every: 10 s, within: 100 ms}", 80)
    assert np.array_equal(times // 10, np.arange(80) // 8)
    assert (times % 10 < 0.1).all()
    assert (np.diff(times) >= 0).all()


@given(st.floats(0.01, 1e4), st.sampled_from(["poisson", "gamma", "constant", "bursts"]))
@settings(deadline=None, max_examples=30)
def test_another_rate_sends_the_same_requests_sooner(rate: float, kind: str) -> None:
    law = {
        "poisson": "{kind: poisson, rate: 2 /s}", "gamma": "{kind: gamma, rate: 2 /s, cv: 3}",
        "constant": "{kind: constant, rate: 2 /s}", "bursts": "{kind: bursts, size: 4, every: 2 s, within: 1 s}",
    }[kind]  # fmt: skip
    base = described(f"requests: 50\nprompt: sharegpt\noutput: sharegpt\narrivals: {law}")
    slow, fast = draw_requests(base), draw_requests(base.at_rate(rate))
    assert np.allclose(fast.arrival_s * rate, slow.arrival_s * 2, rtol=1e-9)
    assert np.array_equal(slow.prompt_tokens, fast.prompt_tokens)


def test_what_has_no_rate_says_so() -> None:
    law = described("requests: 1\nprompt: 1\noutput: 1\narrivals: {kind: at-once}").arrivals
    with pytest.raises(InputError, match="no rate to turn"):
        with_rate(law, 2.0)


@pytest.mark.parametrize("text", ["4", "0 /s", "-1 /s", "4 Hz", "fast", "4 /s /s", "1e99 /s", "nan /s", ""])
def test_a_rate_needs_its_unit_and_to_be_above_zero(text: str) -> None:
    with pytest.raises(ValueError, match="found"):
        read_rate(text)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("side", ["prompt", "output"])
def test_named_laws_have_the_published_quantiles(name: str, side: str) -> None:
    law = described(f"requests: 1\nprompt: {name}\noutput: {name}").prompt
    drawn = draw_lengths(law, N, side, np.random.default_rng(1))  # type: ignore[arg-type]
    median, p90 = getattr(NAMED[name], f"{side}_median"), getattr(NAMED[name], f"{side}_p90")
    assert np.median(drawn) == pytest.approx(median, rel=0.03)
    assert np.quantile(drawn, 0.9) == pytest.approx(p90, rel=0.04)
    assert NAMED[name].source


def test_lognormal_and_uniform_are_what_they_say() -> None:
    rng = np.random.default_rng(5)
    text = "requests: 1\nprompt: {kind: lognormal, median: 500, sigma: 0.5, high: 4000}\n"
    text += "output: {kind: uniform, low: 3, high: 9}"
    of = described(text)
    drawn = draw_lengths(of.prompt, N, "prompt", rng)
    assert np.log(drawn).std() == pytest.approx(0.5, rel=0.03)
    assert drawn.max() <= 4000
    uniform = draw_lengths(of.output, N, "output", rng)
    assert np.bincount(uniform)[3:].min() > N / 7 * 0.9
    assert uniform.min() == 3
    assert uniform.max() == 9
    assert pytest.approx(1.2815515655446004) == NINETIETH


PREFIX = """requests: 20000
prompt: 10
output: 5
shared_prefix: {levels: [{tokens: 100, children: 4}, {tokens: 30, children: 3}], share: 0.6, skew: 1.0}
"""


def test_shares_of_a_tree_of_prefixes_are_zipf_and_levels_nest() -> None:
    requests = draw_requests(described(PREFIX))
    lengths = np.diff(requests.segment_begin)
    has = lengths == 3
    assert has.mean() == pytest.approx(0.6, abs=0.015)
    first = requests.segment_stream[requests.segment_begin[:-1]][has]
    second = requests.segment_stream[requests.segment_begin[:-1] + 1][has]
    weights = 1 / np.arange(1, 5)
    share = np.bincount(first, minlength=4) / len(first)
    assert share == pytest.approx(weights / weights.sum(), abs=0.02)
    parents: dict[int, set[int]] = {}
    for parent, child in zip(first.tolist(), second.tolist(), strict=True):
        parents.setdefault(child, set()).add(parent)
    assert len(parents) == 12
    assert all(len(found) == 1 for found in parents.values())
    assert set(first.tolist()).isdisjoint(parents)


SESSIONS = """requests: 3000
prompt: {kind: uniform, low: 5, high: 20}
output: {kind: uniform, low: 1, high: 9}
arrivals: {kind: poisson, rate: 2 /s}
sessions: {turns: {kind: uniform, low: 1, high: 5}, think: {mean: 4 s}}
shared_prefix: {levels: [{tokens: 64, children: 1}]}
"""


def test_a_turn_holds_all_that_was_said_before_it() -> None:
    requests = draw_requests(described(SESSIONS))
    for number in range(1, 200):
        before = requests.after[number]
        if before < 0:
            continue
        assert before == number - 1
        earlier = prompt_of(requests, before)
        own = prompt_of(requests, number)
        assert own[: len(earlier)] == earlier
        assert own[len(earlier)] == (requests.output_stream[before], requests.output_tokens[before])
        assert len(own) == len(earlier) + 2
        assert requests.arrival_s[number] == requests.arrival_s[before]
    later = requests.after >= 0
    assert requests.think_s[later].mean() == pytest.approx(4, rel=0.1)
    assert later.mean() == pytest.approx(2 / 3, abs=0.03)


def prompt_of(requests: Requests, number: int) -> list[tuple[int, int]]:
    low, high = requests.segment_begin[number], requests.segment_begin[number + 1]
    return list(
        zip(
            requests.segment_stream[low:high].tolist(),
            requests.segment_tokens[low:high].tolist(),
            strict=True,
        )
    )


MARKS = """requests: 20000
prompt: 10
output: {kind: choice, tokens: [10, 20], weights: [1, 3]}
priority: {values: [0, 5], weights: [0.9, 0.1]}
deadline: {base: 2 s, per_token: 50 ms}
adapters: {count: 4, share: 0.5}
"""


def test_priorities_deadlines_and_adapters() -> None:
    requests = draw_requests(described(MARKS))
    assert (requests.priority == 5).mean() == pytest.approx(0.1, abs=0.01)
    assert np.allclose(requests.deadline_s, 2 + 0.05 * requests.output_tokens)
    assert (requests.adapter >= 0).mean() == pytest.approx(0.5, abs=0.02)
    assert (requests.output_tokens == 20).mean() == pytest.approx(0.75, abs=0.02)
    assert requests.adapters == ("adapter-0", "adapter-1", "adapter-2", "adapter-3")


def test_clients_that_think_are_chains_and_others_a_bound() -> None:
    text = "requests: 7\nprompt: 1\noutput: 1\narrivals: {kind: closed-loop, clients: 3"
    assert draw_requests(described(text + "}")).clients == 3
    thinking = draw_requests(described(text + ", think: 2 s}"))
    assert thinking.clients == 0
    assert thinking.after.tolist() == [-1, -1, -1, 0, 1, 2, 3]
    assert thinking.think_s.tolist() == [0, 0, 0, 2, 2, 2, 2]


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=15)
def test_a_seed_gives_the_same_requests_and_another_seed_others(seed: int) -> None:
    of = described(SESSIONS.replace("3000", "40"))
    one, same, other = draw_requests(of, seed), draw_requests(of, seed), draw_requests(of, (seed + 1) % 2**32)
    for name in Requests.__dataclass_fields__:
        assert np.array_equal(getattr(one, name), getattr(same, name)), name
    assert not np.array_equal(one.arrival_s, other.arrival_s)


def test_a_part_of_its_own_leaves_the_others_as_they_were() -> None:
    with_think = draw_requests(described(SESSIONS))
    other = draw_requests(
        described(SESSIONS.replace("rate: 2 /s", "rate: 9 /s") + "priority: {values: [1, 2]}\n")
    )
    assert np.array_equal(with_think.prompt_tokens, other.prompt_tokens)
    assert np.array_equal(with_think.think_s, other.think_s)


def test_longest_cuts_prompts() -> None:
    requests = draw_requests(described("requests: 500\nprompt: sharegpt\noutput: sharegpt\nlongest: 1000"))
    total = requests.prompt_tokens + requests.output_tokens
    assert total.max() == 1000
    assert requests.prompt_tokens.min() >= 1
    free = draw_requests(described("requests: 500\nprompt: sharegpt\noutput: sharegpt"))
    short = free.prompt_tokens + free.output_tokens <= 1000
    assert np.array_equal(requests.prompt_tokens[short], free.prompt_tokens[short])


BAD = {
    "requests: 5\nprompt: 1\noutput: 1\nlongest: 9\nsessions: {turns: 2}": "is a bound for single prompts",
    "requests: 0\nprompt: 1\noutput: 1": "test.yaml:1: requests: found 0",
    "requests: 5": "missing key 'prompt'",
    "requests: 5\nprompt: shareg\noutput: 1": "did you mean 'sharegpt'",
    "requests: 5\nprompt: 1\noutput: 1\narrivals: {kind: poisson, rate: 0 /s}": ":4: arrivals.rate: found '0 /s'",
    "requests: 5\nprompt: 1\noutput: 1\narrivals: {kind: poisson, rate: 3}": "found '3'; expected a rate with its unit",
    "requests: 5\nprompt: 1\noutput: 1\narrivals: {kind: poison, rate: 3 /s}": "did you mean 'poisson'",
    "requests: 5\nprompt: {kind: uniform, low: 9, high: 3}\noutput: 1": "expected at least 9",
    "requests: 5\nprompt: 1\noutput: 1\nsesions: {turns: 3}": "did you mean 'sessions'",
    "requests: 5\nprompt: 1\noutput: 1\ntrace: {path: x.csv}": "cannot stand beside 'trace'",
    "trace: {path: nowhere.csv}": "nowhere.csv: no such file",
    "requests: 5\nprompt: 1\noutput: 1\ndeadline: {base: 3}": "number without a unit",
    "requests: 5\nprompt: 1\noutput: 1\npriority: {values: [1, 2], weights: [1]}": "found 1 weights; expected 2",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_wrong_with_a_description_is_said_with_its_place(text: str) -> None:
    with pytest.raises(InputError) as found:
        draw_requests(described(text))
    assert BAD[text] in str(found.value)
