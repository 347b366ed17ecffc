"""The cost model ``gpu``: one operator on one GPU, for the system simulator.

Answers are those of :mod:`simulator.gpu.rows` under the setup ``default`` (kernels launched from a graph,
weights cold, inputs from wherever the operator's ``residency`` says); ``gpu-eager`` takes the setup ``kernel``. Bytes
are those that cross the DRAM's pins: what the L2 keeps is not among them, but never more than an operator's own
traffic. Devices that are no GPUs have models of their own (:mod:`simulator.cost.by_device`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from hw_configs.device import Gpu
from hw_configs.problems import bad_input
from hw_configs.system import MemorySpace, Node
from simulator.cost.model import OperatorCost, arithmetic_joules, roof_seconds
from simulator.cost.roofline import COMMUNICATION_KINDS
from simulator.gpu.constants import Constants, Setup, shipped_constants
from simulator.gpu.lowering import lowered
from simulator.gpu.request import Prediction, Request
from simulator.gpu.rows import predict
from simulator.gpu.sheet import GpuSheet, gpu_sheet
from simulator.gpu.simulated_l2 import with_simulated_l2
from workloads.graph import Operator

__all__ = ["EAGER", "GPU", "GpuModel"]

MAX_DEVICES_REMEMBERED: Final = 256


class GpuModel:
    """See the module's first lines. ``constants`` None means those of the package.

    ``timing`` names the setup under which :meth:`cost` prices an operator; with ``simulate_l2`` it plays the tiles of
    products and attention, and rows that are looked up, through the L2 instead of trusting closed forms.
    """

    def __init__(
        self,
        name: str = "gpu",
        timing: str = "default",
        constants: Constants | None = None,
        simulate_l2: bool = False,
    ) -> None:
        self.name = name
        self._simulate_l2 = simulate_l2
        self._timing = timing
        self._given = constants
        # Sheets by device and memory, keyed by identity; the objects are kept so that none is taken twice.
        self._sheets: dict[tuple[int, int], tuple[Any, MemorySpace, GpuSheet]] = {}

    @property
    def constants(self) -> Constants:
        """The constants in use; read from the package at first need."""
        return self._given if self._given is not None else shipped_constants()

    def with_simulated_l2(self) -> GpuModel:
        """The same model at cycle fidelity."""
        return GpuModel(f"{self.name}, L2 by simulation", self._timing, self._given, simulate_l2=True)

    def sheet(self, node: Node, memory: MemorySpace) -> GpuSheet:
        """The data sheet of a node's GPU that works in a memory."""
        identity = (id(node.device), id(memory))
        known = self._sheets.get(identity)
        if known is None:
            if not isinstance(node.device, Gpu):
                raise bad_input(f"{node.name!r} is no GPU")
            if len(self._sheets) >= MAX_DEVICES_REMEMBERED:
                self._sheets.clear()
            known = self._sheets[identity] = (node.device, memory, gpu_sheet(node.device, memory))
        return known[2]

    def predict_rows(
        self, operators: Sequence[Operator], node: Node, memory: MemorySpace, timing: str = "default"
    ) -> list[Prediction]:
        """Predict many operators on one GPU at once; ``timing`` names how they would be measured."""
        sheet, setup = self.sheet(node, memory), self.constants.setup(timing)
        return self._predict(operators, sheet, setup)

    def _predict(self, operators: Sequence[Operator], sheet: GpuSheet, setup: Setup) -> list[Prediction]:
        for operator in operators:
            if operator.kind in COMMUNICATION_KINDS:
                raise bad_input(f"operator {operator.name!r} is communication; links set its time")
        return predict([Request(lowered(op), sheet, setup) for op in operators], self.constants)

    def cost(self, operator: Operator, node: Node, memory: MemorySpace) -> OperatorCost:
        """The cost of an operator on a node that works in a memory; SI units.

        Raises ``InputError`` for communication, for a device that is no GPU, and for one without a rate for the
        element type.
        """
        return self.costs([operator], node, memory)[0]

    def costs(self, operators: Sequence[Operator], node: Node, memory: MemorySpace) -> list[OperatorCost]:
        """The costs of many operators, each as :meth:`cost` gives it, with one call of a kernel per family."""
        if not isinstance(node.device, Gpu):
            raise bad_input(f"{node.name!r} is no GPU")
        for operator in operators:
            if operator.kind in COMMUNICATION_KINDS:
                raise bad_input(
                    f"operator {operator.name!r} is communication ({operator.kind}); links set its time"
                )
        sheet, setup = self.sheet(node, memory), self.constants.setup(self._timing)
        run = [lowered(operator) for operator in operators]
        found = predict([Request(operator, sheet, setup) for operator in run], self.constants)
        return [
            self._of(operator, prediction, node, memory, Request(operator, sheet, setup))
            for operator, prediction in zip(run, found, strict=True)
        ]

    def _of(
        self, operator: Operator, found: Prediction, node: Node, memory: MemorySpace, request: Request
    ) -> OperatorCost:
        """What a prediction costs, never below the data sheet's roofs."""
        assert isinstance(node.device, Gpu)
        if self._simulate_l2:
            found = with_simulated_l2(request, self.constants, found)
        # The closed forms count tiles; the data-sheet roof holds whatever they say, for bytes that move.
        arithmetic, traffic = roof_seconds(operator, node.device.compute, memory)
        cold = operator.residency not in ("hot", "previous")
        seconds = max(found.kernel_s, arithmetic, traffic if cold else 0.0)
        share = min(1.0, found.dram_bytes / max(1.0, operator.read_bytes + operator.write_bytes))
        read, written = operator.read_bytes, operator.write_bytes
        if not cold:
            read, written = int(read * share), int(written * share)
        moving = read * memory.energy_per_byte_read_j + written * memory.energy_per_byte_written_j
        # Counted in tiles the bytes may be fewer than the operator's own, and leave arithmetic too much power.
        joules = arithmetic_joules(found.compute_j, moving, seconds + found.launch_s, node, memory)
        return OperatorCost(seconds, found.launch_s, found.bound_by, read, written, joules, moving)


GPU: Final = GpuModel()
EAGER: Final = GpuModel("gpu-eager", "kernel")
"""Kernels of the 2023 generation of serving libraries, launched one by one: lower matrix rates, norms and
activations that move one element per thread."""
