"""A GPU architecture as data: what all chips of one generation share and their data sheets leave out.

A device file names its architecture (``architecture: hopper-sm90``), which is a file of its own, found by name or
path like links are. ``architecture: {use: hopper-sm90, l2_partitions: 1}`` overrides figures of it, and a mapping
without ``use`` holds one in place. Constants that were fitted on measurements stand elsewhere, under the names that
``calibrated_as`` gives here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationInfo

from hw_configs.catalog import catalog, read_any
from hw_configs.config import (
    Bandwidth,
    BrokenReferenceError,
    Config,
    Count,
    Efficiency,
    RateType,
    Size,
    SizeOrZero,
    parse,
)
from hw_configs.gpu_memory_path import GpuMemoryPath
from hw_configs.problems import InputError, bad_input, nearest
from hw_configs.yaml_file import Document

__all__ = [
    "ARCHITECTURE_KIND",
    "ArchitectureReference",
    "AttentionKernel",
    "GpuArchitecture",
    "architecture_document",
    "parse_architecture",
]

ARCHITECTURE_KIND: Final = "gpu_architecture"

OperationsPerClock = Annotated[int, Field(ge=0, le=2**20)]
Ratio = Annotated[float, Field(gt=0, le=100)]


class AttentionKernel(Config):
    """The fused attention kernel that libraries run on an architecture: its tiles, and what it splits and packs."""

    calibrated_as: Literal["fa2", "fa2_dense", "fa3", "blackwell", "flashinfer", "triton"]
    """The kernel whose fitted latencies per tile and block it takes: FlashAttention-2 over a paged cache or over whole
    sequences, FlashAttention-3, the kernels of Blackwell's tensor memory, FlashInfer's for Ampere and Ada, or the
    engines' own in Triton."""
    query_tile: Count
    """Query rows of one thread block."""
    grouped_query_tile: Count
    """Query rows of one thread block in decoding, where the query heads of a KV head share it."""
    key_block: Count
    """Keys that a tile takes up at a time, at most."""
    key_elements: Count | None = None
    """Elements of such a block of keys at most, the head size rounded up to a power of two: longer heads then have
    fewer keys in a block. Left out: ``key_block`` holds for every head size."""
    head_sizes: list[Count] = Field(default_factory=list)
    """Head sizes that it is built for; ``attention_fallback`` runs others. Left out: any."""
    instruction_rows: Count
    """Query rows that one matrix instruction serves with one read of shared memory."""
    blocks_per_multiprocessor: Count
    """Thread blocks at work on one multiprocessor."""
    splits_only_groups: bool
    """Whether decoding splits the keys only where query heads share a KV head, and copies queries and outputs into
    that order (FlashAttention-2)."""
    splits_keys: bool = True
    """Whether decoding divides the keys of a sequence among thread blocks at all."""
    packs_groups: bool = False
    """Whether query heads that share a KV head share tiles in prefill too."""
    computes_narrow: bool = False
    """Whether it computes in the 8 bits of a narrow cache where the matrix units can, instead of widening."""


