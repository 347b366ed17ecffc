"""Layer-fusion benchmark: what depth-first chains save against every layer by itself, and the seconds of the search.

``python benchmarks/layer_fusion.py [MODEL ...]`` (default: MobileNet-v2 and ResNet-50 in 8 bits) on the shipped
machines that can hold tiles between layers, for each objective. Ratios are of this process; kernels are compiled before
the clock starts.
"""

from __future__ import annotations

import argparse
import time
from typing import Final

import offchip
from offchip.cli.output import print_table

_MACHINES: Final = ("gemmini", "eyeriss", "edge-tpu-array", "tpu-v4i-array", "mtia-v1-array")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["mobilenet-v2", "resnet-50"])
    parser.add_argument("--time-limit", type=float, default=20.0)
    asked = parser.parse_args()
    offchip.solve_fusion("alexnet", "gemmini")
    rows = []
    for model in asked.models:
        for machine in _MACHINES:
            for objective in ("energy", "latency", "edp"):
                started = time.perf_counter()
                found = offchip.solve_fusion(
                    model, machine, objective=objective, dtype="int8", time_limit=asked.time_limit
                )
                seconds = time.perf_counter() - started
                fused, alone = found.total(), found.total(alone=True)
                proven = sum(item.count for item in found.chains if item.answer.status == "optimal")
                rows.append(
                    (
                        model, machine, objective, f"{fused.energy_j / alone.energy_j:.3f}",
                        f"{fused.latency_cycles / alone.latency_cycles:.3f}",
                        f"{fused.outside_bytes / alone.outside_bytes:.3f}",
                        f"{proven} of {sum(item.count for item in found.chains)}", f"{seconds:.1f}",
                    )
                )  # fmt: skip
    columns = ("model", "machine", "objective", "energy", "time", "bytes", "proven", "seconds")
    print_table("fused over layers by themselves", columns, rows)


if __name__ == "__main__":
    main()
