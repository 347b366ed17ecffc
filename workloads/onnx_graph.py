"""From an ONNX model to an operator graph: one walk over its nodes with every shape known.

The sizes of the inputs are fixed before the walk, so each node's output shapes follow from its inputs, and
the small integer computations that exporters write for Reshape and Slice are evaluated on the way. Views
share the tensor of their source. What depends on weights alone becomes a weight itself, as engines fold it; a
dequantised weight stays stored as it is in the file, with its scales.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Any, Final

import onnx
from onnx import TensorProto, TypeProto, helper, numpy_helper, shape_inference

from hw_configs.problems import InputError, Problem, bad_input, nearest
from workloads.dtypes import BITS, dtype_bits
from workloads.graph import Attribute, Graph, Operator, Role, Tensor
from workloads.onnx_cache import appended, evaluated, names_in
from workloads.onnx_control import walk_control_flow
from workloads.onnx_costs import cost_of
from workloads.onnx_node import Cost, Node, Value, over_rows
from workloads.onnx_proto import attribute_value, label_of, names_read, sides_of, standard_twin
from workloads.onnx_sequence_costs import attention_of
from workloads.onnx_shapes import fused_shapes, upper_bound
from workloads.onnx_walk import Scope
from workloads.operators import Convolution, Copy, Custom, GroupedProduct, Product
from workloads.operators.traffic import traffic
from workloads.workload import WorkloadOptions

__all__ = ["OnnxGraph"]

MAX_FOLDED_ELEMENTS: Final = 1 << 16
MAX_DEPTH: Final = 16
BATCH_NAMES: Final = frozenset({"batch", "batch_size", "batchsize", "bs", "n"})
"""Names of a symbolic dimension that the batch option fills."""

_DTYPE: Final = {
    1: "fp32", 2: "uint8", 3: "int8", 4: "int16", 5: "int16", 6: "int32", 7: "int64", 8: "int64", 9: "bool",
    10: "fp16", 11: "fp64", 12: "int32", 13: "int64", 14: "fp64", 15: "fp64", 16: "bf16", 17: "fp8",
    18: "fp8", 19: "fp8", 20: "fp8", 21: "int4", 22: "int4", 23: "fp4", 24: "uint8", 25: "int2", 26: "int2",
}  # fmt: skip
"""ONNX element type to ours; text counts as a pointer, a complex number as one fp64."""

_NAMED: Final = re.compile(r"[A-Za-z_][\w.]*$")
"""A symbol a person can write; a side without one goes by its place, as in ``image.2``."""

_FLOATS: Final = frozenset({"fp32", "fp16", "bf16"})
_INTEGER_ARITHMETIC: Final = frozenset({"int8", "uint8", "int4", "int2"})
_MISFIT: Final = re.compile("incompatible|mismatch|do not match|must match", re.IGNORECASE)
_VIEWS: Final = frozenset(
    {
        "BitCast",
        "Identity",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Dropout",
        "Optional",
        "OptionalGetElement",
    }
)
_RANDOM: Final = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


def _derives(text: str) -> bool:
    """Whether a dimension is written as an expression over others."""
    return bool(text) and evaluated(text, dict.fromkeys(names_in(text), 1)) is not None


class OnnxGraph:
    """The walk over one model. ``notes`` tells what was estimated, one line each."""

    def __init__(
        self, model: onnx.ModelProto, file: str, options: WorkloadOptions, caches: Mapping[str, int] | None = None,
        capacity: int = 0,
    ) -> None:  # fmt: skip
        """``caches``: inputs that the model appends to, and their axis of tokens; ``capacity``: tokens they hold."""
        self.model = model
        self.file = file
        self.options = options
        self.opsets = {item.domain: item.version for item in model.opset_import}
        self.opsets.setdefault("", self.opsets.get("ai.onnx", onnx.defs.onnx_opset_version()))
        self.opset = self.opsets[""]
        self.tensors: dict[str, Tensor] = {}
        self.operators: list[Operator] = []
        self.bounded: list[str] = []
        self.guessed: list[str] = []
        self.control: Counter[str] = Counter()
        self.capacity = capacity
        self._past: dict[str, int] = dict(caches or {})
        """Tensor of each cache to the axis of its tokens."""
        self._names: Counter[str] = Counter()
        self._types: dict[tuple[int, tuple[int, ...]], TypeProto] = {}
        self._symbols: dict[str, int] = {}

    def graph(self, name: str) -> Graph:
        """The whole graph; raises ``InputError`` for inputs of unknown size and for broken wiring."""
        proto = self.model.graph
        scope: dict[str, Value] = {}
        self._initializers(proto, scope, "")
        self._inputs(proto, scope)
        self.walk_body(proto, scope, "", 0)
        missing = [out.name for out in proto.output if out.name not in scope]
        if missing:
            raise InputError(
                Problem(f"the output {name!r} is made by no operator", self.file, None, "graph.output")
                for name in missing
            )
        outputs = dict.fromkeys(scope[out.name].tensor for out in proto.output)
        metadata: dict[str, Attribute] = {
            "format": "onnx",
            "opset": self.opsets[""],
            "producer": self.model.producer_name or "unknown",
        }
        kept = tuple(tensor for tensor in outputs if tensor in self.tensors)
        return Graph(name, self.tensors, tuple(self.operators), kept, metadata=metadata)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know: control flow and sizes that were bounded or guessed."""
        lines = [f"{text} ({count} times)" if count > 1 else text for text, count in self.control.items()]
        for names, text in (
            (self.bounded, "outputs have a size that depends on the data; taken at its upper bound"),
            (self.guessed, "outputs have a shape that could not be inferred; taken as that of their input"),
        ):
            if names:
                shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
                lines.append(f"{len(names)} {text}: {shown}")
        return tuple(lines)

    # --- values known before the walk --------------------------------------------------------------------

    def _initializers(self, proto: onnx.GraphProto, scope: Scope, prefix: str) -> None:
        for tensor in proto.initializer:
            scope[tensor.name] = self._constant(prefix + tensor.name, tensor)
        for sparse in proto.sparse_initializer:
            scope[sparse.values.name] = self._constant(
                prefix + sparse.values.name, sparse.values, tuple(sparse.dims)
            )

    def _constant(self, name: str, proto: TensorProto, shape: tuple[int, ...] | None = None) -> Value:
        sides = tuple(proto.dims) if shape is None else shape
        array = None
        external = proto.data_location == TensorProto.EXTERNAL
        if shape is None and not external and prod(sides) <= MAX_FOLDED_ELEMENTS:
            try:
                array = numpy_helper.to_array(proto)
            except (ValueError, TypeError, KeyError):
                array = None  # the content was left out of the file; its shape is all that is needed
        return self._value(name, sides, proto.data_type, constant=True, array=array)

    def _value(
        self, name: str, shape: tuple[int, ...], element: int, *, constant: bool = False, array: Any = None
    ) -> Value:
        dtype = _DTYPE.get(element, "fp32")
        if dtype in _FLOATS and self.options.dtype is not None:
            dtype = self.options.dtype
        return Value(name, name, shape, dtype, constant, array, element)

    def _inputs(self, proto: onnx.GraphProto, scope: Scope) -> None:
        given = [item for item in proto.input if item.name not in scope]
        derived: list[tuple[str, list[int], int, str]] = []
        problems: list[Problem] = []
        used: set[str] = set()
        free_batch = False
        sides: dict[str, tuple[list[int], int]] = {}
        for item in given:
            tensor = item.type.tensor_type
            if not item.type.HasField("tensor_type") or not tensor.HasField("shape"):
                problems.append(
                    Problem(f"the input {item.name!r} has no shape; export the model with one", self.file)
                )
                continue
            shape: list[int] = []
            for axis, dim in enumerate(tensor.shape.dim):
                place = f"{item.name}.{axis}"
                if (
                    not _NAMED.match(dim.dim_param)
                    and place not in self.options.dims
                    and _derives(dim.dim_param)
                ):
                    derived.append((item.name, shape, axis, dim.dim_param))
                    shape.append(1)
                    continue
                symbol = dim.dim_param if _NAMED.match(dim.dim_param) else place
                if place in self.options.dims:
                    symbol = place
                fixed = dim.HasField("dim_value") and dim.dim_value > 0
                free_batch = free_batch or (not fixed and symbol.lower() in BATCH_NAMES)
                side = dim.dim_value if fixed else self._symbol(symbol, item.name, used, problems)
                shape.append(side)
            sides[item.name] = (shape, tensor.elem_type)
        self._derive(derived, used, problems)
        for name, (shape, element) in sides.items():
            value = self._value(name, tuple(shape), element)
            scope[name] = value
            self.register(value)
            if name in self._past:
                self._hold(value)
        problems += self._unused_options(used, free_batch)
        if problems:
            raise InputError(dict.fromkeys(problems))

    def _derive(
        self, derived: list[tuple[str, list[int], int, str]], used: set[str], problems: list[Problem]
    ) -> None:
        """Sides that are an expression over others, once those are known."""
        for name, shape, axis, text in derived:
            for symbol in names_in(text):
                if symbol not in self._symbols:
                    self._symbol(symbol, name, used, problems)
            value = evaluated(text, self._symbols)
            if value is None or value < 0:
                found = (
                    f"the input {name!r} has the dimension {text!r}, which is no sum or product of sizes; "
                )
                problems.append(Problem(f"{found}give it a value: --dim {name}.{axis}=1", self.file))
            shape[axis] = max(value or 0, 0)

    def _hold(self, value: Value) -> None:
        """Make an input a cache with room for all tokens."""
        axis = self._past[value.name]
        room = (*value.shape[:axis], max(self.capacity, value.shape[axis]), *value.shape[axis + 1 :])
        self.tensors[value.tensor] = Tensor(value.tensor, room, value.dtype, Role.KV_CACHE)

    def _symbol(self, symbol: str, where: str, used: set[str], problems: list[Problem]) -> int:
        used.add(symbol)
        if symbol in self.options.dims:
            value = self.options.dims[symbol]
            if value < (0 if self._past else 1):
                problems.append(
                    Problem(f"found {symbol}={value}; expected at least 1", self.file, None, "--dim")
                )
        elif symbol.lower() in BATCH_NAMES:
            value = self.options.batch
        else:
            text = (
                f"the input {where!r} has the symbolic dimension {symbol!r}; "
                f"give it a value, for example --dim {symbol}=1"
            )
            problems.append(Problem(text, self.file))
            value = 1
        self._symbols[symbol] = value
        return value

    def _unused_options(self, used: set[str], free_batch: bool) -> Iterator[Problem]:
        for dim in self.options.dims:
            if dim not in used:
                known = ", ".join(sorted(used)) or "none"
                yield Problem(
                    f"unknown dimension {dim!r}; the symbolic dimensions are: {known}",
                    self.file,
                    None,
                    "--dim",
                    nearest(dim, used),
                )
        if self.options.batch != 1 and not free_batch:
            hint = "its symbolic dimensions are set with --dim" if used else "export it with a symbolic one"
            yield Problem(
                f"found {self.options.batch}, but no input has a symbolic batch dimension; {hint}",
                self.file,
                None,
                "--batch",
            )

    # --- the walk ----------------------------------------------------------------------------------------

    def walk_body(self, proto: onnx.GraphProto, scope: Scope, prefix: str, depth: int) -> None:
        """Add the operators of a graph or subgraph; ``scope`` holds its inputs and gains what it makes."""
        if depth > MAX_DEPTH:
            raise bad_input(f"control flow nested more than {MAX_DEPTH} deep", file=self.file)
        stated = {item.name: item.type for item in (*proto.value_info, *proto.output)}
        for node in self._ordered(proto, scope):
            self._node(node, scope, stated, prefix, depth)

    def _ordered(self, proto: onnx.GraphProto, scope: Mapping[str, Value]) -> list[onnx.NodeProto]:
        """The nodes in an order in which every input is there; ONNX asks for it, some producers forget."""
        known = set(scope)
        ordered = True
        made: dict[str, int] = {}
        problems: list[Problem] = []
        reads = [list(names_read(node)) for node in proto.node]
        for index, node in enumerate(proto.node):
            ordered = ordered and all(name in known for name in reads[index])
            for name in filter(None, node.output):
                if name in made or name in scope:
                    problems.append(Problem(f"two operators make {name!r}", self.file, None, label_of(node)))
                made[name] = index
                known.add(name)
        known.add("")
        for index, node in enumerate(proto.node):
            for name in reads[index]:
                if name not in known and len(problems) < 20:
                    problems.append(
                        Problem(f"reads {name!r}, which nothing makes", self.file, None, label_of(node))
                    )
        if problems:
            raise InputError(problems)
        return list(proto.node) if ordered else self._sorted(proto, reads, made)

    def _sorted(
        self, proto: onnx.GraphProto, reads: list[list[str]], made: dict[str, int]
    ) -> list[onnx.NodeProto]:
        import networkx

        flow = networkx.DiGraph()
        flow.add_nodes_from(range(len(proto.node)))
        for index, names in enumerate(reads):
            flow.add_edges_from((made[name], index) for name in names if name in made)
        try:
            return [proto.node[i] for i in networkx.lexicographical_topological_sort(flow)]
        except networkx.NetworkXUnfeasible:
            cycle = [label_of(proto.node[edge[0]]) for edge in networkx.find_cycle(flow)]
            shown = " -> ".join([*cycle[:6], *(["..."] if len(cycle) > 6 else []), cycle[0]])
            raise bad_input(f"the graph has a cycle: {shown}", file=self.file) from None

    def _node(
        self, node: onnx.NodeProto, scope: Scope, stated: Mapping[str, TypeProto], prefix: str, depth: int
    ) -> None:
        if node.op_type in ("If", "Loop", "Scan") and node.domain in ("", "ai.onnx"):
            walk_control_flow(self, node, scope, prefix, depth)
            return
        inputs = tuple(scope[name] if name else None for name in node.input)
        attributes = {item.name: attribute_value(item) for item in node.attribute}
        if node.op_type == "Constant":
            self._constant_node(node, attributes, scope, prefix)
            return
        types = self._infer(node, Node(node.op_type, node.domain, attributes, inputs, ()), stated)
        outputs = [
            self._value(prefix + name, shape, element)
            for name, (shape, element) in zip(node.output, types, strict=True)
        ]
        for name, value in zip(node.output, outputs, strict=True):
            if name:
                scope[name] = value
        made = tuple(value for name, value in zip(node.output, outputs, strict=True) if name)
        known = Node(node.op_type, node.domain, attributes, inputs, made)
        if made and self._append(node, known, prefix):
            return
        if made and not self._folded(node, known) and not self._alias(node, known):
            self._emit(node, known, prefix)

    def _constant_node(
        self, node: onnx.NodeProto, attributes: Mapping[str, Any], scope: Scope, prefix: str
    ) -> None:
        import numpy

        name = node.output[0]
        for key, value in attributes.items():
            if value is None:
                continue
            if key == "value":
                scope[name] = self._constant(prefix + name, value)
            elif key == "sparse_value":
                scope[name] = self._constant(prefix + name, value.values, tuple(value.dims))
            elif key.startswith("value_"):
                array = numpy.array(value)
                element = helper.np_dtype_to_tensor_dtype(array.dtype) if array.dtype.kind in "iuf" else 8
                scope[name] = self._value(prefix + name, array.shape, element, constant=True, array=array)
        if name not in scope:
            raise bad_input("a constant without a value", file=self.file, path=label_of(node))

    # --- shapes ------------------------------------------------------------------------------------------

    def _infer(
        self, node: onnx.NodeProto, known: Node, stated: Mapping[str, TypeProto]
    ) -> list[tuple[tuple[int, ...], int]]:
        """Shape and element type of every output, from the schema, the rules, the file, or a bound."""
        found = self._by_schema(node, known)
        fused = fused_shapes(known) if node.domain not in ("", "ai.onnx") or not found else None
        types = []
        for index, name in enumerate(node.output):
            partial, element = found.get(name, (None, 0)) if name else ((), 1)
            if partial is not None and None not in partial:
                types.append((tuple(side or 0 for side in partial), element))
            elif fused is not None and index < len(fused):
                types.append(fused[index])
            else:
                types.append(self._estimated(name, known, partial, element, stated))
        return types

    def _by_schema(
        self, node: onnx.NodeProto, known: Node
    ) -> dict[str, tuple[tuple[int | None, ...] | None, int]]:
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = self.opsets.get(domain, 1)
        if node.domain == "com.microsoft" or not onnx.defs.has(node.op_type, domain):
            domain, version = "", onnx.defs.onnx_opset_version()
            if node.op_type in ("Attention", "RotaryEmbedding"):
                return {}  # the standard operator of this name is another one
        try:
            node = node if domain == node.domain or node.domain == "ai.onnx" else standard_twin(node)
            schema = onnx.defs.get_schema(node.op_type, version, domain)
            types = {value.name: self._type(value) for value in known.inputs if value is not None}
            named = dict(zip(node.input, known.inputs, strict=False))
            arrays = {
                name: numpy_helper.from_array(value.array, name)
                for name, value in named.items()
                if name and value is not None and value.array is not None
            }
            types |= {name: self._type(value) for name, value in named.items() if name and value is not None}
            opsets = [helper.make_opsetid(key, number) for key, number in self.opsets.items()]
            inferred = shape_inference.infer_node_outputs(schema, node, types, arrays, None, opsets)
        except shape_inference.InferenceError as error:
            self._refuse_misfit(node, str(error))
            return {}
        except (
            onnx.checker.ValidationError,
            onnx.defs.SchemaError,
            RuntimeError,
            ValueError,
            TypeError,
            KeyError,
        ):
            return {}
        return {name: sides_of(kind) for name, kind in inferred.items()}

    def _refuse_misfit(self, node: onnx.NodeProto, reason: str) -> None:
        """Sizes that cannot go together are the user's to know, unless an estimate of ours is to blame."""
        if self.bounded or self.guessed or not _MISFIT.search(reason):
            return
        said = re.sub(r"\[\w+\] ", "", " ".join(reason.split()))[:200]
        hint = "the exporter may have fixed a size that --dim or --batch changed"
        raise bad_input(
            f"its inputs do not fit together: {said}; {hint}", file=self.file, path=label_of(node)
        )

    def _type(self, value: Value) -> TypeProto:
        key = (value.element, value.shape)
        if key not in self._types:
            self._types[key] = helper.make_tensor_type_proto(*key)
        return self._types[key]

    def _estimated(
        self,
        name: str,
        known: Node,
        partial: tuple[int | None, ...] | None,
        element: int,
        stated: Mapping[str, TypeProto],
    ) -> tuple[tuple[int, ...], int]:
        """A shape that inference left open: as the file states it, bounded, or as the first input's."""
        first = next((value for value in known.inputs if value is not None), None)
        element = element or (first.element if first is not None else 1)
        if name in stated:
            sides, said = sides_of(stated[name], self._symbols)
            if sides is not None and None not in sides:
                return tuple(side or 0 for side in sides), said or element
        bound = upper_bound(known, partial)
        if bound is not None:
            self.bounded.append(name)
            return bound, element
        self.guessed.append(name)
        return (first.shape if first is not None else ()), element

    # --- folding and views -------------------------------------------------------------------------------

    def _folded(self, node: onnx.NodeProto, known: Node) -> bool:
        """Whether the outputs are known before the run; small ones are evaluated."""
        if node.op_type in _RANDOM:
            return False
        if node.op_type in ("Shape", "Size") and known.inputs[0] is not None:
            return self._shape_of(known, known.inputs[0])
        present = [value for value in known.inputs if value is not None]
        if not all(value.constant for value in present):
            return False
        small = sum(value.elements for value in known.outputs) <= MAX_FOLDED_ELEMENTS
        # However small, a dequantised weight stays narrow.
        narrow = node.op_type == "DequantizeLinear" and present[0].elements > 1
        small = small and not narrow
        if small and all(value.array is not None for value in present) and self._evaluated(node, known):
            if node.op_type in _VIEWS and present:
                known.out.tensor = present[0].tensor
            return True
        if not narrow and all(value.array is not None for value in present):
            return False  # grows from something small: made when the model runs
        for value in known.outputs:
            value.constant = True
        stored = present[0]
        beside = sum(value.size for value in present[1:] if value.elements > 1)
        narrower = node.op_type in ("DequantizeLinear", "Cast", "CastLike") and dtype_bits(
            stored.dtype
        ) < dtype_bits(known.out.dtype)
        if narrower or node.op_type in _VIEWS:
            known.out.tensor, known.out.dtype = stored.tensor, stored.dtype
            known.out.beside = stored.beside
            if node.op_type == "DequantizeLinear":
                known.out.beside += beside
        return True

    def _shape_of(self, known: Node, source: Value) -> bool:
        import numpy

        if known.op == "Size":
            known.out.array = numpy.array(source.elements, dtype=numpy.int64)
        else:
            sides = source.shape[known.get("start", 0) : known.get("end", len(source.shape))]
            known.out.array = numpy.array(sides, dtype=numpy.int64)
        known.out.constant, known.out.shape = True, known.out.array.shape
        return True

    def _evaluated(self, node: onnx.NodeProto, known: Node) -> bool:
        import numpy
        from onnx.reference import ReferenceEvaluator

        feeds = {
            name: value.array
            for name, value in zip(node.input, known.inputs, strict=True)
            if name and value is not None
        }
        try:
            with numpy.errstate(all="ignore"):
                results = ReferenceEvaluator(node, opsets=dict(self.opsets)).run(None, feeds)
        except Exception:  # the evaluator raises whatever numpy does; unevaluated is a valid answer
            return False
        for value, array in zip(known.outputs, results, strict=False):
            array = numpy.asarray(array)
            if array.size > MAX_FOLDED_ELEMENTS or array.dtype.kind not in "biufc":
                return False
            value.array, value.constant, value.shape = array, True, array.shape
        return True

    def _alias(self, node: onnx.NodeProto, known: Node) -> bool:
        """Views keep their source's tensor."""
        source = known.at(0)
        same_type = (
            known.op in ("Cast", "CastLike") and source is not None and source.dtype == known.out.dtype
        )
        if source is None or not (known.op in _VIEWS or same_type):
            return False
        if known.op == "Reshape" and source.elements != known.out.elements:
            shown = f"{list(source.shape)} cannot become {list(known.out.shape)}"
            self._refuse_misfit(node, f"shape mismatch: {shown}")
        for value in known.outputs[1:]:
            value.constant, value.array = True, None
        known.out.tensor = source.tensor
        return True

    # --- operators ---------------------------------------------------------------------------------------

    def _append(self, node: onnx.NodeProto, known: Node, prefix: str) -> bool:
        """Whether the operator joins new keys or values to a cache: they are copied into it."""
        if known.op != "Concat" or not appended(known, self._past):
            return False
        cache, new = known.inputs
        assert cache is not None
        if new is None or int(known.get("axis", 0)) % len(cache.shape) != self._past[cache.tensor]:
            return False
        self.register(new)
        known.out.tensor, known.out.constant, known.out.array = cache.tensor, False, None
        work = over_rows(Copy, new.shape)
        name = self.unique(prefix + (node.name or node.op_type))
        sizes = (new.size, 0), (new.size,)
        self.operators.append(
            Operator(
                name,
                work,
                (new.tensor,),
                (),
                (cache.tensor,),
                self._arithmetic(known),
                *sizes,
                source="Concat",
            )
        )
        return True

    def _emit(self, node: onnx.NodeProto, known: Node, prefix: str) -> None:
        name = self.unique(prefix + (node.name or node.op_type))
        if known.domain == "com.microsoft" and known.op in ("Attention", "QAttention"):
            self._packed_attention(name, known)
            return
        cost = cost_of(known)
        if cost is None:
            domain = f"{known.domain}." if known.domain not in ("", "ai.onnx") else ""
            cost = Cost(Custom(), source=domain + known.op)
        elif known.op == "BatchNormalization":
            cost.reads = (0, 1, 2)  # mean and variance are folded into scale and shift when the model loads
        self.add(name, known, cost)

    def add(self, name: str, known: Node, cost: Cost) -> None:
        """Append one operator and the tensors it touches."""
        indices = range(len(known.inputs)) if cost.reads is None else cost.reads
        data: dict[str, int] = {}
        updated: dict[str, int] = {}
        for past, present in appended(known, self._past).items():
            cache, grown = known.inputs[past], known.outputs[present]
            assert cache is not None
            updated[cache.tensor] = cost.written.get(present, grown.size - cache.size)
            grown.tensor = cache.tensor
        weight_bits = 0.0
        stored = ""
        for index in indices:
            value = known.at(index)
            if value is None or (value.constant and value.elements <= 1 and len(value.shape) <= 1):
                continue  # a literal
            self.register(value, cost.weights.get(index))
            data[value.tensor] = max(data.get(value.tensor, 0), cost.touched.get(index, value.size))
            if value.constant and value.elements * dtype_bits(value.dtype) > weight_bits:
                weight_bits = value.elements * dtype_bits(value.dtype)
                stored = value.dtype
        written: dict[str, int] = {}
        for index, value in enumerate(known.outputs):
            if value.tensor in updated:
                continue
            self.register(value)
            written[value.tensor] = cost.written.get(index, value.size)
        dtype = cost.dtype or self._arithmetic(known)
        work = cost.work
        narrower = bool(stored) and BITS[stored] < BITS[dtype]
        if isinstance(work, Product | GroupedProduct | Convolution) and narrower and not work.weight_dtype:
            work = replace(work, weight_dtype=stored)
        # A value may be a part of its tensor (the slice of a Scan), so it moves less than the rule says.
        rule = traffic(work, [self.tensors[t] for t in data], [self.tensors[t] for t in written])
        reads = tuple(min(sizes) for sizes in zip(rule.reads, data.values(), strict=True))
        writes = (*written.values(), *updated.values())
        source = cost.source or known.op
        reads = (*reads, *(0 for _ in updated))
        self.operators.append(
            Operator(
                name, work, tuple(data), tuple(written), tuple(updated), dtype, reads, writes, source=source
            )
        )

    def _packed_attention(self, name: str, known: Node) -> None:
        """com.microsoft Attention: a product for queries, keys and values, then attention."""
        batch, length, hidden = known.shape(0)
        columns, out = known.shape(1)[-1], known.out
        heads = int(known.get("num_heads"))
        packed = self._value(f"{name}.qkv", (batch, length, columns), out.element)
        quantised = known.op == "QAttention"
        work = Product(m=batch * length, n=columns, k=hidden)
        product = Cost(work, (0, 1, 2), dtype="int8" if quantised else None)
        self.add(f"{name}.qkv", Node(known.op, known.domain, {}, known.inputs, (packed,)), product)
        past = known.at(8 if quantised else 4)
        total = length + (past.shape[3] if past is not None and len(past.shape) == 5 else 0)
        v_size = out.shape[-1] // heads
        size = (columns - out.shape[-1]) // 2 // heads
        causal = bool(known.get("unidirectional", 0))
        attend = Cost(attention_of(batch, heads, heads, size, v_size, length, total, causal))
        self.add(name, Node(known.op, known.domain, {}, (packed, past), known.outputs), attend)

    def _arithmetic(self, known: Node) -> str:
        """The precision of the arithmetic: the first float input's; 32-bit for integer and boolean work."""
        values = [*known.inputs, *known.outputs]
        for value in values:
            if value is not None and value.element in (1, 10, 11, 16, 17, 18, 19, 20):
                wide = _DTYPE[value.element]
                return self.options.dtype if wide in _FLOATS and self.options.dtype else wide
        first = next((value.dtype for value in values if value is not None), "fp32")
        return "int8" if first in _INTEGER_ARITHMETIC else "fp32"

    def register(self, value: Value, packed: tuple[tuple[int, ...], str] | None = None) -> None:
        """Make the tensor that holds a value part of the graph; ``packed``: its true shape and type."""
        if value.tensor in self.tensors:
            return
        role = Role.WEIGHT if value.constant else Role.ACTIVATION
        if packed is not None:
            self.tensors[value.tensor] = Tensor(value.tensor, *packed, role, value.size)
        else:
            size = value.size if value.beside else -1
            self.tensors[value.tensor] = Tensor(value.tensor, value.shape, value.dtype, role, size)

    def unique(self, name: str) -> str:
        """An operator name that no other operator has."""
        self._names[name] += 1
        count = self._names[name]
        return name if count == 1 else self.unique(f"{name}_{count}")
