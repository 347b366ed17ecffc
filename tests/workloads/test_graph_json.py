"""Questions to the interchange form: is it lossless, and does a wrong file say what is wrong and where?"""

import json
import math
from pathlib import Path

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw_configs.problems import InputError
from workloads.dtypes import BITS
from workloads.graph import Graph, Operator, Place, Role, Tensor, check_graph, make_operator
from workloads.graph_json import IMPORTER, graph_from_json, graph_to_json, read_graph, write_graph
from workloads.importers import HEAD_BYTES, load_workload
from workloads.operators import KINDS, Copy, Custom, Elementwise, Product, fields_of
from workloads.operators.traffic import traffic
from workloads.workload import WorkloadOptions

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=8)
ATTRIBUTES = st.dictionaries(
    NAMES,
    st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.booleans(),
    max_size=3,
)
COUNTS = st.integers(0, 2**62)


@st.composite
def amounts(draw, tensors, names, rule):
    """Bytes of each operand: the rule's, or any that the tensor has; of one named twice at its first mention."""
    found, seen = [], set()
    for name, amount in zip(names, rule, strict=True):
        part = draw(st.just(amount) | st.integers(0, tensors[name].size_bytes))
        found.append(0 if name in seen else part)
        seen.add(name)
    return tuple(found)


@st.composite
def operators_over(draw, name, tensors, inputs, outputs, updates):
    """An operator whose fields fit its tensors: pointwise work over its output, or work without a rule."""
    shape = tensors[outputs[0]].shape if outputs else ()
    columns = shape[-1] if shape else 1
    rows = math.prod(shape) // columns if columns else 0
    figure = draw(st.floats(0, 1e18))
    work = Custom(extra_flops=figure)
    if outputs and draw(st.booleans()):
        work = Elementwise(
            m=rows, n=columns, flops_per_element=draw(st.floats(0, 1e6)), function=draw(st.text())
        )
    parts = [[tensors[n] for n in names] for names in (inputs, outputs, updates)]
    rule = traffic(work, *parts)
    place = Place(
        draw(st.none() | st.integers(-1, 99)), draw(st.sampled_from(["", "forward", "recompute", "optimizer"])),
        draw(st.none() | st.integers(0, 9)), draw(st.text(max_size=4)),
    )  # fmt: skip
    return Operator(
        name, work, inputs, outputs, updates, draw(st.sampled_from(list(BITS))),
        draw(amounts(tensors, (*inputs, *updates), rule.reads)),
        draw(amounts(tensors, (*outputs, *updates), rule.writes)),
        draw(COUNTS), draw(COUNTS), place, draw(st.sampled_from(["", "cold", "hot", "previous"])),
        draw(st.integers(0, 2**40)), draw(st.none() | st.floats(0, 1e6)), draw(st.text(max_size=4)),
    )  # fmt: skip


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
        operators.append(draw(operators_over(name, tensors, tuple(inputs), tuple(made), tuple(updates))))
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
        (Operator("copy", Copy(m=1, n=6), ("x",), ("y",), reads=(12,), writes=(24,)),), ("y",),
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
            {
                "name": "mm",
                "kind": "matmul",
                "inputs": ["x", "w"],
                "outputs": ["y"],
                "flops": 1024,
                "attributes": {"m": 4, "n": 16, "k": 8},
            }
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
        'g.json:8: operators[0].kind: unknown operator kind "matmull"; known: '
        + ", ".join(KINDS)
        + " (did you mean 'matmul'?)",
        "g.json:8: operators[0].outputs[0]: unknown tensor 'z'",
        "g.json:8: operators[0].flops: found -1; expected a number from 0 to 1e+30",
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
    assert (graph.operators[1].source, graph.operators[1].workspace_bytes) == ("conv", 50)
    assert (graph.operators[1].work, graph.operators[1].beside_read) == (Custom(), 50)
    assert graph.outputs == ("c:0",)
    assert workload.unsupported == (
        "conv: 1 of 2 operators (50.0%), 63.6% of the bytes; counted by its bytes, no FLOPs",
    )
    assert graph_from_json(graph_to_json(graph)) == graph


