"""Streams of requests to a cache: objects with sizes, read from trace files, made by rule, or from arrays."""

from workloads.cache_trace.trace import ArrayCacheTrace, CacheRequests, CacheTrace

__all__ = ["ArrayCacheTrace", "CacheRequests", "CacheTrace"]
