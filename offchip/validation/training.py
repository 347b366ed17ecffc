"""Validation kind ``training``: rows of ``steps.csv``, measured training steps of whole models on clusters of GPUs.

A row says model, GPUs and network, lengths and batches, degrees, what is recomputed, and the framework; it was
published as seconds of a step, tokens per second and GPU, or TFLOP/s with the FLOPs that its source counts. Rows of the
split ``fitted`` may take part in a calibration (``calibration/fit_training_steps.py``), those of ``held`` never do. A
row is ``ok`` within a quarter of the measured time.
"""

from __future__ import annotations

import csv
import fnmatch
import io
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

from hw_configs.compose import compose
from hw_configs.config import parse
from hw_configs.problems import OffchipError, bad_input
from hw_configs.system import SystemFile
from hw_configs.yaml_file import read_yaml_text
from mapping.allocation.csv_format import read_text
from mapping.training.estimate import Estimator
from mapping.training.pricing import Prices
from mapping.training.setup import TrainingSetup
from mapping.training.sharding import Sharding
from mapping.training.step_time import step_time
from mapping.training.training_plan import execute, plan_of
from offchip.validation.registry import Options, RowResult, find_file

__all__ = ["TABLE", "measured_step", "predicted_step", "prices_of", "run", "setup_of"]

TABLE: Final = "steps.csv"
WITHIN: Final = 0.25
NEEDED: Final = (
    "id", "group", "split", "source", "model", "gpu", "gpus", "network", "sequence", "micro_batch", "global_batch",
    "tp", "sp", "ulysses", "cp", "pp", "interleave", "dp", "zero", "recompute", "precision", "framework",
    "tokens_per_s_gpu", "step_s", "tflops", "flops",
)  # fmt: skip
MODELS: Final = ("estimated", "executed")
RECOMPUTE: Final = {"op": "every-other", "core": "selective"}
"""Names of rows: torchtitan's selection operator by operator; Megatron-LM's of attention's core."""
WIRES: Final = {
    "a100": ("nvlink3-x12", "nvswitch2", "pcie4-x16", "connectx-6", 8),
    "h100": ("nvlink4-x18", "nvswitch3", "pcie5-x16", "connectx-7", 8),
    "h200": ("nvlink4-x18", "nvswitch3", "pcie5-x16", "connectx-7", 8),
    "b200": ("nvlink5-x18", "nvswitch3", "pcie5-x16", "connectx-7", 8),
    "gb": ("nvlink5-x18", "nvswitch3", "pcie5-x16", "connectx-7", 64),
}
"""Links and switches of a GPU's usual node by the beginning of its name, and GPUs that NVLink joins: a rack of 72 is
taken as the 64 that jobs use."""


def run(folder: Path, rows: str, options: Options) -> Iterator[RowResult]:
    """Rows of the folder's table whose id matches the glob ``rows``; by the closed form or, ``executed``, run."""
    model = options.cost_model or MODELS[0]
    if model not in MODELS:
        raise bad_input(f"found {model!r}; expected {' or '.join(MODELS)}", path="--model")
    table = find_file(folder, TABLE)
    reader = csv.DictReader(io.StringIO(read_text(table)))
    missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
    if missing:
        raise bad_input(f"the column {missing[0]!r} is missing", file=str(table), line=1)
    for row in reader:
        if fnmatch.fnmatchcase(row["id"], rows):
            yield _run_row(row, table.parent, model)


def _run_row(row: Mapping[str, str], folder: Path, model: str) -> RowResult:
    groups = {name: row[name] for name in ("split", "group", "framework", "gpu")}
    started = time.process_time()
    expected: dict[str, float] = {}
    try:
        expected = {"step_s": measured_step(row)}
        ours = predicted_step(row, folder, executed=model == "executed")
    except (OffchipError, ValueError, TypeError) as error:
        return RowResult(
            row["id"], expected, {}, 0.0, "unsupported", None, str(error).splitlines()[0], groups
        )
    error_share = ours / expected["step_s"] - 1
    return RowResult(
        row["id"], expected, {"step_s": ours}, time.process_time() - started,
        "ok" if abs(error_share) <= WITHIN else "off", error_share, "", groups,
    )  # fmt: skip


