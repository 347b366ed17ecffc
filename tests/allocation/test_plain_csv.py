"""The quick way through a CSV file gives what the way row by row gives, or leaves the file to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from mapping.allocation import csv_format
from mapping.allocation.csv_format import _plain_problem, parse_csv, to_csv
from mapping.allocation.problem import AllocationProblem
from tests.allocation.strategies import problems


def same(one: AllocationProblem, two: AllocationProblem) -> bool:
    columns = ("lower", "upper", "size", "alignment", "fixed", "hint")
    equal = all(np.array_equal(getattr(one, column), getattr(two, column)) for column in columns)
    return equal and list(one.ids) == list(two.ids) and one.gaps == two.gaps and one.name == two.name


def row_by_row(text: str, monkeypatch: pytest.MonkeyPatch) -> AllocationProblem:
    def refuse(*_: Any) -> None:
        return None

    with monkeypatch.context() as patch:
        patch.setattr(csv_format, "_plain_problem", refuse)
        return parse_csv(text, "a.csv", "x")


@settings(max_examples=100, deadline=None)
@given(problems(aligned=True, pinned=True), st.integers(1, 3))
def test_both_ways_read_the_same(problem: AllocationProblem, at_once: int) -> None:
    text = to_csv(problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_format, "_ROWS_AT_ONCE", at_once)
        quick = _plain_problem(text, "x")
        slow = row_by_row(text, patch)
    # Cells that are empty, as of buffers without a pin, are left to the other way.
    assert quick is None or same(quick, slow)
    assert quick is not None or (problem.fixed >= 0).any()


def test_an_inclusive_end_and_other_names_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'size,start,end,buffer\n4,0,2,"a,b"\n5, 3,9, c \n'
    plain = text.replace(" 3", "3")
    quick = _plain_problem(plain, "x")
    assert quick is not None
    assert same(quick, row_by_row(plain, monkeypatch))
    assert (quick.ids[0], quick.ids[1], int(quick.upper[0])) == ("a,b", "c", 3)
    assert _plain_problem(text, "x") is None
    assert same(parse_csv(text, "a.csv", "x"), quick)


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ("b,0,4", "found 3 fields"),
        ("a,0,4,1", "again"),
        ("b,4,0,1", "not before"),
        ("b,0,4,-1", "at least 0"),
        ("b,0,4,٣", "integer"),
        ("b,0,4,1_0", "integer"),
        ("b,0,4,9999999999999999999999", "integer"),
        (",0,4,1", "name"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(row: str, line: str) -> None:
    text = f"id,lower,upper,size\na,0,4,1\n{row}\n"
    assert _plain_problem(text, "") is None
    with pytest.raises(InputError, match=line) as caught:
        parse_csv(text, "a.csv")
    assert caught.value.problems[0].line == 3
