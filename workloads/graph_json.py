"""A graph as JSON: the interchange form ``offchip-graph-1``, read and written without loss.

The schema stands in ``docs/graph-format.md``. Every problem of a file is reported at once, with its line. The
reader also takes ``dnn-scratchpad-graph-1``, the form of the scratchpad-scheduling instances: operators with
tensors of so many bytes and a workspace, but no shapes and no FLOPs.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import InputError, Problem, bad_input, nearest
from workloads.dtypes import BITS, size_bytes
from workloads.graph import Attribute, Graph, Operator, Role, Tensor, check_graph, make_operator
from workloads.imported import refuse_resizing, uncosted_operators
from workloads.in_place import pair_problems
from workloads.json_file import JsonDocument, read_json, read_json_text
from workloads.operator_json import OPERATOR_KEYS, StatedOperator, operator_row, read_operator
from workloads.operators import KINDS, Copy, Custom
from workloads.workload import Phase, Workload, WorkloadOptions

JsonPath = tuple[str | int, ...]

__all__ = ["IMPORTER", "graph_from_json", "graph_to_json", "read_graph", "write_graph"]

FORMAT: Final = "offchip-graph-1"
SCRATCHPAD_FORMAT: Final = "dnn-scratchpad-graph-1"
MAX_FILE_BYTES: Final = 512 * 2**20
MAX_COUNT: Final = 2**63 - 1
MAX_PROBLEMS: Final = 50
MAX_LISTED: Final = 64
MAX_SUGGESTED: Final = 5000
"""A nearest name is looked for among at most so many; the search is quadratic in the length of names."""

_ROLES: Final = tuple(str(role) for role in Role)
_PHASES: Final = ("forward", "prefill", "decode", "train")
_GRAPH_KEYS: Final = ("format", "name", "structure", "metadata", "tensors", "operators", "outputs")
_TENSOR_KEYS: Final = ("name", "shape", "dtype", "role", "size_bytes")
MAX_FLOPS: Final = 1e30
"""More than any operator does."""


def read_graph(path: str | Path) -> Graph:
    """The graph in a JSON file of either format; raises ``InputError`` with everything that is wrong."""
    document = read_json(path, MAX_FILE_BYTES)
    data = document.data
    if not isinstance(data, dict):
        raise bad_input(f"found {_shown(data)}; expected an object", file=document.file, line=1)
    form = data.get("format")
    if form == SCRATCHPAD_FORMAT:
        return _Reader(document).scratchpad_graph()
    if form != FORMAT:
        found = f"found format {_shown(form)}" if "format" in data else "missing key 'format'"
        raise bad_input(
            f"{found}; expected {FORMAT!r} or {SCRATCHPAD_FORMAT!r}",
            file=document.file,
            line=document.line_of(("format",)),
            path="format",
            suggestion=nearest(str(form), (FORMAT, SCRATCHPAD_FORMAT)),
        )
    return _Reader(document).graph()


def graph_from_json(text: str, file: str = "<graph>") -> Graph:
    """The graph in JSON text of the interchange form."""
    return _Reader(read_json_text(text, file)).graph()


def graph_to_json(graph: Graph) -> str:
    """The interchange form of a graph: one tensor and one operator to a line, in program order."""
    head: dict[str, Any] = {"format": FORMAT, "name": graph.name}
    if graph.structure:
        head["structure"] = graph.structure
    if graph.metadata:
        head["metadata"] = dict(graph.metadata)
    parts = [f" {_line(key)}: {_line(value)}" for key, value in head.items()]
    parts.append(_block("tensors", [_tensor_json(tensor) for tensor in graph.tensors.values()]))
    parts.append(_block("operators", [operator_row(op, graph.tensors) for op in graph.operators]))
    parts.append(f' "outputs": {_line(list(graph.outputs))}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def write_graph(graph: Graph, path: str | Path) -> None:
    """Write the interchange form; the file appears whole or not at all."""
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(graph_to_json(graph))
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _block(key: str, rows: list[dict[str, Any]]) -> str:
    inner = ",\n".join(f"  {_line(row)}" for row in rows)
    return f' "{key}": [\n{inner}\n ]' if rows else f' "{key}": []'


def _tensor_json(tensor: Tensor) -> dict[str, Any]:
    row: dict[str, Any] = {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype}
    if tensor.role is not Role.ACTIVATION:
        row["role"] = str(tensor.role)
    if tensor.size_bytes != size_bytes(math.prod(tensor.shape), tensor.dtype):
        row["size_bytes"] = tensor.size_bytes
    return row


_SCRATCHPAD_KEYS: Final = (
    "format", "name", "description", "ops", "tensors",
    "M_R_bytes", "M_P_bytes", "fixed_order_peak_bytes", "budgets",
)  # fmt: skip
_SCRATCHPAD_OP_KEYS: Final = ("name", "kind", "inputs", "outputs", "workspace_bytes", "in_place")
_SCRATCHPAD_TENSOR_KEYS: Final = ("name", "bytes", "producer", "consumers", "graph_input", "graph_output")


def _loaded(names: Collection[str], tensors: Mapping[str, Tensor]) -> Copy:
    """A graph input that comes in: one row of bytes."""
    return Copy(m=1, n=sum(tensors[name].size_bytes for name in names), function="load")


class _Reader:
    """Walks one document, noting every problem on the way."""

    def __init__(self, document: JsonDocument) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def graph(self) -> Graph:
        data = self.document.data
        self.keys(data, (), _GRAPH_KEYS, ("name", "tensors", "operators"))
        name = self.text(data.get("name", ""), ("name",))
        structure = self.text(data.get("structure", ""), ("structure",), empty=True)
        metadata = self.attributes(data.get("metadata", {}), ("metadata",))
        tensors: dict[str, Tensor] = {}
        lines: dict[str, JsonPath] = {}
        for index, row in enumerate(self.rows(data.get("tensors", []), "tensors")):
            tensor = self.tensor(row, ("tensors", index))
            if tensor is None:
                continue
            if tensor.name in tensors:
                self.note(("tensors", index, "name"), f"two tensors have the name {tensor.name!r}")
            tensors[tensor.name] = tensor
            lines[tensor.name] = ("tensors", index)
        operators: list[Operator] = []
        for index, row in enumerate(self.rows(data.get("operators", []), "operators")):
            op = self.operator(row, ("operators", index), tensors)
            if op is not None:
                operators.append(op)
                lines[op.name] = ("operators", index)
        if "outputs" in data:
            outputs = self.names(data["outputs"], ("outputs",))
        else:
            read = {tensor for op in operators for tensor in op.inputs}
            outputs = tuple(t for op in operators for t in op.outputs if t not in read)
        if self.problems:
            raise InputError(self.problems)
        graph = Graph(name, tensors, tuple(operators), outputs, structure, metadata)
        return check_graph(graph, self.document.file, _Lines(self.document, lines))

    def scratchpad_graph(self) -> Graph:
        """A scratchpad-scheduling instance: sizes and wiring are known, FLOPs are not.

        Its ``input`` operators load a graph input and stay operators, so that an order of this graph is an
        order of the instance. The workspace of an operator (weights used once) is read along with its inputs.
        """
        data = self.document.data
        self.keys(data, (), _SCRATCHPAD_KEYS, ("name", "ops", "tensors"))
        tensors: dict[str, Tensor] = {}
        lines: dict[str, JsonPath] = {}
        outputs: list[str] = []
        from_outside: set[str] = set()
        for index, row in enumerate(self.rows(data.get("tensors", []), "tensors")):
            path = ("tensors", index)
            self.keys(row, path, _SCRATCHPAD_TENSOR_KEYS, ("name", "bytes"))
            name, size = self.text(row.get("name", "?"), (*path, "name")), row.get("bytes", 0)
            if name in tensors:
                self.note((*path, "name"), f"two tensors have the name {name!r}")
            tensors[name] = Tensor(name, (self.count(size, (*path, "bytes")),), "int8")
            lines[name] = path
            if row.get("graph_output") is True:
                outputs.append(name)
            if row.get("graph_input") is True:
                from_outside.add(name)
        operators = []
        for index, row in enumerate(self.rows(data.get("ops", []), "ops")):
            path = ("ops", index)
            self.keys(row, path, _SCRATCHPAD_OP_KEYS, ("name", "kind", "inputs", "outputs"))
            name = self.text(row.get("name", "?"), (*path, "name"))
            kind = self.text(row.get("kind", "?"), (*path, "kind"))
            inputs = self.names(row.get("inputs", []), (*path, "inputs"), tensors)
            made = self.names(row.get("outputs", []), (*path, "outputs"), tensors)
            workspace = self.count(row.get("workspace_bytes", 0), (*path, "workspace_bytes"))
            load = kind == "input" or (not inputs and bool(made) and from_outside.issuperset(made))
            known = all(t in tensors for t in (*inputs, *made))
            if known:
                work = _loaded(made, tensors) if load else Custom()
                op = make_operator(name, work, inputs, made, tensors, dtype="int8", source=kind)
                beside = op.write_bytes if load else workspace
                op = replace(op, beside_read=beside, workspace_bytes=workspace)
                operators.append(self.with_pairs(op, row, path, tensors))
            lines[name] = path
        if self.problems:
            raise InputError(self.problems)
        graph = Graph(str(data["name"]), tensors, tuple(operators), tuple(outputs))
        return check_graph(graph, self.document.file, _Lines(self.document, lines))

    def note(self, path: JsonPath, message: str, suggestion: str | None = None) -> None:
        """Keep a problem; after the fiftieth, stop."""
        line = self.document.line_of(path)
        self.problems.append(Problem(message, self.document.file, line, _dotted(path) or None, suggestion))
        if len(self.problems) >= MAX_PROBLEMS:
            self.problems.append(Problem("and there may be more; these come first", self.document.file))
            raise InputError(self.problems)

    def keys(
        self, row: Mapping[str, Any], path: JsonPath, known: tuple[str, ...], needed: tuple[str, ...]
    ) -> None:
        for key in row:
            if key not in known:
                self.note(
                    (*path, key), f"unknown key {key!r}; known: {', '.join(known)}", nearest(key, known)
                )
        for key in needed:
            if key not in row:
                self.note(path, f"missing key {key!r}")

    def rows(self, value: Any, key: str) -> Iterator[dict[str, Any]]:
        if not isinstance(value, list):
            self.note((key,), f"found {_shown(value)}; expected a list of objects")
            return
        for index, row in enumerate(value):
            if isinstance(row, dict):
                yield row
            else:
                self.note((key, index), f"found {_shown(row)}; expected an object")
                yield {}

    def tensor(self, row: dict[str, Any], path: JsonPath) -> Tensor | None:
        if not row:
            return None
        before = len(self.problems)
        self.keys(row, path, _TENSOR_KEYS, ("name", "shape", "dtype"))
        name = self.text(row.get("name", "?"), (*path, "name"))
        shape = row.get("shape", [])
        if not isinstance(shape, list):
            self.note((*path, "shape"), f"found {_shown(shape)}; expected a list of sides")
            shape = []
        sides = tuple(shape)
        if not all(type(side) is int and 0 <= side <= MAX_COUNT for side in shape):
            sides = tuple(self.count(side, (*path, "shape", index)) for index, side in enumerate(shape))
        if math.prod(sides) > MAX_COUNT:
            self.note((*path, "shape"), f"a tensor of more than {MAX_COUNT} elements")
        dtype = self.choice(row.get("dtype", "fp16"), (*path, "dtype"), BITS, "element type")
        role = self.choice(row.get("role", "activation"), (*path, "role"), _ROLES, "role")
        size = self.count(row["size_bytes"], (*path, "size_bytes")) if "size_bytes" in row else -1
        if len(self.problems) > before:
            return None if "name" not in row else Tensor(name, (), "int8")
        return Tensor(name, sides, dtype, Role(role), size)

    def operator(self, row: dict[str, Any], path: JsonPath, tensors: Mapping[str, Tensor]) -> Operator | None:
        if not row:
            return None
        before = len(self.problems)
        self.keys(row, path, OPERATOR_KEYS, ("name", "kind", "inputs", "outputs"))
        name = self.text(row.get("name", "?"), (*path, "name"))
        kind = self.choice(row.get("kind", "custom"), (*path, "kind"), KINDS, "operator kind")
        inputs = self.names(row.get("inputs", []), (*path, "inputs"), tensors)
        outputs = self.names(row.get("outputs", []), (*path, "outputs"), tensors)
        updates = self.names(row.get("updates", []), (*path, "updates"), tensors)
        flops = self.figure(row["flops"], (*path, "flops")) if "flops" in row else None
        bytes_of = {
            key: self.count(row[key], (*path, key)) if key in row else None
            for key in ("read_bytes", "write_bytes", "beside_read", "beside_written")
        }
        reads, writes = (self.amounts(row[k], (*path, k)) if k in row else None for k in ("reads", "writes"))
        dtype = self.choice(row.get("dtype", "fp16"), (*path, "dtype"), BITS, "element type")
        attributes = row.get("attributes", {})
        if not isinstance(attributes, dict):
            self.note((*path, "attributes"), f"found {_shown(attributes)}; expected an object")
        if len(self.problems) > before:
            return None
        stated = StatedOperator(
            name, kind, inputs, outputs, updates, dtype, flops, attributes=attributes, reads=reads, writes=writes,
            **bytes_of,
        )  # fmt: skip
        op, faults = read_operator(stated, tensors)
        for fault in faults:
            self.note((*path, *fault.path), fault.message, fault.suggestion)
        return op if op is None else self.with_pairs(op, row, path, tensors)

    def with_pairs(
        self, op: Operator, row: dict[str, Any], path: JsonPath, tensors: Mapping[str, Tensor]
    ) -> Operator:
        """The operator with the outputs that it may write over inputs, where its row says so."""
        if "in_place" not in row:
            return op
        value, path = row["in_place"], (*path, "in_place")
        if not isinstance(value, dict):
            self.note(path, f"found {_shown(value)}; expected an object of lists of inputs by output")
            return op
        before = len(self.problems)
        pairs = tuple((name, self.names(inputs, (*path, name), tensors)) for name, inputs in value.items())
        if len(self.problems) > before:
            return op
        paired = replace(
            op, in_place=tuple((output, tuple(dict.fromkeys(inputs))) for output, inputs in pairs)
        )
        for message in pair_problems(paired, tensors):
            self.note(path, message)
        return paired

    def amounts(self, value: Any, path: JsonPath) -> dict[str, int]:
        """Bytes by tensor."""
        if not isinstance(value, dict):
            self.note(path, f"found {_shown(value)}; expected an object of bytes by tensor")
            return {}
        return {name: self.count(amount, (*path, name)) for name, amount in value.items()}

    def text(self, value: Any, path: JsonPath, empty: bool = False) -> str:
        if not isinstance(value, str) or not (value or empty):
            self.note(path, f"found {_shown(value)}; expected a name")
            return "?"
        return value

    def names(self, value: Any, path: JsonPath, known: Mapping[str, Tensor] | None = None) -> tuple[str, ...]:
        if not isinstance(value, list):
            self.note(path, f"found {_shown(value)}; expected a list of tensor names")
            return ()
        found = tuple(self.text(name, (*path, index)) for index, name in enumerate(value))
        for index, name in enumerate(found):
            if known is not None and name not in known:
                near = nearest(name, known) if len(known) <= MAX_SUGGESTED else None
                self.note((*path, index), f"unknown tensor {name!r}", near)
        return found

    def choice(self, value: Any, path: JsonPath, known: Collection[str], what: str) -> str:
        if not isinstance(value, str) or value not in known:
            listed = f"; known: {', '.join(known)}" if len(known) <= MAX_LISTED else ""
            self.note(path, f"unknown {what} {_shown(value)}{listed}", nearest(str(value), known))
            return next(iter(known))
        return value

    def count(self, value: Any, path: JsonPath) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
            self.note(path, f"found {_shown(value)}; expected a whole number from 0 to {MAX_COUNT}")
            return 0
        return value

    def figure(self, value: Any, path: JsonPath) -> float:
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if not numeric or not 0 <= value <= MAX_FLOPS:
            self.note(path, f"found {_shown(value)}; expected a number from 0 to {MAX_FLOPS:g}")
            return 0.0
        return float(value)

    def attributes(self, value: Any, path: JsonPath) -> dict[str, Attribute]:
        if not isinstance(value, dict):
            self.note(path, f"found {_shown(value)}; expected an object")
            return {}
        for key, item in value.items():
            if not isinstance(item, int | float | str | bool) or (
                isinstance(item, float) and not math.isfinite(item)
            ):
                self.note(
                    (*path, key), f"found {_shown(item)}; expected a finite number, a text or a boolean"
                )
        return value


@dataclass(frozen=True)
class _Lines(Mapping[str, int]):
    """Lines of names, worked out only when a message needs one."""

    document: JsonDocument
    paths: Mapping[str, JsonPath]

    def __getitem__(self, name: str) -> int:
        return self.document.line_of(self.paths[name]) or 1

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)


def _dotted(path: JsonPath) -> str:
    """A path as a person writes it: ``tensors[3].shape``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


