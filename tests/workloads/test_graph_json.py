"""Questions to the interchange form: is it lossless, and does a wrong file say what is wrong and where?"""

import json
from pathlib import Path

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw_configs.problems import InputError
from workloads.dtypes import BITS
from workloads.graph import KINDS, Graph, Role, Tensor, check_graph, legacy_operator
from workloads.graph_json import IMPORTER, graph_from_json, graph_to_json, read_graph, write_graph
from workloads.importers import HEAD_BYTES
from workloads.workload import WorkloadOptions

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=8)
ATTRIBUTES = st.dictionaries(
    NAMES,
    st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.booleans(),
    max_size=3,
)
COUNTS = st.integers(0, 2**62)


@st.composite
def graphs(draw):
    """Random directed acyclic graphs: each operator reads persistent tensors, inputs and earlier outputs."""
    tensors: dict[str, Tensor] = {}

    def tensor(name, roles):
        shape = tuple(draw(st.lists(st.integers(0, 64), max_size=3)))
        size = draw(st.just(-1) | COUNTS)
        tensors[name] = Tensor(
            name, shape, draw(st.sampled_from(list(BITS))), draw(st.sampled_from(roles)), size
        )
        return name

    for index in range(draw(st.integers(1, 4))):
        tensor(f"held{index}", list(Role))
    operators = []
    for name in draw(st.lists(NAMES, unique=True, max_size=8)):
        inputs = draw(st.lists(st.sampled_from(list(tensors)), max_size=3))
        updates = draw(st.lists(st.sampled_from([t for t in tensors if t.startswith("held")]), max_size=1))
        made = [
            tensor(f"{name}/{i}", [Role.ACTIVATION, Role.GRADIENT]) for i in range(draw(st.integers(0, 2)))
        ]
        operators.append(
            legacy_operator(
                name, draw(st.sampled_from(list(KINDS))), tuple(inputs), tuple(made),
                draw(st.floats(0, 1e18)), draw(COUNTS), draw(COUNTS), draw(st.sampled_from(list(BITS))),
                tuple(updates), draw(ATTRIBUTES),
            )
        )  # fmt: skip
    outputs = tuple(draw(st.lists(st.sampled_from(list(tensors)), unique=True, max_size=2)))
    return Graph(draw(NAMES), tensors, tuple(operators), outputs, draw(st.text(max_size=4)), draw(ATTRIBUTES))


@given(graphs())
def test_writing_and_reading_changes_nothing(graph):
    text = graph_to_json(graph)
    back = graph_from_json(text)
    assert (back.name, back.structure, back.outputs) == (graph.name, graph.structure, graph.outputs)
    assert list(back.tensors.values()) == list(graph.tensors.values())
    assert back.operators == graph.operators
    assert dict(back.metadata) == dict(graph.metadata)
    assert graph_to_json(back) == text


@given(graphs(), st.randoms(use_true_random=False))
def test_operators_in_any_order_come_back_in_a_valid_one(graph, random):
    shuffled = list(graph.operators)
    random.shuffle(shuffled)
    back = check_graph(Graph(graph.name, graph.tensors, tuple(shuffled), graph.outputs))
    assert sorted(op.name for op in back.operators) == sorted(op.name for op in graph.operators)
    position = {op.name: index for index, op in enumerate(back.operators)}
    for op in back.operators:
        for tensor in (*op.inputs, *op.updates):
            if tensor in graph.producer:
                assert position[graph.producer[tensor]] < position[op.name]
    assert networkx.is_directed_acyclic_graph(back.digraph())


def test_a_written_file_reads_back_and_leaves_no_temporary(tmp_path):
    graph = Graph(
        "two", {"x": Tensor("x", (2, 3), "fp16"), "y": Tensor("y", (6,), "fp32")},
        (legacy_operator("copy", "copy", ("x",), ("y",), 0.0, 12, 24),), ("y",),
    )  # fmt: skip
    write_graph(graph, tmp_path / "two.json")
    assert [path.name for path in tmp_path.iterdir()] == ["two.json"]
    assert read_graph(tmp_path / "two.json") == graph
    workload = load(tmp_path / "two.json")
    assert [phase.kind for phase in workload.phases] == ["forward"]
    assert workload.unsupported == ()


def load(path: Path, **options):
    assert IMPORTER.recognises(path, path.read_bytes()[:HEAD_BYTES])
    return IMPORTER.load(path, WorkloadOptions(**options))


def hand_written(**changes):
    graph = {
        "format": "offchip-graph-1",
        "name": "hand",
        "tensors": [
            {"name": "x", "shape": [4, 8], "dtype": "fp16"},
            {"name": "w", "shape": [8, 16], "dtype": "int8", "role": "weight"},
            {"name": "y", "shape": [4, 16], "dtype": "fp16"},
        ],
        "operators": [
            {"name": "mm", "kind": "matmul", "inputs": ["x", "w"], "outputs": ["y"], "flops": 1024}
        ],
    }
    return graph | changes


def test_what_a_file_leaves_out_follows_from_its_tensors():
    graph = graph_from_json(json.dumps(hand_written()))
    assert graph.operators[0].read_bytes == 4 * 8 * 2 + 8 * 16
    assert graph.operators[0].write_bytes == 4 * 16 * 2
    assert graph.outputs == ("y",)
    assert graph.parameters() == 128


