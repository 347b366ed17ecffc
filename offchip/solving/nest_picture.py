"""A picture of mappings: of one layer its loop nest beside the energy of each level, of several the energy of each."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hw_configs.output_file import replacing
from hw_configs.problems import bad_input

if TYPE_CHECKING:
    from offchip.solving.mapping import MappingSolution

__all__ = ["draw_mapping"]

_OPERANDS: Final = {"I": ("inputs", "#4e79a7"), "W": ("weights", "#59a14f"), "O": ("outputs", "#f1ce63")}
_UNITS: Final = ("units", "#b07aa1")
_LEVELS: Final = ("#e15759", "#76b7b2", "#9c755f", "#ff9da7", "#86bcb6", "#d37295", "#bab0ac", "#8cd17d")


def draw_mapping(solution: MappingSolution, path: Path) -> None:
    """Write the picture as SVG or PNG, after the path's suffix. Raises ``InputError`` without matplotlib."""
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        raise bad_input("a picture needs matplotlib: pip install 'offchip[plots]'", path="--plot") from None
    out = io.BytesIO()
    # No date and fixed identifiers: the same mapping gives the same file.
    with mpl.rc_context({"svg.hashsalt": "offchip", "svg.fonttype": "none"}):
        if len(solution.layers) == 1:
            lines = solution.layers[0].best.nest.text(solution.device).splitlines()
            height = max(3.2, 0.5 + 0.2 * len(lines))
            figure = Figure(figsize=(11, height), layout="constrained")
            left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
            _nest(left, lines, solution)
            _by_level(right, solution)
        else:
            figure = Figure(figsize=(max(7.0, 2.5 + 0.34 * len(solution.layers)), 4.6), layout="constrained")
            _by_layer(figure.add_subplot(), solution)
        if path.suffix.lower() == ".svg":
            FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None})  # type: ignore[no-untyped-call]
        else:
            FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})  # type: ignore[no-untyped-call]
    with replacing(path) as part:
        part.write_bytes(out.getvalue())


def _nest(axes: Any, lines: list[str], solution: MappingSolution) -> None:
    """The loops, a band of colour per level."""
    names = [memory.name for memory in solution.device.levels]
    level = -1
    for number, line in enumerate(lines):
        word = line.split()[0]
        if level + 1 < len(names) and line.rstrip().endswith("]") and word == names[level + 1].split()[0]:
            level += 1
        shade = _LEVELS[level % len(_LEVELS)] if "O += " not in line else _UNITS[1]
        axes.axhspan(number - 0.5, number + 0.5, color=shade, alpha=0.22, lw=0)
        axes.text(0.01, number, line, va="center", family="monospace", fontsize=8.5)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_axis_off()
    axes.set_title(f"{solution.layers[0].layer.name} on {solution.device.name}", fontsize=10, loc="left")


def _by_level(axes: Any, solution: MappingSolution) -> None:
    """A bar per level, of its operands' energies."""
    found = solution.layers[0].best.evaluation
    scale, unit = _unit(found.energy_j)
    rows = [*(use.name for use in found.levels), "units"]
    foot = [0.0] * len(rows)
    for operand, (label, colour) in _OPERANDS.items():
        widths = [use.energy_by_operand_j.get(operand, 0.0) * scale for use in found.levels] + [0.0]  # type: ignore[call-overload]
        axes.barh(range(len(rows)), widths, 0.65, left=foot, color=colour, label=label)
        foot = [low + width for low, width in zip(foot, widths, strict=True)]
    axes.barh([len(rows) - 1], [found.mac_energy_j * scale], 0.65, color=_UNITS[1], label=_UNITS[0])
    foot[-1] = found.mac_energy_j * scale
    for number, width in enumerate(foot):
        share = width / (found.energy_j * scale) if found.energy_j else 0.0
        axes.text(width, number, f" {100 * share:.0f} %", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1.12 * max(foot) if max(foot) else 1)
    axes.set_xlabel(f"energy ({unit})")
    axes.set_title(
        f"{found.energy_j * scale:.4g} {unit}, {found.latency_cycles:.4g} cycles, "
        f"{100 * found.utilisation:.0f} % of the units",
        fontsize=10, loc="left",
    )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _by_layer(axes: Any, solution: MappingSolution) -> None:
    """A bar per layer, as often as the model has it, of its levels' energies."""
    scale, unit = _unit(max(item.count * item.best.evaluation.energy_j for item in solution.layers))
    foot = [0.0] * len(solution.layers)
    parts = [
        (memory.name, [item.count * item.best.evaluation.levels[n].energy_j for item in solution.layers])
        for n, memory in enumerate(solution.device.levels)
    ]
    parts.append(("units", [item.count * item.best.evaluation.mac_energy_j for item in solution.layers]))
    for number, (name, joules) in enumerate(parts):
        heights = [joule * scale for joule in joules]
        colour = _UNITS[1] if name == "units" else _LEVELS[number % len(_LEVELS)]
        axes.bar(range(len(foot)), heights, 0.7, bottom=foot, color=colour, label=name)
        foot = [low + height for low, height in zip(foot, heights, strict=True)]
    names = [
        f"{item.layer.name} x{item.count}" if item.count > 1 else item.layer.name for item in solution.layers
    ]
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    axes.set_ylabel(f"energy of all copies ({unit})")
    axes.set_title(
        f"Layers on {solution.device.name}, least {solution.objective} each", fontsize=10, loc="left"
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def _unit(joules: float) -> tuple[float, str]:
    for scale, unit in ((1.0, "J"), (1e3, "mJ"), (1e6, "uJ"), (1e9, "nJ")):
        if joules * scale >= 1:
            return scale, unit
    return 1e12, "pJ"
