"""FlexGen: generation with weights and cache on host and disk, by a block schedule that a linear program fills.

Sheng et al., ICML 2023, arXiv:2303.06865. OPT-30B and OPT-175B on one T4. The released cost model's figures are
reproduced from its equations and constants; the measured throughputs are compared with what those predict,
and with the same schedule at rates that follow from the shipped machine's parts.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Final

from hw_configs.library import load_system
from mapping.offload.block_policy import RELEASED_T4, BlockPolicy, BlockRates, Capacities, shape_of
from mapping.offload.block_schedule import BlockCost, Form, block_cost
from mapping.offload.machine_rates import rates_of
from mapping.offload.placement_lp import best_policy
from offchip.studies.study import Basis, Claim, ClaimResult, Outcome, Study, StudyTable, compare

__all__ = ["STUDY"]

_PAPER: Final = "FlexGen, ICML 2023, arXiv:2303.06865"
_CODE: Final = "FlexLLMGen, experimental/cost_model.py, run with its constants"
GIB: Final = 2**30
GENERATE: Final = 32
_POLICIES: Final = {
    ("opt-30b", 256): BlockPolicy(160, 2, 0.10, 0.90, 0.0, 1.0, 0.0, 1.0),
    ("opt-30b", 512): BlockPolicy(48, 3, 0.20, 0.80, 0.0, 1.0, 0.0, 1.0),
    ("opt-30b", 1024): BlockPolicy(20, 4, 0.04, 0.96, 0.0, 1.0, 0.0, 1.0),
    ("opt-175b", 256): BlockPolicy(64, 8, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0),
    ("opt-175b", 512): BlockPolicy(32, 8, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0),
    ("opt-175b", 1024): BlockPolicy(12, 12, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0),
}
"""The paper's policies: GPU batch x batches, shares of weights, cache and hidden states on GPU and host."""
_RELEASED: Final = {("opt-30b", 256): 12.97, ("opt-30b", 512): 7.14, ("opt-30b", 1024): 3.62,
                    ("opt-175b", 256): 0.30, ("opt-175b", 512): 0.15, ("opt-175b", 1024): 0.08}  # fmt: skip
_MEASURED: Final = {("opt-30b", 256): 16.01, ("opt-30b", 512): 7.32, ("opt-30b", 1024): 3.50,
                    ("opt-175b", 256): 1.36, ("opt-175b", 512): 0.69, ("opt-175b", 1024): 0.35}  # fmt: skip
FAST_DISK: Final = replace(RELEASED_T4, disk_to_host=1.6e9, host_to_disk_cache=1.3e9, host_to_disk_hidden=1.3e9,
                           host_to_disk_decode=1.3e9)  # fmt: skip
SLOW_DISK: Final = replace(RELEASED_T4, disk_to_host=0.5e9, host_to_disk_cache=0.5e9, host_to_disk_hidden=0.5e9,
                           host_to_disk_decode=0.5e9)  # fmt: skip
LIMITS: Final = Capacities(16 * GIB, 200 * GIB, 1500 * GIB)


def _cost(
    model: str,
    prompt: int,
    rates: BlockRates,
    policy: BlockPolicy,
    form: Form = "released",
    host: bool = True,
) -> BlockCost:
    return block_cost(shape_of(model, prompt, GENERATE), rates, policy, form, host_attention=host)


def _claim(
    id: str, statement: str, published: float | str, ours: float | str | None, method: str,
    differences: str = "None known.", basis: Basis = "construction", unit: str = "tok/s",
) -> ClaimResult:  # fmt: skip
    """A claim of the paper, or of its released code.

    Whatever rests on the released constants, which the authors fitted on their machine, holds by construction; what
    the released code gives holds by counting, since ours are its equations.
    """
    claim = Claim(id, statement, published, unit, _PAPER, "published", basis)
    if basis == "counting":
        claim = replace(claim, source=_CODE, certainty="derived")
    return compare(claim, ours, method, differences)


def _released_claims() -> list[ClaimResult]:
    claims = [
        _claim(f"released-{model}-{prompt}", f"released cost model, {model}, prompt {prompt}", printed,
               _cost(model, prompt, RELEASED_T4, _POLICIES[model, prompt]).tokens_per_s,
               "The released equations and constants, for the paper's policy.",
               "The reference is printed with two decimals.", "counting")
        for (model, prompt), printed in _RELEASED.items()
    ]  # fmt: skip
    for model, printed, block in (("opt-30b", 7.09, "32 x 5"), ("opt-175b", 0.17, "1 x 432")):
        found = best_policy(shape_of(model, 512, GENERATE), RELEASED_T4, LIMITS)
        method = f"Search over block sizes, {found.programs} linear programs."
        claims.append(
            _claim(f"search-{model}", f"released search, {model}: tokens per second", printed,
                   found.cost.tokens_per_s, method, "None known.", "counting")
        )  # fmt: skip
        ours = f"{found.policy.gpu_batch} x {found.policy.batches}"
        claims.append(
            _claim(f"search-block-{model}", f"released search, {model}: GPU batch x batches", block, ours, method,
                   "None known.", "counting", "")
        )  # fmt: skip
    return claims


