"""From the file of a system to nodes and wires: references, members, memories, and what can't work.

Every fault is collected, each on the line of the system file it stands on, or of the file it refers to.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from hw_configs.board import why_no_scratchpad
from hw_configs.cluster import read_network
from hw_configs.device import Accelerator, Cpu, SpatialAccelerator
from hw_configs.files import expect_kind, load_device, load_link, parse_device, read_any, sources_of
from hw_configs.network import Network
from hw_configs.problems import InputError, Problem, nearest
from hw_configs.processor import processor_settings
from hw_configs.system import AnyDevice, DeviceGroup, Node, System, SystemFile, Wire, WireSpec
from hw_configs.yaml_file import Document, Provenance

__all__ = ["broken_references", "compose", "has_memory"]

MAX_NODES: Final = 200_000
_GROUP_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def compose(file: SystemFile, document: Document) -> System:
    """The system of a parsed file; ``InputError`` with every fault of its references and wiring."""
    problems: list[Problem] = []
    provenance = sources_of(document, "")
    devices = _resolve_devices(file, document, problems, provenance)
    members = _members(file, devices, document, problems)
    nodes = _nodes(file, devices, members, document, problems)
    wires: dict[str, Wire] = {}
    for index, spec in enumerate(file.links):
        made = _wires(spec, index, file, members, document, problems)
        twice = next((wire for name, wire in made.items() if name in wires), None)
        if twice is not None:
            message = f"joins {' and '.join(twice.ends[0])} a second time; raise its lanes or links instead"
            problems.append(Problem(message, **_at(document, "links", index)))
        wires.update(made)
    network = _network(file, members, document, problems)
    system = System(file.name, nodes, wires, file.description, file.price_rate, provenance, network)
    if not problems:
        problems += _unusable(system, document)
    if problems:
        raise InputError(problems)
    return system


def _network(
    file: SystemFile, members: dict[str, list[str]], document: Document, problems: list[Problem]
) -> Network | None:
    if file.network is None:
        return None
    try:
        groups = {name: len(members.get(name, ())) for name in file.devices}
        return read_network(file.network, groups, _at(document, "network"), Path(document.file).parent)
    except InputError as error:
        problems += error.problems
        return None


def _unusable(system: System, document: Document) -> list[Problem]:
    """A machine of sound parts that can't work: nothing computes, or a device that nothing reaches."""
    computing = [node for node in system.nodes.values() if node.compute is not None]
    if not computing:
        return [Problem("no device of this system computes", **_at(document, "devices"))]
    reached = system.reachable(computing[0].name)
    # A switch or port of some devices only (the NVSwitches of another machine) is no end of any route.
    linked = {end for wire in system.wires.values() for pair in wire.ends for end in pair}
    reached |= {node.name for node in system.of_kind("switch", "nic") if node.name in linked}
    lost: dict[str, list[str]] = {}
    for node in system.nodes.values():
        if node.name not in reached:
            lost.setdefault(node.group, []).append(node.name)
    return [
        Problem(
            f"no link path leads from {computing[0].name!r} to {_listed(names)}",
            **_at(document, "devices", group),
        )
        for group, names in lost.items()
    ]


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def broken_references(document: Document) -> list[Problem]:
    """Unknown names in a file whose schema is wrong already, so that one run reports everything."""
    problems: list[Problem] = []
    data = document.data
    groups = data.get("devices") if isinstance(data, dict) else None
    links = data.get("links") if isinstance(data, dict) else None
    references: list[tuple[tuple[str | int, ...], Any, Any]] = []
    if isinstance(groups, dict):
        references += [(("devices", name, "use"), group, load_device) for name, group in groups.items()]
    if isinstance(links, list):
        references += [(("links", index, "use"), link, load_link) for index, link in enumerate(links)]
    for path, holder, load in references[:1000]:
        use = holder.get("use") if isinstance(holder, dict) else None
        if isinstance(use, str):
            try:
                load(use, Path(document.file).parent)
            except InputError as error:
                problems += _as_reference(error, document, *path)
    return problems


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
                expect_kind(referred, "device", "a device")
                devices[name] = parse_device(referred)
                provenance.update(sources_of(referred, f"{name}."))
            except InputError as error:
                problems += _as_reference(error, document, "devices", name, "use")
        if name in devices:
            devices[name] = _set_up(devices[name], group, name, document, problems)
    return devices


