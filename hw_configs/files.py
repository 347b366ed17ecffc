"""Finds the files of the library and parses one: a device or a link by name or path.

A shipped config is one YAML file below ``devices/``, ``links/`` or ``systems/``; its name is the file's name
without the ending. Another package can add a folder of its own through the entry-point group
``offchip.devices`` (the entry point is a module; its folder is searched). A file's references are looked up
beside it first, then in the library.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel

from hw_configs.config import Config, parse
from hw_configs.device import Device
from hw_configs.link import Link
from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.system import AnyDevice, AnyLink
from hw_configs.yaml_file import Document, Provenance, read_yaml

__all__ = [
    "Entry",
    "Kind",
    "catalog",
    "document_kind",
    "expect_kind",
    "load_device",
    "load_link",
    "parse_device",
    "parse_link",
    "read_any",
    "sources_of",
]

Kind = Literal["device", "link", "system"]
_LINK_KINDS: Final = ("pcie", "nvlink", "rdma", "onchip")
_DEVICE_KINDS: Final = ("gpu", "cpu", "dram", "pim", "flash", "csd", "accelerator", "nic", "switch")

Model = TypeVar("Model", bound=BaseModel)


class _DeviceFile(Config):
    device: Device


class _LinkFile(Config):
    link: Link


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
        for kind, folder in (("device", "devices"), ("link", "links"), ("system", "systems")):
            for path in sorted((root / folder).rglob("*.yaml")):
                found.setdefault(path.stem, Entry(path.stem, kind, path))  # type: ignore[arg-type]
    order = {"system": 0, "device": 1, "link": 2}
    return dict(sorted(found.items(), key=lambda item: (order[item[1].kind], item[0])))


def _roots() -> list[Path]:
    roots = [Path(__file__).parent]
    for point in entry_points(group="offchip.devices"):
        spec = importlib.util.find_spec(point.value)
        if spec is not None and spec.origin is not None:
            roots.append(Path(spec.origin).parent)
    return roots


def load_device(source: str | Path, beside: Path | None = None) -> AnyDevice:
    """The device of a name or file; ``beside`` is a folder that is searched first."""
    document = read_any(source, beside)
    expect_kind(document, "device", "a device")
    return parse_device(document)


def load_link(source: str | Path, beside: Path | None = None) -> AnyLink:
    """The link of a name or file; ``beside`` is a folder that is searched first."""
    document = read_any(source, beside)
    expect_kind(document, "link", "a link")
    return parse_link(document)


def read_any(source: str | Path, beside: Path | None = None) -> Document:
    """The document of a config by name or path; an unknown name raises with the nearest known one."""
    text = str(source)
    for path in (Path(text), *([beside / text, beside / f"{text}.yaml"] if beside else [])):
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return read_yaml(path)
    if text in catalog():
        return read_yaml(catalog()[text].path)
    if Path(text).suffix in (".yaml", ".yml") or "/" in text:
        return read_yaml(Path(text))
    raise bad_input(
        f"unknown hardware {text!r}: neither a shipped config (see 'offchip hw list') nor a file",
        suggestion=nearest(text, catalog()),
    )


def document_kind(document: Document) -> Kind:
    """What a file describes, by its key ``kind``; a file without one is a system when it has ``devices``."""
    if not isinstance(document.data, dict):
        raise bad_input("found no keys; expected a device, a link or a system", file=document.file, line=1)
    kind = document.data.get("kind", "system" if "devices" in document.data else None)
    if kind == "system":
        return "system"
    if kind in _LINK_KINDS:
        return "link"
    if kind in _DEVICE_KINDS:
        return "device"
    known = ("system", *_DEVICE_KINDS, *_LINK_KINDS)
    line = document.line_of(("kind",))
    if kind is None:
        raise bad_input(f"missing key 'kind'; known: {', '.join(known)}", file=document.file, line=line)
    raise bad_input(
        f"found {kind!r}; known: {', '.join(known)}",
        file=document.file,
        line=line,
        path="kind",
        suggestion=nearest(str(kind), known),
    )


def expect_kind(document: Document, kind: Kind, expected: str) -> None:
    """Raise an ``InputError`` when a document describes something else."""
    found = document_kind(document)
    if found != kind:
        raise bad_input(
            f"found a {found}; expected {expected}", file=document.file, line=document.line_of(("kind",))
        )


def parse_device(document: Document) -> AnyDevice:
    """The device that a document describes; all its problems at once as an ``InputError``."""
    return _parse_wrapped(_DeviceFile, "device", document).device


def parse_link(document: Document) -> AnyLink:
    """The link that a document describes; all its problems at once as an ``InputError``."""
    return _parse_wrapped(_LinkFile, "link", document).link


def _parse_wrapped(schema: type[Model], key: str, document: Document) -> Model:
    """Parse a file whose top level is a union; the union needs a field to stand in."""

    def wrapped(table: dict[tuple[str | int, ...], Any]) -> dict[tuple[str | int, ...], Any]:
        return {(key, *path): value for path, value in table.items()}

    lines = {**wrapped(document.lines), (): 1}
    whole = Document(document.file, {key: document.data}, lines, wrapped(document.provenance))
    try:
        return parse(schema, whole)
    except InputError as error:
        raise InputError(
            Problem(
                p.message, p.file, p.line, (p.path or "").removeprefix(key).lstrip(".") or None, p.suggestion
            )
            for p in error.problems
        ) from None


def sources_of(document: Document, prefix: str = "") -> dict[str, Provenance]:
    """Source or assumption of each figure that names one, by its dotted path behind a prefix."""
    return {
        prefix + ".".join(str(part) for part in path): figure for path, figure in document.provenance.items()
    }
