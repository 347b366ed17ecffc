"""Training-step benchmark: GPT-3 175B (96 layers) on 512 A100 under four plans, written, executed and accounted for.

``python benchmarks/training_step.py [--hw SYSTEM]`` prints CPU seconds of each part, the whole process's memory, and
what the step took. The target is a minute and 4 GiB on one core. Kernels are compiled (or taken from disk) beforehand
by a small step; the first plan also pays for loading the model and fitting prices.
"""

from __future__ import annotations

import argparse
import resource
import time
from itertools import pairwise

from hw_configs.library import load_system
from mapping.training.estimate import Estimator
from mapping.training.executed_step import executed
from mapping.training.pricing import Prices
from mapping.training.setup import TrainingSetup
from mapping.training.step_program import write_step
from offchip.cli.output import print_table
from simulator.training.run import run_program

PLANS: dict[str, TrainingSetup] = {
    "TP 8, PP 16, DP 4, 64 micro-batches, ZeRO-1": TrainingSetup(
        "gpt3-175b", 2048, 256, tensor=8, pipeline=16, data=4, zero_stage=1, recompute="full"
    ),
    "TP 8, PP 8, DP 8, 192 micro-batches": TrainingSetup(
        "gpt3-175b", 2048, 1536, tensor=8, pipeline=8, data=8, recompute="full"
    ),
    "the same, interleaved": TrainingSetup(
        "gpt3-175b", 2048, 1536, tensor=8, pipeline=8, data=8, recompute="full", schedule="interleaved-1f1b"
    ),
    "FSDP over 512, 3 micro-batches": TrainingSetup(
        "gpt3-175b", 2048, 1536, data=512, zero_stage=3, recompute="full"
    ),
    "TP 8, FSDP over 64, 64 micro-batches": TrainingSetup(
        "gpt3-175b", 2048, 4096, tensor=8, data=64, zero_stage=3, recompute="full"
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hw", default="dgx-a100*64")
    options = parser.parse_args()
    small = Estimator(Prices(load_system("dgx-a100*2")))
    run_program(write_step(small.rank_step(TrainingSetup("gpt2", 512, 16, data=16)), small.prices))
    start = time.process_time()
    estimator = Estimator(Prices(load_system(options.hw)))
    print(f"{options.hw} loaded in {time.process_time() - start:.2f} CPU s")
    rows: list[tuple[str, ...]] = []
    for name, setup in PLANS.items():
        moments = [time.process_time()]
        step = estimator.rank_step(setup)
        moments.append(time.process_time())
        program = write_step(step, estimator.prices)
        moments.append(time.process_time())
        run = run_program(program)
        moments.append(time.process_time())
        peak = setup.devices * estimator.prices.peak(setup.dtype)
        found = executed(setup, run, estimator.model_flops(setup), peak, estimator.prices.memory.usable_bytes)
        moments.append(time.process_time())
        spent = [f"{after - before:.2f}" for before, after in pairwise(moments)]
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rows.append(
            (
                name, str(len(program)), *spent, f"{memory:.2f}", f"{found.step_s:.4g}", f"{100 * found.mfu:.1f}",
                f"{100 * found.seconds()['bubble'] / found.step_s:.1f}", f"{found.peak_bytes / 2**30:.1f}",
            )
        )  # fmt: skip
    columns = (
        "plan", "tasks", "graph, CPU s", "program", "run", "account", "process, GiB", "step, s", "MFU, %", "bubble, %",
        "device, GiB",
    )  # fmt: skip
    print_table("", columns, rows)


if __name__ == "__main__":
    main()
