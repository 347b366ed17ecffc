"""Time and energy of one decode attention inside a drive.

Pages come from the array over the channels at the rate the drive gives to that pattern, pass the filters where
attention is sparse, and meet the engines: products with K, softmax, products with V. Heads and sequences are
many and independent, so that the pages of one are loaded while others are computed: the slowest stage sets
the pace, and the first item's way through all stages comes before it. Programs of new groups take the dies
from the reads. The work is InstInfer's (arXiv:2409.04992); the pipeline of stages is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Literal

from hw_configs.csd import AttentionEngine
from hw_configs.device import ComputationalStorage
from hw_configs.problems import bad_input
from simulator.csd.kv_layout import KvLayout, PageCounts, SparseChoice
from simulator.flash.patterns import DrivePattern, drive_rate

__all__ = ["SOFTMAX_OPERATIONS", "AttentionStep", "AttentionWork", "StageTimes", "attention_step"]

Operation = Literal["read", "write"]
Order = Literal["sequential", "random"]

SOFTMAX_OPERATIONS: Final = 5.0
"""Operations per score: subtract, exponentiate, add, divide and compare, as everywhere in Offchip."""
PAGES_IN_FLIGHT: Final = 4096
"""Page reads that the engine keeps outstanding: a layer's worth is known before it starts."""


@dataclass(frozen=True, slots=True)
class AttentionWork:
    """One operator: sequences, query and KV heads, head width, context in tokens, tokens added per sequence."""

    batch: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    new_tokens: int = 1
    element_bytes: int = 2
    choice: SparseChoice | None = None

    @property
    def items(self) -> int:
        """Independent (sequence, KV head) pairs."""
        return self.batch * self.kv_heads


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds each stage works on the whole operator."""

    load_s: float
    filter_s: float
    product_s: float
    softmax_s: float
    program_s: float

    @property
    def compute_s(self) -> float:
        """Arithmetic of the engines."""
        return self.product_s + self.softmax_s


@dataclass(frozen=True, slots=True)
class AttentionStep:
    """One operator on the drive: seconds, page bytes moved inside, and the stage that sets the pace."""

    seconds: float
    stages: StageTimes
    pages: PageCounts
    read_bytes: float
    written_bytes: float
    bound_by: str

    @property
    def read_bandwidth(self) -> float:
        """Page bytes per second while the operator runs."""
        return self.read_bytes / self.seconds if self.seconds else 0.0


def attention_step(device: ComputationalStorage, work: AttentionWork) -> AttentionStep:
    """Attention of new tokens over a context that lies in the drive; ``InputError`` without an engine."""
    engine = device.engine
    if engine is None:
        raise bad_input(f"{device.name!r} has no attention engine", path="engine")
    layout = layout_of(device, engine, work)
    counts = layout.dense_step(work.context)
    if work.choice is not None:
        counts = layout.sparse_step(work.context, work.choice)
    stages = _stages(device, engine, layout, work, counts)
    seconds, bound_by = _together(engine, stages, work.items)
    written = work.items * work.new_tokens * layout.pages_per_token(sparse=work.choice is not None)
    return AttentionStep(
        seconds,
        stages,
        counts,
        counts.pages * work.items * layout.page_bytes,
        written * layout.page_bytes,
        bound_by,
    )


def layout_of(device: ComputationalStorage, engine: AttentionEngine, work: AttentionWork) -> KvLayout:
    """The layout of a head on the drive's pages; 4 KiB where the file does not say."""
    geometry = device.store.geometry
    page = int(geometry.page_size) if geometry is not None else 4096
    return KvLayout(page, work.head_dim, work.element_bytes, min(engine.key_channels_per_page, work.head_dim))


def _stages(
    device: ComputationalStorage,
    engine: AttentionEngine,
    layout: KvLayout,
    work: AttentionWork,
    counts: PageCounts,
) -> StageTimes:
    sparse = work.choice is not None
    pages = counts.pages * work.items
    # Whole groups are read stripe by stripe; chosen ones are wherever they are.
    order: Order = "random" if sparse else "sequential"
    chunk = layout.page_bytes if sparse else layout.page_bytes * 64
    in_flight = PAGES_IN_FLIGHT if sparse else PAGES_IN_FLIGHT // 64
    reads = _inside(device, "read", order, chunk, in_flight)
    # The array delivers, and firmware sends a command for each page: the slower of both sets the pace.
    load = pages * max(layout.page_bytes / reads, engine.page_time)
    channels = device.store.geometry.channels if device.store.geometry is not None else 1
    filtering = 0.0
    if sparse and engine.filter_bandwidth is not None:
        filtering = (
            counts.filtered_pages * work.items * layout.page_bytes / (channels * engine.filter_bandwidth)
        )
    writes = _inside(device, "write", "sequential", layout.page_bytes * 64, 64)
    programmed = work.items * work.new_tokens * layout.pages_per_token(sparse=sparse) * layout.page_bytes
    group = work.heads / work.kv_heads
    busy = min(engine.engines, work.items)
    product = _product_operations(work) * work.items * group / (busy * engine.product_rate)
    scores = work.context * (work.choice.tokens if work.choice is not None else 1.0)
    if work.choice is not None:
        scores += work.context
    softmax = (
        SOFTMAX_OPERATIONS * scores * work.new_tokens * work.items * group / (busy * engine.softmax_rate)
    )
    return StageTimes(load, filtering, product, softmax, programmed / writes)


def _inside(
    device: ComputationalStorage, operation: Operation, order: Order, chunk: int, in_flight: int
) -> float:
    """Bytes per second of a pattern inside the drive, by its engine, which runs once per drive and pattern."""
    # The attention engine does not change what the flash gives, nor should it make the same run twice.
    drive = device.model_copy(update={"engine": None})
    pattern = DrivePattern(operation, order, chunk, in_flight, "internal")
    return drive_rate(drive, pattern, fidelity="event").bandwidth_bytes_per_s


def _product_operations(work: AttentionWork) -> float:
    """Operations of the products of one query head: scores and weighted sum; approximate scores if sparse."""
    dense = 4.0 * work.context * work.head_dim * work.new_tokens
    if work.choice is None:
        return dense
    return dense * (work.choice.channels / 2 + work.choice.tokens)


def _together(engine: AttentionEngine, stages: StageTimes, items: int) -> tuple[float, str]:
    """Seconds of all items through the stages, and the stage that takes longest."""
    # Programs take the dies from the reads; everything else has units of its own.
    lanes = {
        "flash": stages.load_s + stages.program_s,
        "filter": stages.filter_s,
        "softmax": stages.softmax_s,
        "products": stages.product_s,
    }
    # An engine does a head's products and its softmax one after the other.
    lanes["engines"] = stages.compute_s
    bound_by = max(("flash", "filter", "engines"), key=lambda name: lanes[name])
    if bound_by == "engines":
        bound_by = "softmax" if stages.softmax_s > stages.product_s else "products"
    # Filters look at pages as the channels deliver them, so that of the two only the slower counts.
    serial = sum(getattr(stages, field.name) for field in fields(stages)) - min(
        stages.load_s, stages.filter_s
    )
    if not engine.overlap:
        return serial, bound_by
    slowest = max(lanes["flash"], lanes["filter"], lanes["engines"])
    waves = max(1, -(-items // engine.engines))
    # The first wave of heads passes the other stages before the slowest one is fed without a break.
    return slowest + (serial - slowest) / waves, bound_by
