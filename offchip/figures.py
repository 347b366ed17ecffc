"""Pictures of a result, for a page or a paper: roofline, where the time goes, memory over time.

Drawn with matplotlib (the extra ``plots``), without a display, as SVG or PNG by the file's ending. The same
result gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hw_configs.output_file import replacing
from hw_configs.problems import bad_input
from hw_configs.system import System
from simulator.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_overview"]

_COLOURS = ("#3b6fb6", "#d1792f", "#4f9d69", "#a34a6b", "#7a6fb0", "#8a8a3c", "#4aa3a8", "#9b6b4b")


def draw_overview(result: Result, system: System, path: str | Path) -> Path:
    """One figure of three panels: operators under the roofline, time by operator, memory over time.

    Raises ``InputError`` when matplotlib is missing, the ending is not ``.svg`` or ``.png``, or the file
    cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".svg", ".png"):
        raise bad_input(f"found {path.suffix!r}; expected a name that ends in .svg or .png", file=str(path))
    try:
        import matplotlib
    except ImportError:
        raise bad_input("figures need matplotlib: pip install 'offchip[plots]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    settings: Any = {
        "svg.hashsalt": "offchip",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(settings):
        figure, axes = pyplot.subplots(1, 3, figsize=(13, 4.1), layout="constrained")
        _roofline(axes[0], result, system)
        _time_by_operator(axes[1], result)
        _memory(axes[2], result)
        figure.suptitle(f"{result.model} on {result.system}, simulated", fontsize=11)
        metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        try:
            with replacing(path) as part:
                figure.savefig(part, format=path.suffix[1:], dpi=150, metadata=metadata)
        finally:
            pyplot.close(figure)
    return path


def _roofline(axes: Axes, result: Result, system: System) -> None:
    """Operators by arithmetic intensity and rate reached, under the first device's roof."""
    device = next(iter(result.devices))
    node = system.nodes[device]
    memory = system.memories[node.memory or device]
    compute = node.compute
    rates: dict[str, float] = {}
    if compute is not None:
        rates = {str(name): rate for name, rate in [*compute.vector.items(), *compute.matrix.items()]}
    shown: dict[str, float] = {
        name: rates[name] for name in ("fp16", "bf16", "int8", "fp32") if name in rates
    }
    peak = max(shown.values(), default=1.0)
    intensity = np.logspace(-2, 4, 200)
    for label, rate in _distinct(shown):
        roof = np.minimum(intensity * memory.read_bandwidth, rate)
        axes.plot(intensity, roof, lw=1, color="#999999")
        axes.annotate(label, (intensity[-1], rate), ha="right", va="bottom", fontsize=7, color="#666666")
    for number, (kind, points) in enumerate(_points(result).items()):
        x, y = zip(*points, strict=True)
        axes.scatter(x, y, s=14, alpha=0.7, lw=0, color=_COLOURS[number % len(_COLOURS)], label=kind)
    axes.set(xscale="log", yscale="log", xlim=(1e-2, 1e4), ylim=(peak * 1e-6, peak * 2))
    axes.set(xlabel="arithmetic intensity (FLOP/byte)", ylabel="FLOP/s", title=f"Roofline of {device}")
    axes.legend(fontsize=7, frameon=False, loc="lower right")


def _distinct(rates: dict[str, float]) -> list[tuple[str, float]]:
    names: dict[float, list[str]] = {}
    for name, rate in rates.items():
        names.setdefault(rate, []).append(name)
    return [(", ".join(group), rate) for rate, group in names.items()]


def _points(result: Result) -> dict[str, list[tuple[float, float]]]:
    points: dict[str, dict[tuple[float, float], None]] = {}
    line = result.timeline
    for index, kind in enumerate(line.operator_kind):
        seconds = line.end[index] - line.start[index] - line.launch[index]
        if line.flops[index] and line.bytes[index] and seconds > 0:
            rounded = (
                float(f"{line.flops[index] / line.bytes[index]:.3g}"),
                float(f"{line.flops[index] / seconds:.3g}"),
            )
            points.setdefault(kind, {})[rounded] = None
    return {kind: list(found) for kind, found in points.items()}


def _time_by_operator(axes: Axes, result: Result) -> None:
    top = result.top_operators(10)[::-1]
    whole = sum(row["seconds"] for row in result.top_operators(1_000_000)) or 1.0
    colours = {"compute": _COLOURS[1], "memory": _COLOURS[0], "launch": "#aaaaaa", "link": _COLOURS[2]}
    names = [row["operator"].replace("layers.*.", "") for row in top]
    bars = axes.barh(names, [row["seconds"] / whole * 100 for row in top])
    for bar, row in zip(bars, top, strict=True):
        bar.set_color(colours.get(row["bound_by"], _COLOURS[4]))
    for bound in dict.fromkeys(row["bound_by"] for row in reversed(top)):
        axes.bar(0, 0, color=colours.get(bound, _COLOURS[4]), label=f"bound by {bound}")
    axes.set(xlabel="share of task time (%)", title="Where the time goes")
    axes.legend(fontsize=7, frameon=False, loc="lower right")


def _memory(axes: Axes, result: Result) -> None:
    for number, use in enumerate(result.memories.values()):
        if number >= len(_COLOURS):
            break
        colour = _COLOURS[number]
        axes.step(
            use.curve_time_s * 1e3,
            use.curve_bytes / 2**30,
            where="post",
            lw=1,
            color=colour,
            label=use.memory,
        )
        axes.axhline(use.usable_bytes / 2**30, lw=0.8, ls="--", color=colour)
    axes.set(xlabel="time (ms)", ylabel="GiB", title="Memory over time (dashed: usable)", ylim=(0, None))
    axes.legend(fontsize=7, frameon=False, loc="center right")
