"""Reads a pickle of plain data: lists, dictionaries, tuples, texts, numbers. Anything else is refused.

A pickle can name any class or function and have it called while it is read. That is the only way in which reading
runs foreign code, so every look-up of a name raises here, as do persistent identifiers and out-of-band buffers. The
reader of the standard library that is written in Python does the work: it takes longer (3 to 6 MB/s) than the one in
C, which lets a few bytes claim a memo of any size.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, Final, NoReturn

from hw_configs.problems import bad_input

__all__ = ["is_pickle", "read_plain_pickle"]

LARGEST_FILE_BYTES: Final = 2**30


class _NameError(Exception):
    """A pickle asked for something that is not plain data."""


class _PlainUnpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise _NameError(f"names {module}.{name}")

    def persistent_load(self, _pid: Any) -> NoReturn:
        raise _NameError("holds a persistent identifier")


def is_pickle(path: Path) -> bool:
    """Whether a file begins as pickles of protocol 2 and above do, or has their ending."""
    if path.suffix.lower() in (".pickle", ".pkl"):
        return True
    try:
        with path.open("rb") as file:
            head = file.read(2)
    except OSError:
        return False
    return len(head) == 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def read_plain_pickle(path: Path) -> Any:
    """The data of a pickle file. Raises ``InputError`` where it is damaged, too large or names a class."""
    file = str(path)
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise bad_input(f"is larger than {LARGEST_FILE_BYTES} bytes", file=file)
        content = path.read_bytes()
    except OSError as error:
        raise bad_input(f"cannot be read: {error.strerror or error}", file=file) from None
    stream = io.BytesIO(content)
    try:
        data = _PlainUnpickler(stream).load()
    except _NameError as error:
        told = f"{str(error)[:200]}, which would run code; expected plain lists, dictionaries and numbers"
        raise bad_input(told, file=file) from None
    except Exception as error:  # A damaged pickle can raise anything.
        shown = str(error)[:200] or type(error).__name__
        raise bad_input(f"is not a whole pickle: {shown}", file=file) from None
    if stream.tell() < len(content):
        raise bad_input(f"has {len(content) - stream.tell()} bytes after its end", file=file)
    return data
