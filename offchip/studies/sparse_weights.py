"""Weights loaded sparse and multiplied dense: the skinny products of OPT under Flash-LLM's kernel.

Xia et al. (Flash-LLM, arXiv:2309.10285) keep unstructured sparse weights compressed in memory, rebuild them in
shared memory and multiply them on the matrix units as if they were dense.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Final

from hw_configs.library import load_system
from offchip.studies.line_figure import draw_lines
from offchip.studies.study import Claim, ClaimResult, Figure, Outcome, Study, StudyTable, compare
from simulator.gpu.model import GPU
from simulator.gpu.sparse import load_as_sparse, spmm
from workloads.graph import Operator
from workloads.operators import Product

__all__ = ["STUDY", "speedups"]

HARDWARE: Final = "a100-80gb"
HIDDEN: Final = {"OPT-30B": 7168, "OPT-66B": 9216, "OPT-175B": 12288}
TOKENS: Final = (8, 16, 32, 64)
SPARSITIES: Final = (0.5, 0.6, 0.7, 0.8, 0.9)
_SOURCE = "Flash-LLM, arXiv:2309.10285, abstract"
_REVIEW = "Flash-LLM, arXiv:2309.10285, kernel comparison on an A100, as reported by a review"


def speedups(sparsity: float) -> tuple[float, float]:
    """Mean speed-up of the load-as-sparse product over the dense one, and over SpMM on vector units."""
    system = load_system(HARDWARE)
    node = system.workers()[0]
    memory = system.memories[node.memory or node.name]
    l2_bytes = GPU.sheet(node, memory).l2_visible_bytes
    over_dense, over_spmm = [], []
    for hidden in HIDDEN.values():
        for n, k in ((3 * hidden, hidden), (hidden, hidden), (4 * hidden, hidden), (hidden, 4 * hidden)):
            for tokens in TOKENS:
                dense = _product(tokens, n, k)
                scalar = spmm(n, tokens, k, round(n * k * (1 - sparsity)), l2_bytes, "fp16")
                operators = [dense, load_as_sparse(dense, sparsity), scalar]
                times = [p.seconds for p in GPU.predict_rows(operators, node, memory)]
                over_dense.append(times[0] / times[1])
                over_spmm.append(times[2] / times[1])
    return fmean(over_dense), fmean(over_spmm)


def _product(m: int, n: int, k: int) -> Operator:
    read, written = 2 * (m * k + n * k), 2 * m * n
    return Operator(f"{m}x{n}x{k}", Product(m=m, n=n, k=k), (), (), beside_read=read, beside_written=written)


def _run() -> Outcome:
    table = {sparsity: speedups(sparsity) for sparsity in SPARSITIES}
    method = (
        "Mean over the four products of a layer of OPT-30B, 66B and 175B at 8 to 64 tokens, weights cold, by the GPU "
        "model; stored weights are FP16 values with 16-bit positions."
    )
    dense = (
        "The mechanism's bytes alone: the model charges nothing for scattering values into shared memory, nor for "
        "imbalance between tiles, so its gain at high sparsity is an upper bound."
    )
    scalar = (
        "SpMM is priced by its bytes as a memory-bound operator; Sputnik's kernel is bound by instructions and "
        "shared-memory accesses, which this form lacks, so the gain over it is a lower bound."
    )
    results: list[ClaimResult] = []
    for sparsity, over_cublas, over_sputnik in ((0.7, 1.4, 3.6), (0.8, 1.7, 3.0), (0.9, 2.1, 2.0)):
        percent = f"{sparsity:.0%} sparsity"
        ours = table[sparsity]
        claim = Claim(
            f"dense-{sparsity:.0%}",
            f"over cuBLAS at {percent}",
            over_cublas,
            "x",
            _REVIEW,
            "second-hand",
            "mechanism",
        )
        results.append(compare(claim, ours[0], method, dense))
        claim = Claim(
            f"spmm-{sparsity:.0%}",
            f"over Sputnik at {percent}",
            over_sputnik,
            "x",
            _REVIEW,
            "second-hand",
            "mechanism",
        )
        results.append(compare(claim, ours[1], method, scalar))
    claim = Claim("spmm-mean", "over Sputnik, mean", 2.9, "x", _SOURCE, "published", "mechanism")
    means = [table[sparsity][1] for sparsity in (0.7, 0.8, 0.9)]
    results.append(compare(claim, fmean(means), f"{method} Mean over 70, 80 and 90 % sparsity.", scalar))
    for name, published, why in (
        ("SparTA, mean", 1.5, "SparTA's split into 2:4 and unstructured parts is not modelled."),
        (
            "DeepSpeed, tokens per GPU-second, at most",
            3.8,
            "Serving systems with sparse weights are not simulated.",
        ),
        ("FasterTransformer, tokens per GPU-second, at most", 3.6, "As for DeepSpeed."),
    ):
        claim = Claim(
            name.split(",")[0].lower(), f"over {name}", published, "x", _SOURCE, "published", "mechanism"
        )
        results.append(compare(claim, None, "Not covered.", why))

    def draw(path: Path) -> None:
        lines = {
            "over the dense product": [(s, table[s][0]) for s in SPARSITIES],
            "over SpMM on vector units": [(s, table[s][1]) for s in SPARSITIES],
        }
        draw_lines(path, lines, "share of zeros", "speed-up")

    caption = f"Mean speed-up of load-as-sparse products on an {HARDWARE} by sparsity of the weights."
    rows = tuple((s, *table[s]) for s in SPARSITIES)
    columns = ("sparsity", "over the dense product", "over SpMM")
    return Outcome(
        results, [StudyTable("Speed-up by sparsity", columns, rows)], [Figure("speedup", caption, draw)]
    )


STUDY: Final = Study(
    "sparse-weights",
    "Flash-LLM: load as sparse, compute as dense",
    "Xia et al., Flash-LLM, arXiv:2309.10285, VLDB 2024",
    "One layer's products of OPT-30B, OPT-66B and OPT-175B with few tokens on an A100, weights sparse, unstructured.",
    _run,
)
