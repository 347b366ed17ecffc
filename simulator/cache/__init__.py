"""Caches of objects: policies, hierarchies, reuse distances and miss-ratio curves."""
