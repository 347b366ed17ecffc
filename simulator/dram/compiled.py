"""Compiled kernels that are kept on disk, and made anew whenever anything they were made from has changed.

numba keeps a compiled function by the date of its own file alone. A kernel that takes steps and numbers from
other modules would then outlive a change in them, without a word. Its name on disk therefore carries a
fingerprint of all its sources.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from numba import njit

__all__ = ["compiled_from"]


def compiled_from(*modules: ModuleType) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: compile a function that is made from its own file and ``modules``, and keep it on disk.

    The function must allocate nothing and keep no array: it does without numba's reference counts, which are
    atomic operations and took nine tenths of the DRAM kernel's time.
    """
    digest = hashlib.sha256()
    for module in modules:
        digest.update(Path(str(module.__file__)).read_bytes())
    mark = digest.hexdigest()[:12]

    def compile_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__qualname__ = f"{function.__qualname__}_{mark}"
        compiled: Callable[..., Any] = njit(cache=True, nogil=True, _nrt=False)(function)  # type: ignore[call-overload]
        return compiled

    return compile_kernel
