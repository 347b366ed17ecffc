"""Streams of storage requests: read from trace files, made by rule, or from arrays."""

from workloads.block_trace.readers import FORMATS, open_block_trace
from workloads.block_trace.synthetic import BlockWorkload, load_workload, synthetic_blocks
from workloads.block_trace.trace import READ, TRIM, WRITE, ArrayBlocks, BlockRequests, BlockTrace

__all__ = [
    "FORMATS",
    "READ",
    "TRIM",
    "WRITE",
    "ArrayBlocks",
    "BlockRequests",
    "BlockTrace",
    "BlockWorkload",
    "load_workload",
    "open_block_trace",
    "synthetic_blocks",
]
