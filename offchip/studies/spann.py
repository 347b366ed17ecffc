"""SPANN against DiskANN: posting lists read at once, or rounds of graph nodes that wait for one another.

Chen et al., arXiv:2111.08566 (NeurIPS 2021); DiskANN, NeurIPS 2019. What a query reads at 90 % recall was published for
neither system: lists come from the authors' configuration, rounds from the aims of DiskANN's paper, and both are
swept. Recall is never worked out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hw_configs.library import load_system
from offchip.studies.line_figure import draw_lines
from offchip.studies.study import Certainty, Claim, ClaimResult, Figure, Outcome, Study, StudyTable, compare
from simulator.vector_search.footprint import footprint
from simulator.vector_search.result import LoadPoint
from simulator.vector_search.search import SearchOptions, machine_of, simulate_search
from workloads.vector_index import GraphIndex, PostingLists, VectorIndex, load_index

__all__ = ["STUDY"]

HARDWARE: Final = "dgx-2"
QUERIES: Final = 20
SETS: Final = ("sift1b", "deep1b", "spacev1b")
LISTS: Final = (8, 32, 96)
LIMITS: Final = (4, 12, 48)
"""Bytes of a list at most, KiB."""
ROUNDS: Final = (5, 9, 20, 40)
DRIVES: Final = (1, 4)
_SPANN: Final = "SPANN, arXiv:2111.08566, abstract"
_DISKANN: Final = "DiskANN, NeurIPS 2019, abstract"
_READS: Final = (
    "What a query reads at 90 % recall is not published: 32 lists (SearchInternalResultNum of the authors' "
    "configuration; 96 are searched and pruned in the other section) and 9 rounds of 4 nodes ('a few dozen' reads in "
    "'under ten' round trips: the aims of DiskANN's paper, as notes on it quote them) are assumptions. Neither "
    "program's own work beside distances is modelled: system calls, heaps, hash tables, waiting threads."
)


def answered(index: VectorIndex, drives: int = 1, in_flight: int = 1) -> LoadPoint:
    """Queries on one index, on the machine of the study."""
    machine = machine_of(load_system(HARDWARE), drives)
    return simulate_search(index, machine, SearchOptions(QUERIES * max(in_flight // 4, 1), in_flight)).point


def _lists(name: str, **changes: float) -> PostingLists:
    index = load_index(f"spann-{name}")
    assert isinstance(index, PostingLists)
    return index.model_copy(update=changes)


def _graph(name: str, **changes: int) -> GraphIndex:
    index = load_index(f"diskann-{name}")
    assert isinstance(index, GraphIndex)
    return index.model_copy(update=changes)


def _claim(
    id: str,
    statement: str,
    published: float | str,
    unit: str,
    source: str,
    certainty: Certainty = "published",
) -> Claim:
    return Claim(id, statement, published, unit, source, certainty, "mechanism")


def _memory() -> ClaimResult:
    claim = Claim(
        "memory", "memory of SPANN on SIFT1B", 32e9, "B", _SPANN, "published", "counting"
    )  # the claim and ours both count centroids
    text = _lists("sift1b", centroid_share=0.16)
    return compare(
        claim,
        float(footprint(_lists("sift1b")).bytes_at("memory")),
        "120 million centroids of 128 bytes, each with 32 neighbours of 4 bytes, as the authors' configuration says.",
        f"By the text 16 % of the vectors are centroids: {footprint(text).bytes_at('memory') / 1e9:.1f} "
        "GB with the same graph.",
    )


def _latencies() -> tuple[list[ClaimResult], StudyTable]:
    claims: list[ClaimResult] = []
    rows: list[tuple[str | float, ...]] = []
    machine = f"One query at a time on the two Xeons and one drive of {HARDWARE}."
    for name in SETS:
        lists, graph = answered(_lists(name)), answered(_graph(name))
        ratio = graph.latency_mean_s / lists.latency_mean_s
        statement = f"DiskANN's latency over SPANN's at 90 % recall and equal memory, {name.upper()}"
        claims.append(compare(_claim(f"ratio-{name}", statement, 2.0, "", _SPANN), ratio, machine, _READS))
        rows += [(f"SPANN, {name}", *_row(lists)), (f"DiskANN, {name}", *_row(graph))]
        if name == "sift1b":
            claims += [
                compare(
                    _claim("spann-latency", "latency of SPANN at 90 % recall@1", 1e-3, "s", _SPANN),
                    lists.latency_mean_s, machine, _READS,
                ),
                compare(
                    _claim("diskann-latency", "latency of DiskANN beside it", 3.5e-3, "s",
                           "what is known second-hand of SPANN's figures ('about 3-4 ms')", "second-hand"),
                    graph.latency_mean_s, machine, _READS,
                ),
            ]  # fmt: skip
    columns = ("index", "mean ms", "p99 ms", "processor us", "read KiB", "read over asked")
    return claims, StudyTable("One query at a time, reads as assumed", columns, tuple(rows))


def _row(point: LoadPoint) -> tuple[float, ...]:
    return (
        point.latency_mean_s * 1e3, point.latency_p99_s * 1e3, point.processor_s * 1e6,
        point.bytes_per_query / 1024, point.read_amplification or 0.0,
    )  # fmt: skip


def _throughput() -> ClaimResult:
    """DiskANN's own bound: two figures at once, so the claim is a word."""
    point = answered(_graph("sift1b"), in_flight=16)
    holds = "yes" if point.queries_per_s > 5000 and point.latency_mean_s < 3e-3 else "no"
    return compare(
        _claim(
            "diskann-rate", "over 5000 queries/s at under 3 ms with 16 threads, SIFT1B", "yes", "", _DISKANN
        ),
        holds,
        f"16 in flight on one drive: {point.queries_per_s:.0f} queries/s at {point.latency_mean_s * 1e3:.2f} ms.",
        "A bound, met with room to spare; it was published for 95 % recall, whose reads are not known. "
        + _READS,
    )


