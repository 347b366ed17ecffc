"""Paging with one predicted bit per request: misses over the optimum's as the bits go wrong.

Antoniadis et al. (Paging with Succinct Predictions, arXiv:2210.02775) prove bounds and print no figures: right bits
reach the optimum, wrong ones cost O(log k), and every wrong bit costs a bounded number of misses. Here their rules run
beside LRU, marking, PredictiveMarker and blind trust, on traces whose optimum is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from hw_configs.settings import read_settings
from offchip.studies.line_figure import draw_lines
from offchip.studies.study import Certainty, Claim, ClaimResult, Figure, Outcome, Study, StudyTable, compare
from simulator.cache.hierarchy import Level
from simulator.cache.hints import discard_bits, next_uses, phase_bits
from simulator.cache.objects import Objects
from simulator.cache.replacement.nodes import HIT
from simulator.cache.replacement.policy import POLICIES
from simulator.cache.running import RunningCache
from simulator.cache.simulate import Hierarchy, simulate_caches, whole_trace
from workloads.cache_trace import open_pattern

__all__ = ["STUDY", "Sweep", "measured"]

PAGES: Final = 64
"""k: pages that fit."""
TRACES: Final = (
    f"zipf0.9:20000:{20 * PAGES}:1", f"scan-mix:20000:{10 * PAGES}:1", f"loop:20000:{PAGES + 1}:1",
    f"walk:20000:{10 * PAGES}:1",
)  # fmt: skip
BIT_ERRORS: Final = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
DISCARD_POLICIES: Final = ("discard-predictions", "flush-predictions", "robust-discard")
BIT_POLICIES: Final = (*DISCARD_POLICIES, "phase-predictions")
TRUST: Final = 1.5
"""Of robust-discard."""
SPREADS: Final = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
SEEDS: Final = (1, 2, 3)
HARMONIC: Final = float(sum(1 / i for i in range(1, PAGES + 1)))
_PAPER = "Paging with Succinct Predictions, arXiv:2210.02775"
_REVIEW = f"{_PAPER}, as reported by a review"
_ALONE = (
    " The rule alone pays a miss for every bit wrongly 'drop', as the bound below says, and a loop is made of them; a "
    "guarantee against all bits wrong needs a combination with a robust rule, which the next claim is about. The text "
    "of the paper could not be opened (its abstract and its bounds as others report them could): whether and how it "
    "combines them is not known here."
)
_COMBINED = (
    " The worst bits are tried as well: of the pages that must stay, those that come back soonest are said to be safe "
    "to drop. The factor is shown in simulator/cache/replacement/robust_discard.py, not in a paper that was read."
)
_BETTER = "Fiat, Rabani, Ravid, FOCS 1990; Wei, arXiv:2005.13716; rule recalled, as in robust_discard.py"
BOUNDS: Final = (
    (
        "discard-predictions",
        "OPT + 2 H_k (bits wrongly 'keep') + (bits wrongly 'drop')",
        (1.0, 2 * HARMONIC, 1.0),
    ),
    (
        "flush-predictions",
        "OPT + (k - 1) (bits wrongly 'keep') + (bits wrongly 'drop')",
        (1.0, PAGES - 1.0, 1.0),
    ),
    (
        "phase-predictions",
        "2 OPT + H_k (bits wrongly 'wanted') + (bits wrongly 'unwanted')",
        (2.0, HARMONIC, 1.0),
    ),
)
"""Policy, bound in words, factors of the optimum and of bits wrongly 0 and wrongly 1."""


class Sweep(NamedTuple):
    """Ratios of misses to Belady's on one trace: of policies without predictions, and by error of those with."""

    optimum: int
    plain: Mapping[str, float]
    bits: Mapping[str, Sequence[float]]
    misled: Mapping[str, Sequence[float]]
    distances: Mapping[str, Sequence[float]]


def measured(recipe: str) -> Sweep:
    """All policies on one trace; those that draw by chance are averaged over three seeds."""
    optimum = _misses(recipe, "belady")
    plain = {name: _misses(recipe, name) / optimum for name in ("lru", "marking", "random")}
    bits = {name: [_misses(recipe, name, error) / optimum for error in BIT_ERRORS] for name in BIT_POLICIES}
    distances = {
        name: [_misses(recipe, name, spread) / optimum for spread in SPREADS]
        for name in ("predictive-marker", "blind-oracle")
    }
    misled = {
        name: [_ratio_when_misled(recipe, name, share, int(optimum)) for share in BIT_ERRORS]
        for name in DISCARD_POLICIES
    }
    return Sweep(int(optimum), plain, bits, misled, distances)


def _misses(recipe: str, name: str, error: float | None = None) -> float:
    policy = POLICIES.get(name)
    settings = read_settings(policy.settings, {} if error is None else {"error": error})
    hierarchy = Hierarchy(name, (Level("cache", PAGES, policy, settings),))
    seeds = SEEDS if policy.random or error else SEEDS[:1]
    runs = [simulate_caches(open_pattern(recipe), [hierarchy], seed=seed).runs[0].misses for seed in seeds]
    return sum(runs) / len(runs)


