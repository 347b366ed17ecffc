"""What an engine would be run with, and where every figure comes from: ``offchip serve --describe``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hw_configs.shown import Shown, Table
from offchip.serving.build import Deployment, rent_of
from simulator.serving.exchange_time import gpus_of

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


def describe(deployment: Deployment) -> Description:
    """What a deployment runs with."""
    asked, base, settings = deployment.asked, deployment.preset, deployment.settings
    rows = []
    for name in type(settings).__dataclass_fields__:
        default = base.defaults.get(name)
        value = getattr(settings, name)
        if name in asked.settings or any(key.startswith(f"{name}.") for key in asked.settings):
            source = "given"
        elif name == "max_model_len":
            source = f"{deployment.served.model.name}: the longest sequence of its config"
        elif name in ("engine", "version"):
            source = f"given; defaults of {base.version}"
        else:
            source = f"{base.version}, {default.source}" if default is not None else "off, as in vLLM"
        rows.append((name, str(value) if value not in ("", None) else "-", source))
    pricer: Any = deployment.service.workers[0].pricer
    return Description(
        f"{deployment.served.model.name} on {deployment.system.name}, {asked.engine}, {asked.describe_layout()}",
        tuple(rows), tuple(deployment.capacity.describe().items()),
        (*pricer.describe().items(), ("dollars", _dollars(deployment))),
    )  # fmt: skip


def _dollars(deployment: Deployment) -> str:
    """What a device costs an hour, and what that follows from."""
    cost = rent_of(deployment.system, gpus_of(deployment.system))
    return "no price stated" if cost is None else f"{cost.usd_per_s * 3600:.4g} USD/h a device ({cost.basis})"
