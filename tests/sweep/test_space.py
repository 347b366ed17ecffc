"""Space files: what they mean, and what is refused before anything runs."""

from __future__ import annotations

import pytest

from hw_configs.problems import InputError
from mapping.placement.single_device import MAPPER
from offchip.sweep import plans
from offchip.sweep.expression import ExpressionError, parse_expression
from offchip.sweep.machine import Machines
from offchip.sweep.points import count_points, points_of
from offchip.sweep.run import run_sweep
from offchip.sweep.space_file import load_space
from tests.sweep.spaces import DECODE, REPOSITORY, run_serially, serial_rows, space_file, space_of

HEAD = "model: resnet-50\nhw: a100-80gb\n"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("vary: {gpu.memory.bandwith: [1 TB/s]}", 3, "did you mean 'bandwidth'?"),
        ("vary: {gqu.memory.bandwidth: [1 TB/s]}", 3, "did you mean 'gpu'?"),
        ("vary: {batc: [1]}", 3, "did you mean 'batch'?"),
        ("vary:\n  batch: []", 4, "the list of values is empty"),
        ("vary:\n  batch: {range: [4, 4]}", 4, "an empty range: 4 is not below 4"),
        ("vary:\n  batch: {range: [4, 1]}", 4, "an empty range"),
        ("vary:\n  gpu.memory.bandwidth: [1 TB]", 4, "which is a size; expected a bandwidth"),
        ("vary:\n  gpu.memory.bandwidth: [2.5]", 4, "without a unit"),
        ("vary:\n  gpu.memory.bandwidth: {range: [1 TB/s, 2 TB/s]}", 4, "a grid needs 'count' or 'step'"),
        ("vary:\n  batch: [1, 1]", 4, "twice"),
        ("vary:\n  batch: [x]", 4, "valid integer"),
        ("vary:\n  batch: {rang: [1, 2]}", 4, "did you mean 'range'?"),
        ("vary:\n  batch: {sample: {norml: {mean: 1}}, count: 2}", 4, "did you mean 'normal'?"),
        ("vary:\n  batch: {sample: {normal: 3}, count: 2}", 4, "expected keys with values"),
        ("vary:\n  batch: {sample: {normal: {mean: 1}}, count: 2}", 4, "normal needs mean, deviation"),
        ("vary:\n  batch: {sample: {uniform: {low: 4, high: 1}}, count: 2}", 4, "'low' must be below 'high'"),
        ("vary:\n  batch: {sample: {uniform: {low: 4, high: 4}}, count: 2}", 4, "'low' must be below 'high'"),
        ("vary:\n  batch: {sample: {loguniform: {low: 0, high: 4}}, count: 2}", 4, "above zero"),
        ("vary:\n  gpu.memory.capacity: [-80 GB]", 4, "greater than"),
        ("vary:\n  mapper: [single-devic]", 4, "did you mean 'single-device'?"),
        ("vary:\n  hw: [a100-80g]", 4, "did you mean 'a100-80gb'?"),
        ("vary:\n  batch: [1]\nobjectives: {makespan: minimise}", 5, "did you mean 'makespan_s'?"),
        ("vary:\n  batch: [1]\nobjectives: {makespan_s: least}", 5, "minimise"),
        ("vary:\n  batch: [1]\nconstraints: [\"__import__('os').system('x') < 1\"]", 5, "not allowed"),
        ("vary:\n  batch: [1]\nderived: {promt: batch}", 5, "did you mean 'prompt'?"),
        ("vary:\n  batch: [1]\nderived: {batch: '2'}", 5, "varied and derived"),
        ("vary:\n  batch: [1]\nstrategy: gird", 5, "did you mean 'grid'?"),
        ("vary:\n  batch: [1]\nstrategy: lhs", 5, "needs 'points'"),
        ("vary:\n  batch: [1]\nstrategy: {kind: optuna, points: 3}", 5, "needs objectives"),
        ("vary:\n  batch: [1]\nfidelity: evnt", 5, "did you mean 'event'?"),
        ("vary:\n  batch: [1]\nfidelity: [analytic, {fidelity: event, promote: 2}]", 5, "promote"),
        ("vary:\n  batch: [1]\nobjectivs: {}", 5, "did you mean 'objectives'?"),
        ("vary:\n  n: {free: bandwith, values: [1]}", 4, "did you mean 'bandwidth'?"),
        ("vary:\n  gpu.use: [h100]", 4, "single device"),
    ],
)
def test_mistakes_are_one_line_with_their_place(tmp_path, text, line, words):
    path = space_file(tmp_path, HEAD + text)
    with pytest.raises(InputError) as error:
        load_space(path)
    lines = str(error.value).splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{path}:{line}: ")
    assert words in lines[0]


