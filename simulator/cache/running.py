"""A cache while requests pass through it: one policy over nodes, chunk by chunk."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input
from hw_configs.settings import Settings
from simulator.cache.replacement.nodes import Events, grown, make_nodes
from simulator.cache.replacement.policy import POLICIES, Policy

__all__ = ["MAX_CAPACITY", "RunningCache"]

MAX_CAPACITY: Final = 1 << 60
_NO_HINTS: Final = np.zeros(0, np.int64)


class RunningCache:
    """An empty cache of ``capacity`` bytes under a policy.

    Raises ``InputError`` for a capacity outside 1 to 2^60 bytes, or one that the policy cannot work with.
    """

    def __init__(
        self, policy: Policy, capacity: int, settings: Settings | None = None, seed: int = 1
    ) -> None:
        if not 1 <= capacity <= MAX_CAPACITY:
            raise bad_input(f"found {capacity} bytes; expected 1 to {MAX_CAPACITY}", path="--size")
        self.policy, self.capacity = policy, capacity
        self._nodes = make_nodes(capacity, seed, policy.ranked, policy.extra, policy.times)
        policy.start(self._nodes, settings if settings is not None else policy.settings())
        self._held = 0
        self._beside = tuple(
            RunningCache(POLICIES.get(name), capacity, seed=seed + at)
            for at, name in enumerate(policy.beside)
        )

    def run(
        self,
        nodes: npt.NDArray[np.int32],
        sizes: npt.NDArray[np.int64],
        count: int,
        hints: npt.NDArray[np.int64] = _NO_HINTS,
    ) -> Events:
        """Requests for ``nodes``, of which ``count`` are known by now; what became of each, and what left."""
        if count > len(self._nodes.link):
            self._nodes = grown(self._nodes, max(count, min(2 * len(self._nodes.link), 1 << 31)))
        # No more can leave than is held now and enters.
        room = len(nodes) + self._held
        events = Events(
            np.empty(len(nodes), np.uint8), np.empty(room, np.int32), np.empty(room, np.int32), np.zeros(1, np.int64)
        )  # fmt: skip
        told = tuple(cache.run(nodes, sizes, count, hints) for cache in self._beside) or hints
        self.policy.kernel(self._nodes, nodes, sizes, told, events)
        left = int(events.total[0])
        self._held += int(np.count_nonzero(events.what == 1)) - left
        return events._replace(left=events.left[:left], left_at=events.left_at[:left])
