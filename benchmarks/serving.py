"""Requests through a serving engine: how many a second of computing, and the memory it takes.

./dev bench serving            one replica, and a plain loop in Python beside it
./dev bench serving all        also 100,000 requests on 16 replicas
./dev bench serving quick      compiled steps beside the loop that takes each by itself, in one run

ShareGPT-like requests to Llama-3-8B on H100, at a rate that one replica just keeps up with. Vidur 0.0.26 (PyPI)
installs without profiles, and without the module ``vidur.cli`` with which its ``vidur-data`` would fetch them, so
that it cannot run here. Beside ours stands a plain event loop: first come first served, chunks within the budget,
blocks for the whole answer, a dictionary per request, a linear price.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import deque

import numpy as np

from offchip.serving.build import deploy
from offchip.serving.options import ServeOptions
from offchip.serving.serve import run
from simulator.serving.quick import QuickLoop
from simulator.serving.service_loop import ServiceLoop
from workloads.requests import Requests
from workloads.requests.description import draw_requests, read_description
from workloads.requests.sources import RequestSource

RATE = 6.0
TEXT = """requests: {count}
prompt: sharegpt
output: sharegpt
longest: 8192
arrivals: {{kind: poisson, rate: {rate} /s}}
"""


def source_of(count: int, rate: float) -> RequestSource:
    described = read_description("benchmark.yaml", TEXT.format(count=count, rate=rate))
    return RequestSource(draw_requests(described), described)


def ours(count: int, replicas: int) -> float:
    source = source_of(count, RATE * replicas)
    begin = time.perf_counter()
    deployment = deploy(
        "llama-3-8b", "h100-sxm", ServeOptions(replicas=replicas, routing="least-loaded"), source.requests
    )
    ready = time.perf_counter()
    result = run(deployment, source)
    taken = time.perf_counter() - ready
    steps = result.counts["steps"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{count} requests, {replicas} replicas: {ready - begin:.1f} s to deploy, {taken:.1f} s for {steps} steps "
        f"({1e6 * taken / steps:.0f} us a step), {peak:.2f} GiB; tpot p50 {1e3 * result.latency['tpot'].p50:.2f} ms, "
        f"devices busy {result.utilisation['device_busy']:.0%}"
    )
    return taken


def plain(requests: Requests, budget: int = 8192, blocks: int = 29117) -> tuple[float, int]:
    """A loop as one would write it in an afternoon; seconds and steps."""
    begin = time.perf_counter()
    order = deque(np.argsort(requests.arrival_s, kind="stable").tolist())
    running: dict[int, dict[str, int]] = {}
    now, free, steps = 0.0, blocks, 0
    while order or running:
        left, batch, context = budget, [], 0
        for number, state in running.items():
            tokens = min(state["prompt"] - state["done"] if state["done"] < state["prompt"] else 1, left)
            if tokens > 0:
                batch.append((number, tokens))
                left -= tokens
                context += state["done"]
        while order and requests.arrival_s[order[0]] <= now and left > 0:
            number = order[0]
            prompt, output = int(requests.prompt_tokens[number]), int(requests.output_tokens[number])
            need = -(-(prompt + output) // 16)
            if need > free:
                break
            order.popleft()
            free -= need
            running[number] = {"prompt": prompt, "output": output, "done": 0, "given": 0, "blocks": need}
            tokens = min(prompt, left)
            batch.append((number, tokens))
            left -= tokens
        if not batch:
            now = float(requests.arrival_s[order[0]])
            continue
        now += 0.006 + 2e-5 * (budget - left) + 4e-8 * context
        steps += 1
        for number, tokens in batch:
            state = running[number]
            state["done"] += tokens
            if state["done"] >= state["prompt"]:
                state["given"] += 1
                if state["given"] == state["output"]:
                    free += state["blocks"]
                    del running[number]
    return time.perf_counter() - begin, steps


QUICK = {
    "closed loop, 8 clients": (300, "longest: 8192\narrivals: {kind: closed-loop, clients: 8}\n", {}),
    "closed loop, 64 clients": (2000, "longest: 8192\narrivals: {kind: closed-loop, clients: 64}\n", {}),
    "closed loop, 512 clients": (4000, "longest: 8192\narrivals: {kind: closed-loop, clients: 512}\n", {}),
    "sessions": (
        1000,
        "arrivals: {kind: poisson, rate: 5 /s}\nsessions: {turns: 3, think: {mean: 5 s}}\n",
        {},
    ),
    "prefill and decode apart, 128 clients": (
        2000,
        "longest: 8192\narrivals: {kind: closed-loop, clients: 128}\n",
        {"prefill_workers": 2, "decode_workers": 2},
    ),
}
LENGTHS = (
    "prompt: {kind: lognormal, median: 120, sigma: 1.0, high: 2000}\n"
    "output: {kind: lognormal, median: 180, sigma: 0.7, high: 1000}\n"
)


def quick() -> None:
    """Microseconds a step of both loops over the same services."""
    for name, (count, text, options) in QUICK.items():
        requests = draw_requests(read_description("benchmark.yaml", f"requests: {count}\n{LENGTHS}{text}"), 1)
        service = deploy("llama-3-8b", "dgx-h100", ServeOptions(**options), requests).service  # type: ignore[arg-type]
        QuickLoop(requests, service).run()  # kernels are compiled
        taken = []
        for loop in (QuickLoop, ServiceLoop):
            begin = time.perf_counter()
            steps = len(loop(requests, service).run().steps)
            taken.append(1e6 * (time.perf_counter() - begin) / steps)
        print(
            f"{name}: {steps} steps, {taken[0]:.1f} us a step, the loop {taken[1]:.1f}: {taken[1] / taken[0]:.1f} times"
        )


def main() -> None:
    if "quick" in sys.argv[1:]:
        quick()
        return
    ours(200, 1)  # kernels are compiled
    taken = ours(10_000, 1)
    beside, steps = plain(source_of(10_000, RATE).requests)
    print(f"plain Python loop: {beside:.1f} s for {steps} steps; {beside / taken:.2f} times ours")
    if "all" in sys.argv[1:]:
        ours(100_000, 16)


if __name__ == "__main__":
    main()
