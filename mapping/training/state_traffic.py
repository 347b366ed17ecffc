"""Seconds that states off the devices add to a step, as an estimate: what the passes beside them do not hide.

Each rank reads its part of weights that live away before a forward and again before a backward pass; gradients leave
beside the backward pass; the host's update takes its own memory traffic or the drives', whichever is longer, and new
weights come back as they are made. The executed step is that of :mod:`mapping.training.tier_tasks`.
"""

from __future__ import annotations

from dataclasses import replace

from mapping.training.setup import StepTime, TrainingSetup
from mapping.training.sharded_states import ModelStates
from mapping.training.state_places import StatePlaces
from mapping.training.tier_rates import UPDATE_BYTES, TierRates

__all__ = ["with_states_away"]


def with_states_away(
    time: StepTime, setup: TrainingSetup, states: ModelStates, places: StatePlaces, rates: TierRates
) -> tuple[StepTime, float]:
    """The step's time with its states in their places, and seconds of the host's update.

    ``time`` is that of the step with all states on the devices, ``states`` those of all ranks that share them.
    """
    shards, m = setup.shards, setup.micro_batches
    weights = states.weights / shards
    link = update = 0.0
    if places.weights != "device":
        rate = rates.from_host if places.weights == "host" else min(rates.from_host, rates.drive_read)
        read = weights / rate
        forward, backward = time.forward_s / m, (time.backward_s + time.recompute_s) / m
        link += m * (max(0.0, read - forward) + max(0.0, read - backward))
    if places.off_device:
        link += max(0.0, m * states.gradients / shards / rates.to_host - time.backward_s)
        parameters = states.trained_parameters / shards
        update = parameters * UPDATE_BYTES / rates.host_memory
        if places.optimizer == "nvme":
            moved = states.optimizer_state / shards
            update = max(update, moved / rates.drive_read + moved / rates.drive_write)
        update = max(update, weights / (rates.from_host if places.weights == "device" else rates.host_memory))
        passes = time.forward_s + time.recompute_s + time.backward_s
        time = replace(time, optimizer_s=max(0.0, update - passes) if places.delayed else update)
    return time.plus(swap_s=link), update
