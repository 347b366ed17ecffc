"""Bytes and reads of every kind of index, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hw_configs.library import load_link, load_system
from hw_configs.problems import PhysicsError
from simulator.vector_search.footprint import footprint, list_bytes
from simulator.vector_search.processor import Processor, cpu_processor, gpu_processor
from simulator.vector_search.result import _check
from simulator.vector_search.search import SearchOptions, machine_of, simulate_search
from simulator.vector_search.work import Work, query_rounds
from workloads.vector_index import (
    FlatIndex,
    GraphIndex,
    InvertedFile,
    PostingLists,
    load_index,
    preset_indexes,
)

BASE = {"name": "x", "vectors": 1000, "dimensions": 32, "element": "fp32"}
DRIVE = machine_of(load_system("nvme-pcie4-dc-tlc"), None)


def lists(**changes):
    fields = {"kind": "posting-lists", "centroid_share": 0.1, "replicas": 2.0, "list_limit": 12288.0,
              "lists_read": 5, "head_degree": 8, "head_distances": 64}  # fmt: skip
    return PostingLists(**(BASE | fields | changes))


def graph(**changes):
    fields = {"kind": "graph", "degree": 64, "code_bytes": 16, "beam": 4, "rounds": 3}
    return GraphIndex(**(BASE | fields | changes))


def ivf(**changes):
    return InvertedFile(**(BASE | {"kind": "ivf", "lists": 10, "probes": 2} | changes))


def parts(index):
    return {part.name: (part.place, part.bytes) for part in footprint(index).parts}


def test_posting_lists_by_hand():
    """100 lists of 20 entries of 132 B: 2640 B, one sector; centroids of 128 B with 8 neighbours of 4 B."""
    assert parts(lists()) == {
        "centroids": ("memory", 12800), "graph over centroids": ("memory", 3200), "posting lists": ("drive", 409600),
    }  # fmt: skip
    first, last = query_rounds(lists())
    (read,) = first.reads
    assert (read.count, read.size, read.wanted) == (5, 4096, 2640.0)
    # 64 distances of 32 dimensions at 3 operations; two lines a centroid, and 8 lists of neighbours of one line.
    assert first.work == Work(operations=64 * 96, lines=64 * 2 + 8)
    assert last.work == Work(operations=100 * 96, streamed=100 * 132)


@pytest.mark.parametrize(("replicas", "sectors"), [(1.0, 1), (3.0, 1), (3.2, 2), (8.0, 3), (64.0, 3)])
def test_a_list_is_whole_sectors_and_the_limit_cuts(replicas, sectors):
    """10, 30, 32, 80 and 640 entries of 132 B; the limit of three sectors leaves 93."""
    assert list_bytes(lists(replicas=replicas)) == sectors * 4096


def test_graph_nodes_by_hand():
    """A node of 128 + 4 + 64 x 4 B is 388 B: 10 share a sector; one of 1024 dimensions takes two sectors."""
    assert parts(graph())["nodes"] == ("drive", 100 * 4096)
    assert parts(graph())["codes"] == ("memory", 16000)
    assert parts(graph(cached_nodes=7))["cached nodes"] == ("memory", 7 * 388)
    assert parts(graph(dimensions=1024))["nodes"] == ("drive", 1000 * 8192)
    rounds = query_rounds(graph())
    assert [[(r.count, r.size, r.wanted) for r in one.reads] for one in rounds] == [[(4, 4096, 388)]] * 3 + [
        []
    ]
    assert rounds[0].work.operations == 3 * 256 * 32
    assert rounds[1].work == Work(4 * 96, 4 * 64 * 16, 4 * 388, 4 * 64)
    assert query_rounds(graph(code_bytes=100))[1].work.lines == 4 * 64 * 2


def test_inverted_files_by_hand():
    plain = ivf(place="drive")
    assert parts(plain) == {"centroids": ("memory", 10 * 128), "lists": ("drive", 132_000)}
    (read,) = query_rounds(plain)[0].reads
    assert (read.count, read.size, read.wanted) == (2, 16384, 13200.0)
    coded = ivf(code_bytes=8, rerank=50, neighbours=50, value_bytes=2, element="fp16")
    assert parts(coded) == {
        "centroids": ("memory", 1280), "codebook": ("memory", 32768), "lists": ("memory", 12000),
        "values": ("drive", 2000), "exact vectors": ("drive", 64000),
    }  # fmt: skip
    first, last = query_rounds(coded)
    assert [(r.count, r.size, r.wanted) for r in first.reads] == [(50, 4096, 64), (50, 4096, 2)]
    assert first.work.lookups == 200 * 8
    assert last.work == Work(50 * 96)
    inside = query_rounds(ivf(code_bytes=8, rerank=50, neighbours=50, value_bytes=2, store="memory"))
    assert (len(inside), inside[0].work.lines) == (1, 50 * 2 + 50)


def test_flat_by_hand():
    assert query_rounds(FlatIndex(**BASE, kind="flat"))[0].work == Work(96000, streamed=128_000)
    first, last = query_rounds(FlatIndex(**BASE, kind="flat", place="drive", request=65536.0))
    assert [(r.count, r.size, r.wanted) for r in first.reads] == [(2, 65536, 64000.0)]
    assert last.work.operations == 96000
    moved = query_rounds(FlatIndex(**BASE, kind="flat", compute="gpu"))[0].work.moved
    assert moved == 128_000


def test_a_processor_s_time_by_hand():
    one = Processor("p", 1, 1e9, 2e9, 4e9, 1e7, 5e9, 1e-6)
    assert one.seconds(Work()) == 0
    assert one.seconds(Work(operations=1000)) == pytest.approx(2e-6)
    assert one.seconds(Work(lookups=8000)) == pytest.approx(5e-6)
    assert one.seconds(Work(operations=1, streamed=4000, lines=10, moved=5000)) == pytest.approx(4e-6)


def test_processors_come_from_the_devices():
    system = load_system("dgx-2")
    few, many = cpu_processor(system, "fp32", 1), cpu_processor(system, "fp32", 48)
    assert (few.servers, few.operations_per_s) == (48, 3.84e12 / 24)
    assert few.bytes_per_s > many.bytes_per_s
    assert (
        many.bytes_per_s * 48
        <= sum(system.memories[name].read_bandwidth for name in ("host0", "host1")) * 1.0001
    )
    assert cpu_processor(system, "uint8", 1).operations_per_s == 7.6e12 / 24
    gpu = gpu_processor(system, "fp32")
    assert gpu.bytes_per_s == 900e9
    assert gpu.moved_per_s == load_link("pcie3-x16").bandwidth


def test_reads_of_a_run_are_what_the_rounds_say():
    index = graph()
    point = simulate_search(index, DRIVE, SearchOptions(queries=10, in_flight=3)).point
    assert point.reads == 10 * 12
    assert point.bytes_read == 10 * 12 * 4096
    assert point.read_amplification == pytest.approx(4096 / 388)
    assert point.queries_per_s == pytest.approx(10 / point.time_s)
    assert point.mean_in_flight == pytest.approx(point.latency_mean_s * point.queries_per_s)


def test_list_lengths_vary_about_their_mean_and_below_the_limit():
    from simulator.vector_search.search import _varied

    index = lists(length_variation=0.3, replicas=4.0)
    size = _varied(index, np.random.default_rng(1), (500, 20))
    assert size.max() <= 12288
    assert np.all(size % 4096 == 0)
    # 40 entries of 132 B are 5280 B: two sectors, with about as much above as below.
    assert 1.7 * 4096 < size.mean() < 2.3 * 4096
    point = simulate_search(index, DRIVE, SearchOptions(queries=10)).point
    assert 10 * 5 * 4096 <= point.bytes_read <= 10 * 5 * 12288


@pytest.mark.parametrize("name", preset_indexes())
def test_presets_are_what_they_are_called(name):
    index = load_index(name)
    assert index.name == name
    assert query_rounds(index)[-1].reads == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"busy": {"flash dies": 1.01}}, "flash dies: busy for more than all of the time"),
        ({"processor_s": 1.0}, "before their work is done"),
        ({"mean_in_flight": 3.1}, "more are in flight than may be"),
    ],
)
def test_a_bound_that_is_broken_is_seen(changes, said):
    from dataclasses import replace

    point = simulate_search(graph(), DRIVE, SearchOptions(queries=5, in_flight=3)).point
    _check(point)
    with pytest.raises(PhysicsError, match=said):
        _check(replace(point, **changes))
