"""A study: a published system's scenario, run by Offchip, and its claims one by one.

A claim carries the published figure with unit, source and certainty. Running the study gives Offchip's figure
for each, the ratio, a verdict, how it was obtained and what is known to differ. The verdict follows from the
figures and the claim's basis alone: reproduced within 5 %, close within 25 %, else it differs; a claim that Offchip
cannot put a figure to is not comparable, and its paragraph says why.

Agreement is a success only where Offchip's figure could have come out otherwise. So a claim states its basis, and a
reproduced one says by what: by mechanism, by equal counting, or by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from hw_configs.registry import Registry

__all__ = [
    "STUDIES",
    "SUCCESS",
    "Basis",
    "Certainty",
    "Claim",
    "ClaimResult",
    "Figure",
    "Outcome",
    "Study",
    "StudyTable",
    "Verdict",
    "apart",
    "compare",
]

Certainty = Literal["published", "derived", "second-hand", "recalled"]
"""Read in the source; follows from it by arithmetic; read in what others write of it (the claim's source says whom); or
recalled without any source at hand."""

Basis = Literal["mechanism", "counting", "construction"]
"""What stands behind Offchip's figure. ``mechanism``: rates of parts, shapes and rules, none of which was taken from
the claim. ``counting``: both sides apply one formula to one shape, so agreement shows equal counting.
``construction``: an input of ours was fitted to the claim, implied by it or copied from its source."""

Verdict = Literal[
    "reproduced by mechanism",
    "reproduced by counting",
    "reproduced by construction",
    "close",
    "differs",
    "not comparable",
]
_REPRODUCED: Final[dict[Basis, Verdict]] = {
    "mechanism": "reproduced by mechanism",
    "counting": "reproduced by counting",
    "construction": "reproduced by construction",
}
SUCCESS: Final[Verdict] = "reproduced by mechanism"
"""The verdict that tables and totals count as a success."""

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
    basis: Basis


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
            "basis": claim.basis,
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

    def totals(self) -> dict[Verdict, int]:
        """Number of claims by verdict, in the order of the verdicts; every verdict is there."""
        return {verdict: sum(r.verdict == verdict for r in self.claims) for verdict in get_args(Verdict)}

    def words(self) -> str:
        """The totals in words, the successes first."""
        totals = self.totals()
        rest = ", ".join(
            f"{count} {verdict}" for verdict, count in totals.items() if count and verdict != SUCCESS
        )
        first = f"{totals[SUCCESS]} of {len(self.claims)} {SUCCESS}"
        return f"{first}; {rest}" if rest else first


@dataclass(frozen=True, slots=True)
class Study:
    """A published system and how Offchip runs it. ``run`` takes no arguments and is deterministic unless ``timed``.

    ``slow`` marks a run of more than some seconds; the quick test suite leaves it out. ``timed`` says that a search in
    it ends by time, so that its figures differ a little from run to run; its page must then say so.
    """

    name: str
    title: str
    source: str
    scenario: str
    run: Callable[[], Outcome]
    slow: bool = False
    timed: bool = False


def compare(
    claim: Claim, ours: float | str | None, method: str, differences: str = "None known."
) -> ClaimResult:
    """The result for a claim, with the verdict that the figures and the claim's basis give."""
    reproduced = _REPRODUCED[claim.basis]
    if ours is None:
        return ClaimResult(claim, None, None, "not comparable", method, differences)
    if isinstance(ours, str) or isinstance(claim.published, str):
        same = str(ours) == str(claim.published)
        return ClaimResult(claim, ours, None, reproduced if same else "differs", method, differences)
    if claim.published == 0:
        return ClaimResult(claim, ours, None, reproduced if ours == 0 else "differs", method, differences)
    ratio = ours / claim.published
    off = abs(ratio - 1)
    verdict: Verdict = "differs"
    if off <= REPRODUCED_WITHIN:
        verdict = reproduced
    elif off <= CLOSE_WITHIN:
        verdict = "close"
    return ClaimResult(claim, ours, ratio, verdict, method, differences)


def apart(claim: Claim, ours: float | None, method: str, reason: str) -> ClaimResult:
    """The result for a claim whose figure does not mean what ours does: both are shown, and no ratio is drawn."""
    return ClaimResult(claim, ours, None, "not comparable", method, reason)


STUDIES: Final[Registry[Study]] = Registry(
    "study",
    "offchip.studies",
    {
        "attention-io": "offchip.studies.attention_io:STUDY",
        "bank-cores": "offchip.studies.bank_cores:STUDY",
        "bit-planes": "offchip.studies.bit_planes:STUDY",
        "blackvip": "offchip.studies.frozen_networks:BLACKVIP",
        "cartridges": "offchip.studies.shorter_prompts:CARTRIDGES",
        "chess": "offchip.studies.thresholds:STUDY",
        "codenet": "offchip.studies.deformed_windows:CODENET",
        "conv-windows": "offchip.studies.conv_windows:STUDY",
        "cosma": "offchip.studies.cosma:STUDY",
        "cpu-gpu-inference": "offchip.studies.cpu_gpu_inference:STUDY",
        "cut-cross-entropy": "offchip.studies.trained_parts:CUT_CROSS_ENTROPY",
        "deformable-co-design": "offchip.studies.deformed_windows:CO_DESIGN",
        "digital-twin-brain": "offchip.studies.brain_cluster:STUDY",
        "direct-gathers": "offchip.studies.zero_copy_gathers:PYTORCH_DIRECT",
        "ecotta": "offchip.studies.frozen_networks:ECOTTA",
        "edge-moe": "offchip.studies.lane_orders:STUDY",
        "every-memory": "offchip.studies.every_memory:STUDY",
        "expertweave": "offchip.studies.expert_copies:STUDY",
        "flexgen": "offchip.studies.flexgen:STUDY",
        "frozen-vivit": "offchip.studies.trained_parts:VIVIT",
        "galore": "offchip.studies.smaller_states:GALORE",
        "gemm-tiles": "offchip.studies.gemm_tiles:STUDY",
        "generative-adapter": "offchip.studies.shorter_prompts:GENERATIVE_ADAPTER",
        "hierarchical-memories": "offchip.studies.hierarchical_memories:STUDY",
        "iir-snn": "offchip.studies.single_steps:STUDY",
        "inception-next": "offchip.studies.vision_networks:INCEPTION_NEXT",
        "instinfer": "offchip.studies.instinfer:STUDY",
        "lamina": "offchip.studies.attention_workers:STUDY",
        "lemo": "offchip.studies.lemo:STUDY",
        "llm-in-a-flash": "offchip.studies.llm_in_a_flash:STUDY",
        "llm-viewer": "offchip.studies.llm_viewer:STUDY",
        "longspec": "offchip.studies.long_drafts:LONGSPEC",
        "loop": "offchip.studies.trained_parts:LOOP",
        "loram": "offchip.studies.trained_parts:LORAM",
        "meft": "offchip.studies.trained_parts:MEFT",
        "melt": "offchip.studies.phone_generation:STUDY",
        "mem1": "offchip.studies.turn_memory:STUDY",
        "memo": "offchip.studies.memo:STUDY",
        "memory-decoder": "offchip.studies.mlp_memory:DECODER",
        "mesa": "offchip.studies.smaller_states:MESA",
        "mixed-columns": "offchip.studies.mixed_columns:STUDY",
        "mixed-networks": "offchip.studies.mixed_networks:STUDY",
        "mlp-memory": "offchip.studies.mlp_memory:STUDY",
        "natural-galore": "offchip.studies.trained_parts:NATURAL_GALORE",
        "paca": "offchip.studies.trained_parts:PACA",
        "packed-features": "offchip.studies.packed_features:STUDY",
        "peqa": "offchip.studies.trained_parts:PEQA",
        "pim-gpt": "offchip.studies.pim_gpt:STUDY",
        "pixart-delta": "offchip.studies.few_steps:STUDY",
        "pst": "offchip.studies.trained_parts:PST",
        "rapid": "offchip.studies.long_drafts:RAPID",
        "refrag": "offchip.studies.shorter_prompts:REFRAG",
        "resident-window": "offchip.studies.resident_window:STUDY",
        "sequence-groups": "offchip.studies.sequence_groups:STUDY",
        "shvit": "offchip.studies.vision_networks:SHVIT",
        "smash": "offchip.studies.sparse_products:STUDY",
        "spann": "offchip.studies.spann:STUDY",
        "sparsey": "offchip.studies.sparse_codes:STUDY",
        "spiking-memory": "offchip.studies.spiking_memory:STUDY",
        "sparse-weights": "offchip.studies.sparse_weights:STUDY",
        "succinct-paging": "offchip.studies.succinct_paging:STUDY",
        "svdquant": "offchip.studies.low_bit_pictures:STUDY",
        "vattention": "offchip.studies.virtual_pages:STUDY",
        "vocabulary-stages": "offchip.studies.vocabulary_stages:STUDY",
        "vovnet": "offchip.studies.vision_networks:VOVNET",
        "wta-crs": "offchip.studies.trained_parts:WTA_CRS",
        "zero-copy-training": "offchip.studies.zero_copy_gathers:GCN",
        "zero-infinity": "offchip.studies.zero_infinity:STUDY",
        "zero-offload": "offchip.studies.zero_offload:STUDY",
    },
)
