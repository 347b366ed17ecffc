"""A digest of typed data that leaves nothing out: what is a field counts, without anyone having to list it.

A key that names the parts it depends on is wrong on the day somebody adds a part. So :func:`digest` walks models,
dataclasses, tables and sequences as it finds them; a value it cannot put into bytes is an error, never skipped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Final

from pydantic import BaseModel

__all__ = ["NO_RESULT", "digest"]

NO_RESULT: Final = {"decides_results": False}
"""Metadata of a dataclass field that no result depends on (where a figure was read): a digest leaves it out."""


def digest(value: Any) -> str:
    """SHA-256 of a value and everything in it, in hexadecimal.

    The order of tables and sequences counts, names of types count, and floats count to their last bit. Raises
    ``TypeError`` for a value of a kind that has no bytes of its own (a function, an open file, an array).
    """
    text = json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(value: Any) -> Any:
    """The value as lists and scalars of JSON, each kind marked so that no two values read alike."""
    if isinstance(value, Enum):
        return ["enum", type(value).__name__, value.name]
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return ["float", float(value).hex()]
    if isinstance(value, BaseModel):
        names = type(value).model_fields
        # A device made without validation may lack a field that has no default.
        return ["model", type(value).__name__, [[name, _plain(getattr(value, name, None))] for name in names]]
    if is_dataclass(value) and not isinstance(value, type):
        counted = [f.name for f in fields(value) if f.metadata.get("decides_results", True)]
        return ["record", type(value).__name__, [[name, _plain(getattr(value, name))] for name in counted]]
    if isinstance(value, Mapping):
        return ["table", [[_plain(key), _plain(entry)] for key, entry in value.items()]]
    if isinstance(value, Set):
        return ["set", sorted(json.dumps(_plain(entry)) for entry in value)]
    if isinstance(value, list | tuple):
        return ["list", [_plain(entry) for entry in value]]
    raise TypeError(f"a {type(value).__name__} has no digest")
