"""What has to be placed: buffers with a size and a lifetime, in one address space.

Times are integers in any unit; a buffer lives in the half-open interval [lower, upper). A buffer keeps one
offset for its whole life. Two buffers conflict when both are in use at the same time; conflicting buffers
must not share an address.

A gap is a part of the lifetime in which the buffer is not in use (all its bytes are free), or in which only a
window of its bytes is. Two conflicting buffers keep one order for their whole common life: one lies below the
other, by the larger of their distances over time. That is the meaning of the MiniMalloc format (M. D. Moffitt,
"MiniMalloc: A Lightweight Memory Allocator for Hardware-Accelerated Machine Learning", ASPLOS 2023 vol. 4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_configs.problems import InputError, Problem
from mapping.allocation.rules import NO_RULES, Rules

__all__ = ["NO_OFFSET", "AllocationProblem", "Buffer", "Gap", "Span"]

NO_OFFSET = -1
"""Stands in an offset array for "not fixed" or "not placed"."""

_LARGEST = 2**60
_LARGEST_ALIGNMENTS = 2**61
"""Of all alignments together: a plan's top is at most one pin, all sizes and all alignments, which is below 2**63."""
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Gap:
    """A part [lower, upper) of a lifetime in which only ``window`` is in use; None: nothing is.

    The window is a half-open byte range relative to the buffer's offset.
    """

    lower: int
    upper: int
    window: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Buffer:
    """One buffer: ``size`` bytes during [lower, upper); ``offset`` pins it, ``hint`` is a wished offset."""

    id: str
    lower: int
    upper: int
    size: int
    alignment: int = 1
    offset: int | None = None
    hint: int | None = None
    gaps: tuple[Gap, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a lifetime with one window of bytes in use."""

    lower: int
    upper: int
    window_lower: int
    window_upper: int


@dataclass(frozen=True, eq=False)
class AllocationProblem:
    """Buffers as arrays of one length n, in the file's order. Build with :meth:`of` or from arrays.

    ``fixed`` and ``hint`` hold -1 where there is none; ``gaps`` has an entry only for a buffer that has gaps;
    ``rules`` are what a plan must obey beside (:class:`mapping.allocation.rules.Rules`).
    Raises ``InputError`` when a figure is out of range; lengths and signs are checked once, here.
    """

    lower: Ints
    upper: Ints
    size: Ints
    alignment: Ints
    fixed: Ints
    hint: Ints
    gaps: Mapping[int, tuple[Gap, ...]] = field(default_factory=dict)
    ids: Sequence[str] = ()
    name: str = ""
    rules: Rules = NO_RULES

    def __post_init__(self) -> None:
        n = len(self.lower)
        columns = ("upper", "size", "alignment", "fixed", "hint")
        if any(len(getattr(self, column)) != n for column in columns) or (self.ids and len(self.ids) != n):
            raise ValueError("an allocation problem's columns must have one length")
        if not self.ids:
            object.__setattr__(self, "ids", _Numbers(n))
        problems = [*self._problems()]
        if problems:
            raise InputError(problems)

    @classmethod
    def of(cls, buffers: Iterable[Buffer], name: str = "", rules: Rules = NO_RULES) -> AllocationProblem:
        """The problem of a list of buffers, with rules over their positions in the list."""
        listed = list(buffers)

        def column(name: str) -> Ints:
            values = [getattr(buffer, name) for buffer in listed]
            try:
                return np.array([NO_OFFSET if value is None else value for value in values], dtype=np.int64)
            except OverflowError:
                beyond = [i for i, value in enumerate(values) if value is not None and abs(value) > _LARGEST]
                raise InputError(
                    Problem(
                        f"buffer {listed[i].id!r}: found {values[i]}; expected at most {_LARGEST}", path=name
                    )
                    for i in beyond[:20]
                ) from None

        return cls(
            lower=column("lower"),
            upper=column("upper"),
            size=column("size"),
            alignment=column("alignment"),
            fixed=column("offset"),
            hint=column("hint"),
            gaps={index: buffer.gaps for index, buffer in enumerate(listed) if buffer.gaps},
            ids=tuple(buffer.id for buffer in listed),
            name=name,
            rules=rules,
        )

    @classmethod
    def from_arrays(
        cls,
        lower: Any,
        upper: Any,
        size: Any,
        *,
        alignment: Any = 1,
        fixed: Any = NO_OFFSET,
        ids: Sequence[str] = (),
        name: str = "",
    ) -> AllocationProblem:
        """The problem of plain buffers given as arrays; ``alignment`` and ``fixed`` may be single numbers."""
        low = np.ascontiguousarray(lower, dtype=np.int64)
        n = len(low)

        def column(values: Any) -> Ints:
            return np.ascontiguousarray(np.broadcast_to(np.asarray(values, dtype=np.int64), (n,)))

        return cls(
            low,
            column(upper),
            column(size),
            column(alignment),
            column(fixed),
            column(NO_OFFSET),
            {},
            ids,
            name,
        )

    def __len__(self) -> int:
        return len(self.lower)

    @property
    def buffers(self) -> list[Buffer]:
        """The buffers as objects, in order."""
        return [
            Buffer(
                id=str(self.ids[i]),
                lower=int(self.lower[i]),
                upper=int(self.upper[i]),
                size=int(self.size[i]),
                alignment=int(self.alignment[i]),
                offset=None if self.fixed[i] < 0 else int(self.fixed[i]),
                hint=None if self.hint[i] < 0 else int(self.hint[i]),
                gaps=self.gaps.get(i, ()),
            )
            for i in range(len(self))
        ]

    def spans(self, index: int) -> list[Span]:
        """The parts of a buffer's lifetime in which it is in use, in order of time, empty ones left out."""
        low, high, size = int(self.lower[index]), int(self.upper[index]), int(self.size[index])
        gaps = self.gaps.get(index, ())
        spans = []
        for gap in sorted(gaps, key=lambda item: item.lower):
            spans.append(Span(low, gap.lower, 0, size))
            if gap.window is not None:
                spans.append(Span(gap.lower, gap.upper, *gap.window))
            low = gap.upper
        spans.append(Span(low, high, 0, size))
        return [span for span in spans if span.lower < span.upper and span.window_lower < span.window_upper]

    def subset(self, indices: Sequence[int] | Ints) -> AllocationProblem:
        """The problem of some of the buffers, in the given order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return AllocationProblem(
            self.lower[chosen],
            self.upper[chosen],
            self.size[chosen],
            self.alignment[chosen],
            self.fixed[chosen],
            self.hint[chosen],
            {new: self.gaps[old] for new, old in enumerate(chosen.tolist()) if old in self.gaps},
            [self.ids[i] for i in chosen.tolist()],
            self.name,
            self.rules.subset(chosen.tolist()) if self.rules else NO_RULES,
        )

    def pinned_at(self, fixed: Ints) -> AllocationProblem:
        """The same buffers with other fixed offsets (-1: free)."""
        return AllocationProblem(
            self.lower,
            self.upper,
            self.size,
            self.alignment,
            fixed,
            self.hint,
            self.gaps,
            self.ids,
            self.name,
            self.rules,
        )

    def _problems(self) -> Iterable[Problem]:
        span = f"expected a time from {-_LARGEST} to {_LARGEST}"
        checks = [
            (abs(self.lower) > _LARGEST, "lower", self.lower, span),
            (abs(self.upper) > _LARGEST, "upper", self.upper, span),
            (self.size < 0, "size", self.size, "expected a size of at least 0 bytes"),
            (self.size > _LARGEST, "size", self.size, f"expected at most {_LARGEST} bytes"),
            (self.upper < self.lower, "upper", self.upper, "expected an end that is not before the start"),
            (self.alignment < 1, "alignment", self.alignment, "expected an alignment of at least 1"),
            (self.alignment > _LARGEST, "alignment", self.alignment, f"expected at most {_LARGEST}"),
            (self.fixed < NO_OFFSET, "offset", self.fixed, "expected an offset of at least 0"),
            (self.fixed > _LARGEST, "offset", self.fixed, f"expected at most {_LARGEST}"),
        ]
        for wrong, path, column, expected in checks:
            for index in np.flatnonzero(wrong)[:20].tolist():
                yield Problem(
                    f"buffer {self.ids[index]!r}: found {int(column[index])}; {expected}", path=path
                )
        if len(self) and float(self.size.sum(dtype=np.float64)) > _LARGEST:
            yield Problem(f"the sizes sum to more than {_LARGEST} bytes", path="size")
        if len(self) and float(self.alignment.sum(dtype=np.float64)) > _LARGEST_ALIGNMENTS:
            yield Problem(f"the alignments sum to more than {_LARGEST_ALIGNMENTS} bytes", path="alignment")
        for index, gaps in self.gaps.items():
            yield from self._gap_problems(index, gaps)
        if self.rules:
            lives = list(zip(self.lower.tolist(), self.upper.tolist(), strict=True))
            yield from self.rules.problems(self.ids, self.size.tolist(), lives)

    def _gap_problems(self, index: int, gaps: tuple[Gap, ...]) -> Iterable[Problem]:
        low, high, size = int(self.lower[index]), int(self.upper[index]), int(self.size[index])
        last = low
        for gap in sorted(gaps, key=lambda item: item.lower):
            where = f"buffer {self.ids[index]!r}: gap {gap.lower}-{gap.upper}"
            if not last <= gap.lower < gap.upper <= high:
                yield Problem(
                    f"{where}; expected gaps in order inside the lifetime {low}-{high}, without overlap",
                    path="gaps",
                )
            if gap.window is not None and not 0 <= gap.window[0] <= gap.window[1] <= size:
                yield Problem(
                    f"{where}: window {gap.window[0]}:{gap.window[1]}; expected a window in 0:{size}",
                    path="gaps",
                )
            last = max(last, gap.upper)


class _Numbers(Sequence[str]):
    """The identifiers "0", "1", ... of buffers that were given none, made when asked for."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [str(i) for i in range(self._count)[index]]
        return str(range(self._count)[index])
