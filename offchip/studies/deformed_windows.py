"""Deformable convolutions on an FPGA: offsets bounded so that a line buffer holds every tap, 4-bit weights.

CoDeNet (Dong et al., arXiv:2006.08357) and the co-design study before it (Huang et al., arXiv:2002.08357). The authors'
design and its driver are public: sizes of its arrays, buffers, ports, clock and layers are read there, and so are times
measured on the board. Every layer runs pixel by pixel through the stages.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Final

from hw_configs.library import load_device
from hw_configs.window_pipeline import WindowPipeline
from offchip.studies.study import Basis, Claim, ClaimResult, Outcome, Study, StudyTable, compare
from simulator.window_pipeline.layers import Deformation, PipelineLayer, layer_time

__all__ = ["CODENET", "CO_DESIGN", "network"]

HARDWARE: Final = "codenet-ultra96"
_NOTEBOOK: Final = "hqjenny/CoDeNet, sw/codenet.ipynb: times printed on the board"
_README: Final = "Zhen-Dong/CoDeNet, README (table 3 of arXiv:2006.08357)"
_V1: Final = "arXiv:2006.08357v1, abstract"
BOUNDED: Final = Deformation(2.0, 7, whole=True, square=True)
"""What the design runs: one whole-pixel offset an output, within the line buffer. The spread is an assumption that no
time depends on."""
_CONFIGURATIONS: Final = {
    "a": (64, False, 19.726, 32.2, 27.114 - 19.726), "b": (64, False, 19.799, 26.9, 33.242 - 19.799),
    "c": (128, False, 65.977, 9.3, 94.742 - 65.977), "d": (128, True, 124.250, 5.2, 172.637 - 124.250),
    "e": (128, True, 124.005, 4.6, 197.293 - 124.005),
}  # fmt: skip
"""Side of the accelerator's input, whether channels are doubled, measured ms of its convolutions, published frames a
second, and measured ms of everything else (first layer on the CPU, shuffles, upsampling)."""


@cache
def machine() -> WindowPipeline:
    """The design."""
    device = load_device(HARDWARE)
    assert isinstance(device, WindowPipeline)
    return device


def network(side: int, doubled: bool) -> list[PipelineLayer]:
    """The calls of the design for one image, as its driver makes them: channels padded, at most 512 outputs a call."""
    widths = (32, 256, 512, 1024, 2048) if doubled else (32, 128, 256, 512, 1024)
    layers: list[PipelineLayer] = []

    def call(side: int, channels: int, outputs: int, **changes: object) -> None:
        for first in range(0, outputs, 512):
            part = min(512, outputs - first)
            taken = channels if changes.get("product", True) else part
            layers.append(replace(PipelineLayer(side, taken, part), **changes))  # type: ignore[arg-type]

    for before, after, repeats in zip(widths[:3], widths[1:4], (3, 7, 3), strict=True):
        half = after // 2
        call(side, before, before, stride=2, product=False)
        call(side // 2, before, half, window="")
        call(side, before, half, stride=2)
        call(side // 2, half, half, window="")
        side //= 2
        for _ in range(repeats):
            call(side, half, half)
            call(side, half, half, window="")
    call(side, widths[3], widths[4], window="")
    for channels, outputs in zip((widths[4], 256, 128), (256, 128, 128), strict=True):
        call(side, channels, 16, window="")
        call(side, channels, channels, product=False, deformation=BOUNDED)
        if channels != outputs:
            call(side, channels, outputs, window="")
        side *= 2
    for classes in (80, 16, 16):
        call(side, 128, classes)
    return layers


def _seconds(side: int, doubled: bool, loop_start: int | None = None) -> float:
    here = machine() if loop_start is None else machine().model_copy(update={"loop_start": loop_start})
    return sum(layer_time(layer, here).seconds for layer in network(side, doubled))


def _claim(
    id: str, statement: str, published: float, unit: str, source: str, basis: Basis, ours: float, words: tuple[str, str]
) -> ClaimResult:  # fmt: skip
    return compare(Claim(id, statement, published, unit, source, "published", basis), ours, *words)


def _codenet() -> Outcome:
    stages = (
        f"All calls of the driver for one image, pixel by pixel through the stages of {HARDWARE}; memory at the rate "
        "of the DRAM engine."
    )
    starts = (
        "Clocks to start a loop over groups of channels are an assumption (6); the table shows others. What the driver "
        "takes for a call is not in ours."
    )
    claims, rows = [], []
    for name, (side, doubled, measured, rate, rest) in _CONFIGURATIONS.items():
        found = 1e3 * _seconds(side, doubled)
        if name in "acd":
            words = f"configuration {name}: convolutions on the accelerator"
            claims.append(
                _claim(f"time-{name}", words, measured, "ms", _NOTEBOOK, "mechanism", found, (stages, starts))
            )
        claims.append(
            _claim(f"fps-{name}", f"configuration {name}: frames a second", rate, "/s", _README, "construction",
                   1e3 / (found + rest), (f"{stages} The rest of a frame as measured in the notebook.", starts))
        )  # fmt: skip
        layers = network(side, doubled)
        macs = sum(layer.macs for layer in layers)
        others = [1e3 * _seconds(side, doubled, start) for start in (0, 12)]
        rows.append(
            (name, float(len(layers)), macs / 1e9, others[0], found, others[1], measured, 2e-6 * macs / found)
        )
    for name, published in (("a", 0.29), ("c", 1.14), ("d", 3.54)):
        side, doubled, *_ = _CONFIGURATIONS[name]
        claims.append(
            _claim(f"macs-{name}", f"configuration {name}: multiply-adds", published, "G", _README, "counting",
                   sum(layer.macs for layer in network(side, doubled)) / 1e9,
                   ("Multiply-adds of the driver's calls.",
                    "The driver pads channels to multiples of 16 (116 to 128), and leaves out the first layer."))
        )  # fmt: skip
    columns = (
        "configuration", "calls", "GMAC", "ms, loops start in 0 clocks", "in 6", "in 12", "measured ms", "GOP/s",
    )  # fmt: skip
    return Outcome(claims, [StudyTable("Convolutions on the accelerator, one image", columns, tuple(rows))])


_KINDS: Final = (
    ("regular window", None, True), ("anywhere, between pixels", Deformation(2.0), False),
    ("anywhere, whole pixels", Deformation(2.0, whole=True), False),
    ("within 7 rows, between pixels", Deformation(2.0, 7), True),
    ("within 7 rows, whole pixels", Deformation(2.0, 7, whole=True), True), ("the same, square", BOUNDED, True),
)  # fmt: skip


def _co_design() -> Outcome:
    """Full and depthwise windows, deformed in steps from anywhere to a bounded square."""
    base = PipelineLayer(64, 256, 256, product=False)
    times = {
        (window, words): layer_time(
            replace(base, window=window, deformation=kind), machine(), line_buffer=buffered
        )
        for window in ("full", "depthwise")
        for words, kind, buffered in _KINDS
    }
    gains = {
        window: times[window, _KINDS[1][0]].seconds / times[window, _KINDS[-1][0]].seconds
        for window in ("full", "depthwise")
    }
    method = (
        "A window of 3 x 3 on 64 x 64 x 256 channels: taps anywhere between pixels, each read from memory, against a "
        f"bounded square in the line buffer, on {HARDWARE}."
    )
    unread = (
        "Shapes, the spread of offsets and the baseline's way to memory are not in the abstract; ours waits for each "
        "tap and is hidden by nothing."
    )
    claims = [
        _claim("full", "full deformable convolution, faster", 1.36, "x", _V1, "mechanism", gains["full"],
               (method, unread)),
        _claim("depthwise", "depthwise deformable convolution, faster", 9.76, "x", _V1, "mechanism", gains["depthwise"],
               (method, unread)),
    ]  # fmt: skip
    rows = tuple(
        (
            f"{window}: {words}", 1e3 * time.seconds, 1e3 * time.scattered_s, float(time.buffered), float(time.missed),
            time.memory_bytes / 1e6, 1e-9 * time.memory_bytes / time.seconds,
        )
        for (window, words), time in times.items()
    )  # fmt: skip
    columns = (
        "window",
        "ms",
        "of it waiting for taps, ms",
        "pixels from the line buffer",
        "from memory",
        "MB",
        "GB/s",
    )
    return Outcome(claims, [StudyTable("64 x 64 x 256, 3 x 3", columns, rows), _bounds()])


def _bounds() -> StudyTable:
    """What a line buffer of few rows leaves of offsets that know no bound."""
    layer = PipelineLayer(64, 256, 256, product=False, deformation=Deformation(2.0))
    rows = []
    for held in (3, 5, 7, 9, 11, 15):
        time = layer_time(layer, machine().model_copy(update={"line_rows": held}))
        share = time.missed / (time.missed + time.buffered)
        rows.append((float(held), held * 64 * 256 / 1024, 100 * share, 1e3 * time.seconds))
    columns = ("rows held", "line buffer, KiB", "pixels from memory, %", "ms")
    return StudyTable(
        "Depthwise, offsets without bound (standard deviation 2), by rows of the line buffer",
        columns,
        tuple(rows),
    )


CODENET: Final = Study(
    "codenet",
    "CoDeNet: deformable detection on an embedded FPGA",
    "Dong et al., CoDeNet: Efficient Deployment of Input-Adaptive Object Detection on Embedded FPGAs, arXiv:2006.08357",
    "The five configurations of CoDeNet at 4-bit weights and 8-bit activations, call by call on the authors' design.",
    _codenet,
)
CO_DESIGN: Final = Study(
    "deformable-co-design",
    "Deformable convolutions: from anywhere to a line buffer",
    "Dong et al., CoDeNet: Algorithm-hardware Co-design for Deformable Convolution, arXiv:2006.08357v1; Huang et al., "
    "arXiv:2002.08357",
    "Full and depthwise windows whose taps lie anywhere, on whole pixels, within a bound, in a square.",
    _co_design,
)
