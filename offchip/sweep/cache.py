"""A content-addressed cache on disk: what one point worked out, another need not.

An entry is a file named by the SHA-256 of everything its content depends on. It is written under a
temporary name and renamed, so many writers may share a folder and a reader sees a whole entry or none. Its
first bytes are a checksum: a damaged entry counts as absent. When the folder outgrows its bound, the entries
that were used longest ago go first.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["DiskCache"]

LIMIT_BYTES: Final = 2**29
LOOK_EVERY: Final = 64
"""Entries between two looks at the size of the folder."""
KEEP: Final = 0.8
"""The share of the bound that is left after entries were dropped."""


class DiskCache:
    """Entries below ``folder``; None keeps nothing. A folder that cannot be written is a cache that forgets."""

    def __init__(self, folder: Path | None, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._written = 0

    def get(self, key: str) -> bytes | None:
        """The content of an entry, or None."""
        if self.folder is None:
            return None
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            return None
        with suppress(OSError):
            os.utime(path)
        return data[32:]

    def put(self, key: str, content: bytes) -> None:
        """Keep an entry, if the disk lets us."""
        if self.folder is None or len(content) > self.limit_bytes // 4:
            return
        path = self._path(key)
        temporary = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            Path(temporary).replace(path)
        except OSError:
            with suppress(OSError):
                Path(temporary).unlink()
            return
        if self._written % LOOK_EVERY == 0:
            self._shrink()
        self._written += 1

    def size_bytes(self) -> int:
        """Bytes of all entries now."""
        return sum(size for _, size, _ in self._entries())

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / key[2:]

    def _entries(self) -> list[tuple[float, int, str]]:
        found = []
        for path in self.folder.glob("*/*") if self.folder is not None else ():
            # Another process may have dropped it meanwhile.
            with suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, str(path)))
        return found

    def _shrink(self) -> None:
        entries = self._entries()
        size = sum(entry[1] for entry in entries)
        if size <= self.limit_bytes:
            return
        for _, length, path in sorted(entries):
            with suppress(OSError):
                Path(path).unlink()
            size -= length
            if size <= self.limit_bytes * KEEP:
                return
