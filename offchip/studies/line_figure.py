"""Lines over a common axis drawn with matplotlib, as an SVG file whose bytes depend on its points alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import bad_input

__all__ = ["draw_lines"]

_COLOURS: Final = ("#d1792f", "#3b6fb6", "#4f9d69", "#a34a6b", "#6b5ca5", "#8a7a3c", "#4a9aa8", "#777777")

Points = Sequence[tuple[float, float]]


def draw_lines(
    path: Path,
    lines: Mapping[str, Points],
    xlabel: str,
    ylabel: str,
    *,
    bounds: Mapping[str, Points] | None = None,
    log_x: bool = False,
    log_y: bool = False,
) -> None:
    """Draw each line of (x, y) points with its name in the legend; ``bounds`` are dashed and without marks.

    Raises ``InputError`` when matplotlib is missing.
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
        for number, (label, points) in enumerate(lines.items()):
            colour = _COLOURS[number % len(_COLOURS)]
            axes.plot(*_columns(points), marker="o", ms=3.5, lw=1.4, color=colour, label=label)
        for number, (label, points) in enumerate((bounds or {}).items()):
            axes.plot(*_columns(points), ls=("--", ":", "-.")[number % 3], lw=1, color="#777777", label=label)
        if log_x:
            axes.set_xscale("log", base=2)
        if log_y:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
