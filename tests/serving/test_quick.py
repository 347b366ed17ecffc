"""Many steps in one call leave the record of the loop, bit for bit; what the call doesn't know goes to the loop."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from hw_configs.problems import InfeasibleError
from offchip.serving.build import deploy
from offchip.serving.options import ServeOptions
from simulator.serving import quick
from simulator.serving.quick import QuickLoop, can_be_quick
from simulator.serving.quick_kernel import advance_crew
from simulator.serving.service import Service
from simulator.serving.service_loop import ServiceLoop
from workloads.requests import Requests
from workloads.requests.description import draw_requests, read_description


def drawn(seed: int, count: int, law: str, more: str = "") -> Requests:
    text = (
        f"requests: {count}\nprompt: {{kind: uniform, low: 1, high: 700}}\n"
        "output: {kind: uniform, low: 1, high: 60}\n"
        f"arrivals: {law}\n{more}"
    )
    return draw_requests(read_description("quick.yaml", text), seed)


@cache
def deployed(scheduler: str, routing: str, replicas: int, groups: int = 1) -> Service:
    settings = {"scheduler": scheduler, "max_num_seqs": 16, "max_num_batched_tokens": 1024}
    asked = ServeOptions(replicas=replicas, routing=routing, settings=settings, dp=groups)
    return deploy("llama-3-8b", "h100-sxm", asked, drawn(0, 1, LAWS[0])).service


@cache
def apart(scheduler: str, prefill: int, decode: int, groups: int = 1) -> Service:
    settings = {"scheduler": scheduler, "max_num_seqs": 16, "max_num_batched_tokens": 1024}
    asked = ServeOptions(prefill_workers=prefill, decode_workers=decode, dp=groups, settings=settings)
    return deploy("llama-3-8b", "dgx-h100", asked, drawn(0, 1, LAWS[0])).service


def service(requests: Requests, blocks: int = 10_000, **options: object) -> Service:
    made = deploy("llama-3-8b", "h100-sxm", ServeOptions(**options), requests).service  # type: ignore[arg-type]
    return with_blocks(made, blocks)


def with_blocks(made: Service, blocks: int) -> Service:
    return replace(
        made, workers=tuple(replace(w, space=w.space._replace(blocks=blocks)) for w in made.workers)
    )


LAWS = [
    "{kind: poisson, rate: 30 /s}",
    "{kind: at-once}",
    "{kind: constant, rate: 1 /s}",
    "{kind: bursts, size: 9, every: 2 s}",
    "{kind: closed-loop, clients: 1}",
    "{kind: closed-loop, clients: 7}",
    "{kind: closed-loop, clients: 5, think: 0.5 s}",
]
FOLLOWS = [
    "",
    "\nsessions: {turns: 3}",
    "\nsessions: {turns: {kind: uniform, low: 1, high: 4}, think: {mean: 2 s}}",
]
PREFIX = "shared_prefix: {levels: [{tokens: 64, children: 2}, {tokens: 40, children: 3}]}"


def same(requests: Requests, wanted: Service) -> None:
    """Both loops leave the same columns, or end with the same words."""
    assert can_be_quick(requests, wanted)
    made = []
    for loop in (QuickLoop, ServiceLoop):
        try:
            made.append(loop(requests, wanted).run())
        except InfeasibleError as error:
            made.append(str(error))
    ours, theirs = made
    if isinstance(ours, str) or isinstance(theirs, str):
        assert ours == theirs
        return
    for part in ("requests", "steps", "transfers"):
        one, other = getattr(ours, part).to_dict(), getattr(theirs, part).to_dict()
        for name in one:
            assert np.array_equal(one[name], other[name], equal_nan=True), (part, name)
            assert one[name].dtype == other[name].dtype, name
    assert ours.to_bytes() == theirs.to_bytes()
    assert (ours.end_s, ours.workers, ours.devices) == (theirs.end_s, theirs.workers, theirs.devices)


ENGINES = ["vllm", "orca", "prefill-first", "static", "trtllm-guaranteed-no-evict", "trtllm-max-utilization"]
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]


@given(
    st.integers(0, 10_000), st.integers(1, 60), st.sampled_from(LAWS), st.sampled_from([60, 200, 10_000]),
    st.sampled_from([(1, 1), (3, 1), (1, 2), (2, 3)]), st.sampled_from(ENGINES),
    st.sampled_from(["round-robin", "least-loaded", "power-of-two", "prefix-aware"]), st.sampled_from(FOLLOWS),
)  # fmt: skip
@settings(deadline=None, max_examples=60, phases=PHASES)
def test_the_quick_run_is_the_loop(
    seed: int,
    count: int,
    law: str,
    blocks: int,
    workers: tuple[int, int],
    scheduler: str,
    routing: str,
    follows: str,
) -> None:
    if follows and "clients" in law:
        follows = ""
    requests = drawn(seed, count, law, PREFIX + follows)
    same(requests, with_blocks(deployed(scheduler, routing, *workers), blocks * workers[1]))


@given(
    st.integers(0, 10_000), st.integers(1, 40), st.sampled_from(LAWS), st.sampled_from([60, 120, 10_000]),
    st.sampled_from([60, 120, 10_000]), st.sampled_from([(1, 1, 1), (2, 1, 1), (1, 3, 1), (2, 2, 1), (1, 2, 2)]),
    st.sampled_from(["vllm", "prefill-first", "trtllm-guaranteed-no-evict", "trtllm-max-utilization"]),
    st.sampled_from(FOLLOWS),
    st.sampled_from(["layers", "end"]), st.sampled_from(["prefill", "decode"]),
)  # fmt: skip
@settings(deadline=None, max_examples=60, phases=PHASES)
def test_prefill_and_decode_apart_are_the_loop(
    seed: int, count: int, law: str, before: int, behind: int, workers: tuple[int, int, int], scheduler: str,
    follows: str, transfer: str, first_token: str,
) -> None:  # fmt: skip
    if follows and "clients" in law:
        follows = ""
    requests = drawn(seed, count, law, PREFIX + follows)
    made = apart(scheduler, *workers)
    blocks = {"prefill": before, "decode": behind}
    each = tuple(replace(w, space=w.space._replace(blocks=blocks[w.role] * w.groups)) for w in made.workers)
    same(requests, replace(made, workers=each, transfer=transfer, first_token=first_token))  # type: ignore[arg-type]


@pytest.mark.parametrize("broken", ["ends", "watch"])
def test_a_call_that_stops_too_rarely_is_noticed(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """Without the stop at a request's end, or at freed room, the record is another one."""

    def deaf(crew: Any, desk: Any, horizon: float, most: int, ends: bool, watch: bool) -> int:
        return advance_crew(crew, desk, horizon, most, ends and broken != "ends", watch and broken != "watch")

    requests = drawn(3, 60, "{kind: closed-loop, clients: 20}")
    made = apart("vllm", 1, 1)
    blocks = {"prefill": 400, "decode": 80}
    tight = replace(
        made,
        workers=tuple(replace(w, space=w.space._replace(blocks=blocks[w.role])) for w in made.workers),
    )
    same(requests, tight)
    monkeypatch.setattr(quick, "advance_crew", deaf)
    with pytest.raises((AssertionError, InfeasibleError, KeyError)):
        same(requests, tight)


