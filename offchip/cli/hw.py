"""``offchip hw list|show|check``: what machines there are, every figure of one, what is wrong with a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hw_configs.config import Config
    from hw_configs.system import System
    from hw_configs.yaml_file import Provenance

__all__ = ["check", "list_hardware", "show"]

_JSON = typer.Option("--json", help="one JSON object on standard output")


def list_hardware(
    kind: Annotated[
        str | None,
        typer.Option(help="system, link, architecture, or a kind of device: gpu, cpu, pim, ..."),
    ] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """List the systems, devices, links and GPU architectures that are known by name."""
    from hw_configs.library import catalog, read_any
    from hw_configs.problems import bad_input, nearest
    from offchip.cli.output import print_json, print_table

    rows = []
    for name, entry in catalog().items():
        data = read_any(entry.path).data
        fields = data if isinstance(data, dict) else {}
        rows.append((name, entry.kind, str(fields.get("kind") or "system"), fields.get("description") or ""))
    known = sorted({word for row in rows for word in row[1:3]})
    if kind is not None and kind not in known:
        raise bad_input(f"--kind: found {kind!r}; known: {', '.join(known)}", suggestion=nearest(kind, known))
    chosen = [row for row in rows if kind in (None, *row[1:3])]
    if as_json:
        print_json({"hardware": [dict(zip(_COLUMNS, row, strict=True)) for row in chosen]})
    else:
        print_table("", ("name", "kind", "description"), [(row[0], row[2], row[3]) for row in chosen])


_COLUMNS = ("name", "type", "kind", "description")


def show(
    name: Annotated[
        str, typer.Argument(help="a system, device, link or GPU architecture: a name or a YAML file")
    ],
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Show every figure of a config with its unit and source; a system as the tree of its parts."""
    from hw_configs.library import kind_of, load_system, load_with_sources
    from offchip.cli.output import print_json, print_table

    if kind_of(name) == "system":
        system = load_system(name)
        if as_json:
            print_json(_system_content(system))
        else:
            sys.stdout.write(_tree(system))
        return
    config, sources, file = load_with_sources(name)
    figures = list(_figures(config, sources))
    if as_json:
        about = {key: getattr(config, key) for key in ("name", "kind", "description", "source")}
        print_json({**about, "file": Path(file).name, "figures": figures})
        return
    print_table(f"{config.name}: {config.description or config.kind}", ("figure", "value", "from"), [
        (figure["path"], figure["text"], _origin(figure)) for figure in figures
    ])  # fmt: skip
    if config.source:
        print(f"\nsource, where a figure names none: {config.source}")


