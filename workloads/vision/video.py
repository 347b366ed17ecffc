"""Video networks of separable 3-D convolutions: R(2+1)D-18 (Tran et al., CVPR 2018, table 1) and S3D
(Xie et al., ECCV 2018, figure 6), on clips of (frames, height, width).

A window over height and width is a 2-D convolution of every frame; a window over frames is a 2-D convolution of
kernel (k, 1) over a picture of frames by pixels. Both are written as such, so that every cost model knows them.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any, Final

from workloads.layer_builder import LayerBuilder, chosen_dims, finished, out_side, plain_options
from workloads.operators import Convolution, Pool
from workloads.workload import Workload, WorkloadOptions

__all__ = ["r2plus1d_18", "s3d"]

Triple = tuple[int, int, int]
_INCEPTIONS: Final[tuple[tuple[int, int, int, int, int, int] | Triple, ...]] = (
    (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), (3, 2, 1),
    (192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128), (2, 2, 0),
    (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
)  # fmt: skip
"""Branches of each block of S3D (1x1, 3x3 reduced and full, 3x3 reduced and full, pooled); in between the
kernel, stride and padding of a pool."""


class _VideoBuilder(LayerBuilder):
    """Layers over tensors of batch, channels, frames, height and width."""

    def spatial(
        self,
        name: str,
        x: str,
        channels: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        frame_stride: int = 1,
        **options: Any,
    ) -> str:
        """A window over height and width of every ``frame_stride``-th frame."""
        batch, _, frames, height, width = self.shape(x)
        kept = out_side(frames, 1, frame_stride, 0)
        sides = (out_side(height, kernel, stride, padding), out_side(width, kernel, stride, padding))
        shape = (batch, channels, kept, *sides)
        self._need_clip(name, x, shape)
        work = Convolution(
            batch=batch * kept, in_channels=self.shape(x)[1], out_channels=channels, height=height,
            width=width, kernel_h=kernel, kernel_w=kernel, stride_h=stride, stride_w=stride,
            padding_h=padding, padding_w=padding, out_height=sides[0], out_width=sides[1],
        )  # fmt: skip
        return self._window(name, x, shape, work, **options)

    def temporal(
        self,
        name: str,
        x: str,
        channels: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        **options: Any,
    ) -> str:
        """A window over frames at every pixel."""
        batch, _, frames, height, width = self.shape(x)
        kept = out_side(frames, kernel, stride, padding)
        shape = (batch, channels, kept, height, width)
        self._need_clip(name, x, shape)
        work = Convolution(
            batch=batch, in_channels=self.shape(x)[1], out_channels=channels, height=frames,
            width=height * width, kernel_h=kernel, kernel_w=1, stride_h=stride, padding_h=padding,
            out_height=kept, out_width=height * width,
        )  # fmt: skip
        return self._window(name, x, shape, work, **options)

    def _need_clip(self, name: str, x: str, shape: tuple[int, ...]) -> None:
        sides = " x ".join(map(str, self.shape(x)[2:]))
        self._need(name, min(shape) > 0, f"a clip of {sides} is too small")

    def _window(
        self,
        name: str,
        x: str,
        shape: tuple[int, ...],
        work: Convolution,
        *,
        norm: bool = True,
        bias: bool = False,
        activation: str = "relu",
    ) -> str:
        channels = work.out_channels
        weights = [self.weight(f"{name}.weight", channels, work.in_channels, work.kernel_h, work.kernel_w)]
        weights += [self.weight(f"{name}.bias", channels)] if bias else []
        if self.fused:
            weights += [self.weight(f"{name}.norm.weight", 2, channels)] if norm else []
            work = replace(work, norm=norm, activation=activation)
        out = self.operator(name, work, (x, *weights), shape)
        if not self.fused:
            out = self.batch_norm(f"{name}.norm", out) if norm else out
            out = self.activation(f"{name}.{activation}", out, activation) if activation else out
        return out

    def separable(
        self,
        name: str,
        x: str,
        channels: int,
        kernel: int,
        stride: int = 1,
        *,
        inner: int = 0,
        activation: str = "relu",
    ) -> str:
        """A window over pixels to ``inner`` channels (all of them if not said), then one over frames."""
        y = self.spatial(f"{name}.spatial", x, inner or channels, kernel, stride, kernel // 2)
        return self.temporal(
            f"{name}.temporal", y, channels, kernel, stride, kernel // 2, activation=activation
        )

    def pool_clip(self, name: str, x: str, kernel: Triple, stride: Triple, padding: Triple) -> str:
        """The maximum over a sliding box."""
        batch, channels, *sides = self.shape(x)
        kept = tuple(
            out_side(side, k, s, p) for side, k, s, p in zip(sides, kernel, stride, padding, strict=True)
        )
        self._need(name, min(kept) > 0, f"a clip of {' x '.join(map(str, sides))} is too small")
        shape = (batch, channels, *kept)
        work = Pool(
            mode="max", kernel_h=kernel[0] * kernel[1], kernel_w=kernel[2], stride_h=stride[1],
            stride_w=stride[2], padding_h=padding[1], padding_w=padding[2], m=prod(shape) // kept[-1],
            n=kept[-1], flops_per_element=float(prod(kernel)),
        )  # fmt: skip
        return self.operator(name, work, (x,), shape)

    def mean_clip(self, name: str, x: str) -> str:
        """The average over frames and pixels."""
        batch, channels, *sides = self.shape(x)
        work = Pool(
            mode="average", kernel_h=sides[0] * sides[1], kernel_w=sides[2], m=batch, n=channels,
            flops_per_element=float(prod(sides)),
        )  # fmt: skip
        return self.operator(name, work, (x,), (batch, channels))


def r2plus1d_18(options: WorkloadOptions) -> Workload:
    """R(2+1)D of 18 layers on clips of 16 frames of 112 x 112, 400 classes."""
    name = "r2plus1d-18"
    options = plain_options(name, options)
    net = _VideoBuilder(name, options)
    x = net.input("clip", 3, *chosen_dims(options, name, frames=16, height=112, width=112))
    x = net.spatial("stem.spatial", x, 45, 7, 2, 3)
    x = net.temporal("stem.temporal", x, 64, 3, 1, 1)
    for stage, channels in enumerate((64, 128, 256, 512), start=1):
        for index in range(2):
            stride = 2 if stage > 1 and index == 0 else 1
            x = _residual(net, f"stage{stage}.{index}", x, channels, stride)
    return finished(net, options, net.linear("classifier", net.mean_clip("pool", x), 400))


def _residual(net: _VideoBuilder, name: str, x: str, channels: int, stride: int) -> str:
    """Two separable windows; the width between them gives each the weights of a full 3 x 3 x 3 window."""
    incoming = net.shape(x)[1]
    inner = incoming * channels * 27 // (incoming * 9 + 3 * channels)
    y = net.separable(f"{name}.conv1", x, channels, 3, stride, inner=inner)
    y = net.separable(f"{name}.conv2", y, channels, 3, inner=inner, activation="")
    if incoming != channels or stride != 1:
        x = net.spatial(f"{name}.shortcut", x, channels, 1, stride, frame_stride=stride, activation="")
    return net.add(f"{name}.add", y, x, activation="relu")


def s3d(options: WorkloadOptions) -> Workload:
    """S3D on clips of 16 frames of 224 x 224, 400 classes; classified per position, then averaged."""
    name = "s3d"
    options = plain_options(name, options)
    net = _VideoBuilder(name, options)
    x = net.input("clip", 3, *chosen_dims(options, name, frames=16, height=224, width=224))
    x = net.separable("stem.0", x, 64, 7, 2)
    x = net.pool_clip("stem.0.pool", x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    x = net.spatial("stem.1", x, 64, 1)
    x = net.separable("stem.2", x, 192, 3)
    x = net.pool_clip("stem.2.pool", x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    for index, widths in enumerate(_INCEPTIONS):
        if len(widths) == 3:
            kernel, stride, padding = widths
            x = net.pool_clip(f"pool{index}", x, (kernel,) * 3, (stride,) * 3, (padding,) * 3)
        else:
            x = _inception(net, f"block{index}", x, widths)
    batch, channels, frames, height, width = net.shape(x)
    box = (min(2, frames), min(7, height), min(7, width))
    shape = (batch, channels, *(side - k + 1 for side, k in zip((frames, height, width), box, strict=True)))
    work = Pool(
        mode="average", kernel_h=box[0] * box[1], kernel_w=box[2], stride_h=1, stride_w=1,
        m=prod(shape) // shape[-1], n=shape[-1], flops_per_element=float(prod(box)),
    )  # fmt: skip
    x = net.operator("pool", work, (x,), shape)
    x = net.spatial("classifier", x, 400, 1, norm=False, bias=True, activation="")
    return finished(net, options, net.mean_clip("mean", x))


def _inception(net: _VideoBuilder, name: str, x: str, widths: tuple[int, int, int, int, int, int]) -> str:
    one, narrow, wide, narrower, wider, pooled = widths
    branches = [net.spatial(f"{name}.one", x, one, 1)]
    for label, reduced, full in (("first", narrow, wide), ("second", narrower, wider)):
        y = net.spatial(f"{name}.{label}.reduce", x, reduced, 1)
        branches.append(net.separable(f"{name}.{label}", y, full, 3))
    y = net.pool_clip(f"{name}.pool", x, (3, 3, 3), (1, 1, 1), (1, 1, 1))
    branches.append(net.spatial(f"{name}.pool_conv", y, pooled, 1))
    return net.concat(f"{name}.concat", *branches)
