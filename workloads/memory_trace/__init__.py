"""Streams of memory requests: read from trace files, or made by rule."""

from workloads.memory_trace.formats import FORMATS
from workloads.memory_trace.generators import PATTERNS, Geometry, generate
from workloads.memory_trace.readers import open_trace
from workloads.memory_trace.split import SplitTrace
from workloads.memory_trace.trace import ArrayTrace, MemoryTrace, Period, Requests

__all__ = [
    "FORMATS",
    "PATTERNS",
    "ArrayTrace",
    "Geometry",
    "MemoryTrace",
    "Period",
    "Requests",
    "SplitTrace",
    "generate",
    "open_trace",
]
