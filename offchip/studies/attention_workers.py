"""Lamina: decode attention on cheap devices with much memory, everything else on fast ones.

Lamina, arXiv:2405.01814. Llama-3-70B on two H100 and four H20 against four H100, per step in the steady state.
"""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

import numpy as np

from hw_configs.library import load_link, load_system
from offchip.serving.build import load_served
from offchip.studies.study import Claim, ClaimResult, Outcome, Study, StudyTable, compare
from simulator.serving.apart import AttentionApart
from simulator.serving.apart_model import AttentionWorkers, apart_capacity, make_attention_apart
from simulator.serving.capacity import Capacity, capacity_of
from simulator.serving.pricing import Pricer, make_pricer
from simulator.serving.settings import EngineSettings, Layout
from simulator.serving.step import ScheduledStep

__all__ = ["STUDY"]

MODEL: Final = "llama-3-70b"
LAYERS: Final = 80
MODEL_WORKERS, ATTENTION_WORKERS, ALONE = 2, 4, 4
SHARE: Final = 0.9
"""Of the device memory: what an engine uses, vLLM's default of the time."""
SETTINGS: Final = EngineSettings(gpu_memory_utilization=SHARE)
ALPHA, AT_ONCE = 0.2, 300
_PAPER: Final = "Lamina, arXiv:2405.01814"
_LATER: Final = "Lamina, arXiv:2405.01814, later version"


class Trace(NamedTuple):
    """Mean tokens of a trace."""

    name: str
    prompt: float
    generated: float

    @property
    def context(self) -> int:
        """Tokens in the cache halfway through an answer."""
        return round(self.prompt + self.generated / 2)


TRACES: Final = (
    Trace("Azure-Conv", 1154.7, 211.1), Trace("Azure-Code", 2047.8, 27.9), Trace("Kimi-Conv", 12035.1, 342.6),
    Trace("Kimi-TA", 8560.0, 182.1),
)  # fmt: skip


@cache
def both() -> tuple[AttentionApart, Capacity, Pricer, Capacity]:
    """Both machines as ``offchip serve`` builds them: attention apart, then four H100; each with its cache."""
    link = load_link("roce-400")
    workers = AttentionWorkers(load_system("h20"), ATTENTION_WORKERS, link.bandwidth, link.latency)
    model, node, settings = load_served(MODEL, "fp16").model, load_system("dgx-h100"), SETTINGS
    apart, alone = Layout(tp=MODEL_WORKERS), Layout(tp=ALONE)
    return (
        make_attention_apart(model, node, apart, settings, workers),
        apart_capacity(model, node, apart, settings, workers), make_pricer(model, node, alone, settings),
        capacity_of(model, node, alone, settings),
    )  # fmt: skip


def fits(capacity: Capacity, context: int) -> int:
    """Requests of so many tokens whose cache fits."""
    return capacity.space.blocks // -(-context // capacity.space.block_tokens)


def step_of(batch: int, context: int) -> ScheduledStep:
    """A decode step of so many requests with so many tokens in the cache."""
    one = np.ones(batch, np.int64)
    return ScheduledStep(np.arange(batch), one, context * one, 0 * one, one > 0, -one)


class Point(NamedTuple):
    """A trace on both machines: requests at work, and tokens a second."""

    batch: int
    rate: float
    batch_alone: int
    rate_alone: float
    wire_bytes_per_s: float


def point(trace: Trace) -> Point:
    """Both machines with as many requests as fit."""
    context = trace.context
    apart, cache, whole, whole_cache = both()
    alone = fits(whole_cache, context)
    alone_s = whole.price(step_of(alone, context)).seconds
    half = fits(cache, context) // 2
    seconds = apart.price_groups([step_of(half, context)] * 2).seconds
    passed = 2 * half * LAYERS * (apart.wire.out_bytes + apart.wire.back_bytes) / seconds
    return Point(2 * half, 2 * half / seconds, alone, alone / alone_s, passed)


def needed_rate(context: int) -> float:
    """Bytes per second with which the transfers of 300 requests take :data:`ALPHA` of a step."""
    apart = both()[0]
    step = step_of(AT_ONCE, context)
    size = LAYERS * AT_ONCE * (apart.wire.out_bytes + apart.wire.back_bytes)
    return size / (ALPHA * (apart.model.price(step).seconds + apart.attention.price(step).seconds))


