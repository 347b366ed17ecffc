"""Writes the tables of hardware.md: keys from the schema, chips from their files, so that the page cannot fall behind.

Run ``python docs/hardware_keys.py`` after a change of a schema or a chip; a test compares the page with this output.
"""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from hw_configs import (
    access_energy,
    cache,
    csd,
    device,
    flash,
    gpu_architecture,
    gpu_memory_path,
    link,
    many_threads,
    network,
    pim,
    processor,
    scratchpad,
    spatial,
    system,
    vector_unit,
    window_pipeline,
)
from hw_configs.catalog import catalog
from hw_configs.config import field_quantity
from hw_configs.library import load_device
from hw_configs.units import DIMENSIONS, format_quantity

PAGE = Path(__file__).with_name("hardware.md")
START, END = "<!-- keys: written by hardware_keys.py -->\n", "<!-- end of keys -->\n"
CHIPS, CHIPS_END = "<!-- chips: written by hardware_keys.py -->\n", "<!-- end of chips -->\n"
MODELS: tuple[type[BaseModel], ...] = (
    device.Gpu, gpu_architecture.GpuArchitecture, gpu_architecture.AttentionKernel,
    gpu_memory_path.GpuMemoryPath, device.Cpu, processor.Dies,
    device.Pim, pim.PimUnits, pim.PimBuffers, pim.PimRules, pim.PimRuleChoice,
    pim.PimEnergy, device.Flash, device.ComputationalStorage, csd.AttentionEngine, device.Accelerator,
    scratchpad.Scratchpad, scratchpad.OperandBuffer, vector_unit.VectorUnit, device.SpatialAccelerator,
    spatial.WordBits, spatial.MemoryLevel, spatial.StoredAs,
    access_energy.AccessEnergy, spatial.SpatialAxis, many_threads.ManyThreads, window_pipeline.WindowPipeline,
    device.Nic, device.Switch, device.ObjectCache, cache.CacheLevel,
    device.Memory, device.Compute,
    device.Envelope, device.Cache,
    flash.FlashStore, flash.FlashGeometry, flash.FlashTiming, flash.FlashHost, flash.FlashController,
    flash.FlashEnergy, flash.FlashEndurance, link.Pcie, link.NvLink, link.Rdma,
    link.OnChip, system.SystemFile, system.DeviceGroup, system.WireSpec, network.NetworkSpec,
    network.ClusterFile, network.MachineSpec, network.UplinkSpec,
)  # fmt: skip


def tables() -> str:
    """One table per model: key, what it holds, whether it is needed, what it means."""
    return "\n".join(_table(model) for model in MODELS)


def _table(model: type[BaseModel]) -> str:
    kind = model.model_fields.get("kind")
    tag = (
        f" (`kind: {typing.get_args(kind.annotation)[0]}`)"
        if kind and typing.get_args(kind.annotation)
        else ""
    )
    rows = [f"### {model.__name__}{tag}\n", "| key | holds | needed | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if name == "kind":
            continue
        needed = "yes" if field.is_required() else "no"
        meaning = re.sub(r"\s+", " ", field.description or "").replace("``", "`").replace("|", "\\|")
        rows.append(f"| `{name}` | {_holds(field)} | {needed} | {meaning} |")
    return "\n".join(rows) + "\n"


def _holds(field: Any) -> str:
    quantity = field_quantity(field)
    if quantity is not None:
        example = f"{quantity.dimension.replace('_', ' ')}, as `{DIMENSIONS[quantity.dimension].example}`"
        return f"table by element type: {example}" if typing.get_origin(field.annotation) is dict else example
    return _words(field.annotation)


def _words(annotation: Any) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is typing.Annotated:
        return _words(inner[0])
    if origin in (list, tuple):
        return f"list of {_words(inner[0])}"
    if origin is dict:
        return f"names with {_words(inner[1])}"
    if inner:
        parts = [_words(part) for part in inner if part is not type(None)]
        return "any link" if "Pcie" in parts else "any device" if "Gpu" in parts else " or ".join(parts)
    words = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`"}
    return words.get(annotation) or f"{annotation.__name__}"


def chips() -> str:
    """One table of the GPUs and the matrix engines with a memory of their own."""
    rows = [
        "| name | architecture or arrays | 16-bit products | 8-bit | memory | limit | price |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in catalog().values():
        if entry.kind != "device" or entry.path.parent.name not in ("gpu", "accelerator"):
            continue
        chip = load_device(entry.name)
        if isinstance(chip, device.Gpu | device.Accelerator) and chip.memory is not None:
            rows.append("| " + " | ".join(_chip(chip, chip.memory)) + " |")
    return "\n".join(rows) + "\n"


def _chip(chip: device.Gpu | device.Accelerator, memory: device.Memory) -> tuple[str, ...]:
    if isinstance(chip, device.Gpu):
        kind = f"{chip.architecture.name}, {chip.multiprocessors} multiprocessors"
    else:
        kind = f"{chip.arrays} x {chip.array_rows} x {chip.array_columns}"
    space, rate = (
        format_quantity(x, d) for x, d in ((memory.capacity, "size"), (memory.bandwidth, "bandwidth"))
    )
    price = format_quantity(chip.price, "price") if chip.price is not None else ""
    rent = format_quantity(chip.price_rate, "price_rate") if chip.price_rate is not None else ""
    limit = format_quantity(chip.power.tdp, "power") if chip.power is not None else ""
    return (
        f"`{chip.name}`", kind, _rate(chip, "fp16", "bf16"), _rate(chip, "fp8", "int8"),
        f"{space} {memory.technology}, {rate}", limit, ", ".join(text for text in (rent, price) if text),
    )  # fmt: skip


def _rate(chip: device.Gpu | device.Accelerator, *dtypes: str) -> str:
    """The first of these rates on the matrix units, else on the vector lanes."""
    for table, words in ((chip.compute.matrix, ""), (chip.compute.vector, " (lanes)")):
        for dtype in dtypes:
            if dtype in table:
                rate = format_quantity(table[dtype], "operation_rate")
                return f"{dtype} {rate}{words}".replace("FLOP", "OP" if dtype.startswith("int") else "FLOP")
    return ""


def page(text: str) -> str:
    """The page with its tables written anew."""
    for start, written, end in ((START, tables, END), (CHIPS, chips, CHIPS_END)):
        before, rest = text.split(start)
        text = before + start + written() + end + rest.split(end)[1]
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
