"""The CSV format in all its forms, traces, snapshots and dumps; and what is said of bad ones."""

from __future__ import annotations

import json

import pytest

from hw_configs.problems import InputError
from mapping.allocation import AllocationProblem, Buffer, Gap, check, solve
from mapping.allocation.csv_format import parse_csv, to_csv
from mapping.allocation.importers import parse_problem


def test_half_open_lives_that_touch_do_not_conflict() -> None:
    problem = parse_csv("id,lower,upper,size\na,0,3,4\nb,3,5,4\n")
    assert solve(problem).peak_bytes == 4


def test_an_end_column_is_inclusive() -> None:
    problem = parse_csv("buffer_id,start,end,size\na,0,3,4\nb,3,5,4\n")
    assert problem.upper.tolist() == [4, 6]
    assert solve(problem).peak_bytes == 8


def test_alignment_gaps_windows_offsets_and_hints() -> None:
    text = "id,lower,upper,size,alignment,hint,gaps,offset\na,0,9,8,4,16,2-4 5-7@1:3,\nb,2,4,8,,,,0\n"
    problem = parse_csv(text)
    assert problem.buffers[0] == Buffer("a", 0, 9, 8, 4, None, 16, (Gap(2, 4), Gap(5, 7, (1, 3))))
    assert problem.buffers[1].offset == 0
    assert solve(problem).peak_bytes == 8
    assert parse_csv(to_csv(problem)).buffers == problem.buffers


def test_an_inclusive_gap_ends_with_its_last_time() -> None:
    assert parse_csv("id,start,end,size,gaps\na,0,9,8,2-4\n").buffers[0].gaps == (Gap(2, 5),)


def test_a_window_leaves_the_other_bytes_free() -> None:
    problem = AllocationProblem.of([Buffer("a", 0, 4, 8, gaps=(Gap(0, 4, (0, 2)),)), Buffer("b", 0, 4, 6)])
    assert solve(problem).peak_bytes == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("id,lower,upper\na,0,1\n", "'size' is missing"),
        ("id,lower,upper,siez\na,0,1,2\n", "did you mean 'size'"),
        ("id,lower,upper,size\na,0,x,2\n", "f.csv:2: upper: found 'x'"),
        ("id,lower,upper,size\na,0,1\n", "found 3 fields; expected 4"),
        ("id,lower,upper,size\na,5,1,2\n", "not before 5"),
        ("id,lower,upper,size\na,0,1,-2\n", "at least 0"),
        ("id,lower,upper,size\na,0,1,2\na,0,1,2\n", "line 2 has it already"),
        ("id,lower,upper,size,gaps\na,0,9,2,1:2\n", "expected lo-hi"),
        ("id,lower,upper,size,gaps\na,0,9,2,5-99\n", "inside the lifetime"),
        ("id,lower,upper,size,alignment\na,0,9,2,0\n", "at least 1"),
        ("id,lower,upper,size\na,0,9,99999999999999999999\n", "2**60"),
    ],
)
def test_a_bad_file_is_told_in_one_line(text: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        parse_csv(text, "f.csv")
    assert words in str(error.value)


def test_all_bad_lines_are_told_at_once() -> None:
    with pytest.raises(InputError) as error:
        parse_csv("id,lower,upper,size\na,0,x,2\nb,0,1,y\n", "f.csv")
    assert [problem.line for problem in error.value.problems] == [2, 3]


def test_a_malloc_free_trace() -> None:
    problem = parse_problem(
        "0 malloc t13 128MB\n1 malloc t14 128MB\n2 free t14\n3 malloc t14 64MB\n4 free t13\n"
    )
    assert [(b.id, b.lower, b.upper, b.size >> 20) for b in problem.buffers] == [
        ("t13", 0, 4, 128), ("t14", 1, 2, 128), ("t14#2", 3, 5, 64),
    ]  # fmt: skip
    assert parse_problem("0 tensor t13 malloc 128MB\n1 t13 free\n").size.tolist() == [128 << 20]


def test_a_memory_snapshot() -> None:
    events = [
        {"action": "segment_alloc", "addr": 0, "size": 4096},
        {"action": "alloc", "addr": 0, "size": 512},
        {"action": "alloc", "addr": 512, "size": 1024},
        {"action": "free_requested", "addr": 0, "size": 512},
        {"action": "free_completed", "addr": 0, "size": 512},
        {"action": "alloc", "addr": 0, "size": 256},
    ]
    problem = parse_problem(json.dumps({"segments": [], "device_traces": [events]}))
    assert sorted(zip(problem.lower.tolist(), problem.upper.tolist(), problem.size.tolist(), strict=True)) == [
        (0, 2, 512), (1, 4, 1024), (3, 4, 256),
    ]  # fmt: skip


def test_arena_plans_and_buffer_assignments() -> None:
    tensors = [
        {"name": "x", "bytes": 64, "first_time_used": 0, "last_time_used": 1},
        {"bytes": 32, "lower": 2, "upper": 3},
    ]
    assert parse_problem(json.dumps({"tensors": tensors})).upper.tolist() == [2, 3]
    text = (
        "allocation 0: size 96\n value: <3 add @0> (size=64,offset=0): f32[16]{0}\n"
        " value: <4 mul @0> (size=32,offset=64): f32[8]{0}\nBufferLiveRange:\n    add{}:0-3\n    mul{}:2-5\n"
    )
    problem = parse_problem(text)
    assert [(b.id, b.lower, b.upper, b.size) for b in problem.buffers] == [
        ("add", 0, 4, 64),
        ("mul", 2, 6, 32),
    ]


def test_the_checker_sees_every_kind_of_fault() -> None:
    problem = AllocationProblem.of(
        [Buffer("a", 0, 2, 4), Buffer("b", 1, 3, 4, alignment=4), Buffer("c", 5, 6, 2, offset=3)]
    )
    assert check(problem, [0, 4, 3], 8) == []
    kinds = [
        check(problem, offsets, 8)[0].kind
        for offsets in ([2, 4, 3], [-1, 4, 3], [0, 6, 3], [0, 4, 2], [8, 4, 3], [0, 4])
    ]
    assert kinds == ["overlap", "negative", "alignment", "pin", "capacity", "count"]
    assert {v.kind for v in check(problem, [0, 0, 3], 8)} == {"overlap"}
