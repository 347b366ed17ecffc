"""A training step that has been executed: its time and where it went, memory by stage, bytes by link.

Figures of a class are those of one of its devices. The step's parts are the mean over all devices, so that they add up
to the step; exposed traffic is what no computation of the device hides, bubble what it waits for others to compute.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from hw_configs.shown import Table
from hw_configs.units import format_quantity
from mapping.training.setup import TrainingSetup
from simulator.training.account import ClassAccount, accounts
from simulator.training.program import TaskKind
from simulator.training.run import StepRun

__all__ = ["ExecutedStep", "executed"]

MOST_ROWS: Final = 64
"""Classes that a table shows; ``to_json`` has all."""
_WORDS: Final = {
    "forward": "forward", "backward": "backward", "recompute": "recomputation", "optimizer": "optimizer",
    "tensor": "exposed tensor parallelism", "sequence": "exposed context and Ulysses", "expert": "exposed experts",
    "pipeline": "exposed pipeline sends", "data": "exposed data parallelism", "swap": "exposed swapping",
    "loading": "exposed loading of samples",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class ExecutedStep:
    """What an executed step took. ``usable_bytes`` is a device's memory, ``model_flops`` those of the whole step.

    ``saving_s``: seconds of a step that takes a checkpoint, where most take none; what is shown is one of the others.
    """

    setup: TrainingSetup
    run: StepRun
    classes: tuple[ClassAccount, ...]
    links: dict[str, float]
    model_flops: float
    peak_flops: float
    usable_bytes: int
    notes: tuple[str, ...] = field(default=())
    saving_s: float | None = None

    @property
    def step_s(self) -> float:
        """Seconds of the step."""
        return self.run.makespan_s

    @property
    def mean_s(self) -> float:
        """Seconds of a step on average, those that take a checkpoint among them."""
        if self.saving_s is None:
            return self.step_s
        every = self.setup.checkpoint_every
        return (self.saving_s + (every - 1) * self.step_s) / every

    @property
    def mfu(self) -> float:
        """Share of the devices' peak that the model's own operations come to, on average."""
        return self.model_flops / (self.mean_s * self.peak_flops) if self.mean_s else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second and device, on average."""
        setup = self.setup
        return setup.sequence * setup.batch / self.mean_s / setup.devices if self.mean_s else 0.0

    @property
    def peak_bytes(self) -> int:
        """Bytes of the fullest device: all that lives at once, without what an allocator adds."""
        return max(account.peak_bytes for account in self.classes)

    def seconds(self) -> dict[str, float]:
        """Seconds by part, mean over the devices; they add up to the step."""
        ranks = sum(account.ranks for account in self.classes)
        parts = dict.fromkeys((*(kind.name.lower() for kind in TaskKind), "bubble"), 0.0)
        for account in self.classes:
            for name, value in (*account.seconds.items(), ("bubble", account.bubble_s)):
                parts[name] += value * account.ranks / ranks
        return parts

    def loading(self) -> dict[str, float]:
        """Seconds that samples are read, made ready and copied for, hidden or not, of the class that loads longest."""
        program, spent = self.run.program, self.run.end - self.run.start
        loads = program.tasks.kind == TaskKind.LOADING
        found: dict[str, float] = {}
        for stream in np.unique(program.tasks.stream[loads]).tolist():
            name = program.stream_names[stream]
            found[name] = max(found.get(name, 0.0), float(spent[program.tasks.stream == stream].sum()))
        return found

    def to_json(self) -> dict[str, Any]:
        """Everything but the single tasks, SI units in names."""
        return {
            "setup": self.setup.to_json(),
            "step_s": self.step_s,
            "mean_step_s": self.mean_s,
            "checkpoint_step_s": self.saving_s,
            "mfu": self.mfu,
            "tokens_per_s_per_device": self.tokens_per_s,
            "seconds": self.seconds(),
            "loading": self.loading(),
            "peak_bytes": self.peak_bytes,
            "usable_bytes": self.usable_bytes,
            "classes": [
                {
                    "name": account.name, "ranks": account.ranks, "seconds": dict(account.seconds),
                    "bubble_s": account.bubble_s, "peak_bytes": account.peak_bytes,
                }
                for account in self.classes
            ],
            "link_bytes": self.links,
            "tasks": len(self.run.program),
            "notes": list(self.notes),
        }  # fmt: skip

    def tables(self) -> tuple[Table, ...]:
        """Tables for people."""
        peak, whole = (format_quantity(size, "size") for size in (self.peak_bytes, self.usable_bytes))
        saved: tuple[tuple[str, str], ...] = ()
        if self.saving_s is not None:
            every = self.setup.checkpoint_every
            saved = (
                ("step with a checkpoint", f"{self.saving_s:.4g} s"),
                (f"mean of {every} steps", f"{self.mean_s:.4g} s"),
            )
        head = (
            ("step", f"{self.step_s:.4g} s"), *saved, ("MFU", f"{100 * self.mfu:.2f} %"),
            ("tokens per second and device", f"{self.tokens_per_s:.5g}"),
            ("fullest device", f"{peak} of {whole}"),
        )  # fmt: skip
        parts = tuple(
            (_WORDS.get(name, name), f"{value:.4g} s", f"{100 * value / self.step_s:.1f} %")
            for name, value in self.seconds().items()
            if value > 0
        )
        links = tuple((name, format_quantity(size, "size")) for name, size in sorted(self.links.items()))
        tables = [
            Table("Executed, event by event", ("", ""), head),
            Table("Where the step goes, mean over the devices", ("part", "time", "share"), parts),
        ]
        if len(self.classes) > 1:
            tables.append(Table("By stage", self._columns(), tuple(self._rows())))
        beside = self.loading()
        if beside:
            rows = tuple((name, f"{value:.4g} s") for name, value in beside.items())
            tables.append(Table(f"Samples: {self.setup.loading.words()}", ("beside the step", "time"), rows))
        if links:
            tables.append(Table("Bytes over links, all devices", ("link", "size"), links))
        return tuple(tables)

    def _columns(self) -> tuple[str, ...]:
        return ("stage", "devices", "computes", "exposed traffic", "bubble", "peak memory")

    def _rows(self) -> Iterator[tuple[object, ...]]:
        for account in self.classes[:MOST_ROWS]:
            exposed = sum(account.seconds.values()) - account.compute_s
            yield (
                account.name, account.ranks, f"{account.compute_s:.4g} s", f"{exposed:.4g} s",
                f"{account.bubble_s:.4g} s", format_quantity(account.peak_bytes, "size"),
            )  # fmt: skip
        if len(self.classes) > MOST_ROWS:
            yield (f"and {len(self.classes) - MOST_ROWS} more", "", "", "", "", "")


def executed(
    setup: TrainingSetup, run: StepRun, model_flops: float, peak_flops: float, usable_bytes: int
) -> ExecutedStep:
    """The account of a run: ``peak_flops`` of all its devices, ``usable_bytes`` of one."""
    classes = accounts(run)
    notes = []
    peak = max(account.peak_bytes for account in classes)
    if peak > usable_bytes:
        short, whole = format_quantity(peak - usable_bytes, "size"), format_quantity(usable_bytes, "size")
        notes.append(f"device memory is short by {short} of {whole}")
    return ExecutedStep(
        setup, run, classes, run.carried_bytes(), model_flops, peak_flops, usable_bytes, tuple(notes)
    )