def measured_step(row: Mapping[str, str]) -> float:
    """Seconds of a row's step, as its source states them or as they follow from its rate."""
    if row["step_s"]:
        return float(row["step_s"])
    gpus = int(row["gpus"])
    if row["tokens_per_s_gpu"]:
        return int(row["global_batch"]) * int(row["sequence"]) / (float(row["tokens_per_s_gpu"]) * gpus)
    return float(row["flops"]) / (float(row["tflops"]) * 1e12 * gpus)


def predicted_step(row: Mapping[str, str], folder: Path, *, executed: bool = False) -> float:
    """Seconds that a row's step takes here, by the closed form or executed event by event.

    Raises ``InputError`` for a row that the model or the machine cannot run.
    """
    estimator = Estimator(prices_of(row["gpu"], int(row["gpus"]), row["network"]))
    step = estimator.rank_step(setup_of(row, folder))
    if executed:
        return execute(plan_of(step, estimator), estimator).step_s
    return step_time(step, estimator.prices).step_s


def setup_of(row: Mapping[str, str], folder: Path) -> TrainingSetup:
    """A row's training setup; models with a file lie beside the table."""
    model = str(folder / row["model"]) if row["model"].endswith(".json") else row["model"]
    chunks = int(row["interleave"])
    sharding, stage_layers = _options(row.get("options") or "")
    return TrainingSetup(
        model, int(row["sequence"]), int(row["global_batch"]), int(row["micro_batch"]),
        row["precision"] if row["precision"] in ("bf16", "fp16") else "bf16",
        tensor=int(row["tp"]), sequence_parallel=row["sp"] == "1", ulysses=int(row["ulysses"]), context=int(row["cp"]),
        pipeline=int(row["pp"]), data=int(row["dp"]), zero_stage=int(row["zero"]),
        recompute=RECOMPUTE.get(row["recompute"], row["recompute"]),  # type: ignore[arg-type]
        schedule="interleaved-1f1b" if chunks > 1 else "1f1b", stages_per_rank=chunks, framework=row["framework"],
        sharding=sharding, stage_layers=stage_layers,
    )  # fmt: skip


def _options(text: str) -> tuple[Sharding, tuple[int, ...] | None]:
    """A row's choices of sharding and layers of each stage: words ``key=value``."""
    given = dict(word.partition("=")[::2] for word in text.split())
    stages = given.pop("stages", "")
    kept, once = given.pop("reshard", "yes") == "no", given.pop("reduce", "each") == "once"
    if given:
        found = ", ".join(given)
        raise bad_input(f"found {found}; expected reshard, reduce or stages", path="options")
    sharding = Sharding(reshard=not kept, each_micro_batch=False if once else None)
    return sharding, tuple(map(int, stages.split("+"))) if stages else None


@lru_cache(maxsize=64)
def prices_of(gpu: str, gpus: int, network: str) -> Prices:
    """Prices on nodes of a GPU's usual kind, one network port a GPU."""
    wires = next((found for start, found in WIRES.items() if gpu.startswith(start)), None)
    if wires is None:
        raise bad_input(f"no usual node is known for the GPU {gpu!r}")
    link, switch, bus, port, island = wires
    nodes = -(-gpus // island)
    devices = [f"gpu: {{use: {gpu}, count: {gpus}}}", f"nvswitch: {{use: {switch}, count: {nodes}}}"]
    links = [f"{{use: {link}, between: [gpu, nvswitch]}}"]
    if nodes > 1:
        devices += [
            f"plx: {{use: pcie-switch, count: {gpus}}}",
            f"nic: {{use: {port}, count: {gpus}}}",
            "leaf: {use: ib-switch}",
        ]
        links += [
            f"{{use: {bus}, between: [gpu, plx]}}",
            f"{{use: {bus}, between: [nic, plx]}}",
            f"{{use: {network}, between: [nic, leaf]}}",
        ]
    text = "\n".join(
        [
            "name: cluster",
            "devices:",
            *(f"  {line}" for line in devices),
            "links:",
            *(f"  - {line}" for line in links),
        ]
    )
    document = read_yaml_text(text, f"{gpus} x {gpu}")
    return Prices(compose(parse(SystemFile, document), document))
