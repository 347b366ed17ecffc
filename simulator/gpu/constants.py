"""The calibrated constants: one file, written by ``calibration/fit_gpu.py`` from public measurements alone.

Families hold their constants by name; here they become the arrays that the kernels take. Nothing in the file
belongs to one GPU: a constant is global, or belongs to a memory technology, a generation, or a way to
measure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from workloads.graph import Operator
from workloads.operators import Rows, Sort

__all__ = ["Constants", "Setup", "shipped_constants"]

Array = NDArray[np.float64]
LAUNCHES: Final = ("matmul", "attention", "other")
GENERATIONS: Final = {"2023": "kernel"}
"""Setups whose rows were measured with a generation of libraries."""
SAME_METHOD: Final = {"cuda-graph-mean": "graph-mean"}
"""Names of one timing method in different tables."""


@dataclass(frozen=True, slots=True)
class Setup:
    """A way to measure: what stands around kernel time, and what ran before.

    ``launch_us`` by family is part of what a row of this timing holds beside kernel time. Launches that the
    GPU's own front end makes scale with its clock: ``launch_kcycles`` comes to them. ``host_us``, by family
    too, is what the host needs for a call, which passes beside the device's time. ``rotation``: weight
    tensors that a loop cycles through. ``library``: share of the matrix rate that the library generation of
    these sources reaches. ``previous``: whether the operator before left its output in the L2.
    ``vectorised``: whether memory-bound kernels move vectors or single elements. ``eager``: collectives on
    ranks that are not synchronised. ``cache_write``: attention writes its new keys and values first.
    ``library_of`` holds the share of families of products whose library is another, and ``splits`` into how many
    parts a family's library may split a reduction. ``by_rows``: families whose library takes its tile by the
    rows alone. ``conversions``: instructions with which a library widens a weight, beside the least. ``few_rows``:
    most rows that a family's library takes to the vector units, where it is not the usual limit. ``one_row_kcycles``:
    what a product of one row takes longer, by family and kind of launch.
    """

    launch_us: Mapping[str, float]
    launch_kcycles: Mapping[str, float]
    host_us: Mapping[str, float]
    rotation: int
    library: float
    previous: bool
    vectorised: bool
    eager: bool
    cache_write: bool
    library_of: Mapping[str, float]
    splits: Mapping[str, float]
    by_rows: Sequence[str]
    conversions: float
    few_rows: Mapping[str, float] = field(default_factory=dict)
    one_row_kcycles: Mapping[str, float] = field(default_factory=dict)

    def library_share(self, family: str) -> float:
        """Share of the matrix rate that the library of a family of products reaches."""
        return self.library_of.get(family, self.library if family == "tensor16" else 1.0)


@dataclass(frozen=True)
class Constants:
    """All constants of the model; ``data`` is the JSON object of the file, which does not change beneath it."""

    data: Mapping[str, Any]
    _arrays: dict[str, Array] = field(default_factory=dict, compare=False, repr=False)
    joules: dict[tuple[str, int], tuple[object, float]] = field(
        default_factory=dict, compare=False, repr=False
    )
    """J per FLOP by family and sheet, as far as they were asked for (:func:`simulator.gpu.rows.flop_joules`)."""

    def array(self, family: str, names: Sequence[str]) -> Array:
        """A family's constants in the order of a kernel's names."""
        known = self._arrays.get(family)
        if known is None:
            table = self.data[family]
            known = self._arrays[family] = np.array([float(table[name]) for name in names])
        return known

    def setup(self, timing: str) -> Setup:
        """The setup of a timing method; an unknown one is taken as kernels in a graph with cold weights."""
        setups = self.data["setups"]
        own = setups.get(SAME_METHOD.get(timing, timing), setups["default"])
        return Setup(
            own["launch_us"], own["launch_kcycles"], own["host_us"], own["rotation"], own["library"], own["previous"],
            own["vectorised"], own["eager"], own["cache_write"], own.get("library_of", {}), own.get("splits", {}),
            own.get("by_rows", ()),
            own.get("conversions", 1.0), own.get("few_rows", {}), own.get("one_row_kcycles", {}),
        )  # fmt: skip

    def memory_share(self, key: str) -> float:
        """Share of the data-sheet bandwidth that a memory technology of a generation delivers to streams.

        One without measurements takes the mean of its generation's (whose controllers are alike) and of its
        technology's, as far as there are any.
        """
        table = self.data["memory_share"]
        if key in table:
            return float(table[key])
        technology, generation = key.split("/")
        kin = [
            float(np.mean(shares))
            for shares in (
                [share for name, share in table.items() if name.endswith(f"/{generation}")],
                [share for name, share in table.items() if name.startswith(f"{technology}/")],
            )
            if shares
        ]
        return float(np.mean(kin)) if kin else float(table["default"])

    def library_share(self, setup: Setup, family: str, generation: str) -> float:
        """Share of the matrix rate of a family of products: the setup's, or that of a generation which is named.

        The libraries of 2023 are those of the setup ``kernel``, fitted on rows of that year.
        """
        named = GENERATIONS.get(generation)
        return (self.setup(named) if named else setup).library_share(family)

    @property
    def sustained_share(self) -> float:
        """Share of a board's limit less idle that a kernel of a training step has of what it has in a benchmark."""
        return float(self.data.get("power", {}).get("sustained_share", 1.0))

    def way_joules(self, room_w: float, seconds: float, moved_bytes: float) -> float:
        """J of a board at work beside arithmetic and DRAM: clocks and leakage, and bytes on their way on the chip.

        ``room_w`` is the board's limit less its idle power; both constants are fitted by ``calibration/fit_power.py``.
        """
        power = self.data.get("power")
        if power is None:
            return 0.0
        return float(
            power["active_share"] * room_w * seconds + 1e-12 * power["way_pj_per_byte"] * moved_bytes
        )

    def without_way(self) -> Constants:
        """The same constants with energies of arithmetic and DRAM alone."""
        return Constants({key: value for key, value in self.data.items() if key != "power"})

    def sort_seconds(self, operator: Operator) -> float:
        """Seconds of a sort beside its bytes: its passes follow one another, as many as the keys have binary digits."""
        work, table = operator.work, self.data["sort"]
        keys = work.m * work.n if isinstance(work, Rows) else 1
        library = work.library if isinstance(work, Sort) else ""
        return float(table.get(library, table["pass_us"])) * 1e-6 * math.log2(1.0 + keys)

    def latency_scale(self, generation: str) -> float:
        """Latency of a collective's step by GPU generation, relative to Ampere."""
        table = self.data["collective_scale"]
        return float(table.get(generation, table["default"]))

    def engine_scale(self, generation: str) -> float:
        """Latency of an engine's own all-reduce by GPU generation, relative to Ampere."""
        table = self.data["engine_scale"]
        return float(table.get(generation, table["default"]))

    def network_bandwidth(self, generation: str) -> float:
        """Bytes per second of one network port of a node of that GPU generation, where nothing states it."""
        table = self.data["network_bandwidth"]
        return float(table.get(generation, table["default"]))


@cache
def shipped_constants() -> Constants:
    """The constants of the package."""
    text = files("simulator.gpu").joinpath("constants.json").read_text(encoding="utf-8")
    return Constants(json.loads(text))
