"""Host time of an engine's step in ``simulate``: which constants, how much shows, and where it is said."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import offchip
from hw_configs.problems import InputError
from offchip.validation.end_to_end import ENGINES
from simulator.serving.engine_constants import constants_of
from simulator.serving.host_time import HOST_ENGINES, HostTime, host_time, measured_as

RELAXED = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
STEP = {"phase": "decode", "prompt": 64}


def plain_step(device: float, host: float, overlap: float) -> float:
    """The rule in words: the longer of the two, and what of the shorter does not pass beside it."""
    longer, shorter = max(device, host), min(device, host)
    return longer + (1 - overlap) * shorter


@RELAXED
@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 1))
def test_a_step_is_the_longer_and_what_does_not_pass_beside_it(
    device: float, host: float, overlap: float
) -> None:
    own = HostTime("x", "", 0.0, 0.0, 0.0, 0.0, overlap, "source", "")
    step = device + own.added(device, host)
    assert step == pytest.approx(plain_step(device, host, overlap))
    assert max(device, host) - 1e-12 <= step <= device + host + 1e-12


@RELAXED
@given(st.integers(1, 100), st.integers(1, 256), st.integers(0, 8192), st.sampled_from(HOST_ENGINES[1:]))
def test_more_work_never_takes_the_host_less(layers: int, sequences: int, tokens: int, engine: str) -> None:
    own = host_time(engine)
    assert own is not None
    whole = own.seconds(layers, sequences, tokens)
    assert whole >= 0
    assert own.seconds(layers + 1, sequences, tokens) >= whole
    assert own.seconds(layers, sequences + 1, tokens) >= whole
    assert own.seconds(layers, sequences, tokens + 1) >= whole


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_the_newest_versions_take_the_constants_of_serving(engine: str) -> None:
    own, serving = host_time(engine), constants_of(engine)
    assert own is not None
    assert (own.step_s, own.sequence_s, own.token_s) == pytest.approx(
        (serving.step_us * 1e-6, serving.sequence_us * 1e-6, serving.chunk_token_us * 1e-6)
    )
    assert own.overlap == serving.overlap
    assert own.origin == "source"


def test_a_version_takes_the_set_of_its_range() -> None:
    found = {version: host_time("vllm", version) for version in ("0.2.1", "0.5.4", "0.9.1", "0.14.0")}
    assert [own.versions for own in found.values() if own] == [
        "before 0.3", "from 0.3 before 0.8", "all that were fitted", "from 0.14",
    ]  # fmt: skip
    assert found["0.5.4"] == measured_as("vllm")
    assert found["0.2.1"] == measured_as("vllm (modified; splitwise paper)")


def test_the_validation_of_whole_models_takes_the_same_constants() -> None:
    for name, engine in ENGINES.items():
        own = measured_as(name)
        assert own is not None
        assert engine.host_ms == pytest.approx(own.layer_s * 1e3) == pytest.approx(own.sequence_s * 1e3)


@pytest.mark.parametrize("engine", ["gpt-fast", "huggingface", "llama.cpp"])
def test_what_nobody_measured_is_marked_as_an_assumption(engine: str) -> None:
    own = host_time(engine)
    assert own is not None
    assert own.origin == "assumption"
    assert own.reason


def test_simulate_adds_the_host_and_says_so() -> None:
    alone = offchip.simulate("gpt2", "a100-80gb", **STEP)
    with_host = offchip.simulate("gpt2", "a100-80gb", engine="sglang", **STEP)
    own = constants_of("sglang")
    added = (own.step_us + own.sequence_us) * 1e-6
    # An engine that schedules ahead hides a part of it behind the device.
    seen = added - own.overlap * min(added, alone.makespan_s)
    assert with_host.makespan_s == pytest.approx(alone.makespan_s + seen)
    summary = with_host.summary()
    assert summary["host_s"] == pytest.approx(added)
    assert summary["host_added_s"] == pytest.approx(seen)
    assert "host_s" not in alone.summary()
    data = json.loads(json.dumps(with_host.as_json()))
    assert data["provenance"]["host"]["engine"] == "sglang"
    assert "fit_serving" in data["provenance"]["host"]["source"]
    assert data["phases"][0]["host_s"] == pytest.approx(added)
    assert alone.as_json()["provenance"]["host"] is None
    shown = str(with_host)
    assert "the host of sglang" in shown
    assert "host time" in shown
    assert "no host software" in str(alone)


def test_every_step_of_a_generation_pays_and_a_batch_pays_by_its_sequences() -> None:
    one = offchip.simulate("gpt2", "a100-80gb", engine="trtllm", prompt=32, generate=3, batch=1)
    four = offchip.simulate("gpt2", "a100-80gb", engine="trtllm", prompt=32, generate=3, batch=4)
    assert all(phase.host_s > 0 for phase in one.phases)
    own = host_time("trtllm")
    assert own is not None
    more = four.summary()["host_s"] - one.summary()["host_s"]
    assert more == pytest.approx(4 * 3 * own.sequence_s + 3 * 32 * own.token_s)


def test_a_host_that_runs_ahead_of_the_device_shows_only_where_it_is_the_longer() -> None:
    alone = offchip.simulate("gpt2", "a100-80gb", **STEP)
    eager = offchip.simulate("gpt2", "a100-80gb", engine="huggingface", **STEP)
    assert eager.makespan_s == pytest.approx(eager.summary()["host_s"])
    assert eager.makespan_s > alone.makespan_s
    long = offchip.simulate(
        "llama-3-8b", "t4", phase="prefill", prompt=4096, dtype="int8", engine="huggingface"
    )
    assert long.summary()["host_added_s"] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "vlm"}, "--engine: found 'vlm'; expected one of none, vllm, .*did you mean 'vllm'"),
        ({"engine": "vllm", "engine_version": "new"}, "--engine-version: found 'new'; expected a version"),
        ({"engine_version": "0.5"}, "--engine-version: a version needs an engine"),
        ({"engine": "vllm", "phase": "train"}, "--engine: vllm runs prefills and decode steps"),
    ],
)
def test_bad_input_is_one_line(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        offchip.simulate("gpt2", "a100-80gb", **options)  # type: ignore[arg-type]
