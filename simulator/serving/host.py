"""A slower memory behind a cache, as blocks: what a policy moves out of the device's cache and back.

It counts places and bytes and knows no policy. The engine's passes use the same places when they swap requests
(:class:`simulator.serving.settings.EngineSettings`, ``swap``).
"""

from __future__ import annotations

from simulator.serving.records import State
from simulator.serving.scheduler import KvSpace

__all__ = ["HostTier"]


class HostTier:
    """The host's places of an engine, and what went to and fro since it began."""

    def __init__(self, state: State, space: KvSpace) -> None:
        self._engine = state.engine[0]
        self._space = space

    @property
    def blocks(self) -> int:
        """Places in all."""
        return self._space.host_blocks

    @property
    def free(self) -> int:
        """Places that hold nothing."""
        return int(self._engine["host_free"])

    @property
    def bytes_out(self) -> float:
        """Bytes that left the device's cache for the host."""
        return self._bytes("out")

    @property
    def bytes_in(self) -> float:
        """Bytes that came back from the host."""
        return self._bytes("in")

    def _bytes(self, way: str) -> float:
        e, space = self._engine, self._space
        return float(e[f"host_{way}"]) * space.block_bytes + float(e[f"states_{way}"]) * space.sequence_bytes

    def put(self, blocks: int) -> bool:
        """Move so many blocks to the host; False, and nothing happens, if there is no place for all."""
        e = self._engine
        if blocks > e["host_free"]:
            return False
        e["host_free"] -= blocks
        e["host_out"] += blocks
        return True

    def bring(self, blocks: int) -> None:
        """Bring so many blocks back to the device."""
        self.forget(blocks)
        self._engine["host_in"] += blocks

    def forget(self, blocks: int) -> None:
        """Free the places of so many blocks, which do not come back."""
        if blocks > self.blocks - self.free:
            raise ValueError(f"the host holds {self.blocks - self.free} blocks; {blocks} were asked for")
        self._engine["host_free"] += blocks
