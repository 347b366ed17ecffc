"""Steps priced from a mapper's plans at points of a grid: what lies between, and services on machines without GPUs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import offchip
from hw_configs.library import load_system
from hw_configs.problems import InfeasibleError
from offchip.serving.build import load_served
from offchip.serving.options import ServeOptions
from offchip.serving.planned import make_planned
from simulator.serving.engine_constants import constants_of
from simulator.serving.grid_pricer import Cost, GridPricer
from simulator.serving.settings import EngineSettings
from simulator.serving.step import ScheduledStep
from workloads.requests import make_requests


def step(parts: list[tuple[int, int]]) -> ScheduledStep:
    """A step of (tokens, context) of each request."""
    tokens, context = (np.array(column, np.int64) for column in zip(*parts, strict=True))
    return ScheduledStep(np.arange(len(tokens)), tokens, context, 0 * tokens, tokens > 0, 0 * tokens - 1)


def grid(
    decode: Callable[[float, float], float], prefill: Callable[[float], float], room: float = 1e9
) -> GridPricer:
    """A pricer of a machine that is given by formulas; ``room``: tokens that it holds."""

    def asked(requests: int, context: int) -> Cost:
        if requests * context > room:
            raise InfeasibleError("no room")
        return Cost(decode(requests, context), 2 * decode(requests, context))

    return GridPricer(
        asked, lambda tokens: Cost(prefill(tokens), 0.0), constants_of("sglang"), EngineSettings()
    )


@given(st.integers(1, 300), st.floats(32, 8000), st.sampled_from([1e9, 1e6, 3e5]))
@settings(max_examples=200, deadline=None)
def test_weights_requests_and_attention_are_exact(requests: int, context: float, room: float) -> None:
    """What any machine comes to: a constant, so much a request, so much a token in the cache; beyond the room too."""

    def formula(requests: float, context: float) -> float:
        return 0.01 + 1e-4 * requests + 1e-7 * requests * context

    pricer = grid(formula, lambda tokens: tokens)
    if requests * context > room:
        return
    assert pricer.decode(requests, context).seconds == pytest.approx(formula(requests, context), rel=1e-9)
    assert pricer.decode(requests, context).joules == pytest.approx(2 * formula(requests, context), rel=1e-9)


@given(st.integers(8, 20000))
@settings(max_examples=100, deadline=None)
def test_prompts_are_within_three_hundredths_of_a_square(tokens: int) -> None:
    def formula(n: float) -> float:
        return 0.01 + 1e-5 * n + 1e-9 * n * n

    assert grid(lambda b, c: b, formula).prefill(tokens).seconds == pytest.approx(formula(tokens), rel=0.03)


def test_chunks_add_up_to_the_prompt_and_are_no_less_than_one_of_their_length() -> None:
    pricer = grid(lambda b, c: b, lambda n: 0.01 + 1e-5 * n + 1e-7 * n * n)
    whole, parts = (
        pricer.prefill(1024).seconds,
        [pricer.chunk(512, 0).seconds, pricer.chunk(512, 512).seconds],
    )
    assert sum(parts) >= whole - 1e-12
    assert parts[1] == pytest.approx(whole - pricer.prefill(512).seconds)
    short = grid(lambda b, c: b, lambda n: max(0.1, 1e-5 * n))
    assert short.chunk(64, 64).seconds == 0.1


def test_a_mixed_step_is_one_after_the_other_and_the_host_comes_on_top() -> None:
    pricer = grid(lambda b, c: 0.01 * b, lambda n: 0.001 * n)
    mixed = pricer.price(step([(1, 100), (1, 300), (64, 0)]))
    assert mixed.device_s == pytest.approx(0.02 + 0.064)
    assert mixed.host_s > 0
    assert mixed.seconds <= mixed.device_s + mixed.host_s


def test_every_point_is_asked_once() -> None:
    asked: list[tuple[int, int]] = []

    def decode(requests: int, context: int) -> Cost:
        asked.append((requests, context))
        return Cost(1.0, 1.0)

    pricer = GridPricer(decode, lambda tokens: Cost(1.0, 1.0), constants_of("vllm"), EngineSettings())
    for _ in range(3):
        pricer.decode(5, 700)
    assert sorted(asked) == sorted(set(asked)) == [(4, 512), (4, 1024), (8, 512), (8, 1024)]


def test_it_is_near_the_plan_that_it_stands_for() -> None:
    """Held against the dearer price of each step's own plan: decodes to 1 %, prompts to 8 %."""
    model, system, mapper = "llama-3-8b", load_system("csd-node"), "offload-kv"
    engine = EngineSettings(max_num_seqs=8, max_model_len=2048)
    pricer, capacity = make_planned(
        model, load_served(model).model, system, ServeOptions(), engine, constants_of("vllm"), mapper
    )
    assert capacity.space.blocks * 16 == 8 * 2048
    run: dict[str, Any] = {"mapper": mapper, "fidelity": "analytic"}
    for requests, context in ((3, 777), (11, 1500), (23, 1900), (6, 90)):
        plan = offchip.simulate(model, system, phase="decode", batch=requests, prompt=context, **run)
        found = pricer.decode(requests, context)
        assert found.seconds == pytest.approx(plan.makespan_s, rel=0.01)
        assert found.joules == pytest.approx(plan.summary()["energy_j"], rel=0.01)
    for tokens in (37, 700, 1900):
        plan = offchip.simulate(model, system, phase="prefill", prompt=tokens, **run)
        assert pricer.prefill(tokens).seconds == pytest.approx(plan.makespan_s, rel=0.08)
    plan = offchip.simulate(model, system, phase="prefill", prompt=512, chunk=256, **run)
    parts = pricer.chunk(256, 0).seconds + pricer.chunk(256, 256).seconds
    assert parts == pytest.approx(plan.makespan_s, rel=0.05)