def _ratio_when_misled(recipe: str, name: str, share: float, optimum: int) -> float:
    """Ratio of misses where the worst bits are wrong: of what must stay, the share that comes back soonest may go."""
    bits = _Bits.of(recipe, "discard bit")
    return bits.misses(name, bits.true | bits.soonest(share), SEEDS[0]) / optimum


class _Bits(NamedTuple):
    """A trace with its true bits."""

    nodes: npt.NDArray[np.int32]
    sizes: npt.NDArray[np.int64]
    true: npt.NDArray[np.int64]

    @classmethod
    def of(cls, recipe: str, kind: str) -> _Bits:
        (chunk,) = whole_trace(open_pattern(recipe))
        nodes = Objects().nodes_of(chunk.object)
        make = discard_bits if kind == "discard bit" else phase_bits
        return cls(nodes, chunk.size, make(nodes, chunk.size, PAGES))

    def soonest(self, share: float) -> npt.NDArray[np.bool_]:
        """Of the requests whose bit is 0, the share whose objects come back soonest."""
        stays = np.flatnonzero(self.true == 0)
        order = stays[np.argsort(next_uses(self.nodes)[stays] - stays, kind="stable")]
        chosen = np.zeros(len(self.true), np.bool_)
        chosen[order[: round(share * len(stays))]] = True
        return chosen

    def misses(self, name: str, told: npt.NDArray[np.int64], seed: int) -> int:
        """Misses of a policy that is told these bits."""
        cache = RunningCache(POLICIES.get(name), PAGES, seed=seed)
        events = cache.run(self.nodes, self.sizes, int(self.nodes.max()) + 1, told)
        return int(np.count_nonzero(events.what != HIT))


def _excess(recipe: str, optimum: int, name: str, factors: tuple[float, float, float]) -> float:
    """Most misses above a OPT + b (bits wrongly 0) + c (bits wrongly 1), by chance and by the worst bits."""
    bits = _Bits.of(recipe, POLICIES.get(name).hint)
    worst = -np.inf
    for error in BIT_ERRORS:
        for seed in SEEDS:
            turned = np.random.default_rng(seed).random(len(bits.true)) < error
            cases = (turned, turned & (bits.true == 0), turned & (bits.true == 1), bits.soonest(error))
            for wrong in cases:
                kept, dropped = int((wrong & (bits.true == 1)).sum()), int((wrong & (bits.true == 0)).sum())
                found = bits.misses(name, np.where(wrong, 1 - bits.true, bits.true), seed)
                worst = max(worst, found - factors[0] * optimum - factors[1] * kept - factors[2] * dropped)
    return float(worst)


def _claims(sweeps: Mapping[str, Sweep]) -> list[ClaimResult]:
    method = f"{len(TRACES)} traces of 20000 requests, {PAGES} pages fit; misses over Belady's. "
    results = [_consistent(recipe, sweep, method) for recipe, sweep in sweeps.items()]
    bits = "The bits are those of this optimum, each turned round by chance: an adversary could choose worse ones."

    def within(key: str, words: str, ratio: float, bound: float, source: str) -> ClaimResult:
        certainty: Certainty = "second-hand" if source == _REVIEW else "recalled"
        claim = Claim(key, words, "yes", "", source, certainty, "mechanism")
        found = "yes" if ratio <= bound else "no"
        more = {"discard-robust": _ALONE, "combined-robust": _COMBINED}.get(key, "")
        return compare(claim, found, f"{method}Worst ratio {ratio:.3f}, bound {bound:.3f}.", bits + more)

    worst = {
        name: max(max(getattr(s, kind)[name]) for s in sweeps.values())
        for kind, names in (
            ("bits", BIT_POLICIES), ("distances", ("predictive-marker",)),
        )
        for name in names
    }  # fmt: skip
    combined = max(worst["robust-discard"], *(max(s.misled["robust-discard"]) for s in sweeps.values()))
    flushed, followed = (max(s.bits[name][0] for s in sweeps.values()) for name in DISCARD_POLICIES[1:])
    results += [
        within("phase-consistent", "right phase bits cost at most twice the optimum",
               max(s.bits["phase-predictions"][0] for s in sweeps.values()), 2.0, _REVIEW),
        within("flush-consistent", "right bits reach it where the cache is emptied if nothing may go", flushed, 1.0,
               _REVIEW),
        within("combined-consistent", "right bits reach it in combination with marking", followed, 1.0, _BETTER),
        within("discard-robust", "discard bits however wrong stay within O(log k); here 2 H_k",
               worst["discard-predictions"], 2 * HARMONIC, _REVIEW),
        within("combined-robust", f"combined with marking they stay within {1 + TRUST} times marking's 2 H_k", combined,
               2 * (1 + TRUST) * HARMONIC, _BETTER),
        within("phase-robust", "phase bits however wrong stay within O(log k); here 2 H_k",
               worst["phase-predictions"], 2 * HARMONIC, _REVIEW),
        within("marker-robust", "PredictiveMarker stays within 4 H_k", worst["predictive-marker"], 4 * HARMONIC,
               "Lykouris and Vassilvitskii, arXiv:1802.05399, theorem recalled"),
        within("marking", "marking stays within 2 H_k", max(s.plain["marking"] for s in sweeps.values()),
               2 * HARMONIC, "Fiat et al., J. Algorithms 12(4), 1991, theorem recalled"),
    ]  # fmt: skip
    results += [_smooth_claim(sweeps, method, bits, *bound) for bound in BOUNDS]
    loop = sweeps[TRACES[2]]
    claim = Claim(
        "lru-worst", f"LRU over the optimum on a loop of k + 1 pages, k = {PAGES}", float(PAGES), "",
        "Sleator and Tarjan, Comm. ACM 28(2), 1985", "recalled", "mechanism",
    )  # fmt: skip
    results.append(
        compare(
            claim,
            (loop.plain["lru"] * loop.optimum - PAGES) / (loop.optimum - PAGES),
            f"20000 requests, {PAGES} pages fit; without the first {PAGES} misses, which both have and the ratio's "
            "definition allows for.",
        )
    )
    return results


