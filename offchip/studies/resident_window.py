"""Superpipeline: how much device memory a window of resident layers saves, and what the transfers cost.

Superpipeline, arXiv:2410.08791: of a model's layers only a window is on the device; transfers bring the next ones
while a layer runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hw_configs.problems import InfeasibleError
from offchip.api import simulate
from offchip.studies.line_figure import draw_lines
from offchip.studies.study import Claim, Figure, Outcome, Study, StudyTable, compare

__all__ = ["STUDY", "windowed"]

HARDWARE: Final = "dgx-a100"
MODEL: Final = "llama-2-7b"
AHEAD: Final = (1, 2, 8)
SHARES: Final = (0.9, 0.7, 0.5, 0.4, 0.3)
CLOSE: Final = 1.25
"""Times as long as without a window that is still called close."""
BATCHES: Final = (1, 8, 32)
_PAPER: Final = "Superpipeline, arXiv:2410.08791, abstract"


def windowed(batch: int, ahead: int, limit: int | None) -> tuple[float, int] | None:
    """Seconds of a prefill of 512 tokens and the GPU's peak bytes, with so many bytes of it; None: it does not run."""
    settings = {"ahead": str(ahead)}
    if limit is not None:
        settings["limit"] = f"{limit} B"
    try:
        result = simulate(
            MODEL,
            HARDWARE,
            phase="prefill",
            batch=batch,
            prompt=512,
            mapper="stream-weights",
            settings=settings,
        )
    except InfeasibleError:
        return None
    gpu = next(name for name in result.memories if name.startswith("gpu"))
    return result.makespan_s, result.memories[gpu].peak_bytes


def _run() -> Outcome:
    rows: list[tuple[float, ...]] = []
    lines: dict[str, list[tuple[float, float]]] = {}
    free = 0.0
    for batch in BATCHES:
        whole = windowed(batch, 1, None)
        assert whole is not None
        for share in SHARES:
            found = [windowed(batch, ahead, int(share * whole[1])) for ahead in AHEAD]
            fastest = min((item for item in found if item is not None), default=None)
            if fastest is None:
                continue
            saved, slower = 1 - fastest[1] / whole[1], fastest[0] / whole[0]
            free = max(free, saved if slower <= CLOSE else 0.0)
            ahead = AHEAD[found.index(fastest)]
            rows.append((float(batch), float(ahead), whole[1] / 1e9, fastest[1] / 1e9, 100 * saved, slower))
            lines.setdefault(f"batch {batch}", []).append((100 * saved, slower))
    claim = Claim("memory", "device memory saved, at most", 0.60, "", _PAPER, "published", "mechanism")
    result = compare(
        claim,
        free,
        f"Prefill of {MODEL} with 512 tokens on one A100 of a {HARDWARE}, some layers' weights streamed from "
        "host memory, "
        f"against everything resident: the most saved at a time at most {CLOSE:.2f} times as long.",
        "The published models, windows and hardware were not found, nor how much slower they may run; with "
        "small batches "
        "no window is free, and with any loss of speed allowed more can be saved.",
    )

    def draw(path: Path) -> None:
        draw_lines(path, lines, "device memory saved (%)", "time over all resident")

    columns = ("batch", "transfers ahead", "resident, GB", "windowed, GB", "saved, %", "time, x")
    table = StudyTable(
        "Memory and time by window, the fastest of 1 to 8 transfers ahead", columns, tuple(rows)
    )
    caption = "Time of a prefill with a window of resident layers over one with all layers resident."
    return Outcome([result], [table], [Figure("time", caption, draw)])


STUDY: Final = Study(
    "resident-window",
    "Superpipeline: a window of resident layers",
    "Superpipeline, arXiv:2410.08791",
    f"{MODEL} in FP16 on one A100, prefill of 512 tokens, batches of 1 to 32, layers streamed through windows.",
    _run,
)
