"""Parses one file of the library: a device, a link or an architecture by name or path.

``catalog.py`` finds the file; this says what kind of thing a file describes, and reads it into its model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from hw_configs.catalog import Entry, Kind, catalog, read_any
from hw_configs.config import Config, parse
from hw_configs.device import Device
from hw_configs.gpu_architecture import (
    ARCHITECTURE_KIND,
    architecture_document,
    parse_architecture,
)
from hw_configs.link import Link
from hw_configs.network import CLUSTER_KIND
from hw_configs.prices import undated_prices
from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.system import AnyDevice, AnyLink
from hw_configs.yaml_file import Document, Provenance

__all__ = [
    "Entry",
    "Kind",
    "catalog",
    "document_kind",
    "expect_kind",
    "load_device",
    "load_link",
    "parse_architecture",
    "parse_device",
    "parse_link",
    "read_any",
    "sources_of",
]

_LINK_KINDS: Final = ("pcie", "nvlink", "rdma", "onchip")
_DEVICE_KINDS: Final = (
    "gpu",
    "cpu",
    "cpu-cache",
    "dram",
    "pim",
    "flash",
    "csd",
    "accelerator",
    "nic",
    "switch",
    "cache",
    "spatial",
    "threads",
    "window-pipeline",
)

Model = TypeVar("Model", bound=BaseModel)


class _DeviceFile(Config):
    device: Device


class _LinkFile(Config):
    link: Link


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


def document_kind(document: Document) -> Kind:
    """What a file describes, by its key ``kind``; a file without one is a system when it has ``devices``."""
    if not isinstance(document.data, dict):
        raise bad_input("found no keys; expected a device, a link or a system", file=document.file, line=1)
    kind = document.data.get("kind", "system" if "devices" in document.data else None)
    if kind in ("system", CLUSTER_KIND):
        return "system"
    if kind in _LINK_KINDS:
        return "link"
    if kind in _DEVICE_KINDS:
        return "device"
    if kind == ARCHITECTURE_KIND:
        return "architecture"
    known = ("system", CLUSTER_KIND, *_DEVICE_KINDS, *_LINK_KINDS, ARCHITECTURE_KIND)
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
        article = "an" if found == "architecture" else "a"
        raise bad_input(
            f"found {article} {found}; expected {expected}",
            file=document.file,
            line=document.line_of(("kind",)),
        )


def parse_device(document: Document) -> AnyDevice:
    """The device that a document describes; all its problems at once as an ``InputError``."""
    device = _parse_wrapped(_DeviceFile, "device", document).device
    undated = undated_prices(document)
    if undated:
        raise InputError(undated)
    return device


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
    """Source or assumption of each figure that names one, by its dotted path behind a prefix.

    The figures of a GPU's architecture stand in a file of their own; what that file says of them comes along.
    """
    own = {
        prefix + ".".join(str(part) for part in path): figure for path, figure in document.provenance.items()
    }
    data = document.data
    stated = data.get("architecture") if isinstance(data, dict) and data.get("kind") == "gpu" else None
    reference = stated.get("use") if isinstance(stated, dict) else stated
    if not isinstance(reference, str):
        return own
    file = architecture_document(reference, Path(document.file).parent)
    whole = {f"{prefix}architecture": Provenance("source", str(file.data.get("source", "")))}
    return whole | sources_of(file, f"{prefix}architecture.") | own
