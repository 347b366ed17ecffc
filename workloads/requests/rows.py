"""Rows of a request file on their way into columns, and what is wrong with some of them."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Any, Final

import numpy as np

from hw_configs.problems import InputError, Problem
from hw_configs.whole_number import decimal, integer
from workloads.requests.table import MAX_TOKENS, Requests, make_requests

__all__ = ["MOST_PROBLEMS", "MOST_ROWS", "Rows"]

MOST_ROWS: Final = 10_000_000
MOST_PROBLEMS: Final = 20
"""Wrong lines after which a file is given up."""
MOST_SEGMENTS: Final = 200_000_000
FURTHEST_S: Final = 1e12


class Rows:
    """Collects requests row by row; problems are kept, and raised at the end or when there are too many."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.skipped: Counter[str] = Counter()
        self.arrival, self.prompt, self.output = array("d"), array("q"), array("q")
        self.begin, self.stream, self.tokens = array("q", [0]), array("q"), array("q")
        self.marks: dict[str, array[Any]] = {}
        self.shares = False

    def __len__(self) -> int:
        return len(self.prompt)

    def problem(self, line: int, field: str, found: object, expected: str) -> None:
        """Note what is wrong with a field of a line; raises when that is one too many."""
        shown = repr(found)
        self.problems.append(
            Problem(f"found {shown if len(shown) <= 80 else shown[:77] + '...'}; expected {expected}",
                    self.file, line, field)
        )  # fmt: skip
        if len(self.problems) >= MOST_PROBLEMS:
            raise InputError(self.problems)

    def count(
        self, line: int, field: str, value: object, least: int = 1, most: int = MAX_TOKENS
    ) -> int | None:
        """A whole number from a cell or JSON value; None, with a problem noted, where it is none."""
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            value = int(value)
        if isinstance(value, str):
            found = integer(value, least, most)
            if found is None and (number := decimal(value.strip())) is not None and number.is_integer():
                found = int(number) if least <= number <= most else None
        elif isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            found = value
        else:
            found = None
        if found is None:
            self.problem(line, field, value, f"a whole number from {least} to {most}")
        return found

    def seconds(self, line: int, field: str, value: object, unit_s: float = 1.0) -> float | None:
        """Seconds from a number of ``unit_s``; None, with a problem noted, where it is none."""
        number: float | None = None
        if isinstance(value, str):
            number = decimal(value.strip())
        elif (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and abs(value) <= FURTHEST_S / unit_s
        ):
            number = float(value)
        if number is None or not 0 <= number * unit_s <= FURTHEST_S:
            self.problem(line, field, value, "a time of at least 0")
            return None
        return number * unit_s

    def add(
        self, arrival_s: float, prompt: int, output: int, segments: list[tuple[int, int]] | None = None
    ) -> None:
        """A request; ``segments`` (stream, tokens) of its prompt, None: a text of its own."""
        number = len(self.prompt)
        self.arrival.append(arrival_s)
        self.prompt.append(prompt)
        self.output.append(output)
        if segments is None:
            segments = [(2**40 + number, prompt)]
        else:
            self.shares = True
        for stream, tokens in segments:
            self.stream.append(stream)
            self.tokens.append(tokens)
        self.begin.append(len(self.stream))
        if len(self.stream) > MOST_SEGMENTS or number >= MOST_ROWS:
            raise InputError(
                [Problem(f"expected at most {MOST_ROWS} requests and {MOST_SEGMENTS} blocks", self.file)]
            )

    def mark(self, name: str, value: float) -> None:
        """A further column's value of the request last added."""
        kind = "d" if name.endswith("_s") else "q"
        self.marks.setdefault(name, array(kind)).append(value if kind == "d" else int(value))

    def requests(self, name: str, adapters: tuple[str, ...] = ()) -> Requests:
        """The columns, in order of arrival from time zero; raises the problems found."""
        if self.problems:
            raise InputError(self.problems)
        if not len(self):
            raise InputError([Problem("found no request", self.file)])
        arrival = np.asarray(self.arrival)
        if "after" not in self.marks:
            order = np.argsort(arrival, kind="stable")
            if (order != np.arange(len(order))).any():
                return self._in_order(order, name, adapters)
        marks: dict[str, Any] = {key: np.asarray(column) for key, column in self.marks.items()}
        made = make_requests(np.asarray(self.prompt), np.asarray(self.output), arrival - arrival.min(), name=name,
                             adapters=adapters, **marks)  # fmt: skip
        columns = {key: getattr(made, key) for key in Requests.__dataclass_fields__}
        columns |= {
            "segment_begin": np.asarray(self.begin), "segment_stream": np.asarray(self.stream),
            "segment_tokens": np.asarray(self.tokens),
        }  # fmt: skip
        return Requests(**columns)

    def _in_order(self, order: Any, name: str, adapters: tuple[str, ...]) -> Requests:
        """The same rows sorted by arrival."""
        sorted_rows = Rows(self.file)
        for row in order.tolist():
            low, high = self.begin[row], self.begin[row + 1]
            sorted_rows.add(self.arrival[row], self.prompt[row], self.output[row],
                            list(zip(self.stream[low:high], self.tokens[low:high], strict=True)))  # fmt: skip
            for key, column in self.marks.items():
                sorted_rows.mark(key, column[row])
        return sorted_rows.requests(name, adapters)
