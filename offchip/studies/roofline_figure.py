"""A roofline drawn with matplotlib, as an SVG file whose bytes depend on its points alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import bad_input

__all__ = ["draw_roofline"]

_COLOURS: Final = ("#d1792f", "#3b6fb6", "#4f9d69", "#a34a6b")
_INTENSITIES: Final = (1e-2, 1e5)


def draw_roofline(
    path: Path,
    groups: Mapping[str, Sequence[tuple[float, float, str]]],
    bandwidth: float,
    rates: Mapping[str, float],
) -> None:
    """Points (FLOP/byte, FLOP/s, name) by group under the roofs of a bandwidth (B/s) and of named rates.

    Points that coincide are drawn once. Raises ``InputError`` when matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError:
        raise bad_input("figures need matplotlib: pip install 'offchip[plots]'") from None
    from matplotlib.figure import Figure

    settings: Any = {"svg.hashsalt": "offchip", "svg.fonttype": "none", "font.size": 9}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(7.5, 4.5), layout="constrained")
        axes = figure.add_subplot()
        low, high = _INTENSITIES
        for name, rate in rates.items():
            ridge = rate / bandwidth
            axes.plot([low, ridge, high], [low * bandwidth, rate, rate], lw=1, color="#777777")
            axes.annotate(name, (high, rate), ha="right", va="bottom", fontsize=7, color="#555555")
        for number, (label, points) in enumerate(groups.items()):
            distinct = sorted({(x, y) for x, y, _ in points})
            colour = _COLOURS[number % len(_COLOURS)]
            across, up = [x for x, _ in distinct], [y for _, y in distinct]
            axes.scatter(across, up, s=22, color=colour, alpha=0.8, lw=0, label=label)
        top = max(rates.values())
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low * bandwidth, top * 2))
        axes.set(xlabel="arithmetic intensity (FLOP/byte)", ylabel="FLOP/s")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower right")
        figure.savefig(path, format="svg", metadata={"Date": None})
