"""The mappers ``zero-offload`` and ``zero-infinity``: data-parallel training with model states off the device.

Both recompute whole layers. ``zero-offload`` keeps weights on the devices and updates on the host; ``zero-infinity``
divides weights as well and may put each state on host or drives. All tiers are estimated, those that fit and look
fastest are executed, and the fastest of these is the plan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from hw_configs.problems import InfeasibleError, bad_input
from hw_configs.settings import Settings, count, flag, word
from hw_configs.units import format_quantity
from mapping.offload.policy import OffloadAnswer, OffloadRequest, Table
from mapping.training.estimate import Estimator
from mapping.training.executed_step import ExecutedStep
from mapping.training.pricing import Prices
from mapping.training.setup import TrainingSetup
from mapping.training.state_tiers import Tier, TieredEstimate, best_tiers
from mapping.training.training_plan import TrainingPlan, execute, plan_of

__all__ = ["ZERO_INFINITY", "ZERO_OFFLOAD", "StatePolicy", "StateSettings"]

EQUAL: Final = 1e-6
MOST_EXECUTED: Final = 4
"""Tiers whose steps are run."""
TIERS: Final[tuple[Tier, ...]] = ("device", "host", "drive")


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSettings(Settings):
    """Settings of training with model states off the devices; tiers that are left out are searched."""

    devices: int | None = count(None, "how many devices train", least=1, absent="all")
    micro_batch: int = count(1, "sequences per device and forward pass", least=1, unit="sequences")
    delayed: bool = flag(False, "the host's update runs beside the next step")
    weights: Tier | None = word(None, "where weights live", TIERS, absent="searched")
    optimizer: Tier | None = word(None, "where the optimizer's state lives", TIERS, absent="searched")


@dataclass(frozen=True)
class StatePolicy:
    """Data parallelism at a ZeRO stage with weights and optimizer state on some of the tiers."""

    name: str
    DESCRIPTION: str
    zero_stage: int
    weights: tuple[Tier, ...]
    optimizer: tuple[Tier, ...]
    PHASES: tuple[str, ...] = ("train",)
    SETTINGS: ClassVar[type[StateSettings]] = StateSettings

    def solve(self, request: OffloadRequest) -> OffloadAnswer:
        """The fastest tiers that fit; ``InfeasibleError`` when none do."""
        estimator = Estimator(Prices(request.system, request.cost_model))
        chosen = request.of(StateSettings)
        setup = self._setup(request, chosen, len(estimator.prices.devices))
        found, priced = best_tiers(
            setup, estimator, self._tier("weights", chosen.weights, self.weights),
            self._tier("optimizer", chosen.optimizer, self.optimizer), chosen.delayed,
        )  # fmt: skip
        runs = _executed(setup, [item for item in priced if item.estimate.fits], estimator)
        if not runs:
            raise InfeasibleError(
                f"{setup.model} does not fit with its states on any tier: executed, {found.tiers.words()} is short of "
                "device memory"
            )
        # Among equals the one that was estimated first, which holds the fewest bytes elsewhere.
        least = min(step.step_s for _, _, step in runs)
        found, plan, step = next(run for run in runs if run[2].step_s <= least * (1 + EQUAL))
        rate = (found.estimate.model_flops + found.recompute_flops) / setup.devices / step.step_s
        why = [
            f"{plan.setup.words()} takes {step.step_s:.4g} s per step, executed: the least of {len(runs)} executed, of "
            f"{len(priced)} priced; {rate / 1e12:.1f} TFLOP/s per device with recomputation.",
            *(
                f"{item.tiers.words().capitalize()}: {item.estimate.obstacle}."
                for item in priced
                if not item.estimate.fits and item.estimate.time.step_s < found.estimate.time.step_s
            ),
        ]
        report = {**_report(self.name, found), "device_flops_per_s": rate}
        report["setup"] = plan.setup.to_json()
        report["executed"] = {"step_s": step.step_s, "mfu": step.mfu, "peak_bytes": step.peak_bytes}
        tables = (*step.tables(), *_tables(found, priced))
        return OffloadAnswer(self.name, report, tuple(why), tables, None, None, plan)

    def _setup(self, request: OffloadRequest, chosen: StateSettings, available: int) -> TrainingSetup:
        devices, micro = chosen.devices or available, chosen.micro_batch
        if devices > available:
            raise bad_input(
                f"found {devices}; expected a whole number from 1 to {available}", path="--set devices"
            )
        batch = request.batch if request.batch > 1 else devices * micro
        stage = self.zero_stage if devices > 1 or self.zero_stage == 3 else 0
        return TrainingSetup(
            request.model, request.sequence, batch, micro, dtype=request.dtype or "bf16", data=devices,
            zero_stage=stage, recompute="full",
        )  # fmt: skip

    def _tier(self, name: str, asked: Tier | None, allowed: tuple[Tier, ...]) -> tuple[Tier, ...]:
        if asked is None:
            return allowed
        if asked not in allowed:
            raise bad_input(
                f"found {asked!r}; mapper {self.name!r} knows {', '.join(allowed)}", path=f"--set {name}"
            )
        return (asked,)


ZERO_OFFLOAD: Final = StatePolicy(
    "zero-offload", "weights on the devices, gradients and optimizer on the host (ZeRO-Offload)", 2,
    ("device",), ("host",),
)  # fmt: skip
ZERO_INFINITY: Final = StatePolicy(
    "zero-infinity", "each state on device, host or drives, as fast as fits (ZeRO-Infinity)", 3,
    ("device", "host", "drive"), ("device", "host", "drive"),
)  # fmt: skip


def _executed(
    setup: TrainingSetup, likely: list[TieredEstimate], estimator: Estimator
) -> list[tuple[TieredEstimate, TrainingPlan, ExecutedStep]]:
    """The first few tiers whose executed steps fit, with their plans."""
    runs: list[tuple[TieredEstimate, TrainingPlan, ExecutedStep]] = []
    for item in likely:
        stage = setup.zero_stage
        if item.tiers.optimizer != "device":
            # Gradients leave layer by layer.
            stage = max(stage, 2 if item.tiers.weights == "device" else 3)
        placed = replace(setup, zero_stage=stage, states=item.tiers.states())
        plan = plan_of(estimator.rank_step(placed), estimator)
        step = execute(plan, estimator)
        if step.peak_bytes <= step.usable_bytes:
            runs.append((item, plan, step))
        if len(runs) == MOST_EXECUTED:
            break
    return runs


def _report(name: str, found: TieredEstimate) -> dict[str, Any]:
    tiers = found.tiers
    return {
        "policy": name,
        **found.estimate.to_json(),
        "tiers": {
            "weights": tiers.weights, "optimizer": tiers.optimizer, "checkpoints": tiers.checkpoints,
            "delayed": tiers.delayed,
        },
        "drive_bytes": found.drive_bytes,
        "update_s": found.update_s,
    }  # fmt: skip


def _tables(found: TieredEstimate, priced: list[TieredEstimate]) -> tuple[Table, ...]:
    budget = found.estimate.memory.to_json()
    memory = [
        (key.removesuffix("_bytes").replace("_", " "), format_quantity(size, "size"))
        for key, size in budget.items()
        if size
    ]
    if found.drive_bytes:
        memory.append(("drives", format_quantity(found.drive_bytes, "size")))
    time = found.estimate.time.to_json()
    parts = tuple(
        (key.removesuffix("_s").replace("_", " "), f"{value:.4g} s") for key, value in time.items() if value
    )
    rows = tuple(
        (
            item.tiers.words(), f"{item.estimate.time.step_s:.4g} s",
            format_quantity(item.estimate.memory.device_bytes, "size"),
            format_quantity(item.estimate.memory.host_bytes, "size"), format_quantity(item.drive_bytes, "size"),
            item.estimate.obstacle or "yes",
        )
        for item in priced
    )  # fmt: skip
    return (
        Table("Memory of a device, and its share of the others", ("role", "size"), tuple(memory)),
        Table("Estimated step time, what is not hidden", ("part", "time"), parts),
        Table("Tiers, estimated", ("tiers", "step", "device", "host", "drives", "fits"), rows),
    )
