"""Where source can be changed and into what: cosmic-ray's operators, without changes that no test could notice.

A place is a position in a file with every change that cosmic-ray offers there. Left out are changes in
compiled kernels (numba keeps its own cache of them), in annotations and decorators, and exchanges between
operators of different trades (``*`` for ``@`` or ``<<``, ``==`` for ``is``), which end in a ``TypeError`` or
change nothing. cosmic-ray has no changes of text, so messages are never changed.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Change",
    "Mutant",
    "Place",
    "apply",
    "find_places",
    "kernel_lines",
    "same_program",
    "sample",
    "statement_at",
]

_TRADES = (
    {"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod"},
    {"BitAnd", "BitOr", "BitXor", "LShift", "RShift"},
    {"Eq", "NotEq", "Lt", "LtE", "Gt", "GtE"},
    {"Is", "IsNot"},
    {"In", "NotIn"},
    {"UAdd", "USub", "Invert", "Not", "Delete"},
)
_COMPILED = re.compile(r"\b(n?jit|compiled|inlined)\b")
_LEFT_OUT = {"RemoveDecorator", "VariableReplacer", "VariableInserter"}


@dataclass(frozen=True, order=True)
class Change:
    """One cosmic-ray operator at its n-th position in a file."""

    operator: str
    occurrence: int


@dataclass(frozen=True)
class Place:
    """A position in a file, ``line`` from 1, and what can be done there."""

    file: str
    line: int
    column: int
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Mutant:
    """One changed file: its whole text, and the first line that differs, before and after.

    ``statement`` is the first and last line of the statement it stands in, without the body of a compound one.
    """

    file: str
    line: int
    statement: tuple[int, int]
    was: str
    now: str
    text: str


def _wanted(operator: str) -> bool:
    kind, *words = operator.removeprefix("core/").split("_")
    if kind in _LEFT_OUT:
        return False
    if len(words) == 2:
        return any(set(words) <= trade for trade in _TRADES)
    return True


def kernel_lines(text: str) -> set[int]:
    """Lines of functions that numba compiles, and of every decorator."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            for decorator in node.decorator_list:
                lines.update(range(decorator.lineno, (decorator.end_lineno or decorator.lineno) + 1))
                if _COMPILED.search(ast.unparse(decorator)):
                    lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def find_places(root: Path, package: str) -> list[Place]:
    """Every place of a package, file by file in order of position."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    operators = {name: get_operator(name)() for name in operator_names() if _wanted(name)}
    places: list[Place] = []
    for path in sorted((root / package).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        closed = kernel_lines(text)
        nodes = list(ast_nodes(get_ast(text)))
        found: dict[tuple[int, int], list[Change]] = {}
        for name, operator in operators.items():
            positions = (begin for node in nodes for begin, _ in operator.mutation_positions(node))
            for occurrence, position in enumerate(positions):
                if position[0] not in closed:
                    found.setdefault(position, []).append(Change(name, occurrence))
        file = path.relative_to(root).as_posix()
        places += [Place(file, *position, tuple(sorted(found[position]))) for position in sorted(found)]
    return places


class _Bare(ast.NodeTransformer):
    """A module without its annotations, which are never evaluated, and without the stars between parameters."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        # cosmic-ray takes the star for a product and makes a slash of it.
        node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
        node.defaults = [*node.defaults, *(value or ast.Constant(...) for value in node.kw_defaults)]
        node.posonlyargs, node.kwonlyargs, node.kw_defaults = [], [], []
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)


def same_program(one: str, other: str) -> bool:
    """Whether two texts differ in annotations, kinds of parameters and layout alone."""
    return ast.dump(_Bare().visit(ast.parse(one))) == ast.dump(_Bare().visit(ast.parse(other)))


def apply(root: Path, place: Place, change: Change) -> Mutant | None:
    """The mutant of a change, or nothing where the program stays the same."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    text = (root / place.file).read_text(encoding="utf-8")
    mutated = mutate_code(text, get_operator(change.operator)(), change.occurrence)
    try:
        if mutated is None or same_program(text, mutated):
            return None
    except SyntaxError:  # cosmic-ray takes the comma after ``*,`` for a number's
        return None
    before, after = text.splitlines(), mutated.splitlines()
    first = next((n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), place.line - 1)
    statement = statement_at(text, first + 1)
    return Mutant(place.file, first + 1, statement, before[first].strip(), after[first].strip(), mutated)


def statement_at(text: str, line: int) -> tuple[int, int]:
    """First and last line of the innermost statement around a line."""
    best = (line, line)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno):
            body = getattr(node, "body", None)
            last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or node.lineno
            if line <= last:
                best = (node.lineno, last)
    return best


def sample(root: Path, places: Sequence[Place], count: int | None, seed: int) -> Iterator[Mutant]:
    """One change at each of ``count`` places drawn at random; every change of every place without a count."""
    if count is None:
        for place in places:
            for change in place.changes:
                if mutant := apply(root, place, change):
                    yield mutant
        return
    draw = random.Random(seed)
    left = count
    for place in draw.sample(places, len(places)):
        if left == 0:
            return
        for change in draw.sample(place.changes, len(place.changes)):
            if mutant := apply(root, place, change):
                yield mutant
                left -= 1
                break
