"""Caches on their way between workers: bytes over the links of a system, which all transfers share fairly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from hw_configs.system import System
from simulator.cost.model import COST_MODELS
from simulator.link.flows import FlowNetwork
from simulator.serving.events import EventLoop, Rank
from simulator.system.costs import CostTable, Path

__all__ = ["Sending", "Wires"]


class _Shard(NamedTuple):
    """What goes from one device to another of a pair of workers."""

    source: str
    target: str
    share: float


class Sending(NamedTuple):
    """Bytes from a worker's devices to another's, and whom to tell that the last of them is there."""

    sources: Sequence[str]
    targets: Sequence[str]
    size_bytes: float
    arrived: Callable[[], None]


class Wires:
    """Transfers between devices of a system, by max-min fair shares of wires and memory ports.

    A transfer over several pairs of devices goes in equal parts and is there when the last part is.
    """

    def __init__(self, system: System, loop: EventLoop, after_s: float = 0.0) -> None:
        """``after_s``: seconds after the last byte until somebody is told."""
        self.system, self.loop, self.after_s = system, loop, after_s
        self.table = CostTable(system, COST_MODELS.get("roofline-peak"))
        self.network = FlowNetwork(loop, self.table.capacity)

    def send(
        self, sources: Sequence[str], targets: Sequence[str], size_bytes: float, arrived: Callable[[], None]
    ) -> None:
        """Begin a transfer now; ``arrived`` is called when its last byte is there."""
        self.send_all([Sending(sources, targets, size_bytes, arrived)])

    def send_all(self, sendings: Sequence[Sending]) -> None:
        """Begin several transfers now, so that their rates are found once."""
        flows, ends = [], []
        for sending in sendings:
            paths = [
                (self._path(shard.source, shard.target), shard.share)
                for shard in _shards(sending.sources, sending.targets)
            ]
            latency, left = max(path.latency_s for path, _ in paths), [len(paths)]
            flows += [(path.load, sending.size_bytes * share) for path, share in paths]
            ends += [partial(self._part, left, latency, sending.arrived)] * len(paths)
        for signal, end in zip(self.network.start_all(flows), ends, strict=True):
            signal.callbacks.append(end)

    def _part(self, left: list[int], latency_s: float, arrived: Callable[[], None], _: object) -> None:
        left[0] -= 1
        if not left[0]:
            self.loop.at(self.loop.now + latency_s + self.after_s, Rank.FLOW, arrived)

    def joules(self, sources: Sequence[str], targets: Sequence[str], size_bytes: float) -> float:
        """Energy of a transfer: wires, the memory that is read and the one that is written."""
        total = 0.0
        for source, target, share in _shards(sources, targets):
            ends = self._memory(source), self._memory(target)
            per_byte = sum(
                self.system.wires[wire].link.energy_per_byte for wire, _ in self.system.route(*ends)
            )
            per_byte += self.table.joules_per_byte(ends[0], written=False)
            per_byte += self.table.joules_per_byte(ends[1], written=True)
            total += per_byte * share * size_bytes
        return total

    def _memory(self, device: str) -> str:
        return self.system.nodes[device].memory or device

    def _path(self, source: str, target: str) -> Path:
        return self.table.path(self._memory(source), self._memory(target))


def _shards(sources: Sequence[str], targets: Sequence[str]) -> list[_Shard]:
    count = max(len(sources), len(targets))
    return [
        _Shard(sources[i * len(sources) // count], targets[i * len(targets) // count], 1 / count)
        for i in range(count)
    ]
