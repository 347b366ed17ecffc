"""Fit how much of a board's limit the kernels of a training step have, on measured steps.

    python -m calibration.fit_training_steps          # fit, write ``sustained_share`` of the GPU model's constants
    python -m calibration.fit_training_steps --dry    # print errors over a range of shares, write nothing

Rows are those of ``tests/reference/training/steps.csv`` marked fitted; held ones are printed beside and take no part.
The share is one number for all boards. Everything else that a step's time is made of comes from elsewhere: kernels from
tables of single operators, communication from tables of collectives, bytes of unfused forms from public code.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calibration.fit_products import TARGET
from hw_configs.output_file import replacing
from offchip.validation.training import TABLE, measured_step, predicted_step, prices_of
from simulator.gpu.constants import shipped_constants

Array = NDArray[np.float64]
FOLDER: Final = Path(__file__).parent.parent / "tests" / "reference" / "training"
SHARES: Final = tuple(round(0.80 + 0.02 * step, 2) for step in range(6))


def ratios(rows: list[dict[str, str]], share: float) -> Array:
    """Predicted over measured seconds of rows under a share."""
    power = shipped_constants().data["power"]
    before, power["sustained_share"] = power.get("sustained_share", 1.0), share
    try:
        for row in rows:
            # Systems and their routes stay; prices of operators were found under another share.
            prices_of(row["gpu"], int(row["gpus"]), row["network"]).forget_operators()
        return np.array([predicted_step(row, FOLDER) / measured_step(row) for row in rows])
    finally:
        power["sustained_share"] = before


def main() -> None:
    """Scan the shares, report both halves, and write the one with the least mean error of logarithms."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    with (FOLDER / TABLE).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    split = np.array([row["split"] for row in rows])
    found: dict[float, float] = {}
    for share in SHARES:
        ratio = ratios(rows, share)
        off = np.abs(ratio - 1) * 100
        found[share] = float(np.abs(np.log(ratio[split == "fitted"])).mean())
        text = "; ".join(
            f"{name}: median {np.median(off[split == name]):.1f} %, worst {off[split == name].max():.1f} %"
            for name in ("fitted", "held")
        )
        print(f"{share:.2f}  {found[share]:.4f}  {text}")
    best = min(found, key=lambda share: found[share])
    print(f"best {best}")
    if not arguments.dry:
        data = json.loads(TARGET.read_text(encoding="utf-8"))
        data["power"]["sustained_share"] = best
        with replacing(TARGET) as part:
            part.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
