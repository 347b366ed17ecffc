"""Spaces in parts: every mistake word for word, strategies and stages, expressions, paths into machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hw_configs.problems import InputError
from offchip.sweep.expression import ExpressionError, any_quantity, parse_expression
from offchip.sweep.figures import figure_names
from offchip.sweep.machine import REMEMBERED, Machines, is_config
from offchip.sweep.points import count_points, points_of
from offchip.sweep.space import Stage, Strategy
from offchip.sweep.space_file import _share, load_space, space_from_text
from offchip.sweep.store import JsonObject, Row, open_store
from tests.sweep.spaces import space_file, space_of

HEAD = "model: resnet-50\nhw: a100-80gb\n"
LISTED = HEAD + "vary: {batch: [1, 2]}\n"
TREE = "model: resnet-50\nhw: dgx-a100\n"


def problems(folder: Path, text: str) -> list[tuple[str, str | None, str | None]]:
    """Message, path and suggestion of every problem of a text."""
    with pytest.raises(InputError) as error:
        load_space(space_file(folder, text))
    return [(p.message, p.path, p.suggestion) for p in error.value.problems]


@pytest.mark.parametrize(
    ("text", "message", "path", "near"),
    [
        ("hw: a100-80gb\nvary: {batch: [1]}", "missing key 'model': a built-in name or a file", "model", None),
        ("model: resnet-50\nvary: {batch: [1]}", "missing key 'hw': a system or device, by name or file", "hw", None),
        (HEAD + "vary: {batch: 3}", "found 3; expected a list of values, or range, log or sample", "vary.batch", None),
        (HEAD + "vary: {n: {free: whole, path: batch, values: [1]}}",
         "has 'path' and 'free'; one of them holds", "vary.n", None),
        (HEAD + "vary: {batch: {free: whole, values: [1]}}",
         "a free parameter's name is a word of its own: letters, digits and '_'", "vary.batch", None),
        (HEAD + "vary: {model: {free: text, values: [a]}}",
         "a free parameter's name is a word of its own: letters, digits and '_'", "vary.model", None),
        (HEAD + "vary: {a.b: {free: whole, values: [1]}}",
         "a free parameter's name is a word of its own: letters, digits and '_'", "vary.a.b", None),
        (HEAD + "vary: {batch: [1], n: {path: batch, values: [2]}}", "sets 'batch', as 'batch' does", "vary.n", None),
        (HEAD + "vary: {phase: [decde]}", "found 'decde'; known: prefill, decode, train", "vary.phase", "decode"),
        (LISTED + "options: {phase: trai}", "found 'trai'; known: prefill, decode, train", "options.phase", "train"),
        (LISTED + "options: {batch: x}",
         "found 'x'; input should be a valid integer", "options.batch", None),
        (LISTED + "options: {batch: '3'}", "found '3'; input should be a valid integer", "options.batch", None),
        (LISTED + "define: {makespan_s: batch}",
         "is a figure or parameter already; choose another name", "define.makespan_s", None),
        (LISTED + "define: {batch: 2}", "is a figure or parameter already; choose another name", "define.batch", None),
        (LISTED + "define: {x: bach}", "unknown name 'bach'", "define.x", "batch"),
        (LISTED + "constraints: [time.x.y < 1]", "unknown name 'time.x.y'", "constraints.0", None),
        (LISTED + "constraints: [memory.x < 1]", "unknown name 'memory.x'", "constraints.0", None),
        (LISTED + "constraints: [batch < 3, true]", "found True; expected an expression", "constraints.1", None),
        (LISTED + "strategy: gird", "unknown strategy 'gird'; known: grid, lhs, sobol, random, optuna",
         "strategy", "grid"),
        (LISTED + "strategy: {kind: grid, points: 3}",
         "a grid has the points its values make; 'points' is for samples", "strategy", None),
        (LISTED + "strategy: {kind: sobol}", "sobol needs 'points', the number of points to draw", "strategy", None),
        (LISTED + "strategy: {kind: optuna, points: 3}", "a search needs objectives", "strategy", None),
        (HEAD + "vary: {gpu.power.idle: {range: [1 W, 2 W]}}", "a grid needs 'count' or 'step' for 'range'",
         "vary.gpu.power.idle", None),
        (HEAD + "vary: {gpu.power.idle: {log: [1 W, 2 W]}}", "a grid needs 'count' or 'step' for 'log'",
         "vary.gpu.power.idle", None),
        (HEAD + "vary: {gpu.power.idle: {sample: {uniform: {low: 1 W, high: 2 W}}}}",
         "a grid needs 'count' or 'step' for 'uniform'", "vary.gpu.power.idle", None),
        (LISTED + "fidelity: []", "the list is empty; expected analytic, event, cycle", "fidelity", None),
        (LISTED + "fidelity: evnt", "found 'evnt'; known: analytic, event, cycle", "fidelity", "event"),
        (LISTED + "fidelity: [analytic, evnt]\nobjectives: {makespan_s: minimise}",
         "found 'evnt'; known: analytic, event, cycle", "fidelity.1", "event"),
        (LISTED + "fidelity: [3]", "found 3; expected a fidelity", "fidelity.0", None),
        (LISTED + "fidelity: [{fidelity: event, promote: 50%}]",
         "the first fidelity has nothing to promote from", "fidelity", None),
        (LISTED + "fidelity: [analytic, event]", "promotion needs objectives, which say what is best",
         "fidelity", None),
        (LISTED + "fidelity: [analytic, {fidelity: event, share: 1}]\nobjectives: {makespan_s: minimise}",
         "unknown key 'share'; known: fidelity, promote", "fidelity.1", None),
        (LISTED + "fidelity: [analytic, {fidelity: evnt}]\nobjectives: {makespan_s: minimise}",
         "found {'fidelity': 'evnt'}; expected fidelity (analytic, event, cycle) and promote (0 to 1, or '10%')",
         "fidelity.1", None),
        (LISTED + "fidelity: [analytic, {fidelity: event, promote: many}]\nobjectives: {makespan_s: minimise}",
         "found {'fidelity': 'event', 'promote': 'many'}; expected fidelity (analytic, event, cycle) and promote "
         "(0 to 1, or '10%')", "fidelity.1", None),
        (LISTED + "define: {x: batch, x2: y}", "unknown name 'y'", "define.x2", None),
        (LISTED + "derived: {prompt: bach}", "unknown name 'bach'", "derived.prompt", "batch"),
        (HEAD + "vary: {batch: {values: [1], when: prompt > n}, n: {free: whole, values: [1]}}",
         "unknown name 'n'", "vary.batch.when", None),
        (TREE + "vary: {gpu.use: [a100-80gb, b200], gpu.l2.sise: [1 MB]}", None, "vary.gpu.l2.sise", "size"),
        (TREE + "vary: {gqu.count: [1]}", None, "vary.gqu.count", "gpu"),
        (TREE + "vary: {links.pci.generation: [4]}", None, "vary.links.pci.generation", "pcie"),
        (TREE + "vary: {gpu.memory: [4]}", None, "vary.gpu.memory", None),
        (TREE + "vary: {ssd.count: [0]}", "found 0; input should be greater than or equal to 1",
         "vary.ssd.count", None),
        (TREE + "vary: {gpu.use: [h100-sxn]}", None, "vary.gpu.use", "h100-sxm"),
    ],
)  # fmt: skip
def test_mistakes_word_for_word(
    tmp_path: Path, text: str, message: str | None, path: str, near: str | None
) -> None:
    ((found, where, suggestion),) = problems(tmp_path, text + "\n")
    assert (where, suggestion) == (path, near)
    assert message is None or found == message


def test_a_mistake_inside_a_key_hides_none_in_another(tmp_path: Path) -> None:
    text = HEAD + "vary: {batch: [x]}\nobjectives: {makespan_s: least}\n"
    assert [path for _, path, _ in problems(tmp_path, text)] == ["vary.batch", "objectives.makespan_s"]


def test_a_space_says_what_its_file_says(tmp_path: Path) -> None:
    text = TREE + (
        "name: all\nseed: 7\ntime_limit: 2 min\noptions: {phase: train, dims.n: 2, settings.device: gpu0}\n"
        "vary:\n  batch: {range: [1, 3]}\n  n: {free: whole, values: [1, 2], when: batch > 1}\n"
        "  ssd.count: [4]\nderived: {prompt: 2 * batch}\ndefine: {twice: 2 * makespan_s}\n"
        "constraints: [batch < 9, makespan_s < 5, link.x.bytes < 3, prompt < 9]\n"
        "objectives: {twice: minimize, energy_j: maximise, tokens: maximize, makespan_s: minimise}\n"
        "fidelity: [analytic, {fidelity: event, promote: 25%}, {fidelity: cycle}]\n"
        "strategy: {kind: lhs, points: 12}\n"
    )
    space = space_of(tmp_path, text)
    assert (space.name, space.seed, space.time_limit, space.text) == ("all", 7, 120.0, text)
    assert space.base == {
        "model": "resnet-50",
        "hw": "dgx-a100",
        "phase": "train",
        "dims.n": 2,
        "settings.device": "gpu0",
    }
    assert [(a.name, a.leaf.path, a.grid, a.when and a.when.text) for a in space.axes] == [
        ("batch", "batch", (1, 2, 3), None), ("n", "", (1, 2), "batch > 1"), ("ssd.count", "ssd.count", (4,), None),
    ]  # fmt: skip
    assert [(path, e.text, leaf.whole) for path, e, leaf in space.derived] == [("prompt", "2 * batch", True)]
    assert [(name, e.text) for name, e in space.define] == [("twice", "2 * makespan_s")]
    assert [e.text for e in space.before] == ["batch < 9", "prompt < 9"]
    assert [e.text for e in space.after] == ["makespan_s < 5", "link.x.bytes < 3"]
    assert [(o.name, o.sign, o.direction) for o in space.objectives] == [
        ("twice", 1, "minimise"), ("energy_j", -1, "maximise"), ("tokens", -1, "maximise"),
        ("makespan_s", 1, "minimise"),
    ]  # fmt: skip
    assert space.stages == (
        Stage(fidelity="analytic"),
        Stage(fidelity="event", promote=0.25),
        Stage(fidelity="cycle"),
    )
    assert space.strategy == Strategy(kind="lhs", points=12)
    assert (count_points(space), len(list(points_of(space)))) == (12, 5), "equal points are merged"
    assert space_from_text(text, space.file).digest == space.digest
    assert space_of(tmp_path, text.replace("2 min", "3 min")).digest == space.digest
    assert space_of(tmp_path, text.replace("seed: 7", "seed: 8")).digest != space.digest
    bare = space_of(tmp_path / "bare", LISTED)
    assert (bare.name, bare.time_limit, bare.seed, bare.strategy, bare.objectives) == (
        "space", 60.0, 0, Strategy(kind="grid"), (),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "share"), [("40%", 0.4), ("100 %", 1.0), ("0.25", 0.25), (0.5, 0.5), (1, 1.0)]
)
def test_shares(given: Any, share: float) -> None:
    assert _share(given) == pytest.approx(share)


def test_members_that_only_some_machines_have_may_be_named(tmp_path: Path) -> None:
    """The figures of a drive that is there at one count and not at the other have no value where it is not."""
    names = ("memory.ssd7.peak_bytes", "link.pcie_ssd7_plx3.bytes", "energy.ssd7_memory_j", "time.link_s")
    text = TREE + "vary: {ssd.count: [4, 8]}\nconstraints:\n" + "".join(f"  - {name} < 1\n" for name in names)
    assert [sorted(e.names) for e in space_of(tmp_path, text).after] == [[name] for name in names]


def test_no_share() -> None:
    for given in ("half", "%", "4 0%"):
        with pytest.raises(ValueError, match=f"found '{given}'; expected a share"):
            _share(given)


def test_settings_of_a_point(tmp_path: Path) -> None:
    text = HEAD + (
        "vary:\n  batch: [1, 2]\n  n: {free: number, values: [1.5, 4.0]}\n  prompt: {values: [8], when: batch > 1}\n"
        "derived:\n  generate: batch * n\n  gpu.power.idle: 10 * batch\n  gpu.memory.bandwidth: \"'2 TB/s'\"\n"
    )
    space = space_of(tmp_path, text)
    points = dict(points_of(space))
    assert points[0] == {"batch": 1, "n": 1.5, "prompt": None}
    assert space.settings(points[3]) == {
        "model": "resnet-50", "hw": "a100-80gb", "batch": 2, "prompt": 8, "generate": 8, "gpu.power.idle": 20.0,
        "gpu.memory.bandwidth": 2e12,
    }  # fmt: skip
    assert isinstance(space.settings(points[3])["generate"], int)
    with pytest.raises(ValueError, match=r"found 1.5; input should be a valid integer"):
        space.settings(points[0])
    assert space.names(points[0]) == {"model": "resnet-50", "hw": "a100-80gb", **points[0]}
    broken = space_of(tmp_path / "b", HEAD + "vary: {batch: [1]}\nderived: {gpu.power.idle: batch > 0}\n")
    with pytest.raises(ValueError, match="found True; expected a figure"):
        broken.settings({"batch": 1})


def test_constraints_judge_in_their_order(tmp_path: Path) -> None:
    space = space_of(tmp_path, LISTED + (
        "define: {d: 2 * makespan_s}\nconstraints: [d < 10, energy_j < 5]\nobjectives: {d + batch: minimise}\n"
    ))  # fmt: skip

    def judged(makespan_s: float, energy_j: float | None) -> tuple[Any, ...]:
        figures: dict[str, Any] = {"makespan_s": makespan_s, "energy_j": energy_j}
        return (
            *space.judged(Row(0, "", "ok", "fine"), figures, {"batch": 3}),
            figures["d"],
            figures["d + batch"],
        )

    assert judged(1.0, 1.0) == ("ok", "fine", 2.0, 5.0)
    assert judged(5.0, 9.0) == ("constraint", "breaks d < 10", 10.0, 13.0)
    assert judged(1.0, 5.0) == ("constraint", "breaks energy_j < 5", 2.0, 5.0)
    assert judged(1.0, None)[0] == "constraint", "a figure that is not there keeps no promise"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7 % 4", 3), ("7 - 2 - 1", 4), ("7 / 2", 3.5), ("2 ** -1", 0.5), ("+3", 3), ("-3 ** 2", -9), ("not 0", True),
        ("1 and 2", True), ("1 and 0", False), ("0 or 2", True), ("0 or 0", False), ("3 > 2 > 1", True),
        ("3 > 2 > 2", False), ("1 != 1", False), ("2 >= 2 <= 2", True),
        ("abs(-2) + round(2.6) + floor(2.6) + ceil(2.1)", 10),
        ("max(1, 3, 2)", 3), ("int(2.9)", 2), ("log10(1000)", 3), ("exp(0)", 1), ("log(1)", 0), ("x.y.z", 5),
        ("100 ** 50", 100**50), ("1e100 ** 1", 1e100), ("2 ** 100", 2**100), ("'a' == 'a'", True), ("none", None),
        ("none or 1", None), ("1 or none", True), ("0 and none", False), ("1 if 1 else none", 1),
    ],
)  # fmt: skip
def test_values_of_expressions(text: str, value: Any) -> None:
    found = parse_expression(text).value({"x.y.z": 5, "none": None})
    assert found == value
    assert isinstance(found, bool) == isinstance(value, bool)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 ** 101", "2 ** 101 is out of range"), ("1e101 ** 1", "1e+101 ** 1 is out of range"),
        ("2 ** -101", "2 ** -101 is out of range"), ("(-8) ** 0.5", "-8 ** 0.5 is no real number"),
        ("1 / 0", "'1 / 0': division by zero"), ("'a' + 1", "found the text 'a' where a number is needed"),
        ("1 + 'a'", "found the text 'a' where a number is needed"),
        ("quantity('3')", "found '3'; expected a figure with its unit, such as '50 ms'"),
        ("1 < 'a'", "'1 < 'a'': '<' not supported between instances of 'int' and 'str'"),
    ],
)  # fmt: skip
def test_expressions_that_have_no_value(text: str, message: str) -> None:
    with pytest.raises(ExpressionError) as error:
        parse_expression(text).value({})
    assert str(error.value).replace('"', "'") == message


def test_texts_that_are_no_expression() -> None:
    assert parse_expression("1" * 1000).text == "1" * 1000
    assert parse_expression(" 2.5 ").value({}) == parse_expression(2.5).value({}) == 2.5
    nested = "-" * 50 + "1"
    assert parse_expression(nested).value({}) == 1
    for text, words in (
        ("1" * 1001, "found a text of 1001 characters; expected 1 to 1000"), (" ", "found a text of 0 characters"),
        ("-" + nested, "too deeply nested"), ("1 +", "'1 +' is no expression: invalid syntax"),
        ("sin(1)", "unknown function 'sin'; known: abs, ceil"),
        ("[1]", "'[1]' is not allowed; expected numbers, names"),
        ("f(1).x", "'f(1)' is not allowed; expected a name"), (True, "found True; expected an expression"),
        (None, "found None; expected an expression"), ("1 is 1", "'1 is 1' is not allowed"),
        ("~1", "'~1' is not allowed"),
        ("1 | 2", "'1 | 2' is not allowed"), ("min(a, key=b)", "unknown function 'min'"),
    ):  # fmt: skip
        with pytest.raises(ExpressionError) as error:
            parse_expression(text)
        assert str(error.value).startswith(words), str(error.value)
    assert parse_expression("a.b + min(c, 2) if d else -e").names == {"a.b", "c", "d", "e"}
    assert any_quantity("50 ms") == 0.05


def test_paths_into_a_machine() -> None:
    machines = Machines()
    assert [is_config(path) for path in ("gpu.count", "batch", "settings.x", "dims.n")] == [
        True,
        False,
        False,
        False,
    ]
    count, use = machines.leaf("dgx-a100", "ssd.count"), machines.leaf("dgx-a100", "links.pcie4-x16.use")
    assert (count.whole, count.read(65536), use.read("pcie5-x16")) == (True, 65536, "pcie5-x16")
    for value in (0, 65537, 1.5):
        with pytest.raises(ValueError, match=f"found {value}"):
            count.read(value)
    bandwidth = machines.leaf("a100-80gb", "gpu.memory.bandwidth")
    assert (bandwidth.dimension, bandwidth.whole, bandwidth.read("1 TB/s")) == ("bandwidth", False, 1e12)
    lanes = machines.leaf("dgx-a100", "links.pcie.lanes")
    assert (lanes.dimension, lanes.read(8)) == (None, 8)
    with pytest.raises(ValueError, match="found 7"):
        lanes.read(7)
    processors = machines.leaf("a100-80gb", "gpu.multiprocessors")
    assert (processors.whole, processors.read(64)) == (True, 64)
    fp16 = machines.leaf("a100-80gb", "gpu.compute.matrix.fp16")
    assert fp16.path == "gpu.compute.matrix.fp16"


@pytest.mark.parametrize(
    ("hw", "path", "message", "near"),
    [
        (
            "dgx-a100",
            "gp.memory.bandwidth",
            "unknown device group 'gp'; known: gpu, nvswitch, switch, cpu, host",
            "gpu",
        ),
        ("dgx-a100", "gp.count", "unknown device group 'gp'; known: gpu, nvswitch, switch, cpu, host", "gpu"),
        ("dgx-a100", "links", "unknown link ''; known: ", None),
        ("dgx-a100", "links.pcie5.lanes", "unknown link 'pcie5'; known: ", "pcie"),
        ("dgx-a100", "links.gpu-cpu.use", "unknown link 'gpu-cpu'; known: ", None),
        ("a100-80gb", "gpu.count", "'a100-80gb' is a single device; vary 'hw' instead", None),
        ("a100-80gb", "gpu.memory", "names a part, not a figure; its figures: ", None),
        ("a100-80gb", "gpu", "names a part, not a figure; its figures: ", None),
        ("a100-80gb", "gpu.compute.matrix", "names a part, not a figure; its figures: ", None),
        ("a100-80gb", "gpu.memory.bandwidth.x", "leads past a figure, at 'x'", None),
        ("a100-80gb", "gpu.memory.bandwith", "", "bandwidth"),
        ("a100-80gb", "gpu.memry.bandwidth", "gpu 'a100-80gb' has no 'memry'; known: ", "memory"),
    ],
)
def test_paths_that_lead_nowhere(hw: str, path: str, message: str, near: str | None) -> None:
    with pytest.raises(InputError) as error:
        Machines().leaf(hw, path)
    (problem,) = error.value.problems
    assert problem.message.startswith(message), problem.message
    assert (problem.path, problem.suggestion if near else None) == (path, near)
    with pytest.raises(InputError):
        Machines().system(hw, {path: 3})


def test_machines_with_changes() -> None:
    machines = Machines()
    base = machines.base("dgx-a100")
    plain = machines.system("dgx-a100", {})
    assert plain == base
    assert machines.system("dgx-a100", {"gpu.power.idle": None}) is plain
    changes = {
        "gpu.power.idle": 33.0,
        "ssd.count": 2,
        "links.gpu-plx.lanes": 8,
        "links.plx-cpu.generation": 3,
    }
    system = machines.system("dgx-a100", changes)
    assert machines.system("dgx-a100", dict(reversed(changes.items()))) is system
    assert {n.device.power.idle for n in system.nodes.values() if n.group == "gpu"} == {33.0}
    assert {n.device.power.idle for n in base.nodes.values() if n.group == "gpu"} != {33.0}
    assert len([n for n in system.nodes.values() if n.group == "ssd"]) == 2
    lanes = {name: wire.link.lanes for name, wire in system.wires.items() if wire.link.kind == "pcie"}
    assert {lanes[name] for name in lanes if "gpu" in name} == {8}
    assert {lanes[name] for name in lanes if "nic" in name} == {16}
    assert {
        w.link.generation for name, w in system.wires.items() if w.link.kind == "pcie" and "cpu" in name
    } == {3}
    used = machines.system("dgx-a100", {"links.pcie4-x16.use": "pcie5-x16"})
    generations = {
        w.link.generation for name, w in used.wires.items() if w.link.kind == "pcie" and "ssd" not in name
    }
    assert generations == {5}
    by_kind = machines.system("dgx-a100", {"flash.count": 3})
    assert len([n for n in by_kind.nodes.values() if n.group == "ssd"]) == 3
    counted = machines.structure("dgx-a100", {**changes, "batch": 3, "settings.count": 4})
    assert counted is machines.system("dgx-a100", {"ssd.count": 2})
    with pytest.raises(InputError) as error:
        machines.system("a100-80gb", {"gpu.memory.bandwidth": -1.0})
    assert [problem.path for problem in error.value.problems] == ["a100-80gb.memory.bandwidth"]


def test_machines_built_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    machines = Machines()
    monkeypatch.setattr(machines, "_build", lambda hw, wanted: built.append(hw) or len(built))
    for name in range(REMEMBERED):
        machines.system(str(name), {})
    machines.system("0", {})
    machines.system("more", {})
    for name in ("0", "2", "1"):
        machines.system(name, {})
    assert built[REMEMBERED:] == ["more", "1"]


def test_names_of_figures() -> None:
    names = figure_names(Machines().base("a100-80gb"))
    assert names[:2] == ["makespan_s", "time_to_first_token_s"]
    assert len(set(names)) == len(names)
    assert {
        "memory.a100_80gb.peak_bytes",
        "energy.a100_80gb_memory_j",
        "energy.a100_80gb_idle_j",
        "time.link_s",
    } <= {*names}


def test_a_store_finds_rows(tmp_path: Path) -> None:
    with open_store(tmp_path, create=True) as store:
        store.write([Row(n, f"k{n}", "ok" if n % 2 else "failed", stage=n // 4) for n in range(8)])
        store.write([Row(2, "k", "ok", stage=1)])
        assert [r.number for r in store.rows(0)] == [0, 1, 2, 3]
        assert [r.number for r in store.rows(status="ok")] == [1, 3, 2, 5, 7]
        assert [r.number for r in store.rows(0, "ok")] == [1, 3]
        assert [(r.stage, r.number) for r in store.rows()][-2:] == [(1, 6), (1, 7)]
        assert list(store.rows_at([3, 1, 9])) == [1, 3]
        assert list(store.rows_at([2, 5], 1)) == [2, 5]
        assert store.outcomes(1)[2] == ("k", "ok")
        assert store.counts() == {(0, "failed"): 2, (0, "ok"): 2, (1, "failed"): 2, (1, "ok"): 3}
        store.drop_stage(1)
        assert store.counts() == {(0, "failed"): 2, (0, "ok"): 2}
        store.write_meta({"format": "offchip-sweep-0"})
    with pytest.raises(
        InputError, match="found 'offchip-sweep-0'; expected a sweep of format 'offchip-sweep-1'"
    ):
        open_store(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "sweep.sqlite").write_bytes(b"no database at all" * 99)
    with pytest.raises(InputError, match="is not a sweep: the file is no SQLite database"):
        open_store(tmp_path / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made: "):
        open_store(tmp_path / "file" / "x", create=True)


def test_json_is_decoded_when_somebody_looks() -> None:
    lazy = JsonObject('{"a": 1, "b": 2}')
    assert (lazy["a"], len(lazy), list(lazy), dict(lazy)) == (1, 2, ["a", "b"], {"a": 1, "b": 2})
    assert lazy._decoded() is lazy._decoded()
