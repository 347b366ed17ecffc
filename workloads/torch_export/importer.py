"""Exported programmes as workloads: one forward pass, or the phases of a language model that takes and returns caches.

Every tensor's sizes stand in the file, as expressions over symbols; those get the values that ``--dim`` gives
them, or a language model's phases, or those of the example that the model was exported with. An input that is
joined to new keys or values, which then is an output, is a cache; so is a buffer that the model changes. What
is appended is written in place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Final

from hw_configs.problems import InputError, Problem, bad_input, nearest
from workloads.dtypes import dtype_bits, size_bytes
from workloads.fusion import fuse_pointwise
from workloads.graph import Attribute, Graph, Operator, Role, Tensor, check_graph
from workloads.imported import uncosted_operators
from workloads.operators import Copy
from workloads.operators.traffic import traffic
from workloads.phase_list import prompt_and_answer
from workloads.torch_export.costs import IGNORED, VIEWS, Sized, work_of
from workloads.torch_export.programme import Call, Programme, read_programme
from workloads.torch_export.sizes import SizeError, size_of, symbols_of
from workloads.workload import Phase, Workload, WorkloadOptions

__all__ = ["IMPORTER"]

_FLOATS: Final = frozenset({"fp32", "fp16", "bf16"})
_WRITES_IN_PLACE: Final = frozenset(
    {"index_copy", "index_copy_", "index_put", "index_put_", "slice_scatter", "copy_"}
)


@dataclass(frozen=True, slots=True)
class _Language:
    """A model's caches (input to the axis of tokens) and the symbols of a step's and of the past's tokens."""

    caches: Mapping[str, int]
    batch: tuple[str, ...]
    step: tuple[str, ...]
    past: tuple[str, ...]

    def sizes(self, batch: int, new: int, before: int) -> dict[str, int]:
        return (
            dict.fromkeys(self.batch, batch)
            | dict.fromkeys(self.step, new)
            | dict.fromkeys(self.past, before)
        )


