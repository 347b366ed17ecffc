"""A feature table: rows of equal bytes at consecutive addresses, from a base that may stand anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input

__all__ = ["PAGE", "FeatureTable"]

PAGE: Final = 4096
"""Bytes of a page of the file system, and of a direct read of one."""
MAX_ROW_BYTES: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """``rows`` rows of ``row_bytes``, the first at address ``base`` (only its place within a page matters)."""

    rows: int
    row_bytes: int
    base: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.rows <= 2**40 or not 1 <= self.row_bytes <= MAX_ROW_BYTES:
            raise bad_input(f"a table needs 1 to 2^40 rows of 1 to {MAX_ROW_BYTES} bytes", path="--row-bytes")
        if not 0 <= self.base < 2**40:
            raise bad_input(f"found {self.base}; expected an address of 0 to 2^40", path="--base")

    @property
    def bytes(self) -> int:
        """Bytes of all rows."""
        return self.rows * self.row_bytes

    def first_page(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The page in which each row begins."""
        found: npt.NDArray[np.int64] = (self.base + rows * self.row_bytes) // PAGE
        return found

    def last_page(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The page in which each row ends."""
        found: npt.NDArray[np.int64] = (self.base + (rows + 1) * self.row_bytes - 1) // PAGE
        return found

    def pages_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Pages that each row touches, row by row; a page that two rows touch counts for both."""
        return self.last_page(rows) - self.first_page(rows) + 1

    def distinct_pages(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The pages that some rows touch, each once, in rising order."""
        from workloads.cache_trace.trace import split_ranges

        pages, _ = split_ranges(self.base + rows * self.row_bytes, np.full(rows.size, self.row_bytes), PAGE)
        return np.unique(pages)
