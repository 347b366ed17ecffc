"""The shelves of the library: which files there are, and the file of a name.

A shipped config is one YAML file below ``devices/``, ``links/``, ``architectures/`` or ``systems/``; its name is the
file's name without the ending. Another package can add a folder of its own through the entry-point group
``offchip.devices`` (the entry point is a module; its folder is searched). A file's references are looked up
beside it first, then in the library. A file may state ``aliases``; they and its own name are found however they
are written (:func:`spelling`). What a file holds is read by ``files.py`` and ``gpu_architecture.py``.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final, Literal

from hw_configs.problems import bad_input, nearest
from hw_configs.yaml_file import Document, read_yaml

__all__ = ["Entry", "Kind", "catalog", "known_name", "read_any", "spelling"]

Kind = Literal["system", "device", "link", "architecture"]
_FOLDERS: Final[dict[Kind, str]] = {
    "system": "systems",
    "device": "devices",
    "link": "links",
    "architecture": "architectures",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One config of the library."""

    name: str
    kind: Kind
    path: Path


@cache
def catalog() -> dict[str, Entry]:
    """Every config of the library by name, sorted by kind and name."""
    found: dict[str, Entry] = {}
    for root in _roots():
        for kind, folder in _FOLDERS.items():
            for path in sorted((root / folder).rglob("*.yaml")):
                found.setdefault(path.stem, Entry(path.stem, kind, path))
    order = list(_FOLDERS)
    return dict(sorted(found.items(), key=lambda item: (order.index(item[1].kind), item[0])))


_MAKERS: Final = frozenset(
    (
        "nvidia",
        "amd",
        "intel",
        "apple",
        "google",
        "aws",
        "geforce",
        "instinct",
        "tesla",
        "radeon",
        "cloud",
        "gpu",
    )
)
"""Words that sources put before or after a board's name, and that no two boards differ in."""


def spelling(name: str) -> str:
    """What is left of a name without capitals, punctuation and the maker's name.

    >>> spelling("NVIDIA_A100-PCIE-40GB") == spelling("a100-pcie-40gb")
    True
    """
    words = re.findall(r"[a-z0-9]+", name.lower())
    return "".join([word for word in words if word not in _MAKERS] or words)


def known_name(text: str) -> str | None:
    """The library's name for a config: itself, or that of the file whose name or alias is spelt alike."""
    if text in catalog():
        return text
    return _spellings().get(spelling(text))


@cache
def _spellings() -> dict[str, str]:
    """Every name and alias of devices and systems as :func:`spelling` has it; names go before aliases."""
    entries = [entry for entry in catalog().values() if entry.kind in ("device", "system")]
    found: dict[str, str] = {}
    for entry in entries:
        found.setdefault(spelling(entry.name), entry.name)
    for entry in entries:
        # Reading every file takes seconds; few state aliases.
        if b"\naliases:" in entry.path.read_bytes():
            data = read_yaml(entry.path).data
            for alias in data.get("aliases") or () if isinstance(data, dict) else ():
                found.setdefault(spelling(str(alias)), entry.name)
    return found


def _roots() -> list[Path]:
    roots = [Path(__file__).parent]
    for point in entry_points(group="offchip.devices"):
        spec = importlib.util.find_spec(point.value)
        if spec is not None and spec.origin is not None:
            roots.append(Path(spec.origin).parent)
    return roots


def read_any(source: str | Path, beside: Path | None = None) -> Document:
    """The document of a config by name or path; an unknown name raises with the nearest known one."""
    text = str(source)
    for path in (Path(text), *([beside / text, beside / f"{text}.yaml"] if beside else [])):
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return read_yaml(path)
    known = known_name(text) if "/" not in text and Path(text).suffix not in (".yaml", ".yml") else None
    if known is not None:
        return read_yaml(catalog()[known].path)
    if Path(text).suffix in (".yaml", ".yml") or "/" in text:
        return read_yaml(Path(text))
    raise bad_input(
        f"unknown hardware {text!r}: neither a shipped config (see 'offchip hw list') nor a file",
        suggestion=nearest(text, catalog()),
    )
