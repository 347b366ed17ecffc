"""Every reader of problems to the last number: times, sizes, scales, lines, and each message word by word."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hw_configs.problems import InputError
from mapping.allocation import AllocationProblem, Buffer, Gap, Span
from mapping.allocation import csv_format as csv_module
from mapping.allocation.csv_format import parse_csv, read_text, to_csv, write_text
from mapping.allocation.importers import from_events, parse_problem, read_problem

Row = tuple[str, int, int, int]


def rows(problem: AllocationProblem) -> list[Row]:
    return [(b.id, b.lower, b.upper, b.size) for b in problem.buffers]


def told(text: str, file: str | None = "f") -> list[str]:
    with pytest.raises(InputError) as error:
        parse_problem(text, file)
    return [str(problem) for problem in error.value.problems]


HEAD = "id,lower,upper,size"
LARGEST = 2**60
CSV_MESSAGES = {
    "": ["f:1: is empty; expected the columns id, lower, upper, size"],
    " \n,,\n": ["f:1: is empty; expected the columns id, lower, upper, size"],
    '\nid,lower,upper,size\n"a\rb",0,1,2': None,
    "\nid,lower,upper,siez,id\n": [
        "f:2: found the column 'siez'; expected id, lower, upper, size, alignment, hint, gaps, offset, "
        "alias, inside, conflicts, shares, bank, apart, boundary, moves (did you mean 'size'?)",
        "f:2: the column 'id' stands twice",
        "f:2: the column 'size' is missing",
    ],
    f"{HEAD}\na,0,1\n\nb,0,1,2,3\n": ["f:2: found 3 fields; expected 4", "f:4: found 5 fields; expected 4"],
    f"{HEAD}\na,0,1,2\n\na,0,1,2\na,0,1,2\n": [
        "f:4: id: found 'a' again; line 2 has it already",
        "f:5: id: found 'a' again; line 4 has it already",
    ],
    f"{HEAD}\n,0,1,2\n": ["f:2: id: found nothing; expected a name"],
    f"{HEAD}\na,5,4,2\n": ["f:2: upper: found 4; expected an end that is not before 5"],
    "id,start,end,size\na,5,3,2\n": ["f:2: upper: found 3; expected an end that is not before 5"],
    f"{HEAD}\na,x,,-1\n": [
        "f:2: lower: found 'x'; expected an integer of at most 2**60",
        "f:2: upper: found ''; expected an integer of at most 2**60",
        "f:2: size: found -1; expected at least 0",
    ],
    f"{HEAD},alignment,offset,hint\na,0,1,2,0,-1,x\n": [
        "f:2: alignment: found 0; expected at least 1",
        "f:2: offset: found -1; expected at least 0",
        "f:2: hint: found 'x'; expected an integer of at most 2**60",
    ],
    f"{HEAD}\na,0,{LARGEST + 1},2\n": [
        f"f:2: upper: found '{LARGEST + 1}'; expected an integer of at most 2**60"
    ],
    f"{HEAD},gaps\na,0,9,2,1:2 2-3@1 4-{LARGEST + 1}\n": [
        "f:2: gaps: found '1:2'; expected lo-hi or lo-hi@wlo:whi",
        "f:2: gaps: found '2-3@1'; expected lo-hi or lo-hi@wlo:whi",
        f"f:2: gaps: found '4-{LARGEST + 1}'; expected integers of at most 2**60",
    ],
    f"{HEAD},gaps\na,0,9,2,5-10\n": [
        "f:2: gaps: buffer 'a': gap 5-10; expected gaps in order inside the lifetime 0-9, without overlap"
    ],
    f"{HEAD},gaps\na,0,9,2,2-5 4-6\n": [
        "f:2: gaps: buffer 'a': gap 4-6; expected gaps in order inside the lifetime 0-9, without overlap"
    ],
    f"{HEAD},gaps\na,1,9,2,0-5@0:3\n": [
        "f:2: gaps: buffer 'a': gap 0-5; expected gaps in order inside the lifetime 1-9, without overlap",
        "f:2: gaps: buffer 'a': gap 0-5: window 0:3; expected a window in 0:2",
    ],
}  # fmt: skip


@pytest.mark.parametrize("text", CSV_MESSAGES)
def test_what_is_wrong_with_a_table_is_said_line_by_line(text: str) -> None:
    expected = CSV_MESSAGES[text]
    if expected is None:
        assert rows(parse_csv(text)) == [("a\rb", 0, 1, 2)]
        return
    with pytest.raises(InputError) as error:
        parse_csv(text, "f")
    assert [str(problem) for problem in error.value.problems] == expected


def test_after_fifty_problems_a_table_is_read_no_further() -> None:
    for wrong, found in ((49, 49), (50, 50), (51, 50)):
        with pytest.raises(InputError) as error:
            parse_csv(f"{HEAD}\n" + "a,0,1\n" * wrong)
        assert len(error.value.problems) == found


def test_defaults_aliases_and_bounds_of_a_row() -> None:
    problem = parse_csv(
        "buffer,begin,upper,size,alignment,hint,offset,gaps\n"
        f"a,{-LARGEST},{LARGEST},0,1,,,\nb,-3,-3,1,,-5,,\nc,0,4,2,,0,0,0-1 1-4@0:2\n"
    )
    assert problem.buffers == [
        Buffer("a", -LARGEST, LARGEST, 0),
        Buffer("b", -3, -3, 1),
        Buffer("c", 0, 4, 2, 1, 0, 0, (Gap(0, 1), Gap(1, 4, (0, 2)))),
    ]
    assert (problem.hint.tolist(), problem.fixed.tolist()) == ([-1, -1, 0], [-1, -1, 0])


def test_a_table_is_written_with_the_columns_that_it_needs() -> None:
    plain = AllocationProblem.of([Buffer("a", 0, 2, 4), Buffer("b", 1, 3, 5)])
    assert to_csv(plain) == f"{HEAD}\na,0,2,4\nb,1,3,5\n"
    assert to_csv(plain, [7, 0]) == f"{HEAD},offset\na,0,2,4,7\nb,1,3,5,0\n"
    full = AllocationProblem.of(
        [Buffer("a", 0, 9, 4, 2, 0, 0, (Gap(1, 2), Gap(3, 5, (1, 3)))), Buffer("b", 1, 3, 5)]
    )
    assert to_csv(full) == (f"{HEAD},alignment,hint,gaps,offset\na,0,9,4,2,0,1-2 3-5@1:3,0\nb,1,3,5,1,,,\n")
    assert to_csv(full, [0, 8]).splitlines()[1:] == ["a,0,9,4,2,0,1-2 3-5@1:3,0", "b,1,3,5,1,,,8"]
    assert to_csv(AllocationProblem.of([Buffer("a", 0, 1, 1, offset=0), Buffer("b", 0, 1, 1)])) == (
        f"{HEAD},offset\na,0,1,1,0\nb,0,1,1,\n"
    )


def test_files_that_cannot_be_read_or_written_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(call: object, *given: object) -> str:
        with pytest.raises(InputError) as error:
            call(*given)  # type: ignore[operator]
        return str(error.value)

    folder, absent, odd, good = (tmp_path / name for name in ("folder", "absent", "odd", "good.csv"))
    folder.mkdir()
    odd.write_bytes(b"\xff\xfe\xff")
    good.write_bytes(b"\xef\xbb\xbfid")
    assert refusal(read_text, folder) == f"{folder}: not a file"
    assert refusal(read_text, absent) == f"{absent}: cannot be read: No such file or directory"
    assert refusal(read_text, odd) == f"{odd}: is not text in UTF-8"
    assert read_text(good) == "id"
    assert refusal(write_text, folder, "x") == f"{folder}: cannot be written: Is a directory"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "good.csv", "odd"]
    write_text(good, "new")
    assert good.read_text() == "new"
    assert csv_module.LARGEST_FILE_BYTES == 2**30
    monkeypatch.setattr(csv_module, "LARGEST_FILE_BYTES", 3)
    assert read_text(good) == "new"
    monkeypatch.setattr(csv_module, "LARGEST_FILE_BYTES", 2)
    assert refusal(read_text, good) == f"{good}: is larger than 2 bytes"
    with pytest.raises(InputError, match="is not a CSV file: field larger than field limit"):
        parse_csv("id\n" + "x" * 200_000)
    for name in ("s.pkl", "s.PICKLE"):
        assert refusal(read_problem, tmp_path / name) == (
            f"{tmp_path / name}: cannot be read: No such file or directory"
        )


def test_events_give_lives_by_their_index() -> None:
    events = [
        ("malloc", "a", 5), ("malloc", "b", 1), ("free", "a", 0), ("free", "ghost", 0), ("free", "before", 7),
        ("malloc", "a", 6), ("malloc", "c", 2), ("free", "a", 0), ("malloc", "a", 3),
    ]  # fmt: skip
    problem = from_events(events, "t")
    assert problem.name == "t"
    assert rows(problem) == [
        ("a", 0, 2, 5), ("before", 0, 4, 7), ("b", 1, 9, 1), ("a#2", 5, 7, 6), ("c", 6, 9, 2), ("a#3", 8, 9, 3),
    ]  # fmt: skip
    assert rows(from_events([])) == []
    with pytest.raises(InputError) as error:
        from_events([("malloc", "a", 1)] * 30, file="f")
    assert [str(p) for p in error.value.problems] == [
        f"f: event {i}: 'a' is allocated again before it was freed" for i in range(1, 21)
    ]


def test_a_trace_scales_its_sizes_and_skips_its_comments() -> None:
    text = (
        "# one\n0: malloc a 3\n1, alloc b 2 KB # two\n\nc malloc 1MiB\nmalloc d 1gib\nmalloc e 4B\nmalloc f 1kib\n"
        "malloc g 2MB\nmalloc h 1GB\nfree a\nb free\nmalloc z 0\n"
    )
    assert {b.id: (b.lower, b.upper, b.size) for b in parse_problem(text[6:]).buffers} == {
        "a": (0, 8, 3), "b": (1, 9, 2048), "c": (2, 11, 2**20), "d": (3, 11, 2**30), "e": (4, 11, 4),
        "f": (5, 11, 1024), "g": (6, 11, 2**21), "h": (7, 11, 2**30), "z": (10, 11, 0),
    }  # fmt: skip
    assert rows(parse_problem("free a 5\nmalloc b 1\nfree a\n")) == [("b", 1, 3, 1)]


def test_a_wrong_trace_is_told_line_by_line() -> None:
    text = (
        f"malloc a 1\nhello\nmalloc b\n\nfree a 9\nmalloc c {2**50 + 1} KB\nmalloc d {LARGEST}\n{'x' * 70}\n"
    )
    assert told(text) == [
        "f:2: found 'hello'; expected 'malloc ID SIZE' or 'free ID'",
        "f:3: found 'malloc b'; a malloc needs a size in bytes",
        f"f:6: found {2**50 + 1} KB; expected at most 2**60 bytes",
        f"f:8: found '{'x' * 60}'; expected 'malloc ID SIZE' or 'free ID'",
    ]
    assert told(f"malloc a {LARGEST + 1}\n") == [f"f:1: found {LARGEST + 1}; expected at most 2**60 bytes"]
    assert rows(parse_problem(f"malloc a {2**50} KB\n")) == [("a", 0, 1, LARGEST)]
    assert len(told("malloc a 1\n" + "bad\n" * 60)) == 50


def event(action: str, address: object = 0, size: object = 8) -> dict[str, object]:
    return {"action": action, "addr": address, "size": size}


def test_a_snapshot_ends_lives_where_bytes_are_free_again() -> None:
    alloc, asked, done = event("alloc", 16), event("free_requested", 16), event("free_completed", 16)
    both = [event("oom"), event("segment_alloc", 16), alloc, asked, done]
    # Events that say nothing of a buffer take no time.
    assert rows(parse_problem(json.dumps({"device_traces": [[], both]}))) == [("0x10", 0, 1, 8)]
    assert rows(parse_problem(json.dumps({"traces": [[alloc, asked]]}))) == [("0x10", 0, 1, 8)]
    assert rows(parse_problem(json.dumps({"traces": [alloc, event("free", 16), alloc]}))) == [
        ("0x10", 0, 1, 8), ("0x10#2", 2, 3, 8),
    ]  # fmt: skip
    renamed = {"action": "alloc", "address": 255, "size": 4}
    assert rows(parse_problem(json.dumps([renamed, renamed | {"action": "free"}]))) == [("0xff", 0, 1, 4)]
    assert told('{"traces": []}') == [
        "f: holds no events and no segments; expected a snapshot taken after _record_memory_history()"
    ]
    assert told(json.dumps({"traces": [[alloc, "odd"]]})) == ["f: event 1: found str; expected an object"]
    assert told(json.dumps({"traces": [[event("alocc")]]}))[0].endswith("(did you mean 'alloc'?)")
    assert told(json.dumps({"traces": [[alloc], [alloc], [alloc]]})) == [
        "f: holds the devices 0, 1, 2, each with its own memory; choose one with --device-index"
    ]
    assert told(json.dumps({"traces": [[asked, event("alloc", "x")]]})) == [
        "f: event 1.addr: found 'x'; expected an integer"
    ]
    assert told(json.dumps([event("alloc", True)])) == ["f: event 0.addr: found True; expected an integer"]
    assert told(json.dumps([event("alloc", 2**63 + 1)])) == [
        f"f: event 0.addr: found {2**63 + 1}; expected an integer"
    ]
    assert rows(parse_problem(json.dumps([event("alloc", 2**63)]))) == [(hex(2**63), 0, 1, 8)]
    assert told('[{"action": "alloc", "size": 1}]') == ["f: event 0: has none of addr, address"]


def test_lists_of_tensors_are_read_by_any_of_their_names() -> None:
    tensors = [
        {"name": "x", "bytes": 64, "first_use": 1, "last_use": 4, "offset": -1, "alignment": 16},
        {"id": 7, "size": 32, "start": 2, "end": 3, "offset": 0},
        {"size": 1, "lower": 0, "upper": 0, "offset": None},
    ]
    expected = [Buffer("x", 1, 5, 64, 16), Buffer("7", 2, 4, 32, 1, 0), Buffer("2", 0, 0, 1)]
    for data in (tensors, {"tensors": tensors}, {"buffers": tensors}):
        assert parse_problem(json.dumps(data)).buffers == expected
    assert rows(parse_problem("[]")) == []
    for text in ('{"x": 1}', '{"tensors": 3}', '{"traces": 3}'):
        assert told(text) == [
            "f: expected 'device_traces' of a memory snapshot, or a list 'tensors' or 'buffers'"
        ]
    assert told("[1]") == ["f: tensor 0: found int; expected an object"]
    assert told('[{"size": 1, "lower": 0}]') == ["f: tensor 0: has none of last_time_used, last_use, end"]
    assert told('[{"size": 1, "lower": 0, "upper": 1, "alignment": 1.5}]') == [
        "f: tensor 0.alignment: found 1.5; expected an integer"
    ]
    assert told("[1", None)[0].startswith("<json>:1")


def arrays(**changes: list[int]) -> AllocationProblem:
    columns = {"lower": [0], "upper": [1], "size": [1], "alignment": [1], "fixed": [-1], "hint": [-1]}
    given = {name: np.array(values, np.int64) for name, values in (columns | changes).items()}
    return AllocationProblem(**given)  # type: ignore[arg-type]


SPAN = f"expected a time from {-LARGEST} to {LARGEST}"
RANGES = [
    ("lower", -LARGEST - 1, f"lower: buffer '0': found {-LARGEST - 1}; {SPAN}"),
    ("upper", LARGEST + 1, f"upper: buffer '0': found {LARGEST + 1}; {SPAN}"),
    ("size", -1, "size: buffer '0': found -1; expected a size of at least 0 bytes"),
    ("size", LARGEST + 1, f"size: buffer '0': found {LARGEST + 1}; expected at most {LARGEST} bytes"),
    ("alignment", 0, "alignment: buffer '0': found 0; expected an alignment of at least 1"),
    ("alignment", LARGEST + 1, f"alignment: buffer '0': found {LARGEST + 1}; expected at most {LARGEST}"),
    ("fixed", -2, "offset: buffer '0': found -2; expected an offset of at least 0"),
    ("fixed", LARGEST + 1, f"offset: buffer '0': found {LARGEST + 1}; expected at most {LARGEST}"),
]


@pytest.mark.parametrize(("column", "value", "message"), RANGES)
def test_each_figure_has_its_range(column: str, value: int, message: str) -> None:
    inside = value + (1 if value <= 0 else -1)
    assert getattr(arrays(**{column: [inside]}), column).tolist() == [inside]
    with pytest.raises(InputError) as error:
        arrays(**{column: [value]})
    assert str(error.value.problems[0]) == message


def test_a_life_ends_no_earlier_than_it_begins_and_sums_are_bounded() -> None:
    with pytest.raises(InputError) as error:
        arrays(lower=[2], upper=[1])
    assert str(error.value) == "upper: buffer '0': found 1; expected an end that is not before the start"
    three = {"lower": [0] * 3, "upper": [1] * 3, "fixed": [-1] * 3, "hint": [-1] * 3}
    half = LARGEST // 2
    arrays(**three, size=[half, half, 0], alignment=[1] * 3)
    with pytest.raises(InputError) as error:
        arrays(**three, size=[half, half, 4096], alignment=[1] * 3)
    assert str(error.value) == f"size: the sizes sum to more than {LARGEST} bytes"
    with pytest.raises(InputError) as error:
        arrays(**three, size=[1] * 3, alignment=[LARGEST, LARGEST, 4096])
    assert str(error.value) == f"alignment: the alignments sum to more than {2 * LARGEST} bytes"
    many = {"upper": [1] * 30, "size": [1] * 30, "fixed": [-1] * 30, "hint": [-1] * 30}
    with pytest.raises(InputError) as error:
        arrays(**many, lower=[0] * 30, alignment=[0] * 30)
    assert [str(p).split(":")[1] for p in error.value.problems] == [f" buffer '{i}'" for i in range(20)]
    with pytest.raises(ValueError, match="columns must have one length"):
        arrays(size=[1, 2])
    with pytest.raises(InputError) as error:
        AllocationProblem.of([Buffer(f"b{i}", 0, 1, 2**70 if i % 2 else 1) for i in range(50)])
    assert [str(p) for p in error.value.problems] == [
        f"size: buffer 'b{i}': found {2**70}; expected at most {LARGEST}" for i in range(1, 40, 2)
    ]


def test_windows_lie_inside_their_buffer() -> None:
    def one(window: tuple[int, int]) -> AllocationProblem:
        return AllocationProblem.of([Buffer("a", 0, 4, 8, gaps=(Gap(1, 2, window),))])

    for window in ((0, 0), (0, 8), (3, 3), (8, 8)):
        assert one(window).gaps[0][0].window == window
    for window in ((-1, 4), (3, 2), (0, 9)):
        with pytest.raises(InputError) as error:
            one(window)
        assert str(error.value) == (
            f"gaps: buffer 'a': gap 1-2: window {window[0]}:{window[1]}; expected a window in 0:8"
        )


def test_the_parts_of_a_life_and_the_views_of_a_problem() -> None:
    buffers = [
        Buffer("a", 0, 9, 8, gaps=(Gap(5, 7, (1, 3)), Gap(0, 2), Gap(7, 9, (4, 4)))),
        Buffer("b", 3, 3, 8),
        Buffer("c", 2, 4, 0),
        Buffer("d", 2, 4, 6, 2, 0, 0),
    ]
    problem = AllocationProblem.of(buffers, "p")
    assert [problem.spans(i) for i in range(4)] == [
        [Span(2, 5, 0, 8), Span(5, 7, 1, 3)], [], [], [Span(2, 4, 0, 6)],
    ]  # fmt: skip
    assert problem.buffers == buffers
    assert problem.subset([3, 0]).buffers == [buffers[3], buffers[0]]
    assert problem.subset([3, 0]).name == problem.pinned_at(problem.fixed).name == "p"
    pinned = problem.pinned_at(np.array([4, -1, -1, -1]))
    assert [buffer.offset for buffer in pinned.buffers] == [4, None, None, None]
    plain = AllocationProblem.from_arrays([0, 1, 2], 5, [3, 4, 5], alignment=2, fixed=[-1, 0, 4])
    assert (list(plain.ids), plain.ids[1:]) == (["0", "1", "2"], ["1", "2"])
    assert plain.buffers[1:] == [Buffer("1", 1, 5, 4, 2, 0), Buffer("2", 2, 5, 5, 2, 4)]
    assert plain.buffers[0] == Buffer("0", 0, 5, 3, 2)
