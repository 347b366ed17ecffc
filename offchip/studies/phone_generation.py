"""Language models on phones and boards: bits, what binds a token, and minutes of generation against heat.

Laskaridis et al. (MELT, arXiv:2403.12844) measured such devices. Decode steps are priced operator by operator on the
GPU's data sheet; their seconds and joules then load a body with one heat capacity and one resistance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from hw_configs.library import load_system
from offchip.studies.line_figure import draw_lines
from offchip.studies.study import Claim, Figure, Outcome, Study, StudyTable, compare
from simulator.cost.model import COST_MODELS, DEFAULT_COST_MODEL
from simulator.thermal.body import Load, Moment, ThermalBody, run_load
from workloads.graph import Role
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["STUDY", "Token", "stored_bytes", "token"]

_PAPER: Final = "MELT, arXiv:2403.12844, abstract"
_SIZES: Final = "brave-experiments/MELT-public, src/model_evaluation/results/model_specs.csv"
PHONE: Final = "a16-5core"
BOARD: Final = "jetson-agx-orin"
CONTEXT: Final = 512
_MIXED: Final = (
    "Such files mix types (some tensors have 5 or 6 bits), and their embedding is quantised; ours are of one type, the "
    "embedding in 16 bits."
)
PUBLISHED: Final = {
    ("llama-2-7b", "fp16"): 13.5, ("llama-2-7b", "q4_0"): 3.83, ("llama-2-7b", "q4_k"): 4.08,
    ("llama-2-7b", "q3_k"): 3.30,
    ("mistral-7b", "q4_0"): 4.11, ("tinyllama-1.1b", "q4_0"): 0.64,
}  # fmt: skip
"""GB of model files."""
BODY: Final = ThermalBody(
    capacity=100.0,
    resistance=7.0,
    ambient_c=25.0,
    hot_c=43.0,
    cool_c=41.0,
    steps=(1.0, 0.85, 0.7, 0.55, 0.4),
    look_s=5.0,
)
"""A phone of 200 g that gives off 2.5 W at the temperature where a hand draws back: assumptions, none fitted."""
COOLED: Final = ThermalBody(
    capacity=400.0,
    resistance=0.8,
    ambient_c=25.0,
    hot_c=85.0,
    cool_c=80.0,
    steps=(1.0, 0.8, 0.6, 0.4),
    look_s=5.0,
)
"""A board with a heat sink and a fan: assumptions, none fitted."""
BATTERY_J: Final = 12.4 * 3600
"""About 3200 mAh at 3.87 V, as recalled of the iPhone 14 Pro."""


@dataclass(frozen=True, slots=True)
class Token:
    """One decode step: the load it is, the share of its time that memory binds, and whether the weights fit."""

    load: Load
    memory_share: float
    fits: bool

    @property
    def rate(self) -> float:
        """Tokens a second while nothing is hot."""
        return 1 / self.load.seconds(1.0)

    @property
    def joules(self) -> float:
        """Of one token while nothing is hot."""
        return self.load.watts(1.0) / self.rate


@cache
def token(model: str, dtype: str, device: str) -> Token:
    """A token behind a context of 512 on a GPU, operator by operator."""
    system = load_system(device)
    node = system.workers()[0]
    memory = system.memories[node.memory or node.name]
    graph = load_workload(model, WorkloadOptions(phase="decode", prompt=CONTEXT, dtype=dtype)).phases[0].graph
    clocked = waiting = clocked_j = memory_j = 0.0
    for operator in graph.operators:
        cost = COST_MODELS.get(DEFAULT_COST_MODEL).cost(operator, node, memory)
        if cost.bound_by == "memory":
            waiting += cost.seconds
        else:
            clocked += cost.seconds
        clocked += cost.launch_seconds
        clocked_j, memory_j = clocked_j + cost.compute_energy_j, memory_j + cost.memory_energy_j
    power = getattr(node.device, "power", None)
    idle = power.idle if power is not None else 0.0
    load = Load(clocked, waiting, clocked_j, memory_j, idle)
    return Token(load, waiting / (clocked + waiting), stored_bytes(model, dtype) <= memory.usable_bytes)


@cache
def stored_bytes(model: str, dtype: str) -> int:
    """Bytes of a model's weights."""
    graph = load_workload(model, WorkloadOptions(phase="decode", prompt=1, dtype=dtype)).phases[0].graph
    return sum(tensor.size_bytes for tensor in graph.tensors.values() if tensor.role is Role.WEIGHT)


@cache
def half_an_hour(model: str, dtype: str, device: str) -> list[Moment]:
    """Thirty minutes of generation without pause, from a cool device."""
    return run_load(BODY if device == PHONE else COOLED, token(model, dtype, device).load, 1800)