class _GraphJsonImporter:
    """Reads graph files; see :class:`workloads.importers.Importer`."""

    FORMAT = "an operator graph as JSON"

    def recognises(self, path: Path, head: bytes) -> bool:
        """A JSON object that names one of the two formats, or lists operators."""
        text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
        named = any(form.encode() in head for form in (FORMAT, SCRATCHPAD_FORMAT))
        listed = b'"operators"' in head or (b'"ops"' in head and b'"tensors"' in head)
        return text.startswith(b"{") and (named or (path.suffix == ".json" and listed))

    def load(self, path: Path, options: WorkloadOptions) -> Workload:
        """The graph of the file as a workload of one phase, as it stands: its sizes are fixed."""
        graph = read_graph(path)
        refuse_resizing(options, str(path))
        kind = str(graph.metadata.get("phase", "forward"))
        if kind not in _PHASES:
            raise bad_input(
                f"found {kind!r}; expected {', '.join(_PHASES)}", file=str(path), path="metadata.phase"
            )
        if options.phase == "train" and kind != "train":
            from workloads.training import StepOptions, training_step

            graph, kind = training_step(graph, options=StepOptions(options.types, options.trained)), "train"
        elif options.phase not in (None, kind):
            raise bad_input(
                f"the file holds a {kind} graph, not {options.phase}", file=str(path), path="--phase"
            )
        return Workload(
            graph.name, [Phase(kind, kind, graph)], dict(graph.metadata), uncosted_operators(graph)
        )


IMPORTER: Final = _GraphJsonImporter()