def _set_up(
    device: AnyDevice, group: DeviceGroup, name: str, document: Document, problems: list[Problem]
) -> AnyDevice:
    """A CPU with the threads and sockets that its group says; any other device as it is."""
    said = [key for key in ("threads", "sockets", "placement") if getattr(group, key) is not None]
    if not said:
        return device
    where = _at(document, "devices", name, said[0])
    if not isinstance(device, Cpu):
        problems.append(Problem(f"{device.kind} {device.name!r} has no {said[0]!r}; a CPU has", **where))
        return device
    try:
        settings = group.sockets or 1, group.placement or device.placement, group.threads
        data = device.model_dump(exclude_none=True)
        return Cpu.model_validate(processor_settings(data, *settings))
    except ValueError as error:
        message = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        problems.append(Problem(message.removeprefix("Value error, "), **where))
        return device


def _as_reference(error: InputError, document: Document, *path: str | int) -> list[Problem]:
    where = _at(document, *path)
    return [p if p.file else Problem(p.message, suggestion=p.suggestion, **where) for p in error.problems]


def _members(
    file: SystemFile, devices: dict[str, AnyDevice], document: Document, problems: list[Problem]
) -> dict[str, list[str]]:
    if sum(group.count or 1 for group in file.devices.values()) > MAX_NODES:
        problems.append(Problem(f"more than {MAX_NODES} devices", **_at(document, "devices")))
        return {}
    members: dict[str, list[str]] = {}
    taken: dict[str, str] = {}
    for name, group in file.devices.items():
        if not _GROUP_NAME.fullmatch(name):
            message = "a group's name is letters, digits, '-' and '_', starting with a letter"
            problems.append(Problem(message, **_at(document, "devices", name)))
        names = [name] if group.count is None else [f"{name}{index}" for index in range(group.count)]
        clash = next((member for member in names if member in taken), None)
        if clash is not None:
            message = f"its member {clash!r} bears the name of a member of group {taken[clash]!r}"
            problems.append(Problem(message, **_at(document, "devices", name)))
        taken.update(dict.fromkeys(names, name))
        if name in devices:
            members[name] = names
    return members


def _nodes(
    file: SystemFile,
    devices: dict[str, AnyDevice],
    members: dict[str, list[str]],
    document: Document,
    problems: list[Problem],
) -> dict[str, Node]:
    nodes: dict[str, Node] = {}
    for name, names in members.items():
        group, device = file.devices[name], devices[name]
        own = has_memory(device)
        in_scratchpad = group.memory == "scratchpad" and "scratchpad" not in file.devices
        wrong = None
        if in_scratchpad:
            wrong = _wrong_scratchpad(device)
        elif group.memory is not None:
            wrong = _wrong_memory(group.memory, own, file, devices)
        elif not own and getattr(device, "compute", None) is not None:
            wrong = (
                f"{device.kind} {device.name!r} has no memory; name a group to work in under 'memory'",
                None,
            )
        if wrong is not None:
            path = ("devices", name) if group.memory is None else ("devices", name, "memory")
            problems.append(Problem(wrong[0], suggestion=wrong[1], **_at(document, *path)))
            continue
        for index, node in enumerate(names):
            memory: str | None = node if own or in_scratchpad else None
            if group.memory in members:
                memory = _dealt(names, members[group.memory], index)
            nodes[node] = Node(node, name, device, memory, in_scratchpad)
    return nodes


