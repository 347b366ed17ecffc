"""Finds and loads devices, links and systems: shipped by name, a user's own by path.

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
from hw_configs.system import AnyDevice, AnyLink, Node, System, SystemFile, Wire, WireSpec
from hw_configs.yaml_file import Document, Provenance, read_yaml

__all__ = ["Entry", "catalog", "load_device", "load_link", "load_system", "read_any"]

Kind = Literal["device", "link", "system"]
_LINK_KINDS: Final = ("pcie", "nvlink", "rdma", "onchip")
MAX_NODES: Final = 200_000

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


def load_system(source: str | Path) -> System:
    """The system of a name or file. A device is taken as a system of that device alone.

    Raises ``InputError`` with all problems of the file that is wrong (its own or one it refers to).
    """
    document = read_any(source)
    if _kind_of(document) == "device":
        device = _parse_device(document)
        node = Node(device.name, device.name, device, device.name)
        return System(device.name, {node.name: node}, {}, device.description, None, _provenance(document, ""))
    if _kind_of(document) == "link":
        raise bad_input("found a link; expected a system or a device", file=document.file, line=1)
    return _compose(parse(SystemFile, document), document)


def load_device(source: str | Path, beside: Path | None = None) -> AnyDevice:
    """The device of a name or file; ``beside`` is a folder that is searched first."""
    return _parse_device(read_any(source, beside))


def load_link(source: str | Path, beside: Path | None = None) -> AnyLink:
    """The link of a name or file; ``beside`` is a folder that is searched first."""
    return _parse_link(read_any(source, beside))


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


def _kind_of(document: Document) -> Kind:
    kind = document.data.get("kind") if isinstance(document.data, dict) else None
    if kind in (None, "system"):
        return "system"
    return "link" if kind in _LINK_KINDS else "device"


def _parse_device(document: Document) -> AnyDevice:
    return _parse_wrapped(_DeviceFile, "device", document).device


def _parse_link(document: Document) -> AnyLink:
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


def _provenance(document: Document, prefix: str) -> dict[str, Provenance]:
    return {
        prefix + ".".join(str(part) for part in path): figure for path, figure in document.provenance.items()
    }


def _compose(file: SystemFile, document: Document) -> System:
    problems: list[Problem] = []
    provenance = _provenance(document, "")
    devices = _resolve_devices(file, document, problems, provenance)
    members = _members(file, devices, document, problems)
    nodes = _nodes(file, devices, members, document, problems)
    wires: dict[str, Wire] = {}
    for index, spec in enumerate(file.links):
        wires.update(_wires(spec, index, members, document, problems))
    if problems:
        raise InputError(problems)
    return System(file.name, nodes, wires, file.description, file.price_rate, provenance)


def _at(document: Document, *path: str | int) -> dict[str, Any]:
    return {
        "file": document.file,
        "line": document.line_of(path),
        "path": ".".join(str(part) for part in path),
    }


def _resolve_devices(
    file: SystemFile, document: Document, problems: list[Problem], provenance: dict[str, Provenance]
) -> dict[str, AnyDevice]:
    devices: dict[str, AnyDevice] = {}
    for name, group in file.devices.items():
        if (group.use is None) == (group.device is None):
            where = _at(document, "devices", name)
            problems.append(Problem("needs either 'use' (a device's name) or 'device' (in place)", **where))
        elif group.device is not None:
            devices[name] = group.device
        else:
            assert group.use is not None
            try:
                referred = read_any(group.use, Path(document.file).parent)
                devices[name] = _parse_device(referred)
                provenance.update(_provenance(referred, f"{name}."))
            except InputError as error:
                problems += _as_reference(error, document, "devices", name, "use")
    return devices


def _as_reference(error: InputError, document: Document, *path: str | int) -> list[Problem]:
    where = _at(document, *path)
    return [p if p.file else Problem(p.message, suggestion=p.suggestion, **where) for p in error.problems]


def _members(
    file: SystemFile, devices: dict[str, AnyDevice], document: Document, problems: list[Problem]
) -> dict[str, list[str]]:
    if sum(group.count or 1 for group in file.devices.values()) > MAX_NODES:
        problems.append(Problem(f"more than {MAX_NODES} devices", **_at(document, "devices")))
        return {}
    return {
        name: [name] if group.count is None else [f"{name}{index}" for index in range(group.count)]
        for name, group in file.devices.items()
        if name in devices
    }


def _nodes(
    file: SystemFile,
    devices: dict[str, AnyDevice],
    members: dict[str, list[str]],
    document: Document,
    problems: list[Problem],
) -> dict[str, Node]:
    nodes: dict[str, Node] = {}
    for name, names in members.items():
        group = file.devices[name]
        own = _has_memory(devices[name])
        if group.memory is not None and group.memory not in members:
            where = _at(document, "devices", name, "memory")
            near = nearest(group.memory, members)
            problems.append(Problem(f"unknown device group {group.memory!r}", suggestion=near, **where))
            continue
        for index, node in enumerate(names):
            memory: str | None = node if own else None
            if group.memory is not None:
                memory = _dealt(names, members[group.memory], index)
            nodes[node] = Node(node, name, devices[name], memory)
    return nodes


def _has_memory(device: AnyDevice) -> bool:
    return device.kind in ("dram", "flash", "csd") or getattr(device, "memory", None) is not None


def _dealt(many: list[str], few: list[str], index: int) -> str:
    """The member of ``few`` that serves member ``index`` of ``many``, dealt out in order."""
    return few[min(index * len(few) // len(many), len(few) - 1)]


def _wires(
    spec: WireSpec, index: int, members: dict[str, list[str]], document: Document, problems: list[Problem]
) -> dict[str, Wire]:
    where = _at(document, "links", index)
    unknown = [group for group in spec.between if group not in members]
    if (spec.use is None) == (spec.link is None):
        problems.append(Problem("needs either 'use' (a link's name) or 'link' (in place)", **where))
        return {}
    if unknown:
        problems += [
            Problem(f"unknown device group {group!r}", suggestion=nearest(group, members), **where)
            for group in unknown
        ]
        return {}
    try:
        link = spec.link if spec.link is not None else load_link(spec.use or "", Path(document.file).parent)
    except InputError as error:
        problems += _as_reference(error, document, "links", index, "use")
        return {}
    pairs = _pairs(*(members[group] for group in spec.between))
    if not pairs:
        problems.append(Problem("connects a device with itself", **where))
        return {}
    if len(pairs) > MAX_NODES:
        problems.append(Problem(f"makes {len(pairs)} wires; use a switch", **where))
        return {}
    if spec.shared:
        name = f"{link.kind}:{'-'.join(spec.between)}"
        return {name: Wire(name, link, tuple(pairs))}
    return {(name := f"{link.kind}:{one}-{other}"): Wire(name, link, ((one, other),)) for one, other in pairs}


def _pairs(ones: list[str], others: list[str]) -> list[tuple[str, str]]:
    if ones == others:
        return [(a, b) for i, a in enumerate(ones) for b in ones[i + 1 :]]
    if len(ones) >= len(others):
        return [(one, _dealt(ones, others, index)) for index, one in enumerate(ones)]
    return [(_dealt(others, ones, index), other) for index, other in enumerate(others)]
