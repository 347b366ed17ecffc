"""What is wrong with an input, in words a user can act on.

Every file, option and graph is checked at the border. A check that fails makes a :class:`Problem`; all
problems of one input travel together in one :class:`InputError`, so that a user fixes a file in one go. The
command line prints one line per problem and leaves with the error's ``exit_code``; nothing else in Offchip
prints errors or leaves the process.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = [
    "InfeasibleError",
    "InputError",
    "NoAnswerError",
    "OffchipError",
    "PhysicsError",
    "Problem",
    "bad_input",
    "nearest",
]

MAX_COMPARED: Final = 200
"""Characters of a name that is compared with the valid ones; comparing takes their square."""
MAX_TEXT: Final = 1000
"""Characters of a message, and of a file's name, that are printed."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where it stands, what was found there and what is expected.

    ``path`` is the dotted field (``memory.bandwidth``), ``line`` counts from 1. ``suggestion`` is the nearest
    valid name, if one is near; ``known`` are all valid names, where they are worth a list, which is never cut.
    """

    message: str
    file: str | None = None
    line: int | None = None
    path: str | None = None
    suggestion: str | None = None
    known: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = _short(self.file or "")
        if self.line is not None:
            where += f":{self.line}"
        parts = [part for part in (where, self.path) if part]
        text = ": ".join([*parts, _short(self.message)])
        if self.known:
            text += f"; known: {', '.join(self.known)}"
        if self.suggestion is not None:
            text += f" (did you mean {self.suggestion!r}?)"
        return " ".join(text.split())


def _short(text: str) -> str:
    """A text that fits a line: what was found in a file may be megabytes."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."


class OffchipError(Exception):
    """Base of every error that Offchip raises on purpose; ``exit_code`` is the command line's answer."""

    exit_code = 1


class InputError(OffchipError):
    """The input is wrong. Holds every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        # As an argument the problems survive copying: SimPy and pickle make an error anew from its args.
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class InfeasibleError(OffchipError):
    """No plan exists; the message carries the proof in words (demand, bound, levers)."""

    exit_code = 3


class NoAnswerError(OffchipError):
    """The limit of time or nodes was reached before an answer was found."""

    exit_code = 4


class PhysicsError(OffchipError):
    """A result breaks a bound that no machine can break; a defect in Offchip, never a user's fault."""


def bad_input(
    message: str,
    *,
    file: str | None = None,
    line: int | None = None,
    path: str | None = None,
    suggestion: str | None = None,
) -> InputError:
    """An :class:`InputError` of one problem, ready to raise."""
    return InputError([Problem(message, file, line, path, suggestion)])


def nearest(name: str, valid: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The valid name closest to a misspelt or shortened one, or None when nothing is close.

    ``cutoff`` is the least share of characters in common, from 0 to 1.

    >>> nearest("bandwith", ["bandwidth", "capacity"])
    'bandwidth'
    >>> nearest("A100", ["p100", "a100-80gb"])
    'a100-80gb'
    """
    names = list(valid)
    if len(name) > MAX_COMPARED:
        return None
    longer = [known for known in names if len(name) > 2 and known.lower().startswith(name.lower())]
    if longer:
        return min(longer, key=lambda known: (len(known), known))
    matches = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    if not matches:
        lowered = {candidate.lower(): candidate for candidate in names}
        folded = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=cutoff)
        matches = [lowered[folded[0]]] if folded else []
    return matches[0] if matches else None
