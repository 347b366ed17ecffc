"""Tasks of states that live on host memory or drives: weights come, the host updates, checkpoints leave.

Drives and host work for all ranks of a class at once, each piece in turn; what crosses a link shares it with whatever
else is on it (ZeRO-Offload, arXiv:2101.06840; ZeRO-Infinity, arXiv:2104.07857).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from mapping.training.layer_states import StateBytes
from mapping.training.state_places import StatePlaces
from mapping.training.step_exchanges import Actor, Exchanges
from mapping.training.tier_rates import UPDATE_BYTES, TierRates
from simulator.training.program import ProgramBuilder, TaskKind

__all__ = ["OwnStates", "Taken", "TierTasks"]

UPDATE_PIECES: Final = 16
"""Pieces in which the host updates, so that drives, host and link work at once."""

OwnStates = Sequence[tuple[StateBytes, int]]
"""States of an actor's layers, and over how many ranks each is divided."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What of a checkpoint falls into a step: whether it is copied to the host, and what share the drives write."""

    copies: bool = True
    share: float = 1.0


@dataclass
class TierTasks:
    """Writes the tasks of one step's states off the device."""

    builder: ProgramBuilder
    exchanges: Exchanges
    places: StatePlaces
    rates: TierRates
    streams: dict[tuple[int, str], int] = field(default_factory=dict)

    def _side(self, actor: Actor, what: str) -> int:
        """A stream of an actor for one purpose."""
        lane = (actor.number, what)
        if lane not in self.streams:
            self.streams[lane] = self.builder.stream(actor.number, what)
        return self.streams[lane]

    def fetched(self, actor: Actor, part: int, layer: int, after: list[int]) -> int:
        """A rank's own part of a layer's weights on its way to the device, over its own link."""
        if self.places.weights == "nvme":
            after = [self._drive(actor, "read weights", part / self.rates.drive_read, after)]
        exchange, route = self.exchanges.copy(actor, part, to_host=False)
        # On a stream of their own: activations that come back are asked for in another order.
        return self.builder.add(
            self._side(actor, "weights from host"), TaskKind.SWAP, exchange.seconds, label=f"weights, layer {layer}",
            after=after, traffic=(exchange.bytes, route), memory=(part, 0),
        )  # fmt: skip

    def _drive(self, actor: Actor, what: str, seconds: float, after: list[int]) -> int:
        """Drives at work for an actor, reading or writing: what is asked at once shares their time."""
        return self.builder.add(
            self._side(actor, what), TaskKind.SWAP, seconds, label=what, after=after,
            traffic=(seconds, self.exchanges.in_turn(actor, "drives")),
        )  # fmt: skip

    def update(self, actor: Actor, own: OwnStates, after: list[int]) -> list[int]:
        """The host's update of a rank's part, in pieces, whose new weights go back as they are made; its last tasks.

        It begins when all gradients are there, since their norm may scale them (an assumption).
        """
        optimizer = sum(states.optimizer / ranks for states, ranks in own)
        weights = sum(states.weights / ranks for states, ranks in own)
        parameters = sum(states.parameters / ranks for states, ranks in own)
        ends: list[int] = []
        for turn in range(UPDATE_PIECES):
            last = after
            if self.places.optimizer == "nvme":
                read = optimizer / UPDATE_PIECES / self.rates.drive_read
                last = [self._drive(actor, "read states", read, after)]
            seconds = parameters * UPDATE_BYTES / UPDATE_PIECES / self.rates.host_memory
            done = self.builder.add(
                self._side(actor, "host update"),
                TaskKind.SWAP,
                seconds,
                label=f"host update {turn}",
                after=last,
            )
            ends = [done]
            if self.places.optimizer == "nvme":
                wrote = optimizer / UPDATE_PIECES / self.rates.drive_write
                ends.append(self._drive(actor, "write states", wrote, [done]))
            if self.places.weights == "nvme":
                wrote = weights / UPDATE_PIECES / self.rates.drive_write
                ends.append(self._drive(actor, "write states", wrote, [done]))
            elif self.places.weights == "device":
                exchange, route = self.exchanges.copy(actor, round(weights / UPDATE_PIECES), to_host=False)
                ends.append(
                    self.builder.add(
                        self._side(actor, "new weights"), TaskKind.SWAP, exchange.seconds, label="new weights",
                        after=[done], traffic=(exchange.bytes, route),
                    )
                )  # fmt: skip
        return ends

    def checkpoint(
        self, actor: Actor, own: OwnStates, shards: int, taken: Taken, after: list[int]
    ) -> list[int]:
        """A rank's part of the states, copied to the host and on to the drives.

        ``shards``: ranks that write a copy together. The copy to the host, which the update has to wait for where it
        comes later; nothing where this step only writes on.
        """
        size = written = 0.0
        for states, ranks in own:
            size += 0 if self.places.off_device else states.optimizer / (ranks if ranks > 1 else shards)
            size += 0 if self.places.weights != "device" else states.weights / shards
            written += states.optimizer / max(ranks, shards) + states.weights / shards
        copied: list[int] = []
        if taken.copies:
            exchange, route = self.exchanges.copy(actor, round(size), to_host=True)
            copied = [
                self.builder.add(
                    self._side(actor, "checkpoint"), TaskKind.SWAP, exchange.seconds, label="checkpoint to host",
                    after=after, traffic=(exchange.bytes, route),
                )
            ]  # fmt: skip
        if taken.share:
            self._drive(
                actor, "write checkpoint", taken.share * written / self.rates.drive_write, copied or after
            )
        return copied
