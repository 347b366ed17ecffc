"""Streams of requests to a cache: objects with sizes, read from trace files, made by rule, or from arrays."""

from workloads.cache_trace.patterns import is_pattern, open_pattern
from workloads.cache_trace.readers import FORMATS, open_cache_trace
from workloads.cache_trace.trace import ArrayCacheTrace, CacheRequests, CacheTrace

__all__ = [
    "FORMATS", "ArrayCacheTrace", "CacheRequests", "CacheTrace", "is_pattern", "open_cache_trace", "open_pattern",
]  # fmt: skip
