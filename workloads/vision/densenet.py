"""DenseNet (Huang et al., CVPR 2017, table 1): every layer reads the concatenation of all before it.

A layer is norm, relu, 1x1, norm, relu, 3x3. Its first norm stands behind a concatenation and cannot be folded
into a convolution; it runs as one pointwise pass. Concatenations are copies here, as frameworks run them.
"""

from __future__ import annotations

from workloads.layer_builder import ConvLayer, LayerBuilder, chosen_dims, finished, plain_options
from workloads.workload import Workload, WorkloadOptions

__all__ = ["densenet_121", "densenet_161", "densenet_169", "densenet_201"]


def densenet_121(options: WorkloadOptions) -> Workload:
    """DenseNet-121 on 224 x 224 images."""
    return _densenet("densenet-121", 32, (6, 12, 24, 16), options)


def densenet_161(options: WorkloadOptions) -> Workload:
    """DenseNet-161 (growth 48) on 224 x 224 images."""
    return _densenet("densenet-161", 48, (6, 12, 36, 24), options)


def densenet_169(options: WorkloadOptions) -> Workload:
    """DenseNet-169 on 224 x 224 images."""
    return _densenet("densenet-169", 32, (6, 12, 32, 32), options)


def densenet_201(options: WorkloadOptions) -> Workload:
    """DenseNet-201 on 224 x 224 images."""
    return _densenet("densenet-201", 32, (6, 12, 48, 32), options)


def _densenet(name: str, growth: int, depths: tuple[int, ...], options: WorkloadOptions) -> Workload:
    """Four dense blocks with transitions that halve channels and sides between them."""
    options = plain_options(name, options)
    net = LayerBuilder(name, options)
    x = net.input("image", 3, *chosen_dims(options, name, height=224, width=224))
    x = net.conv("stem", x, ConvLayer(2 * growth, 7, 2, 3, norm=True, activation="relu"))
    x = net.pool("stem.pool", x, 3, 2, 1)
    for block, depth in enumerate(depths, start=1):
        for index in range(depth):
            x = _layer(net, f"block{block}.{index}", x, growth)
        if block < len(depths):
            x = net.batch_norm(f"transition{block}.norm", x, "relu")
            x = net.conv(f"transition{block}.conv", x, ConvLayer(net.shape(x)[1] // 2, 1))
            x = net.pool(f"transition{block}.pool", x, 2, 2, mode="average")
    x = net.batch_norm("head.norm", x, "relu")
    return finished(net, options, net.linear("classifier", net.adaptive_pool("pool", x), 1000))


def _layer(net: LayerBuilder, name: str, x: str, growth: int) -> str:
    y = net.batch_norm(f"{name}.norm", x, "relu")
    y = net.conv(f"{name}.conv1", y, ConvLayer(4 * growth, 1, norm=True, activation="relu"))
    y = net.conv(f"{name}.conv2", y, ConvLayer(growth, 3, 1, 1))
    return net.concat(f"{name}.concat", x, y)
