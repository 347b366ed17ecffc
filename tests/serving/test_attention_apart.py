"""Attention on devices of its own, from the command: what each side is charged, and whose memory the cache has."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import offchip
from hw_configs.library import load_link, load_system
from hw_configs.problems import InfeasibleError
from offchip.serving.build import load_served
from simulator.serving.apart_model import AttentionWorkers, apart_capacity, make_attention_apart
from simulator.serving.capacity import weight_bytes
from simulator.serving.pricing import make_pricer
from simulator.serving.settings import EngineSettings, Layout
from simulator.serving.step import ScheduledStep
from workloads.requests import make_requests

MODEL = "llama-3-8b"


def step(parts: list[tuple[int, int]]) -> ScheduledStep:
    """A step of (tokens, context) of each request."""
    tokens, context = (np.array(column, np.int64) for column in zip(*parts, strict=True))
    return ScheduledStep(np.arange(len(tokens)), tokens, context, 0 * tokens, tokens > 0, 0 * tokens - 1)


@cache
def made(count: int = 1, batches: int = 2, device: str = "h100-sxm"):
    link = load_link("roce-400")
    workers = AttentionWorkers(load_system(device), count, link.bandwidth, link.latency, batches)
    arguments = load_served(MODEL).model, load_system("h100-sxm"), Layout(), EngineSettings(), workers
    return make_attention_apart(*arguments), apart_capacity(*arguments), make_pricer(*arguments[:-1])


@pytest.mark.parametrize("parts", [[(1, 4000)] * 64, [(2000, 0)], [(1, 900)] * 8 + [(512, 1024)]])
def test_the_two_sides_add_up_to_the_whole(parts: list[tuple[int, int]]) -> None:
    """On the same device, model workers and attention workers together do what one device does."""
    apart, _, whole = made()
    sides = apart.model.price(step(parts)).device_s + apart.attention.price(step(parts)).device_s
    assert sides == pytest.approx(whole.price(step(parts)).device_s, rel=1e-9)
    assert apart.attention.price(step(parts)).device_s > 0


def test_heads_are_divided_over_attention_workers() -> None:
    one, four = (made(count)[0].attention.price(step([(1, 8000)] * 64)).seconds for count in (1, 4))
    assert 3 < one / four < 4.2


def test_a_wire_by_hand() -> None:
    """Llama-3-8B: 32 heads of 128, 8 of keys and of values, 16 bits: 12,288 bytes out and 8,192 back."""
    wire = made(4)[0].wire
    assert (wire.out_bytes, wire.back_bytes) == (2 * 128 * (32 + 16), 2 * 128 * 32)
    link = load_link("roce-400")
    assert (wire.bytes_per_s, wire.latency_s) == (link.bandwidth, link.latency)


def test_the_cache_has_the_attention_workers_memory_and_the_weights_the_model_workers() -> None:
    _, capacity, _ = made(4, 2, "h20")
    memory = load_system("h20").memories["h20"]
    room = min(0.92 * memory.capacity_bytes, memory.usable_bytes) - capacity.reserve
    token = 2 * 32 * 8 * 128 * 2
    assert capacity.space.blocks == pytest.approx(4 * room / (16 * token), rel=1e-3)
    assert capacity.space.blocks % 2 == 0
    assert capacity.space.block_bytes == pytest.approx(16 * token)
    assert capacity.weights == weight_bytes(load_served(MODEL).model, Layout())
    model, link = load_served("llama-3-70b").model, load_link("roce-400")
    workers = AttentionWorkers(load_system("h20"), 4, link.bandwidth, link.latency)
    with pytest.raises(InfeasibleError, match="short by"):
        apart_capacity(model, load_system("h100-sxm"), Layout(), EngineSettings(), workers)


def test_batches_in_turn_answer_everything_and_more_of_them_are_no_slower_in_all() -> None:
    requests = make_requests(np.full(64, 3000), 40, 0.0)
    ends = []
    for batches in (1, 2):
        result = offchip.serve(
            MODEL, "h100-sxm", requests, attention_hw="l40s", attention_workers=2, attention_wire="100 GB/s",
            attention_batches=batches,
        )  # fmt: skip
        assert result.record.requests.tokens.tolist() == [40] * 64
        assert result.facts.workers[0].devices == 3
        ends.append(result.record.end_s)
    assert ends[1] < 1.05 * ends[0]


WRONG = [
    (("--attention-workers", 3), 2, "--attention-workers: found 3; expected a divisor of the 8 heads"),
    (("--attention-wire", "roce-40"), 2, "--attention-wire: unknown hardware 'roce-40'"),
    (("--attention-wire", "50"), 2, "--attention-wire: found '50', a number without a unit"),
    (("--attention-hw", "h2"), 2, "unknown hardware 'h2'"),
    (("--attention-hw", ""), 2, "go together"),
    (("--attention-batches", 0), 2, "--attention-batches: found 0"),
    (("--pp", 2), 2, "--pp: found 2; attention apart knows no pipeline stages"),
    (("--dp", 2), 2, "--dp: found 2; attention apart knows no groups"),
    (("--set", "swap=true"), 2, "swap: attention apart does not know it"),
    (("--host-cache", "1GiB"), 2, "swap: attention apart does not know it"),
    (("--prefill-workers", 1, "--decode-workers", 1), 2, "a pools file puts both apart"),
]


@pytest.mark.parametrize(("more", "code", "told"), WRONG)
def test_what_is_wrong_is_one_line(
    cli: Callable[..., Any], tmp_path: Path, more: tuple[object, ...], code: int, told: str
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("requests: 2\nprompt: 100\noutput: 5\n")
    options = {"--attention-hw": "h20", "--attention-workers": 4, "--attention-wire": "roce-400"}
    options |= dict(zip(more[::2], more[1::2], strict=True))
    flat = [part for pair in options.items() for part in pair]
    outcome = cli("serve", MODEL, "--hw", "dgx-h100", "--requests", spec, *flat)
    assert outcome.code == code
    assert told in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_model_whose_attention_cannot_be_divided_is_refused(
    cli: Callable[..., Any], tmp_path: Path
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("requests: 2\nprompt: 100\noutput: 5\n")
    apart = ("--attention-hw", "h20", "--attention-workers", 4, "--attention-wire", "50 GB/s")
    outcome = cli("serve", "deepseek-v3", "--hw", "dgx-h200", "--tp", 8, "--requests", spec, *apart)
    assert outcome.code == 2
    assert "deepseek-v3 has layers without grouped-query attention of their own" in outcome.err
