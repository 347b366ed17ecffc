"""How many words of an operand are not zero, and where they stand.

The structures are those of Sparseloop (Wu et al., MICRO 2022, doi:10.1109/MICRO56248.2022.00096, section 5.3):
*uniform*, each word by itself with the same chance; *fixed structured*, N of every M along an axis at random places;
*banded*, the words near the diagonal of two axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hw_configs.problems import bad_input, nearest

__all__ = ["Band", "Density", "NofM", "Uniform", "density_text", "read_density"]

MOST_OF: Final = 1024


@dataclass(frozen=True, slots=True, order=True)
class Uniform:
    """Every word is other than zero with the same chance, ``share``, whatever the others are."""

    share: float

    def text(self) -> str:
        """For people."""
        return f"{self.share:g}"


@dataclass(frozen=True, slots=True, order=True)
class NofM:
    """``n`` of every ``of`` neighbours along a dim are other than zero, at places of equal chance."""

    n: int
    of: int
    along: str

    @property
    def share(self) -> float:
        """Words other than zero."""
        return self.n / self.of

    def text(self) -> str:
        """For people."""
        return f"{self.n}:{self.of} along {self.along}"


@dataclass(frozen=True, slots=True, order=True)
class Band:
    """Words with ``-below <= column - row <= above`` are other than zero; ``share`` follows from the sizes."""

    rows: str
    columns: str
    below: int
    above: int
    share: float

    def text(self) -> str:
        """For people."""
        return f"band of {self.below} + 1 + {self.above} over {self.rows}, {self.columns}"


Density = Uniform | NofM | Band


def read_density(
    found: Any, axes: Sequence[Sequence[tuple[str, int]]], sizes: Mapping[str, int], file: str, path: str
) -> Density:
    """A density of an operand with these axes (each a sum of dims and steps).

    A number is uniform; ``{n, of, along}`` is N of M; ``{rows, columns, below, above}`` a band. Raises ``InputError``
    that names the field.
    """
    if isinstance(found, int | float) and not isinstance(found, bool):
        if not 0 < found <= 1:
            raise bad_input(
                f"found {found!r:.40}; expected a share above 0 and up to 1", file=file, path=path
            )
        return Uniform(float(found))
    if isinstance(found, Mapping) and set(found) == {"n", "of", "along"}:
        return _n_of_m(found, axes, sizes, file, path)
    if isinstance(found, Mapping) and set(found) == {"rows", "columns", "below", "above"}:
        return _band(found, axes, sizes, file, path)
    raise bad_input(
        f"found {found!r:.60}; expected a share, {{n, of, along}} or {{rows, columns, below, above}}",
        file=file, path=path,
    )  # fmt: skip


def density_text(text: str) -> Any:
    """What a word of the command line says, as plain data: ``0.4``, ``2:4@K``, or ``band:M,K,1,1``.

    Raises ``ValueError`` for anything else.
    """
    if text.startswith("band:"):
        rows, columns, below, above = text.removeprefix("band:").split(",")
        return {"rows": rows, "columns": columns, "below": int(below), "above": int(above)}
    if ":" in text:
        places, _, along = text.partition("@")
        n, of = places.split(":")
        return {"n": int(n), "of": int(of), "along": along}
    return float(text)


def _n_of_m(
    found: Mapping[str, Any],
    axes: Sequence[Sequence[tuple[str, int]]],
    sizes: Mapping[str, int],
    file: str,
    path: str,
) -> NofM:
    n, of = (_whole(found[key], file, f"{path}.{key}") for key in ("n", "of"))
    along = _plain_axis(found["along"], axes, file, f"{path}.along")
    if not 1 <= n <= of <= MOST_OF:
        raise bad_input(f"found {n} of {of}; expected 1 <= n <= of <= {MOST_OF}", file=file, path=path)
    if sizes[along] % of:
        raise bad_input(f"{of} does not divide {along} = {sizes[along]}", file=file, path=f"{path}.of")
    return NofM(n, of, along)


def _band(
    found: Mapping[str, Any],
    axes: Sequence[Sequence[tuple[str, int]]],
    sizes: Mapping[str, int],
    file: str,
    path: str,
) -> Band:
    rows, columns = (_plain_axis(found[key], axes, file, f"{path}.{key}") for key in ("rows", "columns"))
    below, above = (_whole(found[key], file, f"{path}.{key}") for key in ("below", "above"))
    if rows == columns:
        raise bad_input("rows and columns are the same dim", file=file, path=path)
    height, width = sizes[rows], sizes[columns]
    upper = _diagonals(height, width, min(above, width - 1))
    lower = _diagonals(width, height, min(below, height - 1)) - min(height, width)
    inside = upper + lower
    return Band(rows, columns, below, above, inside / (height * width))


def _diagonals(height: int, width: int, last: int) -> int:
    """Words on the main diagonal and the ``last`` ones above it.

    >>> _diagonals(3, 4, 2)
    8
    """
    whole = max(0, min(last, width - height) + 1)
    rest = last - whole + 1
    return whole * height + rest * width - (last * (last + 1) - whole * (whole - 1)) // 2


def _whole(found: Any, file: str, path: str) -> int:
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 2**31:
        raise bad_input(f"found {found!r:.40}; expected a whole number", file=file, path=path)
    return found


def _plain_axis(found: Any, axes: Sequence[Sequence[tuple[str, int]]], file: str, path: str) -> str:
    plain = [axis[0][0] for axis in axes if len(axis) == 1 and axis[0][1] == 1]
    if found not in plain:
        raise bad_input(
            f"found {found!r:.40}; expected a dim that is an axis of the operand by itself: {', '.join(plain)}",
            file=file, path=path, suggestion=nearest(str(found), plain),
        )  # fmt: skip
    return str(found)