def test_a_service_on_processing_in_memory() -> None:
    """No GPU: the mapper is ``pim`` by itself; replicas are further machines."""
    requests = make_requests([20, 30, 25], [4, 3, 5], [0.0, 0.0, 0.1])
    limits = {"max_num_seqs": 2, "max_model_len": 64}
    result = offchip.serve("gpt2", "pim-gpt", requests, settings=limits, replicas=2)
    assert result.record.requests.tokens.tolist() == [4, 3, 5]
    assert result.facts.layout == "plans by pim, 2 replicas"
    assert "2 machines like this one" in str(result)
    assert result.cost["energy_j"] is not None


WRONG = [
    (("llama-3-8b", "--hw", "pim-gpt"), 3, "does not fit 'pim'"),
    (("llama-3-8b", "--hw", "tpu-v4i-card"), 3, "128 MiB usable"),
    (("llama-3-8b", "--hw", "csd-node", "--mapper", "ofload-kv"), 2, "did you mean 'offload-kv'?"),
    (("llama-3-8b", "--hw", "csd-node", "--mapper", "offload-kv", "--tp", 2), 2, "--tp: found 2"),
    (("llama-3-8b", "--hw", "csd-node", "--mapper", "offload-kv", "--host-cache", "1GiB"), 2, "--host-cache"),
    (("llama-3-8b", "--hw", "csd-node", "--mapper", "offload-kv", "--prefill-workers", 1, "--decode-workers", 1), 2,
     "--prefill-workers: a worker has the whole machine"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "code", "told"), WRONG)
def test_what_is_wrong_is_said(
    cli: Callable[..., Any], tmp_path: Path, command: tuple[object, ...], code: int, told: str
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("requests: 2\nprompt: 100\noutput: 5\n")
    outcome = cli("serve", *command, "--requests", spec)
    assert outcome.code == code
    assert told in outcome.err
    assert "Traceback" not in outcome.err
