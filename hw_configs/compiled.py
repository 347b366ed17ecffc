"""The one way to compile a kernel: numba's code is kept on disk, and never outlives what it was made from.

A compiled kernel holds the code and the constants of every module it takes something from, while numba by itself
looks at the date of the kernel's own file alone. So each kept kernel is named by the content of its sources: its
own module and, over all imports, every module of the project that stands behind it; by the versions of Python,
numba, llvmlite and numpy; and by the processor. Whatever changes, another name is looked for, and not found.

Kernels are kept in a directory of the user, never beside the sources: ``$OFFCHIP_CACHE_DIR``, else
``$XDG_CACHE_HOME/offchip`` (``~/.cache/offchip``), else a private directory for temporary files. Each lies in a file
of its own that gets its name only when it is whole, and carries a checksum. So any number of processes may share
the directory, over a network as well; a directory that cannot be written keeps nothing new, and a damaged file is
compiled anew.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import logging
import os
import pickle
import platform
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, overload

__all__ = ["LOGGER", "cache_directories", "compiled", "inlined", "sources_of"]

LOGGER: Final = logging.getLogger("offchip.compiled")
"""Says ``compiling, once`` (level INFO) before the first kernel of a process that is not on disk."""

PACKAGES: Final = ("hw_configs", "workloads", "simulator", "mapping", "offchip")
MOST_BYTES: Final = 256 << 20
"""Kept kernels take no more than this on disk; the ones that have not been used for longest go first."""
_SUFFIX: Final = ".kernel"
_DAY_S: Final = 86_400
_DIGEST: Final = hashlib.sha256().digest_size


@overload
def compiled(function: Callable[..., Any], /) -> Any: ...
@overload
def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]: ...
def compiled(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Decorator: compile a function with numba at its first call, or take it from disk.

    ``options`` are numba's own. The compiled code holds no lock of the interpreter (it must not touch Python
    objects). ``_nrt=False`` leaves out reference counts, for a kernel that allocates nothing and keeps no array:
    they are atomic operations, and can cost more than the work itself. With ``NUMBA_DISABLE_JIT=1`` the function
    stays what it is.
    """
    if function is None:
        return lambda decorated: _compiled(decorated, options)
    return _compiled(function, {})


