"""Attention on parallel lanes over one port, and experts fetched token by token or queue by queue.

Edge-MoE (Sarkar et al., arXiv:2305.18691), with the sizes of its published design. Loop nests of the product of queries
and keys are counted word by word (:mod:`simulator.accelerator.loop_nest`); queues of experts are executed
(:mod:`workloads.expert_order`).
"""

from __future__ import annotations

from functools import cache
from typing import Final

from hw_configs.device import SpatialAccelerator
from hw_configs.library import load_device
from mapping.loop_nest.search import BestMapping, best_mapping
from offchip.studies.study import Claim, Outcome, Study, StudyTable, compare
from simulator.accelerator.loop_nest.evaluate import Evaluation, evaluate
from simulator.accelerator.loop_nest.nest import LoopNest, NestLevel, Spread
from workloads.einsum import Einsum, read_einsum
from workloads.expert_order import even_choices, weight_fetches

__all__ = ["STUDY", "fastest", "lanes_of", "read_rate", "run", "scores"]

DEVICE: Final = "edge-moe-attention"
PATCHES, HEADS, HEAD_DIM, BLOCK = 129, 3, 64, 8
LANES: Final = 4
EXPERTS, ACTIVE, HIDDEN = 16, 2, 384
EXPERT_BYTES: Final = 2 * 2 * HIDDEN * HEADS * HEAD_DIM
"""Two products of 16-bit weights."""
_PAPER: Final = "Edge-MoE, arXiv:2305.18691, abstract"


def lanes_of(count: int) -> SpatialAccelerator:
    """The machine with so many lanes."""
    device = load_device(DEVICE)
    assert isinstance(device, SpatialAccelerator)
    outer = device.levels[0]
    wider = outer.model_copy(update={"fanout": (outer.fanout[0].model_copy(update={"size": count}),)})
    return device.model_copy(update={"levels": (wider, *device.levels[1:])})


def scores(patches: int = PATCHES) -> Einsum:
    """Queries M times keys N over B heads."""
    plain = {"I": [["B"], ["M"], ["K"]], "W": [["B"], ["N"], ["K"]], "O": [["B"], ["M"], ["N"]]}
    tensors = {name: [[[dim, 1] for dim in axis] for axis in axes] for name, axes in plain.items()}
    dims = {"B": HEADS, "M": patches, "N": patches, "K": HEAD_DIM}
    return read_einsum({"name": "scores", "dims": dims, "tensors": tensors}, "scores")


def run(lanes: int, along: str) -> Evaluation:
    """All keys against as many queries as there are lanes (``M``), or a query against as many keys (``N``)."""
    counts = {dim: -(-PATCHES // (lanes if dim == along else 1)) for dim in "MN"}
    outer = NestLevel((("M", counts["M"]), ("N", counts["N"])), (Spread(along, "lane", lanes),))
    inner = NestLevel((("B", HEADS), ("K", HEAD_DIM // BLOCK)), (Spread("K", "feature", BLOCK),))
    return evaluate(LoopNest((outer, inner)), lanes_of(lanes), scores())


def read_rate(found: Evaluation) -> float:
    """Bytes read from memory in a clock, were the lanes never to wait."""
    return found.levels[0].busiest_read_bytes / found.compute_cycles


@cache
def fastest(lanes: int) -> BestMapping:
    """The mapping that the search proves the fastest, of a patch less, which 2, 4, ... lanes divide."""
    return best_mapping(lanes_of(lanes), scores(PATCHES - 1), "latency").best[0]


def _run() -> Outcome:
    method = (
        f"Scores of {PATCHES - 1} patches and {HEADS} heads, a block of {BLOCK} features a clock and lane, {LANES} "
        "lanes against one, each with the mapping that the search proves the fastest; bytes read from memory a clock."
    )
    bandwidth = Claim(
        "bandwidth", "bandwidth against that of one lane", 1.0, "x", _PAPER, "published", "mechanism"
    )
    energy = [
        Claim(f"energy-{name}", f"energy efficiency, {name.upper()}", value, "x", _PAPER, "published", "mechanism")
        for name, value in (("gpu", 2.24), ("cpu", 4.90))
    ]  # fmt: skip
    results = [
        compare(
            bandwidth, read_rate(fastest(LANES).evaluation) / read_rate(fastest(1).evaluation), method,
            "The abstract says constant for any parallelism; lanes read more queries at once, which the design spreads "
            "over the clocks of the lanes before. Scores that are written grow with the lanes in either order.",
        ),
        *(
            compare(claim, None, "Not covered.",
                    "The abstract names neither machine nor powers, and the FPGA's is not published with the design.")
            for claim in energy
        ),
    ]  # fmt: skip
    rows = tuple(
        (
            lanes,
            *(
                figure
                for along in "MN"
                for figure in (read_rate(run(lanes, along)), 1e6 * run(lanes, along).latency_s)
            ),
        )
        for lanes in (1, 2, 4, 8, 16)
    )
    orders = StudyTable(
        "Product of queries and keys by lanes",
        ("lanes", "a query each: B a clock", "us", "a key each: B a clock", "us"), rows,
    )  # fmt: skip
    solved = StudyTable(
        f"The mapping that the search proves the fastest, {PATCHES - 1} patches",
        ("lanes", "dims across lanes", "B a clock", "us"),
        tuple(
            (
                lanes,
                ", ".join(sorted({s.dim for s in best.nest.levels[0].spatial if s.axis == "lane" and s.count > 1})),
                read_rate(best.evaluation), 1e6 * best.evaluation.latency_s,
            )
            for lanes in (1, 2, 4, 8, 16)
            for best in (fastest(lanes),)
        ),
    )  # fmt: skip
    choices = even_choices(PATCHES, EXPERTS, ACTIVE)
    queues = StudyTable(
        f"Experts' weights fetched in a layer, {EXPERTS} experts of which a patch takes {ACTIVE}, all alike",
        ("experts held", "patch by patch", "MB", "queue by queue", "MB"),
        tuple(
            (
                held,
                *(
                    figure
                    for fetched in (weight_fetches(choices, held, "token"), weight_fetches(choices, held, "expert"))
                    for figure in (fetched, fetched * EXPERT_BYTES / 1e6)
                ),
            )
            for held in (1, 2, 4, 8, 16)
        ),
    )  # fmt: skip
    return Outcome(results, [orders, solved, queues])


STUDY: Final = Study(
    "edge-moe",
    "Edge-MoE: parallel attention over one port, and queues of experts",
    "Sarkar et al., Edge-MoE: Memory-Efficient Multi-Task Vision Transformer Architecture with Task-level Sparsity via "
    "Mixture-of-Experts, arXiv:2305.18691",
    "Which of queries and keys the lanes divide, and in which order patches meet their experts.",
    _run,
)
