"""Where compiled kernels are kept, by the content of everything they were made from.

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
import os
import pickle
import platform
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

__all__ = ["KernelFile", "cache_directories", "fingerprint", "prune", "sources_of"]

PACKAGES: Final = ("hw_configs", "workloads", "simulator", "mapping", "offchip")
MOST_BYTES: Final = 256 << 20
"""Kept kernels take no more than this on disk; the ones that have not been used for longest go first."""
_SUFFIX: Final = ".kernel"
_DAY_S: Final = 86_400
_DIGEST: Final = hashlib.sha256().digest_size


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
def fingerprint(module: str, file: Path) -> str | None:
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
    with suppress(OSError):
        temporary = Path(tempfile.gettempdir()) / f"offchip-{user}"
        if _private(temporary):
            places.append(temporary)
    return tuple(places)


def _private(directory: Path) -> bool:
    """Whether a directory for temporary files is, or can be made, this user's alone: kernels are run."""
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    mine = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return stat.S_ISDIR(status.st_mode) and mine and not status.st_mode & 0o022


class KernelFile:
    """One compiled kernel on disk, by its name: a readable part, and a digest of all that makes it what it is."""

    def __init__(self, readable: str, *parts: object) -> None:
        plain = "".join(c for c in readable if c.isalnum() or c in "._")
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()
        self.name = f"{plain[-80:]}-{digest[:32]}{_SUFFIX}"

    def read(self) -> Any:
        """What was kept; None where there is nothing, or nothing whole."""
        for directory in cache_directories():
            path = directory / self.name
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

    def write(self, content: bytes) -> None:
        """Keep pickled content in the first directory that takes it; where none does, nothing is kept."""
        for directory in cache_directories():
            part = directory / f"{uuid.uuid4().hex}.part"
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                part.write_bytes(hashlib.sha256(content).digest() + content)
                part.replace(directory / self.name)
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
