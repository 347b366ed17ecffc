"""Validation kind ``offload``: rows of ``flexgen_cost_model.csv``, the released block cost model's predictions.

A row fixes model, lengths, block and shares in percent. Its layer times and throughput are printed rounded; a row
is ok when each of ours lies within half a unit of the last printed digit, or within 0.5 %.
"""

from __future__ import annotations

import csv
import fnmatch
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import OffchipError, bad_input
from mapping.allocation.csv_format import read_text
from mapping.offload.block_policy import RELEASED_T4, BlockPolicy, shape_of
from mapping.offload.block_schedule import block_cost
from offchip.validation.registry import Options, RowResult, Verdict, find_file

__all__ = ["run"]

_TABLE: Final = "flexgen_cost_model.csv"
_FIGURES: Final = {
    "predicted_T_prefill_layer_s": "prefill_layer_s",
    "predicted_T_decode_layer_s": "decode_layer_s",
    "predicted_tokens_per_s": "tokens_per_s",
}
_SHARES: Final = ("w_gpu", "w_cpu", "c_gpu", "c_cpu", "h_gpu", "h_cpu")
WITHIN: Final = 0.005


def run(folder: Path, rows: str, _options: Options) -> Iterator[RowResult]:
    """Rows of the folder's table whose id (model-prompt-batch x batches) matches the glob ``rows``."""
    table = find_file(folder, _TABLE)
    reader = csv.DictReader(io.StringIO(read_text(table)))
    needed = ("model", "prompt_len", "gen_len", "gpu_batch_size", "num_gpu_batches", *_SHARES, *_FIGURES)
    missing = [name for name in needed if name not in (reader.fieldnames or ())]
    if missing:
        raise bad_input(f"the column {missing[0]!r} is missing", file=str(table), line=1)
    for row in reader:
        name = f"{row['model']}-{row['prompt_len']}-{row['gpu_batch_size']}x{row['num_gpu_batches']}"
        if fnmatch.fnmatchcase(name, rows):
            yield _run_row(name, row)


def _run_row(name: str, row: dict[str, str]) -> RowResult:
    expected: dict[str, Any] = {}
    started = time.process_time()
    try:
        expected = {key: float(row[key]) for key in _FIGURES if (row[key] or "").strip()}
        shape = shape_of(row["model"].strip(), int(row["prompt_len"]), int(row["gen_len"]))
        shares = [float(row[key]) / 100 for key in _SHARES]
        policy = BlockPolicy(int(row["gpu_batch_size"]), int(row["num_gpu_batches"]), *shares)
        cost = block_cost(shape, RELEASED_T4, policy)
    except (OffchipError, ValueError, TypeError) as error:
        return RowResult(name, expected, {}, 0.0, "unsupported", None, str(error).splitlines()[0])
    seconds = time.process_time() - started
    ours = {key: float(getattr(cost, attribute)) for key, attribute in _FIGURES.items()}
    wrong = [key for key in expected if not _agrees(row[key].strip(), ours[key])]
    verdict: Verdict = "off" if wrong else "ok"
    rate = "predicted_tokens_per_s"
    error_share = ours[rate] / expected[rate] - 1 if expected.get(rate) else None
    return RowResult(
        name, expected, ours, seconds, verdict, error_share, ", ".join(wrong), {"model": row["model"]}
    )


def _agrees(printed: str, ours: float) -> bool:
    decimals = len(printed.partition(".")[2])
    value = float(printed)
    return abs(ours - value) <= max(0.51 * 10.0**-decimals, WITHIN * abs(value))
