"""Random small networks of image operators."""

from hypothesis import strategies as st

from workloads.layer_builder import ConvLayer, LayerBuilder
from workloads.workload import WorkloadOptions


@st.composite
def networks(draw):
    """A random small network of image operators; every one of them feeds something."""
    build = LayerBuilder("small", WorkloadOptions(dtype="fp32", fused=draw(st.booleans())))
    x = build.input("image", draw(st.integers(1, 3)), draw(st.integers(9, 16)), draw(st.integers(6, 9)))
    for index in range(draw(st.integers(1, 5))):
        channels, height, width = build.shape(x)[1:]
        kind = draw(st.sampled_from(("conv", "depthwise", "pool", "add", "concat", "resize", "up", "crop")))
        kernel = draw(st.integers(1, 3))
        name = f"n{index}"
        if min(height, width) < 4:
            kind = "resize"
        if kind == "conv":
            x = build.conv(
                name,
                x,
                ConvLayer(
                    draw(st.integers(1, 4)),
                    kernel,
                    draw(st.integers(1, 2)),
                    draw(st.integers(0, kernel // 2)),
                    dilation=draw(st.integers(1, 2)) if kernel < 3 else 1,
                    norm=draw(st.booleans()),
                    bias=draw(st.booleans()),
                ),
            )
        elif kind == "depthwise":
            x = build.conv(name, x, ConvLayer(channels, 3, draw(st.integers(1, 2)), 1, groups=channels))
        elif kind == "pool":
            x = build.pool(name, x, 3, draw(st.integers(1, 2)), draw(st.integers(0, 1)))
        elif kind == "add":
            x = build.add(
                name, build.conv(f"{name}.a", x, ConvLayer(channels, 3, 1, 1)), x, activation="relu"
            )
        elif kind == "concat":
            x = build.concat(name, x, build.conv(f"{name}.a", x, ConvLayer(2, 1)))
        elif kind == "resize":
            x = build.resize(name, x, height + draw(st.integers(0, 5)), width + 2)
        elif kind == "up":
            x = build.conv_transpose(name, x, 2, 2, 2)
        else:
            x = build.crop(name, x, height - draw(st.integers(0, 3)), width - 1)
    x = build.linear("classifier", build.adaptive_pool("mean", x), 6)
    return build.graph(x)
