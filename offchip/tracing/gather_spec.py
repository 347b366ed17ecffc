"""The description of an epoch of gathers: what ``offchip trace gather SPEC.yaml`` reads, and its defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import pydantic
from pydantic import BeforeValidator, Field

from hw_configs.config import Config, Size, SizeOrZero, parse
from hw_configs.problems import InputError, Problem, bad_input
from hw_configs.yaml_file import Document, read_yaml
from workloads.dtypes import BITS

__all__ = ["GatherSpec", "read_spec"]

Seed = Annotated[int, Field(ge=0, lt=2**31)]


def _text(value: Any) -> Any:
    """A scale that YAML reads as a number is a text all the same."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _dtype(value: Any) -> Any:
    if value is not None and value not in BITS:
        raise ValueError(f"found {value!r}; known: {', '.join(BITS)}")
    return value


class GatherSpec(Config):
    """An epoch of sampled mini-batches. Sizes and counts are those of the graph at full size."""

    description: str = ""
    graph: str
    """A published shape, ``rmat:NODES:EDGES[:SEED[:A,B,C,D]]``, ``ba:NODES:EACH[:SEED]``,
    ``power-law:NODES:EDGES[:SEED]``, ``degrees:FILE[:SEED]`` (one degree a line), or a file."""
    scale: Annotated[str, BeforeValidator(_text)] = "1"
    """Of a published shape: 1/1000 makes a thousandth of its nodes, edges, training nodes, batch and caches."""
    directed: bool = True
    """Of an edge list: the second node of a line aggregates the first; else each the other."""
    training_nodes: Annotated[int, Field(ge=1, lt=2**40)] | None = None
    """Nodes that train; None: the published number, or all."""
    features: Annotated[int, Field(ge=1, le=2**20)] | None = None
    """Elements of a row; None: the published number, or 128."""
    feature_dtype: Annotated[str | None, BeforeValidator(_dtype)] = None
    base: Annotated[int, Field(ge=0, lt=2**40)] = 0
    """Address of the table's first byte: how rows stand to lines and pages."""
    rule: Literal["neighbours", "ladies", "fastgcn"] = "neighbours"
    fan_out: Annotated[list[int], Field(min_length=1, max_length=16)] = Field(default=[10, 10, 10])
    """Neighbours a node, from the seeds outwards (-1: all); nodes a layer for ladies and fastgcn."""
    replace: bool = False
    """Neighbours may be drawn twice."""
    expand: Literal["all", "new"] = "all"
    """Every known node draws again in each layer (DGL), or only new ones (PyG)."""
    batch: Annotated[int, Field(ge=1, le=2**24)] = 1024
    """Training nodes of a batch."""
    batches: Annotated[int, Field(ge=1, le=2**31)] | None = None
    """Batches of the epoch that run; its sums are extended to all."""
    model: Literal["sage", "gcn", "gat"] = "sage"
    hidden: Annotated[int, Field(ge=1, le=2**16)] = 256
    path: Literal["cpu", "zero-copy", "uvm", "gpu"] = "cpu"
    """How rows come from host memory to the GPU."""
    gpus: Annotated[int, Field(ge=1, le=4096)] = 1
    """GPUs that gather at the same time."""
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Of the CPU's gather; None: all cores."""
    pinned: bool = True
    """The staging buffer is page-locked."""
    shift: bool = True
    """Zero-copy lanes begin at a line's border (the circular shift of PyTorch-Direct)."""
    request_bytes: Literal[32, 64, 128] = 128
    store: Literal["host", "four-level", "belady-window", "partition-buffer", "page-cache"] = "host"
    gpu_cache: SizeOrZero = 0.0
    cpu_cache: SizeOrZero = 0.0
    disk: Size | None = None
    """Bytes of packed copies at most; None: all rows that no cache holds are packed."""
    uvm_memory: SizeOrZero = 0.0
    """GPU memory for migrated pages."""
    superbatch: Annotated[int, Field(ge=1, le=2**24)] = 1000
    partitions: Annotated[int, Field(ge=2, le=4096)] = 32
    buffer: Annotated[int, Field(ge=2, le=4096)] = 8
    cover: Literal["training", "pairs"] = "training"
    queue: Annotated[int, Field(ge=0, le=1024)] = 2
    """Batches that may wait between stages; 0: no overlap."""
    overlap: Literal["all", "sampling"] = "all"
    """Every stage beside the others, or sampling alone ahead of the rest (DGL's workers)."""
    queue_depth: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Reads of the drive in flight; None: a blocking read a core where rows are missed one by one, else 32."""
    sampling: Literal["cpu", "before"] = "cpu"
    seed: Seed = 1


_SUFFIXES: Final = (".yaml", ".yml")


def read_spec(text: str, given: dict[str, Any]) -> GatherSpec:
    """A description file, or a graph by itself, with what is given instead of what it says.

    Raises ``InputError``: of the file by line and field, of what is given by option.
    """
    base: dict[str, Any] = {"graph": text}
    if Path(text).suffix in _SUFFIXES:
        document = read_yaml(text)
        if not isinstance(document.data, dict):
            raise bad_input("expected fields and values", file=document.file, line=1)
        spec = parse(GatherSpec, document)
        base = {name: getattr(spec, name) for name in spec.model_fields_set}
        base["graph"] = _beside(document, spec.graph)
    try:
        return GatherSpec.model_validate(base | given)
    except pydantic.ValidationError as error:
        raise InputError([_problem(detail) for detail in error.errors()]) from None


def _beside(document: Document, graph: str) -> str:
    """A file is looked for beside the description."""
    near = Path(document.file).parent / graph
    return str(near) if near.is_file() else graph


def _problem(detail: Any) -> Problem:
    fault = str(detail["msg"]).removeprefix("Value error, ")
    option = "--" + str(detail["loc"][0]).replace("_", "-")
    if fault.startswith("found"):
        return Problem(fault, path=option)
    return Problem(f"found {detail['input']!r:.80}; {fault[0].lower()}{fault[1:]}", path=option)