class _Walk:
    """One walk over a programme with all sizes known."""

    def __init__(
        self, programme: Programme, sizes: Mapping[str, int], caches: Mapping[str, int], options: WorkloadOptions,
        capacity: int,
    ) -> None:  # fmt: skip
        self.programme, self.sizes, self.caches, self.options = programme, sizes, dict(caches), options
        self.capacity = capacity
        self.tensors: dict[str, Tensor] = {}
        self.operators: list[Operator] = []
        self.holder: dict[str, str] = {}
        """Each value to the tensor that holds its bytes."""
        self.sized: dict[str, Sized] = {}
        self.empty: set[str] = set()
        self.made = {name for call in programme.calls for name in call.outputs}

    def graph(self, name: str) -> Graph:
        for value in (*self.programme.stored, *self.programme.given):
            self._source(value)
        for call in self.programme.calls:
            self._call(call)
        outputs = dict.fromkeys(self.holder[out] for out in self.programme.outputs if out in self.holder)
        kept = tuple(t for t in outputs if t in self.tensors and self.tensors[t].role is Role.ACTIVATION)
        metadata: dict[str, Attribute] = {"format": "torch.export", "torch": self.programme.torch_version}
        return check_graph(
            Graph(name, self.tensors, tuple(self.operators), kept, metadata=metadata), self.programme.file
        )

    def shape(self, value: str) -> tuple[int, ...]:
        meta = self.programme.metas.get(value)
        if meta is None:
            raise bad_input(f"states no sizes of {value!r}", file=self.programme.file)
        try:
            return tuple(max(size_of(size, self.sizes), 0) for size in meta.sizes)
        except SizeError as error:
            raise bad_input(f"the size of {value!r}: {error}", file=self.programme.file) from None

    def _dtype(self, value: str) -> str:
        own = self.programme.metas[value].dtype
        return self.options.dtype if own in _FLOATS and self.options.dtype is not None else own

    def _source(self, value: str) -> None:
        shape = self.shape(value)
        role = Role.WEIGHT if value in self.programme.stored else Role.ACTIVATION
        if value in self.caches:
            axis = self.caches[value]
            role = Role.KV_CACHE
            room = (*shape[:axis], max(self.capacity, shape[axis]), *shape[axis + 1 :])
            self.tensors[value] = Tensor(value, room, self._dtype(value), role)
        elif value in self.programme.mutated.values() and len(shape) >= 3:
            role = Role.KV_CACHE
            self.caches[value] = -1
        self.tensors.setdefault(value, Tensor(value, shape, self._dtype(value), role))
        self._know(value, value, shape, prod(shape))

    def _know(self, value: str, holder: str, shape: tuple[int, ...], stored: int) -> None:
        self.holder[value] = holder
        self.sized[value] = Sized(shape, stored)
        if not prod(shape):
            self.empty.add(value)

    def _call(self, call: Call) -> None:
        name = call.target.removeprefix("aten.").partition(".")[0]
        if not call.outputs or name in IGNORED or call.target.startswith(("_operator.", "math.")):
            return
        inputs = [value for value in dict.fromkeys(call.inputs()) if value in self.holder]
        if self._viewed(call, name, inputs) or self._appended(call, name, inputs):
            return
        out = call.outputs[0]
        for value in call.outputs:
            shape = self.shape(value)
            self.tensors[value] = Tensor(value, shape, self._dtype(value))
            self._know(value, value, shape, prod(shape))
        inputs = [value for value in inputs if value not in self.empty]
        work = work_of(name, call, self.sized, self.sized[out])
        held = [self.tensors[holder] for holder in dict.fromkeys(self.holder[value] for value in inputs)]
        moved = traffic(work, held, [self.tensors[value] for value in call.outputs])
        touched = {
            self.holder[value]: size_bytes(self.sized[value].stored, self.tensors[self.holder[value]].dtype)
            for value in inputs
        }
        reads = tuple(min(size, touched[tensor.name]) for size, tensor in zip(moved.reads, held, strict=True))
        self.operators.append(
            Operator(
                call.name, work, tuple(tensor.name for tensor in held), call.outputs, (), self._arithmetic(inputs, out),
                reads, moved.writes, source=call.target,
            )
        )  # fmt: skip

    def _viewed(self, call: Call, name: str, inputs: Sequence[str]) -> bool:
        """Whether the results are bytes of the input: views, and conversions to the type that it has."""
        if not inputs or name not in VIEWS:
            return False
        source, metas = inputs[0], self.programme.metas
        if any(value not in metas or metas[value].dtype != metas[source].dtype for value in call.outputs):
            return False
        for value in call.outputs:
            shape = self.shape(value)
            self._know(value, self.holder[source], shape, min(prod(shape), self.sized[source].stored))
        return True

    def _appended(self, call: Call, name: str, inputs: Sequence[str]) -> bool:
        """Whether new keys or values join a cache; joining nothing to a tensor is no work at all."""
        parts = [value for value in inputs if value not in self.empty]
        if name == "cat" and len(parts) == 1:
            self._know(
                call.outputs[0],
                self.holder[parts[0]],
                self.shape(call.outputs[0]),
                self.sized[parts[0]].stored,
            )
            return True
        joins = name == "cat" and len(parts) == 2
        if (
            not (joins or name in _WRITES_IN_PLACE)
            or len(parts) < 2
            or self.holder[parts[0]] not in self.caches
        ):
            return False
        cache = self.holder[parts[0]]
        new = parts[-1]
        shape = self.shape(call.outputs[0])
        size = size_bytes(self.sized[new].elements, self.tensors[cache].dtype)
        rows = Copy(m=1, n=self.sized[new].elements)
        self.operators.append(
            Operator(
                call.name, rows, (self.holder[new],), (), (cache,), self._arithmetic([new], new), (size, 0), (size,),
                source=call.target,
            )
        )  # fmt: skip
        self._know(call.outputs[0], cache, shape, prod(shape))
        return True

    def _arithmetic(self, inputs: Sequence[str], out: str) -> str:
        for value in (*inputs, out):
            dtype = self._dtype(value)
            if dtype in _FLOATS or dtype.startswith("fp"):
                return dtype
        return "fp32"


def _language(programme: Programme) -> _Language | None:
    """The caches among the inputs: joined to new values by an operator whose result is an output."""
    origin = {value: value for value in programme.given if len(programme.metas[value].sizes) >= 3}
    wanted = set(programme.outputs)
    caches: dict[str, int] = {}
    past: dict[str, None] = {}
    for call in programme.calls:
        name = call.target.removeprefix("aten.").partition(".")[0]
        sources = [origin[value] for value in call.inputs() if value in origin]
        if not call.outputs or len(sources) != 1 or (name != "cat" and name not in VIEWS):
            continue
        out, source = call.outputs[0], sources[0]
        origin[out] = source
        if name == "cat" and out in wanted:
            rank = len(programme.metas[source].sizes)
            axis = call.number("dim") % rank
            symbols = symbols_of(programme.metas[source].sizes[axis])
            if symbols:
                caches[source] = axis
                past |= dict.fromkeys(symbols)
    tokens = [
        v for v in programme.given if v not in caches and programme.metas[v].dtype in ("int64", "int32")
    ]
    if not caches or not tokens or len(programme.metas[tokens[0]].sizes) != 2:
        return None
    batch, step = (tuple(symbols_of(size)) for size in programme.metas[tokens[0]].sizes)
    return _Language(caches, batch, step, tuple(past))


