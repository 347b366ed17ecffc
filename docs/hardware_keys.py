"""Writes the tables of keys in hardware.md from the schema, so that the page cannot fall behind it.

Run ``python docs/hardware_keys.py`` after a change of a schema; a test compares the page with this output.
"""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from hw_configs import cache, csd, device, flash, gpu_architecture, link, pim, scratchpad, system, vector_unit
from hw_configs.config import field_quantity
from hw_configs.units import DIMENSIONS

PAGE = Path(__file__).with_name("hardware.md")
START, END = "<!-- keys: written by hardware_keys.py -->\n", "<!-- end of keys -->\n"
MODELS: tuple[type[BaseModel], ...] = (
    device.Gpu, gpu_architecture.GpuArchitecture, gpu_architecture.AttentionKernel, device.Cpu,
    device.Pim, pim.PimUnits, pim.PimBuffers, pim.PimRules, pim.PimRuleChoice,
    pim.PimEnergy, device.Flash, device.ComputationalStorage, csd.AttentionEngine, device.Accelerator,
    scratchpad.Scratchpad, vector_unit.VectorUnit, device.Nic, device.Switch, device.ObjectCache, cache.CacheLevel,
    device.Memory, device.Compute,
    device.Envelope, device.Cache,
    flash.FlashStore, flash.FlashGeometry, flash.FlashTiming, flash.FlashHost, flash.FlashController,
    flash.FlashEnergy, flash.FlashEndurance, link.Pcie, link.NvLink, link.Rdma,
    link.OnChip, system.SystemFile, system.DeviceGroup, system.WireSpec,
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


def page(text: str) -> str:
    """The page with its tables written anew."""
    before, rest = text.split(START)
    return before + START + tables() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
