"""Products per expert of an operator table, and whole layers of experts as engines measure them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

from workloads.dtypes import BITS
from workloads.expert_load import busiest_rank, expected_experts
from workloads.operator_table.cells import Built, Cells, Rule, UnfitError
from workloads.operator_table.products import quantised
from workloads.operators import Activation, GroupedProduct, Reduce, Scatter, Sort

__all__ = ["OPS", "expert_library"]

LIBRARIES: Final = {
    "compressedtensorsw4a4mxfp4moe_marlin": "marlin_unfused", "marlin": "marlin",
    "oaitriton": "triton_ogs", "trtllm": "trtllm", "cutlass": "cutlass", "triton": "triton",
}  # fmt: skip
"""Parts of kernels' names, and the library of each; the first that a name holds decides."""
ALL_ROWS: Final = frozenset({"triton", "triton_ogs", "marlin", "marlin_unfused"})
"""Libraries between whose products the rows of all ranks pass, those of other ranks empty."""
BLOCKED: Final = frozenset({"cutlass", "trtllm"})
"""Libraries that have kernels of their own for FP8 scales inside the sums."""
FUSED: Final = frozenset({"trtllm"})
"""Libraries whose first product ends with the non-linearity and the narrow copy of its result."""
BETWEEN: Final = frozenset({"trtllm_block"})
"""Libraries in which one kernel over all ranks' rows does both."""
UNGATED: Final = frozenset({(2688, 1856, 128), (4096, 2688, 512), (1024, 2688, 512), (2048, 5120, 512)})
"""Hidden size, expert size and experts of models whose experts have a squared ReLU and no gate, where a table has no
column ``gated``. Assumption: taken for Nemotron 3's, as recalled; measured bytes per second agree with two products,
not three."""
UNGATED_NOTE: Final = "experts of these sizes are assumed to have no gate; a column 'gated' says it"
GATED_ALWAYS: Final = "vllm 0.14"
"""Benchmarks of this engine version run every model's experts gated, and break ties of a power law by number."""
INDEX_BYTES: Final = 4
MAPPED: Final = 2
"""Kernels by which those libraries find the experts of a rank among those of all ranks; counted from their launches."""


