"""How samples reach the devices that begin a training step: read, made ready by the host's workers, copied over.

A step's samples come so many steps ahead. With none ahead the passes of a micro-batch wait for its own samples. With
one the samples of the next step are read, made ready and copied while this one runs; with two what is copied was made
ready a step before, with three what is made ready was read a step before. The step repeats, so it ends no earlier than
what it loads for later ones: loading shows where it is slower than the step. More steps ahead would help only against
unevenness, which is not modelled.

Every rank of the pipeline's first stage fetches for itself: whole samples under tensor parallelism, its part of each
where ranks divide the sequence. What goes to the last stage (labels) is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from typing import TYPE_CHECKING, Final

from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.units import format_quantity

if TYPE_CHECKING:
    from mapping.training.setup import TrainingSetup
    from mapping.training.step_exchanges import Actor, Exchanges
    from mapping.training.tier_rates import TierRates
    from simulator.training.program import ProgramBuilder

__all__ = ["NO_LOADING", "SAMPLE_PLACES", "SampleLoading", "load_samples"]

SAMPLE_PLACES: Final = ("host", "nvme")
DEEPEST: Final = 3
"""Steps ahead from which on reading, making ready and copying each work for a step of their own."""
_MOST_BYTES: Final = 1 << 50


@dataclass(frozen=True, slots=True)
class SampleLoading:
    """What a sequence of the batch costs to fetch.

    ``sample_bytes``: of one sample as it is stored and copied. ``place``: host memory or the machine's drives.
    ``cpu_s``: time of one worker for one sample (decoding, augmenting; 0: samples lie ready). ``workers``: of each
    device. ``ahead``: steps. All are the user's assumptions: no figure stands behind the defaults.
    """

    sample_bytes: int = 0
    place: str = "host"
    cpu_s: float = 0.0
    workers: int = 8
    ahead: int = 2

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise InputError(problems)

    def _problems(self) -> Iterator[Problem]:
        if not 0 <= self.sample_bytes <= _MOST_BYTES:
            yield Problem(f"found {self.sample_bytes}; expected 0 to {_MOST_BYTES} bytes", path="sample")
        if self.place not in SAMPLE_PLACES:
            message = f"found {self.place!r:.40}; expected one of {', '.join(SAMPLE_PLACES)}"
            yield Problem(message, path="samples", suggestion=nearest(self.place, list(SAMPLE_PLACES)))
        if not (isfinite(self.cpu_s) and 0 <= self.cpu_s <= 86400):
            yield Problem(f"found {self.cpu_s}; expected 0 to 86400 seconds", path="sample_cpu")
        for name, value, least in (("workers", self.workers, 1), ("ahead", self.ahead, 0)):
            if value < least:
                yield Problem(f"found {value}; expected {least} or more", path=name)

    @property
    def nothing(self) -> bool:
        """Whether samples cost nothing."""
        return self.sample_bytes == 0 and self.cpu_s == 0

    def words(self) -> str:
        """In a line for people."""
        cost = f", {1e3 * self.cpu_s:g} ms each over {self.workers} workers" if self.cpu_s else ""
        size = format_quantity(self.sample_bytes, "size")
        steps = "step" if self.ahead == 1 else "steps"
        return f"samples of {size} from {self.place}{cost}, {self.ahead} {steps} ahead"

    def rank_bytes(self, setup: TrainingSetup) -> int:
        """Bytes that a rank of the first stage gets for a micro-batch."""
        return setup.micro_batch * ceil(self.sample_bytes / (setup.ulysses * setup.context))

    def held_bytes(self, setup: TrainingSetup, micro_batches: int) -> int:
        """Device bytes of a later step's samples; those of this one are the graph's own inputs."""
        return self.rank_bytes(setup) * micro_batches if self.ahead else 0


NO_LOADING: Final = SampleLoading()


def load_samples(
    builder: ProgramBuilder,
    exchanges: Exchanges,
    actor: Actor,
    rates: TierRates,
    micro_batches: Sequence[int],
) -> dict[int, int]:
    """The tasks that load a step's samples for an actor; by micro-batch the one that its passes wait for.

    Empty where none has to wait, since what is loaded is for later steps. Raises ``InputError`` where samples lie on
    drives that the system has not.
    """
    from simulator.training.program import TaskKind

    setup = exchanges.setup
    what = setup.loading
    size = what.rank_bytes(setup)
    seconds = setup.micro_batch * what.cpu_s / what.workers
    from_drives = what.place == "nvme" and size > 0
    if from_drives and rates.drive_read <= 0:
        raise bad_input(
            f"{exchanges.prices.system.name!r} has no drives to read samples from", path="samples"
        )
    streams = {
        name: builder.stream(actor.number, name) for name in ("read samples", "ready samples", "copy samples")
    }
    ends: dict[int, int] = {}
    for micro_batch in micro_batches:
        after: list[int] = []
        if from_drives:
            reading = size / rates.drive_read
            after = [
                builder.add(
                    streams["read samples"], TaskKind.LOADING, reading, label=f"read samples {micro_batch}",
                    traffic=(reading, exchanges.in_turn(actor, "drives")),
                )
            ]  # fmt: skip
        if seconds:
            after = [
                builder.add(
                    streams["ready samples"], TaskKind.LOADING, seconds, label=f"ready samples {micro_batch}",
                    after=after if what.ahead < DEEPEST else [],
                )
            ]  # fmt: skip
        if size:
            exchange, route = exchanges.copy(actor, size, to_host=False)
            after = [
                builder.add(
                    streams["copy samples"], TaskKind.LOADING, exchange.seconds, label=f"copy samples {micro_batch}",
                    after=after if what.ahead < DEEPEST - 1 else [], traffic=(exchange.bytes, route),
                )
            ]  # fmt: skip
        if after:
            ends[micro_batch] = after[0]
    return {} if what.ahead else ends
