"""The page's figures as PNG and SVG, for papers: drawn from the same data, without a display.

Drawn with matplotlib (the extra ``plots``). The same data gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hw_configs.problems import bad_input
from hw_configs.units import format_quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_figures"]

PALETTE: Final = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800", "#7f8791",
)  # fmt: skip
"""Okabe and Ito's colours, which people with any kind of colour vision can tell apart."""
MARKERS: Final = "os^Dv*P<"
MAX_MEMORIES: Final = 8
MS: Final = 1e-9
"""Milliseconds in a picosecond."""

Draw = Callable[["Figure"], None]


def draw_figures(data: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write every figure of a page as PNG and SVG; returns the files.

    Raises ``InputError`` when matplotlib is missing or the folder cannot be written.
    """
    try:
        import matplotlib
    except ImportError:
        raise bad_input("figures need matplotlib: pip install 'offchip[plots]'") from None
    matplotlib.use("Agg")
    settings: Any = {
        "svg.hashsalt": "offchip", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
        "legend.frameon": False, "legend.fontsize": 8,
    }  # fmt: skip
    kinds = {"run": _run_figures, "sweep": _sweep_figures, "serving": _serving_figures}
    figures = kinds[data["kind"]](data)
    written = []
    with matplotlib.rc_context(settings):
        for name, (size, draw) in figures.items():
            written += _write(draw, size, folder / name)
    return written


def _write(draw: Draw, size: tuple[float, float], stem: Path) -> list[Path]:
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=size, layout="constrained")
    draw(figure)
    written = []
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for ending in ("png", "svg"):
            path = stem.with_name(f"{stem.name}.{ending}")
            part = path.with_name(path.name + ".part")
            metadata: dict[str, Any] = {"Date": None} if ending == "svg" else {"Software": None}
            figure.savefig(part, format=ending, dpi=200, metadata=metadata)
            written.append(part.replace(path))
    except OSError as error:
        raise bad_input(f"cannot be written: {error.strerror}", file=str(stem.parent)) from None
    finally:
        pyplot.close(figure)
    return written


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.")[:60] or "memory"


def _text(name: str) -> str:
    """A user's name as it stands: matplotlib would read what is between dollar signs as mathematics."""
    return name.replace("$", r"\$")


# A run


def _run_figures(data: Mapping[str, Any]) -> dict[str, tuple[tuple[float, float], Draw]]:
    lanes = len(data["timeline"]["lanes"])
    figures: dict[str, tuple[tuple[float, float], Draw]] = {
        "timeline": ((9, 1.4 + 0.22 * min(lanes, 60)), lambda figure: _timeline(figure, data)),
        "memory": ((7, 3.2), lambda figure: _memory(figure, data)),
    }
    for packing in data["packing"][:MAX_MEMORIES]:
        figures[f"packing-{_plain(packing['memory'])}"] = (
            (7, 3.6),
            partial(_packing, packing=packing, end=data["end"]),
        )
    flows = data["flows"]
    figures["bytes"] = ((8, 4), lambda figure: _sankey(figure, flows["bytes"], "size", "Bytes moved"))
    figures["energy"] = ((8, 4), lambda figure: _sankey(figure, flows["energy"], "energy", "Energy"))
    if data["roofline"]["points"]:
        figures["roofline"] = ((6, 4.2), lambda figure: _roofline(figure, data["roofline"]))
    return figures


def _slots(weights: Mapping[int, float], count: int) -> list[int]:
    """The colour of each name: those with most weight have one of their own, the rest share grey."""
    ranked = sorted(range(count), key=lambda i: (-weights.get(i, 0.0), i))
    own = ranked[: 8 if count <= 8 else 7]
    return [own.index(i) if i in own else 7 for i in range(count)]


def _timeline(figure: Figure, data: Mapping[str, Any]) -> None:
    line = data["timeline"]
    axes = figure.subplots()
    weights: dict[int, float] = {}
    for kind, length in zip(line["kind"], line["length"], strict=True):
        weights[kind] = weights.get(kind, 0.0) + length
    slots = _slots(weights, len(line["kinds"]))
    start, length = np.array(line["start"]) * MS, np.array(line["length"]) * MS
    lane, slot = np.array(line["lane"]), np.array(slots)[line["kind"]] if line["kind"] else np.zeros(0, int)
    for number in range(len(line["lanes"])):
        for colour in sorted(set(slot[lane == number].tolist())):
            chosen = (lane == number) & (slot == colour)
            # Vectors of thousands of blocks would make a huge file; they become pixels within it.
            axes.broken_barh(
                list(zip(start[chosen], length[chosen], strict=True)), (number - 0.35, 0.7),
                facecolors=PALETTE[colour], linewidth=0, rasterized=len(start) > 2000,
            )  # fmt: skip
    critical = np.array(line["critical"], dtype=int)
    for number in range(len(line["lanes"])):
        chosen = critical[lane[critical] == number] if len(critical) else critical
        spans = list(zip(start[chosen], length[chosen], strict=True))
        axes.broken_barh(spans, (number + 0.36, 0.09), facecolors="black", rasterized=len(start) > 2000)
    for index, name in enumerate(line["kinds"]):
        if slots[index] < 7 or len(line["kinds"]) <= 8:
            axes.barh(0, 0, color=PALETTE[slots[index]], label=_text(name))
    names = [_text(f"{lane['device']} {lane['stream'].rpartition('.')[2]}") for lane in line["lanes"]]
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="time (ms)", xlim=(0, data["end"] * MS), ylim=(len(names) - 0.4, -0.5))
    title = "Timeline" + (" (black: critical path)" if len(critical) else "")
    axes.set_title(title, loc="left")
    figure.legend(loc="outside lower center", ncols=8)


