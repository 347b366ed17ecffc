"""How machines are joined into a cluster: ports, rails, leaf and spine switches, and how much the spine carries.

A machine's file names its network ports once (``network:``); a cluster then needs no more than a count. Port i of every
machine is rail i and has leaf switches of its own (NVIDIA DGX SuperPOD reference architectures); without ``rails`` all
ports of a machine share a leaf. Leaves serve ``machines_per_leaf`` machines each; where there are several, a spine
joins them, to which a leaf has as much bandwidth as its ports together, divided by ``oversubscription``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

from hw_configs.config import Config
from hw_configs.device import Switch
from hw_configs.link import Rdma

__all__ = [
    "CLUSTER_KIND",
    "MAX_MACHINES",
    "ClusterFile",
    "MachineSpec",
    "Network",
    "NetworkSpec",
    "UplinkSpec",
]

MAX_MACHINES: Final = 16384
CLUSTER_KIND: Final = "cluster"


class NetworkSpec(Config):
    """How machines of a kind are joined."""

    use: str
    """The link of every port."""
    ports: str = "nic"
    """The group of the machine whose members are its network ports."""
    switch: str = "ib-switch"
    """The device of leaves and spine."""
    rails: bool = True
    """Port i of every machine on a leaf of its own; else all ports of a machine on one leaf."""
    machines_per_leaf: Annotated[int, Field(ge=1, le=MAX_MACHINES)] = 32
    oversubscription: Annotated[float, Field(ge=1, le=1000)] = 1.0
    """Bandwidth of a leaf's ports over that of its way to the spine."""


class UplinkSpec(Config):
    """What joins machines of unlike networks: one port per machine, at its first CPU, to one switch."""

    use: str
    """The link of every such port; both adapters count in its latency."""
    at: str = "cpu"
    """The group of the machine at whose first member the port is."""
    switch: str = "ib-switch"


class MachineSpec(Config):
    """Equal machines of a cluster."""

    use: str
    """The system file of one machine."""
    count: Annotated[int, Field(ge=1, le=MAX_MACHINES)] = 1
    network: NetworkSpec | None = None
    """In place of the network that the machine's file names."""


class ClusterFile(Config):
    """The file of a cluster."""

    kind: str = Field(pattern="^cluster$")
    name: str
    description: str = ""
    source: str = ""
    aliases: tuple[str, ...] = ()
    machines: Annotated[list[MachineSpec], Field(min_length=1, max_length=1024)]
    network: NetworkSpec | None = None
    """In place of the networks that the machines' files name."""
    between: UplinkSpec | None = None
    """What joins machines whose networks differ; machines of equal networks are joined by those."""


@dataclass(frozen=True, slots=True)
class Network:
    """A :class:`NetworkSpec` with its link and switch read."""

    ports: str
    link: Rdma
    switch: Switch
    rails: bool
    machines_per_leaf: int
    oversubscription: float
