"""How a long call says how far it is: a reporter is given a label and a total, and told of work done.

Functions of the Python interface are silent unless a caller brings a reporter; the command line brings its bar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["Reporter", "Tally", "silent", "upto"]


class Tally(Protocol):
    """Counts work that is done."""

    def advance(self, count: int = 1) -> None:
        """Note that ``count`` more units are done."""
        ...


Reporter = Callable[[str, int], AbstractContextManager[Tally]]
"""Given what is counted and how many there are (0: nobody knows), gives the tally for one run."""


class _Nothing:
    def advance(self, count: int = 1) -> None:
        """Tell nobody."""


@contextmanager
def silent(_label: str, _total: int) -> Iterator[Tally]:
    """The reporter that says nothing."""
    yield _Nothing()


def upto(tally: Tally) -> Callable[[int], None]:
    """Turns "so many are done by now", as engines say it, into steps of a tally."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        tally.advance(count - done)
        done = count

    return advance
