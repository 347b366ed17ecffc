"""The analytic cost model: a roofline whose efficiencies have names.

An operator takes ``launch + soft_max(arithmetic, traffic)``, where

- arithmetic = FLOPs / (e_c x peak rate). Attention kernels work in tiles of 64 or 128 query rows, one
  per multiprocessor, so few or short tiles leave the rest idle (FlashAttention-2, arXiv:2307.08691, 3.2);
- traffic = bytes / (e_m x g x bandwidth), with g of the GPU's generation;
- norms and softmax read rows of more than 1024 elements again, from DRAM as far as the rows in flight
  overflow the L2 cache;
- soft_max(a, b) = (a^p + b^p)^(1/p): p tells how well a kernel overlaps the two; it is never below either;
- FP32 arithmetic is also held to what the board's power allows.

Each operator class has its own launch, e_c, e_m and p, the same for every GPU. No constant belongs to one GPU
or one model. They stand in ``roofline_constants.json``, which ``calibration/fit_roofline.py`` writes from
published measurements; docs/validation.md gives the residuals. Devices that no measurement covers (CPU,
accelerator, computational storage, PIM) run at assumed efficiencies.

``roofline-peak`` is the same without any loss: the data-sheet roof (Williams et al., Roofline, CACM 52(4),
2009), a lower bound for every other model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from hw_configs.device import ComputationalStorage, Gpu
from hw_configs.problems import bad_input
from hw_configs.system import MemorySpace, Node
from simulator.cost.model import FREE_KINDS, OperatorCost, arithmetic_joules, energy_per_operation, peak_rate
from workloads.graph import Operator
from workloads.operators import KINDS, Activation, Attention, Norm, Product, Rotary, Rows

__all__ = [
    "COMMUNICATION_KINDS",
    "PEAK",
    "ROOFLINE",
    "Efficiency",
    "Roofline",
    "constants",
    "operator_class",
    "reread_share",
    "soft_max",
    "tiling_loss",
]

COMMUNICATION_KINDS: Final = frozenset(name for name, kind in KINDS.items() if kind.communicates)
"""Kinds whose time comes from links, which a cost model does not see."""

_CLASS_OF_KIND: Final = {
    "norm": "norm",
    "softmax": "softmax",
    "activation": "elementwise",
    "elementwise": "elementwise",
    "rotary": "elementwise",
    "embedding": "lookup",
    "gather": "lookup",
    "scatter": "lookup",
}
_SCALAR_CLASS: Final = {"norm": "scalar_norm", "activation": "scalar_activation", "rotary": "scalar_rotary"}
_NARROW: Final = frozenset({"fp8", "mxfp8", "int8", "uint8", "fp4", "mxfp4", "nvfp4", "int4"})
_WIDE: Final = frozenset({"fp32", "fp64"})
QUERY_TILE: Final = 128
"""Query rows of one attention tile of a device that is no GPU; a GPU's architecture states its own."""
ROW_IN_REGISTERS: Final = 1024
ROWS_PER_UNIT: Final = 4
"""Rows in flight on a multiprocessor: 2048 threads in blocks of 512, one row each, as PyTorch has it."""
KEY_BLOCK: Final = 64
"""Keys that a tile takes up at a time."""
MAX_DEVICES_REMEMBERED: Final = 256


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What an operator class reaches on a device: launch in seconds, shares of peak rate and bandwidth.

    ``overlap`` is the exponent p of :func:`soft_max`; ``tile_s`` is the least time of one tile of work.
    ``reread`` and ``l2_share`` belong to :func:`reread_share`.
    """

    launch_s: float
    compute: float
    memory: float
    overlap: float = float("inf")
    tile_s: float = 0.0
    reread: float = 0.0
    l2_share: float = 1.0


@dataclass(frozen=True, slots=True)
class _Rates:
    """An :class:`Efficiency` turned into seconds per FLOP and byte and joules per FLOP on one device."""

    launch_s: float
    s_per_flop: float
    s_per_read_byte: float
    s_per_written_byte: float
    ports_apart: bool
    """Whether reads and writes run beside each other."""
    overlap: float
    j_per_flop: float
    units: int
    tile_s: float
    tile: int
    """Query rows of an attention tile; 0 for work that is not tiled so."""
    reread: float
    l2_bytes: float
    """The part of the L2 cache that rows in flight can fill before every second read of them misses."""


def operator_class(operator: Operator) -> str:
    """The class whose constants an operator takes.

    Products are told apart by the width of their arithmetic, attention by whether the kernel splits the KV
    cache among multiprocessors (decode, one query position) or not (prefill, or ``split_kv`` False). Kernels
    that move one element per thread (``vectorised`` False) are classes of their own.
    """
    kind = operator.kind
    if kind == "matmul":
        if operator.dtype in _NARROW:
            return "gemm8"
        if operator.dtype in _WIDE:
            batched = isinstance(operator.work, Product) and operator.work.batch != 1
            return "bmm" if batched else "gemm32"
        return "gemm16"
    if isinstance(operator.work, Attention):
        alone = operator.work.q_len == 1 and operator.work.split_kv
        return "attention_decode" if alone else "attention_prefill"
    if kind == "conv":
        return "conv32" if operator.dtype in _WIDE else "conv"
    if kind == "grouped_matmul":
        return "gemm8" if operator.dtype in _NARROW else "gemm16"
    name = _CLASS_OF_KIND.get(kind, "other")
    if isinstance(operator.work, Norm | Activation | Rotary) and not operator.work.vectorised:
        return _SCALAR_CLASS.get(kind, name)
    return name


def soft_max(one: Any, other: Any, overlap: Any) -> Any:
    """(a^p + b^p)^(1/p), at least the larger of the two; p = 1 is no overlap, infinite p is a perfect one.

    Takes floats or arrays of seconds, each at least 0.
    """
    return (one**overlap + other**overlap) ** (1 / overlap)


def tiling_loss(operator: Operator, units: int, tile: int = QUERY_TILE) -> float:
    """How many times longer attention computes than its FLOPs say, for want of whole tiles or enough of them.

    A tile of query rows is computed whole, with the keys that its longest row sees, on one of ``units``
    multiprocessors. At least 1; 1 for an operator that is no attention.
    """
    work = operator.work
    if not isinstance(work, Attention) or not work.flops:
        return 1.0
    heads, q_len = work.batch * work.heads, work.q_len
    seen = min(work.kv_len, work.limit + tile)
    longest = float(-(-seen // KEY_BLOCK) * KEY_BLOCK)
    pairs = work.flops / work.share / (2.0 * heads * (work.head_dim + work.value_dim))
    diagonal = tile / 2 if work.causal else 0.0
    rows = -(-q_len // tile) * tile
    tiled_pairs = max(pairs, rows * min(max(pairs / q_len + diagonal, KEY_BLOCK), longest))
    busiest = max(heads * tiled_pairs / units, tile * longest)
    return max(1.0, busiest * units / (heads * pairs))


def reread_share(operator: Operator, units: int, l2_bytes: float) -> float:
    """Share of its rows that a norm or softmax reads from DRAM a second time, 0 to 1.

    A row of up to ``ROW_IN_REGISTERS`` elements is kept in registers between the passes over it. A longer one
    is read again, from L2 as long as the rows in flight fit there.
    """
    if not isinstance(operator.work, Rows):
        return 0.0
    rows, columns = operator.work.m, operator.work.n
    if columns <= ROW_IN_REGISTERS or not rows:
        return 0.0
    row_bytes = operator.read_bytes / rows
    in_flight = min(rows, ROWS_PER_UNIT * units) * row_bytes
    return min(1.0, in_flight / l2_bytes) if operator.read_bytes > l2_bytes > 0 else 0.0


class Roofline:
    """A cost model of closed forms; see the module's first lines.

    ``constants`` is the content of the constants file; None means no losses at all (the data-sheet roof).
    """

    def __init__(self, name: str, constants: dict[str, Any] | None) -> None:
        self.name = name
        self._constants = constants
        # Rates by device and memory. Keyed by identity, because hashing a device costs more than an
        # operator; the objects are kept beside their rates so that an identity cannot be taken twice.
        self._rates: dict[tuple[int, int], tuple[Any, MemorySpace, dict[tuple[str, str, str], _Rates]]] = {}

    def cost(self, operator: Operator, node: Node, memory: MemorySpace) -> OperatorCost:
        """The cost of an operator on a node that works in a memory; SI units.

        Raises ``InputError`` for communication, whose time comes from links, and for a device without a rate
        for the operator's element type.
        """
        kind = operator.kind
        if kind in FREE_KINDS:
            return OperatorCost(0.0, 0.0, "none", 0, 0, 0.0, 0.0)
        if kind in COMMUNICATION_KINDS:
            raise bad_input(f"operator {operator.name!r} is communication ({kind}); links set its time")
        rates = self._rates_for(operator, node, memory)
        arithmetic = operator.flops * rates.s_per_flop
        if rates.tile:
            arithmetic *= tiling_loss(operator, rates.units, rates.tile)
        read_bytes = operator.read_bytes
        reading, writing = read_bytes * rates.s_per_read_byte, operator.write_bytes * rates.s_per_written_byte
        traffic = max(reading, writing) if rates.ports_apart else reading + writing
        if rates.reread:
            again = int(rates.reread * reread_share(operator, rates.units, rates.l2_bytes) * read_bytes)
            traffic += again * rates.s_per_read_byte
            read_bytes += again
        bound = "compute" if arithmetic > traffic else "memory"
        seconds = arithmetic if arithmetic > traffic else traffic
        if rates.overlap < 64 and seconds > 0:
            ratio = (traffic if arithmetic > traffic else arithmetic) / seconds
            seconds *= (1 + ratio**rates.overlap) ** (1 / rates.overlap)
        if rates.tile_s:
            seconds += rates.tile_s * sequences(operator) / rates.units
        if rates.launch_s > seconds:
            bound = "launch"
        joules, moving = operator.flops * rates.j_per_flop, read_bytes * memory.energy_per_byte_read_j
        moving += operator.write_bytes * memory.energy_per_byte_written_j
        if joules:
            joules = arithmetic_joules(joules, moving, seconds + rates.launch_s, node, memory)
        return OperatorCost(seconds, rates.launch_s, bound, read_bytes, operator.write_bytes, joules, moving)

    def efficiency(self, name: str, node: Node) -> Efficiency:
        """What an operator class reaches on a device."""
        if self._constants is None:
            return Efficiency(0.0, 1.0, 1.0)
        device = node.device
        if not isinstance(device, Gpu):
            assumed = self._constants["assumed"].get(device.kind, self._constants["assumed"]["cpu"])
            launch = node.compute.launch if node.compute is not None else 0.0
            return Efficiency(launch, assumed["compute"], assumed["memory"])
        fit = self._constants["gpu"]
        own = fit["classes"][name]
        compute = own["compute"]
        if name in fit["matrix_classes"] and half_rate(device):
            compute *= fit["half_rate_gain"]
        if name in fit["power_classes"]:
            compute = min(compute, power_share(device, fit))
        generations = fit["memory_by_generation"]
        share = generations.get(generation(device), generations["default"])
        return Efficiency(
            own["launch_us"] * 1e-6,
            min(compute, 1.0),
            min(own["memory"] * share, 1.0),
            own["overlap"],
            own.get("tile_us", 0.0) * 1e-6,
            own.get("reread", 0.0),
            own.get("l2_share", 1.0),
        )

    def _rates_for(self, operator: Operator, node: Node, memory: MemorySpace) -> _Rates:
        identity = (id(node.device), id(memory))
        known = self._rates.get(identity)
        if known is None:
            if len(self._rates) >= MAX_DEVICES_REMEMBERED:
                self._rates.clear()
            known = self._rates[identity] = (node.device, memory, {})
        name = operator_class(operator)
        key = (name, operator.kind, operator.dtype)
        rates = known[2].get(key)
        if rates is None:
            rates = known[2][key] = self._resolve(name, operator, node, memory)
        return rates

    def _resolve(self, name: str, operator: Operator, node: Node, memory: MemorySpace) -> _Rates:
        compute, device = node.compute, node.device
        if compute is None:
            raise bad_input(f"device {node.name!r} computes nothing; it cannot run {operator.name!r}")
        reached = self.efficiency(name, node)
        tiled = name == "attention_prefill" and isinstance(device, Gpu) and self._constants is not None
        return _Rates(
            reached.launch_s,
            1 / (reached.compute * peak_rate(compute, operator.kind, operator.dtype)),
            1 / (reached.memory * memory.read_bandwidth),
            1 / (reached.memory * memory.write_bandwidth),
            # A drive's own compute meets the channels behind its ports, which are buses for both ways.
            memory.ports == 2 and not isinstance(device, ComputationalStorage),
            reached.overlap,
            energy_per_operation(compute, operator.dtype),
            device.multiprocessors if isinstance(device, Gpu) else 1,
            reached.tile_s,
            query_tile(device) if tiled else 0,
            reached.reread,
            reached.l2_share * device.l2.size if isinstance(device, Gpu) else 0.0,
        )


def sequences(operator: Operator) -> float:
    """Independent (sequence, KV head) pairs of a decode step, each at least one tile of work."""
    work = operator.work
    return float(work.batch * work.kv_heads) if isinstance(work, Attention) else 1.0


def generation(gpu: Gpu) -> str:
    """The generation whose fitted constants a GPU takes; empty where nothing of it was measured."""
    return gpu.architecture.calibrated_as or ""


def query_tile(device: object) -> int:
    """Query rows of an attention tile on a device."""
    return device.architecture.attention.query_tile if isinstance(device, Gpu) else QUERY_TILE


def half_rate(gpu: Gpu) -> bool:
    """Whether the matrix unit runs at half rate, as GeForce boards do with FP32 accumulation.

    Such a unit does at most about twice the vector unit's rate; nothing starves it, so it comes nearer its
    peak than a full-rate unit.
    """
    matrix = max(gpu.compute.matrix.get("fp16", 0.0), gpu.compute.matrix.get("bf16", 0.0))
    vector = gpu.compute.vector.get("fp32", 0.0)
    return 0 < matrix <= 2.5 * vector


def power_share(gpu: Gpu, fit: dict[str, Any]) -> float:
    """Share of the FP32 peak that the board's power sustains; 1 where the power is unknown.

    The share of the TDP left to arithmetic, over the energy of an FP32 operation in the GPU's process.
    """
    if gpu.power is None:
        return 1.0
    power = fit["power"]
    scale = power["process_scale"].get(generation(gpu), power["process_scale"]["default"])
    watts_at_peak = power["fp32_pj_per_flop"] * 1e-12 * scale * gpu.compute.vector.get("fp32", 0.0)
    if watts_at_peak <= 0:
        return 1.0
    return min(1.0, float(power["share_of_tdp"] * gpu.power.tdp / watts_at_peak))


@cache
def constants() -> dict[str, Any]:
    """The calibrated constants, with their units, sources and fit."""
    text = files("simulator.cost").joinpath("roofline_constants.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


ROOFLINE: Final = Roofline("roofline", constants())
PEAK: Final = Roofline("roofline-peak", None)
