"""From a GPU's name in published measurements to a device: shipped file, or a data-sheet row beside the data.

Sources write the same board in many ways ("A100-SXM4-80GB", "a100_sxm"); a board is known by the name and aliases of
its own file, however they are written (:func:`hw_configs.catalog.known_name`). A folder of measurements may hold a
``hardware.csv`` with one data-sheet row per GPU; it serves GPUs that Offchip does not ship, and gives the bandwidth of
the wires between GPUs.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from hw_configs.catalog import known_name
from hw_configs.config import parse
from hw_configs.device import Gpu
from hw_configs.library import catalog, load_device, load_system
from hw_configs.problems import InputError, Problem
from hw_configs.system import MemorySpace, Node, System
from hw_configs.yaml_file import Document

__all__ = [
    "ReferenceGpu",
    "ReferenceGpus",
    "architecture_name",
    "machine_of",
    "same_gpu",
    "shipped_gpu",
    "single_gpu",
    "usual_wires",
]

_HARDWARE_FIGURES: Final = {
    "arch": "architecture",
    "sms": "multiprocessors",
    "boost_mhz": "clock",
    "fp32_tflops": "compute.vector.fp32",
    "dram_gbs": "memory.bandwidth",
    "l2_mib": "l2.size",
    "l1_smem_kib_per_sm": "l1_per_multiprocessor.size",
    "mem_gib": "memory.capacity",
}


@dataclass(frozen=True)
class ReferenceGpu:
    """A GPU that measurements name, as the cost models want it.

    ``wire_bandwidth`` is bytes per second and direction from one GPU to its peers in a node (NVLink or PCIe),
    ``host_bandwidth`` the same over PCIe; None where neither is known.
    """

    node: Node
    memory: MemorySpace
    wire_bandwidth: float | None = None
    host_bandwidth: float | None = None

    @property
    def gpu(self) -> Gpu:
        """The device's data sheet."""
        assert isinstance(self.node.device, Gpu)
        return self.node.device


@dataclass
class ReferenceGpus:
    """Looks GPUs up by a source's names; remembers what it found.

    ``hardware`` is a data-sheet table. ``shipped`` False keeps to it, so that a fit rests on one file alone.
    """

    hardware: Path | None = None
    shipped: bool = True
    _rows: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    _found: dict[str, ReferenceGpu | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.hardware is not None:
            with self.hardware.open(encoding="utf-8-sig", newline="") as stream:
                reader = csv.DictReader(stream)
                for row in reader:
                    cells = {key: (text or "").strip() for key, text in row.items() if key is not None}
                    self._rows[cells.get("gpu", "").lower()] = (reader.line_num, cells)

    def find(self, name: str) -> ReferenceGpu | None:
        """The GPU of that name, or None when nobody knows it."""
        key = name.strip().lower()
        if key not in self._found:
            self._found[key] = self._look_up(key)
        return self._found[key]

    def _look_up(self, key: str) -> ReferenceGpu | None:
        line, row = self._rows.get(key, (0, {}))
        wire, host = _rate(row, "link_gbs_per_dir"), _rate(row, "pcie_gbs_per_dir")
        device = shipped_gpu(key) if self.shipped else None
        if device is not None and device.memory is not None:
            usual_wire, usual_host = usual_wires(device)
            return single_gpu(device, wire or usual_wire, host or usual_host)
        if row:
            return single_gpu(self._from_row(row, line), wire, host)
        return None

    def _from_row(self, row: dict[str, str], line: int) -> Gpu:
        file = str(self.hardware)
        missing = [Problem("no figure", file, line, name) for name in _HARDWARE_FIGURES if not row.get(name)]
        if missing:
            raise InputError(missing)
        matrix = {"fp16": f"{row['tensor16_tflops']} TFLOP/s"} if row.get("tensor16_tflops") else {}
        if matrix:
            matrix["bf16"] = matrix["fp16"]
        if row.get("tensor8_tflops"):
            matrix["fp8"] = f"{row['tensor8_tflops']} TFLOP/s"
            matrix["int8"] = f"{row['tensor8_tflops']} TOP/s"
        data: dict[str, Any] = {
            "kind": "gpu",
            "name": row["gpu"],
            "architecture": architecture_name(row["arch"]),
            "multiprocessors": int(float(row["sms"])),
            "clock": f"{row['boost_mhz']} MHz",
            "compute": {"matrix": matrix, "vector": {"fp32": f"{row['fp32_tflops']} TFLOP/s"}},
            "l2": {"size": f"{row['l2_mib']} MiB"},
            "l1_per_multiprocessor": {"size": f"{row['l1_smem_kib_per_sm']} KiB"},
            "memory": {
                "technology": row.get("technology") or "unknown",
                "capacity": f"{row['mem_gib']} GiB",
                "bandwidth": f"{row['dram_gbs']} GB/s",
            },
        }
        if row.get("tdp_w"):
            # No data sheet gives the idle power; a tenth of the TDP is an assumption that no time depends on.
            data["power"] = {"idle": f"{float(row['tdp_w']) / 10:g} W", "tdp": f"{row['tdp_w']} W"}
        return parse(Gpu, Document(file, data, {(): line}, {}))


def _rate(row: dict[str, str], column: str) -> float | None:
    try:
        return float(row[column]) * 1e9 if row.get(column) else None
    except ValueError:
        return None


def single_gpu(gpu: Gpu, wire: float | None = None, host: float | None = None) -> ReferenceGpu:
    """A GPU alone, in its own memory."""
    system = System(gpu.name, {gpu.name: Node(gpu.name, gpu.name, gpu, gpu.name)}, {})
    return ReferenceGpu(system.nodes[gpu.name], system.memories[gpu.name], wire, host)


def shipped_gpu(name: str) -> Gpu | None:
    """The shipped GPU that a source's name means, or None."""
    known = known_name(name.strip())
    if known is None or catalog()[known].kind != "device":
        return None
    device = load_device(known)
    return device if isinstance(device, Gpu) else None


@cache
def machine_of(name: str, devices: int = 1) -> System | None:
    """The machine in which measurements that name a board alone ran on so many of them; None where nobody knows it.

    The name of a shipped system means that system; a board means the system that its file calls usual, and itself
    where it states none.
    """
    known = known_name(name.strip())
    if known is None:
        return None
    system = load_system(known)
    usual = next((getattr(node.device, "usual_system", None) for node in system.nodes.values()), None)
    machine = load_system(usual) if usual is not None and len(system.nodes) == 1 else system
    return machine if len(machine.of_kind("gpu", "accelerator")) >= devices else None


def same_gpu(name: str, device: str) -> bool:
    """Whether a source's name means the shipped device of that name."""
    return name.strip().lower() == device.lower() or known_name(name.strip()) == device


def architecture_name(text: str) -> str:
    """The name of the architecture file that a table means by generation and compute capability.

    >>> architecture_name("Ampere sm_80"), architecture_name("CDNA2")
    ('ampere-sm80', 'cdna2')
    """
    return text.lower().replace(" sm_", "-sm")


def usual_wires(gpu: Gpu) -> tuple[float | None, float | None]:
    """Bandwidth to peer GPUs and to the host of a board whose system is unknown, as its architecture has them."""
    host = gpu.architecture.host_bandwidth
    return (gpu.architecture.peer_bandwidth or host), host
