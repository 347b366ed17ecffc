"""Whether drives and host memory hold what a setup puts there beside its step: states on drives, and checkpoints.

Every rank's part lies on its machine's drives. Of a checkpoint one is counted: the one before is given up when the next
is complete in host memory. An asynchronous one also lies in host memory while it is written.
"""

from __future__ import annotations

from hw_configs.units import format_quantity
from mapping.training.pricing import Prices
from mapping.training.setup import TrainingSetup
from mapping.training.sharded_states import ModelStates
from mapping.training.tier_rates import tier_rates

__all__ = ["drive_bytes", "room_shortage", "snapshot_bytes"]


def drive_bytes(setup: TrainingSetup, states: ModelStates) -> int:
    """Bytes of a rank on drives: states that live there, and its part of a checkpoint."""
    places, optimizer = setup.places, -(-states.optimizer_state // setup.optimizer_shards)
    weights = -(-states.weights // setup.shards)
    held = optimizer * (places.optimizer == "nvme") + weights * (places.weights == "nvme")
    return held + (_checkpoint(setup, states) if places.saves else 0)


def snapshot_bytes(setup: TrainingSetup, states: ModelStates) -> int:
    """Bytes of a checkpoint in host memory that do not live there anyway."""
    places = setup.places
    if not places.checkpoint:
        return 0
    optimizer = 0 if places.off_device else states.optimizer_state
    weights = 0 if places.weights != "device" else states.weights
    return -(-(optimizer + weights) // setup.shards)


def room_shortage(setup: TrainingSetup, states: ModelStates, host_bytes: int, prices: Prices) -> str:
    """What drives or host memory are short of; ``host_bytes`` are those that a rank holds anyway. "" for nothing."""
    places = setup.places
    if not (places.saves or "nvme" in (places.optimizer, places.weights)):
        return ""
    rates = tier_rates(prices, setup.devices)
    for what, used, usable in (
        (
            "host memory with a checkpoint in it is",
            host_bytes + snapshot_bytes(setup, states),
            rates.host_bytes,
        ),
        ("drives are", drive_bytes(setup, states), rates.drive_bytes),
    ):
        if used > usable:
            short, whole = format_quantity(used - usable, "size"), format_quantity(usable, "size")
            return f"{what} short by {short} per device of {whole}"
    return ""


def _checkpoint(setup: TrainingSetup, states: ModelStates) -> int:
    return -(-(states.optimizer_state + states.weights) // setup.shards)
