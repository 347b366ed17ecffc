"""The mapper ``rematerialize``: the optimal schedule of keeping and recomputing whole layers.

The model's layers form a chain; :func:`mapping.training.recompute.chain.best_schedule` finds, for the device
memory that model states and one layer's work leave, which layers keep their activations and which run again, and how
often.
Unlike full recomputation it keeps what fits, and it still has an answer where not even every layer's input fits.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

from hw_configs.problems import InfeasibleError, bad_input
from hw_configs.settings import Settings, count, size
from hw_configs.units import format_quantity
from mapping.offload.policy import OffloadAnswer, OffloadRequest, Table
from mapping.training.estimate import Estimator
from mapping.training.pricing import Prices
from mapping.training.recompute.chain import best_schedule
from mapping.training.setup import TrainingSetup

__all__ = ["MAPPER", "Rematerialize"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RematerializeSettings(Settings):
    """Settings of ``rematerialize``."""

    tp: int | None = count(None, "tensor-parallel ranks", least=1, unit="devices", absent="all devices")
    zero: int = count(0, "ZeRO stage over the devices that tensor parallelism leaves", most=3)
    limit: int | None = size(None, "stored activations", absent="what device memory leaves")


class Rematerialize:
    """See the module's first lines."""

    DESCRIPTION = "the optimal schedule of keeping and recomputing whole layers (dynamic programming)"
    PHASES = ("train",)
    SETTINGS = RematerializeSettings

    def solve(self, request: OffloadRequest) -> OffloadAnswer:
        """The schedule; ``InfeasibleError`` when model states and one layer do not fit."""
        estimator = Estimator(Prices(request.system, request.cost_model))
        setup = _setup(request, len(estimator.prices.devices))
        stages = estimator.chain(setup)
        limit = _limit(request, estimator, setup)
        found = best_schedule(stages, limit)
        counts = Counter(step.stage for step in found.steps if step.action != "backward")
        kept = sum(1 for stage in range(len(stages)) if counts[stage] == 1)
        most = max(counts.values())
        slower = found.seconds / found.least_s - 1
        why = [
            f"{setup.words()} leaves {format_quantity(limit, 'size')} for stored activations of {len(stages)} layers.",
            f"{kept} layers run forward once, the others up to {most} times; layers take {100 * slower:.1f} % longer "
            f"than with everything kept, in {format_quantity(found.peak_bytes, 'size')}.",
            "No plan is written for the simulator: this policy only estimates.",
        ]
        report = {
            "policy": "rematerialize", "setup": setup.to_json(), "limit_bytes": limit, "peak_bytes": found.peak_bytes,
            "layers_s": found.seconds, "layers_without_recomputation_s": found.least_s,
            "forward_runs": {str(stage): counts[stage] for stage in range(len(stages))},
            "schedule": [[step.action, step.stage] for step in found.steps],
        }  # fmt: skip
        rows = tuple(
            (times, sum(1 for n in counts.values() if n == times)) for times in sorted(set(counts.values()))
        )
        tables = (Table("Layers", ("forward runs", "layers"), rows),)
        return OffloadAnswer("rematerialize", report, tuple(why), tables)


MAPPER: Final = Rematerialize()


def _setup(request: OffloadRequest, devices: int) -> TrainingSetup:
    chosen = request.of(RematerializeSettings)
    tensor = chosen.tp or devices
    if devices % tensor:
        raise bad_input(f"found {tensor}; expected a divisor of {devices} devices", path="--set tp")
    data, stage = devices // tensor, chosen.zero
    return TrainingSetup(
        request.model, request.sequence, max(request.batch, data), dtype=request.dtype or "bf16", tensor=tensor,
        data=data, zero_stage=stage,
    )  # fmt: skip


def _limit(request: OffloadRequest, estimator: Estimator, setup: TrainingSetup) -> int:
    """Bytes for stored activations: as asked, or what model states and one layer at work leave."""
    asked = request.of(RematerializeSettings).limit
    if asked is not None:
        return asked
    budget = estimator.estimate(replace(setup, recompute="full"), exact=False).memory
    taken = budget.device_bytes - budget.skeletal
    room = estimator.prices.memory.usable_bytes - taken
    if room <= 0:
        raise InfeasibleError(
            f"model states and one layer at work need {taken} bytes; {estimator.prices.memory.name!r} has "
            f"{estimator.prices.memory.usable_bytes}"
        )
    return room
