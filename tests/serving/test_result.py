"""Every figure of an answer, worked out a second time from the plain clock's own lists."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.serving.record import ServiceRecord
from simulator.serving.result import PERCENTILES, ServingResult, Spread
from simulator.serving.slo import Slo, parse_slo
from tests.serving.made_records import plain_service, record_of, result_of


def plain_percentile(values: list[float], percent: float) -> float:
    """The smallest value that at least so many percent do not exceed, by counting."""
    for value in sorted(values):
        if sum(other <= value for other in values) * 100 >= percent * len(values) - 1e-9:
            return value
    return math.nan


@given(st.integers(0, 10_000), st.integers(1, 60))
@settings(deadline=None, max_examples=25)
def test_times_are_those_of_the_plain_lists(seed: int, count: int) -> None:
    slo = Slo(ttft_s=0.1, tpot_s=0.0301, e2e_s=0.5)
    result = result_of(seed, count, slo)
    _, rows, _ = plain_service(seed, count)
    lists = {
        "ttft": [r.tokens[0] - r.arrival for r in rows],
        "e2e": [r.tokens[-1] - r.arrival for r in rows],
        "queue": [r.begin - r.arrival for r in rows],
        "prefill": [r.tokens[0] - r.begin for r in rows],
        "decode": [r.tokens[-1] - r.tokens[0] for r in rows],
        "tpot": [(r.tokens[-1] - r.tokens[0]) / (len(r.tokens) - 1) for r in rows if len(r.tokens) > 1],
        "itl": [b - a for r in rows for a, b in zip(r.tokens, r.tokens[1:], strict=False)],
    }
    for name, values in lists.items():
        spread = result.latency[name]
        assert spread.count == len(values), name
        if not values:
            assert math.isnan(spread.mean)
            continue
        assert spread.mean == pytest.approx(sum(values) / len(values), rel=1e-9)
        found = [spread.p50, spread.p90, spread.p95, spread.p99, spread.p99_9]
        assert found == pytest.approx([plain_percentile(values, p) for p in PERCENTILES], rel=1e-9, abs=1e-12)
    good = sum(
        r.tokens[0] - r.arrival <= 0.1 and r.tokens[-1] - r.arrival <= 0.5
        and (len(r.tokens) < 2 or (r.tokens[-1] - r.tokens[0]) / (len(r.tokens) - 1) <= 0.0301)
        for r in rows
    )  # fmt: skip
    length = max(r.tokens[-1] for r in rows) - min(r.arrival for r in rows)
    assert result.duration_s == pytest.approx(length)
    assert result.attainment == pytest.approx(good / count)
    through = result.throughput
    assert through["goodput_requests_per_s"] == pytest.approx(good / length)
    assert through["requests_per_s"] == pytest.approx(count / length)
    assert through["output_tokens_per_s"] == pytest.approx(sum(len(r.tokens) for r in rows) / length)


@given(st.integers(0, 1000))
@settings(deadline=None, max_examples=15)
def test_littles_law(seed: int) -> None:
    """Requests in the system by time are arrivals per second times their time in it."""
    result = result_of(seed, 40)
    rows = result.record.requests
    events = [(t, 1) for t in rows.arrival_s] + [(t, -1) for t in rows.last_token_s]
    inside, area, before = 0, 0.0, 0.0
    for time, change in sorted(events):
        area += inside * (time - before)
        inside, before = inside + change, time
    mean_inside = area / result.duration_s
    assert mean_inside == pytest.approx(result.throughput["requests_per_s"] * result.latency["e2e"].mean)


def test_use_cost_and_energy_follow_from_the_steps() -> None:
    result = result_of(3, 50)
    _, rows, steps = plain_service(3, 50)
    length, busy = result.duration_s, 0.03 * len(steps)
    tokens = sum(len(r.tokens) for r in rows)
    use, cost = result.utilisation, result.cost
    assert use["device_busy"] == pytest.approx(0.75 * busy / length)
    assert use["host_share"] == pytest.approx(0.25)
    assert use["batch"] == pytest.approx(sum(k for _, k in steps) / len(steps) / 8)
    assert use["cache"] == pytest.approx(sum(k for _, k in steps) / len(steps) / 10)
    assert use["cache_peak"] == pytest.approx(max(k for _, k in steps) / 10)
    joules = 2.0 * len(steps) + 50.0 * (length - busy)
    assert cost["energy_j"] == pytest.approx(joules)
    assert cost["energy_j_per_million_tokens"] == pytest.approx(joules / tokens * 1e6)
    assert cost["dollars_per_million_tokens"] == pytest.approx(0.001 * length / tokens * 1e6)


def test_no_stated_price_is_no_price() -> None:
    result = result_of(3, 5)
    worker = dataclasses.replace(result.facts.workers[0], price_per_s=None)
    unpriced = dataclasses.replace(result, facts=dataclasses.replace(result.facts, workers=(worker,)))
    assert unpriced.cost["dollars"] is None
    assert "no price stated" in str(unpriced)
    assert json.loads(json.dumps(unpriced.as_json()))["cost"]["dollars_per_million_tokens"] is None


def cut(result: ServingResult, keep: int) -> ServingResult:
    """The same run stopped when only so many requests had been answered."""
    rows = result.record.requests
    order = np.argsort(rows.last_token_s, kind="stable")[keep:]
    changed = {name: column.copy() for name, column in rows.to_dict().items()}
    changed["tokens"][order] = 0
    for name in ("first_scheduled_s", "first_token_s", "last_token_s"):
        changed[name][order] = np.nan
    record = dataclasses.replace(result.record, requests=type(rows)(**changed))
    return dataclasses.replace(result, record=record)


@pytest.mark.parametrize("keep", [0, 1, 10])
def test_a_stopped_run_counts_what_was_answered(keep: int) -> None:
    stopped = cut(result_of(4, 20, Slo(ttft_s=100.0)), keep)
    assert stopped.counts["finished"] == stopped.counts["kept"] == keep
    assert stopped.latency["e2e"].count == keep
    assert stopped.attainment == keep / 20
    assert "stopped before the end" in str(stopped)


def test_time_outside_the_steps_counts_at_the_client() -> None:
    plain = result_of(5, 30)
    facts = dataclasses.replace(plain.facts, request_s=0.5, prompt_token_s=0.01)
    later = dataclasses.replace(plain, facts=facts)
    outside = 0.5 + 0.01 * plain.requests.prompt_tokens
    assert later.served.ttft_s == pytest.approx(plain.served.ttft_s + outside)
    assert later.served.e2e_s == pytest.approx(plain.served.e2e_s + outside)
    assert np.array_equal(later.served.tpot_s, plain.served.tpot_s, equal_nan=True)


def test_deadlines_count_as_limits() -> None:
    result = result_of(5, 30)
    late = dataclasses.replace(
        result.requests, deadline_s=result.served.e2e_s * np.where(np.arange(30) % 3, 1.01, 0.99)
    )
    assert dataclasses.replace(result, requests=late).attainment == pytest.approx(20 / 30)


def test_the_same_run_gives_the_same_bytes() -> None:
    one, two = result_of(6, 30), result_of(6, 30)
    assert json.dumps(one.as_json()) == json.dumps(two.as_json())
    assert one.record.to_bytes() == two.record.to_bytes()
    assert isinstance(one.record, ServiceRecord)
    assert str(one) == str(two)
    assert "<table>" in one._repr_html_()


def test_a_data_frame_has_a_row_for_each() -> None:
    pytest.importorskip("pandas")
    result = result_of(6, 30)
    assert result.to_pandas()["ttft_s"].tolist() == result.served.ttft_s.tolist()
    assert len(result.to_pandas("steps")) == len(result.record.steps)
    with pytest.raises(InputError, match="expected requests or steps"):
        result.to_pandas("tokens")


def test_the_guard_on_percentiles_sees_interpolation() -> None:
    values = [1.0, 2.0, 4.0, 8.0]
    assert Spread.of(np.array(values)).p90 == plain_percentile(values, 90) == 8.0
    assert np.quantile(values, 0.9) != plain_percentile(values, 90)


def test_record_and_requests_of_different_runs_are_seen() -> None:
    requests, rows, steps = plain_service(7, 12)
    rows[3].tokens.pop()
    if rows[3].tokens:
        result = dataclasses.replace(result_of(7, 12), record=record_of(requests, rows, steps))
        assert not result.served.finished[3]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ttft=200", "ttft: found '200', a number without a unit"),
        ("ttft=0ms", "expected seconds above zero"),
        ("tftt=3ms", "did you mean 'ttft'"),
        ("ttft", "expected ttft=..."),
        ("ttft=1s,ttft=2s", "given twice"),
        ("ttft=1s,attainment=120%", "expected a share above 0 up to 1"),
        ("attainment=most", "expected a share such as 90%"),
        ("ttft=80GB", "which is a size"),
        ("", "expected ttft=..."),
    ],
)
def test_what_is_wrong_with_limits(text: str, told: str) -> None:
    with pytest.raises(InputError) as found:
        parse_slo(text)
    assert told in str(found.value)


def test_limits_are_read() -> None:
    assert parse_slo("ttft=200ms, tpot=30ms,attainment=95%") == Slo(ttft_s=0.2, tpot_s=0.03, attainment=0.95)
    assert str(parse_slo("e2e=2s")) == "e2e <= 2 s"
