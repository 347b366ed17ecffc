"""Questions to the reader of PyTorch profiles: does a replay end when the run did, and every kernel run when it ran?"""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from offchip.api import simulate
from workloads.importers import load_workload
from workloads.operators import AllReduce, Copy, Elementwise, Product
from workloads.recorded.kineto import IMPORTER
from workloads.recorded.kineto_file import read_profile
from workloads.workload import WorkloadOptions

REAL = Path(__file__).parents[1] / "reference" / "kineto"
PROFILES = sorted(REAL.glob("*.json.gz"))


def event(name, category, ts, dur, tid=1, **args):
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "pid": 1,
        "tid": tid,
        "ts": ts,
        "dur": dur,
        "args": args,
    }


def launch(ts, correlation, dur=4, **args):
    return event("cudaLaunchKernel", "cuda_runtime", ts, dur, correlation=correlation, **args)


def kernel(name, ts, dur, stream, correlation, category="kernel", **args):
    return event(name, category, ts, dur, stream, device=0, stream=stream, correlation=correlation, **args)


@pytest.fixture
def profile(tmp_path):
    def write(events, name="p.json", **top):
        path = tmp_path / name
        path.write_text(json.dumps({"schemaVersion": 1, **top, "traceEvents": events}))
        return path

    return write


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.name.partition(".")[0])
def test_a_replay_of_a_real_profile_is_the_run_that_was_recorded(path):
    record = read_profile(path)
    first = min(e.start_us for e in (*record.host, *record.device))
    last = max(e.end_us for e in (*record.host, *record.device))
    line = simulate(path, "a100-80gb").timeline
    assert max(line.end) == pytest.approx((last - first) * 1e-6, abs=1e-8)
    ran = sorted(
        (line.start[i], line.end[i] - line.start[i])
        for i, kind in enumerate(line.operator_kind)
        if kind != "host"
    )
    wanted = sorted(((e.start_us - first) * 1e-6, e.took_us * 1e-6) for e in record.device)
    assert len(ran) == len(wanted) > 5
    for (start, took), (start_wanted, took_wanted) in zip(ran, wanted, strict=True):
        assert took == pytest.approx(took_wanted, abs=1e-9)
        assert start == pytest.approx(start_wanted, abs=1e-6)


def test_a_stream_waits_for_what_it_was_told_to_wait_for(profile):
    """Stream 9 joins stream 7: however long the host takes, the second kernel follows the first."""
    events = [
        launch(0, 1), kernel("a", 10, 100, 7, 1),
        event("cudaStreamWaitEvent", "cuda_runtime", 20, 1, correlation=2),
        launch(22, 3), kernel("b", 110, 10, 9, 3),
        launch(30, 4), kernel("c", 40, 10, 11, 4),
    ]  # fmt: skip
    graph = load_workload(profile(events)).phases[0].graph
    assert "a" in _before(graph, "b")
    assert "a" not in _before(graph, "c")


def test_a_waiting_call_waits_for_the_device_and_not_for_the_clock(profile):
    """The kernel is quicker in the replay, so the host goes on earlier by as much."""
    events = [
        launch(0, 1), kernel("aten", 10, 1000, 7, 1, **{"External id": 5}),
        event("aten::mul", "cpu_op", 0, 4, **{"External id": 5, "Input Dims": [[1024]], "Input type": ["float"]}),
        event("cudaDeviceSynchronize", "cuda_runtime", 20, 1000, correlation=2),
        event("cudaLaunchKernel", "cuda_runtime", 1030, 5, correlation=3), kernel("late", 1040, 1, 7, 3),
    ]  # fmt: skip
    path = profile(events)
    assert simulate(path, "a100-80gb").makespan_s == pytest.approx(1041e-6)
    assert simulate(path, "a100-80gb", durations="model").makespan_s < 100e-6


def _before(graph, name):
    found, queue = set(), [name]
    while queue:
        for other in graph.dependencies[queue.pop()]:
            if other not in found:
                found.add(other)
                queue.append(other)
    return found


