"""The archive of an exported programme: its graph as JSON, checked and typed.

A ``.pt2`` file is a zip with ``models/<name>.json`` (torch 2.8 and later) or
``serialized_exported_program.json`` (earlier). Weights stay closed, and nothing in the archive is unpickled.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import InputError, bad_input

__all__ = ["Argument", "Call", "Meta", "Programme", "read_programme"]

MAX_JSON_BYTES: Final = 1 << 30
MAX_NODES: Final = 2_000_000
DTYPES: Final[Mapping[int, str]] = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "fp16", 7: "fp32", 8: "fp64", 9: "fp32", 10: "fp64",
    11: "fp64", 12: "bool", 13: "bf16", 28: "int16", 29: "fp8", 30: "fp8", 31: "fp8", 32: "fp8",
}  # fmt: skip
"""Numbers of torch's serialised element types (``ScalarType`` of torch/_export/serde/schema.py)."""

Argument = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Meta:
    """Element type and sizes of a tensor, as stated."""

    dtype: str
    sizes: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One node: the operator it calls (``aten.linear``), its arguments by name, the names of the tensors it makes."""

    name: str
    target: str
    arguments: Mapping[str, Argument]
    outputs: tuple[str, ...]

    def tensors(self, name: str) -> list[str]:
        """The tensors of an argument: one, a list, or none."""
        argument = self.arguments.get(name, {})
        if "as_tensor" in argument:
            return [str(argument["as_tensor"]["name"])]
        if "as_tensors" in argument:
            return [str(item["name"]) for item in argument["as_tensors"]]
        optional = argument.get("as_optional_tensors", ())
        return [str(item["as_tensor"]["name"]) for item in optional if "as_tensor" in item]

    def inputs(self) -> Iterator[str]:
        """All tensors it reads."""
        for name in self.arguments:
            yield from self.tensors(name)

    def number(self, name: str, default: int = 0) -> int:
        """A whole number among its arguments."""
        value = self.arguments.get(name, {}).get("as_int", default)
        return value if isinstance(value, int) else default

    def numbers(self, name: str) -> list[int]:
        """A list of whole numbers among its arguments."""
        value = self.arguments.get(name, {}).get("as_ints", [])
        return [item for item in value if isinstance(item, int)] if isinstance(value, list) else []

    def flag(self, name: str) -> bool:
        """A truth value among its arguments."""
        return self.arguments.get(name, {}).get("as_bool") is True


@dataclass(frozen=True)
class Programme:
    """The graph of an exported programme.

    ``stored`` are inputs that come with it (parameters, buffers, constants), ``given`` those that a user gives, in
    order; ``mutated`` are stored ones that it changes. ``hints`` are the sizes of symbols in the example that it was
    exported with, ``least`` and ``most`` their bounds.
    """

    file: str
    calls: tuple[Call, ...]
    metas: Mapping[str, Meta]
    stored: tuple[str, ...]
    given: tuple[str, ...]
    outputs: tuple[str, ...]
    mutated: Mapping[str, str]
    """Output that becomes the new value of a stored input, to that input."""
    hints: Mapping[str, int]
    bounds: Mapping[str, tuple[int, int | None]]
    torch_version: str


def read_programme(path: Path) -> Programme:
    """The programme in an archive; ``InputError`` for one that is damaged or of another kind."""
    try:
        with zipfile.ZipFile(path) as archive:
            text = _model(archive, str(path))
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError) as error:
        raise bad_input(f"is no archive of torch.export: {error}", file=str(path)) from None
    try:
        data = json.loads(text)
        return _programme(data, str(path))
    except RecursionError:
        raise bad_input("its graph is nested too deep", file=str(path)) from None
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        what = f"{type(error).__name__}: {error}"[:100]
        raise bad_input(
            f"its graph is not of the form that torch.export writes ({what})", file=str(path)
        ) from None


def _model(archive: zipfile.ZipFile, file: str) -> bytes:
    entries = [
        entry
        for entry in archive.infolist()
        if entry.filename.endswith("serialized_exported_program.json")
        or ("/models/" in f"/{entry.filename}" and entry.filename.endswith(".json"))
    ]
    if len(entries) != 1:
        names = ", ".join(entry.filename for entry in entries[:4]) or "none"
        raise bad_input(f"expected one exported model in the archive; found {names}", file=file)
    if entries[0].file_size > MAX_JSON_BYTES:
        raise bad_input(f"its graph takes {entries[0].file_size} bytes; at most {MAX_JSON_BYTES}", file=file)
    with archive.open(entries[0]) as stream:
        return stream.read(MAX_JSON_BYTES + 1)


def _programme(data: Any, file: str) -> Programme:
    module = data["graph_module"]
    graph, signature = module["graph"], module["signature"]
    if len(graph["nodes"]) > MAX_NODES:
        raise bad_input(f"more than {MAX_NODES} nodes", file=file)
    metas = {name: _meta(value) for name, value in graph["tensor_values"].items()}
    stored, given = [], []
    for spec in signature["input_specs"]:
        (kind, value), *_ = spec.items()
        name = value["arg"].get("name") or value["arg"].get("as_tensor", {}).get("name")
        if kind in ("parameter", "buffer", "tensor_constant") and name:
            stored.append(str(name))
        elif kind == "user_input" and name:
            given.append(str(name))
    if missing := [name for name in given if name not in metas]:
        raise ValueError(f"no sizes of the input {missing[0]!r}")
    mutated = {
        str(value["arg"]["name"]): str(_buffer(value, signature))
        for spec in signature["output_specs"]
        for kind, value in spec.items()
        if kind == "buffer_mutation"
    }
    hints: dict[str, int] = {}
    for value in graph["tensor_values"].values():
        for size in value["sizes"]:
            expression = size.get("as_expr")
            if expression and str(expression["expr_str"]).startswith("Symbol("):
                name = str(expression["expr_str"]).split("'")[1]
                hint = (expression.get("hint") or {}).get("as_int")
                if isinstance(hint, int):
                    hints.setdefault(name, hint)
    bounds = {
        str(name): (int(entry.get("min_val") or 0), entry.get("max_val"))
        for name, entry in data.get("range_constraints", {}).items()
    }
    return Programme(
        file, tuple(_call(node, file) for node in graph["nodes"]), metas, tuple(stored), tuple(given),
        tuple(str(o["as_tensor"]["name"]) for o in graph["outputs"] if "as_tensor" in o), mutated, hints, bounds,
        str(data.get("torch_version", "unknown")),
    )  # fmt: skip


def _buffer(value: Any, signature: Any) -> str:
    for spec in signature["input_specs"]:
        buffer = spec.get("buffer")
        if buffer and buffer["buffer_name"] == value["buffer_name"]:
            return str(buffer["arg"]["name"])
    return ""


def _meta(value: Any) -> Meta:
    dtype = DTYPES.get(value["dtype"])
    if dtype is None:
        raise ValueError(f"the element type {value['dtype']!r} is not known")
    return Meta(dtype, tuple(value["sizes"]))


def _call(node: Any, file: str) -> Call:
    target = str(node["target"]).removeprefix("torch.ops.")
    arguments = {str(item["name"]): item["arg"] for item in node["inputs"]}
    if any("as_graph" in argument for argument in arguments.values()):
        message = f"{target} runs a graph within the graph; export the model without it (torch.no_grad around export)"
        raise bad_input(message, file=file, path=str(node.get("name") or target))
    outputs: list[str] = []
    for item in node["outputs"]:
        if "as_tensor" in item:
            outputs.append(str(item["as_tensor"]["name"]))
        outputs += [str(each["name"]) for each in item.get("as_tensors", ())]
    name = str(node.get("name") or (outputs[0] if outputs else target))
    call = Call(name, target, arguments, tuple(outputs))
    # Read once here, where a damaged argument is told as such.
    list(call.inputs())
    return call
