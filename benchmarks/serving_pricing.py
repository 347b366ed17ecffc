"""Time of pricing a serving step, beside a graph of the same step in the same run.

    python -m benchmarks.serving_pricing

Prints microseconds of processor time per step, best of five rounds, for 64 decodes with ragged contexts and two prefill
chunks, and how many times quicker that is than building and simulating the graph of the decodes alone. The target is
50 us a step.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

import offchip
from hw_configs.library import load_system
from simulator.serving.pricing import ServedModel, make_pricer
from simulator.serving.settings import Layout
from simulator.serving.step import ScheduledStep
from workloads import models
from workloads.huggingface import read_config
from workloads.workload import WorkloadOptions

ROUNDS = 5
STEPS = 500
BATCH = 64
CASES = (("llama-3-8b", 1), ("llama-3.1-70b", 4), ("gpt-oss-120b", 4), ("qwen3-235b-a22b", 8))


def mixed_step() -> ScheduledStep:
    random = np.random.default_rng(0)
    tokens = np.concatenate((np.ones(BATCH, np.int64), [700, 1300]))
    context = np.concatenate((random.integers(100, 8000, BATCH), [0, 2048]))
    n = len(tokens)
    none = np.zeros(n, np.int64)
    return ScheduledStep(np.arange(n), tokens, context, none, np.ones(n, np.bool_), none - 1)


def main() -> None:
    system = load_system("dgx-h100")
    step = mixed_step()
    for name, tp in CASES:
        decoder, precision = read_config(
            Path(models.__file__).parent / f"{name}.json", WorkloadOptions(dtype="fp8")
        )
        begin = time.process_time()
        pricer = make_pricer(ServedModel(name, decoder, precision), system, Layout(tp=tp))
        built = time.process_time() - begin
        pricer.price(step)
        rounds = []
        for _ in range(ROUNDS):
            begin = time.process_time()
            for _ in range(STEPS):
                pricer.price(step)
            rounds.append((time.process_time() - begin) / STEPS * 1e6)
        begin = time.process_time()
        offchip.simulate(
            name,
            "dgx-h100",
            phase="decode",
            batch=BATCH,
            prompt=4000,
            tp=tp,
            dtype="fp8",
            fidelity="analytic",
        )
        graph = (time.process_time() - begin) * 1e6
        own = min(rounds)
        print(
            f"{name}, tp {tp}: {own:.1f} us a step, graph {graph / own:,.0f} times that; tables {built:.1f} s"
        )


if __name__ == "__main__":
    main()
