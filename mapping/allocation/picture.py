"""Draws a packing: time across, address up, one rectangle per buffer, its gaps left open."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from hw_configs.problems import bad_input
from mapping.allocation.check import peak_of
from mapping.allocation.problem import AllocationProblem

__all__ = ["draw"]

_MOST_LABELS = 120
_COLOURS = ("#4e79a7", "#f28e2b", "#76b7b2", "#edc948", "#59a14f", "#b07aa1", "#9c755f", "#ff9da7", "#bab0ac")


def draw(problem: AllocationProblem, offsets: Sequence[int], path: Path, capacity: int | None = None) -> None:
    """Write the picture as SVG or PNG, after the path's suffix. Raises ``InputError`` without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.collections import PolyCollection
        from matplotlib.figure import Figure
    except ImportError:
        raise bad_input("a picture needs matplotlib: pip install 'offchip[plots]'", path="--plot") from None
    import matplotlib as mpl

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    axes = figure.add_subplot()
    shapes, colours, labels = [], [], []
    for i in range(len(problem)):
        for span in problem.spans(i):
            low, high = int(offsets[i]) + span.window_lower, int(offsets[i]) + span.window_upper
            shapes.append([(span.lower, low), (span.upper, low), (span.upper, high), (span.lower, high)])
            colours.append(_COLOURS[i % len(_COLOURS)])
            labels.append(((span.lower + span.upper) / 2, (low + high) / 2, str(problem.ids[i])))
    axes.add_collection(PolyCollection(shapes, facecolors=colours, edgecolors="black", linewidths=0.4))
    peak = peak_of(problem, offsets)
    if len(shapes) <= _MOST_LABELS:
        for x, y, label in labels:
            axes.text(x, y, label[:12], ha="center", va="center", fontsize=6)
    axes.axhline(peak, color="black", linewidth=0.8, linestyle="--", label=f"peak {peak} B")
    if capacity is not None:
        axes.axhline(capacity, color="#e15759", linewidth=1.0, label=f"capacity {capacity} B")
    if len(problem):
        axes.set_xlim(int(problem.lower.min()), max(int(problem.upper.max()), int(problem.lower.min()) + 1))
    axes.set_ylim(0, 1.03 * max(peak, capacity or 0, 1))
    axes.set_xlabel("time")
    axes.set_ylabel("address (bytes)")
    axes.set_title(problem.name or "packing")
    axes.legend(loc="upper right", fontsize=8)
    out = io.BytesIO()
    # No date and fixed identifiers: the same plan gives the same file.
    with mpl.rc_context({"svg.hashsalt": "offchip", "svg.fonttype": "none"}):
        if path.suffix.lower() == ".svg":
            FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None})  # type: ignore[no-untyped-call]
        else:
            FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})  # type: ignore[no-untyped-call]
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(out.getvalue())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise bad_input(f"cannot be written: {error.strerror or error}", file=str(path)) from None
