"""Rows of a feature table on their way to a GPU: over PCIe, from host memory, from a drive, batch by batch."""