def check(
    files: Annotated[
        list[Path], typer.Argument(help="YAML files of devices, links, architectures or systems")
    ],
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Check config files: every problem with file, line and field; leaves with 2 if there is one."""
    from hw_configs.library import check_file
    from hw_configs.problems import InputError, Problem
    from offchip.cli.output import print_json

    problems: list[Problem] = []
    report = []
    for file in files:
        try:
            kind: str | None = check_file(file)
            found: tuple[Problem, ...] = ()
        except InputError as error:
            kind, found = None, error.problems
        problems += found
        report.append({"file": str(file), "kind": kind, "problems": [str(problem) for problem in found]})
        if not as_json and not found:
            print(f"ok {file} ({kind})")
    if as_json:
        print_json({"ok": not problems, "files": report})
    if problems:
        if as_json:
            raise typer.Exit(InputError.exit_code)
        raise InputError(problems)


def _figures(config: Config, sources: Mapping[str, Provenance], prefix: str = "") -> Iterator[dict[str, Any]]:
    """Every figure below a model: path, SI value, unit, text with unit, and where it comes from."""
    from hw_configs.config import Config, field_quantity

    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        path = f"{prefix}{name}"
        # A device is named above its table; of the parts that have a file of their own, the name says which.
        if value is None or name in ("kind", "description", "source") or (name == "name" and not prefix):
            continue
        if isinstance(value, Config):
            yield from _figures(value, sources, f"{path}.")
            continue
        if isinstance(value, tuple):
            # Names and the like: one line, and none for an empty list.
            if value:
                yield _figure(path, ", ".join(str(item) for item in value), None, sources)
            continue
        quantity = field_quantity(field)
        dimension = quantity.dimension if quantity is not None else None
        items = value.items() if isinstance(value, dict) else [(None, value)]
        for key, item in items:
            if isinstance(item, Config):
                yield from _figures(item, sources, f"{path}.{key}.")
                continue
            yield _figure(path if key is None else f"{path}.{key}", item, dimension, sources)


def _figure(
    path: str, value: Any, dimension: str | None, sources: Mapping[str, Provenance]
) -> dict[str, Any]:
    from hw_configs.units import DIMENSIONS, format_quantity

    figure: dict[str, Any] = {"path": path, "value": value, "unit": None, "text": str(value)}
    if dimension is not None:
        figure["text"] = format_quantity(value, dimension)
        figure["unit"] = DIMENSIONS[dimension].base_unit
        if path.endswith("pin_rate"):
            figure["text"] = f"{value * 8 / 1e9:.4g} Gb/s"
    if path.rsplit(".", 1)[-1].startswith("int"):
        figure["text"] = figure["text"].replace("FLOP", "OP")
        figure["unit"] = str(figure["unit"]).replace("FLOP", "OP")
    origin = sources.get(path) or next(
        (sources[parent] for parent in _parents(path) if parent in sources), None
    )
    if origin is not None:
        figure[origin.kind] = origin.text
        if origin.date:
            figure["date"] = origin.date
    elif ".energy_per_operation." in f".{path}":
        figure["source"] = "compute.arithmetic_power over the rate"
    return figure


def _parents(path: str) -> Iterator[str]:
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        yield ".".join(parts[:length])


def _origin(figure: Mapping[str, Any]) -> str:
    date = f" ({figure['date']})" if "date" in figure else ""
    if "assumption" in figure:
        return f"assumption: {figure['assumption']}{date}"
    return f"{figure.get('source', '')}{date}"


def _groups(system: System) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for node in system.nodes.values():
        groups.setdefault(node.group, []).append(node.name)
    return groups


def _system_content(system: System) -> dict[str, Any]:
    devices = {}
    for group, members in _groups(system).items():
        node = system.nodes[members[0]]
        own = {
            path.removeprefix(f"{group}."): origin
            for path, origin in system.provenance.items()
            if path.startswith(f"{group}.")
        }
        devices[group] = {
            "members": members,
            "device": node.device.name,
            "kind": node.device.kind,
            "works_in": [system.nodes[member].memory for member in members],
            "source": node.device.source,
            "figures": list(_figures(node.device, own)),
        }
    wires = [
        {
            "name": wire.name,
            "link": wire.link.name,
            "kind": wire.link.kind,
            "ends": [list(pair) for pair in wire.ends],
            "bandwidth": wire.link.bandwidth,
            "latency": wire.link.latency,
            "duplex": wire.link.duplex,
        }
        for wire in system.wires.values()
    ]
    return {
        "name": system.name,
        "kind": "system",
        "description": system.description,
        "digest": system.digest,
        "devices": devices,
        "memories": {
            name: {
                "technology": space.technology,
                "capacity_bytes": space.capacity_bytes,
                "usable_bytes": space.usable_bytes,
                "read_bandwidth": space.read_bandwidth,
                "write_bandwidth": space.write_bandwidth,
            }
            for name, space in system.memories.items()
        },
        "wires": wires,
    }


def _tree(system: System) -> str:
    """The system as text: a branch per group, with its memory, what it computes, and its wires."""
    lines = [f"{system.name}: {system.description}" if system.description else system.name]
    for group, members in _groups(system).items():
        node = system.nodes[members[0]]
        count = f"{len(members)} x " if len(members) > 1 else ""
        lines.append(f"  {group}: {count}{node.device.name} ({node.device.kind})")
        lines += [f"    {text}" for text in _facts(system, members[0])]
        lines += [f"    {text}" for text in _wires_of(system, members[0])]
    return "\n".join(lines) + "\n"


def _facts(system: System, name: str) -> Iterator[str]:
    from hw_configs.units import format_quantity

    node = system.nodes[name]
    if node.compute is not None:
        rates = {**node.compute.vector, **node.compute.matrix}
        shown = ", ".join(f"{d} {format_quantity(rate, 'operation_rate')}" for d, rate in rates.items())
        yield f"computes {shown}"
    space = system.memories.get(name)
    if space is not None:
        read, write = (format_quantity(x, "bandwidth") for x in (space.read_bandwidth, space.write_bandwidth))
        speed = read if read == write else f"{read} read, {write} written"
        usable = ""
        if space.usable_bytes != space.capacity_bytes:
            usable = f" ({format_quantity(space.usable_bytes, 'size')} usable)"
        yield f"memory {format_quantity(space.capacity_bytes, 'size')} {space.technology}{usable}, {speed}"
    elif node.memory is not None:
        yield f"works in {node.memory}"


def _wires_of(system: System, name: str) -> Iterator[str]:
    from hw_configs.units import format_quantity

    peers: dict[str, list[str]] = {}
    wires: dict[str, int] = {}
    for wire in system.wires.values():
        ends = {end for pair in wire.ends if name in pair for end in pair} - {name}
        if ends:
            each = " each way" if wire.link.duplex == "full" else ""
            text = f"{wire.link.name} ({format_quantity(wire.link.bandwidth, 'bandwidth')}{each})"
            peers.setdefault(text, []).extend(sorted(ends))
            wires[text] = wires.get(text, 0) + 1
    for text, ends_of in peers.items():
        count = f"{wires[text]} x " if wires[text] > 1 else ""
        shown = ", ".join(ends_of) if len(ends_of) <= 4 else f"{ends_of[0]} ... {ends_of[-1]}"
        yield f"-- {count}{text} -- {shown}"
