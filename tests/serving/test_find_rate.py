"""The search for the largest rate against services whose limit is known, one that is not monotone, and none at all."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError, NoAnswerError
from offchip.serving.find_rate import FoundRate, Probe, find_rate


@given(st.floats(1e-4, 1e6), st.floats(1e-3, 1e4), st.floats(0.001, 0.3))
@settings(deadline=None)
def test_the_rate_is_within_the_tolerance_below_the_true_one(
    true: float, start: float, tolerance: float
) -> None:
    found = find_rate(lambda rate: (1.0 if rate <= true else 0.0, rate), 0.9, start, tolerance)
    assert found.rate <= true < found.rate * (1 + tolerance) * (1 + 1e-12)
    assert found.monotone
    rates = [probe.rate for probe in found.probes]
    assert len(rates) == len(set(rates))
    assert len(rates) <= 2 + abs(math.log2(true / start)) + math.log2(math.log(2) / math.log1p(tolerance)) + 2


def test_the_answer_stays_below_the_smallest_rate_that_failed() -> None:
    def bumpy(rate: float) -> tuple[float, float]:
        return (0.5 if 2.5 < rate < 4.5 or rate > 9 else 1.0, rate)

    found = find_rate(bumpy, 0.9, start=8.0)
    assert found.rate <= 9
    assert found.monotone
    tried = (Probe(1, 1.0, 1, True), Probe(2, 0.1, 1, False), Probe(4, 1.0, 4, True))
    bad = FoundRate(1, 0.02, 0.9, tried)
    assert not bad.monotone
    assert "some larger rate passed" in str(bad)
    assert bad.as_json()["monotone"] is False


def test_the_guard_sees_a_search_that_passes_over_a_failure() -> None:
    calls = iter([True, True, False, False, True, True, True, True, True, True, True, True, True])
    found = find_rate(lambda rate: (1.0 if next(calls) else 0.0, rate), 0.9, start=1.0)
    failed = min(probe.rate for probe in found.probes if not probe.passed)
    assert found.rate < failed


def test_nothing_and_everything_pass() -> None:
    with pytest.raises(NoAnswerError, match="no rate keeps the limits"):
        find_rate(lambda rate: (0.0, 0.0), 0.9)
    with pytest.raises(InputError, match="every rate keeps the limits: ask for more requests"):
        find_rate(lambda rate: (1.0, rate), 0.9)


@pytest.mark.parametrize(
    ("start", "tolerance"), [(0.0, 0.1), (math.inf, 0.1), (1.0, 0.0), (1.0, 1.0), (math.nan, 0.1)]
)
def test_wrong_bounds_are_refused(start: float, tolerance: float) -> None:
    with pytest.raises(InputError):
        find_rate(lambda rate: (1.0, rate), 0.9, start, tolerance)
