"""Builds an operator graph layer by layer, with shapes propagated in NCHW and one method per layer.

Inference engines fold batch normalisation and the activation that follows into the convolution before them.
With ``fused`` the builder does the same: the convolution reads the folded norm as two vectors of its output
channels (scale and shift) in its epilogue, so the parameter count stays that of the model; running mean and
variance are constants of the fold, not parameters. An engine that multiplies the scale into the weights reads
one vector less. Without ``fused`` every norm and activation is an operator of its own; training always is.

FLOPs: a convolution or product counts 2 per multiply-add and nothing for its epilogue, so that its sum is
twice the published multiply-add count. Batch norm counts 2 per element, an addition 1, a pooling window its
elements; layer norm, softmax and non-linearities count as in language models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Final

from hw_configs.problems import InputError, Problem, nearest
from workloads.dtypes import dtype_bits, size_bytes
from workloads.graph import NOWHERE, Attribute, Graph, Operator, Place, Role, Tensor, make_operator
from workloads.operators import Activation, Convolution, Copy, Elementwise, Norm, Pool, Product, Resize, Work
from workloads.operators.traffic import NO_PARTS
from workloads.transformer.writer import ACTIVATION_FLOPS, NORM_FLOPS
from workloads.workload import Phase, Workload, WorkloadOptions

__all__ = ["ConvLayer", "LayerBuilder", "Pair", "chosen_dims", "finished", "out_side", "plain_options"]

_CLAMPED_FLOPS: Final = {"relu6": 2, "tanh": 4, "hard_sigmoid": 4, "hard_swish": 5}
Pair = int | tuple[int, int]


def plain_options(name: str, options: WorkloadOptions) -> WorkloadOptions:
    """The options of a model that makes no tokens; ``InputError`` for options about tokens."""
    asked = {
        "--phase": options.phase not in (None, "train") and options.phase,
        "--generate": options.generate,
        "--chunk": options.chunk,
        "--kv-dtype": options.kv_dtype,
        "--images": options.images,
        "--same-prompts": options.same_prompts,
        "--steps": options.steps != 1 and options.steps,
    }
    problems = [
        Problem(f"found {value}; {name} makes no tokens: leave this option out", path=option)
        for option, value in asked.items()
        if value
    ]
    if problems:
        raise InputError(problems)
    return replace(options, fused=False) if options.phase == "train" else options


def chosen_dims(options: WorkloadOptions, name: str, **natural: int) -> tuple[int, ...]:
    """The values of a model's named dimensions: its natural ones unless ``--dim`` gives others."""
    problems = [
        Problem(
            f"{name} has no dimension {dim!r}; it has {', '.join(natural) or 'none to choose'}",
            path="--dim",
            suggestion=nearest(dim, natural),
        )
        for dim in options.dims
        if dim not in natural
    ]
    problems += [
        Problem(f"found {dim}={value}; expected at least 1", path="--dim")
        for dim, value in options.dims.items()
        if dim in natural and value < 1
    ]
    if problems:
        raise InputError(problems)
    return tuple(options.dims.get(dim, value) for dim, value in natural.items())


def finished(builder: LayerBuilder, options: WorkloadOptions, *outputs: str) -> Workload:
    """The workload of one forward pass, or of one training step when asked for."""
    graph = builder.graph(*outputs)
    if options.phase == "train":
        from workloads.saved_activations import form_of
        from workloads.training import StepOptions, training_step

        step = training_step(
            graph, options=StepOptions(options.types, options.trained, form_of(builder.family))
        )
        return Workload(builder.name, [Phase("train", "train", step)], graph.metadata)
    return Workload(builder.name, [Phase("forward", "forward", graph)], graph.metadata)


