"""Language models in ONNX files: which dimensions are tokens of a step, of the past, of both, and which inputs caches.

Exporters name these dimensions (``sequence_length``, ``past_sequence_length``, ``total_sequence_length``,
``past + sequence``); an input with a dimension of the past is a cache, and what the model appends to it is
written in place. So one file is a prefill and a decode step: P tokens after none, and one after P - 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from workloads.onnx_node import Node

if TYPE_CHECKING:
    import onnx

__all__ = ["APPENDING", "LanguageModel", "appended", "evaluated", "language_model", "names_in"]

APPENDING: Final[Mapping[tuple[str, str], Mapping[int, int]]] = {
    ("com.microsoft", "GroupQueryAttention"): {3: 1, 4: 2},
    ("com.microsoft", "MultiHeadAttention"): {6: 1, 7: 2},
    ("com.microsoft", "DecoderMaskedMultiHeadAttention"): {5: 1, 6: 2},
    ("com.microsoft", "SparseAttention"): {3: 1, 4: 2},
    ("", "Attention"): {4: 1, 5: 2},
}
"""Operators that append to caches: their inputs of the past, and the outputs that hold past and present."""

_WORD: Final = re.compile(r"[A-Za-z_][\w.]*")
_TOKEN: Final = re.compile(r"\s*([A-Za-z_][\w.]*|\d{1,18}|//|[-+*/()])")


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """The symbolic dimensions of a language model, and its caches: input to the axis of the tokens of the past."""

    step: tuple[str, ...]
    past: tuple[str, ...]
    total: tuple[str, ...]
    caches: Mapping[str, int]

    def sizes(self, new: int, before: int) -> dict[str, int]:
        """Values of the dimensions when ``new`` tokens follow ``before`` others."""
        return (
            dict.fromkeys(self.step, new)
            | dict.fromkeys(self.past, before)
            | dict.fromkeys(self.total, new + before)
        )


def language_model(model: onnx.ModelProto) -> LanguageModel | None:
    """What of a model's inputs says that it is a language model with caches; None where nothing does."""
    caches: dict[str, int] = {}
    names: dict[str, None] = {}
    for item in model.graph.input:
        for axis, dim in enumerate(item.type.tensor_type.shape.dim):
            words = list(names_in(dim.dim_param))
            names |= dict.fromkeys(words)
            if len(words) == 1 and words[0] == dim.dim_param and "past" in words[0].lower() and axis > 0:
                caches.setdefault(item.name, axis)
    past = tuple(name for name in names if "past" in name.lower())
    total = tuple(name for name in names if "total" in name.lower() and name not in past)
    tokens = [name for name in names if "seq" in name.lower() and name not in (*past, *total)]
    step = tuple(name for name in tokens if not name.lower().startswith(("encoder", "max")))
    return LanguageModel(step, past, total, caches) if caches and step else None


def names_in(text: str) -> Iterator[str]:
    """The names in an expression over dimensions."""
    return (match.group() for match in _WORD.finditer(text))


def evaluated(text: str, sizes: Mapping[str, int]) -> int | None:
    """The value of sums and products of dimensions, as exporters write them; None for anything else.

    >>> evaluated("past_sequence_length + 2*(n - 1)", {"past_sequence_length": 7, "n": 3})
    11
    """
    tokens: list[str] = []
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None or len(tokens) > 200:
            return None
        tokens.append(match.group(1))
        at = match.end()
    try:
        value, rest = _sum(tokens, sizes, 0)
    except (KeyError, IndexError, ZeroDivisionError, RecursionError, ValueError):
        return None
    return value if rest == len(tokens) and abs(value) < 2**62 else None


def _sum(tokens: list[str], sizes: Mapping[str, int], at: int) -> tuple[int, int]:
    value, at = _term(tokens, sizes, at)
    while at < len(tokens) and tokens[at] in "+-":
        sign = 1 if tokens[at] == "+" else -1
        other, at = _term(tokens, sizes, at + 1)
        value += sign * other
    return value, at


def _term(tokens: list[str], sizes: Mapping[str, int], at: int) -> tuple[int, int]:
    value, at = _factor(tokens, sizes, at)
    while at < len(tokens) and tokens[at] in ("*", "/", "//"):
        kind = tokens[at]
        other, at = _factor(tokens, sizes, at + 1)
        value = value * other if kind == "*" else value // other
    return value, at


def _factor(tokens: list[str], sizes: Mapping[str, int], at: int) -> tuple[int, int]:
    token = tokens[at]
    if token == "(":
        value, at = _sum(tokens, sizes, at + 1)
        if tokens[at] != ")":
            raise ValueError("a parenthesis stays open")
        return value, at + 1
    if token == "-":
        value, at = _factor(tokens, sizes, at + 1)
        return -value, at
    return (int(token) if token.isdigit() else sizes[token]), at + 1


def appended(node: Node, caches: Iterable[str]) -> dict[int, int]:
    """Which outputs of an operator are its caches with more tokens: input to output, of those that are caches."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    known = set(caches)
    pairs: Mapping[int, int] = APPENDING.get((domain, node.op), {})
    if node.op == "Concat" and len(node.inputs) == 2:
        pairs = {0: 0}
    return {
        past: present
        for past, present in pairs.items()
        if present < len(node.outputs) and (value := node.at(past)) is not None and value.tensor in known
    }
