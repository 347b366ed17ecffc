"""ZeRO-Infinity: efficiency by the bandwidth of a tier, and what a DGX-2 holds with its drives.

Rajbhandari et al., ZeRO-Infinity, arXiv:2104.07857.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from hw_configs.library import load_system
from hw_configs.problems import InfeasibleError
from mapping.training.estimate import Estimator
from mapping.training.pricing import Prices
from mapping.training.setup import TrainingSetup
from mapping.training.state_tiers import best_tiers
from mapping.training.tier_rates import tier_rates
from mapping.training.training_plan import execute, plan_of
from offchip.studies.line_figure import draw_lines
from offchip.studies.study import Claim, ClaimResult, Figure, Outcome, Study, StudyTable, compare

__all__ = ["STUDY", "efficiency", "intensity"]

HARDWARE: Final = "dgx-2"
PEAK: Final = 70e12
"""FLOP/s that the paper takes for a V100 in its bandwidth model."""
DEVICES: Final = 16
STATE_BYTES: Final = 16
"""Of a parameter under mixed-precision Adam (ZeRO, arXiv:1910.02054, section 3.1)."""
MOST_SEQUENCES: Final = 1024
MODEL: Final = "opt-175b"
SEQUENCE: Final = 1024
_PAPER: Final = "ZeRO-Infinity, arXiv:2104.07857"
_REVIEW: Final = "ZeRO-Infinity, arXiv:2104.07857, as reported by third parties' notes on the paper"


def intensity(what: str, sequence: int, batch: int, hidden: int = 0, every: int = 1) -> float:
    """FLOPs per byte that a tier moves (section 4 of the paper): weights and gradients, optimizer, or checkpoints."""
    if what == "weights":
        return float(sequence * batch)
    return sequence * batch / 4 if what == "optimizer" else 24.0 * hidden * every


def efficiency(flops_per_byte: float, bandwidth: float, peak: float = PEAK) -> float:
    """Share of the peak when nothing overlaps: ait bw / (ait bw + peak)."""
    return flops_per_byte * bandwidth / (flops_per_byte * bandwidth + peak)


def _formula() -> list[ClaimResult]:
    method = "ait bw / (ait bw + peak) with the paper's intensities and its peak of 70 TFLOP/s."
    rows = (
        ("weights", "efficiency at 70 GB/s for weights and gradients, batch 1, sequence 1024", 0.50,
         efficiency(intensity("weights", 1024, 1), 70e9)),
        ("optimizer", "efficiency at 1.5 TB/s for optimizer states, batch 2, sequence 1024", 0.90,
         efficiency(intensity("optimizer", 1024, 2), 1.5e12)),
        ("checkpoints", "efficiency at 2 GB/s for checkpoints, hidden 2048 (more than)", 0.50,
         efficiency(intensity("checkpoints", 1024, 1, 2048), 2e9)),
    )  # fmt: skip
    return [
        compare(Claim(key, statement, published, "", _REVIEW, "second-hand", "counting"), ours, method)
        for key, statement, published, ours in rows
    ]


def _capacity(estimator: Estimator) -> list[ClaimResult]:
    rates = tier_rates(estimator.prices, DEVICES)
    own = estimator.prices.memory.usable_bytes
    usable = DEVICES * (rates.drive_bytes + rates.host_bytes + own)
    return [
        compare(
            Claim("trillion", "states of 10^12 parameters on one DGX-2", "fit", "", _PAPER, "published", "mechanism"),
            "fit" if usable >= STATE_BYTES * 1e12 else "do not fit",
            f"Usable bytes of all tiers ({usable / 1e12:.1f} TB) against {STATE_BYTES} bytes per parameter.",
            "Activations are left out; with checkpoints on the host they take little of it.",
        ),
        compare(
            Claim("tens", "states of tens of trillions of parameters (3 10^13) on 512 V100", "fit", "", _PAPER,
                  "published", "mechanism"),
            "fit" if 512 // DEVICES * usable >= STATE_BYTES * 3e13 else "do not fit",
            f"The same of 32 DGX-2 ({512 // DEVICES * usable / 1e12:.0f} TB).",
            "The abstract names no cluster; the one of its rate is taken. Activations and working memory are left out.",
        ),
        compare(
            Claim("without", "V100 that 10^12 parameters need without it", 800.0, "devices", _PAPER, "published",
                  "counting"),
            float(math.ceil(STATE_BYTES * 1e12 / own)),
            f"{STATE_BYTES} bytes per parameter over the usable bytes of one V100 32 GB.",
            "States alone. The paper's count of bytes per parameter, activations and working memory is not in its "
            "abstract.",
        ),
        compare(
            Claim("host", "host bandwidth per device when all 16 read", 3e9, "B/s", _REVIEW, "second-hand",
                  "mechanism"),
            rates.from_host, "Each device's share of the link it has to itself or shares with another.",
            "The shipped DGX-2 gives two devices a PCIe 3.0 x16 link; the paper measured less.",
        ),
        compare(
            Claim("drives", "drive bandwidth per device", 1.6e9, "B/s", _PAPER, "recalled", "mechanism"),
            rates.drive_read, "Sequential reads of all drives by the drive model, over 16.", "Recalled, unverified.",
        ),
    ]  # fmt: skip


def _rates(estimator: Estimator) -> tuple[list[ClaimResult], list[StudyTable]]:
    rows = []
    ours, micro = 0.0, 1
    while micro <= MOST_SEQUENCES:
        setup = TrainingSetup(
            MODEL,
            SEQUENCE,
            DEVICES * micro,
            micro,
            dtype="fp16",
            data=DEVICES,
            zero_stage=3,
            recompute="full",
        )
        try:
            found, _ = best_tiers(setup, estimator)
        except InfeasibleError:
            break
        ours = max(ours, found.device_flops_per_s)
        rows.append(
            (float(micro), found.tiers.words(), found.estimate.time.step_s, found.device_flops_per_s / 1e12)
        )
        micro *= 2
    table = StudyTable(
        "OPT-175B on one DGX-2",
        ("sequences per device", "tiers", "step, s", "TFLOP/s per device"),
        tuple(rows),
    )
    many, executed = _executed()
    claim = Claim(
        "rate", "rate per device, 25 PFLOP/s on 512 V100", 25e15 / 512, "FLOP/s", _PAPER, "published", "mechanism",
    )  # fmt: skip
    result = compare(
        claim, many, f"{MODEL} with {SEQUENCE} tokens on the 512 devices of 32 DGX-2, executed event by event: "
                     "weights and "
        "optimizer on host or drives, each rank reading its own part before all gather over NVLink and InfiniBand; the "
        "fastest that fits of 1 to 4 sequences per device, update not delayed; recomputation counted.",
        "With these batches the step is bound by its products, which the GPU model puts at nine tenths of a V100's "
        "peak, "
        f"having no row of that chip; one machine alone comes to {ours / 1e12:.0f} TFLOP/s by the estimate. The "
        "paper's batch "
        "is not in its abstract.",
    )  # fmt: skip
    return [result], [table, executed]


def _executed() -> tuple[float, StudyTable]:
    """The best rate of a device of 512, recomputation counted, and all that were run."""
    estimator = Estimator(Prices(load_system(f"{HARDWARE}*{512 // DEVICES}")))
    best, rows = 0.0, []
    for states in ("host+weights", "nvme+weights"):
        for micro in (1, 2, 4):
            setup = TrainingSetup(
                MODEL, SEQUENCE, 512 * micro, micro, dtype="fp16", data=512, zero_stage=3, recompute="full",
                states=states,
            )  # fmt: skip
            step = execute(plan_of(estimator.rank_step(setup), estimator), estimator)
            rate = step.model_flops * 4 / 3 / 512 / step.step_s
            if step.peak_bytes <= step.usable_bytes:
                best = max(best, rate)
            seconds = step.seconds()
            rows.append((float(micro), states, step.step_s, seconds["swap"], seconds["data"], rate / 1e12))
    columns = (
        "sequences per device", "states", "step, s", "exposed link and drives, s", "exposed gathering, s",
        "TFLOP/s per device",
    )  # fmt: skip
    return best, StudyTable("OPT-175B on 32 DGX-2, executed", columns, tuple(rows))


def _run() -> Outcome:
    estimator = Estimator(Prices(load_system(HARDWARE)))
    rates, tables = _rates(estimator)
    bandwidths = [2.0**exponent * 1e9 for exponent in range(11)]

    def draw(path: Path) -> None:
        lines = {
            f"weights, batch {batch}": [
                (b / 1e9, efficiency(intensity("weights", 1024, batch), b)) for b in bandwidths
            ]
            for batch in (1, 4, 16)
        }
        lines |= {
            f"optimizer, batch {batch}": [
                (b / 1e9, efficiency(intensity("optimizer", 1024, batch), b)) for b in bandwidths
            ]
            for batch in (2, 16)
        }
        draw_lines(path, lines, "bandwidth (GB/s)", "share of peak", log_x=True)

    caption = (
        "Efficiency by the bandwidth of the tier that holds weights and gradients, or optimizer states, "
        "for a peak of 70 TFLOP/s."
    )
    return Outcome(
        [*_formula(), *_capacity(estimator), *rates], tables, [Figure("efficiency", caption, draw)]
    )


STUDY: Final = Study(
    "zero-infinity",
    "ZeRO-Infinity: states on host and drives",
    "Rajbhandari et al., ZeRO-Infinity: Breaking the GPU Memory Wall, arXiv:2104.07857, SC 2021",
    "The paper's bandwidth model, the capacity of one DGX-2 with its drives, and OPT-175B trained on it.",
    _run,
)
