"""Model states beyond device memory: weights, gradients and optimizer state on the host or on drives.

ZeRO-Offload (Ren et al., arXiv:2101.06840) keeps 16-bit weights on the device, sends each gradient to the host as
soon as it is there, updates on the host's processors, and takes the new weights back: 2 + 2 bytes per parameter
cross the link, the least of all cuts that leave the passes on the device. ZeRO-Infinity (Rajbhandari et al.,
arXiv:2104.07857) divides weights too, over ranks that each read their part over their own link before they gather
it, and lets every state live on drives. With the delayed update the host works while the device already runs the
next step.

A tier's traffic runs beside the pass that needs it; what is not hidden counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from hw_configs.problems import InfeasibleError
from hw_configs.units import format_quantity
from mapping.training.estimate import Estimator
from mapping.training.pricing import Prices
from mapping.training.setup import MemoryBudget, TrainingEstimate, TrainingSetup
from mapping.training.sharded_states import ModelStates
from mapping.training.step_memory import model_states
from mapping.training.tier_rates import UPDATE_BYTES, TierRates, tier_rates

__all__ = ["StateTiers", "TierRates", "TieredEstimate", "best_tiers", "tier_rates", "tiered"]

Tier = Literal["device", "host", "drive"]


@dataclass(frozen=True, slots=True)
class StateTiers:
    """Where states live. Gradients go where the optimizer's state is updated: the host, unless that is the device.

    ``checkpoints``: where full recomputation keeps the layers' inputs. ``delayed``: updates run one step late,
    beside the next step's passes.
    """

    weights: Tier = "device"
    optimizer: Tier = "host"
    checkpoints: Literal["device", "host"] = "device"
    delayed: bool = False

    def words(self) -> str:
        """The tiers in one line for people."""
        late = ", update delayed by a step" if self.delayed else ""
        return f"weights on {self.weights}, optimizer on {self.optimizer}, checkpoints on {self.checkpoints}{late}"


@dataclass(frozen=True, slots=True)
class TieredEstimate:
    """An estimate with its tiers; ``drive_bytes`` is the device's share of the drives, ``update_s`` the host's work."""

    estimate: TrainingEstimate
    tiers: StateTiers
    drive_bytes: int
    update_s: float
    recompute_flops: float
    """FLOPs of recomputation, which published rates of these systems count."""

    @property
    def device_flops_per_s(self) -> float:
        """FLOP/s of one device, recomputation included."""
        e = self.estimate
        return (e.model_flops + self.recompute_flops) / e.setup.devices / e.time.step_s


def tiered(setup: TrainingSetup, tiers: StateTiers, estimator: Estimator) -> TieredEstimate:
    """What a setup takes with its states on these tiers. Weights off the device need ZeRO stage 3."""
    step = estimator.rank_step(setup)
    plain = estimator.of_step(step, exact=False)
    states = model_states(step, 0)
    rates = tier_rates(estimator.prices, setup.devices)
    shards = setup.shards
    parameters = states.trained_parameters / shards
    weights, gradients = states.weights / shards, states.gradients / shards
    budget, drive_bytes = _budget(setup, plain.memory, states, tiers, estimator.layers(setup))
    passes = plain.time.forward_s + plain.time.recompute_s + plain.time.backward_s
    m = setup.micro_batches
    link = 0.0
    if tiers.weights != "device":
        # Each rank reads its part before a forward and again before a backward pass; the gathering is ZeRO's.
        rate = rates.from_host if tiers.weights == "host" else min(rates.from_host, rates.drive_read)
        read = weights / rate
        forward, backward = plain.time.forward_s / m, (plain.time.backward_s + plain.time.recompute_s) / m
        link += m * (max(0.0, read - forward) + max(0.0, read - backward))
    if tiers.checkpoints == "host":
        out = plain.memory.skeletal / rates.to_host
        link += m * (max(0.0, out - plain.time.forward_s / m) + max(0.0, out - plain.time.backward_s / m))
    update = 0.0
    time = plain.time
    if tiers.optimizer != "device":
        sent = m * gradients / rates.to_host
        link += max(0.0, sent - plain.time.backward_s)
        update = parameters * UPDATE_BYTES / rates.host_memory
        if tiers.optimizer == "drive":
            moved = states.optimizer_state / shards
            update = max(update, moved / rates.drive_read + moved / rates.drive_write)
        # Updated 16-bit weights leave the host as they are made.
        back = weights / (rates.from_host if tiers.weights == "device" else rates.host_memory)
        update = max(update, back)
        late = max(0.0, update - passes) if tiers.delayed else update
        time = replace(time, optimizer_s=late)
    time = time.plus(swap_s=link)
    flops = plain.model_flops
    peak = setup.devices * estimator.prices.peak(setup.dtype)
    obstacle = _obstacle(budget, drive_bytes, rates, estimator.prices)
    found = replace(plain, memory=budget, time=time, mfu=flops / (time.step_s * peak), obstacle=obstacle)
    again = flops / 3 if setup.recompute == "full" else 0.0
    return TieredEstimate(found, tiers, drive_bytes, update, again)


def best_tiers(
    setup: TrainingSetup,
    estimator: Estimator,
    weights: tuple[Tier, ...] = ("device", "host", "drive"),
    optimizer: tuple[Tier, ...] = ("device", "host", "drive"),
    delayed: bool = False,
) -> tuple[TieredEstimate, list[TieredEstimate]]:
    """The fastest tiers that fit, and all that were priced, fastest first.

    Raises ``InfeasibleError`` with the nearest miss when none fits.
    """
    priced = sorted(
        (tiered(setup, tiers, estimator) for tiers in _choices(setup, weights, optimizer, delayed)),
        key=lambda item: (item.estimate.time.step_s, item.estimate.memory.host_bytes + item.drive_bytes),
    )
    fitting = [item for item in priced if item.estimate.fits]
    if not fitting:
        nearest = min(
            priced, key=lambda item: (item.estimate.memory.device_bytes, item.estimate.memory.host_bytes)
        )
        raise InfeasibleError(
            f"{setup.model} does not fit with its states on any tier; with {nearest.tiers.words()}, "
            f"{nearest.estimate.obstacle}"
        )
    return fitting[0], priced


def _choices(
    setup: TrainingSetup, weights: tuple[Tier, ...], optimizer: tuple[Tier, ...], delayed: bool
) -> Iterator[StateTiers]:
    checkpoints: tuple[Literal["device", "host"], ...] = (
        ("device", "host") if setup.recompute == "full" else ("device",)
    )
    for w, o, c in product(weights, optimizer, checkpoints):
        if w != "device" and (setup.zero_stage < 3 or o == "device"):
            continue
        yield StateTiers(w, o, c, delayed and o != "device")


def _budget(
    setup: TrainingSetup, plain: MemoryBudget, states: ModelStates, tiers: StateTiers, layers: int
) -> tuple[MemoryBudget, int]:
    """Bytes of device and host, and of the drives, of one rank."""
    shards = setup.shards
    weights = states.weights // shards
    masters = states.optimizer_state // shards
    host, drive = 0, 0
    budget = plain
    if tiers.weights != "device":
        # The layer at work and the one that is being gathered stay on the device.
        extra = 0 if shards > 1 else 2 * states.layer_weights
        budget = replace(budget, weights=0, buffers=budget.buffers + extra)
        host += weights if tiers.weights == "host" else 0
        drive += weights if tiers.weights == "drive" else 0
    if tiers.optimizer != "device":
        # Gradients stay until their layer is done, and are summed on the host.
        extra = 0 if setup.zero_stage >= 2 and shards > 1 else states.layer_gradients
        budget = replace(budget, gradients=0, optimizer_state=0, buffers=budget.buffers + extra)
        host += states.gradients // shards
        host += masters if tiers.optimizer == "host" else 0
        drive += masters if tiers.optimizer == "drive" else 0
    if tiers.checkpoints == "host":
        # Two layers' inputs are on their way at a time.
        moved = budget.skeletal
        budget = replace(
            budget, skeletal=0, buffers=budget.buffers + 2 * moved // max(layers, 1),
            host_activations=budget.host_activations + moved,
        )  # fmt: skip
    return replace(budget, host_states=host), drive


def _obstacle(budget: MemoryBudget, drive_bytes: int, rates: TierRates, prices: Prices) -> str:
    """What is short, and by how much; "" when everything fits."""
    for name, used, usable in (
        ("device memory", budget.device_bytes, prices.memory.usable_bytes),
        ("host memory per device", budget.host_bytes, rates.host_bytes),
        ("drives per device", drive_bytes, rates.drive_bytes),
    ):
        if used > usable:
            short, whole = format_quantity(used - usable, "size"), format_quantity(usable, "size")
            return f"{name} is short by {short} of {whole}"
    return ""
