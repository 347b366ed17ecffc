"""Memory of convolutions by what they unfold: im2col against im2win.

Lu et al. (Im2win, arXiv:2306.14316) unfold an image's windows along its height alone, where im2col repeats every
element once per filter position.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Final

from hw_configs.library import load_system
from offchip.studies.study import Claim, Outcome, Study, StudyTable, compare
from simulator.gpu.conv import workspace_elements
from simulator.gpu.model import GPU
from workloads.graph import Operator
from workloads.operators import Convolution

__all__ = ["LAYERS", "STUDY", "Layer", "footprint_bytes"]

HARDWARE: Final = "rtx-3090"
BATCH: Final = 128
_SOURCE = "Im2win, arXiv:2306.14316, abstract"


@dataclass(frozen=True, slots=True)
class Layer:
    """One benchmark: square image and filter."""

    channels: int
    side: int
    kernel: int
    filters: int
    stride: int

    def operator(self, way: str) -> Operator:
        """The convolution in FP32, done one way."""
        out = (self.side - self.kernel) // self.stride + 1
        image, result = BATCH * self.channels * self.side**2, BATCH * self.filters * out**2
        weights = self.filters * self.channels * self.kernel**2
        work = Convolution(
            batch=BATCH, in_channels=self.channels, out_channels=self.filters, height=self.side, width=self.side,
            kernel_h=self.kernel, kernel_w=self.kernel, stride_h=self.stride, stride_w=self.stride, out_height=out,
            out_width=out, way=way,
        )  # fmt: skip
        name = f"{self.channels}x{self.side}"
        read, written = 4 * (image + weights), 4 * result
        return Operator(name, work, (), (), dtype="fp32", beside_read=read, beside_written=written)


LAYERS: Final = (
    Layer(3, 227, 11, 96, 4), Layer(3, 231, 11, 96, 4), Layer(3, 227, 7, 64, 2), Layer(64, 224, 7, 64, 2),
    Layer(96, 24, 5, 256, 1), Layer(256, 12, 3, 512, 1), Layer(3, 224, 3, 64, 1), Layer(64, 112, 3, 128, 1),
    Layer(64, 56, 3, 64, 1), Layer(128, 28, 3, 128, 1), Layer(256, 14, 3, 256, 1), Layer(512, 7, 3, 512, 1),
)  # fmt: skip
"""The twelve benchmarks of this line of work, as recalled from Cho and Brand (MEC, arXiv:1706.06873)."""


def footprint_bytes(layer: Layer, way: str, images: int = BATCH) -> float:
    """Image, filters, output and what the way unfolds of so many images at a time, in FP32."""
    operator = layer.operator(way)
    assert isinstance(operator.work, Convolution)
    unfolded = workspace_elements(operator.work, way) * images / BATCH
    return operator.read_bytes + operator.write_bytes + 4 * unfolded


def _saved(images: int) -> list[float]:
    """Share of the bytes that im2win saves over im2col, by layer."""
    return [1 - footprint_bytes(x, "im2win", images) / footprint_bytes(x, "im2col", images) for x in LAYERS]


def _seconds(layer: Layer, way: str) -> float:
    system = load_system(HARDWARE)
    node = system.workers()[0]
    memory = system.memories[node.memory or node.name]
    return GPU.predict_rows([layer.operator(way)], node, memory)[0].seconds


def _run() -> Outcome:
    saved = _saved(BATCH)
    faster = [_seconds(layer, "im2col") / _seconds(layer, "im2win") for layer in LAYERS]
    layers = f"The twelve layers are recalled and their batch ({BATCH}) is assumed."
    counted = (
        f"{layers} How many images of the batch are unfolded at a time is not in the abstract: all of them give the "
        f"figure above, one at a time {fmean(_saved(1)):.3f}; the published one lies between, so neither explains it."
    )
    calls = (
        f"{layers} Here both ways are one product per layer that moves its workspace once; how the published baseline "
        "calls cuBLAS, and with which layout of the image, is not in the abstract."
    )
    claims = (
        ("memory", "memory less than by im2col and cuBLAS, mean", 0.231, "", fmean(saved),
         "Bytes of image, filters, output and unfolded image, mean over the twelve layers.", counted),
        ("speed", "faster than by im2col and cuBLAS, mean", 3.5, "x", fmean(faster),
         "Both ways as a product with their workspace through memory, by the GPU model.", calls),
        ("cudnn-memory", "memory less than the best of cuDNN", 0.328, "", None, "Not covered.",
         "Which algorithm of cuDNN was best, and its workspace, is not in the abstract."),
        ("cudnn-speed", "faster than the best of cuDNN, at most", 1.8, "x", None, "Not covered.",
         "As for its memory."),
        ("direct-speed", "faster than a direct convolution, at most", 155.0, "x", None, "Not covered.",
         "Which direct kernel was meant, and on which layer, is not in the abstract; Offchip prices none that reads "
         "its image again for every output."),
    )  # fmt: skip
    results = [
        compare(
            Claim(key, words, published, unit, _SOURCE, "published", "mechanism"), ours, method, differences
        )
        for key, words, published, unit, ours, method, differences in claims
    ]
    rows = tuple(
        (
            f"{x.channels} x {x.side} x {x.side}, {x.filters} filters of {x.kernel}, stride {x.stride}",
            footprint_bytes(x, "im2col") / 1e6, footprint_bytes(x, "im2win") / 1e6, 100 * s, f,
        )
        for x, s, f in zip(LAYERS, saved, faster, strict=True)
    )  # fmt: skip
    columns = ("layer", "im2col, MB", "im2win, MB", "saved, %", "faster, x")
    return Outcome(results, [StudyTable("Footprints", columns, rows)])


STUDY: Final = Study(
    "conv-windows",
    "Im2win: the memory of unfolded convolutions",
    "Lu et al., Im2win, arXiv:2306.14316",
    f"Twelve convolutions in FP32, batch {BATCH}, on one {HARDWARE}: unfolded by im2col and by im2win.",
    _run,
)