def _grouped_gemm(c: Cells) -> Built:
    """``active``: experts that a token goes to; ``touched``: those that some row reaches, else likely ones."""
    m, n, k, groups, active = c("m"), c("n"), c("k"), c("groups"), c("active", 0)
    if active > groups:
        raise UnfitError(f"active {active} of {groups} groups")
    likely = expected_experts(groups, active, max(1, m // active)) if active else float(groups)
    touched = float(min(c("touched", 0) or likely, groups, m))
    weight = c.weight_dtype
    read = c.size(m * k) + round(touched * c.size(k * n, weight))
    work = GroupedProduct(
        m=m, n=n, k=k, groups=groups, active=active, expected_groups=touched, weight_dtype=c.narrow(weight)
    )
    return Built(work, read, c.size(m * n, c.output_dtype()))


def expert_library(c: Cells) -> str:
    """The library that a row's kernel comes from; empty where it does not say."""
    kernel = c.text.get("kernel", "").lower()
    found = next((name for part, name in LIBRARIES.items() if part in kernel), "")
    if not found and kernel.startswith("vllm_fused_moe"):
        found = "triton"
    return f"{found}_block" if found in BLOCKED and _scales_inside(c) else found


def _scales_inside(c: Cells) -> bool:
    return c.dtype == "fp8" and c.scale_block > 0


class _Layer(NamedTuple):
    """What one rank does of a layer of experts."""

    tokens: int
    hidden: int
    inter: int
    gated: bool
    rows: int
    """Rows of this rank."""
    passing: int
    """Rows that the kernels between the products pass over."""
    library: str
    load: str
    exponent: float
    top_k: int
    experts: int
    touched: float
    maps: int
    """Small kernels that find a rank's own experts."""
    note: str
    """What was assumed."""


def _layer(c: Cells) -> _Layer:
    tokens, hidden, inter = c("tokens"), c("hidden"), c("inter")
    experts, top_k, tp, ep = c("experts"), c("top_k"), c("tp", 1), c("ep", 1)
    if experts % ep:
        raise UnfitError(f"{ep} ranks do not divide {experts} experts")
    if top_k > experts:
        raise UnfitError(f"top_k {top_k} of {experts} experts")
    load, exponent = _load(c.text.get("distribution", ""))
    old = c.text.get("label", "").startswith(GATED_ALWAYS)
    mine = busiest_rank(experts, top_k, tokens, ep, load, exponent, first=old)
    library = expert_library(c)
    assumed = not old and (hidden, inter, experts) in UNGATED
    gated = c.flag("gated", not assumed)
    note = UNGATED_NOTE if assumed and not c.text.get("gated") else ""
    passing = tokens * top_k if library in ALL_ROWS | BETWEEN else mine.rows
    return _Layer(
        tokens, hidden, max(1, inter // tp), gated, mine.rows, passing, library, load, exponent, top_k,
        experts // ep, mine.touched, MAPPED if ep > 1 and library in ALL_ROWS else 0, note,
    )  # fmt: skip


def _load(text: str) -> tuple[str, float]:
    if text in ("", "uniform", "independent"):
        return "independent", 0.0
    if text in ("balanced", "repeated"):
        return text, 0.0
    name, _, exponent = text.rpartition("_")
    try:
        found = float(exponent)
    except ValueError:
        found = -1.0
    if name != "power_law" or not 0 < found < 100:
        raise UnfitError(
            f"unknown distribution {text!r}; expected balanced, independent, repeated or power_law_1.2"
        )
    return name, found


def _moe(c: Cells) -> Built:
    """Sorting by expert, first product, non-linearity, second product, sum over each token's experts.

    Narrow products make narrow copies of their activations before. All of it is repeated with the same weights.
    """
    if "tokens" not in c.counts:
        return _grouped_gemm(c)
    x = _layer(c)
    halves = 2 if x.gated else 1
    picks = x.tokens * x.top_k
    narrow = BITS[c.dtype] < 16
    sort = Built(
        Sort(n=picks, library=x.library), INDEX_BYTES * picks, 2 * INDEX_BYTES * picks, "bf16", residency="previous"
    )  # fmt: skip
    mapped = replace(sort, work=Scatter(m=1, n=picks))
    parts = x.maps * [mapped] + ([quantised(c, x.tokens, x.hidden)] if narrow else [])
    parts.append(_product(c, x, halves * x.inter, x.hidden))
    if x.library not in FUSED:
        wide = c.size(x.passing * x.inter, "bf16")
        work = Activation(m=x.passing, n=x.inter, flops_per_element=5.0, gated=x.gated)
        parts.append(Built(work, halves * wide, wide, "bf16", residency="previous"))
        parts += [quantised(c, x.passing, x.inter)] if narrow and x.library not in BETWEEN else []
    parts.append(_product(c, x, x.hidden, x.inter))
    combine = Reduce(m=x.tokens, n=x.hidden, flops_per_element=2.0 * x.top_k)
    read, written = c.size(x.passing * x.hidden, "bf16"), c.size(x.tokens * x.hidden, "bf16")
    parts.append(Built(combine, read, written, "bf16", residency="previous"))
    return Built(
        sort.work, sort.read_bytes, sort.write_bytes, sort.dtype, tuple(parts), sort.residency, x.note
    )


def _product(c: Cells, x: _Layer, n: int, k: int) -> Built:
    weight = c.weight_dtype
    work = GroupedProduct(
        m=x.rows, n=n, k=k, groups=x.experts, active=x.top_k, expected_groups=x.touched, load=x.load,
        exponent=x.exponent, library=x.library, weight_dtype=c.narrow(weight), scale_block=c.scale_block,
    )  # fmt: skip
    read = c.size(x.rows * k) + round(x.touched * c.size(k * n, weight))
    written = c.size(max(x.rows, x.passing) * n, c.output_dtype())
    return Built(work, read, written, residency="hot")


OPS: Final[dict[str, Rule]] = {"grouped_gemm": _grouped_gemm, "moe": _moe}
