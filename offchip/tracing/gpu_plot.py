"""A picture of a run through a GPU's memory path: what each level found over time, and memory's bandwidth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw_configs.output_file import replacing
from hw_configs.problems import bad_input

if TYPE_CHECKING:
    from simulator.gpu_memory.result import GpuMemoryResult

__all__ = ["plot_gpu"]


def plot_gpu(path: Path, result: GpuMemoryResult) -> None:
    """Draw the timeline into an .svg or .png file.

    Raises ``InputError`` when matplotlib is missing or the file cannot be written.
    """
    try:
        import matplotlib
    except ImportError:
        raise bad_input("figures need matplotlib: pip install 'offchip[plots]'") from None
    from matplotlib.figure import Figure

    settings: Any = {"svg.hashsalt": "offchip", "svg.fonttype": "none", "font.size": 9}
    with matplotlib.rc_context(settings), replacing(path) as part:
        figure = Figure(figsize=(7.0, 5.2), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        _hits(above, result)
        _bandwidth(below, result)
        kind = path.suffix[1:]
        figure.savefig(part, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)


def _ends(result: GpuMemoryResult) -> list[float]:
    """Microseconds at which each stretch begins, and the last one ends."""
    ends = [0.0]
    for stretch in result.stretches:
        ends.append(ends[-1] + stretch.seconds * 1e6)
    return ends


def _hits(axes: Any, result: GpuMemoryResult) -> None:
    ends = _ends(result)
    for label, colour, asked, found in (
        ("L1", "#d1792f", "l1_sectors", "l1_hits"),
        ("L2", "#3b6fb6", "l2_sectors", "l2_hits"),
    ):
        rates = [getattr(s, found) / max(getattr(s, asked), 1) for s in result.stretches]
        axes.stairs(rates, ends, color=colour, lw=1.4, baseline=None, label=label)
    axes.set(ylabel="sectors found", ylim=(-0.02, 1.02), title=f"{result.trace} on {result.device}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _bandwidth(axes: Any, result: GpuMemoryResult) -> None:
    rates = [s.memory_bytes / s.seconds / 1e9 if s.seconds else 0.0 for s in result.stretches]
    axes.stairs(rates, _ends(result), color="#4f9d69", lw=1.4, baseline=None)
    axes.axhline(result.peak_bytes_per_s / 1e9, color="#777777", lw=0.8, ls="--")
    axes.annotate("peak", (0, result.peak_bytes_per_s / 1e9), fontsize=8, color="#777777", va="bottom")
    axes.set(xlabel="time (us)", ylabel="memory (GB/s)", ylim=(0, 1.12 * result.peak_bytes_per_s / 1e9))
    axes.spines[["top", "right"]].set_visible(False)
