"""Caches, prefetchers and translation buffers of CPUs, access by access."""
