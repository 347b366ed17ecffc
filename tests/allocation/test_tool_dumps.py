"""ExecuTorch programmes, profiles of ONNX Runtime, and TVM's buffer infos: real dumps, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw_configs.problems import InputError
from mapping.allocation import AllocationProblem, check, peak_of, solve
from mapping.allocation.conflict_lives import lives_of_conflicts
from mapping.allocation.executorch_program import parse_executorch
from mapping.allocation.importers import Part, read_problem, read_recording
from mapping.allocation.tvm_usmp import read_usmp


@pytest.fixture
def dumps(reference: Path) -> Path:
    return reference / "dumps"


def life(problem: AllocationProblem, name: str) -> tuple[int, int, int]:
    i = list(problem.ids).index(name)
    return int(problem.lower[i]), int(problem.upper[i]), int(problem.size[i])


def test_an_executorch_programme_and_its_own_plan(dumps: Path) -> None:
    problem = read_problem(dumps / "linear_state.pte")
    own = problem.hint.tolist()
    assert check(problem, own) == []
    # non_const_buffer_sizes of the file.
    assert peak_of(problem, own) == 1248
    found = solve(problem)
    assert (found.status, found.peak_bytes) == ("optimal", 1232)
    # A buffer of the module is a state; a view of a linear layer's result is one buffer with it.
    assert life(problem, "6") == (0, 14, 48)
    assert {"21", "25"} <= set(problem.ids)
    assert "24" not in problem.ids
    assert life(problem, "21")[1] == 6


def test_several_results_of_a_kernel_are_told_apart_from_what_it_reads(dumps: Path) -> None:
    problem = read_problem(dumps / "split_topk.pte")
    assert (len(problem), solve(problem).peak_bytes, peak_of(problem, problem.hint.tolist())) == (
        21,
        4992,
        4992,
    )


def test_branches_parts_and_damage_are_refused(dumps: Path) -> None:
    with pytest.raises(InputError, match="moves a planned tensor"):
        read_problem(dumps / "branch.pte")
    small = dumps / "linear_state.pte"
    with pytest.raises(InputError, match="the file plans \\[1\\]"):
        read_problem(small, Part(memory_space=2))
    with pytest.raises(InputError, match="holds 1 methods"):
        read_problem(small, Part(pack_index=1))
    with pytest.raises(InputError, match="no parts of this kind"):
        read_problem(small, Part(device_index=0))
    assert read_recording(small) is None
    data = small.read_bytes()
    whole, refused = parse_executorch(data), 0
    for cut in range(8, len(data), 211):
        # Weights stand behind the tables: a cut among them loses nothing of the plan.
        try:
            assert parse_executorch(data[:cut]).ids == whole.ids
        except InputError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("seed", range(4))
def test_damaged_programmes_are_bad_input_or_a_plan(dumps: Path, seed: int) -> None:
    """Random bytes changed: never another error."""
    import numpy as np

    draw = np.random.default_rng(seed)
    data = bytearray((dumps / "linear_state.pte").read_bytes())
    for _ in range(60):
        changed = bytearray(data)
        for at in draw.integers(8, len(data), 3):
            changed[at] = int(draw.integers(256))
        try:
            parse_executorch(bytes(changed))
        except InputError:
            continue


def test_a_programme_whose_plan_does_not_hold_is_refused(dumps: Path) -> None:
    """An offset of the file changed by hand: the lives that were read contradict the plan."""
    data = (dumps / "linear_state.pte").read_bytes()
    problem = parse_executorch(data)
    offset = int(problem.hint[list(problem.ids).index("6")])
    place = data.find(struct.pack("<II", 1, offset))
    assert place > 0 or data.find(struct.pack("<I", offset)) > 0
    at = data.find(struct.pack("<I", offset))
    refused = 0
    while at >= 0:
        changed = data[:at] + struct.pack("<I", 0) + data[at + 4 :]
        try:
            parse_executorch(changed)
        except InputError as error:
            refused += "own plan does not hold" in str(error) or "wrote a part" in str(error)
        at = data.find(struct.pack("<I", offset), at + 1)
    assert refused >= 1


def test_a_profile_of_onnx_runtime_with_its_model(dumps: Path) -> None:
    profile, model = dumps / "three_runs.profile.json", dumps / "three_runs.onnx"
    pytest.importorskip("onnx")
    with pytest.raises(InputError, match="give the model"):
        read_problem(profile)
    with pytest.raises(InputError, match="holds 3 runs"):
        read_problem(profile, Part(model=model))
    first, third = (read_problem(profile, Part(model=model, pack_index=k)) for k in (0, 2))
    # The batch grows from 4 to 8; inputs, weights and the output lie outside.
    assert list(first.ids) == list(third.ids) == ["h1", "r1", "h2", "a", "s", "c", "v", "i", "f", "vf"]
    assert (third.size == 2 * first.size).all()
    assert life(first, "h1") == (0, 4, 4 * 24 * 4)
    assert life(first, "i") == (6, 8, 4 * 5 * 8)
    assert set(first.alignment.tolist()) == {256}
    assert solve(first).status == "optimal"


def test_what_a_profile_and_a_model_do_not_share_is_told(dumps: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    events = json.loads((dumps / "three_runs.profile.json").read_text())
    model = dumps / "three_runs.onnx"
    part = Part(model=model, pack_index=0)

    def told(changed: object) -> str:
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(changed))
        with pytest.raises(InputError) as caught:
            read_problem(path, part)
        return str(caught.value)

    nodes = [event for event in events if event.get("cat") == "Node"]
    assert "'add3' did not run" in told([event for event in events if event["name"] != "add3_kernel_time"])
    assert "which the model does not have" in told(
        [event | {"name": event["name"].replace("add3", "add33")} for event in events]
    )
    assert "ran twice" in told([nodes[0], *events])
    assert "no fixed size" in told(json.loads(json.dumps(events).replace('"float"', '"string"')))
    assert "before the operator that makes it has run" in told([nodes[1], nodes[0], *nodes[2:10]])
    assert "made 1 tensors; the model names 2" in told(
        [
            event | {"args": event["args"] | {"output_type_shape": event["args"]["output_type_shape"][:1]}}
            for event in nodes[:10]
        ]
    )


def test_buffer_infos_of_tvm_in_both_forms(dumps: Path) -> None:
    nodes = read_problem(dumps / "usmp_nodes.json")
    rows = {
        "buffer_infos": [
            {"name_hint": "sid_1", "size_bytes": 3000, "alignment": 16, "conflicts": ["sid_2"],
             "pool_candidates": [{"pool_name": "sram", "size_hint_bytes": 6000}]},
            {"name_hint": "sid_2", "size_bytes": 2000, "alignment": 16, "conflicts": ["sid_1", "sid_3"],
             "pool_candidates": [{"pool_name": "sram", "size_hint_bytes": 6000}]},
            {"name_hint": "sid_3", "size_bytes": 1500, "alignment": 16, "conflicts": ["sid_2"],
             "pool_candidates": [{"pool_name": "sram", "size_hint_bytes": 6000}]},
        ]
    }  # fmt: skip
    plain = read_usmp(rows)
    for problem in (nodes, plain):
        assert list(problem.ids) == ["sid_1", "sid_2", "sid_3"]
        assert not problem.gaps
        assert problem.rules.pools == {"sram": 6000}
        # 2000 bytes end at a multiple of 16, 3000 do not: the larger one lies above.
        found = solve(problem)
        assert (found.status, found.peak_bytes) == ("optimal", 5000)
    rows["buffer_infos"][0]["size_bytes"] = 5000
    for row in rows["buffer_infos"]:
        row["pool_candidates"][0]["size_hint_bytes"] = 6000
    tight = solve(read_usmp(rows))
    assert (tight.status, tight.capacity_bytes) == ("infeasible", 6000)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"name": "a", "size_bytes": -1}, "size_bytes"),
        ({"name": "a", "size_bytes": 1, "alignment": 0}, "alignment"),
        ({"name": "a", "size_bytes": 1, "conflicts": ["b"]}, "which is no buffer"),
        ({"name": "a", "size_bytes": 1, "life": 3}, "found 'life'"),
        ({"size_bytes": 1}, "no name"),
        ({"name": "a", "size_bytes": 1, "pool_candidates": [3]}, "pool_name"),
        (3, "expected an object"),
    ],
)
def test_a_wrong_buffer_info_is_told(row: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_usmp({"buffer_infos": [row]})


@given(st.integers(1, 8), st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20))
def test_lives_meet_exactly_where_buffers_conflict(n: int, edges: list[tuple[int, int]]) -> None:
    near: list[set[int]] = [set() for _ in range(n)]
    for a, b in edges:
        if a != b and max(a, b) < n:
            near[a].add(b)
            near[b].add(a)
    times = []
    for lower, upper, gaps in lives_of_conflicts(near):
        out = {t for gap in gaps for t in range(gap.lower, gap.upper)}
        times.append(set(range(lower, upper)) - out)
    for a in range(n):
        assert times[a]
        for b in range(a):
            assert bool(times[a] & times[b]) == (b in near[a])


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), min_size=1, max_size=12))
def test_conflicts_of_lives_in_order_of_first_use_need_no_gaps(lives: list[tuple[int, int]]) -> None:
    rows = sorted(lives)
    near: list[set[int]] = [
        {k for k, (b, m) in enumerate(rows) if k != i and a < b + m and b < a + n}
        for i, (a, n) in enumerate(rows)
    ]
    assert not any(gaps for _, _, gaps in lives_of_conflicts(near))
