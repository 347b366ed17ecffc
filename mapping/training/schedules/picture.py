"""Pictures of a schedule in time: characters for a terminal, a figure for a page. Time across, a row per rank."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

from hw_configs.output_file import replacing
from hw_configs.problems import bad_input
from mapping.training.schedules.run import ScheduleRun

__all__ = ["draw_schedule", "text_picture"]

IDLE: Final = "."
_COLOURS: Final = {
    "F": "#4e79a7", "B": "#59a14f", "I": "#8cd17d", "W": "#f1ce63", "S": "#b07aa1", "T": "#ff9da7",
}  # fmt: skip
_MEANING: Final = {
    "F": "forward", "B": "backward", "I": "backward, input half", "W": "backward, weight half",
    "S": "logits", "T": "logits' gradient",
}  # fmt: skip
_MOST_LABELS: Final = 700
_LEAST_LABELLED: Final = 0.008
"""Of the width; a narrower pass has no room for its number."""


def text_picture(run: ScheduleRun, columns: int = 110) -> list[str]:
    """A line per rank of at most ``columns`` characters of time, and a line that says how to read them.

    A pass is its kind's letter (small where the rank has an earlier stage of the model), then its micro-batch where
    there is room, then dashes; a dot is idle time.
    """
    packed, whole = run.packed, run.makespan_s
    plan = packed.schedule
    lengths = run.end_s - run.start_s
    shortest = float(lengths[lengths > 0].min(initial=whole)) if whole > 0 else 0.0
    if whole <= 0:
        return []
    # Whole columns for the shortest pass where they fit, else as many as there are.
    per_pass = int(columns / (whole / shortest) + 1e-9)
    per_second = per_pass / shortest if per_pass >= 1 else columns / whole
    width = min(columns, round(whole * per_second))
    name = len(str(plan.ranks - 1))
    lines = []
    for rank in range(plan.ranks):
        row = [IDLE] * width
        first = min((s for s, r in enumerate(plan.rank_of_stage) if r == rank), default=0)
        for place in range(packed.begins[rank], packed.begins[rank + 1]):
            begin, end = (round(float(t) * per_second + 1e-9) for t in (run.start_s[place], run.end_s[place]))
            begin, end = min(begin, width - 1), min(max(end, begin + (lengths[place] > 0)), width)
            action = packed.action(place)
            letter = action.kind if action.stage == first or action.kind in "ST" else action.kind.lower()
            label = f"{letter}{action.micro_batch}"
            shown = label if len(label) <= end - begin else letter
            row[begin:end] = list((shown + "-" * (end - begin))[: end - begin])
        lines.append(f"{rank:>{name}} |{''.join(row)}|")
    used = sorted({packed.action(int(p)).kind for p in range(len(packed.stage))}, key="FBIWST".index)
    words = [f"{kind} {_MEANING[kind]}" for kind in used]
    if len(set(plan.rank_of_stage)) < len(plan.rank_of_stage):
        words.append("small letters a rank's further stages")
    lines.append(f"{', '.join(words)}, {IDLE} idle; a column is {1 / per_second:.4g}")
    return lines


def draw_schedule(run: ScheduleRun, title: str, path: Path) -> None:
    """Write the picture as SVG or PNG, after the path's suffix. Raises ``InputError`` without matplotlib."""
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError:
        raise bad_input("a picture needs matplotlib: pip install 'offchip[plots]'", path="--plot") from None
    packed, plan = run.packed, run.packed.schedule
    figure = Figure(figsize=(13, 1.4 + 0.34 * min(plan.ranks, 40)), layout="constrained")
    axes = figure.add_subplot()
    kinds = _bars(axes, run)
    if len(packed.stage) <= _MOST_LABELS:
        _label(axes, run)
    axes.set_xlim(0, run.makespan_s or 1)
    axes.set_ylim(plan.ranks - 0.5, -0.5)
    axes.set_yticks(range(plan.ranks) if plan.ranks <= 40 else range(0, plan.ranks, 8))
    axes.set_xlabel("time")
    axes.set_ylabel("rank")
    axes.set_title(title, fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    handles = [Patch(facecolor=_COLOURS[kind], label=_MEANING[kind]) for kind in kinds]
    if len(set(plan.rank_of_stage)) < len(plan.rank_of_stage):
        handles.append(Patch(facecolor="white", edgecolor="black", hatch="////", label="further stages"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    out = io.BytesIO()
    # No date and fixed identifiers: the same schedule gives the same file.
    with mpl.rc_context({"svg.hashsalt": "offchip", "svg.fonttype": "none"}):
        if path.suffix.lower() == ".svg":
            FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None})  # type: ignore[no-untyped-call]
        else:
            FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})  # type: ignore[no-untyped-call]
    with replacing(path) as part:
        part.write_bytes(out.getvalue())


def _bars(axes: Any, run: ScheduleRun) -> list[str]:
    """The passes, in one set of bars per kind and rank; the kinds that there are."""
    packed, plan = run.packed, run.packed.schedule
    first = {
        rank: min(s for s, r in enumerate(plan.rank_of_stage) if r == rank)
        for rank in set(plan.rank_of_stage)
    }
    bars: dict[tuple[str, int, bool], list[tuple[float, float]]] = {}
    for rank in range(plan.ranks):
        for place in range(packed.begins[rank], packed.begins[rank + 1]):
            action = packed.action(place)
            further = action.kind not in "ST" and action.stage != first.get(rank)
            span = (float(run.start_s[place]), float(run.end_s[place] - run.start_s[place]))
            bars.setdefault((action.kind, rank, further), []).append(span)
    for (kind, rank, further), spans in bars.items():
        axes.broken_barh(
            spans, (rank - 0.42, 0.84), facecolor=_COLOURS[kind], edgecolor="#333333", linewidth=0.3,
            hatch="////" if further else None,
        )  # fmt: skip
    return sorted({kind for kind, _, _ in bars}, key="FBIWST".index)


def _label(axes: Any, run: ScheduleRun) -> None:
    packed = run.packed
    for rank in range(packed.schedule.ranks):
        for place in range(packed.begins[rank], packed.begins[rank + 1]):
            if run.end_s[place] - run.start_s[place] < _LEAST_LABELLED * run.makespan_s:
                continue
            middle = float(run.start_s[place] + run.end_s[place]) / 2
            axes.text(middle, rank, str(packed.micro_batch[place]), ha="center", va="center", fontsize=6)
