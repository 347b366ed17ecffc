"""The Python interface: names, files and objects in; one Result with its views and files out."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import offchip
from hw_configs.problems import InfeasibleError, InputError
from offchip.export import trace_events, write_result
from simulator.plan import Plan
from simulator.plan_file import read_plan, write_plan
from simulator.result import Result, Timeline
from workloads.graph import Role
from workloads.graph_json import read_graph, write_graph
from workloads.microbatch import microbatched

DOCS = Path(__file__).parents[1] / "docs" / "plan-format.md"


@pytest.fixture(scope="module")
def generation() -> Result:
    return offchip.simulate("llama-3-8b", "a100-80gb", prompt=64, generate=3)


def test_names_files_and_objects_give_the_same_result(generation: Result) -> None:
    workload = offchip.load_model("llama-3-8b", prompt=64, generate=3)
    again = offchip.simulate(workload, offchip.load_system("a100-80gb"))
    assert json.dumps(again.to_json()) == json.dumps(generation.to_json())


def test_a_result_adds_up(generation: Result) -> None:
    data = generation.to_json()
    assert data["summary"]["decode_steps"] == 3
    assert [p["end_s"] for p in data["phases"][:-1]] == [p["start_s"] for p in data["phases"][1:]]
    assert data["phases"][-1]["end_s"] == data["summary"]["makespan_s"] == generation.makespan_s
    assert data["energy_j"]["total"] == pytest.approx(sum(generation.energy_j.values()))
    line = generation.timeline
    assert sum(line.flops) == pytest.approx(sum(p.flops for p in generation.phases))
    spent = sum(end - start for start, end in zip(line.start, line.end, strict=True))
    assert sum(data["time_by_bound_s"].values()) == pytest.approx(spent)
    assert sum(row["seconds"] for row in generation.top_operators(10**6)) == pytest.approx(spent)
    use = generation.devices["a100-80gb"]
    assert use.busy_s + use.launch_s == pytest.approx(spent)
    assert 0 < use.utilisation <= 1
    assert 0 < use.compute_utilisation <= use.utilisation
    memory = generation.memories["a100-80gb"]
    assert memory.peak_bytes == sum(size for _, _, size in memory.live_at_peak) == max(memory.curve_bytes)
    assert memory.resident_bytes == memory.curve_bytes[-1]
    assert memory.usable_bytes < memory.capacity_bytes
    assert data["provenance"]["fidelity"] == "event"
    assert len(data["provenance"]["plan_digests"]) == 2
    json.dumps(data, allow_nan=False)


def test_tables_are_the_timeline(generation: Result) -> None:
    pytest.importorskip("pandas")
    table = generation.to_pandas()
    assert list(table.columns) == list(Timeline.COLUMNS)
    assert len(table) == len(generation.timeline)
    assert (table["end"] >= table["start"]).all()


def test_files_of_a_result(generation: Result, tmp_path: Path) -> None:
    written = write_result(generation, tmp_path / "out")
    names = {path.name for path in written}
    assert {"result.json", "trace.json.gz"} <= names
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == json.loads(
        json.dumps(generation.to_json())
    )
    trace = json.loads(gzip.decompress((tmp_path / "out" / "trace.json.gz").read_bytes()))
    check_trace(trace["traceEvents"], generation)
    first = {path.name: path.read_bytes() for path in written}
    assert {path.name: path.read_bytes() for path in write_result(generation, tmp_path / "out")} == first


def check_trace(events: list[dict[str, Any]], result: Result) -> None:
    """The rules of the Trace Event Format that viewers rely on."""
    spans = [event for event in events if event["ph"] == "X"]
    assert len(spans) == len(result.timeline)
    named = {(e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    for event in spans:
        assert event["dur"] >= 0
        assert event["ts"] >= 0
        assert (event["pid"], event["tid"]) in named
    lanes: dict[tuple[int, int], float] = {}
    for event in sorted(spans, key=lambda e: (e["ts"], e["dur"])):
        lane = (event["pid"], event["tid"])
        assert event["ts"] >= lanes.get(lane, 0.0) - 1e-3
        lanes[lane] = event["ts"] + event["dur"]
    for event in events:
        if event["ph"] == "C":
            assert event["args"]["bytes"] >= 0


def test_a_trace_of_several_devices_has_a_process_each() -> None:
    result = offchip.simulate("gpt2", "dgx-a100", phase="decode", prompt=32, tp=4)
    events = list(trace_events(result))
    check_trace(events, result)
    names = [e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "process_name"]
    assert names == ["gpu0", "gpu1", "gpu2", "gpu3"]


def test_a_folder_that_cannot_be_written_is_told(generation: Result, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        write_result(generation, tmp_path / "file")


def test_fidelities_agree_where_nothing_contends() -> None:
    event = offchip.simulate("gpt2", "a100-80gb", phase="prefill", prompt=64)
    closed = offchip.simulate("gpt2", "a100-80gb", phase="prefill", prompt=64, fidelity="analytic")
    assert closed.makespan_s == pytest.approx(event.makespan_s)
    assert closed.memories["a100-80gb"].peak_bytes == event.memories["a100-80gb"].peak_bytes


@pytest.mark.parametrize(
    ("model", "phase"), [("gpt2", "prefill"), ("gpt2", "decode"), ("gpt2", "train"), ("resnet-50", None)]
)
@pytest.mark.parametrize("given", ["by name", "as a workload"])
def test_microbatches_divide_the_work_and_do_not_double_it(given: str, model: str, phase: str | None) -> None:
    whole = offchip.load_model(model, phase=phase, batch=4, prompt=64)
    if given == "by name":
        divided = offchip.simulate(model, "a100-80gb", phase=phase, batch=4, prompt=64, microbatches=2)
    else:
        divided = offchip.simulate(whole, "a100-80gb", microbatches=2)
    graph = whole.phases[0].graph
    together = offchip.simulate(whole, "a100-80gb")
    assert (divided.provenance["workload"]["batch"], divided.provenance["workload"]["microbatches"]) == (4, 2)
    assert divided.phases[0].tokens == together.phases[0].tokens
    # Weights are read once per micro-batch; what an optimizer updates at the end, once.
    weights = sum(t.size_bytes for t in graph.tensors.values() if t.role == Role.WEIGHT)
    passes = 3 if phase == "train" else 1
    parts = offchip.load_model(model, phase=phase, batch=2, prompt=64).phases[0].graph
    many = microbatched(parts, 2)
    # A weight that is used twice (a tied embedding) has its two gradients added per micro-batch.
    summed = graph.parameters() if phase == "train" else 0
    assert graph.flops * (1 - 1e-9) <= many.flops <= graph.flops * (1 + 1e-9) + summed
    read, moved = (sum(use.read_bytes for use in r.memories.values()) for r in (together, divided))
    assert read < moved <= read + (passes + 1) * weights
    # But for the loss, a number of its own per micro-batch.
    assert many.bytes_by_role()[Role.ACTIVATION] == pytest.approx(
        graph.bytes_by_role()[Role.ACTIVATION], rel=1e-6
    )
    assert divided.phases[0].flops == pytest.approx(many.flops, rel=1e-9)
    assert together.makespan_s < divided.makespan_s < 2.1 * together.makespan_s


def test_a_finished_graph_has_no_batch_to_divide(tmp_path: Path) -> None:
    graph = offchip.load_model("gpt2", phase="decode", prompt=8, batch=2).phases[0].graph
    write_graph(graph, tmp_path / "graph.json")
    for model, options in ((graph, {}), (tmp_path / "graph.json", {"batch": 2})):
        with pytest.raises(InputError, match="no batch to divide"):
            offchip.simulate(model, "a100-80gb", microbatches=2, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"microbatches": 10**30, "batch": 10**30}, "expected 1 to 65536"),
        ({"fidelity": "evnt"}, "did you mean 'event'"),
        ({"batch": 3, "microbatches": 2}, "micro-batches"),
        ({"microbatches": 0}, "found 0"),
        ({"mapper": "singel-device"}, "did you mean 'single-device'"),
        ({"tp": 2}, "needs 2 devices"),
        ({"tp": 2, "mapper": "single-device"}, "uses one device"),
        ({"cost_model": "rooflin"}, "did you mean 'roofline'"),
        ({"collective": "rings"}, "ring, tree"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], message: str) -> None:
    system = "dgx-a100" if "collective" in options else "a100-80gb"
    extra = {"tp": 2} if "collective" in options else {}
    with pytest.raises(InputError, match=re.escape(message)):
        offchip.simulate("gpt2", system, phase="decode", **{**options, **extra})


def test_a_model_that_is_too_large_is_proved_so() -> None:
    with pytest.raises(InfeasibleError) as error:
        offchip.simulate("llama-3-70b", "a100-80gb", phase="decode")
    text = str(error.value)
    assert error.value.exit_code == 3
    for part in ("short by", "weight", "kv_cache", "--tp", "stream-weights"):
        assert part in text


def documented(number: int) -> str:
    return re.findall(r"```json\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[number]


def test_the_documented_plan_runs(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(documented(0))
    (tmp_path / "graph.json").write_text(documented(1))
    graph = read_graph(tmp_path / "graph.json")
    assert offchip.check(tmp_path / "plan.json", graph, "workstation") == []
    result = offchip.simulate(graph, "workstation", plan=tmp_path / "plan.json")
    line = dict(
        zip(result.timeline.task, zip(result.timeline.start, result.timeline.end, strict=True), strict=True)
    )
    assert line["fetch"][0] == 0.0
    assert line["down"][0] >= line["fetch"][1]
    # Stored as int8, the weight crosses the wire at half its size.
    assert result.wires["pcie:gpu-cpu"].bytes_backward == 4096 * 8192
    write_plan(read_plan(tmp_path / "plan.json"), tmp_path / "again.json")
    assert read_plan(tmp_path / "again.json") == read_plan(tmp_path / "plan.json")


def test_every_key_of_a_plan_is_documented() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for key in (*Plan.__dataclass_fields__, "format"):
        assert f"`{key}`" in text
    from simulator.plan import TASK_FIELDS

    for key in TASK_FIELDS:
        assert f"`{key}`" in text


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=6,
)
_KEYS = st.sampled_from(
    ["graph", "system", "mapper", "notes", "homes", "splits", "precision", "tasks", "tsks"]
)
_TASK_KEYS = st.sampled_from(
    ["name", "kind", "stream", "operator", "device", "tensor", "source", "target", "group", "after", "frees",
     "addresses", "adresses"]
)  # fmt: skip
_TASKS = st.lists(
    st.dictionaries(_TASK_KEYS, _JSON | st.sampled_from(["compute", "transfer", "collective"]), max_size=8),
    max_size=3,
)


@settings(max_examples=250, deadline=None)
@given(data=st.dictionaries(_KEYS, _JSON, max_size=5), tasks=_TASKS | _JSON)
def test_any_json_is_a_plan_or_an_error_in_words(
    data: dict[str, Any], tasks: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_text(json.dumps({"format": "offchip-plan-1", **data, "tasks": tasks}))
    try:
        assert isinstance(read_plan(path), Plan)
    except InputError as error:
        if {problem.file for problem in error.problems} != {str(path)}:
            raise


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": "offchip-plan-2"}', "\x00", '{"a":1,"a":2}', "[" * 100_000]
)
def test_what_is_no_plan_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InputError) as error:
        read_plan(tmp_path / "plan.json")
    assert len(error.value.problems) == 1


def test_a_problem_of_a_plan_names_its_line(tmp_path: Path) -> None:
    text = '{"format": "offchip-plan-1",\n"homes": {\n"up.weight": [{"memory": 1, "address": -1}]},\n"tasks": [\n'
    (tmp_path / "plan.json").write_text(text + '{"name": "a", "stream": "s",\n"kind": "compue"}]}')
    with pytest.raises(InputError) as error:
        read_plan(tmp_path / "plan.json")
    assert [(p.line, p.path) for p in error.value.problems] == [(6, "tasks.0.kind"), (3, "homes.up.weight")]


def test_a_missing_plan_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_plan(tmp_path / "plan.json")
    with pytest.raises(InputError):
        read_plan(tmp_path)
