"""Where the states of a training step live while it is executed, and what moves them there and back.

``--set states=`` takes a place and words joined by ``+``: ``host`` or ``nvme`` hold the optimizer's state, whose update
then runs on the host's processors (ZeRO-Offload, arXiv:2101.06840); with ``weights`` the weights too, or
``weights-on-host`` and ``weights-on-nvme`` where they live elsewhere than it, under ZeRO stage 3, each rank reading its
own part before all gather (ZeRO-Infinity's bandwidth-centric partition, arXiv:2104.07857). ``delayed`` runs the update
one step late, beside the passes. ``in-backward`` updates a layer as soon as its gradients are there, so that none are
kept (LOMO, arXiv:2306.09782, with any optimizer). ``inputs``: what full recomputation keeps of a layer waits in host
memory, through two buffers on the device.

``checkpoint``: every rank copies its part of the states to the host beside the passes, which its update waits for, and
the host writes it to the drives, evenly until the next one is taken (CheckFreq's snapshot and persist, FAST 2021).
``checkpoint-sync``: behind the update everything waits until the drives have it. One is taken every
``checkpoint_every`` steps of the setup.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hw_configs.problems import bad_input, nearest

__all__ = ["StatePlaces", "places_of"]

PLACES: Final = ("device", "host", "nvme")
WEIGHTS: Final = ("weights", "weights-on-host", "weights-on-nvme")
WORDS: Final = (*WEIGHTS, "delayed", "in-backward", "inputs", "checkpoint", "checkpoint-sync")


@dataclass(frozen=True, slots=True)
class StatePlaces:
    """Where the optimizer's state and the weights live, and how the update runs."""

    optimizer: str = "device"
    weights: str = "device"
    delayed: bool = False
    in_backward: bool = False
    checkpoint: bool = False
    inputs: bool = False
    """Whether layers' inputs, all that full recomputation keeps, wait in host memory."""
    synchronous: bool = False
    """Whether everything waits for a checkpoint."""

    @property
    def off_device(self) -> bool:
        """Whether the host updates."""
        return self.optimizer != "device"

    @property
    def saves(self) -> bool:
        """Whether checkpoints are taken."""
        return self.checkpoint or self.synchronous


def places_of(text: str) -> StatePlaces:
    """The places that a setup's ``states`` name; ``InputError`` of a line for what is unknown or does not go together.

    >>> places_of("nvme+weights").weights
    'nvme'
    """
    words = text.split("+")
    place = words[0] if words[0] in PLACES else "device"
    rest = words[1:] if words[0] in PLACES else words
    for word in rest:
        if word not in WORDS:
            known = (*PLACES, *WORDS)
            raise bad_input(
                f"found {word!r:.40}; expected a place ({', '.join(PLACES)}) and words of {', '.join(WORDS)}, "
                "joined by +",
                path="states", suggestion=nearest(word, known),
            )  # fmt: skip
    found = set(rest)
    if len(found & set(WEIGHTS)) > 1:
        raise bad_input(f"found {text!r:.60}; expected one of {', '.join(WEIGHTS)}", path="states")
    if place == "device" and found & {*WEIGHTS, "delayed"}:
        raise bad_input(f"found {text!r:.40}; weights and delayed need the place host or nvme", path="states")
    if place != "device" and "in-backward" in found:
        raise bad_input(f"found {text!r:.40}; in-backward updates on the device", path="states")
    if {"checkpoint", "checkpoint-sync"} <= found:
        raise bad_input(
            f"found {text!r:.60}; expected checkpoint or checkpoint-sync, not both", path="states"
        )
    weights = place if "weights" in found else "device"
    for away in ("host", "nvme"):
        weights = away if f"weights-on-{away}" in found else weights
    return StatePlaces(
        place, weights, "delayed" in found, "in-backward" in found,
        "checkpoint" in found, "inputs" in found, "checkpoint-sync" in found,
    )  # fmt: skip
