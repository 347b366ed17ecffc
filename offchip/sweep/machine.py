"""Machines of a sweep: a system by name or file, with some of its figures changed.

A path names what changes. ``GROUP.count``, ``GROUP.use`` and ``links.LINK.use`` change what the system is built
of; everything else is a figure of a device (``gpu.memory.bandwidth``) or of a link
(``links.pcie.generation``). GROUP is a device group of the system, or a kind of device (all GPUs). LINK is a
kind of link (``pcie``), the name of a link's file, or two groups (``ssd-plx``). A changed figure goes through the
same validation as a file does, so a machine that can't exist is refused in the same words.
"""

from __future__ import annotations

import typing
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import pydantic
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from hw_configs import library
from hw_configs.compose import compose
from hw_configs.config import ImpossibleError, Quantity, field_quantity, parse
from hw_configs.device import Compute, SpatialAccelerator
from hw_configs.files import document_kind, read_any
from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.system import AnyDevice, AnyLink, Node, System, SystemFile, Wire
from hw_configs.yaml_file import Document

__all__ = ["Leaf", "Machines", "Value", "is_config"]

Value = int | float | str | bool | None
STRUCTURE: Final = ("count", "use")
REMEMBERED: Final = 256

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Leaf:
    """What a path leads to: its dimension when it is a figure with a unit, and how to read a value."""

    path: str
    quantity: Quantity | None
    adapter: TypeAdapter[Any] | None = None
    whole: bool = False

    @property
    def dimension(self) -> str | None:
        """A key of ``DIMENSIONS``, or None for a bare number, a name or a choice."""
        return self.quantity.dimension if self.quantity is not None else None

    def read(self, value: Any) -> Value:
        """A value of a space file in SI units; ``ValueError`` says in words what was expected."""
        if self.quantity is not None:
            return self.quantity(repr(value) if isinstance(value, float) else value)
        if self.adapter is None:
            return typing.cast(Value, value)
        try:
            return typing.cast(Value, self.adapter.validate_python(value))
        except pydantic.ValidationError as error:
            detail = error.errors()[0]
            if "error" in detail.get("ctx", {}):
                raise ValueError(str(detail["ctx"]["error"])) from None
            message = detail["msg"][0].lower() + detail["msg"][1:]
            raise ValueError(f"found {value!r}; {message}") from None


@dataclass(frozen=True)
class _Base:
    """A machine as its file has it. ``file`` is None for a device taken as a machine."""

    document: Document
    file: SystemFile | None
    system: System


class Machines:
    """Builds machines, and remembers those it has built; not to be shared between threads."""

    def __init__(self, beside: Path | None = None) -> None:
        self.beside = beside
        self._bases: dict[str, _Base] = {}
        self._built: OrderedDict[tuple[Any, ...], System] = OrderedDict()

    def base(self, hw: str) -> System:
        """The machine of a name or file, as it is."""
        return self._base(hw).system

    def structure(self, hw: str, settings: Mapping[str, Value]) -> System:
        """The machine built of what the settings of a point name (``use``, ``count``), its figures as in the files."""
        named = {
            path: v for path, v in settings.items() if _is_structure(path.split(".")) and is_config(path)
        }
        return self.system(hw, named)

    def leaf(self, hw: str, path: str) -> Leaf:
        """What a path leads to in a machine; ``InputError`` with the nearest valid name if nowhere."""
        return self.variant_leaf(hw, {}, path)

    def variant_leaf(self, hw: str, changes: Mapping[str, Value], path: str) -> Leaf:
        """What a path leads to in a machine with changes."""
        parts = path.split(".")
        if _is_structure(parts):
            return self._structure_leaf(self._base(hw), path, parts)
        system = self.system(hw, changes)
        if parts[0] == "links":
            targets: Iterable[BaseModel] = (w.link for w in _wires_at(system, parts, path))
            rest = parts[2:]
        else:
            targets = (node.device for node in _nodes_at(system, parts[0], path))
            rest = parts[1:]
        return next(iter([_leaf_in(target, rest, path) for target in {id(t): t for t in targets}.values()]))

    def system(self, hw: str, changes: Mapping[str, Value]) -> System:
        """The machine with changes by path, in SI units; None leaves a figure as it is.

        Raises ``InputError`` for a path that leads nowhere and for a machine that can't exist.
        """
        wanted = {path: value for path, value in changes.items() if value is not None}
        key = (hw, *sorted(wanted.items()))
        found = self._built.get(key)
        if found is None:
            found = self._built[key] = self._build(hw, wanted)
            if len(self._built) > REMEMBERED:
                self._built.popitem(last=False)
        else:
            self._built.move_to_end(key)
        return found

    def _build(self, hw: str, wanted: Mapping[str, Value]) -> System:
        structure = {path: value for path, value in wanted.items() if _is_structure(path.split("."))}
        if not structure:
            system = self._base(hw).system
        elif len(structure) == len(wanted):
            return self._compose(hw, structure)
        else:
            system = self.system(hw, structure)
        figures: dict[int, tuple[BaseModel, dict[tuple[str, ...], Value]]] = {}
        for path, value in wanted.items():
            if path in structure:
                continue
            parts = path.split(".")
            if parts[0] == "links":
                owners: list[BaseModel] = [wire.link for wire in _wires_at(system, parts, path)]
                rest = tuple(parts[2:])
            else:
                owners = [node.device for node in _nodes_at(system, parts[0], path)]
                rest = tuple(parts[1:])
            for owner in owners:
                _leaf_in(owner, rest, path)
                figures.setdefault(id(owner), (owner, {}))[1][rest] = value
        changed = {ident: _changed(owner, values) for ident, (owner, values) in figures.items()}
        nodes: dict[str, Node] = {
            name: replace(node, device=typing.cast(AnyDevice, changed[id(node.device)]))
            if id(node.device) in changed
            else node
            for name, node in system.nodes.items()
        }
        wires: dict[str, Wire] = {
            name: replace(wire, link=typing.cast(AnyLink, changed[id(wire.link)]))
            if id(wire.link) in changed
            else wire
            for name, wire in system.wires.items()
        }
        # Of a cluster whose parts differ from those it was joined of, the digest is over all parts.
        return replace(system, nodes=nodes, wires=wires, cluster=None)

    def _base(self, hw: str) -> _Base:
        if hw not in self._bases:
            document = read_any(hw, self.beside)
            file = parse(SystemFile, document) if document_kind(document) == "system" else None
            system = compose(file, document) if file is not None else library.load_system(document.file)
            self._bases[hw] = _Base(document, file, system)
        return self._bases[hw]

    def _structure_leaf(self, base: _Base, path: str, parts: list[str]) -> Leaf:
        _restructured(base, {path: None})
        if parts[-1] == "count":
            return Leaf(path, None, TypeAdapter(Annotated[int, pydantic.Field(ge=1, le=65536)]), whole=True)
        return Leaf(path, None, TypeAdapter(str))

    def _compose(self, hw: str, structure: Mapping[str, Value]) -> System:
        base = self._base(hw)
        return compose(_restructured(base, structure), base.document)