def test_all_mistakes_at_once(tmp_path):
    path = space_file(tmp_path, "model: resnet-5\nhw: a100-80gb\nvary:\n  batch: []\n  prompt: [x]\n")
    with pytest.raises(InputError) as error:
        load_space(path)
    assert [p.line for p in error.value.problems] == [1, 4, 5]


def test_a_key_of_no_space_hides_no_other_mistake(tmp_path):
    text = (
        "model: resnet-50\nhw: a100-80gb\nsed: 3\nvary:\n  batch: [1, x]\nobjectives: {makespan: minimise}\n"
    )
    with pytest.raises(InputError) as error:
        load_space(space_file(tmp_path, text))
    assert [p.line for p in error.value.problems] == [3, 5, 6]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * a", 7), ("min(a, b.c, 9)", 3), ("a if a > b.c else b.c", 4), ("not (a < 2) and b.c <= 4", True),
        ("quantity('50 ms') * 2", 0.1), ("log2(8) + sqrt(9)", 6), ("1 < a < 4", True), ("name == 'x'", True),
        ("missing + 1", None), ("2 ** a", 8), ("-a", -3), ("a // 2", 1),
    ],
)  # fmt: skip
def test_expressions(text, value):
    assert parse_expression(text).value({"a": 3, "b.c": 4, "name": "x"}) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    ["a[0]", "a.__class__()", "lambda: 1", "[1]", "{}", "f'{a}'", "open('x')", "a := 1", "min(*a)", "(1,)", "",
     "1" * 2000, "(" * 60 + "1" + ")" * 60 + " +", "min(a, key=b)", "b'x'", "1j", "..."],
)  # fmt: skip
def test_what_an_expression_may_not_be(text):
    with pytest.raises(ExpressionError):
        parse_expression(text)


@pytest.mark.parametrize(
    "text", ["1 / 0", "'a' * 9", "10 ** 1000", "sqrt(-1)", "(-1) ** 0.5", "quantity('1 lightyear')"]
)
def test_expressions_without_a_value(text):
    with pytest.raises(ExpressionError):
        parse_expression(text).value({})


def test_every_outcome_has_its_status(tmp_path):
    rows = serial_rows(space_of(tmp_path, DECODE))
    assert len(rows) == 48
    by_status = {status: [r for r in rows if r.status == status] for status in {r.status for r in rows}}
    assert set(by_status) == {"ok", "constraint", "infeasible", "invalid", "excluded"}
    assert all(row.reason for row in rows if row.status != "ok")
    assert all(row.figures["time_per_token_s"] <= 0.015 for row in by_status["ok"])
    assert all(row.figures["time_per_token_s"] > 0.015 for row in by_status["constraint"])
    assert all("idle power" in row.reason for row in by_status["invalid"])
    assert all(row.parameters["batch"] * row.parameters["prompt"] >= 30000 for row in by_status["excluded"])


def test_conditions_merge_equal_points_and_derived_values_follow(tmp_path):
    text = """
model: resnet-50
hw: dgx-a100
vary:
  ssd.count: [2, 4]
  links.ssd-plx.lanes: {values: [2, 4], when: ssd.count > 2}
  n: {free: whole, values: [1, 2]}
derived:
  batch: 2 * n
"""
    space = space_of(tmp_path, text.replace("count: [2, 4]", "count: [4, 8]").replace("> 2", "> 4"))
    points = list(points_of(space))
    assert count_points(space) == 8
    assert [number for number, _ in points] == list(range(6))
    assert [v["links.ssd-plx.lanes"] for _, v in points] == [None, None, 2, 2, 4, 4]
    settings = space.settings(points[-1][1])
    assert settings["batch"] == 4
    assert "n" not in settings
    assert {row.status for row in serial_rows(space)} == {"ok"}


@pytest.mark.parametrize("kind", ["lhs", "sobol", "random"])
def test_samples_depend_on_the_seed_alone(tmp_path, kind):
    text = (
        HEAD
        + f"""
vary:
  batch: {{log: [1, 64]}}
  gpu.memory.bandwidth: {{range: [1 TB/s, 2 TB/s]}}
  gpu.power.idle: {{sample: {{triangular: {{low: 30 W, mode: 50 W, high: 90 W}}}}}}
  dtype: [fp16, bf16]
strategy: {{kind: {kind}, points: 32}}
seed: SEED
"""
    )
    one, same, other = (
        list(points_of(space_of(tmp_path, text.replace("SEED", seed)))) for seed in ("1", "1", "2")
    )
    assert one == same
    assert one != other
    assert len(one) == 32
    values = [v for _, v in one]
    assert all(isinstance(v["batch"], int) and 1 <= v["batch"] <= 64 for v in values)
    assert all(1e12 <= v["gpu.memory.bandwidth"] <= 2e12 for v in values)
    assert all(30 <= v["gpu.power.idle"] <= 90 for v in values)
    assert {v["dtype"] for v in values} == {"fp16", "bf16"}
    if kind == "lhs":
        assert sorted(int((v["gpu.memory.bandwidth"] - 1e12) / 1e12 * 32) for v in values) == list(range(32))