class _ExportImporter:
    """Reads archives of ``torch.export``; see :class:`workloads.importers.Importer`."""

    FORMAT = "a programme of torch.export (.pt2)"

    def recognises(self, path: Path, head: bytes) -> bool:
        """By the name, and the first bytes of a zip."""
        return path.suffix.lower() == ".pt2" and head[:2] == b"PK"

    def load(self, path: Path, options: WorkloadOptions) -> Workload:
        """The programme as a forward pass, or as the phases of a language model."""
        programme = read_programme(path)
        language = _language(programme)
        if options.dims:
            language = None
        _refuse(options, str(path), language is not None)
        if language is not None:
            return _phases(path.stem, programme, language, options)
        sizes, assumed = _sizes(programme, options)
        graph = _Walk(programme, sizes, {}, options, 0).graph(path.stem)
        graph = fuse_pointwise(graph) if options.fused else graph
        notes = []
        if assumed:
            told = ", ".join(f"{name}={value}" for name, value in assumed.items())
            notes.append(f"sizes of the example that it was exported with: {told} (--dim gives others)")
        return Workload(
            path.stem,
            [Phase("forward", "forward", graph)],
            graph.metadata,
            uncosted_operators(graph),
            notes=tuple(notes),
        )


def _phases(name: str, programme: Programme, language: _Language, options: WorkloadOptions) -> Workload:
    total = options.prompt + options.generate

    def step(kind: str, new: int, before: int) -> Phase:
        sizes = {**programme.hints, **language.sizes(options.batch, new, before)}
        graph = _Walk(programme, sizes, language.caches, options, total).graph(f"{name}.{kind}")
        graph = fuse_pointwise(graph) if options.fused else graph
        told: dict[str, Attribute] = {"batch": options.batch, "new_tokens": new, "context": new + before}
        graph = replace(graph, structure=f"{name}.{kind}", metadata={**graph.metadata, **told})
        return Phase(kind, kind, graph, options.batch)

    phases = prompt_and_answer(step, options)
    first = phases[0].graph
    held = [first.tensors[cache] for cache in language.caches]
    per_token = sum(
        size_bytes(prod(t.shape) // max(t.shape[language.caches[t.name]] * options.batch, 1), t.dtype)
        for t in held
    )
    metadata = {**first.metadata, "kv_bytes_per_token": per_token}
    return Workload(name, phases, metadata, uncosted_operators(first))


def _sizes(programme: Programme, options: WorkloadOptions) -> tuple[dict[str, int], dict[str, int]]:
    """The sizes of symbols, and those among them that nobody asked for; ``--dim`` takes a symbol or ``input.axis``."""
    names = {f"{value}.{axis}": symbols[0]
             for value in programme.given
             for axis, size in enumerate(programme.metas[value].sizes)
             if len(symbols := symbols_of(size)) == 1}  # fmt: skip
    known = {**names, **{symbol: symbol for symbol in programme.hints}}
    sizes: dict[str, int] = {}
    problems = []
    for name, value in options.dims.items():
        symbol = known.get(name)
        least, most = programme.bounds.get(symbol or "", (0, None))
        if symbol is None:
            told = ", ".join(sorted(known)) or "none"
            problems.append(
                Problem(
                    f"unknown dimension {name!r}; open are: {told}",
                    programme.file,
                    None,
                    "--dim",
                    nearest(name, known),
                )
            )
        elif value < least or (most is not None and value > most):
            problems.append(
                Problem(f"found {name}={value}; expected {least} to {most}", programme.file, None, "--dim")
            )
        else:
            sizes[symbol] = value
    if problems:
        raise InputError(problems)
    assumed = {symbol: hint for symbol, hint in programme.hints.items() if symbol not in sizes}
    places = {symbol: name for name, symbol in reversed(names.items())}
    return sizes | assumed, {places.get(symbol, symbol): hint for symbol, hint in assumed.items()}


def _refuse(options: WorkloadOptions, file: str, language: bool) -> None:
    asked = {
        "--phase": options.phase == "train" or (options.phase is not None and not language),
        "--generate": options.generate and not language,
        "--chunk": options.chunk is not None,
        "--same-prompts": options.same_prompts,
        "--kv-dtype": options.kv_dtype is not None,
        "--batch": options.batch != 1 and not language,
    }
    problems = [
        Problem(
            "the programme holds one forward pass; leave this option out (--dim gives sizes)",
            file,
            None,
            option,
        )
        for option, given in asked.items()
        if given
    ]
    if problems:
        raise InputError(problems)
    if options.dtype is not None:
        dtype_bits(options.dtype)


IMPORTER: Final = _ExportImporter()
