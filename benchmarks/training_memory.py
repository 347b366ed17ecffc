"""Training-memory benchmark: a GPT-3-sized step planned on two levels, beside one level and the caching allocator.

``python benchmarks/training_memory.py [--micro-batches N]`` builds the request sequence of GPT-3 175B (TP 8, 2048
tokens, N micro-batches; 18 make 100,000 requests) and prints CPU seconds and peaks. The baseline is the caching
allocator's own time for the same requests, which a training run pays in every step; the plan is made once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from mapping.training.allocator_trace import replay
from mapping.training.rank_graph import rank_graph
from mapping.training.requests import RequestSequence, request_sequence
from mapping.training.setup import TrainingSetup
from mapping.training.two_level_addresses import plan_bilevel, plan_memory, plan_one_level
from offchip.cli.output import print_table
from workloads.microbatch import microbatched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--micro-batches", type=int, default=18)
    options = parser.parse_args()
    setup = TrainingSetup("gpt3-175b", 2048, tensor=8)
    plan_memory(request_sequence(rank_graph(TrainingSetup("gpt2", 64))))
    sequence = request_sequence(microbatched(rank_graph(setup), options.micro_batches))
    live = int(sequence.live_bytes().max(initial=0))
    ways: dict[str, Callable[[RequestSequence], int]] = {
        "caching allocator": lambda s: replay(s).peak_reserved,
        "caching allocator, expandable segments": lambda s: replay(s, expandable=True).peak_reserved,
        "two levels": lambda s: plan_bilevel(s).peak_bytes,
        "two levels, rectangles as published": lambda s: plan_bilevel(s, staircase=False).peak_bytes,
        "two levels, one level where small, checked": lambda s: plan_memory(s).peak_bytes,
        "one level": lambda s: plan_one_level(s).peak_bytes,
    }
    rows: list[tuple[str, ...]] = []
    baseline = np.nan
    for name, way in ways.items():
        start = time.process_time()
        peak = way(sequence)
        seconds = time.process_time() - start
        baseline = seconds if not rows else baseline
        rows.append(
            (name, f"{peak / 2**30:.4f}", f"{peak / live:.4f}", f"{seconds:.2f}", f"{seconds / baseline:.1f}")
        )
    title = f"{sequence.instructions} requests, {live / 2**30:.4f} GiB live at once"
    print_table(title, ("way", "peak, GiB", "over live", "CPU s", "times the baseline"), rows)


if __name__ == "__main__":
    main()
