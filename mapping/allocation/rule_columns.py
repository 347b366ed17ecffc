"""The columns that say rules, in CSV cells and in JSON values, and the rules that they make.

``alias``: a group's name; ``inside``: the id of the buffer in whose bytes this one lies; ``conflicts`` and ``shares``:
ids that this one never, or may, share bytes with; ``bank``: banks it may go to; ``apart``: ids that go to another
bank; ``boundary``: bytes of which no multiple is crossed; ``moves``: times at which it may be copied. Lists are
separated by blanks in a cell (banks by ``|``) and are lists in JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hw_configs.problems import InputError, Problem, nearest
from hw_configs.whole_number import integer
from mapping.allocation.rules import NO_RULES, Rules

__all__ = ["RULE_COLUMNS", "cells_of", "rule_cells", "rules_of"]

RULE_COLUMNS: Final = ("alias", "inside", "conflicts", "shares", "bank", "apart", "boundary", "moves")
_LARGEST: Final = 2**60
_MOST_TOLD: Final = 20

Cells = Mapping[str, Sequence[str]]


def cells_of(row: Mapping[str, Any], split: bool) -> dict[str, list[str]]:
    """The rule columns of a row as lists of words; ``split`` says that values are cells of text."""
    found: dict[str, list[str]] = {}
    for column in RULE_COLUMNS:
        value = row.get(column)
        if value is None or value == "" or value == []:
            continue
        if isinstance(value, (list, tuple)):
            words = [str(word) for word in value]
        elif split and column in ("conflicts", "shares", "apart", "moves"):
            words = str(value).split()
        elif column == "bank":
            words = [word.strip() for word in str(value).split("|")]
        else:
            words = [str(value)]
        found[column] = words
    return found


def rules_of(rows: Sequence[tuple[Cells, str | None, int | None]], ids: Sequence[str]) -> Rules:
    """The rules of all rows (cells, file, line), in the order of the ids. Raises ``InputError`` for what is wrong."""
    if not any(cells for cells, _, _ in rows):
        return NO_RULES
    index = {name: i for i, name in enumerate(ids)}
    problems: list[Problem] = []
    groups: dict[str, list[int]] = {}
    inside: list[tuple[int, int]] = []
    pairs: dict[str, set[tuple[int, int]]] = {"conflicts": set(), "shares": set(), "apart": set()}
    banks: dict[int, tuple[str, ...]] = {}
    boundary: dict[int, int] = {}
    moves: dict[int, tuple[int, ...]] = {}
    for i, (cells, file, line) in enumerate(rows):
        for column, words in cells.items():
            where = (file, line, column if line is not None else f"{ids[i]}.{column}")
            if column == "alias":
                groups.setdefault(words[0], []).append(i)
            elif column == "bank":
                banks[i] = tuple(dict.fromkeys(words))
                if not all(words):
                    problems.append(Problem("found a bank without a name", *where))
            elif column == "boundary":
                boundary[i] = _whole(words, where, problems, 1)[0]
            elif column == "moves":
                moves[i] = tuple(_whole(words, where, problems, -_LARGEST))
            else:
                others = _known(words, index, where, problems)
                if column == "inside":
                    inside += [(i, other) for other in others]
                else:
                    pairs[column] |= {(min(i, other), max(i, other)) for other in others}
    if problems:
        raise InputError(problems[:_MOST_TOLD])
    alias = tuple(tuple(group) for group in groups.values() if len(group) > 1)
    kept = {name: tuple(sorted(listed)) for name, listed in pairs.items()}
    return Rules(
        alias, tuple(inside), kept["conflicts"], kept["shares"], banks, kept["apart"], boundary, moves
    )


def _known(
    words: Sequence[str],
    index: Mapping[str, int],
    where: tuple[str | None, int | None, str],
    problems: list[Problem],
) -> list[int]:
    problems += [
        Problem(f"found {word[:60]!r}, which is no buffer's id", *where, nearest(word, list(index)[:1000]))
        for word in words
        if word not in index
    ]
    return [index[word] for word in words if word in index]


def _whole(
    words: Sequence[str], where: tuple[str | None, int | None, str], problems: list[Problem], least: int
) -> list[int]:
    found = []
    for word in words:
        value = integer(word, least, _LARGEST)
        if value is None:
            problems.append(
                Problem(f"found {word[:60]!r}; expected an integer from {least} to 2**60", *where)
            )
            value = least
        found.append(value)
    return found


def rule_cells(rules: Rules, ids: Sequence[str]) -> dict[str, dict[int, str]]:
    """The columns that say rules, as cells of text by buffer; only columns that are used.

    Raises ``InputError`` where an id that a list must name holds a blank.
    """
    found: dict[str, dict[int, str]] = {}
    for number, group in enumerate(rules.alias):
        found.setdefault("alias", {}).update(dict.fromkeys(group, f"group{number}"))
    for out, into in rules.inside:
        found.setdefault("inside", {})[out] = str(ids[into])
    for column, pairs in (("conflicts", rules.separate), ("shares", rules.shared), ("apart", rules.apart)):
        for a, b in pairs:
            if any(c.isspace() for c in str(ids[b])):
                raise InputError(
                    [Problem(f"the id {ids[b]!r} holds a blank and cannot stand in a list", path=column)]
                )
            cells = found.setdefault(column, {})
            cells[a] = f"{cells[a]} {ids[b]}" if a in cells else str(ids[b])
    if rules.banks:
        found["bank"] = {i: "|".join(names) for i, names in rules.banks.items()}
    if rules.boundary:
        found["boundary"] = {i: str(step) for i, step in rules.boundary.items()}
    if rules.moves:
        found["moves"] = {i: " ".join(map(str, times)) for i, times in rules.moves.items()}
    return found