def _wrong_scratchpad(device: AnyDevice) -> tuple[str, str | None] | None:
    """What keeps a device from working in its scratchpad."""
    if isinstance(device, SpatialAccelerator):
        why = why_no_scratchpad(device)
        return (why, None) if why else None
    if not isinstance(device, Accelerator):
        return f"{device.kind} {device.name!r} has no scratchpad; accelerators have", None
    if device.scratchpad.bandwidth_at(device.clock) is None:
        return f"the scratchpad of {device.name!r} needs 'banks' and 'bank_width', or a 'bandwidth'", None
    return None


def _wrong_memory(
    memory: str, own: bool, file: SystemFile, devices: dict[str, AnyDevice]
) -> tuple[str, str | None] | None:
    """What is wrong with the group that another group works in, and the nearest valid one."""
    holders = [name for name in file.devices if name in devices and has_memory(devices[name])]
    if memory not in file.devices:
        return f"unknown device group {memory!r}", nearest(memory, holders)
    if own:
        return "this device has a memory of its own", None
    if memory in devices and not has_memory(devices[memory]):
        return f"group {memory!r} has no memory; groups that have: {', '.join(holders) or 'none'}", None
    return None


def has_memory(device: AnyDevice) -> bool:
    """Whether tensors can live in a device."""
    return device.kind in ("dram", "flash", "csd", "spatial") or getattr(device, "memory", None) is not None


def _dealt(many: list[str], few: list[str], index: int) -> str:
    """The member of ``few`` that serves member ``index`` of ``many``, dealt out in order."""
    return few[min(index * len(few) // len(many), len(few) - 1)]


def _ends(file: SystemFile, members: dict[str, list[str]]) -> dict[str, list[str] | None]:
    """What may stand at an end of a link: groups, and single members; None for a group whose device is wrong."""
    single: dict[str, list[str] | None] = {name: [name] for names in members.values() for name in names}
    return single | {group: members.get(group) for group in file.devices}


def _wires(
    spec: WireSpec,
    index: int,
    file: SystemFile,
    members: dict[str, list[str]],
    document: Document,
    problems: list[Problem],
) -> dict[str, Wire]:
    where = _at(document, "links", index)
    known = _ends(file, members)
    unknown = [end for end in spec.between if end not in known]
    if (spec.use is None) == (spec.link is None):
        problems.append(Problem("needs either 'use' (a link's name) or 'link' (in place)", **where))
        return {}
    if unknown:
        problems += [
            Problem(f"unknown device group {end!r}", suggestion=nearest(end, known), **where)
            for end in unknown
        ]
        return {}
    try:
        link = spec.link if spec.link is not None else load_link(spec.use or "", Path(document.file).parent)
    except InputError as error:
        problems += _as_reference(error, document, "links", index, "use")
        return {}
    if any(known[end] is None for end in spec.between):
        return {}
    ones, others = (known[end] or [] for end in spec.between)
    if len(ones) % spec.islands or len(others) % spec.islands:
        problems.append(
            Problem(
                f"groups of {len(ones)} and {len(others)} do not cut into {spec.islands} islands", **where
            )
        )
        return {}
    pairs = [
        pair
        for one, other in zip(_runs(ones, spec.islands), _runs(others, spec.islands), strict=True)
        for pair in _pairs(one, other)
    ]
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


def _runs(names: list[str], count: int) -> list[list[str]]:
    size = len(names) // count
    return [names[start : start + size] for start in range(0, len(names), size)]


def _pairs(ones: list[str], others: list[str]) -> list[tuple[str, str]]:
    if ones == others:
        return [(a, b) for i, a in enumerate(ones) for b in ones[i + 1 :]]
    if len(ones) >= len(others):
        return [(one, _dealt(ones, others, index)) for index, one in enumerate(ones)]
    return [(_dealt(others, ones, index), other) for index, other in enumerate(others)]
