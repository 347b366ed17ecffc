"""What an engine would be run with, and where every figure comes from: ``offchip serve --describe``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hw_configs.shown import Shown, Table
from hw_configs.units import format_quantity
from offchip.serving.build import Deployment, Part, rent_of

__all__ = ["Description", "describe"]


@dataclass(frozen=True)
class Description(Shown):
    """Settings, memory and price of a deployment: name, value, source."""

    head: str
    settings: tuple[tuple[str, str, str], ...]
    memory: tuple[tuple[str, str], ...]
    price: tuple[tuple[str, str], ...]

    def as_json(self) -> dict[str, Any]:
        """The description as plain data."""
        return {
            "what": self.head,
            "settings": {name: {"value": value, "source": source} for name, value, source in self.settings},
            "memory": dict(self.memory), "price": dict(self.price),
        }  # fmt: skip

    def shown_tables(self) -> Sequence[Table]:
        """Settings, then memory, then what a step's price is made of."""
        return (
            Table(self.head, ("setting", "value", "source"), self.settings),
            Table("\nMemory of the fullest device", ("", ""), self.memory),
            Table("\nPrice of a step", ("", ""), self.price),
        )


def _tiers(part: Part) -> dict[str, str]:
    """Places in slower memories."""
    space, found = part.capacity.space, {}
    for name, blocks in (("host cache", space.host_blocks), ("drive cache", space.drive_blocks)):
        if blocks:
            size = format_quantity(float(round(blocks * space.block_bytes)), "size")
            found[name] = f"{size}: {blocks} blocks, for requests that are preempted"
    return found


def _dollars(part: Part) -> str:
    """What a GPU costs an hour, and what that follows from."""
    system = part.pool.system
    cost = rent_of(system) if system.of_kind("gpu") else None
    return "no price stated" if cost is None else f"{cost.usd_per_s * 3600:.4g} USD/h a GPU ({cost.basis})"


def describe(deployment: Deployment, number: int = 0) -> Description:
    """What a deployment's pool runs with; one without pools has one."""
    part = deployment.parts[number]
    asked, base, settings = part.pool.asked, part.preset, part.settings
    rows = []
    for name in type(settings).__dataclass_fields__:
        default = base.defaults.get(name)
        value = getattr(settings, name)
        if name in asked.settings or any(key.startswith(f"{name}.") for key in asked.settings):
            source = "given"
        elif name == "max_model_len":
            source = f"{part.served.model.name}: the longest sequence of its config"
        elif name in ("engine", "version"):
            source = f"given; defaults of {base.version}"
        else:
            source = f"{base.version}, {default.source}" if default is not None else "off, as in vLLM"
        rows.append((name, str(value) if value not in ("", None) else "-", source))
    pricer: Any = part.pricer
    return Description(
        f"{part.pool.name and part.pool.name + ': '}{part.served.model.name} on {part.pool.system.name}, "
        f"{asked.engine}, {asked.describe_layout()}",
        tuple(rows), tuple((part.capacity.describe() | _tiers(part)).items()),
        (*pricer.describe().items(), ("dollars", _dollars(part))),
    )  # fmt: skip