# --- fields, and what they say of tensors ------------------------------------------------------------------


def with_operator(**changes):
    graph = hand_written()
    (row,) = graph["operators"]
    row |= changes
    return json.dumps(graph)


def with_fields(**changes):
    fields = hand_written()["operators"][0]["attributes"] | changes
    return with_operator(attributes={key: value for key, value in fields.items() if value is not None})


WHOLE = "expected a whole number"
RANGE = "expected 0 to 1e+18 rows"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"m": "abc"}, "m: found 'abc'; " + WHOLE),
        ({"m": True}, "m: found True; " + WHOLE),
        ({"m": 4.5}, "m: found 4.5; " + WHOLE),
        ({"m": 1e308}, "m: found 1e+308; " + WHOLE),
        ({"m": -4}, "m: found -4; " + RANGE),
        ({"m": 10**90}, "m: found a number of more than 19 digits; " + RANGE),
        ({"m": 0}, "m: found 0; expected 4: m x n has to be the 64 elements of 'y' of shape [4, 16]"),
        ({"m": 8_000_000}, "m: found 8000000; expected 4: m x n has to be the 64 elements of 'y' of shape [4, 16]"),
        ({"n": 8}, "n: found 8; expected 16: m x n has to be the 64 elements of 'y' of shape [4, 16]"),
        ({"k": 80}, "k: found 80; expected 8: n x k has to be the 128 elements of 'w' of shape [8, 16]"),
        ({"weight_dtype": "int4"}, "weight_dtype: found 'int4'; the tensors are stored as int8 ('w')"),
        ({"weight_dtype": "int9"}, "weight_dtype: unknown element type 'int9' (did you mean 'int8'?)"),
        ({"rate": 0}, "rate: found 0; expected 1 to 1e+18 times"),
        ({"layer": -2}, "layer: found -2; expected -1 to 1e+18"),
        ({"pass": "backwards"}, "pass: found 'backwards'; expected one of forward, backward, recompute, optimizer"
         " (did you mean 'backward'?)"),
        ({"residency": "warm"}, "residency: found 'warm'; expected one of cold, hot, previous"),
        ({"layre": 3}, None),
        ({"k": None}, None),
    ],
)  # fmt: skip
def test_a_wrong_field_is_one_line_with_its_name(changes, expected):
    (found,) = problems_of(with_fields(**changes))
    if "layre" in changes:
        assert found.startswith(
            "g.json:1: operators[0].attributes.layre: a matmul has no field 'layre'; it has m, n, "
        )
    elif expected is None:
        assert found.startswith("g.json:1: operators[0].attributes: missing field 'k' (length of the sums)")
    else:
        assert found == f"g.json:1: operators[0].attributes.{expected}"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"flops": 1025}, "flops: found 1025; the fields of the matmul give 1024"),
        ({"flops": 10**90}, None),
        ({"read_bytes": 12}, "read_bytes: found 12; expected 192 to 192 B, as its fields and tensors have it; "
         "state operands that move in part under 'reads'"),
        ({"read_bytes": 500}, "read_bytes: found 500; expected 192 to 192 B, as its fields and tensors have it; "
         "state operands that move in part under 'reads'"),
        ({"write_bytes": 0}, "write_bytes: found 0; expected 128 to 128 B, as its fields and tensors have it; "
         "state operands that move in part under 'writes'"),
        ({"reads": {"w": 129}}, "reads.w: found 129; expected at most the 128 B of 'w'"),
        ({"reads": {"v": 1}}, "reads.v: no operand 'v' of this operator; they are x, w"),
        ({"reads": {"w": -1}}, "reads.w: found -1; expected a whole number from 0 to 9223372036854775807"),
        ({"reads": [1]}, "reads: found [1]; expected an object of bytes by tensor"),
        ({"reads": {"w": 100}, "read_bytes": 192}, "read_bytes: found 192; its operands and what is beside them "
         "give 164"),
        ({"attributes": []}, "attributes: found []; expected an object"),
    ],
)  # fmt: skip
def test_totals_that_disagree_with_fields_and_tensors_are_refused(changes, expected):
    (found,) = problems_of(with_operator(**changes))
    if expected is None:
        assert found.startswith("g.json:1: operators[0].flops: found 1000000")
        assert found.endswith("expected a number from 0 to 1e+30")
    else:
        assert found == f"g.json:1: operators[0].{expected}"


