"""What a validation kind offers, and where kinds are registered.

A kind is a function that walks the rows of a reference folder and yields one :class:`RowResult` each. A row
it cannot run is yielded with the verdict ``unsupported`` and a note, never dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from hw_configs.problems import bad_input
from hw_configs.registry import Registry

__all__ = ["VALIDATORS", "Options", "RowResult", "Validator", "Verdict", "find_file"]

Verdict = Literal["ok", "off", "failed", "unsupported"]


@dataclass(frozen=True, slots=True)
class RowResult:
    """One row: what the reference says, what Offchip says, and how they compare.

    ``expected`` and ``ours`` use the reference's own column names. ``seconds`` is the engine's time alone.
    ``error`` is the relative error of the row's main figure where it has one.
    """

    id: str
    expected: dict[str, Any]
    ours: dict[str, Any]
    seconds: float
    verdict: Verdict
    error: float | None = None
    note: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Names under which a summary counts the row, such as ``{"class": "gemm16", "gpu": "T4"}``."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Relative errors of further figures, ours or another model's, that a summary shows beside ``error``."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options that any kind may read."""

    time_limit_s: float | None = None
    end_to_end: bool = False
    cost_model: str = ""
    """Cost model of kinds that have a choice; empty for the kind's own default."""


Validator = Callable[[Path, str, Options], Iterator[RowResult]]
"""``run(folder, rows, options)``: ``rows`` is a glob over row ids."""

VALIDATORS: Final[Registry[Validator]] = Registry(
    "validation kind",
    "offchip.validators",
    {
        "activations": "offchip.validation.activations:run",
        "alloc": "offchip.validation.alloc:run",
        "cache": "offchip.validation.cache:run",
        "dram": "offchip.validation.dram:run",
        "flash": "offchip.validation.flash:run",
        "gpu": "offchip.validation.gpu:run",
        "loopnest": "offchip.validation.loopnest:run",
        "offload": "offchip.validation.offload:run",
        "pipeline": "offchip.validation.pipeline:run",
        "serving": "offchip.validation.serving:run",
        "schedule": "offchip.validation.schedule:run",
        "scheduler": "offchip.validation.scheduler:run",
        "pim": "offchip.validation.pim:run",
        "training": "offchip.validation.training:run",
    },
)


def find_file(folder: Path, name: str) -> Path:
    """The data file of that name in the folder or any sub-folder; the shallowest wins."""
    if not folder.is_dir():
        raise bad_input("no such folder", file=str(folder))
    found = sorted(folder.rglob(name), key=lambda path: (len(path.parts), str(path)))
    if not found:
        raise bad_input(f"holds no file named {name!r}", file=str(folder))
    return found[0]