def test_ranges(tmp_path):
    text = (
        HEAD
        + """
vary:
  batch: {range: [1, 7], step: 3}
  prompt: {log: [16, 1024], count: 4}
  gpu.memory.bandwidth: {range: [1 TB/s, 2 TB/s], step: 250 GB/s}
"""
    )
    axes = {axis.name: axis.grid for axis in space_of(tmp_path, text).axes}
    assert axes["batch"] == (1, 4, 7)
    assert axes["prompt"] == (16, 64, 256, 1024)
    assert axes["gpu.memory.bandwidth"] == (1e12, 1.25e12, 1.5e12, 1.75e12, 2e12)


def test_promotion_repeats_the_best(tmp_path):
    text = (
        HEAD
        + """
vary: {batch: [1, 2, 4, 8, 16]}
objectives: {makespan_s: minimise}
fidelity: [analytic, {fidelity: event, promote: 40%}]
"""
    )
    table = run_serially(space_of(tmp_path, text), tmp_path / "out")
    assert [(row[0], row[1]) for row in table] == [*((0, i) for i in range(5)), (1, 0), (1, 1)]


def test_a_dear_plan_is_solved_once(tmp_path, monkeypatch):
    text = HEAD + "vary: {batch: [1, 2]}\noptions: {mapper: single-device}\nfidelity: [event, cycle]\n"
    solved = []

    def plan(graph, system, options, write=MAPPER.plan):
        solved.append(graph.name)
        return write(graph, system, options)

    monkeypatch.setattr(type(MAPPER), "plan", lambda self, *args: plan(*args))
    monkeypatch.setattr(plans, "DEAR_S", 0.0)
    space = space_of(tmp_path, text + "objectives: {makespan_s: minimise}\n")
    first = run_serially(space, tmp_path / "out")
    assert len(solved) == 2
    assert len(first) == 4
    monkeypatch.setattr(plans, "DEAR_S", 1e9)
    assert run_serially(space, tmp_path / "again") == first
    assert len(solved) == 6


def test_search_finds_its_way_again(tmp_path):
    pytest.importorskip("optuna")
    text = (
        HEAD
        + """
vary:
  batch: {log: [1, 64]}
  gpu.memory.bandwidth: {range: [1 TB/s, 2 TB/s]}
objectives: {makespan_s: minimise, energy_j: minimise}
strategy: {kind: optuna, points: 24, batch: 8, sampler: SAMPLER}
"""
    )
    for sampler in ("nsga2", "tpe"):
        space = space_of(tmp_path / sampler, text.replace("SAMPLER", sampler))
        one = run_serially(space, tmp_path / sampler / "one")
        assert len(one) == 24
        seen = []

        def stop_in_the_middle(stage, expected, kept, rows, seen=seen):
            seen.extend(rows)
            if len(seen) >= 16:
                raise KeyboardInterrupt

        from offchip.sweep.run import serial

        with pytest.raises(KeyboardInterrupt):
            run_sweep(
                space, tmp_path / sampler / "two", lambda cache, space=space: serial(space, cache),
                notice=stop_in_the_middle,
            )  # fmt: skip
        assert run_serially(space, tmp_path / sampler / "two", resume=True) == one


def test_an_energy_that_follows_from_a_power_follows_again():
    machines = Machines()
    before = machines.base("a100-80gb").nodes["a100-80gb"].device.compute
    after = machines.system("a100-80gb", {"gpu.compute.arithmetic_power": before.arithmetic_power / 2})
    compute = after.nodes["a100-80gb"].device.compute
    assert compute.energy_per_operation["fp16"] == pytest.approx(0.5 * before.energy_per_operation["fp16"])


def test_parts_are_exchanged_and_counted():
    machines = Machines()
    system = machines.system(
        "dgx-a100", {"gpu.use": "h100-sxm", "ssd.count": 8, "links.ssd-plx.generation": 5}
    )
    assert system.nodes["gpu0"].device.name == "h100-sxm"
    assert len(system.of_kind("flash")) == 8
    assert system.wires["pcie:ssd7-plx3"].link.generation == 5
    assert system.wires["pcie:gpu0-plx0"].link.generation == 4


SPACES = [path for path in sorted((REPOSITORY / "examples").glob("*.yaml")) if "\nvary:" in path.read_text()]
"""The others describe requests (``offchip serve``)."""


@pytest.mark.parametrize("path", SPACES, ids=lambda p: p.stem)
def test_examples_are_sound(path):
    space = load_space(path)
    assert space.objectives
    assert next(iter(points_of(space)), None) is not None or space.strategy.kind == "optuna"
