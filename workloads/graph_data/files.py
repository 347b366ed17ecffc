"""Graphs in files: edge lists as text (packed or not), CSR arrays in ``.npz``, and degrees, one a line.

An edge list has ``SOURCE TARGET`` on a line, further columns ignored; lines that begin with ``#`` or ``%`` are
comments.
The number of nodes is one more than the largest number, unless it is given. A ``.npz`` holds ``offsets`` and
``neighbours`` and is read without pickle.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.output_file import replacing
from hw_configs.problems import InputError, Problem, bad_input
from hw_configs.whole_number import integer
from workloads.graph_data.adjacency import MAX_NODES, Adjacency, from_edges
from workloads.graph_data.generators import MAX_MADE_EDGES
from workloads.packed_file import open_text, unreadable_told

__all__ = ["load_adjacency", "read_degrees", "read_edge_list", "save_adjacency"]

MAX_LINE: Final = 4096
MAX_PROBLEMS: Final = 5
MAX_ARRAY_BYTES: Final = 2**36
_CHUNK: Final = 1 << 16


def load_adjacency(path: str | Path, *, directed: bool = True) -> Adjacency:
    """The graph of a file: ``.npz`` as CSR, anything else as an edge list. Raises ``InputError`` for bad input."""
    path = Path(path)
    return _read_npz(path) if path.suffix == ".npz" else read_edge_list(path, directed=directed)


def read_edge_list(path: str | Path, *, directed: bool = True, nodes: int | None = None) -> Adjacency:
    """An edge list, ``.gz`` and ``.zst`` unpacked on the way. Raises ``InputError`` by file, line and field."""
    path = Path(path)
    rows = _numbers(path, ("source", "target"), MAX_NODES - 1, MAX_MADE_EDGES)
    if not rows.size:
        raise bad_input("the file holds no edges", file=str(path))
    count = int(rows.max()) + 1 if nodes is None else nodes
    return from_edges(rows[:, 0], rows[:, 1], count, directed=directed, name=str(path))


def read_degrees(path: str | Path) -> npt.NDArray[np.int64]:
    """Degrees, one a line, node by node. Raises ``InputError`` by file, line and field."""
    path = Path(path)
    rows = _numbers(path, ("degree",), MAX_NODES, MAX_NODES)
    if not rows.size:
        raise bad_input("the file holds no degrees", file=str(path))
    return rows[:, 0]


def save_adjacency(graph: Adjacency, path: str | Path) -> None:
    """Write the arrays as ``.npz``, under a temporary name first. Raises ``InputError`` if it cannot."""
    if Path(path).suffix != ".npz":
        raise bad_input("expected a name that ends in .npz", file=str(path))
    with replacing(path) as part, part.open("wb") as stream:
        np.savez(stream, offsets=graph.offsets, neighbours=graph.neighbours)


def _read_npz(path: Path) -> Adjacency:
    name = str(path)
    with unreadable_told(name):
        try:
            with zipfile.ZipFile(path) as packed:
                unpacked = sum(info.file_size for info in packed.infolist())
            if unpacked > MAX_ARRAY_BYTES:
                raise bad_input(f"found {unpacked} bytes; expected at most {MAX_ARRAY_BYTES}", file=name)
            with np.load(path, allow_pickle=False) as arrays:
                missing = [part for part in ("offsets", "neighbours") if part not in arrays.files]
                if missing:
                    raise InputError([Problem("no such array", file=name, path=part) for part in missing])
                return Adjacency(arrays["offsets"], arrays["neighbours"], name)
        except (zipfile.BadZipFile, ValueError, EOFError, KeyError, NotImplementedError) as error:
            raise bad_input(f"not a .npz of plain arrays: {error}", file=name) from None


def _numbers(path: Path, fields: tuple[str, ...], most: int, most_rows: int) -> npt.NDArray[np.int64]:
    """The first columns of a text file as whole numbers."""
    blocks: list[npt.NDArray[np.int64]] = []
    rows: list[list[int]] = []
    problems: list[Problem] = []
    count, name = 0, str(path)
    with unreadable_told(name), open_text(path) as stream:
        for line, text in enumerate(iter(lambda: stream.readline(MAX_LINE + 1), ""), 1):
            if len(text) > MAX_LINE:
                raise bad_input(f"a line of more than {MAX_LINE} characters", file=name, line=line)
            cells = text.split(None, len(fields))
            if not cells or cells[0][0] in "#%":
                continue
            row, wrong = _row(cells, fields, most)
            problems += [Problem(message, name, line, field) for field, message in wrong]
            if len(problems) >= MAX_PROBLEMS:
                break
            rows.append(row)
            count += 1
            if count > most_rows:
                raise bad_input(f"more than {most_rows} rows", file=name, line=line)
            if len(rows) == _CHUNK:
                blocks.append(np.array(rows, np.int64))
                rows = []
    if problems:
        raise InputError(problems)
    return np.concatenate([*blocks, np.array(rows, np.int64).reshape(-1, len(fields))])


def _row(cells: list[str], fields: tuple[str, ...], most: int) -> tuple[list[int], list[tuple[str, str]]]:
    """The numbers of a line, and what is wrong with which of its fields."""
    row, wrong = [], []
    for index, field in enumerate(fields):
        text = cells[index] if index < len(cells) else ""
        value = integer(text, 0, most)
        if value is None:
            found = f"found {text[:80]!r}" if text else "missing"
            wrong.append((field, f"{found}; expected a whole number from 0 to {most}"))
        row.append(value or 0)
    return row, wrong
