"""ONNX files of any producer, read without their weights.

The file is walked as protobuf and every large tensor's content is left out before the ``onnx`` package sees
it, so a model of many gigabytes, in one file or with external data, costs no more memory than its graph.
External data is never opened. Shapes come from ``onnx.shape_inference`` node by node
(:mod:`workloads.onnx_graph`).
"""

from __future__ import annotations

import mmap
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hw_configs.problems import InputError, Problem, bad_input
from workloads.dtypes import dtype_bits
from workloads.fusion import fuse_pointwise
from workloads.graph import Attribute, Graph, check_graph
from workloads.imported import uncosted_operators
from workloads.onnx_cache import LanguageModel, language_model
from workloads.phase_list import prompt_and_answer
from workloads.protobuf_wire import BYTES, Skeleton, WireError, fields, skeleton
from workloads.workload import Phase, Workload, WorkloadOptions

if TYPE_CHECKING:
    import onnx

__all__ = ["IMPORTER", "load_model"]

KEPT_BYTES: Final = 1 << 18
"""Tensors up to this size keep their content: it may be a shape or an index that the walk needs."""
MAX_GRAPH_BYTES: Final = 1 << 30
_GRAPH_FIELD: Final = 7

# Field numbers of onnx.proto: the content fields of a tensor are dropped, its name, type and sides stay.
_TENSOR: Final = Skeleton(drop=frozenset({4, 5, 6, 7, 9, 10, 11}))
_SPARSE: Final = Skeleton(inside={1: _TENSOR, 2: _TENSOR})


def _graph_skeleton(depth: int) -> Skeleton:
    attribute = {5: _TENSOR, 10: _TENSOR, 22: _SPARSE, 23: _SPARSE}
    if depth:
        inner = _graph_skeleton(depth - 1)
        attribute |= {6: inner, 11: inner}
    node = Skeleton(inside={5: Skeleton(inside=attribute)})
    return Skeleton(inside={1: node, 5: _TENSOR, 15: _SPARSE})


_GRAPH: Final = _graph_skeleton(4)
_MODEL: Final = Skeleton(
    inside={_GRAPH_FIELD: _GRAPH, 25: Skeleton(inside={7: Skeleton(inside=_GRAPH.inside[1].inside)})}
)


def load_model(path: Path) -> onnx.ModelProto:
    """The model without the content of its large tensors; ``InputError`` for a file that is not whole."""
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError:
        raise bad_input(
            "reading ONNX files needs the onnx package: pip install 'offchip[onnx]'", file=str(path)
        ) from None
    if path.stat().st_size == 0:
        raise bad_input("the file is empty", file=str(path))
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if not any(f.number == _GRAPH_FIELD and f.wire_type == BYTES for f in fields(content)):
                raise bad_input("not an ONNX model: it holds no graph", file=str(path))
            kept = skeleton(content, _MODEL, KEPT_BYTES)
    except WireError as error:
        text = f"not an ONNX file, or a damaged one: {error}"
        if error.missing:
            text = f"the ONNX file is cut short: at least {error.missing} bytes are missing ({error})"
        raise bad_input(text, file=str(path)) from None
    except OSError as error:
        raise bad_input(f"cannot be read: {error.strerror}", file=str(path)) from None
    if len(kept) > MAX_GRAPH_BYTES:
        raise bad_input(f"the graph alone takes {len(kept)} bytes; at most {MAX_GRAPH_BYTES}", file=str(path))
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(kept)
    except DecodeError:
        raise bad_input("not an ONNX file, or a damaged one", file=str(path)) from None
    from workloads.onnx_proto import all_text

    if not all_text(model):
        raise bad_input("a damaged ONNX file: it has names that are no text", file=str(path))
    return model