def test_small_buffers_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = drawn(3, 80, LAWS[0])
    wanted = service(requests, 400)
    whole = QuickLoop(requests, wanted).run()
    monkeypatch.setattr(quick, "STEPS", 3)
    parts = QuickLoop(requests, wanted).run()
    assert whole.to_bytes() == parts.to_bytes()


def test_preemptions_happen_in_these_runs() -> None:
    requests = drawn(5, 60, "{kind: at-once}")
    record = QuickLoop(requests, service(requests, 120)).run()
    assert record.requests.preemptions.sum() > 0


@pytest.mark.parametrize(
    ("more", "options"),
    [
        ("adapters: {count: 2}", {}),
        ("", {"fail": ("0@1s:2s",)}),
        ("", {"settings": {"speculation.method": "ngram", "speculation.tokens": 2}}),
        ("", {"engine": "sglang"}),
    ],
)
def test_what_it_does_not_know_goes_to_the_loop(more: str, options: dict[str, object]) -> None:
    requests = drawn(1, 20, LAWS[0], more)
    assert not can_be_quick(requests, service(requests, **options))


def test_an_interrupt_leaves_whole_rows() -> None:
    requests = drawn(2, 200, LAWS[0])

    def stop(_count: int) -> None:
        raise KeyboardInterrupt

    record = QuickLoop(requests, service(requests)).run(stop)
    done = record.requests.tokens == requests.output_tokens
    assert 0 < done.sum() < 200
    assert np.isnan(record.requests.first_token_s[record.requests.tokens == 0]).all()
