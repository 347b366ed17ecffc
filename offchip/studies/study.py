"""A study: a published system's scenario, run by Offchip, and its claims one by one.

A claim carries the published figure with unit, source and certainty. Running the study gives Offchip's figure
for each, the ratio, a verdict, how it was obtained and what is known to differ. The verdict follows from the
figures alone: reproduced within 5 %, close within 25 %, else it differs; a claim that Offchip cannot put a
figure to is not comparable, and its paragraph says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from hw_configs.registry import Registry

__all__ = [
    "STUDIES",
    "Certainty",
    "Claim",
    "ClaimResult",
    "Figure",
    "Outcome",
    "Study",
    "StudyTable",
    "Verdict",
    "compare",
]

Certainty = Literal["published", "derived", "recalled"]
"""Read in the source; follows from it by arithmetic; or recalled without the source at hand."""

Verdict = Literal["reproduced", "close", "differs", "not comparable"]

REPRODUCED_WITHIN: Final = 0.05
CLOSE_WITHIN: Final = 0.25


@dataclass(frozen=True, slots=True)
class Claim:
    """One published figure, or a published word (which roof binds). ``unit`` is "" for words and ratios."""

    id: str
    statement: str
    published: float | str
    unit: str
    source: str
    certainty: Certainty


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """What Offchip says to a claim. ``ratio`` is ours over published; None for words and missing figures."""

    claim: Claim
    ours: float | str | None
    ratio: float | None
    verdict: Verdict
    method: str
    differences: str = "None known."

    def to_json(self) -> dict[str, Any]:
        """The result with its claim, as plain data."""
        claim = self.claim
        return {
            "id": claim.id,
            "statement": claim.statement,
            "published": claim.published,
            "ours": self.ours,
            "unit": claim.unit,
            "ratio": self.ratio,
            "verdict": self.verdict,
            "source": claim.source,
            "certainty": claim.certainty,
            "method": self.method,
            "differences": self.differences,
        }


@dataclass(frozen=True, slots=True)
class StudyTable:
    """A table of the study's own results; cells are text or numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float, ...], ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing: ``draw(path)`` writes an SVG file; ``caption`` stands under it."""

    name: str
    caption: str
    draw: Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of a study gives."""

    claims: Sequence[ClaimResult]
    tables: Sequence[StudyTable] = ()
    figures: Sequence[Figure] = ()


@dataclass(frozen=True, slots=True)
class Study:
    """A published system and how Offchip runs it. ``run`` takes no arguments and is deterministic.

    ``slow`` marks a run of more than some seconds; the quick test suite leaves it out.
    """

    name: str
    title: str
    source: str
    scenario: str
    run: Callable[[], Outcome]
    slow: bool = False


def compare(
    claim: Claim, ours: float | str | None, method: str, differences: str = "None known."
) -> ClaimResult:
    """The result for a claim, with the verdict that the figures give."""
    if ours is None:
        return ClaimResult(claim, None, None, "not comparable", method, differences)
    if isinstance(ours, str) or isinstance(claim.published, str):
        same = str(ours) == str(claim.published)
        return ClaimResult(claim, ours, None, "reproduced" if same else "differs", method, differences)
    if claim.published == 0:
        return ClaimResult(claim, ours, None, "reproduced" if ours == 0 else "differs", method, differences)
    ratio = ours / claim.published
    off = abs(ratio - 1)
    verdict: Verdict = "differs"
    if off <= REPRODUCED_WITHIN:
        verdict = "reproduced"
    elif off <= CLOSE_WITHIN:
        verdict = "close"
    return ClaimResult(claim, ours, ratio, verdict, method, differences)


STUDIES: Final[Registry[Study]] = Registry(
    "study",
    "offchip.studies",
    {
        "attention-io": "offchip.studies.attention_io:STUDY",
        "conv-windows": "offchip.studies.conv_windows:STUDY",
        "cosma": "offchip.studies.cosma:STUDY",
        "flexgen": "offchip.studies.flexgen:STUDY",
        "galore": "offchip.studies.smaller_states:GALORE",
        "gemm-tiles": "offchip.studies.gemm_tiles:STUDY",
        "llm-in-a-flash": "offchip.studies.llm_in_a_flash:STUDY",
        "lemo": "offchip.studies.lemo:STUDY",
        "llm-viewer": "offchip.studies.llm_viewer:STUDY",
        "memo": "offchip.studies.memo:STUDY",
        "mesa": "offchip.studies.smaller_states:MESA",
        "instinfer": "offchip.studies.instinfer:STUDY",
        "pim-gpt": "offchip.studies.pim_gpt:STUDY",
        "resident-window": "offchip.studies.resident_window:STUDY",
        "sparse-weights": "offchip.studies.sparse_weights:STUDY",
        "zero-infinity": "offchip.studies.zero_infinity:STUDY",
        "zero-offload": "offchip.studies.zero_offload:STUDY",
    },
)
