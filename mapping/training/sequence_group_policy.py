"""The mapper ``sequence-groups``: a batch of unequal sequences over groups of several degrees of Ulysses parallelism.

Lengths come from a file with one whole number a line, or are drawn log-normal around a mean. States are shared by
ZeRO-3 over all devices, activations kept; what memory is left holds sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import numpy as np

from hw_configs.problems import InfeasibleError, bad_input
from hw_configs.settings import Settings, count, name_of
from hw_configs.units import format_quantity
from hw_configs.whole_number import integer
from mapping.offload.policy import OffloadAnswer, OffloadRequest, Table
from mapping.training.estimate import Estimator
from mapping.training.pricing import Prices
from mapping.training.sequence_groups import degree_costs, grouped_step, static_step
from mapping.training.setup import TrainingSetup
from mapping.training.step_memory import model_states

__all__ = ["SEQUENCE_GROUPS", "GroupSettings", "log_normal_lengths", "read_lengths"]

MAX_FILE_BYTES: Final = 64 * 2**20
MOST_TOKENS: Final = 2**27
SHORTEST: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings(Settings):
    """Settings of ``sequence-groups``."""

    lengths: str | None = name_of("file with the tokens of a sequence on each line", absent="drawn")
    mean: int = count(1024, "mean of drawn lengths", least=SHORTEST, most=MOST_TOKENS, unit="tokens")
    spread: int = count(200, "standard deviation of drawn lengths' logarithm, in hundredths", most=1000)
    micro_batches: int | None = count(None, "micro-batches of a step", least=1, most=1024, absent="searched")


def log_normal_lengths(mean: float, spread: float, number: int, longest: int, seed: int) -> list[int]:
    """Log-normal lengths of a mean and a standard deviation of the logarithm, from 16 tokens to ``longest``."""
    draw = np.random.default_rng(seed).lognormal(np.log(mean) - spread**2 / 2, spread, number)
    return [int(length) for length in np.clip(draw, SHORTEST, longest)]


def read_lengths(path: str, longest: int) -> list[int]:
    """The lengths in a file, one a line; ``InputError`` with the line of the first that is none."""
    try:
        if Path(path).stat().st_size > MAX_FILE_BYTES:
            raise bad_input(f"over {MAX_FILE_BYTES} bytes", file=path)
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise bad_input(f"cannot be read: {error}", file=path) from None
    found: list[int] = []
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        length = integer(text.strip(), 1, longest)
        if length is None:
            raise bad_input(
                f"found {text.strip()!r:.40}; expected tokens from 1 to {longest} (--seq)",
                file=path,
                line=number,
            )
        found.append(length)
    if not found:
        raise bad_input("has no lengths", file=path)
    return found


class _SequenceGroups:
    PHASES = ("train",)
    SETTINGS: ClassVar[type[GroupSettings]] = GroupSettings
    name = "sequence-groups"
    DESCRIPTION = (
        "unequal sequences over groups of several degrees of Ulysses parallelism, by integer programming"
    )

    def solve(self, request: OffloadRequest) -> OffloadAnswer:
        """The best groups of a step beside the best one degree; ``InfeasibleError`` when memory holds neither."""
        chosen = request.of(GroupSettings)
        estimator = Estimator(Prices(request.system, request.cost_model))
        prices = estimator.prices
        devices = len(prices.devices)
        lengths = (
            read_lengths(chosen.lengths, request.sequence) if chosen.lengths is not None
            else log_normal_lengths(chosen.mean, chosen.spread / 100, request.batch, request.sequence, request.seed)
        )  # fmt: skip
        costs = degree_costs(request.model, devices, prices, request.dtype or "bf16")
        room = self._room(request, estimator, devices)
        one: tuple[float, int] | None = None
        for degree, cost in costs.items():
            try:
                seconds = static_step(lengths, cost, devices, room, request.sequence)
            except InfeasibleError:
                continue
            one = min(one or (seconds, degree), (seconds, degree))
        best: tuple[float, int, Sequence[object]] | None = None
        for number in (chosen.micro_batches,) if chosen.micro_batches is not None else (1, 2, 3, 4, 6, 8):
            try:
                seconds, plans = grouped_step(lengths, costs, devices, room, number)
            except InfeasibleError:
                continue
            if best is None or seconds < best[0]:
                best = (seconds, number, plans)
        if best is None:
            raise InfeasibleError(
                f"{sum(lengths)} tokens in up to 8 micro-batches do not fit {devices} devices"
            )
        return self._answer(lengths, best, one, room)

    def _room(self, request: OffloadRequest, estimator: Estimator, devices: int) -> float:
        """Bytes of a device that states and two gathered layers leave."""
        setup = TrainingSetup(
            request.model, 4096, devices, 1, request.dtype or "bf16", data=devices, zero_stage=3
        )
        states = model_states(estimator.rank_step(setup), 0)
        held = states.total / devices + 2 * states.layer_weights + states.layer_gradients
        return float(estimator.prices.memory.usable_bytes - held)

    def _answer(
        self,
        lengths: Sequence[int],
        best: tuple[float, int, Sequence[object]],
        one: tuple[float, int] | None,
        room: float,
    ) -> OffloadAnswer:
        seconds, number, plans = best
        rows, groups = [], []
        for place, plan in enumerate(plans):
            degrees = [degree for degree, _ in plan.groups]  # type: ignore[attr-defined]
            words = ", ".join(f"{degrees.count(d)} of {d}" for d in sorted(set(degrees), reverse=True))
            rows.append((place, words, f"{plan.seconds:.4g} s", f"{plan.bound_s:.4g} s"))  # type: ignore[attr-defined]
            groups.append([{"degree": d, "lengths": list(part)} for d, part in plan.groups])  # type: ignore[attr-defined]
        against = "no one degree holds the longest sequence that may come" if one is None else (
            f"one degree of {one[1]} takes {one[0]:.4g} s, {one[0] / seconds:.3f} times as long"
        )  # fmt: skip
        why = (
            f"{len(lengths)} sequences of {sum(lengths)} tokens take {seconds:.4g} s in {number} micro-batches; "
            f"{against}.",
            f"A device has {format_quantity(int(room), 'size')} for activations. This policy only estimates: the "
            "simulator runs "
            "no groups of unequal degrees.",
        )  # fmt: skip
        report = {
            "policy": self.name, "step_s": seconds, "micro_batches": number, "groups": groups,
            "one_degree": None if one is None else {"degree": one[1], "step_s": one[0]},
        }  # fmt: skip
        table = Table(
            "Groups of ranks by micro-batch", ("micro-batch", "groups", "time", "bound"), tuple(rows)
        )
        return OffloadAnswer(self.name, report, why, (table,))


SEQUENCE_GROUPS: Final = _SequenceGroups()
