"""Reads the buffer infos of TVM's Unified Static Memory Planner: sizes, alignments, conflicts and pools.

Two forms: what ``tvm.ir.save_json`` writes of a list or map of ``tir.usmp.BufferInfo`` (a graph of nodes), and plain
rows under ``buffer_infos``, each with ``name_hint`` (or ``name``), ``size_bytes``, ``alignment``, ``conflicts``
(names) and ``pool_candidates`` (names, or objects with ``pool_name`` and ``size_hint_bytes``). There are no lives:
buffers conflict or do not, and :mod:`mapping.allocation.conflict_lives` gives them lives that say the same. Pools are
banks; a size hint below 0 is none. Fields: include/tvm/tir/usmp/utils.h of TVM releases that had it
(github.com/apache/tvm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.whole_number import integer
from mapping.allocation.conflict_lives import lives_of_conflicts
from mapping.allocation.problem import AllocationProblem, Buffer
from mapping.allocation.rules import Rules

__all__ = ["is_usmp", "read_usmp"]

_INFO: Final = "tir.usmp.BufferInfo"
_LARGEST: Final = 2**60
_MOST_TOLD: Final = 20


@dataclass(frozen=True)
class _Info:
    """One buffer info: ``conflicts`` by position or by name, ``pools`` with their size hints (-1: none)."""

    name: str
    size: int
    alignment: int
    conflicts: tuple[str | int, ...]
    pools: tuple[tuple[str, int], ...]


def is_usmp(data: Any) -> bool:
    """Whether plain data is one of the two forms."""
    if not isinstance(data, Mapping):
        return False
    if isinstance(data.get("buffer_infos"), list):
        return True
    nodes = data.get("nodes")
    return isinstance(nodes, list) and any(
        isinstance(n, Mapping) and n.get("type_key") == _INFO for n in nodes
    )


def read_usmp(data: Mapping[str, Any], file: str | None = None, name: str = "") -> AllocationProblem:
    """The problem of buffer infos. Raises ``InputError`` where a row or a reference is not understood."""
    infos = (
        _Nodes(data["nodes"], file).infos()
        if "buffer_infos" not in data
        else _rows(data["buffer_infos"], file)
    )
    problems: list[Problem] = []
    index: dict[str, int] = {}
    for i, info in enumerate(infos):
        if info.name in index:
            problems.append(
                Problem(f"found {info.name!r} again; expected a name of its own", file, path=f"buffer {i}")
            )
        index.setdefault(info.name, i)
    near: list[set[int]] = [set() for _ in infos]
    for i, info in enumerate(infos):
        for other in info.conflicts:
            k = index.get(other) if isinstance(other, str) else other
            if k is None:
                told = f"buffer {info.name!r} conflicts with {other!r}, which is no buffer"
                problems.append(
                    Problem(told, file, path="conflicts", suggestion=nearest(str(other), list(index)))
                )
            elif k != i:
                near[i].add(k)
                near[k].add(i)
    sizes = _pool_sizes(infos, file, problems)
    if problems:
        raise InputError(problems[:_MOST_TOLD])
    buffers = [
        Buffer(info.name, lower, upper, info.size, info.alignment, gaps=gaps)
        for info, (lower, upper, gaps) in zip(infos, lives_of_conflicts(near), strict=True)
    ]
    banks = {i: tuple(pool for pool, _ in info.pools) for i, info in enumerate(infos) if info.pools}
    return AllocationProblem.of(buffers, name, Rules(banks=banks, pools=sizes))


def _pool_sizes(infos: Sequence[_Info], file: str | None, problems: list[Problem]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for info in infos:
        for pool, size in info.pools:
            if sizes.setdefault(pool, size) != size:
                problems.append(
                    Problem(f"pool {pool!r} has {sizes[pool]} and {size} bytes", file, path="pool_candidates")
                )
    return {pool: size for pool, size in sizes.items() if size >= 0}


def _rows(rows: Sequence[Any], file: str | None) -> list[_Info]:
    infos = []
    for i, row in enumerate(rows):
        where = f"buffer_infos.{i}"
        if not isinstance(row, Mapping):
            raise bad_input(f"found {type(row).__name__}; expected an object", file=file, path=where)
        name = row.get("name_hint", row.get("name"))
        known = {"name_hint", "name", "size_bytes", "alignment", "conflicts", "pool_candidates", "kind"}
        other = sorted(set(row) - known)
        if other or not isinstance(name, str):
            found = f"found {other[0]!r}" if other else "found no name"
            raise bad_input(f"{found}; expected {', '.join(sorted(known))}", file=file, path=where)
        conflicts, pools = row.get("conflicts", []), row.get("pool_candidates", [])
        if not (
            isinstance(conflicts, list)
            and all(isinstance(c, str) for c in conflicts)
            and isinstance(pools, list)
        ):
            raise bad_input(
                "expected conflicts as a list of names and pool_candidates as a list", file=file, path=where
            )
        infos.append(
            _Info(
                name,
                _figure(row.get("size_bytes"), 0, f"{where}.size_bytes", file),
                _figure(row.get("alignment", 1), 1, f"{where}.alignment", file),
                tuple(conflicts),
                tuple(_pool(pool, where, file) for pool in pools),
            )
        )
    return infos


def _pool(pool: Any, where: str, file: str | None) -> tuple[str, int]:
    if isinstance(pool, str):
        return pool, -1
    if not isinstance(pool, Mapping) or not isinstance(pool.get("pool_name"), str):
        raise bad_input(
            "expected a pool's name, or an object with pool_name", file=file, path=f"{where}.pool_candidates"
        )
    return pool["pool_name"], _figure(pool.get("size_hint_bytes", -1), -1, f"{where}.size_hint_bytes", file)


def _figure(value: Any, least: int, where: str, file: str | None) -> int:
    found = None
    if isinstance(value, int) and not isinstance(value, bool):
        found = value if least <= value <= _LARGEST else None
    elif isinstance(value, str):
        found = integer(value, least, _LARGEST)
    if found is None:
        raise bad_input(f"found {value!r}; expected an integer from {least} to 2**60", file=file, path=where)
    return found


class _Nodes:
    """A graph of nodes as TVM saves it: attributes are texts, those that refer are node numbers."""

    def __init__(self, nodes: Sequence[Any], file: str | None) -> None:
        self._nodes, self._file = nodes, file

    def infos(self) -> list[_Info]:
        """All buffer infos, in the order of the nodes."""
        numbers = [i for i, node in enumerate(self._nodes) if self._kind(i) == _INFO]
        position = {number: i for i, number in enumerate(numbers)}
        found = []
        for number in numbers:
            conflicts = self._array(self._refer(number, "conflicts"))
            lost = [k for k in conflicts if k not in position]
            if lost:
                raise bad_input(
                    f"found node {lost[0]}; expected a {_INFO}", file=self._file, path=f"nodes.{number}"
                )
            found.append(
                _Info(
                    self._text(self._refer(number, "name_hint")),
                    self._number(self._refer(number, "size_bytes"), 0),
                    self._number(self._refer(number, "alignment"), 1),
                    tuple(position[k] for k in conflicts),
                    tuple(self._pool(k) for k in self._array(self._refer(number, "pool_candidates"))),
                )
            )
        return found

    def _pool(self, number: int) -> tuple[str, int]:
        return self._text(self._refer(number, "pool_name")), self._number(
            self._refer(number, "size_hint_bytes"), -1
        )

    def _node(self, number: int) -> Mapping[str, Any]:
        if not 0 <= number < len(self._nodes) or not isinstance(self._nodes[number], Mapping):
            raise bad_input(
                f"found node {number}; the file has {len(self._nodes)}", file=self._file, path="nodes"
            )
        node: Mapping[str, Any] = self._nodes[number]
        return node

    def _kind(self, number: int) -> str:
        return str(self._node(number).get("type_key", ""))

    def _attribute(self, number: int, name: str) -> Any:
        attributes = self._node(number).get("attrs")
        if not isinstance(attributes, Mapping) or name not in attributes:
            raise bad_input(f"has no attribute {name!r}", file=self._file, path=f"nodes.{number}")
        return attributes[name]

    def _refer(self, number: int, name: str) -> int:
        return _figure(self._attribute(number, name), 0, f"nodes.{number}.{name}", self._file)

    def _array(self, number: int) -> list[int]:
        if number == 0:
            return []
        data = self._node(number).get("data", [])
        if self._kind(number) not in ("Array", "runtime.Array", "ffi.Array") or not isinstance(data, list):
            raise bad_input(
                f"found {self._kind(number)!r}; expected an Array", file=self._file, path=f"nodes.{number}"
            )
        return [_figure(item, 0, f"nodes.{number}.data", self._file) for item in data]

    def _text(self, number: int) -> str:
        node = self._node(number)
        text = node.get("repr_str", node.get("repr_b64"))
        if "repr_str" not in node or not isinstance(text, str):
            raise bad_input(
                f"found {self._kind(number)!r}; expected a String", file=self._file, path=f"nodes.{number}"
            )
        return text

    def _number(self, number: int, least: int) -> int:
        return _figure(self._attribute(number, "value"), least, f"nodes.{number}.value", self._file)