def test_operands_in_part_and_bytes_beside_them_are_read():
    text = with_operator(reads={"w": 100}, writes={"y": 5}, beside_read=7, beside_written=9)
    (op,) = graph_from_json(text).operators
    assert (op.reads, op.writes, op.beside_read, op.beside_written) == ((64, 100), (5,), 7, 9)
    assert (op.read_bytes, op.write_bytes) == (171, 14)


def test_a_tensor_named_twice_is_read_once():
    tensors = {"x": Tensor("x", (2, 2), "fp16"), "y": Tensor("y", (2, 2), "fp16")}
    square = make_operator("square", Elementwise(m=2, n=2, function="multiply"), ("x", "x"), ("y",), tensors)
    assert (square.reads, square.read_bytes) == ((8, 0), 8)
    graph = Graph("g", tensors, (square,), ("y",))
    assert graph_from_json(graph_to_json(graph)) == graph


def test_what_older_files_count_in_their_flops_finds_its_field():
    """Bias beside a product, operations per element, tokens of a recurrence, an attention's backward pass."""
    tensors = [{"name": n, "shape": [4, 16], "dtype": "fp16"} for n in ("y", "z", "r", "g")]
    tensors += hand_written()["tensors"][:2]
    sizes = {"batch": 1, "heads": 2, "kv_heads": 2, "head_dim": 8, "q_len": 4, "kv_len": 4, "window": 0}
    rows = [
        ("p", "matmul", ["x", "w"], "y", 1024 + 64, {"m": 4, "n": 16, "k": 8, "layer": 3, "tp": "column"}),
        ("e", "activation", ["y"], "z", 256, {"m": 4, "n": 16, "source_type": "Relu", "runtime_us": 5}),
        ("r", "recurrent", ["z"], "r", 4000, {"batch": 1, "sequence": 4, "hidden": 16, "directions": 2}),
        ("b", "attention", ["r"], "g", 2.5 * 4 * 2 * 4 * 4 * 8, sizes | {"pass": "backward"}),
    ]
    operators = [
        {
            "name": name,
            "kind": kind,
            "inputs": inputs,
            "outputs": [out],
            "flops": flops,
            "attributes": attributes,
        }
        for name, kind, inputs, out, flops, attributes in rows
    ]
    graph = graph_from_json(json.dumps(hand_written(tensors=tensors, operators=operators)))
    product, relu, cell, attend = graph.operators
    assert product.work == Product(m=4, n=16, k=8, extra_flops=64.0)
    assert product.place == Place(layer=3, axis="column")
    assert (relu.work.flops_per_element, relu.source, relu.measured_s) == (4.0, "Relu", 5e-6)
    assert cell.work.flops_per_token == 500.0
    assert (attend.work.share, attend.place.training_pass) == (2.5, "backward")
    assert graph_from_json(graph_to_json(graph)) == graph