def _by_limit(limit: int) -> tuple[float, ...]:
    """Mean ms by lists read, of full lists; two drives hold the longest."""
    full = [_lists("sift1b", list_limit=1024.0 * limit, lists_read=count, replicas=64.0) for count in LISTS]
    return tuple(answered(index, drives=2).latency_mean_s * 1e3 for index in full)


def _sweeps() -> tuple[list[StudyTable], Figure]:
    limits = tuple((limit, *_by_limit(limit)) for limit in LIMITS)
    beams = tuple(
        (
            rounds,
            *(
                answered(_graph("sift1b", rounds=rounds, beam=beam)).latency_mean_s * 1e3
                for beam in (1, 4, 8)
            ),
        )
        for rounds in ROUNDS
    )
    loads = tuple(
        (drives, in_flight, *(value for index in (_lists("sift1b"), _graph("sift1b"))
                              for point in (answered(index, drives, in_flight),)
                              for value in (point.queries_per_s, point.latency_mean_s * 1e3, point.bottleneck)))
        for drives in DRIVES for in_flight in (1, 8, 24)
    )  # fmt: skip
    tables = [
        StudyTable(
            "SIFT1B, mean ms by the size of full lists (KiB) and lists read, two drives",
            ("list KiB", *(f"{n} lists" for n in LISTS)), limits,
        ),
        StudyTable(
            "SIFT1B, mean ms by rounds and nodes of a round", ("rounds", "beam 1", "beam 4", "beam 8"), beams
        ),
        StudyTable(
            "SIFT1B, drives and queries in flight",
            ("drives", "in flight", "SPANN queries/s", "SPANN ms", "SPANN busy", "DiskANN queries/s", "DiskANN ms",
             "DiskANN busy"), loads,
        ),
    ]  # fmt: skip
    lines: dict[str, list[tuple[float, float]]] = {
        f"lists of {row[0]} KiB": [*zip(map(float, LISTS), row[1:], strict=True)] for row in limits
    }
    lines["graph, beam 4"] = [(row[0], row[2]) for row in beams]
    caption = "Latency of one query on SIFT1B: posting lists by the number read, a graph by its rounds."

    def draw(path: Path) -> None:
        draw_lines(path, lines, "lists read, or rounds", "mean latency (ms)")

    return tables, Figure("latency", caption, draw)


def _run() -> Outcome:
    claims, table = _latencies()
    tables, figure = _sweeps()
    return Outcome([_memory(), *claims, _throughput()], [table, *tables], [figure])


STUDY: Final = Study(
    "spann",
    "SPANN: posting lists against graph hops on a drive",
    "Chen et al., SPANN: Highly-efficient Billion-scale Approximate Nearest Neighbor Search, arXiv:2111.08566; NeurIPS "
    "2021",
    "Three sets of a billion vectors. SPANN keeps 12 % of them as centroids in memory and reads posting lists of whole "
    "sectors at once; DiskANN keeps codes of 32 bytes in memory and reads nodes in rounds, each after the last is "
    "back. The drive engine serves every read.",
    _run,
    slow=True,
)