class _OnnxImporter:
    """Reads ONNX files; see :class:`workloads.importers.Importer`."""

    FORMAT = "an ONNX model"

    def recognises(self, path: Path, head: bytes) -> bool:
        """By the name, or by a model's first field (its version) followed by a producer or a graph."""
        named = path.suffix.lower() == ".onnx"
        return named or (head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x3a") and head[1:2] < b"\x20")

    def load(self, path: Path, options: WorkloadOptions) -> Workload:
        """The model as a workload of one phase, with the sizes that the options give its dimensions."""
        model = load_model(path)
        language = language_model(model)
        if language is not None and (options.phase == "train" or _names_tokens(language, options)):
            language = None
        _refuse(options, str(path), language is not None)
        if model.functions:
            model = _inlined(model, str(path))
        if language is not None:
            return _language_workload(path, model, language, options)
        from workloads.onnx_graph import OnnxGraph

        walk = OnnxGraph(model, str(path), options)
        graph = check_graph(walk.graph(path.stem), str(path))
        if not graph.operators:
            raise bad_input("the model holds no operator that does anything", file=str(path))
        if options.fused and options.phase != "train":
            graph = fuse_pointwise(graph)
        unsupported = (*uncosted_operators(graph), *walk.notes)
        kind = "forward"
        if options.phase == "train":
            from workloads.training import StepOptions, training_step

            graph, kind = training_step(graph, options=StepOptions(options.types, options.trained)), "train"
        return Workload(graph.name, [Phase(kind, kind, graph)], dict(graph.metadata), unsupported)


def _names_tokens(language: LanguageModel, options: WorkloadOptions) -> bool:
    """Whether the user gives the dimensions of tokens their sizes, which makes one forward pass of the file."""
    return any(name in options.dims for name in (*language.step, *language.past, *language.total))


def _language_workload(
    path: Path, model: onnx.ModelProto, language: LanguageModel, options: WorkloadOptions
) -> Workload:
    """A prefill, and a decode step for every token that is generated after its own."""

    def step(kind: str, new: int, before: int) -> Phase:
        from workloads.onnx_graph import OnnxGraph

        sized = replace(options, dims={**options.dims, **language.sizes(new, before)})
        walk = OnnxGraph(model, str(path), sized, language.caches, options.prompt + options.generate)
        graph = check_graph(walk.graph(f"{path.stem}.{kind}"), str(path))
        if options.fused:
            graph = fuse_pointwise(graph)
        sizes: dict[str, Attribute] = {"batch": options.batch, "new_tokens": new, "context": new + before}
        graph = replace(graph, structure=f"{path.stem}.{kind}", metadata={**graph.metadata, **sizes})
        return Phase(kind, kind, graph, options.batch)

    phases = prompt_and_answer(step, options)
    first = phases[0].graph
    metadata = {**first.metadata, "kv_bytes_per_token": _bytes_per_token(first, language)}
    return Workload(path.stem, phases, metadata, uncosted_operators(first))


def _bytes_per_token(graph: Graph, language: LanguageModel) -> int:
    """Bytes of one token of one sequence in all caches, whose first side is the batch."""
    held = [graph.tensors[name] for name in language.caches if name in graph.tensors]
    rooms = [tensor.shape[language.caches[tensor.name]] * max(tensor.shape[0], 1) for tensor in held]
    return sum(tensor.size_bytes // max(room, 1) for tensor, room in zip(held, rooms, strict=True))


def _inlined(model: onnx.ModelProto, file: str) -> onnx.ModelProto:
    """The model with its own functions written out where they are called."""
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise bad_input(f"its functions cannot be written out: {reason}", file=file) from None


def _refuse(options: WorkloadOptions, file: str, language: bool) -> None:
    asked = {
        "--phase": not language and options.phase not in (None, "train") and options.phase,
        "--generate": not language and options.generate,
        "--chunk": options.chunk,
        "--same-prompts": options.same_prompts,
        "--kv-dtype": options.kv_dtype,
    }
    problems = [
        Problem(
            f"found {value}; the file holds one forward graph, without caches of its own: leave this option out",
            file,
            None,
            option,
        )
        for option, value in asked.items()
        if value
    ]
    if problems:
        raise InputError(problems)
    if options.dtype is not None:
        dtype_bits(options.dtype)


IMPORTER: Final = _OnnxImporter()
