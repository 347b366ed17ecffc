"""What a family's published configuration class declares where a file leaves a key out.

``defaults.json`` lists each ``model_type`` with the keys of its class in huggingface/transformers 5.24 (Apache-2.0) and
their values, null where the value is a list, a mapping, a share or nothing. ``tests/reference/models/make_defaults.py``
writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from workloads.json_file import read_json

__all__ = ["declared", "inner_types"]

SECTIONS = "sections"
"""Key of the nested language models: section to the ``model_type`` it has where it names none."""


def declared(model_type: str) -> Mapping[str, Any]:
    """The keys that a family's configuration class declares, with their defaults; empty for an unknown family."""
    return {key: value for key, value in _table().get(model_type, {}).items() if key != SECTIONS}


def inner_types(model_type: str) -> Mapping[str, str]:
    """The nested language models of a multimodal family: section to ``model_type``."""
    found: Mapping[str, str] = _table().get(model_type, {}).get(SECTIONS, {})
    return found


@cache
def _table() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = read_json(Path(__file__).with_name("defaults.json")).data
    return table