def _smooth_claim(
    sweeps: Mapping[str, Sweep],
    method: str,
    bits: str,
    name: str,
    words: str,
    factors: tuple[float, float, float],
) -> ClaimResult:
    """Whether misses stay below a OPT + b (bits wrongly 0) + c (bits wrongly 1)."""
    excess = max(_excess(recipe, sweep.optimum, name, factors) for recipe, sweep in sweeps.items())
    claim = Claim(
        f"{name}-smooth",
        f"{name}: misses are at most {words}",
        "yes",
        "",
        _REVIEW,
        "second-hand",
        "mechanism",
    )
    how = (
        f"{method}Bits wrong by chance (of all, of those of either value), and those 0 that come back soonest. Largest "
        f"excess: {excess:.0f} misses."
    )
    return compare(claim, "yes" if excess <= 0 else "no", how, bits)


def _consistent(recipe: str, sweep: Sweep, method: str) -> ClaimResult:
    name = recipe.partition(":")[0]
    claim = Claim(
        f"consistent-{name}", f"right discard bits reach the optimum: misses over Belady's, {name}", 1.0, "", _REVIEW,
        "second-hand", "mechanism",
    )  # fmt: skip
    words = "A page that may go stays here until its room is wanted; the paper's rule drops it at once."
    return compare(claim, sweep.bits["discard-predictions"][0], method + "Bits of Belady's run.", words)


def _run() -> Outcome:
    sweeps = {recipe: measured(recipe) for recipe in TRACES}
    tables = []
    for recipe, sweep in sweeps.items():
        rows = [
            (
                error,
                *(round(values[at], 4) for values in sweep.bits.values()),
                *(round(v, 4) for v in sweep.plain.values()),
            )
            for at, error in enumerate(BIT_ERRORS)
        ]
        tables.append(
            StudyTable(
                f"Misses over the optimum's {sweep.optimum} by share of wrong bits, {recipe}",
                ("error", *sweep.bits, *sweep.plain), tuple(rows),
            )
        )  # fmt: skip
        rows = [
            (share, *(round(values[at], 4) for values in sweep.misled.values()))
            for at, share in enumerate(BIT_ERRORS)
        ]
        tables.append(
            StudyTable(
                f"The same where, of what must stay, the share that comes back soonest is said to be safe, {recipe}",
                ("share", *sweep.misled), tuple(rows),
            )
        )  # fmt: skip
        rows = [
            (spread, *(round(values[at], 4) for values in sweep.distances.values()))
            for at, spread in enumerate(SPREADS)
        ]
        tables.append(
            StudyTable(
                f"The same by spread of the predicted distance (e to a normal deviate), {recipe}",
                ("spread", *sweep.distances), tuple(rows),
            )
        )  # fmt: skip
    first = sweeps[TRACES[0]]
    caption = (
        f"Misses over Belady's as more predicted bits are wrong ({TRACES[0]}, {PAGES} pages fit). Dashed: policies "
        "without predictions, which no error moves."
    )

    def draw(path: Path) -> None:
        lines = {name: list(zip(BIT_ERRORS, values, strict=True)) for name, values in first.bits.items()}
        bounds = {
            name: [(BIT_ERRORS[0], ratio), (BIT_ERRORS[-1], ratio)] for name, ratio in first.plain.items()
        }
        draw_lines(path, lines, "share of wrong bits", "misses / Belady's misses", bounds=bounds)

    return Outcome(_claims(sweeps), tables, [Figure("errors", caption, draw)])


STUDY: Final = Study(
    "succinct-paging",
    "Paging with succinct predictions",
    _PAPER,
    f"Four traces of 20000 requests to a cache of {PAGES} pages: LRU, marking and random beside four rules that are "
    "told one bit per request and two that are told next uses, as more of what they are told is wrong. All over "
    "Belady's misses.",
    _run,
)
