"""What the choice of a tile is worth: FP32 products on an RTX 4070, tile by tile.

Pavlyha et al. ("GEMM on Ada", arXiv:2411.16954) ran 16,128 CUTLASS products on that board and fitted forests to
their time and power; here every tile is priced by the GPU model, which saw no row of that board.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from hw_configs.library import load_system
from offchip.studies.line_figure import draw_lines
from offchip.studies.study import Claim, Figure, Outcome, Study, StudyTable, compare
from simulator.gpu import gemm
from simulator.gpu.constants import shipped_constants
from simulator.gpu.model import GPU
from simulator.gpu.request import Request
from simulator.gpu.rows import gemm_line
from workloads.graph import Operator
from workloads.operators import Product

__all__ = ["STUDY", "tile_seconds"]

HARDWARE: Final = "rtx-4070"
SIDES: Final = (512, 1024, 2048, 4096, 8192)
_SOURCE = "arXiv:2411.16954, abstract"


def tile_seconds(side: int) -> dict[str, tuple[float, float]]:
    """Seconds and mean watts of a square FP32 product with each tile, without a split of the reduction."""
    system = load_system(HARDWARE)
    node = system.workers()[0]
    memory = system.memories[node.memory or node.name]
    constants, sheet = shipped_constants(), GPU.sheet(node, memory)
    work = Product(m=side, n=side, k=side)
    read, written = 8 * side**2, 4 * side**2
    product = Operator(f"{side}", work, (), (), dtype="fp32", beside_read=read, beside_written=written)
    line = np.array([gemm_line(Request(product, sheet, constants.setup("default")), constants)])
    joule = line[0, gemm.COLUMNS.index("j_flop")] * product.flops
    found = {}
    for tile in gemm.TILES:
        out = np.zeros((1, gemm.RESULTS))
        gemm.gemm_rows(line, constants.array("simt32", gemm.CONSTANTS), tile[None, :].copy(), np.ones(1), out)
        seconds = float(out[0, 0])
        watts = sheet.idle + (joule + float(out[0, 2]) * sheet.joule_per_byte) / seconds
        found[f"{int(tile[0])}x{int(tile[1])}"] = (seconds, watts)
    return found


def _run() -> Outcome:
    table = {side: tile_seconds(side) for side in SIDES}
    spread = {
        side: max(s for s, _ in tiles.values()) / min(s for s, _ in tiles.values())
        for side, tiles in table.items()
    }
    large = max(spread[side] for side in SIDES if side >= 1024)
    watts = [w for side in SIDES if side >= 1024 for _, w in table[side].values()]
    method = (
        "Every tile of the GPU model priced alone, square products of 1024 to 8192 a side, reduction unsplit."
    )
    grid = (
        "The published grid of shapes and tiles (1 to 32 threads a side among them) is not in the abstract."
    )
    closed = "The measurements are not public under a licence, so the model cannot be held against them."
    claims: tuple[tuple[str, str, float | str, str, float | None, str, str], ...] = (
        ("time", "worst tile over best, at most", 3.2, "x", large, method, grid),
        ("power", "power that a better tile saves, at most", 0.22, "", 1 - min(watts) / max(watts), method,
         f"{grid} The energy of a FLOP does not depend on the tile here, so a slow tile draws less, not more: the "
         "figure is the spread of power over tiles and shapes, of which the best tile has the highest."),
        ("naive", "best tile of a naive kernel", "16x16", "", None, "Not covered.",
         "Kernels without register tiles, whose choice the claim is about, are not modelled."),
        ("error", "mean error of the predicted time", 0.1557, "", None, "Not covered.", closed),
        ("fit-time", "coefficient of determination (R2) of the predicted time", 0.98, "", None, "Not covered.", closed),
        ("fit-power", "coefficient of determination (R2) of the predicted power", 0.78, "", None, "Not covered.",
         closed),
        ("error-power", "median error of the predicted power", 0.0542, "", None, "Not covered.", closed),
    )  # fmt: skip
    results = [
        compare(Claim(key, words, published, unit, _SOURCE, "published", "mechanism"), ours, how, differences)
        for key, words, published, unit, ours, how, differences in claims
    ]
    names = list(table[SIDES[0]])
    rows = tuple((float(side), *(1e6 * table[side][name][0] for name in names)) for side in SIDES)

    def draw(path: Path) -> None:
        lines = {
            name: [(float(side), 2e-12 * side**3 / table[side][name][0]) for side in SIDES]
            for name in names[:8]
        }
        draw_lines(path, lines, "side of the product", "TFLOP/s", log_x=True)

    caption = f"FP32 products on the {HARDWARE}: what each tile reaches, by the GPU model."
    tables = [StudyTable("Microseconds by side and tile", ("side", *names), rows)]
    return Outcome(results, tables, [Figure("tiles", caption, draw)])


STUDY: Final = Study(
    "gemm-tiles",
    "GEMM on Ada: what the choice of a tile is worth",
    "arXiv:2411.16954",
    "Square FP32 products on one RTX 4070, each with every tile of the model.",
    _run,
)
