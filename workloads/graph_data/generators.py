"""Graphs made by rule: R-MAT, Barabasi-Albert, and the configuration model with given degrees.

R-MAT: Chakrabarti, Zhan, Faloutsos, SDM 2004. Barabasi-Albert: Science 286 (1999). Configuration model: Bollobas 1980;
its stubs are matched at random, so that loops and parallel edges come up and are kept, as in most generators.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input
from workloads.graph_data.adjacency import MAX_NODES, Adjacency, from_edges
from workloads.memory_trace.generators import splitmix64

__all__ = [
    "GRAPH500",
    "MAX_MADE_EDGES",
    "barabasi_albert",
    "configuration_model",
    "power_law_degrees",
    "r_mat",
]

GRAPH500: Final = (0.57, 0.19, 0.19, 0.05)
"""Shares of the quadrants by the Graph 500 specification."""
MAX_MADE_EDGES: Final = 2**28
"""Edges of a generated graph at most: 4 GiB while it is made."""


def _fit(nodes: int, edges: int, seed: int, least: int = 1) -> None:
    if not least <= nodes <= MAX_NODES:
        raise bad_input(f"found {nodes} nodes; expected {least} to {MAX_NODES}", path="nodes")
    if not 0 <= edges <= MAX_MADE_EDGES:
        raise bad_input(f"found {edges} edges; expected 0 to {MAX_MADE_EDGES}", path="edges")
    if not 0 <= seed < 2**63:
        raise bad_input(f"found {seed}; expected 0 to 2^63 - 1", path="seed")


def r_mat(
    nodes: int,
    edges: int,
    shares: tuple[float, float, float, float] = GRAPH500,
    *,
    seed: int = 1,
    directed: bool = True,
) -> Adjacency:
    """R-MAT: each edge falls through log2(nodes) levels of quadrants with ``shares`` a, b, c, d."""
    from workloads.graph_data.kernels import random_matrix_edges

    _fit(nodes, edges, seed)
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9 or shares[0] + shares[1] + shares[2] <= 0:
        raise bad_input(f"found {shares}; expected shares of at least 0 that sum to 1", path="shares")
    if shares[3] == 1 and nodes & (nodes - 1):
        raise bad_input("with all edges in the last quadrant the nodes must be a power of two", path="shares")
    source, target = np.empty(edges, np.int64), np.empty(edges, np.int64)
    levels = max(int(nodes - 1).bit_length(), 0)
    random_matrix_edges(levels, nodes, np.cumsum(shares)[:3], seed, source, target)
    return from_edges(source, target, nodes, directed=directed, name=f"R-MAT of {nodes} nodes")


def barabasi_albert(nodes: int, each: int, *, seed: int = 1) -> Adjacency:
    """Undirected preferential attachment: every node after the first ``each`` brings ``each`` edges."""
    from workloads.graph_data.kernels import attach_preferentially

    if not 1 <= each < nodes:
        raise bad_input(f"found {each} edges a node; expected 1 to {nodes - 1}", path="each")
    edges = (nodes - each) * each
    _fit(nodes, edges, seed, 2)
    source, target = np.empty(edges, np.int64), np.empty(edges, np.int64)
    attach_preferentially(nodes, each, seed, source, target)
    return from_edges(source, target, nodes, directed=False, name=f"Barabasi-Albert of {nodes} nodes")


def configuration_model(degrees: npt.ArrayLike, *, seed: int = 1, directed: bool = False) -> Adjacency:
    """Random matching of stubs: every node has exactly the degree given; an undirected loop counts twice.

    Directed: ``degrees`` are those of the rows (in-degrees), and sources are drawn by the same degrees.
    """
    from workloads.graph_data.kernels import shuffle, spread

    wanted = np.ascontiguousarray(degrees, np.int64)
    if wanted.ndim != 1 or (wanted.size and int(wanted.min()) < 0):
        raise bad_input("expected one degree of at least 0 for each node", path="degrees")
    total = int(wanted.sum())
    _fit(wanted.size, total, seed)
    if not directed and total % 2:
        raise bad_input(f"the degrees sum to {total}, which is odd", path="degrees")
    stubs = np.empty(total, np.int64)
    spread(np.arange(wanted.size), wanted, stubs)
    name = f"configuration model of {wanted.size} nodes"
    if directed:
        ends = stubs.copy()
        shuffle(ends, seed)
        return from_edges(ends, stubs, wanted.size, name=name)
    shuffle(stubs, seed)
    return from_edges(stubs[::2], stubs[1::2], wanted.size, directed=False, name=name)


def power_law_degrees(
    nodes: int, edges: int, exponent: float = 2.2, *, seed: int = 1, most: int | None = None
) -> npt.NDArray[np.int64]:
    """Degrees that sum to ``edges`` with P(degree >= k) falling as k^(1 - exponent), none above ``most`` (nodes - 1).

    Quantiles of a Pareto law in random order, scaled to the mean; what rounding leaves goes to the nodes in order.
    """
    most = nodes - 1 if most is None else most
    _fit(nodes, edges, seed)
    if not 1 < exponent <= 10:
        raise bad_input(f"found {exponent:g}; expected above 1 up to 10", path="exponent")
    if edges > nodes * max(most, 0):
        raise bad_input(
            f"found {edges} edges; {nodes} nodes of degree at most {most} have fewer", path="edges"
        )
    rank = np.argsort(splitmix64(seed, 0, nodes), kind="stable")
    tail = ((rank + 0.5) / nodes) ** (-1 / (exponent - 1))
    low, high = 0.0, float(max(edges, 1))
    for _ in range(100):
        scale = (low + high) / 2
        low, high = (scale, high) if float(np.minimum(tail * scale, most).sum()) < edges else (low, scale)
    degrees = np.minimum(np.floor(tail * low), most).astype(np.int64)
    return _topped_up(degrees, edges, most)


def _topped_up(degrees: npt.NDArray[np.int64], edges: int, most: int) -> npt.NDArray[np.int64]:
    left = edges - int(degrees.sum())
    while left > 0:
        open_ = np.flatnonzero(degrees < most)[:left]
        degrees[open_] += 1
        left -= open_.size
    return degrees