def is_config(path: str) -> bool:
    """Whether a path of a space leads into the machine, rather than to an option of the run or a name."""
    return "." in path and not path.startswith(("settings.", "dims."))


def _is_structure(parts: list[str]) -> bool:
    return parts[-1] in STRUCTURE and len(parts) == (3 if parts[0] == "links" else 2)


def _restructured(base: _Base, structure: Mapping[str, Value]) -> SystemFile:
    """The system file with other counts and parts."""
    if base.file is None:
        path = next(iter(structure))
        raise bad_input(f"{base.system.name!r} is a single device; vary 'hw' instead", path=path)
    devices, links = dict(base.file.devices), list(base.file.links)
    for path, value in structure.items():
        parts = path.split(".")
        if parts[0] == "links":
            chosen = [i for i, spec in enumerate(links) if parts[1] in (spec.use, "-".join(spec.between))]
            if not chosen:
                known = {name for spec in links for name in (spec.use, "-".join(spec.between)) if name}
                raise _unknown("link", parts[1], known, path)
            for index in chosen:
                links[index] = links[index].model_copy(update={"use": value, "link": None})
        else:
            groups = [name for name in devices if name == parts[0]]
            groups = groups or list(
                dict.fromkeys(n.group for n in base.system.nodes.values() if n.device.kind == parts[0])
            )
            if not groups:
                raise _unknown("device group", parts[0], _group_names(base.system), path)
            for name in groups:
                changes = {parts[1]: value} if parts[1] == "count" else {"use": value, "device": None}
                devices[name] = devices[name].model_copy(update=changes)
    return base.file.model_copy(update={"devices": devices, "links": links})


def _group_names(system: System) -> list[str]:
    names = [name for node in system.nodes.values() for name in (node.group, node.device.kind)]
    return list(dict.fromkeys(names))


def _nodes_at(system: System, group: str, path: str) -> list[Node]:
    nodes = [node for node in system.nodes.values() if node.group == group]
    nodes = nodes or [node for node in system.nodes.values() if node.device.kind == group]
    if not nodes:
        raise _unknown("device group", group, [*_group_names(system), "links"], path)
    return nodes


def _wires_at(system: System, parts: list[str], path: str) -> list[Wire]:
    name = parts[1] if len(parts) > 1 else ""
    found, known = [], dict[str, None]()
    for wire in system.wires.values():
        one, other = (system.nodes[end].group for end in wire.ends[0])
        names = (wire.link.kind, wire.link.name, f"{one}-{other}", f"{other}-{one}")
        known.update(dict.fromkeys(names[:3]))
        if name in names:
            found.append(wire)
    if not found:
        raise _unknown("link", name, known, path)
    return found