def _run() -> Outcome:
    bound = {
        (model, dtype, device): token(model, dtype, device).memory_share
        for model in ("tinyllama-1.1b", "mistral-7b")
        for dtype in ("fp16", "q4_0")
        for device in (PHONE, BOARD)
    }
    least = min(bound, key=lambda key: bound[key])
    method = (
        f"A decode step behind {CONTEXT} tokens, operator by operator on {PHONE} (iPhone 14 Pro) and {BOARD}: share of "
        "a step's time in operators that memory binds."
    )
    phone = half_an_hour("tinyllama-1.1b", "q4_0", PHONE)
    kept = phone[-1].units / phone[0].units
    claims = [
        compare(Claim("bound", "inference is bound by", "memory", "", _PAPER, "published", "mechanism"),
                "memory" if bound[least] > 0.5 else "arithmetic and launches",
                f"{method} The least share is {100 * bound[least]:.0f} % ({', '.join(least)}).",
                "A batch of one token; prompts are not in it. Launches of small kernels count as not bound by memory."),
        compare(Claim("heat", "continuous execution on a phone", "limited by heat", "", _PAPER, "published",
                      "construction"),
                "limited by heat" if kept < 0.99 else "not limited",
                f"Half an hour of TinyLlama in 4 bits on {PHONE} in a body of {BODY.capacity:g} J/K and "
                f"{BODY.resistance:g} K/W: {100 * kept:.0f} % of the first rate is left.",
                "Capacity, resistance and limits are assumptions; with 3 K/W nothing would get hot."),
    ]  # fmt: skip
    for (model, dtype), published in PUBLISHED.items():
        claims.append(
            compare(
                Claim(f"{model}-{dtype}", f"file of {model} in {dtype}", published, "GB", _SIZES, "published",
                      "counting"),
                stored_bytes(model, dtype) / 1e9,
                "Weights of the model at that type's blocks.",
                {"fp16": "None known.", "q4_0": "The file's embedding has 4 bits too; ours stays in 16."}.get(
                    dtype, _MIXED
                ),
            )
        )  # fmt: skip
    return Outcome(claims, [_rates(), _heat()], [_figure()])


def _rates() -> StudyTable:
    rows: list[tuple[str | float, ...]] = []
    for model in ("tinyllama-1.1b", "mistral-7b", "llama-2-7b"):
        for dtype in ("fp16", "q8_0", "q4_0", "q3_k"):
            row: list[str | float] = [f"{model}, {dtype}", stored_bytes(model, dtype) / 1e9]
            for device in (PHONE, BOARD):
                found = token(model, dtype, device)
                row += (
                    [found.rate, found.joules, 100 * found.memory_share]
                    if found.fits
                    else ["does not fit", "", ""]
                )
            rows.append(tuple(row))
    columns = (
        "model",
        "GB",
        *(f"{x}, {device}" for device in (PHONE, BOARD) for x in ("tokens/s", "J a token", "memory, %")),
    )
    return StudyTable("Tokens while nothing is hot", columns, tuple(rows))


def _heat() -> StudyTable:
    rows: list[tuple[str | float, ...]] = []
    for model, dtype, device in (("tinyllama-1.1b", "fp16", PHONE), ("tinyllama-1.1b", "q4_0", PHONE),
                                 ("mistral-7b", "q4_0", BOARD), ("mistral-7b", "fp16", BOARD)):  # fmt: skip
        moments = half_an_hour(model, dtype, device)
        slowed = next((m.end_s for m in moments if m.share < 1), None)
        watts = [
            m.joules / (m.end_s - b)
            for m, b in zip(moments, (0.0, *(m.end_s for m in moments)), strict=False)
        ]
        late = moments[-60:]
        rate = sum(m.units for m in late) / sum((BODY if device == PHONE else COOLED).look_s for _ in late)
        hours = BATTERY_J / (sum(watts[-60:]) / 60) / 3600 if device == PHONE else ""
        rows.append(
            (f"{model}, {dtype}, {device}", 1 / token(model, dtype, device).load.seconds(1.0), rate, watts[0],
             sum(watts[-60:]) / 60, slowed if slowed is not None else "never", moments[-1].temperature_c, hours)
        )  # fmt: skip
    columns = (
        "model", "tokens/s, cool", "after half an hour", "W, cool", "W after half an hour", "slower after, s",
        "degrees C", "hours of a battery",
    )  # fmt: skip
    return StudyTable("Half an hour without pause", columns, tuple(rows))


def _figure() -> Figure:
    def draw(path: Path) -> None:
        lines = {
            f"{dtype}, {what}": [
                (m.end_s / 60, m.temperature_c if what == "degrees C" else m.units / BODY.look_s)
                for m in moments
            ]
            for dtype in ("fp16", "q4_0")
            for moments in (half_an_hour("tinyllama-1.1b", dtype, PHONE),)
            for what in ("degrees C", "tokens/s")
        }
        draw_lines(path, lines, "minutes", "degrees C, tokens/s")

    return Figure("heat", f"TinyLlama on {PHONE} in the phone's body: temperature and rate.", draw)


STUDY: Final = Study(
    "melt",
    "MELT: language models on phones and boards",
    "Laskaridis et al., MELTing point: Mobile Evaluation of Language Transformers, arXiv:2403.12844, MobiCom 2024",
    "TinyLlama, Mistral and Llama 2 by bit width on the GPU of an iPhone 14 Pro and on a Jetson AGX Orin: rate, "
    "energy, and half an hour of heat.",
    _run,
)
