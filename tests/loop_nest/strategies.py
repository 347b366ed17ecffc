"""Random small accelerators, layers and mappings of them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from hw_configs.device import SpatialAccelerator
from hw_configs.spatial import MemoryLevel, SpatialAxis, WordBits
from simulator.accelerator.loop_nest.nest import LoopNest, NestLevel, Spread, axis_allows
from workloads.einsum import Einsum, read_einsum

_HOLDS = (("I", "W", "O"), ("I", "W", "O"), ("W",), ("I", "O"), ("O",), ("I",), ("W", "O"))


def accelerator(levels: list[dict[str, Any]]) -> SpatialAccelerator:
    """An accelerator from capacity, holds and axes (name, size, dims, multicast, reduce) by level."""
    made = tuple(
        MemoryLevel(
            name=f"L{number}",
            capacity=None if number == 0 else float(level.get("capacity", 1 << 20)),
            capacities=level.get("capacities") if number else None,
            holds=level["holds"],
            read_energy=level.get("read", 10.0 / (number + 1)) * 1e-12,
            write_energy=level.get("write", 12.0 / (number + 1)) * 1e-12,
            read_width=float(level.get("read_width", 4)),
            write_width=float(level.get("write_width", 4)),
            one_port=level.get("one_port", False),
            buffering=level.get("buffering", "free"),
            fanout=tuple(
                SpatialAxis(axis=name, size=size, dims=dims, multicast=multicast, reduce=reduce)
                for name, size, dims, multicast, reduce in level.get("axes", ())
            ),
        )
        for number, level in enumerate(levels)
    )
    return SpatialAccelerator(
        kind="spatial", name="random", clock=1.0, word_bits=WordBits(I=8, W=8, O=16), mac_energy=1e-12, levels=made
    )  # fmt: skip


@st.composite
def accelerators(draw: Any, least: int = 2, most: int = 3) -> SpatialAccelerator:
    """From ``least`` to ``most`` levels with any bypass, and axes with any sharing."""
    levels = []
    for number in range(draw(st.integers(least, most))):
        axes = []
        for name in draw(st.sampled_from(((), ("X",), ("X", "Y")))):
            axes.append(
                (
                    f"{name}{number}", draw(st.integers(1, 4)),
                    draw(st.sampled_from(("any", "out", "red", "not_I", "not_W"))),
                    draw(st.sampled_from((("I", "W"), ("I",), ("W",), ()))),
                    draw(st.sampled_from(((), ("O",), ("O",)))),
                )
            )  # fmt: skip
        holds = ("I", "W", "O") if number == 0 else draw(st.sampled_from(_HOLDS))
        levels.append(
            {
                "holds": holds,
                "axes": axes,
                "capacity": draw(st.sampled_from((8, 24, 64, 4096))),
                "capacities": draw(st.sampled_from((None, None, {holds[0]: 6.0}))),
                "one_port": draw(st.booleans()),
                "buffering": draw(st.sampled_from(("free", "double", "single"))),
            }
        )
    return accelerator(levels)


@st.composite
def layers(draw: Any) -> Einsum:
    """A product, a batched one, or a convolution with stride and dilation; small."""
    small = st.integers(1, 4)
    kind = draw(st.sampled_from(("product", "batched", "convolution", "depthwise")))
    if kind in ("product", "batched"):
        sizes = {"M": draw(small), "N": draw(small), "K": draw(small)}
        outer = [[["B", 1]]] if kind == "batched" else []
        if kind == "batched":
            sizes["B"] = draw(small)
        tensors = {
            "I": [*outer, [["M", 1]], [["K", 1]]], "W": [*outer, [["K", 1]], [["N", 1]]],
            "O": [*outer, [["M", 1]], [["N", 1]]],
        }  # fmt: skip
    else:
        stride, gap = draw(st.integers(1, 2)), draw(st.integers(1, 2))
        sizes = {"C": draw(small), "P": draw(small), "R": draw(st.integers(1, 3))}
        tensors = {
            "I": [[["C", 1]], [["P", stride], ["R", gap]]],
            "W": [[["C", 1]], [["R", 1]]], "O": [[["C", 1]], [["P", 1]]],
        }  # fmt: skip
        if kind == "convolution":
            sizes["K"] = draw(small)
            tensors["W"].append([["K", 1]])
            tensors["O"] = [[["K", 1]], [["P", 1]]]
    return read_einsum({"name": kind, "dims": sizes, "tensors": tensors}, "test")


@st.composite
def nests(draw: Any, device: SpatialAccelerator, layer: Einsum, *, exact: bool) -> LoopNest:
    """A mapping that covers the layer; ``exact`` factors or any that reach the sizes."""
    slots: list[tuple[int, str]] = []
    for number, memory in enumerate(device.levels):
        slots += [(number, ""), (number, ""), *((number, axis.axis) for axis in memory.fanout)]
    left = {axis.axis: axis.size for memory in device.levels for axis in memory.fanout}
    by_name = {axis.axis: axis for memory in device.levels for axis in memory.fanout}
    temporal: list[list[tuple[str, int]]] = [[] for _ in device.levels]
    spatial: list[list[Spread]] = [[] for _ in device.levels]
    for dim, size in layer.sizes.items():
        rest = size
        for number, axis in draw(st.permutations(slots)):
            allowed = not axis or axis_allows(by_name[axis], dim, layer)
            if not allowed or rest == 1:
                continue
            counts = [
                c
                for c in range(1, rest + 1)
                if (rest % c == 0 or not exact) and (not axis or c <= left[axis])
            ]
            count = draw(st.sampled_from(counts))
            rest = -(-rest // count)
            if axis:
                left[axis] //= count
                spatial[number].append(Spread(dim, axis, count))
            else:
                temporal[number].append((dim, count))
        if rest > 1:
            temporal[0].append((dim, rest))
    levels = tuple(
        NestLevel(tuple(draw(st.permutations(loops))), tuple(spread))
        for loops, spread in zip(temporal, spatial, strict=True)
    )
    return LoopNest(levels)
