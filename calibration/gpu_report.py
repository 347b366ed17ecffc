"""Writes docs/gpu-model.md and its figure: errors of the GPU model by class and GPU, in sample and left out."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "gpu-model.md"
FIGURE: Final = ROOT / "docs" / "images" / "gpu-model-errors.svg"
PEERS: Final = ROOT / "tests" / "reference" / "gpu" / "peer_errors.csv"
SHOWN_PEERS: Final = ("roofline", "llm-viewer", "genz", "tuned-roofline", "tile-prototype")
ORDER: Final = (
    "gemm", "gemm_fp8", "gemm_fp32", "bmm", "attention_prefill", "attention_decode", "norm", "elementwise",
    "rotary", "softmax", "all_reduce", "other_collective", "send_recv", "internode_comm",
)  # fmt: skip
MARK: Final = "<!-- tables: written by python -m calibration.fit_gpu --cross -->"


def errors_of(predicted: Array, measured: Array) -> Array:
    """Absolute relative errors in percent."""
    return np.abs(predicted / measured - 1) * 100


def summary(errors: Array) -> str:
    """Mean, median and 95th percentile as one cell."""
    if not len(errors):
        return "-"
    return f"{errors.mean():.1f} / {np.median(errors):.1f} / {np.quantile(errors, 0.95):.0f}"


def peers() -> dict[tuple[str, str], str]:
    """Errors of peers on these rows, by (peer, class)."""
    found = {}
    if PEERS.is_file():
        with PEERS.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                if row["split"] == "public":
                    cell = f"{float(row['mape_pct']):.1f} / {float(row['median_ape_pct']):.1f}"
                    found[row["peer"], row["op_class"]] = f"{cell} / {float(row['p95_ape_pct']):.0f}"
    return found


def tables(
    classes: Sequence[str], gpus: Sequence[str], measured: Array, inside: Array, outside: Array
) -> str:
    """The page's tables."""
    name_of, gpu_of = np.array(classes), np.array(gpus)
    e_in, e_out = errors_of(inside, measured), errors_of(outside, measured)
    others = peers()
    lines = [
        "Errors are mean / median / 95th percentile of |predicted / measured - 1|, in %.",
        "",
        "| class | rows | in sample | chip left out | " + " | ".join(SHOWN_PEERS) + " |",
        "|---|---|---|---|" + "---|" * len(SHOWN_PEERS),
    ]
    for name in ORDER:
        mine = name_of == name
        cells = [others.get((peer, name), "-") for peer in SHOWN_PEERS]
        lines.append(
            f"| {name} | {mine.sum()} | **{summary(e_in[mine])}** | {summary(e_out[mine])} | {' | '.join(cells)} |"
        )
    lines += [
        "",
        "| class, GPU | rows | in sample | chip left out | predicted / measured left out |",
        "|---|---|---|---|---|",
    ]
    for name in ORDER:
        for gpu in sorted(set(gpu_of[name_of == name])):
            mine = (name_of == name) & (gpu_of == gpu)
            ratio = np.median(outside[mine] / measured[mine])
            lines.append(
                f"| {name}, {gpu} | {mine.sum()} | {summary(e_in[mine])} | {summary(e_out[mine])} | {ratio:.2f} |"
            )
    return "\n".join(lines) + "\n"


def constants_table(data: Mapping[str, Any]) -> str:
    """How many constants of each kind there are, with the memory shares and energies spelt out."""
    shares = ", ".join(f"{key} {value:.2f}" for key, value in data["memory_share"].items())
    energies = ", ".join(f"{key} {value:.3g}" for key, value in data["energy_pj"].items())
    return (
        f"Shares of bandwidth, by memory technology and generation: {shares}.\n\n"
        f"Energy references in pJ per FLOP (16 nm, 1.755 GHz): {energies}.\n"
    )


def write_page(text: str, write: Callable[[Path, str], None]) -> None:
    """Replace what follows the mark in the page."""
    head = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else f"# The GPU model\n\n{MARK}\n"
    kept = head[: head.index(MARK) + len(MARK)]
    write(PAGE, f"{kept}\n\n{text}")


def draw(classes: Sequence[str], measured: Array, inside: Array, outside: Array) -> None:
    """Mean error per class, in sample and left out, beside the tuned roofline; an SVG without a date."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "gpu-model"
    from matplotlib import pyplot

    name_of = np.array(classes)
    others = peers()
    bars: list[tuple[str, list[float]]] = []
    for label, predicted in (("in sample", inside), ("chip left out", outside)):
        errors = errors_of(predicted, measured)
        bars.append((label, [float(errors[name_of == name].mean()) for name in ORDER]))
    tuned = [others.get(("tuned-roofline", name), "nan").split(" / ")[0] for name in ORDER]
    bars.append(("tuned roofline, in sample", [float(value) for value in tuned]))
    figure, axes = pyplot.subplots(figsize=(9, 3.6), layout="constrained")
    for index, (label, values) in enumerate(bars):
        axes.bar(np.arange(len(ORDER)) + 0.27 * (index - 1), values, 0.27, label=label)
    axes.set_xticks(range(len(ORDER)), ORDER, rotation=35, ha="right")
    axes.set_ylabel("mean error, %")
    axes.legend(frameon=False)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, metadata={"Date": None})
    pyplot.close(figure)
