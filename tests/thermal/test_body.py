"""Heat: exact steps against small ones, and what no governor can break."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.thermal.body import Load, ThermalBody, run_load

PHONE = ThermalBody(60.0, 8.0, 25.0, 42.0, 40.0, (1.0, 0.75, 0.5))
LOAD = Load(0.02, 0.05, 0.15, 0.1, 0.5)


def small_steps(body: ThermalBody, load: Load, seconds: int, pieces: int) -> list[tuple[float, float]]:
    """Temperature and share at each look by Euler's rule, heat added and given off piece by piece."""
    temperature, step, found = body.ambient_c, 0, []
    for _ in range(int(seconds / body.look_s)):
        share = body.steps[step]
        unit = load.clocked_s / share + load.memory_s
        watts = load.idle_w + (load.clocked_j * share * share + load.memory_j) / unit
        for _ in range(pieces):
            flow = (temperature - body.ambient_c) / body.resistance
            temperature += (watts - flow) * body.look_s / pieces / body.capacity
        found.append((temperature, share))
        if temperature >= body.hot_c:
            step = min(step + 1, len(body.steps) - 1)
        elif temperature <= body.cool_c:
            step = max(step - 1, 0)
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.floats(20, 200), st.floats(1, 15), st.floats(0.001, 0.1), st.floats(0.001, 0.1), st.floats(0, 0.5),
    st.floats(0, 0.5), st.floats(0, 2), st.sampled_from([0.5, 1.0, 2.0]),
)  # fmt: skip
def test_exact_steps_are_the_limit_of_small_ones(
    capacity: float, resistance: float, clocked: float, memory: float, one: float, two: float, idle: float, look: float
) -> None:  # fmt: skip
    body = replace(PHONE, capacity=capacity, resistance=resistance, look_s=look)
    load = Load(clocked, memory, one, two, idle)
    moments = run_load(body, load, 60)
    for moment, (temperature, share) in zip(moments, small_steps(body, load, 60, 200), strict=True):
        if abs(temperature - body.hot_c) < 0.5 or abs(temperature - body.cool_c) < 0.5:
            break  # a hair's breadth decides what the governor does
        assert moment.temperature_c == pytest.approx(temperature, abs=0.2)
        assert moment.share == share


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.integers(1, 300))
def test_energy_is_stored_or_given_off(one: float, two: float, idle: float, seconds: int) -> None:
    load = Load(0.02, 0.05, one, two, idle)
    moments = run_load(PHONE, load, seconds)
    hottest = max(load.watts(share) for share in PHONE.steps)
    assert all(25 - 1e-9 <= m.temperature_c <= 25 + hottest * PHONE.resistance + 1e-9 for m in moments)
    spent = sum(m.joules for m in moments)
    stored = PHONE.capacity * (moments[-1].temperature_c - 25)
    assert stored <= spent + 1e-9, "what is not stored has been given off"
    most = seconds / load.seconds(1.0)
    assert sum(m.units for m in moments) <= most * (1 + 1e-9)


def test_a_cool_load_stays_at_full_clock_and_settles_where_power_says() -> None:
    load = replace(LOAD, clocked_j=0.01, memory_j=0.02)
    moments = run_load(PHONE, load, 10_000)
    assert {m.share for m in moments} == {1.0}
    assert moments[-1].temperature_c == pytest.approx(25 + 8 * load.watts(1.0))


def test_a_hot_load_loses_clock_but_not_what_memory_gives() -> None:
    moments = run_load(PHONE, LOAD, 1800)
    first, last = moments[0], moments[-60:]
    assert LOAD.watts(1.0) * 8 + 25 > PHONE.hot_c
    sustained = sum(m.units for m in last) / 60
    assert 0.999 / LOAD.seconds(0.5) <= sustained < first.units
    assert 39 < last[-1].temperature_c < 43
    bound = run_load(PHONE, replace(LOAD, clocked_s=0.0), 1800)
    assert bound[-1].units == bound[0].units


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"capacity": 0.0}, "capacity: found 0.0; expected more than 0"), ({"cool_c": 20.0}, "above the ambient"),
        ({"steps": (1.0, 1.0)}, "shares that fall from 1"), ({"steps": ()}, "shares that fall"),
    ],
)  # fmt: skip
def test_a_body_that_cannot_be_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        replace(PHONE, **change)  # type: ignore[arg-type]


def test_a_run_of_no_time_is_refused() -> None:
    with pytest.raises(InputError, match="found 0 s"):
        run_load(PHONE, LOAD, 0)