def _price(device: str) -> float:
    """Dollars an hour."""
    price = load_system(device).price_rate or getattr(
        load_system(device).workers()[0].device, "price_rate", None
    )
    assert price is not None
    return 3600 * float(price)


def _run() -> Outcome:
    points = {trace: point(trace) for trace in TRACES}
    apart = MODEL_WORKERS * _price("h100-sxm") + ATTENTION_WORKERS * _price("h20")
    alone = ALONE * _price("h100-sxm")
    gains = {trace: p.rate / p.rate_alone for trace, p in points.items()}
    per_dollar = {trace: gain * alone / apart for trace, gain in gains.items()}
    batches = float(np.mean([p.batch / p.batch_alone for p in points.values()]))
    method = (
        f"{MODEL} in FP16: decode steps with as many requests as the cache holds at {SHARE:.0%} of memory, "
        "contexts of the traces' mean prompt and half an answer. Priced and placed as `offchip serve` does it, with "
        "the host time of vLLM's newest constants on both sides. All but attention on 2 H100 (tensor parallel), "
        "attention's heads over 4 "
        "H20, two batches in turn, 400 Gb/s a H100; against 4 H100 with everything."
    )
    differences = (
        "Every request has its trace's mean length; the paper plays the traces. Its wires are stacks that were "
        "measured "
        "(45.7 GB/s, 33 us round trip), ours the link's own figures. Prefill is left out on both sides."
    )
    rows: tuple[tuple[str, str, float, float, str], ...] = (
        ("least", "throughput over vLLM at similar cost, least", 1.161, min(gains.values()), _LATER),
        ("most", "throughput over vLLM at similar cost, most", 1.901, max(gains.values()), _LATER),
        ("batch", "batch over vLLM's, mean", 2.39, batches, _LATER),
        ("dollar-least", "throughput per dollar, least", 1.48, min(per_dollar.values()), f"{_PAPER}, v1, estimated"),
        ("dollar-most", "throughput per dollar, most", 12.1, max(per_dollar.values()), f"{_PAPER}, v1, estimated"),
    )  # fmt: skip
    results: list[ClaimResult] = [
        compare(Claim(i, words, value, "", source, "published", "mechanism"), ours, method, differences)
        for i, words, value, ours, source in rows
    ]
    rates = "Rates of the shipped devices, which are those of the paper's cost table."
    for i, words, value, ours in (
        ("cost", "two H100 and four H20", 40.64, apart),
        ("cost-alone", "four H100", 44.24, alone),
    ):
        claim = Claim(i, f"{words}, dollars an hour", value, "USD/h", _PAPER, "published", "construction")
        results.append(compare(claim, ours, rates))
    link = Claim(
        "wire", "bandwidth needed at most, 300 requests, transfers a fifth of the time", 30e9, "B/s", _PAPER,
        "published", "mechanism",
    )  # fmt: skip
    needed = f"Bytes of all layers over {ALPHA:g} of the time of model and attention workers, the most over the traces."
    results.append(compare(link, max(needed_rate(t.context) for t in TRACES), needed, differences))
    table = StudyTable(
        "Decode in the steady state",
        ("trace", "tokens in cache", "requests", "tokens/s", "requests, 4 H100", "tokens/s, 4 H100", "throughput",
         "per dollar", "wires, GB/s"),
        tuple(
            (t.name, float(t.context), float(p.batch), p.rate, float(p.batch_alone), p.rate_alone, gains[t],
             per_dollar[t], p.wire_bytes_per_s / 1e9)
            for t, p in points.items()
        ),
    )  # fmt: skip
    return Outcome(results, [table])


STUDY: Final = Study(
    "lamina",
    "Lamina: attention on other devices than the rest",
    "Chen et al., Efficient Heterogeneous Large Language Model Decoding with Model-Attention Disaggregation, "
    "arXiv:2405.01814",
    "Llama-3-70B in decode on two H100 and four H20 over 400 Gb/s RoCE, against four H100 at about the same price.",
    _run,
    slow=True,
)
