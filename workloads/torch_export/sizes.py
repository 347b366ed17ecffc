"""Sizes in an exported programme: whole numbers, or expressions over symbols in sympy's written form.

``Mul(Integer(512), Symbol('s70', positive=True, integer=True))`` is read by a parser of its own: names of a few
functions, whole numbers and symbols, nothing that runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Final

__all__ = ["SizeError", "size_of", "symbols_of"]

MAX_TOKENS: Final = 20_000
MAX_DEPTH: Final = 100
_TOKEN: Final = re.compile(r"\s*(?:([A-Za-z_]\w*)|(-?\d{1,18})|'([^']{0,100})'|([(),=]))")


class SizeError(ValueError):
    """An expression that is no size."""


def _floor(parts: Sequence[int]) -> int:
    return parts[0] // parts[1]


_FUNCTIONS: Final[Mapping[str, Callable[[Sequence[int]], int]]] = {
    "Add": sum, "Mul": prod, "Max": max, "Min": min, "Pow": lambda parts: parts[0] ** min(parts[1], 64),
    "FloorDiv": _floor, "CleanDiv": _floor, "IntTrueDiv": _floor, "Mod": lambda parts: parts[0] % parts[1],
    "PythonMod": lambda parts: parts[0] % parts[1], "CeilDiv": lambda parts: -(-parts[0] // parts[1]),
    "CeilToInt": lambda parts: parts[0], "ToFloat": lambda parts: parts[0], "TruncToInt": lambda parts: parts[0],
}  # fmt: skip


def size_of(argument: Any, sizes: Mapping[str, int]) -> int:
    """The value of a size as a file states it; :class:`SizeError` for what is none.

    >>> size_of({"as_int": 3}, {})
    3
    >>> size_of({"as_expr": {"expr_str": "Add(Symbol('s1', integer=True), Integer(-1))"}}, {"s1": 5})
    4
    """
    if isinstance(argument, dict) and isinstance(argument.get("as_int"), int):
        return int(argument["as_int"])
    return _Parser(_text(argument), sizes).value()


def symbols_of(argument: Any) -> list[str]:
    """The symbols in a size."""
    return re.findall(r"Symbol\('(\w{1,100})'", _text(argument)) if "as_expr" in argument else []


def _text(argument: Any) -> str:
    inner = argument.get("as_expr") if isinstance(argument, dict) else None
    text = inner.get("expr_str") if isinstance(inner, dict) else None
    if not isinstance(text, str):
        raise SizeError("states no size")
    return text


class _Parser:
    def __init__(self, text: str, sizes: Mapping[str, int]) -> None:
        self.text, self.sizes, self.at, self.depth = text, sizes, 0, 0
        self.tokens: list[tuple[str, str]] = []
        while self.at < len(text.rstrip()):
            match = _TOKEN.match(text, self.at)
            if match is None or len(self.tokens) > MAX_TOKENS:
                raise SizeError(f"{text[:60]!r} is no size")
            kind = ("name", "number", "text", "mark")[(match.lastindex or 1) - 1]
            self.tokens.append((kind, match.group(match.lastindex or 1)))
            self.at = match.end()
        self.at = 0

    def value(self) -> int:
        found = self._expression()
        if self.at != len(self.tokens):
            raise SizeError(f"{self.text[:60]!r} is no size")
        return found

    def _next(self, mark: str = "") -> tuple[str, str]:
        if self.at >= len(self.tokens) or (mark and self.tokens[self.at] != ("mark", mark)):
            raise SizeError(f"{self.text[:60]!r} is no size")
        self.at += 1
        return self.tokens[self.at - 1]

    def _expression(self) -> int:
        kind, word = self._next()
        if kind == "number":
            return int(word)
        if kind != "name":
            raise SizeError(f"{self.text[:60]!r} is no size")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise SizeError(f"{self.text[:60]!r} is nested too deep")
        self._next("(")
        found = self._symbol() if word == "Symbol" else self._call(word)
        self.depth -= 1
        return found

    def _symbol(self) -> int:
        kind, name = self._next()
        if kind != "text" or name not in self.sizes:
            raise SizeError(f"the symbol {name!r} has no size")
        while self._next() != ("mark", ")"):
            pass
        return self.sizes[name]

    def _call(self, word: str) -> int:
        parts = []
        while True:
            parts.append(self._expression())
            if self._next() == ("mark", ")"):
                break
        if word == "Integer" and len(parts) == 1:
            return parts[0]
        function = _FUNCTIONS.get(word)
        if function is None:
            raise SizeError(f"the function {word!r} of sizes is not known")
        try:
            found = function(parts)
        except (ZeroDivisionError, IndexError, TypeError, OverflowError):
            raise SizeError(f"{self.text[:60]!r} has no value") from None
        if not isinstance(found, int) or abs(found) > 2**62:
            raise SizeError(f"{self.text[:60]!r} has no value")
        return found
