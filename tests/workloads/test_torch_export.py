"""Questions to the reader of exported programmes: does one model say the same as a config, ONNX and torch.export?"""

import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from workloads.importers import load_workload
from workloads.torch_export.importer import IMPORTER
from workloads.torch_export.sizes import SizeError, size_of
from workloads.workload import WorkloadOptions

HERE = Path(__file__).parents[1] / "reference" / "exported"


def weights_of(graph):
    return sum(t.size_bytes for t in graph.tensors.values() if t.is_weight)


def products_of(graph):
    return sum(op.flops for op in graph.operators if op.kind in ("matmul", "attention"))


@pytest.mark.parametrize("prompt", [2, 64, 200])
def test_a_config_an_onnx_file_and_a_programme_are_one_model(prompt):
    options = WorkloadOptions(phase="decode", prompt=prompt, dtype="fp16", batch=2)
    config, onnx, programme = (
        load_workload(HERE / name, options) for name in ("config.json", "cached.onnx", "cached.pt2")
    )
    graphs = [workload.phases[0].graph for workload in (config, onnx, programme)]
    wanted = products_of(graphs[0])
    assert [products_of(graph) for graph in graphs] == [wanted] * 3
    assert [graph.flops for graph in graphs] == pytest.approx([graphs[0].flops] * 3, rel=0.07)
    assert [weights_of(graph) for graph in graphs] == pytest.approx([weights_of(graphs[0])] * 3, rel=0.003)
    held = [sum(t.size_bytes for t in graph.tensors.values() if t.is_cache) for graph in graphs]
    assert held == [2 * 2 * 2 * 2 * 32 * prompt * 2] * 3, (
        "layers, keys and values, heads, width, tokens, sequences"
    )
    assert {w.metadata["kv_bytes_per_token"] for w in (onnx, programme)} == {2 * 2 * 2 * 32 * 2}


def test_a_generation_is_a_prefill_and_steps_that_grow():
    workload = load_workload(HERE / "cached.pt2", WorkloadOptions(prompt=16, generate=3))
    assert [phase.kind for phase in workload.phases] == ["prefill", "decode", "decode", "decode"]
    attends = [[op.work for op in p.graph.operators if op.kind == "attention"] for p in workload.phases]
    assert [(works[0].q_len, works[0].kv_len, works[0].kv_heads) for works in attends] == [
        (16, 16, 2), (1, 17, 2), (1, 18, 2), (1, 19, 2),
    ]  # fmt: skip
    appended = [op.writes for op in workload.phases[1].graph.operators if op.updates]
    assert appended == [(2 * 32 * 4,)] * 4


def test_a_pass_has_the_sizes_of_its_example_or_those_asked_for():
    workload = load_workload(HERE / "plain.pt2")
    assert "input_ids.0=2, input_ids.1=8" in workload.notes[0]
    sized = load_workload(HERE / "plain.pt2", WorkloadOptions(dims={"input_ids.0": 4, "input_ids.1": 32}))
    ratio = products_of(sized.phases[0].graph) / products_of(workload.phases[0].graph)
    assert 8 < ratio < 9, "eight times the tokens, and more context"
    assert sized.notes == ()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"dims": {"input_ids.2": 4}}, "unknown dimension 'input_ids.2'"),
        ({"dims": {"input_ids.1": 1000}}, r"found input_ids.1=1000; expected 2 to 200"),
        ({"phase": "decode"}, "--phase: the programme holds one forward pass"),
        ({"batch": 3}, "--batch: the programme holds one forward pass"),
    ],
)
def test_what_a_pass_cannot_do_is_refused(options, expected):
    with pytest.raises(InputError, match=expected):
        load_workload(HERE / "plain.pt2", WorkloadOptions(**options))


def archive(tmp_path, text, name="m/models/model.json"):
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(name, text)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not of the form that torch.export writes"),
        ("[" * 100_000, "nested too deep|not of the form"),
        ("{}", "not of the form that torch.export writes"),
        ('{"graph_module": {"graph": {"nodes": 3}}}', "not of the form that torch.export writes"),
    ],
)
def test_what_is_no_programme_is_refused_in_a_line(tmp_path, text, expected):
    with pytest.raises(InputError, match=expected):
        IMPORTER.load(archive(tmp_path, text), WorkloadOptions())


def test_an_archive_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected one exported model in the archive; found none"):
        IMPORTER.load(archive(tmp_path, "{}", "other.json"), WorkloadOptions())


def renamed(tmp_path, whole, damaged):
    with zipfile.ZipFile(HERE / "cached.pt2") as archived:
        text = json.dumps(json.loads(archived.read(archived.namelist()[0])))
    assert whole in text
    return archive(tmp_path, text.replace(whole, damaged))


@pytest.mark.parametrize(
    ("whole", "damaged"),
    [
        ('"arg": {"as_tensor": {"name": "past_0"}}', '"arg": {"as_tensor": {"nome": "past_0"}}'),
        ('"past_0": {', '"past_9": {'),
    ],
)
def test_a_tensor_without_name_or_sizes_is_told(tmp_path, whole, damaged):
    with pytest.raises(InputError, match=r"not of the form that torch.export writes"):
        IMPORTER.load(renamed(tmp_path, whole, damaged), WorkloadOptions(prompt=8))


@pytest.mark.parametrize("name", ["weight", "key"])
def test_an_operator_whose_arguments_are_not_there_has_no_rule(tmp_path, name):
    path = renamed(tmp_path, f'"name": "{name}"', f'"name": "{name[:-1]}z"')
    assert IMPORTER.load(path, WorkloadOptions(prompt=8)).unsupported


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_no_damage_ends_in_anything_but_an_answer_or_an_input_error(tmp_path_factory, data):
    with zipfile.ZipFile(HERE / "cached.pt2") as whole:
        text = bytearray(whole.read(whole.namelist()[0]))
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(32, 126))
    path = archive(tmp_path_factory.mktemp("d"), bytes(text))
    try:
        IMPORTER.load(path, WorkloadOptions(prompt=8))
    except InputError:
        return


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_no_value_of_another_type_ends_in_anything_else(tmp_path_factory, data):
    """A key of the graph, anywhere, holds something that it should not."""
    with zipfile.ZipFile(HERE / "cached.pt2") as whole:
        document = json.loads(whole.read(whole.namelist()[0]))
    at = document
    for _ in range(data.draw(st.integers(1, 9))):
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(at[key], dict | list) or not at[key]:
            break
        parent, at = at, at[key]
        last = key
    else:
        parent[last] = data.draw(st.sampled_from([None, 3, "x", [], {}, -1, [1], {"as_int": -5}]))
    path = archive(tmp_path_factory.mktemp("d"), json.dumps(document))
    try:
        IMPORTER.load(path, WorkloadOptions(prompt=8))
    except InputError:
        return


def test_sizes_are_read_and_nothing_else():
    def value(text, **sizes):
        return size_of({"as_expr": {"expr_str": text}}, sizes)

    assert value("FloorDiv(Add(Symbol('a', integer=True), Integer(3)), Integer(2))", a=5) == 4
    assert value("Max(Integer(2), Mul(Symbol('a'), Symbol('b')))", a=3, b=4) == 12
    for text in ("__import__('os')", "Symbol('c')", "Add(Integer(1)", "Mod(Integer(1), Integer(0))",
                 "Pow(Integer(9), Integer(64))", "a + 1", "Add(" * 300 + "Integer(1)" + ")" * 300, ""):  # fmt: skip
        with pytest.raises(SizeError):
            value(text, a=1)