def _unknown(what: str, name: str, known: Iterable[str], path: str) -> InputError:
    names = list(known)
    shown = ", ".join(names) or "none"
    return bad_input(f"unknown {what} {name!r}; known: {shown}", path=path, suggestion=nearest(name, names))


def _leaf_in(owner: BaseModel, parts: Iterable[str], path: str) -> Leaf:
    """Follow the rest of a path through a model and its tables."""
    here: Any = owner
    field: FieldInfo | None = None
    for part in parts:
        if isinstance(here, BaseModel):
            fields = type(here).model_fields
            if part not in fields:
                shown = f"{getattr(owner, 'kind', '')} {getattr(owner, 'name', '')!r}"
                message = f"{shown} has no {part!r}; known: {', '.join(fields)}"
                raise bad_input(message, path=path, suggestion=nearest(part, fields))
            field, here = fields[part], getattr(here, part)
        elif _is_parts(here):
            found = {_called(entry): entry for entry in here}
            if part not in found:
                raise _unknown("part", part, found, path)
            here = found[part]
        elif isinstance(here, dict) and field is not None:
            valid = _table_keys(field.annotation)
            if valid and part not in valid:
                raise _unknown("entry", part, valid, path)
            here = here.get(part)
        else:
            raise bad_input(f"leads past a figure, at {part!r}", path=path)
    if field is None or isinstance(here, BaseModel | dict) or _is_parts(here):
        entries: list[Any] = (
            list(type(here).model_fields) if isinstance(here, BaseModel) else list(here or ())
        )
        inner = [_called(entry) for entry in entries] if _is_parts(here) else entries
        raise bad_input(f"names a part, not a figure; its figures: {', '.join(map(str, inner))}", path=path)
    quantity = field_quantity(field)
    if quantity is not None:
        return Leaf(path, quantity)
    annotation: Any = field.annotation
    if _table_keys(annotation):
        annotation = typing.get_args(annotation)[1]
    whole = int in (annotation, *typing.get_args(annotation))
    metadata = tuple(field.metadata)
    form: Any = Annotated[annotation, *metadata] if metadata else annotation
    return Leaf(path, None, TypeAdapter(form), whole)


def _table_keys(annotation: Any) -> list[str]:
    """The keys a table may have; empty when it is no table or its keys are free."""
    if typing.get_origin(annotation) is not dict:
        return []
    keys = typing.get_args(annotation)[0]
    return list(typing.get_args(keys)) if typing.get_origin(keys) is Literal else []


def _changed(owner: Model, values: Mapping[tuple[str, ...], Value]) -> Model:
    """The model with other figures, validated as a whole."""
    data = owner.model_dump(exclude_unset=True)
    _drop_derived(owner, data)
    for parts, value in values.items():
        table: Any = data
        for part in parts[:-1]:
            if isinstance(table, list | tuple):
                table = next(entry for entry in table if part in (entry.get("name"), entry.get("axis")))
            else:
                table = table.setdefault(part, {})
        table[parts[-1]] = value
    name = str(getattr(owner, "name", ""))
    try:
        return type(owner).model_validate(data)
    except pydantic.ValidationError as error:
        raise InputError(
            Problem(message, path=".".join((name, *(str(p) for p in path))))
            for path, message in _faults(error)
        ) from None


def _called(entry: BaseModel) -> str:
    """The name of a part in a list, such as a memory level or an axis."""
    return str(getattr(entry, "name", None) or getattr(entry, "axis", ""))


def _is_parts(found: Any) -> bool:
    return isinstance(found, tuple) and bool(found) and isinstance(found[0], BaseModel)


def _drop_derived(owner: BaseModel, data: dict[str, Any]) -> None:
    """Energies that follow from a power, or from a size, must follow again; a stated one stays."""
    if isinstance(owner, SpatialAccelerator):
        for level in data["levels"]:
            if level.get("energy") is not None:
                level.pop("read_energy", None)
                level.pop("write_energy", None)
    compute = getattr(owner, "compute", None)
    if isinstance(compute, Compute) and compute.arithmetic_power is not None:
        stated = data["compute"].get("energy_per_operation")
        if stated:
            fresh = Compute.model_validate(
                {**data["compute"], "energy_per_operation": {}}
            ).energy_per_operation
            data["compute"]["energy_per_operation"] = {
                dtype: energy for dtype, energy in stated.items() if fresh.get(dtype) != energy
            }


def _faults(error: pydantic.ValidationError) -> list[tuple[tuple[Any, ...], str]]:
    faults: list[tuple[tuple[Any, ...], str]] = []
    for detail in error.errors():
        if detail["type"] == "default_factory_not_called":
            continue
        inner = detail.get("ctx", {}).get("error")
        if isinstance(inner, ImpossibleError):
            faults += [((*detail["loc"], *path), message) for path, message in inner.faults]
        else:
            faults.append((detail["loc"], str(inner or detail["msg"])))
    return faults