def _memory(figure: Figure, data: Mapping[str, Any]) -> None:
    axes = figure.subplots()
    for number, use in enumerate(data["memories"][:MAX_MEMORIES]):
        colour = PALETTE[number]
        time, size = np.array(use["time"]) * MS, np.array(use["bytes"]) / 2**30
        axes.step(time, size, where="post", lw=1, color=colour, label=_text(use["name"]))
        axes.plot(use["peak_time_s"] * 1e3, use["peak_bytes"] / 2**30, "o", ms=4, color=colour)
        axes.axhline(use["usable_bytes"] / 2**30, lw=0.8, ls="--", color=colour)
    axes.set(xlabel="time (ms)", ylabel="GiB", ylim=(0, None))
    axes.set_title("Memory over time (dashed: usable)", loc="left")
    axes.legend(loc="center right")


def _packing(figure: Figure, packing: Mapping[str, Any], end: int) -> None:
    from matplotlib.collections import PolyCollection

    axes = figure.subplots()
    start, length = np.array(packing["start"]) * MS, np.array(packing["length"]) * MS
    low, size = np.array(packing["offset"]) / 2**20, np.array(packing["size"]) / 2**20
    moving = ~((start <= 0) & (start + length >= end * MS * (1 - 1e-12)))
    if not moving.any():
        moving[:] = True
    slots = _slots({}, len(packing["roles"]))
    for role, name in enumerate(packing["roles"]):
        chosen = moving & (np.array(packing["role"]) == role)
        if chosen.any():
            a, b = start[chosen], start[chosen] + length[chosen]
            c, d = low[chosen], low[chosen] + size[chosen]
            corners = np.stack(
                [np.stack([a, c], 1), np.stack([b, c], 1), np.stack([b, d], 1), np.stack([a, d], 1)], 1
            )
            axes.add_collection(
                PolyCollection(
                    list(corners), facecolors=PALETTE[slots[role]], edgecolors="white", linewidths=0.1,
                    label=_text(name), rasterized=len(start) > 2000,
                )
            )  # fmt: skip
    axes.set(xlabel="time (ms)", ylabel="MiB", xlim=(0, end * MS))
    axes.set_ylim(low[moving].min(), (low + size)[moving].max())
    kind = "planned addresses" if packing["planned"] else "stacked: the plan fixes no addresses"
    whole = "" if moving.all() else "; without what stays throughout"
    axes.set_title(_text(f"{packing['memory']}, {kind}{whole}"), loc="left")
    figure.legend(loc="outside lower center", ncols=8)


def _sankey(figure: Figure, flow: Mapping[str, Any], dimension: str, title: str) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    axes = figure.subplots()
    nodes, columns = flow["nodes"], flow["columns"]
    middle = [i for i, node in enumerate(nodes) if node["column"] == 1]
    colour = {index: PALETTE[min(place, 7)] for place, index in enumerate(middle)}
    for link in flow["links"]:
        source, target = nodes[link["source"]], nodes[link["target"]]
        a, b = source["column"] + 0.03, float(target["column"])
        half, top, bottom, height = (a + b) / 2, link["y0"], link["y1"], link["height"]
        points = [
            (a, top), (half, top), (half, bottom), (b, bottom),
            (b, bottom + height), (half, bottom + height), (half, top + height), (a, top + height),
        ]  # fmt: skip
        codes = [Curve.MOVETO, *[Curve.CURVE4] * 3, Curve.LINETO, *[Curve.CURVE4] * 3]
        own = colour.get(link["source"], colour.get(link["target"], PALETTE[7]))
        axes.add_patch(PathPatch(Curve(points, codes), facecolor=own, alpha=0.4, lw=0))
    for index, node in enumerate(nodes):
        last = node["column"] == columns - 1
        height = max(node["height"], 1.0)
        axes.bar(node["column"] + 0.015, height, 0.03, node["y"], color=colour.get(index, "#535c69"))
        axes.text(
            node["column"] - 0.015 if last else node["column"] + 0.045, node["y"] + height / 2,
            _text(f"{node['name'].strip()}  {format_quantity(node['amount'], dimension)}"),
            ha="right" if last else "left", va="center", fontsize=8,
        )  # fmt: skip
    axes.set(xlim=(-0.02, columns - 1 + 0.05), ylim=(flow["height"], -5))
    axes.set_axis_off()
    axes.set_title(title, loc="left")