def _measured_claims() -> list[ClaimResult]:
    claims = []
    for (model, prompt), measured in _MEASURED.items():
        big = model == "opt-175b"
        rates = FAST_DISK if big else RELEASED_T4
        differences = (
            "The constants were fitted by the authors on this machine, so this tests their model, not ours."
        )
        if big:
            differences += (
                " The disk is the paper's (1.6 GB/s read, 1.3 written); its page cache hides a part."
            )
        claims.append(
            _claim(f"measured-{model}-{prompt}", f"measured, {model}, prompt {prompt}", measured,
                   _cost(model, prompt, rates, _POLICIES[model, prompt]).tokens_per_s,
                   "Released equations for the paper's policy.", differences)
        )  # fmt: skip
    fast, slow = (
        _cost("opt-175b", 512, r, _POLICIES["opt-175b", 512]).tokens_per_s for r in (FAST_DISK, SLOW_DISK)
    )
    claims.append(
        _claim("disk-effect", "OPT-175B: disk of 1.6/1.3 GB/s over one of 0.5/0.5", 0.69 / 0.30, fast / slow,
               "Released equations at both disks.", "The page cache hides part of the slow disk.", unit="")
    )  # fmt: skip
    return claims


def _parts_claims() -> tuple[list[ClaimResult], StudyTable]:
    """The measured rows again, at rates that follow from the shipped machine's parts instead of a fit."""
    system = load_system("t4-server")
    rates, claims, rows = rates_of(system, "opt-30b", 512), [], []
    for (model, prompt), measured in _MEASURED.items():
        policy = _POLICIES[model, prompt]
        ours = _cost(
            model, prompt, rates_of(system, model, prompt, policy.gpu_batch), policy, "published"
        ).tokens_per_s
        claims.append(
            _claim(f"parts-{model}-{prompt}", f"measured, {model}, prompt {prompt}; rates from the machine's parts",
                   measured, ours, "The paper's equations at link, disk and kernel rates of the shipped t4-server.",
                   "No software cost: pageable copies, Python and PyTorch on the host, attention on the host at the "
                   "memory's assumed share. The released constants hold all of these.", "mechanism")
        )  # fmt: skip
    names = ("host_to_gpu", "gpu_to_host_cache", "disk_to_host", "host_to_disk_cache", "matmul_prefill",
             "matmul_decode", "attention_prefill", "attention_decode", "attention_host")  # fmt: skip
    rows = [(name.replace("_", " "), getattr(RELEASED_T4, name), getattr(rates, name)) for name in names]
    return claims, StudyTable("Rates of a T4 server: fitted by the authors, and from parts (B/s, FLOP/s)",
                              ("rate", "released", "from parts"), tuple(rows))  # fmt: skip


_WITHOUT_HOST: Final = (
    "The released model has no mode without host attention; here the cache comes at the rate of pinned weights. The "
    "program keeps its cache in pageable memory, whose copies are slower by a factor that was not published. "
    "DeepSpeed's policy is not printed: one batch of 8, cache and hidden states on the GPU."
)


def _ablations() -> tuple[list[ClaimResult], StudyTable]:
    """OPT-30B at prompt 512: each part of the schedule left out."""
    shape = shape_of("opt-30b", 512, GENERATE)
    chosen = _POLICIES["opt-30b", 512]
    room = Capacities(LIMITS.gpu, LIMITS.host, 0.0)
    rows = {
        "all": (_cost("opt-30b", 512, RELEASED_T4, chosen).tokens_per_s, 7.32),
        "no overlap": (_cost("opt-30b", 512, RELEASED_T4, chosen, "serial").tokens_per_s, 5.86),
        "no host attention": (_cost("opt-30b", 512, RELEASED_T4, chosen, host=False).tokens_per_s, 4.03),
        "no disk": (best_policy(shape, RELEASED_T4, room).cost.tokens_per_s, 7.32),
        "DeepSpeed policy": (_cost("opt-30b", 512, RELEASED_T4,
                                   BlockPolicy(8, 1, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0)).tokens_per_s, 1.57),
    }  # fmt: skip
    order = ("all", "no overlap", "no host attention", "DeepSpeed policy")
    falling = all(rows[a][0] >= rows[b][0] for a, b in pairwise(order))
    claims = [
        _claim("ablation-order", "all > no overlap > no host attention > DeepSpeed policy", "holds",
               "holds" if falling else "does not hold", "Released equations with one part left out at a time.",
               _WITHOUT_HOST, unit="")
    ]  # fmt: skip
    claims += [
        _claim(f"ablation-{name.lower().replace(' ', '-')}", f"ablation, OPT-30B: {name}", measured, ours,
               "Released equations with this part left out.", _WITHOUT_HOST)
        for name, (ours, measured) in rows.items()
    ]  # fmt: skip
    block = BlockPolicy(32, 1, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0)
    claims += [
        _claim("ablation-no-search-175b", "ablation, OPT-175B: no search", 0.27,
               _cost("opt-175b", 512, FAST_DISK, block).tokens_per_s,
               "One batch of 32 instead of a block of 8.", "The page cache hides a part of the disk."),
        _claim("ablation-no-search-30b", "ablation, OPT-30B: no search", 7.26, None, "Not run.",
               "The policy of this row is not printed."),
    ]  # fmt: skip
    table = StudyTable("Ablation, OPT-30B, prompt 512 (tok/s)", ("variant", "measured", "ours"),
                       tuple((name, measured, ours) for name, (ours, measured) in rows.items()))  # fmt: skip
    return claims, table


def _run() -> Outcome:
    parts, rates = _parts_claims()
    ablations, table = _ablations()
    return Outcome([*_released_claims(), *_measured_claims(), *parts, *ablations], [rates, table])


STUDY: Final = Study(
    "flexgen",
    "FlexGen: generation from host memory and disk on one T4",
    "Sheng et al., FlexGen: High-Throughput Generative Inference of Large Language Models with a Single GPU, "
    "ICML 2023, arXiv:2303.06865; cost model released with its code",
    "OPT-30B and OPT-175B in FP16, 32 tokens generated, on a T4 of 16 GB with 200 GiB of host memory and 1.5 TB of "
    "NVMe. Released: the authors' equations and fitted constants. From parts: the paper's equations at rates that "
    "Offchip's own cost models give for the shipped t4-server.",
    _run,
)
