"""The size of functions: at most 150 lines and at most eight arguments, with the exceptions named here.

A command of the command line is exempt from the second rule: its parameters are the command's options. It is known
by the ``Annotated`` type of its parameters, from which the option is made.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "hw_configs",
    "workloads",
    "simulator",
    "mapping",
    "offchip",
    "benchmarks",
    "calibration",
    "examples",
)
MOST_LINES = 150
MOST_ARGUMENTS = 8

LONG: set[str] = set()
"""Kernels that read as a specification. Nothing else is added here."""

MANY: set[str] = set()
"""Functions of more than eight arguments. Nothing is added here: a function of so many takes a record."""


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function of the packages, with its file and name."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{path.relative_to(ROOT).as_posix()}:{node.name}", node


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    """What a caller gives: ``self`` and ``cls`` do not count."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return named[1:] if named and named[0].arg in ("self", "cls") else named


def is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether the parameters are options of a command."""
    made = [
        argument.annotation is not None and "typer." in ast.unparse(argument.annotation)
        for argument in parameters(function)
    ]
    return any(made)


def too_long() -> set[str]:
    return {name for name, node in functions() if (node.end_lineno or 0) - node.lineno + 1 > MOST_LINES}


def too_many() -> set[str]:
    return {
        name for name, node in functions() if len(parameters(node)) > MOST_ARGUMENTS and not is_command(node)
    }


@pytest.mark.parametrize(("found", "allowed"), [(too_long, LONG), (too_many, MANY)])
def test_only_the_named_exceptions_are_larger(found, allowed):
    assert found() - allowed == set()


@pytest.mark.parametrize(("found", "allowed"), [(too_long, LONG), (too_many, MANY)])
def test_no_exception_is_named_in_vain(found, allowed):
    assert allowed - found() == set()