def _compiled(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    from numba import njit

    settings: dict[str, Any] = {"nogil": True, "no_cfunc_wrapper": True, **options}
    kernel: Any = njit(**settings)(function)
    if kernel is not function:
        kernel._cache = _kept(function)
    return kernel


def inlined(function: Callable[..., Any]) -> Any:
    """Decorator: a step that becomes part of the kernels that call it, without reference counts.

    It is never called from Python and nothing is kept of it alone.
    """
    from numba import njit

    settings: dict[str, Any] = {"forceinline": True, "_nrt": False, "no_cfunc_wrapper": True}
    return njit(**settings)(function)


# ---- what a kernel is made from


def sources_of(module: str, file: Path) -> dict[str, bytes]:
    """Every module of the project that ``module`` (in ``file``) is made from, itself included: its content by name.

    Follows the import statements wherever they stand, but for those that only a type checker reads. Raises
    ``OSError`` or ``SyntaxError`` where a source cannot be read.
    """
    parts = module.split(".")
    inside = file.parent if file.stem == "__init__" else file.with_suffix("")
    own = inside.parents[len(parts) - 1] if len(parts) <= len(inside.parts) else file.parent
    roots = (own, Path(__file__).parents[1])
    packages = {parts[0], *PACKAGES}
    found = {module: file.read_bytes()}
    seen, waiting = {module}, [(module, file)]
    while waiting:
        name, path = waiting.pop()
        package = name if path.stem == "__init__" else name.rpartition(".")[0]
        for wanted in _imports(ast.parse(found[name]).body, package):
            steps = wanted.split(".")
            for depth in range(1, len(steps) + 1):
                other = ".".join(steps[:depth])
                if steps[0] not in packages or other in seen:
                    continue
                seen.add(other)
                where = _file_of(other, roots)
                if where is not None:
                    found[other] = where.read_bytes()
                    waiting.append((other, where))
    return found


def _imports(body: list[Any], package: str) -> Iterator[str]:
    """Names that statements import, and what may be modules among the names they import from others."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and _for_types_only(node.test):
            yield from _imports(node.orelse, package)
        else:
            for part in ("body", "orelse", "finalbody", "handlers", "cases"):
                inner = getattr(node, part, None)
                if isinstance(inner, list):
                    yield from _imports(inner, package)


def _for_types_only(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


def _file_of(module: str, roots: tuple[Path, ...]) -> Path | None:
    for root in roots:
        place = root.joinpath(*module.split("."))
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                return path
    return None


@cache
def _fingerprint(module: str, file: Path) -> str | None:
    """What names the kernels of a module; None where a source cannot be read, and nothing may be kept."""
    try:
        sources = sources_of(module, file)
    except (OSError, SyntaxError, ValueError):
        return None
    digest = hashlib.sha256()
    for name in sorted(sources):
        for part in (name.encode(), sources[name]):
            digest.update(len(part).to_bytes(8, "little") + part)
    digest.update(_versions().encode())
    return digest.hexdigest()


@cache
def _versions() -> str:
    """Versions and settings that compiled code depends on beside its sources."""
    from numba import config

    packages = [f"{name} {importlib.metadata.version(name)}" for name in ("numba", "llvmlite", "numpy")]
    settings = [
        f"{name} {getattr(config, name, None)}" for name in ("OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT")
    ]
    return ", ".join([sys.version, platform.platform(), *packages, *settings])


# ---- where kernels are kept


def cache_directories() -> tuple[Path, ...]:
    """Directories in which kernels are looked for, and kept in the first that can be written."""
    chosen = os.environ.get("OFFCHIP_CACHE_DIR")
    places = []
    if chosen:
        places.append(Path(chosen))
    elif os.environ.get("XDG_CACHE_HOME"):
        places.append(Path(os.environ["XDG_CACHE_HOME"]) / "offchip")
    else:
        # A container may run a user without a name and a home.
        with suppress(RuntimeError):
            places.append(Path.home() / ".cache" / "offchip")
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    temporary = Path(tempfile.gettempdir()) / f"offchip-{user}"
    return (*places, *([temporary] if _private(temporary) else []))


def _private(directory: Path) -> bool:
    """Whether a directory for temporary files is, or can be made, this user's alone: kernels are run."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
    except OSError:
        return False
    mine = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return stat.S_ISDIR(status.st_mode) and mine and not status.st_mode & 0o022


def _read(name: str) -> Any:
    """What was kept under a name; None where there is nothing, or nothing whole."""
    for directory in cache_directories():
        path = directory / name
        try:
            data = path.read_bytes()
            if data[:_DIGEST] != hashlib.sha256(data[_DIGEST:]).digest():
                continue
            content = pickle.loads(data[_DIGEST:])
        except Exception:
            # Not there, not ours to read, or not what was written.
            continue
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _DAY_S:
                os.utime(path)
        return content
    return None


def _write(name: str, content: bytes) -> None:
    """Keep a kernel under a name, in the first directory that takes it."""
    for directory in cache_directories():
        part = directory / f"{uuid.uuid4().hex}.part"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            part.write_bytes(hashlib.sha256(content).digest() + content)
            part.replace(directory / name)
        except OSError:
            with suppress(OSError):
                part.unlink()
            continue
        _prune_once(directory)
        return


@cache
def _prune_once(directory: Path) -> None:
    """Once a process: remove what has not been used for longest, down to ``MOST_BYTES``; and broken-off files."""
    prune(directory, MOST_BYTES)


def prune(directory: Path, most_bytes: int) -> None:
    """Remove kernels from a directory, those unused for longest first, until they take ``most_bytes`` at most."""
    kept: list[tuple[float, int, Path]] = []
    for path in directory.iterdir():
        with suppress(OSError):
            status = path.stat()
            if path.suffix == _SUFFIX:
                kept.append((status.st_mtime, status.st_size, path))
            elif path.suffix == ".part" and time.time() - status.st_mtime > _DAY_S:
                path.unlink()
    total = sum(size for _, size, _ in kept)
    for _, size, path in sorted(kept):
        if total <= most_bytes:
            return
        with suppress(OSError):
            path.unlink()
        total -= size


@cache
def _announce() -> None:
    LOGGER.info("compiling, once")


def _kept(function: Callable[..., Any]) -> Any:
    """Numba's view of the directory: what it asks before it compiles a function, and gives what it compiled."""
    from numba.core.caching import NullCache
    from numba.core.compiler import CompileResult
    from numba.core.serialize import dumps

    file = Path(function.__code__.co_filename)

    class Kept(NullCache):
        """Compiled forms of one function, by the types of its arguments."""

        def _name(self, signature: Any, codegen: Any) -> str | None:
            fingerprint = _fingerprint(function.__module__, file)
            if fingerprint is None:
                return None
            cells = [cell.cell_contents for cell in function.__closure__ or ()]
            what = (
                function.__qualname__,
                function.__code__.co_firstlineno,
                str(signature),
                codegen.magic_tuple(),
            )
            key = hashlib.sha256(repr((fingerprint, what)).encode() + (dumps(cells) if cells else b""))  # type: ignore[no-untyped-call]
            readable = f"{function.__module__}.{function.__qualname__}".replace("<", "").replace(">", "")
            return f"{readable[-80:]}-{key.hexdigest()[:32]}{_SUFFIX}"

        def load_overload(self, sig: Any, target_context: Any) -> Any:
            target_context.refresh()
            name = self._name(sig, target_context.codegen())
            data = _read(name) if name is not None else None
            if data is not None:
                try:
                    return CompileResult._rebuild(target_context, *data)  # type: ignore[no-untyped-call]
                except Exception:
                    # Whole, but not what this numba can use.
                    pass
            _announce()
            return None

        def save_overload(self, sig: Any, data: Any) -> None:
            name = self._name(sig, data.codegen)
            if (
                name is not None
                and not data.library.has_dynamic_globals
                and all(x.can_cache for x in data.lifted)
            ):
                _write(name, dumps(data._reduce()))  # type: ignore[no-untyped-call]

    return Kept()
