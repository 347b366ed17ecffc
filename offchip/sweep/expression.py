"""Expressions in a space file: arithmetic, comparisons and a few functions over names, nothing else.

A text is parsed by Python's ``ast`` and walked by hand; a node that is not listed here is refused with the part
that offends. Names may have dots (``gpu.memory.bandwidth``). Nothing is ever handed to ``eval``. A name without a
value (a parameter that does not apply, a figure the run does not have) makes the expression's value None.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hw_configs.units import DIMENSIONS, UnitError, parse_quantity

__all__ = ["Expression", "ExpressionError", "any_quantity", "parse_expression"]

MAX_CHARACTERS: Final = 1000
MAX_DEPTH: Final = 50


class ExpressionError(ValueError):
    """A text that is no expression, or one without a value for these names (a division by zero)."""


Value = float | int | str | bool | None


def any_quantity(text: str) -> float:
    """The SI value of a figure with a unit of any dimension: ``quantity('50 ms')`` is 0.05."""
    for dimension in DIMENSIONS:
        try:
            return parse_quantity(text, dimension)
        except UnitError:
            continue
    raise ExpressionError(f"found {text!r}; expected a figure with its unit, such as '50 ms'")


def _power(base: float, exponent: float) -> float:
    if abs(exponent) > 100 or abs(base) > 1e100:
        raise ExpressionError(f"{base:g} ** {exponent:g} is out of range")
    result: Any = base**exponent
    if isinstance(result, complex):
        raise ExpressionError(f"{base:g} ** {exponent:g} is no real number")
    return float(result) if isinstance(result, float) else int(result)


_BINARY: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_UNARY: Final[dict[type[ast.unaryop], Callable[[Any], Any]]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
_COMPARE: Final[dict[type[ast.cmpop], Callable[[Any, Any], bool]]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "round": round,
    "floor": math.floor,
    "ceil": math.ceil,
    "sqrt": math.sqrt,
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "exp": math.exp,
    "int": int,
    "quantity": any_quantity,
}


@dataclass(frozen=True)
class Expression:
    """A parsed text. ``names`` are those it needs; :meth:`value` never runs anything but arithmetic."""

    text: str
    names: frozenset[str]
    _tree: ast.expr

    def value(self, names: Mapping[str, Value]) -> Value:
        """The value for these names; None when one of them has none.

        Raises :class:`ExpressionError` for arithmetic that has no value (a division by zero, texts added).
        """
        try:
            found: Value = _value(self._tree, names)
        except _NoValueError:
            return None
        except ExpressionError:
            raise
        except (ArithmeticError, TypeError, ValueError) as error:
            raise ExpressionError(f"{self.text!r}: {error}") from None
        return found


class _NoValueError(Exception):
    pass


def parse_expression(text: object) -> Expression:
    """The expression of a text (or a bare number); :class:`ExpressionError` says what is not allowed."""
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise ExpressionError(f"found {text!r}; expected an expression")
    text = str(text).strip()
    if not text or len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"found a text of {len(text)} characters; expected 1 to {MAX_CHARACTERS}")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        shown = error.msg if isinstance(error, SyntaxError) else "too long"
        raise ExpressionError(f"{text!r} is no expression: {shown}") from None
    names: set[str] = set()
    _check(tree, names, 0)
    return Expression(text, frozenset(names), tree)


def _check(node: ast.expr, names: set[str], depth: int) -> None:
    """Refuse every node that :func:`_value` does not know, and collect names."""
    if depth > MAX_DEPTH:
        raise ExpressionError("too deeply nested")
    match node:
        case ast.Constant(value=int() | float() | str() | bool()):
            return
        case ast.Name() | ast.Attribute():
            names.add(_dotted(node))
            return
        case ast.BinOp(left, op, right) if type(op) in _BINARY:
            children = [left, right]
        case ast.UnaryOp(op, operand) if type(op) in _UNARY:
            children = [operand]
        case ast.BoolOp(_, children):
            pass
        case ast.Compare(left, ops, others) if all(type(op) in _COMPARE for op in ops):
            children = [left, *others]
        case ast.IfExp(test, body, orelse):
            children = [test, body, orelse]
        case ast.Call(ast.Name(function), arguments, []) if function in _FUNCTIONS:
            children = arguments
        case ast.Call(ast.Name(function), _, _):
            raise ExpressionError(f"unknown function {function!r}; known: {', '.join(sorted(_FUNCTIONS))}")
        case _:
            raise ExpressionError(
                f"{ast.unparse(node)!r} is not allowed; expected numbers, names, arithmetic, comparisons, "
                f"and, or, not, 'a if b else c' and {', '.join(sorted(_FUNCTIONS))}"
            )
    for child in children:
        _check(child, names, depth + 1)


def _value(node: ast.expr, names: Mapping[str, Value]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name() | ast.Attribute():
            value = names.get(_dotted(node))
            if value is None:
                raise _NoValueError
            return value
        case ast.BinOp(left, op, right):
            return _BINARY[type(op)](_number(_value(left, names)), _number(_value(right, names)))
        case ast.UnaryOp(op, operand):
            return _UNARY[type(op)](_value(operand, names))
        case ast.BoolOp(ast.And(), values):
            return all(_value(value, names) for value in values)
        case ast.BoolOp(_, values):
            return any(_value(value, names) for value in values)
        case ast.IfExp(test, body, orelse):
            return _value(body if _value(test, names) else orelse, names)
        case ast.Compare(left, ops, others):
            one = _value(left, names)
            for compare, other_node in zip(ops, others, strict=True):
                other = _value(other_node, names)
                if not _COMPARE[type(compare)](one, other):
                    return False
                one = other
            return True
        case ast.Call(ast.Name(function), arguments, _):
            return _FUNCTIONS[function](*(_value(argument, names) for argument in arguments))
    raise ExpressionError(f"{ast.unparse(node)!r} is not allowed")


def _number(value: Any) -> Any:
    """Texts have no arithmetic: repeating or joining one is never meant, and may be huge."""
    if isinstance(value, str):
        raise ExpressionError(f"found the text {value!r} where a number is needed")
    return value


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    raise ExpressionError(f"{ast.unparse(node)!r} is not allowed; expected a name")
