"""Loop-nest benchmark: seconds per proven optimum and per evaluation, beside those of other tools' searches.

``python benchmarks/loop_nest.py [FOLDER]`` reads a reference folder (default: the sample in
``tests/reference/loopnest``). Seconds are of this process after the kernels are compiled, in one run; the columns
of the careful script and of AccelForge's mapper are the reference's own CPU seconds on another machine, and serve as
orientation. ``plain`` counts one mapping by the Python closed form, ``bulk`` prices the best mappings of each layer
many times over in the compiled one, ``search`` is the partial mappings that the compiled search looks at per second.
The last columns are the medians of how far the best of 100,000 random mappings, and the integer program's mapping, lie
above the proven best.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from mapping.loop_nest.by_mip import mapping_by_mip
from mapping.loop_nest.sampled import mapping_by_sampling
from mapping.loop_nest.search import best_mapping
from offchip.cli.output import print_table
from offchip.validation.loopnest import reference_accelerator
from offchip.validation.registry import find_file
from simulator.accelerator.loop_nest.bulk import MappingTable, prices, tabled
from simulator.accelerator.loop_nest.evaluate import evaluate
from workloads.einsum import read_einsum

_BULK: Final = 100_000
"""Mappings priced at once."""
DEFAULT_FOLDER = Path(__file__).parent.parent / "tests" / "reference" / "loopnest"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    folder = parser.parse_args().folder
    machines = {e["name"]: e for e in json.loads(find_file(folder, "architectures.json").read_text())}
    layers = {e["name"]: read_einsum(e, "") for e in json.loads(find_file(folder, "layers.json").read_text())}
    with find_file(folder, "optima.csv").open(encoding="utf-8", newline="") as stream:
        records = list(csv.DictReader(stream))
    rows: dict[str, list[tuple[float, float, float | None]]] = {}
    nodes = spent = plain = bulk = 0.0
    above: dict[str, list[tuple[float, float]]] = {}
    for index, record in enumerate(records):
        device = reference_accelerator(machines[record["arch"]], json.loads(record["constraints"]))
        layer = layers[record["layer"]]
        if not index:
            best_mapping(device, layer, record["metric"])
        started = time.perf_counter()
        answer = best_mapping(device, layer, record["metric"])
        seconds = time.perf_counter() - started
        nodes, spent = nodes + answer.nodes, spent + seconds
        started = time.perf_counter()
        evaluate(answer.best[0].nest, device, layer)
        plain += time.perf_counter() - started
        one = tabled([answer.best[0].nest], device, layer)
        table = MappingTable(
            *(np.repeat(part, _BULK, axis=0) for part in (one.temporal, one.order, one.spatial))
        )
        if not index:
            prices(device, layer, one)
        started = time.perf_counter()
        prices(device, layer, table)
        bulk += time.perf_counter() - started
        metric, value = record["metric"], answer.value
        above.setdefault(record["arch"], []).append(
            (
                mapping_by_sampling(device, layer, metric, samples=_BULK).value / value - 1,
                mapping_by_mip(device, layer, metric).value / value - 1,
            )
        )
        other = record["accelforge_even_cpu_s"]
        rows.setdefault(record["arch"], []).append(
            (seconds, float(record["own_cpu_s"]), float(other) if other else None)
        )
    lines = []
    for name, found in rows.items():
        ours, script = [row[0] for row in found], [row[1] for row in found]
        pairs = [(row[0], row[2]) for row in found if row[2]]
        ratio = median(theirs / own for own, theirs in pairs) if pairs else 0.0
        lines.append(
            (name, len(found), f"{median(ours):.4f}", f"{max(ours):.3f}", f"{sum(ours):.2f}", f"{sum(script):.2f}",
             f"{ratio:.0f}", *(f"{100 * median(gaps):.0f} %" for gaps in zip(*above[name], strict=True)))
        )  # fmt: skip
    columns = (
        "machine",
        "optima",
        "median s",
        "most s",
        "all s",
        "script, all s",
        "AccelForge / ours, median",
        "random above",
        "program above",
    )
    print_table("proven optima", columns, lines)
    print(
        f"plain: {plain / len(records) * 1e6:.0f} us a mapping; bulk: {_BULK * len(records) / bulk / 1e6:.2f} M "
        f"mappings a second; search: {nodes / spent / 1e6:.2f} M nodes a second"
    )


if __name__ == "__main__":
    main()
