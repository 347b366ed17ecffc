"""Lamina: decode attention on cheap devices with much memory, everything else on fast ones.

Lamina, arXiv:2405.01814. Llama-3-70B on two H100 and four H20 against four H100, per step in the steady state.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

import numpy as np

from hw_configs.library import load_link, load_system
from offchip.api import simulate
from offchip.studies.phase_times import cache_bytes, phase_times, usable_bytes, weight_bytes
from offchip.studies.study import Claim, ClaimResult, Outcome, Study, StudyTable, compare
from simulator.serving.apart import AttentionApart, AttentionWire
from simulator.serving.step import ScheduledStep, StepCost

__all__ = ["STUDY"]

MODEL: Final = "llama-3-70b"
LAYERS, WIDTH, GROUP = 80, 8192, 8
MODEL_WORKERS, ATTENTION_WORKERS, ALONE = 2, 4, 4
SHARE: Final = 0.9
"""Of the device memory: what an engine uses, vLLM's default of the time."""
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


@dataclass(frozen=True)
class Fixed:
    """A price that is known."""

    seconds: float

    def price(self, _step: ScheduledStep) -> StepCost:
        """The same for every step of the batch it was made for."""
        return StepCost(self.seconds, self.seconds, 0.0, 0.0, 0.0)


@cache
def others(batch: int, devices: int) -> float:
    """Seconds of a decode step's operators but attention on so many H100, exchanges within."""
    step = simulate(
        MODEL,
        "dgx-h100",
        phase="decode",
        batch=batch,
        prompt=1,
        dtype="fp16",
        tp=devices,
        fidelity="analytic",
    )
    return step.makespan_s


def attention(device: str, batch: int, context: int, devices: int) -> float:
    """Seconds of all layers' attention, heads divided over devices; long batches by their share of a short one."""
    some = min(batch, 32)
    return phase_times(MODEL, device, "decode", some, context).attention_s * batch / some / devices


def fits(device: str, devices: int, held: float, context: int) -> int:
    """Requests of so many tokens whose cache fits beside ``held`` bytes."""
    return int((devices * SHARE * usable_bytes(device) - held) / (context * cache_bytes(MODEL)))


def step_of(batch: int) -> ScheduledStep:
    """A decode step of so many requests."""
    one = np.ones(batch, np.int64)
    return ScheduledStep(np.arange(batch), one, one, 0 * one, one > 0, -one)


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
    alone = fits("h100-sxm", ALONE, weight_bytes(MODEL), context)
    alone_s = others(alone, ALONE) + attention("h100-sxm", alone, context, ALONE)
    half = fits("h20", ATTENTION_WORKERS, 0.0, context) // 2
    link = load_link("roce-400")
    wire = AttentionWire(
        bytes_per_s=MODEL_WORKERS * link.bandwidth, latency_s=link.latency,
        out_bytes=2.0 * WIDTH * (1 + 2 / GROUP), back_bytes=2.0 * WIDTH,
    )  # fmt: skip
    prices = (
        Fixed(others(half, MODEL_WORKERS)),
        Fixed(attention("h20", half, context, ATTENTION_WORKERS)),
    )
    seconds = AttentionApart(*prices, wire, LAYERS).price_groups([step_of(half)] * 2).seconds
    passed = 2 * half * LAYERS * (wire.out_bytes + wire.back_bytes) / seconds
    return Point(2 * half, 2 * half / seconds, alone, alone / alone_s, passed)


def needed_rate(context: int) -> float:
    """Bytes per second with which the transfers of 300 requests take :data:`ALPHA` of a step."""
    size = LAYERS * AT_ONCE * 2.0 * WIDTH * (2 + 2 / GROUP)
    return size / (
        ALPHA * (others(AT_ONCE, MODEL_WORKERS) + attention("h20", AT_ONCE, context, ATTENTION_WORKERS))
    )


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
        "contexts of the "
        "traces' mean prompt and half an answer. All but attention on 2 H100 (tensor parallel), attention's "
        "heads over 4 "
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