def test_shapes_say_what_a_kernel_did(profile):
    dims = {
        "Input Dims": [[64, 128], [128, 32]],
        "Input type": ["c10::BFloat16", "c10::BFloat16"],
        "External id": 5,
    }
    events = [
        event("aten::mm", "cpu_op", 0, 10, **dims),
        launch(1, 1, 2), kernel("gemm", 10, 50, 7, 1, **{"External id": 5}),
        launch(4, 2, 2), kernel("splitk reduce", 60, 5, 7, 2, **{"External id": 5}),
        event("aten::add", "cpu_op", 11, 9, **{**dims, "Input Dims": [[64, 32], [64, 32]], "External id": 6}),
        launch(12, 3, 2), kernel("add", 65, 5, 7, 3, **{"External id": 6}),
        launch(14, 4, 2), kernel("Memcpy DtoD", 70, 5, 7, 4, "gpu_memcpy", bytes=4096),
    ]  # fmt: skip
    graph = load_workload(profile(events), WorkloadOptions(durations="model")).phases[0].graph
    by_name = graph.operator_by_name
    assert by_name["gemm"].work == Product(m=64, n=32, k=128)
    assert (by_name["gemm"].dtype, by_name["gemm"].read_bytes) == ("bf16", 2 * (64 * 128 + 128 * 32))
    assert by_name["gemm"].measured_s is None
    assert by_name["splitk reduce"].measured_s == pytest.approx(5e-6), "of which the profile says nothing"
    assert by_name["add"].work == Elementwise(m=1, n=2048, flops_per_element=1.0)
    assert by_name["Memcpy DtoD"].work == Copy(m=1, n=4096)


def collective(rank, ts=10, dur=50, nelems=1000):
    args = {
        "Collective name": "allreduce", "In msg nelems": nelems, "Out msg nelems": nelems, "Group size": 2,
        "dtype": "Float", "Process Group Name": "0", "Process Group Ranks": "[0, 1]",
    }  # fmt: skip
    return [launch(0, 1), kernel(f"ncclKernel {rank}", ts, dur, 20, 1, **args)]


def test_ranks_meet_in_collectives_and_the_least_time_of_them_is_theirs(profile, tmp_path, cli):
    """Rank 0 came early and waited: the exchange itself took what it took on rank 1."""
    profile(collective(0, ts=10, dur=90), "r0.json", distributedInfo={"rank": 0, "world_size": 2})
    profile(collective(1, ts=70, dur=30), "r1.json", distributedInfo={"rank": 1, "world_size": 2})
    workload = load_workload(tmp_path)
    (met,) = [op for op in workload.phases[0].graph.operators if op.kind == "all_reduce"]
    assert met.work == AllReduce(bytes=4000)
    assert met.place.ranks == (0, 1)
    assert met.measured_s == pytest.approx(30e-6)
    assert simulate(workload, "dgx-a100").makespan_s == pytest.approx(100e-6, rel=1e-3)
    profile(collective(1, nelems=999), "r1.json", distributedInfo={"rank": 1, "world_size": 2})
    outcome = cli("simulate", tmp_path, "--hw", "dgx-a100")
    assert outcome.code == 2
    assert "is all_reduce of 3996 B on rank 1; it meets" in outcome.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"traceEvents": [', "is no whole JSON at character"),
        (
            '{"traceEvents": [{"ph": "X", "cat": "kernel", "ts": "soon"}]}',
            "ts: found 'soon'; expected microseconds",
        ),
        (
            '{"traceEvents": [{"ph": "X", "cat": "kernel", "ts": 1, "dur": -1}]}',
            "dur: found -1; expected microseconds",
        ),
        ('{"traceEvents": []}', "the profile holds no event of a host or a device"),
        ('{"traceEvents": [], "distributedInfo": {"rank": "x"}}', "found 'x'; expected a number of ranks"),
        ('{"traceEvents": [] "a": 1}', "expected a comma or '}'"),
        ("[" * 100_000 + '"traceEvents"', "is no whole JSON|nested too deep"),
    ],
)
def test_what_is_no_profile_is_refused_in_a_line(tmp_path, text, expected):
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(InputError, match=expected.replace("(", r"\(")):
        IMPORTER.load(path, WorkloadOptions())


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_damage_ends_in_anything_but_an_answer_or_an_input_error(tmp_path_factory, data):
    text = bytearray(gzip.decompress((REAL / "two_streams.json.gz").read_bytes()))
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("d") / "d.json"
    path.write_bytes(text)
    try:
        IMPORTER.load(path, WorkloadOptions())
    except InputError:
        return


def test_events_are_read_through_a_small_window(tmp_path, monkeypatch):
    """Whatever the window cuts through, the events are those of the file."""
    path = tmp_path / "p.json.gz"
    path.write_bytes((REAL / "two_streams.json.gz").read_bytes())
    whole = read_profile(path)
    monkeypatch.setattr("workloads.recorded.kineto_file._WINDOW", 7)
    assert read_profile(path) == whole
    assert len(whole.host) + len(whole.device) + len(whole.sync) == 56
