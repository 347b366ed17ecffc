"""From a GPU's name in published measurements to a device: shipped file, or a data-sheet row beside the data.

Sources write the same board in many ways ("A100-SXM4-80GB", "a100_sxm"); the names met so far stand in one
table here. A folder of measurements may hold a ``hardware.csv`` with one data-sheet row per GPU; it serves
GPUs that Offchip does not ship, and gives the bandwidth of the wires between GPUs.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hw_configs.config import parse
from hw_configs.device import Gpu
from hw_configs.library import catalog, load_device
from hw_configs.problems import InputError, Problem
from hw_configs.system import MemorySpace, Node, System
from hw_configs.yaml_file import Document

__all__ = [
    "ALIASES",
    "ReferenceGpu",
    "ReferenceGpus",
    "architecture_name",
    "device_named",
    "same_gpu",
    "single_gpu",
    "usual_wires",
]

ALIASES: Final[dict[str, tuple[str, ...]]] = {
    "a100-80gb": ("a100-80gb", "a100-sxm-80gb", "a100-sxm4-80gb"),
    "a100-sxm4-80gb": ("a100-80gb", "a100-sxm-80gb", "a100-sxm4-80gb"),
    "a100-sxm4-40gb": ("a100-40gb", "a100-sxm-40gb", "a100-sxm4-40gb"),
    "a100-pcie-80gb": ("a100-pcie-80gb", "a100-80gb-pcie"),
    "a100-pcie-40gb": ("a100-pcie-40gb", "a100-40gb-pcie"),
    "h100-80gb": ("h100-sxm", "h100-80gb", "h100-sxm-80gb"),
    "h100-sxm": ("h100-sxm", "h100-80gb", "h100-sxm-80gb"),
    "h200-sxm": ("h200", "h200-sxm"),
    "b200-sxm": ("b200", "b200-sxm"),
    "v100-pcie-32gb": ("v100-pcie-32gb", "v100-32gb-pcie"),
    "p100-pcie": ("p100-pcie", "p100-pcie-16gb", "p100"),
    "rtx-pro-6000-se": ("rtx-pro-6000", "rtx-pro-6000-se"),
}
"""Names of sources in lower case, and the shipped devices that are the same board, likeliest first."""

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
        for candidate in (*ALIASES.get(key, ()), key) if self.shipped else ():
            if candidate in catalog() and catalog()[candidate].kind == "device":
                device = load_device(candidate)
                if isinstance(device, Gpu) and device.memory is not None:
                    usual_wire, usual_host = usual_wires(device)
                    return single_gpu(device, wire or usual_wire, host or usual_host)
        if row:
            return single_gpu(self._from_row(row, line), wire, host)
        named = device_named(key) if self.shipped else None
        return single_gpu(load_device(named), *usual_wires(load_device(named))) if named else None  # type: ignore[arg-type]

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


def device_named(text: str) -> str | None:
    """The shipped GPU whose name's words all stand in a source's name for it; the one of most words, or None.

    >>> device_named("AMD_Instinct_MI210"), device_named("NVIDIA RTX PRO 6000 Blackwell Server Edition")
    ('mi210', 'rtx-pro-6000')
    """
    words = set(re.split(r"[^a-z0-9]+", text.lower()))
    found = [
        (len(entry.name.split("-")), entry.name)
        for entry in catalog().values()
        if entry.kind == "device" and set(entry.name.split("-")) <= words and _is_gpu(entry.name)
    ]
    most = max((count for count, _ in found), default=0)
    best = [name for count, name in found if count == most]
    return best[0] if len(best) == 1 else None


def _is_gpu(name: str) -> bool:
    device = load_device(name)
    return isinstance(device, Gpu) and device.memory is not None


def _rate(row: dict[str, str], column: str) -> float | None:
    try:
        return float(row[column]) * 1e9 if row.get(column) else None
    except ValueError:
        return None


def single_gpu(gpu: Gpu, wire: float | None = None, host: float | None = None) -> ReferenceGpu:
    """A GPU alone, in its own memory."""
    system = System(gpu.name, {gpu.name: Node(gpu.name, gpu.name, gpu, gpu.name)}, {})
    return ReferenceGpu(system.nodes[gpu.name], system.memories[gpu.name], wire, host)


def same_gpu(name: str, device: str) -> bool:
    """Whether a source's name means the shipped device of that name."""
    key = name.strip().lower()
    return key == device.lower() or device in ALIASES.get(key, ())


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
