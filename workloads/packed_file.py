"""Files that may be packed (``.gz``, ``.zst``, ``.xz``), unpacked while read; a cut one is an error, never short."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, cast

from hw_configs.problems import InputError, bad_input

__all__ = ["UNREADABLE", "open_bytes", "open_text", "unreadable_told"]

UNREADABLE: Final = (OSError, EOFError, UnicodeDecodeError, zlib.error, lzma.LZMAError)
"""What reading a packed or damaged file may raise."""
PACKED_BLOCK: Final = 4096
"""Packed bytes taken at a time: four of them can stand for 128 KiB, so that this bounds memory to 128 MiB."""


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes; raises what :data:`UNREADABLE` names, ``InputError`` without the package for ``.zst``."""
    if path.suffix == ".zst":
        with path.open("rb") as raw:
            yield cast(IO[bytes], io.BufferedReader(_Zstd(raw, path), 1 << 16))
    elif path.suffix == ".gz":
        with gzip.open(path, "rb") as unpacked:
            yield cast(IO[bytes], unpacked)
    elif path.suffix == ".xz":
        with lzma.open(path, "rb") as packed:
            yield cast(IO[bytes], packed)
    else:
        with path.open("rb") as stream:
            yield stream


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """The file's text in UTF-8; raises as :func:`open_bytes` does."""
    with open_bytes(path) as stream:
        yield io.TextIOWrapper(stream, encoding="utf-8")


class _Zstd(io.RawIOBase):
    """The unpacked bytes of a stream of zstd frames. The package's own reader takes a cut stream for a whole one."""

    def __init__(self, raw: IO[bytes], path: Path) -> None:
        try:
            import zstandard
        except ImportError:
            raise bad_input(
                "a .zst trace needs the package zstandard (pip install 'offchip[zstd]')", file=str(path)
            ) from None
        self._zstd: Any = zstandard
        self._raw = raw
        self._frame: Any = zstandard.ZstdDecompressor().decompressobj()
        self._unpacked = memoryview(b"")
        self._fed = False

    def readable(self) -> bool:
        """True: ``io`` asks."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` as far as bytes are there; 0 at the end."""
        while not self._unpacked:
            packed = self._raw.read(PACKED_BLOCK)
            if not packed:
                if self._fed and not self._frame.eof:
                    raise EOFError("Compressed file ended before the end-of-stream marker was reached")
                return 0
            self._unpacked = memoryview(self._unpack(packed))
        count = min(len(buffer), len(self._unpacked))
        buffer[:count] = self._unpacked[:count]
        self._unpacked = self._unpacked[count:]
        return count

    def _unpack(self, packed: bytes) -> bytes:
        parts = []
        try:
            while packed:
                if self._frame.eof:
                    self._frame = self._zstd.ZstdDecompressor().decompressobj()
                parts.append(self._frame.decompress(packed))
                self._fed = True
                packed = self._frame.unused_data if self._frame.eof else b""
        except self._zstd.ZstdError as error:
            raise OSError(str(error)) from None
        return b"".join(parts)


@contextmanager
def unreadable_told(name: str) -> Iterator[None]:
    """Turns the errors of reading a file into an ``InputError`` that names it."""
    try:
        yield
    except FileNotFoundError:
        raise bad_input("no such file", file=name) from None
    except InputError:
        raise
    except UNREADABLE as error:
        raise bad_input(f"cannot be read: {error}", file=name) from None
