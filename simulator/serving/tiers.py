"""Slower memories behind a cache, as blocks: what a policy moves out of the device's cache and back.

Two tiers, the host's memory and drives. A tier counts places and bytes and knows no policy. The engine's passes use
the same places when they swap requests (:class:`simulator.serving.settings.EngineSettings`, ``swap``): a request goes
to the first tier that has places for all of it.
"""

from __future__ import annotations

from typing import Final, Literal

from simulator.serving.records import State
from simulator.serving.scheduler import KvSpace

__all__ = ["TIERS", "CacheTier", "TierName"]

TierName = Literal["host", "drive"]
TIERS: Final[tuple[TierName, ...]] = ("host", "drive")
"""In the order in which they are filled."""


class CacheTier:
    """An engine's places in a slower memory, and what went to and fro since it began."""

    def __init__(self, state: State, space: KvSpace, name: TierName) -> None:
        self._engine = state.engine[0]
        self._space = space
        self.name = name

    @property
    def blocks(self) -> int:
        """Places in all."""
        return self._space.host_blocks if self.name == "host" else self._space.drive_blocks

    @property
    def free(self) -> int:
        """Places that hold nothing."""
        return int(self._engine[f"{self.name}_free"])

    @property
    def bytes_out(self) -> float:
        """Bytes that left the device's cache for this memory."""
        return self._bytes("out")

    @property
    def bytes_in(self) -> float:
        """Bytes that came back from it."""
        return self._bytes("in")

    def _bytes(self, way: str) -> float:
        e, space, name = self._engine, self._space, self.name
        return float(
            e[f"{name}_{way}"] * space.block_bytes + e[f"{name}_states_{way}"] * space.sequence_bytes
        )

    def put(self, blocks: int) -> bool:
        """Move so many blocks here; False, and nothing happens, if there is no place for all."""
        e = self._engine
        if blocks > e[f"{self.name}_free"]:
            return False
        e[f"{self.name}_free"] -= blocks
        e[f"{self.name}_out"] += blocks
        return True

    def bring(self, blocks: int) -> None:
        """Bring so many blocks back to the device."""
        self.forget(blocks)
        self._engine[f"{self.name}_in"] += blocks

    def forget(self, blocks: int) -> None:
        """Free the places of so many blocks, which do not come back."""
        if blocks > self.blocks - self.free:
            raise ValueError(
                f"the {self.name} holds {self.blocks - self.free} blocks; {blocks} were asked for"
            )
        self._engine[f"{self.name}_free"] += blocks
