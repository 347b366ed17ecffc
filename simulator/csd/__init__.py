"""Computational storage: attention inside a drive, its KV layout on flash pages, and wear."""