def out_side(side: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """Output positions of a sliding window along one side.

    >>> out_side(224, 7, 2, 3)
    112
    """
    return (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


@dataclass(frozen=True, slots=True)
class ConvLayer:
    """A convolution as a network's table states it, with what follows it: bias, norm and activation."""

    channels: int
    kernel: Pair
    stride: Pair = 1
    padding: Pair = 0
    groups: int = 1
    dilation: int = 1
    bias: bool = False
    norm: bool = False
    activation: str = ""


class LayerBuilder:
    """Operators in program order; each method adds a layer and returns the name of its output tensor.

    ``family`` says how the model's eager code is written, where that differs.
    """

    def __init__(self, name: str, options: WorkloadOptions, family: str = "") -> None:
        self.name, self.family = name, family
        self.batch = options.batch
        self.dtype = options.dtype or "fp16"
        self.fused = options.fused
        dtype_bits(self.dtype)
        self._tensors: dict[str, Tensor] = {}
        self._operators: list[Operator] = []

    def graph(self, *outputs: str) -> Graph:
        """The graph of everything added so far."""
        metadata: dict[str, Attribute] = {"batch": self.batch, "dtype": self.dtype, "fused": self.fused}
        return Graph(self.name, self._tensors, tuple(self._operators), outputs, self.name, metadata)

    def size_bytes(self, *shape: int) -> int:
        """Bytes of an array of that shape in the builder's element type."""
        return size_bytes(prod(shape), self.dtype)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._tensors[tensor].shape

    def input(self, name: str, *sides: int, dtype: str | None = None) -> str:
        """A graph input of ``batch`` times the given sides."""
        return self._tensor(name, (self.batch, *sides), dtype=dtype)

    def weight(self, name: str, *sides: int) -> str:
        """A weight tensor, shared when the name is already there (tied weights)."""
        return name if name in self._tensors else self._tensor(name, sides, Role.WEIGHT)

    def operator(
        self,
        name: str,
        work: Work,
        inputs: tuple[str, ...],
        shape: tuple[int, ...],
        *,
        also: str = "",
        place: Place = NOWHERE,
        touched: Mapping[str, int] = NO_PARTS,
    ) -> str:
        """Any operator with an output of that shape; it reads what its kind uses of its inputs.

        ``also`` names a second output of the same shape; ``touched`` are elements of inputs used in part.
        """
        output = self._tensor(f"{name}.out", shape)
        outputs = (output, self._tensor(also, shape)) if also else (output,)
        self._operators.append(
            make_operator(
                name, work, inputs, outputs, self._tensors, touched=touched, dtype=self.dtype, place=place
            )
        )
        return output

    def conv(self, name: str, x: str, layer: ConvLayer) -> str:
        """A convolution with an optional norm and activation, folded into it when fused."""
        channels, groups, dilation = layer.channels, layer.groups, layer.dilation
        norm, activation = layer.norm, layer.activation
        batch, in_channels, height, width = self.shape(x)
        (kh, kw), (sh, sw), (ph, pw) = _pair(layer.kernel), _pair(layer.stride), _pair(layer.padding)
        oh, ow = out_side(height, kh, sh, ph, dilation), out_side(width, kw, sw, pw, dilation)
        self._need(name, oh > 0 and ow > 0, f"an input of {height} x {width} is too small")
        weights = [self.weight(f"{name}.weight", channels, in_channels // groups, kh, kw)]
        weights += [self.weight(f"{name}.bias", channels)] if layer.bias else []
        if self.fused and norm:
            weights += [self.weight(f"{name}.norm.weight", 2, channels)]
        work = Convolution(
            batch=batch,
            in_channels=in_channels,
            out_channels=channels,
            height=height,
            width=width,
            kernel_h=kh,
            kernel_w=kw,
            stride_h=sh,
            stride_w=sw,
            padding_h=ph,
            padding_w=pw,
            dilation=dilation,
            groups=groups,
            out_height=oh,
            out_width=ow,
            norm=self.fused and norm,
            activation=activation if self.fused else "",
        )
        out = self.operator(name, work, (x, *weights), (batch, channels, oh, ow))
        if not self.fused:
            out = self.batch_norm(f"{name}.norm", out) if norm else out
            out = self.activation(f"{name}.{activation}", out, activation) if activation else out
        return out

    def conv_transpose(self, name: str, x: str, channels: int, kernel: int, stride: int) -> str:
        """A transposed convolution with bias, unpadded; each input element meets every kernel element."""
        batch, in_channels, height, width = self.shape(x)
        oh, ow = (height - 1) * stride + kernel, (width - 1) * stride + kernel
        weights = (self.weight(f"{name}.weight", in_channels, channels, kernel, kernel),)
        work = Convolution(
            batch=batch,
            in_channels=in_channels,
            out_channels=channels,
            height=height,
            width=width,
            kernel_h=kernel,
            kernel_w=kernel,
            stride_h=stride,
            stride_w=stride,
            out_height=oh,
            out_width=ow,
            transposed=True,
        )
        inputs = (x, *weights, self.weight(f"{name}.bias", channels))
        return self.operator(name, work, inputs, (batch, channels, oh, ow))

    def linear(
        self,
        name: str,
        x: str,
        features: int,
        *,
        bias: bool = True,
        weight: str = "",
        heads: int = 0,
        place: Place = NOWHERE,
    ) -> str:
        """A product with a weight over the last dimension, or over all but the first of an image.

        ``weight`` names a weight tensor to share; ``heads``: attention heads among the features.
        """
        shape = self.shape(x)
        lead = shape[:1] if len(shape) == 4 else shape[:-1]
        rows, inner = prod(lead), prod(shape) // prod(lead)
        weights = [weight or self.weight(f"{name}.weight", features, inner)]
        weights += [self.weight(f"{name}.bias", features)] if bias else []
        work = Product(m=rows, n=features, k=inner, heads=heads, kv_heads=heads)
        return self.operator(name, work, (x, *weights), (*lead, features), place=place)

    def batch_norm(self, name: str, x: str, activation: str = "") -> str:
        """Batch norm by scale and shift; ``activation`` is applied in the same pass when fused."""
        channels = self.shape(x)[1]
        elements = prod(self.shape(x))
        work = Norm(
            m=elements // channels,
            n=channels,
            flops_per_element=2.0,
            norm="batch",
            activation=activation if self.fused else "",
        )
        out = self.operator(name, work, (x, self.weight(f"{name}.weight", 2, channels)), self.shape(x))
        if activation and not self.fused:
            out = self.activation(f"{name}.{activation}", out, activation)
        return out

    def layer_norm(self, name: str, x: str) -> str:
        """Layer norm over the last dimension, with weight and bias."""
        columns, elements = self.shape(x)[-1], prod(self.shape(x))
        weights = (self.weight(f"{name}.weight", columns), self.weight(f"{name}.bias", columns))
        work = Norm(m=elements // columns, n=columns, flops_per_element=NORM_FLOPS["layer"], norm="layer")
        return self.operator(name, work, (x, *weights), self.shape(x))

    def activation(self, name: str, x: str, function: str, place: Place = NOWHERE) -> str:
        """A pointwise non-linearity."""
        rows, columns = self._rows(x)
        cost = float(_CLAMPED_FLOPS.get(function) or ACTIVATION_FLOPS[function])
        work = Activation(m=rows, n=columns, flops_per_element=cost, function=function)
        return self.operator(name, work, (x,), self.shape(x), place=place)

    def add(self, name: str, *terms: str, activation: str = "", place: Place = NOWHERE) -> str:
        """The sum of tensors of one shape; ``activation`` is applied in the same pass if fused."""
        rows, columns = self._rows(terms[0])
        work = Elementwise(
            m=rows,
            n=columns,
            flops_per_element=float(len(terms) - 1),
            function="add",
            activation=activation if self.fused else "",
        )
        out = self.operator(name, work, terms, self.shape(terms[0]), place=place)
        if activation and not self.fused:
            out = self.activation(f"{name}.{activation}", out, activation)
        return out

    def multiply(self, name: str, x: str, gate: str) -> str:
        """The product of a tensor and one that is broadcast to it."""
        rows, columns = self._rows(x)
        work = Elementwise(m=rows, n=columns, flops_per_element=1.0, function="multiply")
        return self.operator(name, work, (x, gate), self.shape(x))

    def _rows(self, tensor: str) -> tuple[int, int]:
        """Rows and columns of a tensor: its last side, and all others."""
        shape = self.shape(tensor)
        return prod(shape) // shape[-1], shape[-1]

    def pool(
        self,
        name: str,
        x: str,
        kernel: int,
        stride: int,
        padding: int = 0,
        *,
        mode: str = "max",
        ceil: bool = False,
    ) -> str:
        """Maximum or average over a sliding square window; ``ceil`` keeps a last window that overhangs."""
        batch, channels, height, width = self.shape(x)
        overhang = stride - 1 if ceil else 0
        oh, ow = ((s + 2 * padding - kernel + overhang) // stride + 1 for s in (height, width))
        self._need(name, oh > 0 and ow > 0, f"an input of {height} x {width} is too small")
        shape = (batch, channels, oh, ow)
        work = Pool(
            mode=mode, kernel_h=kernel, kernel_w=kernel, stride_h=stride, stride_w=stride, padding_h=padding,
            padding_w=padding, m=prod(shape) // ow, n=ow, flops_per_element=float(kernel * kernel),
        )  # fmt: skip
        return self.operator(name, work, (x,), shape)

    def adaptive_pool(self, name: str, x: str, side: int = 1, *, flat: bool = True) -> str:
        """The average over ``side`` x ``side`` windows; one window drops both sides when ``flat``."""
        batch, channels, height, width = self.shape(x)
        if (height, width) == (side, side) and side > 1 and self.fused:
            return x  # engines drop what changes nothing; eager code runs it
        shape = (batch, channels) if side == 1 and flat else (batch, channels, side, side)
        work = Pool(
            mode="average", kernel_h=-(-height // side), kernel_w=-(-width // side),
            m=prod(shape) // shape[-1], n=shape[-1], flops_per_element=prod(self.shape(x)) / prod(shape),
        )  # fmt: skip
        return self.operator(name, work, (x,), shape)

    def concat(self, name: str, *parts: str, axis: int = 1) -> str:
        """The parts one after the other along an axis, copied into one tensor."""
        shape = list(self.shape(parts[0]))
        shape[axis] = sum(self.shape(part)[axis] for part in parts)
        work = Copy(m=prod(shape) // shape[-1], n=shape[-1], function="concat")
        return self.operator(name, work, parts, tuple(shape))

    def crop(self, name: str, x: str, height: int, width: int) -> str:
        """The middle of an image; only what is kept is read."""
        shape = (*self.shape(x)[:2], height, width)
        if shape == self.shape(x):
            return x
        work = Copy(m=prod(shape) // width, n=width, function="crop")
        return self.operator(name, work, (x,), shape, touched={x: prod(shape)})

    def resize(self, name: str, x: str, height: int, width: int) -> str:
        """Bilinear resampling: four neighbours and about 7 operations per output element."""
        shape = (*self.shape(x)[:2], height, width)
        work = Resize(m=prod(shape) // width, n=width, flops_per_element=7.0, mode="bilinear")
        return self.operator(name, work, (x,), shape)

    def _tensor(
        self, name: str, shape: tuple[int, ...], role: Role = Role.ACTIVATION, dtype: str | None = None
    ) -> str:
        if name in self._tensors:
            raise ValueError(f"{self.name}: two tensors named {name!r}")
        self._tensors[name] = Tensor(name, shape, dtype or self.dtype, role)
        return name

    def _need(self, name: str, holds: bool, message: str) -> None:
        if not holds:
            raise InputError([Problem(f"{self.name}: {name}: {message}", path="--dim")])
