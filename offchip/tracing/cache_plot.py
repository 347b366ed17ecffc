"""Pictures of a run of caches: miss ratios over sizes, and requests by reuse distance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hw_configs.output_file import replacing
from hw_configs.problems import bad_input

if TYPE_CHECKING:
    from simulator.cache.result import CacheResult

__all__ = ["plot_cache"]

_COLOURS: Final = ("#d1792f", "#3b6fb6", "#4f9d69", "#a34a6b", "#6b5ca5", "#8a7a3c", "#4a9aa8", "#777777")


def plot_cache(path: Path, result: CacheResult) -> None:
    """Draw what the result holds into an .svg or .png file: curves, reuse distances, else misses over time.

    Raises ``InputError`` when matplotlib is missing or the file cannot be written.
    """
    try:
        import matplotlib
    except ImportError:
        raise bad_input("figures need matplotlib: pip install 'offchip[plots]'") from None
    from matplotlib.figure import Figure

    draws = [_curves] if result.curves else [_over_time]
    if result.distances is not None:
        draws.append(_distances)
    settings: Any = {"svg.hashsalt": "offchip", "svg.fonttype": "none", "font.size": 9}
    with matplotlib.rc_context(settings), replacing(path) as part:
        figure = Figure(figsize=(6.0 * len(draws), 4.2), layout="constrained")
        for number, draw in enumerate(draws, 1):
            axes = figure.add_subplot(1, len(draws), number)
            draw(axes, result)
            axes.set_ylim(bottom=0)
            axes.spines[["top", "right"]].set_visible(False)
        kind = path.suffix[1:]
        figure.savefig(part, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)


def _curves(axes: Any, result: CacheResult) -> None:
    for number, curve in enumerate(result.curves):
        sizes, ratios = [p.size for p in curve.points], [p.miss_ratio for p in curve.points]
        axes.plot(sizes, ratios, lw=1.4, color=_COLOURS[number % len(_COLOURS)], label=curve.label)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="size of the cache (bytes)", ylabel="miss ratio", title=result.trace)
    axes.legend(frameon=False, fontsize=8)


def _over_time(axes: Any, result: CacheResult) -> None:
    for number, run in enumerate(result.runs):
        starts = [0, *(w.requests for w in run.windows)]
        ratios = [w.misses / max(w.requests - s, 1) for w, s in zip(run.windows, starts, strict=False)]
        ends = [w.requests for w in run.windows]
        axes.plot(ends, ratios, lw=1.4, color=_COLOURS[number % len(_COLOURS)], label=run.label)
    axes.set(xlabel="requests", ylabel="miss ratio of the window", title=result.trace)
    axes.legend(frameon=False, fontsize=8)


def _distances(axes: Any, result: CacheResult) -> None:
    octaves = result.distances.octaves() if result.distances is not None else []
    axes.bar(range(len(octaves)), [count for _, count in octaves], color=_COLOURS[1])
    axes.set_xticks(range(len(octaves)), [f"2^{size.bit_length() - 1}" for size, _ in octaves], rotation=90)
    axes.set(xlabel="reuse distance, up to (bytes)", ylabel="requests")
