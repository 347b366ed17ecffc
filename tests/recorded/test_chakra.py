"""Questions to the Chakra importer: are nodes, waits, bytes, peers and groups kept, and the unreadable refused?"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from workloads.graph import check_graph
from workloads.importers import load_workload
from workloads.operators import AllReduce, Elementwise, Product
from workloads.recorded.chakra import IMPORTER
from workloads.recorded.chakra_file import TraceNode, trace_bytes
from workloads.workload import WorkloadOptions

LAYER = [
    TraceNode(0, "load weights", "memory_load", attributes={"tensor_size": 4096}),
    TraceNode(1, "gemm", "compute", (), (0,), 37, 0, {"num_ops": 2_000_000, "tensor_size": 8192}),
    TraceNode(
        2, "sum", "collective", (), (1,), 12, 0, {"comm_type": 0, "comm_size": 1024, "comm_group_size": 4}
    ),
    TraceNode(3, "send", "send", (2,), (), 0, 0, {"comm_size": 512, "comm_dst": 3, "comm_tag": 7}),
    TraceNode(4, "receive", "receive", (3,), (), 0, 0, {"comm_size": 512, "comm_src": 1, "comm_tag": 7}),
    TraceNode(5, "gemm", "compute", (), (4, 1), 0, 0, {"num_ops": 10, "tensor_size": 20}),
    TraceNode(6, "store", "memory_store", (), (5,), 0, 0, {"tensor_size": 64}),
]
FOUR = WorkloadOptions(ranks=4)


def problems_of(path, **options):
    with pytest.raises(InputError) as caught:
        IMPORTER.load(path, WorkloadOptions(**options))
    return [str(problem).removeprefix(f"{path}: ") for problem in caught.value.problems]


def test_nodes_become_operators_with_their_waits_and_bytes(saved):
    workload = load_workload(saved(LAYER), FOUR)
    graph = workload.phases[0].graph
    assert check_graph(graph) is graph
    rows = [
        (op.name, op.kind, op.flops, op.read_bytes, op.write_bytes)
        for op in graph.operators
        if op.place.ranks[0] == 0
    ]
    assert rows == [
        ("load weights@0", "copy", 0, 4096, 4096),
        ("gemm@0", "matmul", 2_000_000, 8192, 0),
        ("sum@0", "all_reduce", 0, 1024, 1024),
        ("send@0", "send", 0, 0, 0),
        ("receive@0", "receive", 0, 0, 0),
        ("gemm #5@0", "elementwise", 10, 20, 0),
        ("store@0", "copy", 0, 64, 64),
    ]
    assert set(graph.dependencies["gemm #5@0"]) == {"receive@0", "gemm@0", "send@1"}
    assert graph.dependencies["send@0"] == ("sum@0",)
    by_name = graph.operator_by_name
    assert by_name["gemm@0"].measured_s == pytest.approx(37e-6)
    assert by_name["sum@0"].work == AllReduce(bytes=1024)
    assert by_name["sum@0"].place.ranks == (0, 1, 2, 3)
    assert [by_name[f"send@{rank}"].work.peer for rank in range(4)] == [3, 0, 1, 2]
    assert [by_name[f"receive@{rank}"].work.peer for rank in range(4)] == [1, 2, 3, 0]
    assert workload.metadata["ranks"] == 4


def test_what_was_measured_gives_way_to_the_model_where_the_trace_says_what_was_done(saved):
    told = TraceNode(0, "told", "compute", runtime_us=5, attributes={"num_ops": 10, "tensor_size": 20})
    bare = TraceNode(1, "bare", "compute", runtime_us=6)
    host = TraceNode(2, "host", "compute", runtime_us=7, attributes={"is_cpu_op": True, "num_ops": 10})
    for durations, times in (("measured", [5e-6, 6e-6, 7e-6]), ("model", [None, 6e-6, 7e-6])):
        graph = load_workload(saved([told, bare, host]), WorkloadOptions(durations=durations)).phases[0].graph
        assert [op.measured_s for op in graph.operators] == pytest.approx(times)
    assert [op.kind for op in graph.operators] == ["elementwise", "custom", "host"]


def test_a_node_without_a_shape_is_a_square_product_or_one_long_row_of_its_flops(saved):
    by_name = load_workload(saved(LAYER), FOUR).phases[0].graph.operator_by_name
    product, pointwise = by_name["gemm@0"].work, by_name["gemm #5@0"].work
    assert isinstance(product, Product)
    assert (product.m, product.n, product.k) == (100, 100, 100)
    assert product.flops == 2_000_000
    assert pointwise == Elementwise(m=1, n=10, flops_per_element=1.0), "20 bytes of fp16"


@pytest.mark.parametrize(
    ("kind", "attributes", "expected"),
    [
        ("compute", {"num_ops": float("inf")}, "num_ops: found inf; expected a number of 0 or more"),
        ("compute", {"tensor_size": -4}, "tensor_size: found -4; expected a number of 0 or more"),
        ("compute", {"num_ops": "many"}, "num_ops: found 'many'; expected a number of 0 or more"),
        ("compute", {"num_ops": True}, "num_ops: found True; expected a number of 0 or more"),
        (
            "collective",
            {"comm_type": 37, "comm_size": 8},
            "comm_type: found 37; expected one of 0 all_reduce",
        ),
        ("collective", {"comm_size": 8}, "comm_type: found None; expected one of 0 all_reduce"),
        ("collective", {"comm_type": 0, "comm_group_size": 3}, "its group has 3 ranks; there are 4"),
        ("collective", {"comm_type": 0, "comm_group_size": 8}, "its group has 8 ranks; there are 4"),
        ("send", {"comm_size": 8}, "has no comm_dst; expected the rank at the other end"),
        (
            "send",
            {"comm_size": 8, "comm_dst": 63},
            "sends to rank 63; there are ranks 0 to 3, and this is rank 0",
        ),
        (
            "send",
            {"comm_size": 8, "comm_dst": 0},
            "sends to rank 0; there are ranks 0 to 3, and this is rank 0",
        ),
        (
            "receive",
            {"comm_size": 8, "comm_src": 1},
            "waits for a message of tag 0 from rank 1, which sends no more",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_field(saved, kind, attributes, expected):
    (problem,) = problems_of(saved([TraceNode(1, "c", kind, attributes=attributes)]), ranks=4)
    assert problem.startswith(f"c: {expected}")


def test_only_what_arrives_takes_memory(saved):
    graph = load_workload(saved(LAYER), FOUR).phases[0].graph
    sizes = {
        name: t.size_bytes for name, t in graph.tensors.items() if t.size_bytes and name.endswith("@0.data")
    }
    assert sizes == {"load weights@0.data": 4096}
    assert graph.tensors["send@0.message"].size_bytes == 512


@pytest.mark.parametrize(
    ("comm_type", "kind", "source"),
    [
        (0, "all_reduce", "all_reduce"), (1, "all_reduce", "reduce"), (2, "all_gather", "all_gather"),
        (3, "all_gather", "gather"), (4, "broadcast", "scatter"),
        (5, "broadcast", "broadcast"),
        (6, "all_to_all", "all_to_all"), (7, "reduce_scatter", "reduce_scatter"),
        (8, "reduce_scatter", "reduce_scatter_block"), (9, "all_reduce", "barrier"),
    ],
)  # fmt: skip
def test_collectives_keep_their_kind(saved, comm_type, kind, source):
    node = TraceNode(1, "c", "collective", attributes={"comm_type": comm_type, "comm_size": 64})
    (op,) = load_workload(saved([node]), WorkloadOptions(ranks=2)).phases[0].graph.operators
    assert (op.kind, op.source) == (kind, source)
    assert op.work.bytes == (0 if source == "barrier" else 64)


def test_a_group_smaller_than_the_job_is_of_neighbours(saved):
    node = TraceNode(1, "c", "collective", attributes={"comm_type": 0, "comm_size": 64, "comm_group_size": 2})
    path = saved([node])
    assert problems_of(path, ranks=3) == ["c: its group has 2 ranks; there are 3"]
    graph = load_workload(path, FOUR).phases[0].graph
    assert [op.place.ranks for op in graph.operators] == [(0, 1), (2, 3)]


def test_waits_outside_the_window_and_against_the_record_are_cut_and_told(saved):
    loop = [
        TraceNode(1, "a", "compute", (2, 99), (), 5),
        TraceNode(2, "b", "compute", (), (1,), 5),
        TraceNode(3, "c", "compute", (4,), (), 5),
        TraceNode(4, "d", "compute", (), (), 5),
    ]
    workload = load_workload(saved(loop))
    graph = workload.phases[0].graph
    assert graph.dependencies == {"a": (), "b": ("a",), "d": (), "c": ("d",)}, "only cycles are cut"
    assert len(workload.notes) == 3
    assert "1 waits on nodes that the trace does not hold are taken as over" in workload.notes[0]
    assert "(first: 'a' on node 99)" in workload.notes[0]
    assert (
        "1 waits on nodes that were recorded later, within cycles, are cut (first: 'a' on 'b')"
        in workload.notes[1]
    )


def test_two_nodes_of_one_id_are_refused(saved):
    nodes = [TraceNode(1, "a", "compute"), TraceNode(1, "b", "compute")]
    assert problems_of(saved(nodes)) == ["b: two nodes have the id 1"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"<html></html>", "not a Chakra trace, or a damaged one, at byte 0: a message is cut short"),
        (trace_bytes([]), "the trace holds no node"),
        (b"", "the file is empty"),
    ],
)
def test_what_is_no_trace_is_refused(saved, content, expected):
    assert problems_of(saved(content)) == [expected]


def test_a_trace_cut_short_says_after_how_many_nodes(saved):
    assert problems_of(saved(trace_bytes(LAYER)[:-3])) == [
        "the trace is cut short after 6 nodes: a message is cut short"
    ]


def test_options_that_cannot_apply_are_refused(saved):
    path = saved(LAYER)
    assert problems_of(path, batch=4) == ["--batch: the file holds a finished graph; leave this option out"]
    assert problems_of(path, phase="train") == ["--phase: a trace holds what ran; leave this option out"]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_damage_ends_in_anything_but_an_answer_or_an_input_error(tmp_path_factory, data):
    content = bytearray(trace_bytes(LAYER))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("d") / "d.et"
    path.write_bytes(content)
    try:
        IMPORTER.load(path, FOUR)
    except InputError:
        return


# --- several ranks ---------------------------------------------------------------------------------------


def ring(rank, ranks, size=100):
    """Each rank sends to the next and then waits for the one before it."""
    return [
        TraceNode(0, "send", "send", attributes={"comm_size": size, "comm_dst": (rank + 1) % ranks}),
        TraceNode(
            1, "receive", "receive", (), (0,), attributes={"comm_size": size, "comm_src": (rank - 1) % ranks}
        ),
    ]


def test_all_files_of_a_folder_or_a_pattern_are_ranks_and_each_wire_carries_its_messages(
    saved, tmp_path, cli
):
    for rank in range(4):
        saved(ring(rank, 4), f"ring.{rank}.et")
    for source in (tmp_path, tmp_path / "ring.*.et", tmp_path / "ring.2.et"):
        outcome = cli("simulate", source, "--hw", "dgx-a100", "--json")
        assert outcome.code == 0, outcome.err
        rows = [row for row in json.loads(outcome.out)["timeline"]["rows"] if row["kind"] == "transfer"]
        assert sorted((row["stream"], row["bytes"]) for row in rows) == [
            ("gpu0->gpu1", 100.0), ("gpu1->gpu2", 100.0), ("gpu2->gpu3", 100.0), ("gpu3->gpu0", 100.0),
        ]  # fmt: skip


def test_one_file_that_stands_for_all_keeps_the_distance_to_its_peers(saved, cli):
    outcome = cli("simulate", saved(ring(0, 8)), "--hw", "dgx-a100", "--tp", 8, "--json")
    assert outcome.code == 0, outcome.err
    rows = [row for row in json.loads(outcome.out)["timeline"]["rows"] if row["kind"] == "transfer"]
    assert len({row["stream"] for row in rows}) == 8


def test_ranks_that_do_not_meet_are_refused(saved, tmp_path):
    def collective(size, **more):
        return TraceNode(1, "sum", "collective", attributes={"comm_type": 0, "comm_size": size, **more})

    saved([collective(8)], "job.0.et")
    saved([collective(16)], "job.1.et")
    (problem,) = problems_of(tmp_path)
    assert "is all_reduce of 16 B on rank 1; it meets 'sum', all_reduce of 8 B on rank 0" in problem
    saved([TraceNode(1, "x", "compute")], "job.1.et")
    (problem,) = problems_of(tmp_path)
    assert "ranks 0, 1 meet in it, and rank 1 has no collective left" in problem
    saved([collective(8)], "job.1.et")
    saved([collective(8)], "job.3.et")
    (problem,) = problems_of(tmp_path)
    assert "there is no file of rank 2 beside 3 others" in problem


def test_groups_are_those_that_name_them(saved, tmp_path):
    for rank in range(4):
        attributes = {"comm_type": 0, "comm_size": 8, "pg_name": f"pairs {rank % 2}", "comm_group_size": 2}
        saved([TraceNode(1, "sum", "collective", attributes=attributes)], f"job.{rank}.et")
    graph = IMPORTER.load(tmp_path, WorkloadOptions()).phases[0].graph
    assert sorted(op.place.ranks for op in graph.operators) == [(0, 2), (1, 3)]


def test_ranks_run_the_trace_together_and_meet_in_its_collectives(saved, cli):
    """One file is one rank's work; --tp N runs it on N devices, and one device alone is refused in words."""
    path = saved(LAYER)
    alone = cli("simulate", path, "--hw", "a100-80gb")
    assert alone.code == 2
    assert "is the work of one of several ranks" in alone.err
    outcome = cli("simulate", path, "--hw", "dgx-a100", "--tp", 4, "--collective", "ring", "--json")
    assert outcome.code == 0
    rows = [
        row for row in json.loads(outcome.out)["timeline"]["rows"] if row["operator_kind"] == "all_reduce"
    ]
    assert len(rows) == 4
    assert len({(row["start"], row["end"]) for row in rows}) == 1
    # Ring all-reduce of 1024 bytes over 4 ranks: each sends 2 x 3/4 of them.
    assert [row["bytes"] for row in rows] == [1536.0] * 4
    assert rows[0]["end"] - rows[0]["start"] >= 12e-6, "no less than was measured"


def test_more_ranks_than_devices_are_refused(saved, cli):
    outcome = cli("simulate", saved(ring(0, 9)), "--hw", "dgx-a100", "--tp", 9)
    assert outcome.code == 2
    assert "has 9 ranks; system 'dgx-a100' has 8 devices for them" in outcome.err
