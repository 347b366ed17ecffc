"""Which banks each buffer may go to, and which buffers go together or apart: what a master problem needs of the
rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hw_configs.problems import InputError, Problem, nearest
from mapping.allocation.problem import AllocationProblem
from mapping.allocation.rules import may_share, storages

if TYPE_CHECKING:
    from mapping.allocation.banks import Bank

__all__ = ["BankChoice"]


@dataclass(frozen=True)
class BankChoice:
    """``allowed``: banks of each buffer. ``problem``: the buffers with the rules of places alone.

    ``together`` and ``apart`` are pairs of buffers; ``shared`` pairs may use the same bytes at one time.
    """

    problem: AllocationProblem
    pinned: dict[int, int]
    allowed: tuple[frozenset[int], ...]
    together: tuple[tuple[int, int], ...]
    apart: tuple[tuple[int, int], ...]
    shared: frozenset[tuple[int, int]]
    count: int
    """How many banks there are."""

    @classmethod
    def of(cls, problem: AllocationProblem, banks: Sequence[Bank], pinned: Mapping[int, int]) -> BankChoice:
        """The choice that rules and pins leave. Raises ``InputError`` for a bank that is not there."""
        rules, n = problem.rules, len(problem)
        index = {bank.name: b for b, bank in enumerate(banks)}
        unknown = [
            Problem(
                f"buffer {problem.ids[i]!r} names the bank {name!r}; expected one of {', '.join(index)}",
                path="bank",
                suggestion=nearest(name, list(index)),
            )
            for i, names in rules.banks.items()
            for name in names
            if name not in index
        ]
        if unknown:
            raise InputError(unknown[:20])
        allowed = [frozenset(range(len(banks)))] * n
        for i, names in rules.banks.items():
            allowed[i] = frozenset(index[name] for name in names)
        for i, b in pinned.items():
            allowed[i] &= {b}
        root = storages(n, rules) if rules.alias or rules.inside else list(range(n))
        together = tuple((root[i], i) for i in range(n) if root[i] != i)
        held = dict(pinned) | {
            i: next(iter(some)) for i, some in enumerate(allowed) if len(some) == 1 < len(banks)
        }
        return cls(
            replace(problem, rules=replace(rules, banks={}, apart=(), pools={})) if rules else problem,
            held,
            tuple(allowed),
            together,
            rules.apart,
            frozenset(may_share(n, rules)) if rules else frozenset(),
            len(banks),
        )

    @property
    def is_tied(self) -> bool:
        """Whether the choice of one buffer hangs on that of others, or is neither free nor made."""
        return bool(self.together or self.apart or self.shared) or any(
            1 < len(some) < self.count for some in self.allowed
        )

    def disjoint(self, rows: Sequence[int], heights: Sequence[int]) -> list[tuple[int, int]]:
        """Of (buffer, height) alive at one moment those of which no two may share bytes, the tallest first."""
        listed = list(zip(rows, heights, strict=True))
        if not self.shared:
            return listed
        kept: list[tuple[int, int]] = []
        for i, height in sorted(listed, key=lambda row: (-row[1], row[0])):
            if all((i, k) not in self.shared for k, _ in kept):
                kept.append((i, height))
        return kept