def test_a_saved_trace_of_no_tensors_reads_back(tmp_path):
    from workloads.recorded.chakra_file import TraceNode, trace_bytes

    nodes = [
        TraceNode(0, "load", "memory_load", attributes={"tensor_size": 4096}),
        TraceNode(1, "gemm", "compute", (), (0,), 37, 0, {"num_ops": 2_000_000, "tensor_size": 8192}),
        TraceNode(2, "sum", "collective", (), (1,), 0, 0, {"comm_type": 0, "comm_size": 1024}),
        TraceNode(3, "add", "compute", (), (2, 0), 0, 0, {"num_ops": 10, "tensor_size": 20}),
    ]
    path = tmp_path / "rank.et"
    path.write_bytes(trace_bytes(nodes))
    graph = load_workload(path, WorkloadOptions(ranks=2)).phases[0].graph
    assert graph_from_json(graph_to_json(graph)) == graph


LANGUAGE = [{"phase": "prefill"}, {"phase": "decode", "fused": False}, {"phase": "train"}]
MODELS = [
    *((model, options) for model in ("gpt2", "deepseek-v2-lite", "mixtral-8x7b") for options in LANGUAGE),
    *(
        (model, options)
        for model in ("resnet-18", "unet", "vit-b-16")
        for options in ({}, {"phase": "train"})
    ),
]


@pytest.mark.parametrize(("model", "options"), MODELS)
def test_built_in_models_come_back_as_they_were(model, options):
    graph = load_workload(model, WorkloadOptions(prompt=24, **options)).phases[0].graph
    assert graph_from_json(graph_to_json(graph)) == graph


# --- every kind --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_field_of_every_kind_refuses_what_it_cannot_be(kind):
    known = fields_of(KINDS[kind])
    needed = {name: 1 for name, info in known.items() if info.required}
    for name, info in known.items():
        wrong = ["a b"] if info.type is not str else [7]
        wrong += [10**90, -(10**90)] if info.type in (int, float) else []
        wrong += [1.5] if info.type is int else []
        for value in wrong:
            row = {
                "name": "o", "kind": kind, "inputs": [], "outputs": [], "attributes": needed | {name: value}
            }  # fmt: skip
            (found,) = problems_of(json.dumps(hand_written(operators=[row])))
            assert found.startswith(f"g.json:1: operators[0].attributes.{name}: found "), (name, value)


def test_a_total_below_the_rule_is_shared_out_where_a_slice_is_legal_and_refused_below_it():
    """A rotary embedding of part of a projection, and a decode step that writes one token of its caches."""
    tensors = [
        {"name": "qkv", "shape": [2, 100], "dtype": "fp16"},
        {"name": "r", "shape": [2, 60], "dtype": "fp16"},
        *({"name": n, "shape": [2, 1, 10, 30], "dtype": "fp16", "role": "kv_cache"} for n in ("k", "v")),
        {"name": "o", "shape": [2, 30], "dtype": "fp16"},
    ]
    sizes = {"batch": 2, "heads": 1, "kv_heads": 1, "head_dim": 30, "q_len": 1, "kv_len": 10, "causal": True}
    rotary = {
        "name": "rot",
        "kind": "rotary",
        "inputs": ["qkv"],
        "outputs": ["r"],
        "attributes": {"m": 2, "n": 60},
    }
    attend = {
        "name": "att", "kind": "attention", "inputs": ["r", "k", "v"], "outputs": ["o"], "updates": ["k", "v"],
        "attributes": sizes, "write_bytes": 2 * 60 + 240,
    }  # fmt: skip

    def graph(read_bytes):
        return json.dumps(
            hand_written(tensors=tensors, operators=[rotary | {"read_bytes": read_bytes}, attend])
        )

    first, second = graph_from_json(graph(300)).operators
    assert first.reads == (300,)
    assert second.writes == (120, 120, 120), "an equal part of each cache beside the whole result"
    assert second.reads == (240, 1080, 1080, 0, 0), "nine of ten tokens; the tenth is an operand"
    (found,) = problems_of(graph(200))
    assert found.startswith("g.json:1: operators[0].read_bytes: found 200; expected 240 to 400 B")