def _roofline(figure: Figure, roofline: Mapping[str, Any]) -> None:
    axes = figure.subplots()
    device = roofline["points"][0]["device"]
    points = [point for point in roofline["points"] if point["device"] == device]
    kinds = list(dict.fromkeys(point["kind"] for point in points))
    most = max(point["seconds"] for point in points)
    for number, kind in enumerate(kinds):
        chosen = [point for point in points if point["kind"] == kind]
        axes.scatter(
            [p["intensity"] for p in chosen], [p["rate"] for p in chosen],
            s=[8 + 60 * p["seconds"] / most for p in chosen], marker=MARKERS[number % 8],
            color=PALETTE[number % 8], alpha=0.8, lw=0, label=_text(kind),
        )  # fmt: skip
    sheet = next((entry for entry in roofline["devices"] if entry["name"] == device), None)
    axes.set(xscale="log", yscale="log", xlabel="arithmetic intensity (FLOP/byte)", ylabel="FLOP/s")
    if sheet is not None:
        low, high = axes.get_xlim()
        high = max(high, 3 * max(sheet["rates"].values(), default=0) / sheet["bandwidth"])
        across = np.geomspace(low, high, 200)
        for label, rate in sheet["rates"].items():
            axes.plot(across, np.minimum(across * sheet["bandwidth"], rate), lw=1, color="black")
            axes.annotate(_text(label), (high, rate), ha="right", va="bottom", fontsize=7)
        axes.set_xlim(low, high)
    axes.set_title(_text(f"Roofline of {device}"), loc="left")
    axes.legend(loc="lower right")


# A service


def _serving_figures(data: Mapping[str, Any]) -> dict[str, tuple[tuple[float, float], Draw]]:
    lines = {
        "load": ("Requests per second", ("arrived", "answered")),
        "queue": ("Requests", ("running", "waiting")),
        "cache": ("Share", ("cache", "busy", "kept")),
    }
    figures: dict[str, tuple[tuple[float, float], Draw]] = {
        name: ((7, 3), partial(_over_time, data=data, label=label, names=names))
        for name, (label, names) in lines.items()
    }
    figures["times"] = ((6, 4), lambda figure: _times(figure, data))
    return figures


def _over_time(figure: Figure, data: Mapping[str, Any], label: str, names: tuple[str, ...]) -> None:
    axes, time = figure.subplots(), data["time"]
    for number, name in enumerate(names):
        values = np.array([np.nan if value is None else value for value in time[name]], dtype=float)
        axes.stairs(values, time["edges"], label=name, color=PALETTE[number], baseline=None)
    axes.set(xlabel="time (s)", ylabel=label, ylim=(0, None), xlim=(0, time["edges"][-1]))
    axes.legend()


def _times(figure: Figure, data: Mapping[str, Any]) -> None:
    axes = figure.subplots()
    for number, (name, values) in enumerate(data["distributions"].items()):
        axes.plot(values, np.linspace(0, 1, len(values)), label=name, color=PALETTE[number])
    axes.set(xscale="log", xlabel="time (s)", ylabel="share no slower", ylim=(0, 1))
    axes.legend()


# A sweep


def _sweep_figures(data: Mapping[str, Any]) -> dict[str, tuple[tuple[float, float], Draw]]:
    figures: dict[str, tuple[tuple[float, float], Draw]] = {}
    if len(data["objectives"]) > 1:
        figures["pareto"] = ((6, 4.2), lambda figure: _pareto(figure, data))
    if data["parameters"]:
        figures["parameters"] = ((9, 4), lambda figure: _parallel(figure.subplots(), data))
    if data["effects"]:
        figures["sensitivities"] = (
            (3.2 * len(data["effects"]), 0.8 + 0.3 * len(data["parameters"])),
            lambda figure: _sensitivities(figure, data),
        )
    return figures


