"""Streams of memory requests: read from trace files, or made by rule."""

from workloads.memory_trace.generators import PATTERNS, Geometry, generate
from workloads.memory_trace.readers import FORMATS, open_trace
from workloads.memory_trace.trace import ArrayTrace, MemoryTrace, Period, Requests

__all__ = [
    "FORMATS",
    "PATTERNS",
    "ArrayTrace",
    "Geometry",
    "MemoryTrace",
    "Period",
    "Requests",
    "generate",
    "open_trace",
]
