"""How every file is written: under a temporary name beside its place, then renamed.

A reader never sees half a file, and a write that fails leaves nothing behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hw_configs.problems import bad_input

__all__ = ["finite", "replacing"]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to; it takes the place of ``path`` when the block ends well.

    Raises ``InputError`` when the file cannot be written: no such folder, a folder of that name, no rights, a
    full disk.
    """
    path = Path(path)
    part = path.parent / f"{path.name or 'file'}.part"
    try:
        if path.is_dir():
            raise bad_input("cannot be written: this is a folder", file=str(path))
        yield part
        part.replace(path)
    except OSError as error:
        raise bad_input(f"cannot be written: {error.strerror or error}", file=str(path)) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def finite(value: Any) -> Any:
    """Plain data for JSON, which has no infinities: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