def _columns(data: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {column["name"]: column for column in data["figures"]}


def _tints(data: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, list[int]]:
    """The choice that colours the points, and the colour of each point."""
    choice = next((p for p in data["parameters"] if len(p.get("names", ())) > 1), None)
    if choice is None:
        return None, [0] * data["shown"]
    slots = _slots({}, len(choice["names"]))
    return choice, [slots[value] for value in choice["values"]]


def _pareto(figure: Figure, data: Mapping[str, Any]) -> None:
    axes = figure.subplots()
    columns, front = _columns(data), set(data["front"])
    first, second = (columns[objective["name"]] for objective in data["objectives"][:2])
    good = [
        i for i in range(data["shown"])
        if data["statuses"][data["status"][i]] == "ok"
        and first["values"][i] is not None
        and second["values"][i] is not None
    ]  # fmt: skip
    choice, tint = _tints(data)
    for slot in sorted(set(tint)):
        for on in (False, True):
            chosen = [i for i in good if tint[i] == slot and (i in front) == on]
            names = (
                [
                    n
                    for n, s in zip(choice["names"], _slots({}, len(choice["names"])), strict=True)
                    if s == slot
                ]
                if choice
                else []
            )
            axes.scatter(
                [first["values"][i] for i in chosen], [second["values"][i] for i in chosen],
                s=46 if on else 12, marker=MARKERS[slot], color=PALETTE[slot], alpha=1 if on else 0.6,
                edgecolors="black" if on else "none", zorder=3 if on else 2, rasterized=len(good) > 5000,
                label=_text(", ".join(names[:3])) if names and not on else None,
            )  # fmt: skip
    for column, scale in ((first, axes.set_xscale), (second, axes.set_yscale)):
        known = [column["values"][i] for i in good]
        if known and min(known) > 0 and max(known) / min(known) >= 30:
            scale("log")
    axes.set(xlabel=_text(first["name"]), ylabel=_text(second["name"]))
    axes.set_title("Points (dark edge: on the Pareto front)", loc="left")
    if choice is not None:
        axes.legend(title=_text(choice["name"]))


def _parallel(axes: Axes, data: Mapping[str, Any]) -> None:
    columns = _columns(data)
    planes = [*data["parameters"], *(columns[o["name"]] for o in data["objectives"])]
    good = [i for i in range(data["shown"]) if data["statuses"][data["status"][i]] == "ok"]
    front, (_, tint) = set(data["front"]), _tints(data)
    heights = np.full((len(planes), data["shown"]), np.nan)
    for place, plane in enumerate(planes):
        values = np.array([np.nan if v is None else v for v in plane["values"]], dtype=float)
        known = values[np.isfinite(values)]
        low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
        if "names" not in plane and low > 0 and high / low >= 30:
            values, low, high = np.log(values), np.log(low), np.log(high)
        heights[place] = (values - low) / (high - low) if high > low else 0.5
        ends = (plane["names"][0], plane["names"][-1]) if "names" in plane else _ends(known)
        axes.text(place, -0.03, _text(ends[0]), ha="center", va="top", fontsize=7)
        axes.text(place, 1.02, _text(ends[1]), ha="center", va="bottom", fontsize=7)
        axes.axvline(place, color="#535c69", lw=0.8)
    for i in sorted(good, key=lambda i: (i in front, i)):
        on = i in front
        axes.plot(
            range(len(planes)), heights[:, i], color=PALETTE[tint[i]], lw=1.6 if on else 0.5,
            alpha=1 if on else max(0.1, min(0.6, 120 / max(len(good), 1))), rasterized=len(good) > 1000,
        )  # fmt: skip
    axes.set_xticks(range(len(planes)), [_text(plane["name"]) for plane in planes])
    axes.tick_params(length=0, pad=14)
    axes.set(yticks=[], ylim=(0, 1))
    axes.spines[:].set_visible(False)
    axes.set_title("Parameters and objectives (thick: on the Pareto front)", loc="left", pad=18)


def _ends(known: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[str, str]:
    return (f"{known.min():.4g}", f"{known.max():.4g}") if len(known) else ("", "")


def _sensitivities(figure: Figure, data: Mapping[str, Any]) -> None:
    panels = figure.subplots(1, len(data["effects"]), squeeze=False)[0]
    for axes, (name, effects) in zip(panels, data["effects"].items(), strict=True):
        ranked = effects[::-1]
        axes.barh(
            [_text(e["parameter"]) for e in ranked], [e["share"] * 100 for e in ranked], color=PALETTE[0]
        )
        axes.set(xlabel="variance explained alone (%)", xlim=(0, 100))
        axes.set_title(_text(name), loc="left")
