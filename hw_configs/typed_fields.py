"""Whether the fields of a plain dataclass hold what their annotations say, asked where users' values come in.

Python checks no types: ``batch="4"`` would travel until something compares it, and end in a ``TypeError`` far from
the one who wrote it. Annotations of the plain types are checked; fields of any other type check themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import Problem

__all__ = ["wrong_types"]

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "None": (type(None),),
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (float, int),
    "Mapping": (Mapping,),
    "Path": (Path,),
}


def wrong_types(values: Any) -> list[Problem]:
    """A problem for each field of a dataclass whose value is of another type; paths are command-line flags."""
    problems = []
    for field in fields(values):
        words = [word.partition("[")[0].strip() for word in str(field.type).split("|")]
        if not all(word in _TYPES for word in words):
            continue
        value = getattr(values, field.name)
        allowed = tuple(kind for word in words for kind in _TYPES[word])
        # A bool is an int to Python, and a mistake to everyone else.
        if not isinstance(value, allowed) or (isinstance(value, bool) and "bool" not in words):
            found = f"found {value!r:.80} ({type(value).__name__}); expected {' or '.join(words)}"
            problems.append(Problem(found, path="--" + field.name.replace("_", "-")))
    return problems
