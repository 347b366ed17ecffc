"""Plans that cut tensors and operators: bytes and operations add up, and files hold what was written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.plan import Division, Pieces, Plan, Sparsity, Transfer
from simulator.plan_file import read_plan, write_plan
from simulator.rewrite.divide import divide_graph
from workloads.graph import Graph
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions


def decode(batch: int = 4, context: int = 64) -> Graph:
    options = WorkloadOptions(phase="decode", batch=batch, prompt=context)
    return load_workload("opt-125m", options).phases[0].graph


def plan(**fields: object) -> Plan:
    return Plan("g", "s", "by hand", (), {}, **fields)  # type: ignore[arg-type]


ATTEND = "layers.0.attention.attend"
K, V, OUT = "layers.0.attention.k_cache", "layers.0.attention.v_cache", f"{ATTEND}.out"
UP = "layers.0.mlp.up.weight"

counts = st.lists(st.integers(1, 9), min_size=1, max_size=7).map(tuple)


@settings(max_examples=50, deadline=None)
@given(counts, st.sampled_from(["batch", "head"]), st.booleans())
def test_pieces_add_up_to_the_whole(cut: tuple[int, ...], axis: str, append: bool) -> None:
    graph = decode()
    side = 0 if axis == "batch" else 1
    divisions = {name: Division(side, cut, (True,) * len(cut)) for name in (K, V, OUT)}
    changed = plan(
        divisions=divisions, pieces={ATTEND: Pieces(axis, cut)}, appends=(ATTEND,) if append else ()  # type: ignore[arg-type]
    )  # fmt: skip
    divided = divide_graph(graph, changed)
    whole = graph.operator_by_name[ATTEND]
    parts = [op for op in divided.operators if op.name.startswith(f"{ATTEND}/")]
    assert len(parts) == len(cut)
    assert sum(op.flops for op in parts) == pytest.approx(whole.flops)
    assert sum(op.read_bytes for op in parts) == whole.read_bytes
    assert sum(op.write_bytes for op in parts) == whole.write_bytes
    size = sum(t.size_bytes for t in divided.tensors.values() if t.name.startswith(f"{K}/"))
    assert size == graph.tensors[K].size_bytes
    assert all((op.updates == ()) == append for op in parts)
    reader = divided.operator_by_name["layers.0.attention.out"]
    assert [name for name in reader.inputs if name.startswith(OUT)] == [f"{OUT}/{i}" for i in range(len(cut))]


def test_pieces_of_whole_sequences_and_heads_are_said_by_sizes() -> None:
    graph = decode(batch=4)
    whole = graph.operator_by_name[ATTEND].work
    for axis, side, cut in (("batch", 0, (3, 1)), ("head", 1, (9, 3))):
        divisions = {name: Division(side, cut, (True,) * len(cut)) for name in (K, V, OUT)}
        divided = divide_graph(graph, plan(divisions=divisions, pieces={ATTEND: Pieces(axis, cut)}))
        parts = [divided.operator_by_name[f"{ATTEND}/{index}"].work for index in range(2)]
        assert [work.share for work in parts] == [1.0, 1.0]
        counted = [work.batch if axis == "batch" else work.heads for work in parts]
        assert counted == list(cut)
        other = [work.heads if axis == "batch" else work.batch for work in parts]
        assert other == [whole.heads if axis == "batch" else whole.batch] * 2


def test_an_append_is_the_new_tokens_alone() -> None:
    graph = decode(batch=4, context=64)
    divided = divide_graph(graph, plan(appends=(ATTEND,)))
    new = divided.tensors[f"{K}/new"].size_bytes
    assert new == 4 * 768 * 2
    assert new + divided.tensors[K].size_bytes == graph.tensors[K].size_bytes
    assert f"{K}/new" in divided.outputs
    options = WorkloadOptions(phase="prefill", batch=2, prompt=16)
    prompt = load_workload("opt-125m", options).phases[0].graph
    first = divide_graph(prompt, plan(appends=(ATTEND,)))
    assert first.tensors[K].size_bytes == 0
    assert K not in first.operator_by_name[ATTEND].inputs


def test_an_append_knows_windows_and_room_for_later() -> None:
    """Mistral keeps 4096 tokens of 6000; a generation's cache has room for tokens that are not there yet."""
    options = WorkloadOptions(phase="decode", batch=1, prompt=6000)
    graph = load_workload("mistral-7b", options).phases[0].graph
    windowed = divide_graph(graph, plan(appends=(ATTEND,))).tensors
    assert (windowed[K].size_bytes, windowed[f"{K}/new"].size_bytes) == (4095 * 2048, 2048)
    phases = load_workload("opt-125m", WorkloadOptions(batch=1, prompt=64, generate=10)).phases
    sizes = []
    for phase in phases[:3]:
        tensors = divide_graph(phase.graph, plan(appends=(ATTEND,))).tensors
        sizes.append((tensors[K].size_bytes // 1536, tensors[f"{K}/new"].size_bytes // 1536))
    assert sizes == [(0, 64), (64, 1), (65, 1)]


def test_rows_that_nobody_reads_cost_nothing() -> None:
    graph = decode()
    divided = divide_graph(graph, plan(divisions={UP: Division(0, (1, 2, 1), (True, False, True))}))
    before, after = (g.operator_by_name["layers.0.mlp.up"] for g in (graph, divided))
    assert after.inputs[1:3] == (f"{UP}/0", f"{UP}/2")
    assert before.read_bytes - after.read_bytes == graph.tensors[UP].size_bytes // 2
    assert after.flops == before.flops / 2
    assert after.work.n == before.work.n // 2
    assert divided.tensors[f"{UP}/1"].size_bytes == graph.tensors[UP].size_bytes // 2


def test_sparse_attention_keeps_its_share() -> None:
    graph = decode(context=1024)
    divided = divide_graph(graph, plan(sparsity={ATTEND: Sparsity(0.125, 0.5)}))
    before, after = (g.operator_by_name[ATTEND] for g in (graph, divided))
    assert after.flops == pytest.approx(before.flops * 0.1875)
    assert (after.work.kept, after.work.kept_groups) == (0.125, 0.5)
    # Only the cache is read in part: queries and the new token's keys and values come whole.
    caches = [before.inputs.index(name) for name in (K, V)]
    for index, (old, new) in enumerate(zip(before.reads, after.reads, strict=True)):
        assert new == (round(old * 0.1875) if index in caches else old)
    assert after.writes == before.writes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"divisions": {"nothing": Division(0, (1,), (True,))}}, "unknown tensor"),
        ({"divisions": {UP: Division(2, (1,), (True,))}}, "axis 2"),
        ({"pieces": {"layers.0.attention.atend": Pieces("batch", (1, 1))}}, "did you mean"),
        ({"pieces": {ATTEND: Pieces("batch", (1, 1))}}, "needs as many parts"),
        ({"appends": ("layers.0.mlp.up", "no")}, "unknown operator"),
        ({"appends": ("layers.0.mlp.up",)}, "nothing says what it adds"),
        ({"sparsity": {"layers.0.mlp.up": Sparsity(0.5)}}, "no decode attention"),
    ],
)
def test_what_does_not_fit_the_graph(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        divide_graph(decode(), plan(**fields))


def test_a_file_holds_what_was_written(tmp_path: Path) -> None:
    task = Transfer("t", "s", tensor="x", source="a", target="b", chunk_bytes=4096, readers=2)
    written = Plan(
        "g", "s", "m", (task,), {}, divisions={"x": Division(1, (1, 2), (True, False))},
        pieces={"o": Pieces("head", (3, 1))}, appends=("o",), sparsity={"o": Sparsity(0.125, 0.5)},
    )  # fmt: skip
    write_plan(written, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == written


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"counts": [\n    1,\n    2\n   ]', '"counts": [0, 2]', "divisions.x"),
        ('"read": [\n    true,\n    false\n   ]', '"read": [true]', "divisions.x"),
        ('"axis": "head"', '"axis": "token"', "pieces.o"),
        ('"kept": 0.125', '"kept": 2', "sparsity.o"),
        ('"chunk_bytes": 4096', '"chunk_bytes": -1', "chunk_bytes"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, old: str, new: str, message: str) -> None:
    test_a_file_holds_what_was_written(tmp_path)
    path = tmp_path / "plan.json"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_plan(path)