class GpuArchitecture(Config):
    """Figures that all chips of an architecture share. Per multiprocessor and clock where the name says per clock."""

    kind: Literal["gpu_architecture"] = "gpu_architecture"
    name: str
    description: str = ""
    source: str = ""
    """Where the figures come from, unless a figure names its own source."""
    calibrated_as: str | None = None
    """Generation whose fitted constants (share of bandwidth, launches, latency of collectives) its chips take.
    Left out: nothing of it was measured, and its chips take the means of all generations."""
    matrix_operations_per_clock: OperationsPerClock | None = None
    """Dense 16-bit operations of the matrix units; 0 where there are none, left out where it is not known."""
    vector_operations_per_clock: OperationsPerClock | None = None
    """fp32 operations of the vector lanes, two per fused multiply-add; left out where it is not known."""
    relative_rates: dict[RateType, Efficiency] = Field(default_factory=dict)
    """Rates of the vector lanes as shares of fp32's, for types that a device file states no rate of."""
    exponentials_per_clock: Count
    """Results of the special-function units."""
    l2_bytes_per_clock: Count
    """Bytes that a multiprocessor takes from the L2."""
    shared_bytes_per_clock: Count
    """Bytes that a multiprocessor takes from its shared memory."""
    l1_reserved: SizeOrZero
    """Of ``l1_per_multiprocessor``, what stays cache and system-reserved beside shared memory."""
    accumulator_bytes: Size
    """Of the register file of a multiprocessor, what accumulators of products may take."""
    l2_partitions: Count
    """Parts of the L2 that each keep a copy of what all multiprocessors read."""
    operand_sharing: Count
    """Thread blocks that share one fetch of an operand tile (multicast in a cluster); 1 for none."""
    multiprocessors_per_tile: Count
    """Multiprocessors that work on one tile of a product together, each with its part of the rows."""
    process_energy: Ratio | None = None
    """Energy of an operation on vector lanes relative to a 16 nm process at the same clock. Left out: it follows from
    the board's power and peak rate."""
    matrix_process_energy: Ratio | None = None
    """The same for matrix units, whose width decides what operands cost."""
    switch_reduces: bool
    """Whether its switches can add the buffers of an all-reduce (NVLink SHARP)."""
    peer_bandwidth: Bandwidth | None = None
    """Per direction, from a board to its peers in the usual machine; left out where boards talk over the host."""
    host_bandwidth: Bandwidth | None = None
    """Per direction, between a board and its host in the usual machine."""
    memory_path: GpuMemoryPath = GpuMemoryPath()
    """From its multiprocessors to memory, access by access (``offchip trace gpu``)."""
    linear_attention: Literal["fused_hopper", "fused_blackwell", "triton"] = "triton"
    """The kernel of a gated delta rule's prefill: fused ones keep the state on a multiprocessor, Triton's pass it
    through memory. Other rules run in Triton everywhere."""
    attention: AttentionKernel
    attention_unsplit: AttentionKernel | None = None
    """The kernel for sequences of unlike lengths whose keys are not split; left out where it is the same."""
    attention_narrow: AttentionKernel | None = None
    """The kernel over a cache of 8-bit elements; left out where it is the same."""
    attention_contiguous: AttentionKernel | None = None
    """The kernel of encoders, whose keys are in no cache; left out where it is the same."""
    attention_fallback: AttentionKernel | None = None
    """The kernel for head sizes that the others are not built for; left out where they take all."""
    attention_latent: AttentionKernel | None = None
    """The kernel over latents that are keys and values in one; left out where it is that of ``attention``."""
    attention_expanded: AttentionKernel | None = None
    """The kernel over keys and values expanded from latents (prefill); left out where it is that of ``attention``."""


def architecture_document(reference: str, folder: Path | None) -> Document:
    """The file of an architecture by name or path, ``folder`` searched first; ``InputError`` if there is none."""
    try:
        document = read_any(reference, folder)
    except InputError as error:
        if error.problems[0].file is not None:
            raise
        known = [entry.name for entry in catalog().values() if entry.kind == "architecture"]
        message = f"unknown GPU architecture {reference!r}; known: {', '.join(known)}"
        raise bad_input(message, suggestion=nearest(reference, known)) from None
    kind = document.data.get("kind") if isinstance(document.data, dict) else None
    if kind != ARCHITECTURE_KIND:
        raise bad_input(
            f"found the kind {kind!r}; expected {ARCHITECTURE_KIND!r}",
            file=document.file,
            line=document.line_of(("kind",)),
            path="kind",
        )
    return document


def parse_architecture(document: Document) -> GpuArchitecture:
    """The architecture that a document describes; all its problems at once as an ``InputError``."""
    return parse(GpuArchitecture, document)


def _resolved(value: Any, info: ValidationInfo) -> Any:
    """What a device file's ``architecture`` stands for: a file, a file with overrides, or figures in place."""
    folder = (info.context or {}).get("folder")
    reference = value.get("use") if isinstance(value, dict) else value
    if not isinstance(reference, str):
        return value
    try:
        base = parse_architecture(architecture_document(reference, folder))
    except InputError as error:
        raise BrokenReferenceError(error) from None
    if isinstance(value, str):
        return base
    overrides = {key: item for key, item in value.items() if key != "use"}
    return _overridden(base.model_dump(exclude_unset=True), overrides)


def _overridden(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, item in changes.items():
        inner = merged.get(key)
        merged[key] = _overridden(inner, item) if isinstance(inner, dict) and isinstance(item, dict) else item
    return merged


ArchitectureReference = Annotated[GpuArchitecture, BeforeValidator(_resolved)]
"""The field of a device: a name, ``{use: name, ...}`` with overrides, or an architecture in place."""
