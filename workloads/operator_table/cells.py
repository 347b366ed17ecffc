"""The cells of one row, as the rules of operators read them, and what a rule makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from hw_configs.problems import nearest
from workloads.dtypes import BITS, size_bytes
from workloads.operator_table.formats import FORMATS, PairedTypes
from workloads.operators import Work

__all__ = ["Built", "Cells", "Rule", "UnfitError"]


YES: Final = ("1", "true", "yes")
NO: Final = ("0", "false", "no")


class UnfitError(Exception):
    """The row says something that no operator expresses; the text says what."""


class Cells:
    """The cells of a row: texts by column, counts by column, and the element types of its products."""

    def __init__(self, text: Mapping[str, str], counts: Mapping[str, int]) -> None:
        self.text, self.counts = text, counts
        given = text.get("dtype") or "fp16"
        pair = FORMATS.get(given) or PairedTypes(given, text.get("weight_dtype") or given)
        self.dtype, self.weight_dtype, self.scale_block = pair.dtype, pair.weight_dtype, pair.scale_block
        for name in (self.dtype, self.weight_dtype, text.get("kv_dtype") or self.dtype):
            if name not in BITS:
                hint = nearest(name, [*BITS, *FORMATS])
                raise UnfitError(f"unknown element type {name!r}" + (f", perhaps {hint!r}" if hint else ""))

    def __call__(self, name: str, default: int | None = None) -> int:
        """A count by column name; ``UnfitError`` where it is blank and nothing stands in for it."""
        if name in self.counts:
            return self.counts[name]
        if default is None:
            raise UnfitError(f"no {name}")
        return default

    def flag(self, name: str, default: bool) -> bool:
        """A yes or no by column name; ``UnfitError`` for a text that is neither."""
        text = self.text.get(name, "").lower()
        if text in YES or text in NO:
            return text in YES
        if text:
            raise UnfitError(f"found {name} {text[:40]!r}; expected 1 or 0")
        return default

    def size(self, elements: int, dtype: str | None = None) -> int:
        """Bytes of so many elements of a type, or of the row's."""
        return size_bytes(elements, dtype or self.dtype)

    def narrow(self, weight: str) -> str:
        """The element type of weights, as a product says it: nothing where it is that of the arithmetic."""
        return weight if weight != self.dtype else ""

    def output_dtype(self) -> str:
        """Narrow products are written out in 16 bits, as serving engines do."""
        return self.dtype if BITS[self.dtype] >= 16 else "bf16"


@dataclass(frozen=True, slots=True)
class Built:
    """What a row means: the work, and the bytes of its operands, which a table does not name.

    ``dtype`` empty: the row's. ``then``: what runs after it within the row's time, such as the activation and the
    second product of a layer of experts. ``residency``: where its operands stand before it runs, as operators say it.
    ``note``: what was assumed of a row that leaves it open.
    """

    work: Work
    read_bytes: int
    write_bytes: int
    dtype: str = ""
    then: tuple[Built, ...] = ()
    residency: str = ""
    note: str = ""


Rule = Callable[[Cells], Built]
"""From the cells of a row to what it means; raises :class:`UnfitError`."""
