"""The library of machines: shipped by name, a user's own by path.

This is the door: :func:`load_system`, :func:`load_device` and :func:`load_link` return validated objects or
raise one ``InputError`` with every problem. ``files.py`` finds and parses, ``compose.py`` joins a system.
"""

from __future__ import annotations

from pathlib import Path

from hw_configs.catalog import Entry, Kind, catalog, read_any
from hw_configs.cluster import cluster_of, compose_cluster, counted_name
from hw_configs.compose import broken_references, compose, has_memory
from hw_configs.config import parse
from hw_configs.files import (
    document_kind,
    expect_kind,
    load_device,
    load_link,
    parse_architecture,
    parse_device,
    parse_link,
    sources_of,
)
from hw_configs.gpu_architecture import GpuArchitecture
from hw_configs.network import CLUSTER_KIND, ClusterFile
from hw_configs.prices import undated_prices
from hw_configs.problems import InputError, bad_input
from hw_configs.system import AnyDevice, AnyLink, Node, System, SystemFile
from hw_configs.yaml_file import Document, Provenance, read_yaml

__all__ = [
    "Entry",
    "Kind",
    "catalog",
    "check_file",
    "kind_of",
    "load_device",
    "load_link",
    "load_system",
    "load_with_sources",
    "read_any",
]

AnyPart = AnyDevice | AnyLink | GpuArchitecture


def load_system(source: str | Path) -> System:
    """The system of a name or file. A device is taken as a system of that device alone, and ``dgx-h100*64`` (or
    ``64xdgx-h100``) as so many machines on the network that the machine's file names.

    Raises ``InputError`` with all problems of the file that is wrong (its own or one it refers to).
    """
    counted = counted_name(source)
    if counted is None:
        return _system_of(read_any(source))
    name, count = counted
    machine = _system_of(read_any(name))
    if machine.cluster is not None:
        raise bad_input(f"{name!r} is a cluster itself; expected one machine before the count", path="--hw")
    return cluster_of(machine, count, str(source))


def load_with_sources(source: str | Path) -> tuple[AnyPart, dict[str, Provenance], str]:
    """A device, link or architecture, the source or assumption of each figure by its path, and the file's name."""
    document = read_any(source)
    return _part_of(document), sources_of(document, ""), document.file


def kind_of(source: str | Path) -> Kind:
    """Whether a name or file is a device, a link, an architecture or a system."""
    if counted_name(source) is not None:
        return "system"
    return document_kind(read_any(source))


def check_file(path: str | Path) -> Kind:
    """Load a file of any kind to find its problems; the kind when there are none.

    Raises ``InputError`` with every problem, of the file and of the files it refers to.
    """
    document = read_yaml(path)
    kind = document_kind(document)
    if kind == "system":
        _system_of(document)
    else:
        _part_of(document)
    return kind


def _part_of(document: Document) -> AnyPart:
    kind = document_kind(document)
    if kind == "device":
        return parse_device(document)
    return parse_architecture(document) if kind == "architecture" else parse_link(document)


def _system_of(document: Document) -> System:
    if document_kind(document) == "device":
        device = parse_device(document)
        node = Node(device.name, device.name, device, device.name if has_memory(device) else None)
        return System(device.name, {node.name: node}, {}, device.description, None, sources_of(document))
    expect_kind(document, "system", "a system or a device")
    if document.data.get("kind") == CLUSTER_KIND:
        return compose_cluster(parse(ClusterFile, document), document, _machine_of)
    try:
        file = parse(SystemFile, document)
    except InputError as error:
        raise InputError([*error.problems, *broken_references(document)]) from None
    undated = undated_prices(document)
    if undated:
        raise InputError(undated)
    return compose(file, document)


def _machine_of(name: str, folder: Path) -> System:
    """A machine of a cluster, by name or file beside the cluster's own."""
    return _system_of(read_any(name, folder))
