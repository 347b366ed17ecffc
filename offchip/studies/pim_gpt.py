"""PIM-GPT: eight GPTs on GDDR6 that multiplies, against a T4 and a Xeon; every claim beside Offchip's figure.

The machine's timings, currents and the host chip's sizes were recalled, not read in the paper's
own table (see the marks in the device files), and per-model figures were not found in readable form. So the
study compares ranges and says for each claim what stands behind it. Nothing of the machine is tuned to a claim; the
baselines are: their host software's time and the CPU's rate are taken back from the published speedups, one power of
the CPU from the published energies, and every claim that rests on them holds by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from offchip.studies.pim_baselines import (
    CPU_IMPLIED_W,
    CPU_W,
    GPU_W,
    Baseline,
    Shape,
    baseline,
    counted_movement,
    shape_of,
)  # fmt: skip
from offchip.studies.pim_generation import MODELS, TokenCost, changed_machine, token_cost
from offchip.studies.pim_generation_views import (
    figures,
    model_table,
    overlap_table,
    part_table,
    sweep_tables,
    sweeps,
)  # fmt: skip
from offchip.studies.study import Basis, Certainty, Claim, ClaimResult, Outcome, Study, compare

__all__ = ["STUDY"]

_V1 = "PIM-GPT, arXiv:2310.09385v1, abstract"
_V2 = "PIM-GPT, arXiv:2310.09385v2, abstract (npj Unconventional Computing 1:4)"
_REVIEW = "a written review of PIM-GPT that agrees with the abstract of version 2; its author is not known"
_DERIVED = "derived from the paper's parameter counts with recalled timings: 24 ns a row, 6.7 % refresh"

_MEAN: Final = (
    "Mean over a generation of 1024 tokens (eight evenly spaced contexts at cycle fidelity, the memory's programs "
    "run command by command), decoder blocks alone, best layouts for time, memory and host serial."
)
_MACHINE: Final = (
    "Timings, currents, buffer sizes and the host's units were recalled, not read; per-model bars were not found, so "
    "only the ends of a range are compared."
)
_CIRCULAR: Final = (
    "The framework time of 0.9 ms a layer and the CPU's 6.5 GB/s are themselves derived from the published range, as "
    "no set-up of the baselines is known, so agreement in size confirms little; a T4 without framework time (see the "
    "table) is far below the claim."
)
_ENERGY: Final = (
    f"GPU {GPU_W:g} W and CPU {CPU_W:g} W are drawn throughout (assumption); how the paper measured is not known. "
    "The revision of the paper raised PIM energy about 2.75 times. The published CPU ratios mean a CPU that draws half "
    f"of what the PIM system draws, {CPU_IMPLIED_W:g} W, which a socket's TDP cannot give. The baselines' seconds are "
    "those of the speedups above, which were taken from the published range. "
)


class _Range(NamedTuple):
    """A published range over all models: its ends, where it stands, and what agreement with it would mean."""

    name: str
    words: str
    least: float
    most: float
    source: str
    basis: Basis
    certainty: Certainty = "published"


def _ends(published: _Range, ours: Sequence[float], method: str, differences: str) -> list[ClaimResult]:
    """The two ends of a published range of ratios against the ends of ours."""
    name, words, least, most, source, basis, certainty = published
    return [
        compare(
            Claim(f"{name}-{end}", f"{words}, {end}", figure, "", source, certainty, basis),
            value,
            method,
            differences,
        )
        for end, figure, value in (("least", least, min(ours)), ("most", most, max(ours)))
    ]


def _run() -> Outcome:
    costs = {model: token_cost(model) for model in MODELS}
    recipe = {model: token_cost(model, settings={"layout": "published"}) for model in MODELS}
    shapes = {model: shape_of(model) for model in MODELS}
    bases = {model: baseline(model) for model in MODELS}
    xl = "gpt3-xl"
    slow = {m: token_cost(m, changed_machine({"asic.clock": 1e8})).block_s / costs[m].block_s for m in MODELS}
    sweep = sweeps(xl)
    claims = [
        *_speed(costs, bases),
        *_energies(costs, bases),
        *_traffic(costs, recipe, shapes),
        *_timing(costs, shapes),
        *_scaling(slow, sweep),
    ]
    tables = [
        model_table(costs, recipe, bases, shapes),
        part_table(costs),
        overlap_table(),
        *sweep_tables(sweep, slow),
    ]
    return Outcome(claims, tables, figures(costs, sweep))


def _speed(costs: dict[str, TokenCost], bases: dict[str, Baseline]) -> list[ClaimResult]:
    gpu = [bases[m].gpu_s / costs[m].block_s for m in MODELS]
    cpu = [bases[m].cpu_s / costs[m].block_s for m in MODELS]
    return [
        *_ends(
            _Range("gpu-speedup", "speedup over a T4", 41, 137, _V2, "construction"),
            gpu,
            _MEAN + " GPU: Offchip's T4 at fp16 plus 0.9 ms of host software a layer.",
            f"{_CIRCULAR} {_MACHINE}",
        ),
        *_ends(
            _Range("cpu-speedup", "speedup over a Xeon Gold 6154", 631, 1074, _V2, "construction"),
            cpu,
            _MEAN + " CPU: fp32 bytes at 6.5 GB/s.",
            f"{_CIRCULAR} {_MACHINE}",
        ),
    ]


def _energies(costs: dict[str, TokenCost], bases: dict[str, Baseline]) -> list[ClaimResult]:
    gpu = [GPU_W * bases[m].gpu_s / costs[m].block_j for m in MODELS]
    cpu = [CPU_W * bases[m].cpu_s / costs[m].block_j for m in MODELS]
    method = (
        _MEAN
        + " Energy of the blocks: rows, columns, units, pins, refresh, host, and standby as long as they take."
    )
    found = []
    for version, source, over_gpu, over_cpu in (
        ("v1", _V1, (339, 1085), (890, 1632)), ("v2", _V2, (123, 383), (320, 602)),
    ):  # fmt: skip
        found += _ends(
            _Range(
                f"gpu-energy-{version}",
                f"energy efficiency over a T4, {version}",
                *over_gpu,
                source,
                "construction",
            ),
            gpu,
            method,
            _ENERGY + _MACHINE,
        )
        found += _ends(
            _Range(
                f"cpu-energy-{version}",
                f"energy efficiency over a Xeon, {version}",
                *over_cpu,
                source,
                "construction",
            ),
            cpu,
            method,
            _ENERGY + _MACHINE,
        )
    implied = _Range(
        "cpu-energy-v2-implied",
        f"energy efficiency over a Xeon that draws {CPU_IMPLIED_W:g} W, v2",
        320, 602, _V2, "construction",
    )  # fmt: skip
    found += _ends(
        implied,
        [joules * CPU_IMPLIED_W / CPU_W for joules in cpu],
        method,
        f"{CPU_IMPLIED_W:g} W is what the published pairs of speedup and energy mean together (12 to 13 W), so it is "
        "derived from the claim; no Xeon draws so little. It shows that time is not what parts these figures from the "
        f"published ones, but the CPU's power and that of the PIM system. {_MACHINE}",
    )
    watts = [costs[m].joules / costs[m].seconds for m in MODELS]
    for version, figure in (("v1", 8.5), ("v2", 24.0)):
        claim = Claim(f"power-{version}", f"power of the PIM system, {version} (8 to 9 W, 23 to 25 W)", figure, "W",
                      "derived from the paired ends of the ranges and a T4 near 70 W", "derived",
                      "mechanism")  # fmt: skip
        found.append(compare(claim, sum(watts) / len(watts), method, _MACHINE))
    return found


def _traffic(
    costs: dict[str, TokenCost], recipe: dict[str, TokenCost], shapes: dict[str, Shape]
) -> list[ClaimResult]:
    counted = [2 * (shapes[m].parameters + shapes[m].cache) / costs[m].block_pin_bytes for m in MODELS]
    rule = [counted_movement(shapes[m]) for m in MODELS]
    hits = [costs[m].row_hit_rate for m in MODELS]
    plain = [recipe[m].row_hit_rate for m in MODELS]
    whole_bursts = (
        "The engine counts whole bursts of 32 bytes, masked value writes, gains and biases; "
        "how the paper counted is not known."
    )
    claim = Claim("row-hits", "row-hit rate (about 98 %)", 0.98, "", _REVIEW, "second-hand", "mechanism")
    straight = Claim(
        "row-hits-recipe",
        "row-hit rate (about 98 %), the published recipe",
        0.98,
        "",
        _REVIEW,
        "second-hand",
        "mechanism",
    )
    return [
        compare(
            claim,
            min(hits),
            _MEAN + " The lowest of the eight models, every column access counted.",
            _MACHINE,
        ),
        compare(
            straight,
            min(plain),
            "As above with the layout recipe of the paper as far as it is known: a tile a "
            "row, every output from a row of its own.",
            _MACHINE
            + " Rows that an output does not fill cost hits; flat packing, which Offchip adds, does not.",
        ),
        *_ends(
            _Range(
                "movement",
                "less data over the pins, as the engine counts",
                110,
                259,
                _REVIEW,
                "mechanism",
                "second-hand",
            ),
            counted,
            "Weights, keys and values of the blocks once per token, over the bytes that crossed the pins.",
            whole_bursts,
        ),
        *_ends(
            _Range(
                "movement-rule",
                "less data over the pins, by elements",
                110,
                259,
                _REVIEW,
                "construction",
                "second-hand",
            ),
            rule,
            "A counting rule by elements: inputs once per channel, q and softmax scores once, outputs "
            "once per 1024 inputs, new keys and values, context 512.",
            "The rule was found by trying which one gives the range, so its agreement is by construction.",
        ),
    ]


def _timing(costs: dict[str, TokenCost], shapes: dict[str, Shape]) -> list[ClaimResult]:
    us = {
        "gpt2": 68,
        "gpt2-medium": 235,
        "gpt2-large": 543,
        "gpt2-xl": 1117,
        "gpt3-large": 516,
        "gpt3-xl": 905,
    }
    found = [
        compare(Claim(f"token-{m}", f"time per token, {MODELS[m]}", figure * 1e-6, "s", _DERIVED, "derived",
                      "counting"),
                costs[m].block_s, _MEAN,
                "The derived figure has rows, columns and refresh alone: no vector and result transfers, no host, no "
                "writing of keys and values.")
        for m, figure in us.items()
    ]  # fmt: skip
    share = Claim(
        "non-vmm",
        "share of time outside matrix-vector products, GPT3-XL",
        0.0116,
        "",
        _REVIEW,
        "second-hand",
        "mechanism",
    )
    found.append(
        compare(share, costs["gpt3-xl"].other_share, _MEAN + " Everything but products and the writing of keys and "
                "values: norms, softmax, GELU, partial sums, parameters, instruction fetch.",
                "The host's time follows from 256 adders and 128 multipliers (recalled), six series terms and three "
                "iterations, counted operation by operation; reading gains and biases and fetching instructions are "
                "assumptions of ours and about a third of it.")
    )  # fmt: skip
    found.append(
        compare(Claim("parameters", "parameters of GPT3-XL (1.15 billion, in binary millions)", 1150.0, "Mi",
                      "PIM-GPT, introduction", "published", "counting"), shapes["gpt3-xl"].parameters / 2**20,
                "12 L d^2 of the shipped model: the decoder blocks alone.", "Embedding and output layer stay out.")
    )  # fmt: skip
    ops = 2 * (shapes["gpt3-xl"].parameters + shapes["gpt3-xl"].cache) / shapes["gpt3-xl"].parameters
    found.append(
        compare(Claim("operations", "operations per parameter of GPT3-XL", 2.1, "", "PIM-GPT, introduction",
                      "published", "counting"),
                ops, "Two per weight and per key and value element at a context of 512.", "The context is derived.")
    )  # fmt: skip
    return found


def _scaling(slow: dict[str, float], sweep: dict[str, list[tuple[float, TokenCost]]]) -> list[ClaimResult]:
    by_channels = {int(x): cost for x, cost in sweep["channels"]}
    ratio = by_channels[8].block_s / by_channels[16].block_s
    return [
        compare(Claim("asic-clock", "slowdown with the host at 100 MHz (at most 1.2)", 1.2, "", _REVIEW, "second-hand",
                      "mechanism"),
                max(slow.values()), "The largest over the models of time at 100 MHz over time at 1 GHz.",
                "A host ten times slower multiplies a share of some per cent by ten; the published bound needs the "
                "published share of 1.16 %, which our operation counts do not give."),
        compare(Claim("channels", "speedup from 8 to 16 channels, GPT3-XL (almost linear: 2)", 2.0, "", _REVIEW,
                      "second-hand", "mechanism"), ratio, _MEAN, "Almost linear is read as 2."),
    ]  # fmt: skip


STUDY: Final = Study(
    "pim-gpt",
    "PIM-GPT: eight GPTs on a memory that multiplies",
    "Wu et al., PIM-GPT, arXiv:2310.09385 (v1 2023, v2 2024), npj Unconventional Computing 1:4, 2024",
    "GPT-2 small to XL and GPT-3 small to XL, batch 1, generating 1024 tokens on 8 channels of GDDR6 with 16 bf16 "
    "multipliers beside each of 128 banks and a host chip for everything else; baselines NVIDIA T4 and Intel Xeon Gold "
    "6154. The two published versions differ in energy by about 2.75 times and in nothing else; both are named. "
    "Two figures of the baselines are tuned to the claims: 0.9 ms of host software a layer on the T4 and 6.5 GB/s of "
    "the CPU are taken back from the published speedups, as is the CPU of 12.5 W from the published energies; what "
    "rests on them is marked as construction and confirms nothing. Nothing of the machine is. The Xeon's name, row "
    "hits, bytes over the pins, the share outside products and both scalings are second-hand: from a review, not from "
    "the paper.",
    _run,
    slow=True,
)
