"""Stacked bars, and panels of two curves each, drawn as SVG files whose bytes depend on their points alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import bad_input

__all__ = ["draw_panels", "draw_stacks"]

_COLOURS: Final = (
    "#3b6fb6",
    "#d1792f",
    "#4f9d69",
    "#a34a6b",
    "#6b5ca5",
    "#8a7a3c",
    "#4a9aa8",
    "#777777",
    "#b8b8b8",
    "#222222",
)
_SETTINGS: Final[Any] = {"svg.hashsalt": "offchip", "svg.fonttype": "none", "font.size": 9}


def _figure(size: tuple[float, float]) -> tuple[Any, Any]:
    try:
        import matplotlib
    except ImportError:
        raise bad_input("figures need matplotlib: pip install 'offchip[plots]'") from None
    from matplotlib.figure import Figure

    return matplotlib, Figure(figsize=size, layout="constrained")


def draw_stacks(path: Path, bars: Sequence[str], parts: Mapping[str, Sequence[float]], ylabel: str) -> None:
    """One bar per name in ``bars``, stacked from ``parts`` in their order; ``InputError`` without matplotlib."""
    matplotlib, figure = _figure((8.0, 4.2))
    with matplotlib.rc_context(_SETTINGS):
        axes = figure.add_subplot()
        foot = [0.0] * len(bars)
        for number, (name, heights) in enumerate(parts.items()):
            colour = _COLOURS[number % len(_COLOURS)]
            axes.bar(range(len(bars)), heights, 0.65, bottom=foot, label=name, color=colour)
            foot = [low + height for low, height in zip(foot, heights, strict=True)]
        # Names of many bars run into each other unless they stand steeper.
        axes.set_xticks(range(len(bars)), bars, rotation=20 if len(bars) <= 10 else 50, ha="right")
        axes.set_ylabel(ylabel)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), reverse=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


def draw_panels(
    path: Path, panels: Mapping[str, Sequence[tuple[float, float, float]]], left: str, right: str
) -> None:
    """A panel per x axis: points (x, left value, right value), x logarithmic; ``InputError`` without matplotlib."""
    matplotlib, figure = _figure((3.1 * len(panels), 3.2))
    with matplotlib.rc_context(_SETTINGS):
        for place, (xlabel, points) in enumerate(panels.items()):
            axes = figure.add_subplot(1, len(panels), place + 1)
            other = axes.twinx()
            xs = [x for x, _, _ in points]
            ys, zs = [y for _, y, _ in points], [z for _, _, z in points]
            one = axes.plot(xs, ys, marker="o", ms=3.5, lw=1.4, color=_COLOURS[0], label=left)
            two = other.plot(xs, zs, marker="s", ms=3.5, lw=1.2, ls="--", color=_COLOURS[1], label=right)
            axes.set_xscale("log", base=2)
            axes.set_xticks(xs, [f"{x:g}" for x in xs])
            axes.minorticks_off()
            axes.set_ylim(0, 1.12 * max(ys))
            other.set_ylim(0, 1.12 * max(zs))
            axes.set_xlabel(xlabel)
            axes.set_ylabel(left if place == 0 else "", color=_COLOURS[0])
            other.set_ylabel(right if place == len(panels) - 1 else "", color=_COLOURS[1])
            axes.spines["top"].set_visible(False)
            other.spines["top"].set_visible(False)
            if place == 0:
                axes.legend(handles=[*one, *two], frameon=False, fontsize=8, loc="lower right")
        figure.savefig(path, format="svg", metadata={"Date": None})
