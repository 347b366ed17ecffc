"""A DRAM standard as data: levels, commands, and the rules of time between commands.

A standard is one YAML file. A rule says: after command P at a node of some level, command F must wait so many
clocks there; the number is a formula over named timings (``nCWL + nBL + nWTRL``) that a device's speed bin
fills in. A new speed bin is a device file; a new standard is a file like these.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from hw_configs.config import Config, Count, parse
from hw_configs.problems import bad_input, nearest
from hw_configs.yaml_file import read_yaml

__all__ = [
    "DramRule",
    "DramStandard",
    "beside",
    "dram_standard",
    "evaluate",
    "is_path",
    "names_in",
    "stamp",
    "standard_names",
]

_FOLDER: Final = Path(__file__).parent / "dram_standards"
_OPERATORS: Final[dict[type[ast.operator], Callable[[float, float], float]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
MAX_FORMULA: Final = 200


def _tree(formula: str) -> ast.expr:
    if len(formula) > MAX_FORMULA:
        raise ValueError(f"a formula may have at most {MAX_FORMULA} characters")
    try:
        return ast.parse(formula, mode="eval").body
    except SyntaxError:
        raise ValueError(f"found {formula!r}; expected a formula such as 'nCWL + nBL + nWTRL'") from None


def names_in(formula: str) -> set[str]:
    """The timings a formula names."""
    return {node.id for node in ast.walk(_tree(formula)) if isinstance(node, ast.Name)} - {"max"}


def evaluate(formula: str, values: Mapping[str, float]) -> float:
    """The value of a formula of sums, products and ``max``; raises ``ValueError`` for anything else.

    >>> evaluate("nCL + nBL + 2 - nCWL", {"nCL": 16, "nBL": 4, "nCWL": 12})
    10
    """

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return node.value
        if isinstance(node, ast.Name):
            if node.id not in values:
                raise ValueError(f"the formula {formula!r} needs the timing {node.id}")
            return values[node.id]
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "max":
            return max(value(argument) for argument in node.args)
        raise ValueError(f"found {formula!r}; a formula may hold timings, numbers, + - * / and max()")

    return value(_tree(formula))


def _words(value: object) -> object:
    return tuple(value.split()) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
Formula = Annotated[str, BeforeValidator(lambda value: str(value))]


class DramRule(Config):
    """After any command of ``after`` at a node of level ``at``, those of ``before`` wait there."""

    rule: str
    """Name in the standard: tCCD_L, tFAW, ..."""
    at: str
    after: Words
    before: Words
    wait: Formula
    window: Count = 1
    """Counts from the n-th most recent command (tFAW: 4)."""
    siblings: bool = False
    """Holds for the other nodes below the same parent instead (rank to rank)."""


class DramStandard(Config):
    """Levels, commands and rules. Clocks are CK; formulas are in clocks."""

    standard: str
    source: str
    levels: Words
    beats: Count
    """Data beats of one transaction (burst length)."""
    refresh_level: str
    """What one all-bank refresh covers."""
    controller: Literal["ddr", "lpddr5", "hbm2", "hbm3"]
    ticks_per_clock: Count = 1
    commands: dict[str, Annotated[float, Field(gt=0)] | str]
    """Every command with the clocks it takes on its command bus."""
    buses: tuple[Words, ...] = ()
    """Commands per command bus, where there is more than one."""
    read_latency: Formula
    write_latency: Formula
    burst: Formula
    """Clocks the data bus is taken by one transaction."""
    refresh_pairs: str = ""
    """The level whose halves a per-bank refresh joins: it refreshes a bank of each half (LPDDR5: bank groups)."""
    derived: dict[str, Formula] = Field(default_factory=dict)
    """Timings a device may leave out; besides timings they know ``banks``, ``banks_per_group`` and ``ranks``."""
    required: Words
    """Timings a device must give, in clocks (nCL) or time (tCL)."""
    constraints: tuple[DramRule, ...]

    @model_validator(mode="after")
    def _names_known(self) -> Self:
        for index, rule in enumerate(self.constraints):
            if rule.at not in self.levels:
                raise ValueError(f"constraint {index + 1} ({rule.rule}): unknown level {rule.at!r}")
            for command in (*rule.after, *rule.before):
                if command not in self.commands:
                    raise ValueError(f"constraint {index + 1} ({rule.rule}): unknown command {command!r}")
            names_in(rule.wait)
        for name in (self.refresh_level, *([self.refresh_pairs] if self.refresh_pairs else [])):
            if name not in self.levels:
                raise ValueError(f"refresh_level, refresh_pairs: unknown level {name!r}")
        return self

    @property
    def timings(self) -> frozenset[str]:
        """Every timing the standard's formulas name."""
        formulas = [rule.wait for rule in self.constraints]
        formulas += [self.read_latency, self.write_latency, self.burst, *self.derived.values()]
        named = {name for formula in formulas for name in names_in(formula)}
        return frozenset(named | set(self.derived) | set(self.required))

    def clocks(self, command: str) -> float:
        """Clocks of a command on its bus."""
        return float(self.commands[command])


def standard_names() -> list[str]:
    """Standards that ship with Offchip."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def dram_standard(name: str) -> DramStandard:
    """A standard by name, or by the path of one's own file; raises ``InputError`` for an unknown one."""
    if is_path(name):
        return _read_standard(Path(name), stamp(Path(name)))
    if name not in standard_names():
        raise bad_input(
            f"unknown DRAM standard {name!r}; known: {', '.join(standard_names())}, or the path of a file",
            path="standard",
            suggestion=nearest(name, standard_names()),
        )
    return _read_standard(_FOLDER / f"{name}.yaml")


def is_path(name: str) -> bool:
    """Whether a text names a file rather than something that ships."""
    return "/" in name or name.endswith((".yaml", ".yml"))


def beside(name: str, folder: Path | None) -> str:
    """A name as it is; a path as an absolute one, taken from the folder of the file that names it."""
    return str(((folder or Path()) / name).resolve()) if is_path(name) else name


def stamp(path: Path) -> tuple[int, int] | None:
    """Time and size of a file, by which a change is noticed; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=64)
def _read_standard(path: Path, stamp: tuple[int, int] | None = None) -> DramStandard:  # noqa: ARG001
    return parse(DramStandard, read_yaml(path))