def problems_of(text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        graph_from_json(text, "g.json")
    return [str(problem) for problem in caught.value.problems]


def test_all_problems_come_at_once_each_with_its_line():
    text = """{"format": "offchip-graph-1", "name": "bad", "nmae": "x",
 "tensors": [
  {"name": "x", "shape": [4, -8], "dtype": "fp16"},
  {"name": "y", "shape": [4], "dtype": "float16", "role": "wieght"},
  {"name": "x", "shape": [4], "dtype": "fp16"}
 ],
 "operators": [
  {"name": "mm", "kind": "matmull", "inputs": ["x"], "outputs": ["z"], "flops": -1},
  {"name": "no", "kind": "copy", "inputs": "x"}
 ]}"""
    found = problems_of(text)
    expected = [
        "g.json:1: nmae: unknown key 'nmae'; known: format, name, structure, metadata, "
        "tensors, operators, outputs (did you mean 'name'?)",
        "g.json:3: tensors[0].shape[1]: found -8; expected a whole number from 0 to 9223372036854775807",
        'g.json:4: tensors[1].dtype: unknown element type "float16"; known: ' + ", ".join(BITS),
        'g.json:4: tensors[1].role: unknown role "wieght"; known: weight, activation, kv_cache, gradient, '
        "optimizer_state (did you mean 'weight'?)",
        "g.json:5: tensors[2].name: two tensors have the name 'x'",
        "g.json:8: operators[0].kind: unknown operator kind \"matmull\" (did you mean 'matmul'?)",
        "g.json:8: operators[0].outputs[0]: unknown tensor 'z'",
        "g.json:8: operators[0].flops: found -1; expected a finite number of at least 0",
        "g.json:9: operators[1]: missing key 'outputs'",
        'g.json:9: operators[1].inputs: found "x"; expected a list of tensor names',
    ]
    assert found == expected


def test_a_cycle_is_spelt_out():
    graph = hand_written(
        tensors=[{"name": n, "shape": [1], "dtype": "fp16"} for n in "ab"],
        operators=[
            {"name": "one", "kind": "copy", "inputs": ["b"], "outputs": ["a"]},
            {"name": "two", "kind": "copy", "inputs": ["a"], "outputs": ["b"]},
        ],
    )
    assert problems_of(json.dumps(graph, indent=1)) == [
        "g.json:20: one: the graph has a cycle: one -> two -> one"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "g.json:1: the file is empty"),
        ('{"format": ', "g.json:1: not valid JSON: Expecting value"),
        ('{"name": "a",\n "name": "b"}', "g.json:2: name: duplicate key 'name'; the first stands on line 1"),
        ('{"flops": NaN}', "g.json: not valid JSON: NaN is not JSON"),
        ("[" * 200_000, "g.json: not a config: nested too deeply"),
    ],
)
def test_text_that_is_no_plain_json_is_refused_in_one_line(text, expected):
    assert problems_of(text) == [expected]


def test_two_producers_and_an_update_of_a_weight_by_output_are_refused():
    op = {"kind": "copy", "inputs": ["x"]}
    graph = hand_written(
        operators=[
            {"name": "a", "outputs": ["y"]} | op,
            {"name": "b", "outputs": ["y"]} | op,
            {"name": "c", "outputs": ["w"]} | op,
        ]
    )
    found = problems_of(json.dumps(graph))
    assert found == [
        "g.json:1: b: tensor 'y' is already made by 'a'",
        "g.json:1: c: makes 'w', a weight; list it under updates instead",
    ]


def test_a_file_with_endless_mistakes_reports_the_first_fifty():
    rows = [{"name": f"t{i}", "shape": [-1], "dtype": "fp16"} for i in range(1000)]
    found = problems_of(json.dumps(hand_written(tensors=rows)))
    assert len(found) == 51
    assert found[-1] == "g.json: and there may be more; these come first"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"batch": 2}, "--batch: the file holds a finished graph; leave this option out"),
        ({"dtype": "fp8"}, "--dtype: the file holds a finished graph; leave this option out"),
        ({"dims": {"n": 2}}, "--dim: the file has no symbolic dimensions"),
        ({"phase": "decode"}, "--phase: the file holds a forward graph, not decode"),
    ],
)
def test_options_that_cannot_apply_are_refused(tmp_path, options, expected):
    path = tmp_path / "g.json"
    path.write_text(json.dumps(hand_written()))
    with pytest.raises(InputError) as caught:
        load(path, **options)
    assert str(caught.value) == f"{path}: {expected}"


SCRATCHPAD = {
    "format": "dnn-scratchpad-graph-1",
    "name": "pair",
    "M_R_bytes": 300,
    "ops": [
        {"name": "load_x", "kind": "input", "inputs": [], "outputs": ["x"], "workspace_bytes": 0},
        {"name": "c", "kind": "conv", "inputs": ["x"], "outputs": ["c:0"], "workspace_bytes": 50},
    ],
    "tensors": [
        {"name": "x", "bytes": 100, "producer": "load_x", "consumers": ["c"], "graph_input": True},
        {"name": "c:0", "bytes": 200, "producer": "c", "consumers": [], "graph_output": True},
    ],
    "budgets": [],
}


def test_a_scratchpad_instance_is_read_with_its_sizes_and_wiring(tmp_path):
    path = tmp_path / "pair.json"
    path.write_text(json.dumps(SCRATCHPAD))
    workload = load(path)
    graph = workload.phases[0].graph
    assert {t.name: t.size_bytes for t in graph.tensors.values()} == {"x": 100, "c:0": 200}
    assert [(op.name, op.kind, op.read_bytes, op.write_bytes) for op in graph.operators] == [
        ("load_x", "copy", 100, 100),
        ("c", "custom", 150, 200),
    ]
    assert graph.operators[1].attributes == {"source_type": "conv", "workspace_bytes": 50}
    assert graph.outputs == ("c:0",)
    assert workload.unsupported == (
        "conv: 1 of 2 operators (50.0%), 63.6% of the bytes; counted by its bytes, no FLOPs",
    )
    assert graph_from_json(graph_to_json(graph)) == graph
