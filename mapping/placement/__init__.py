"""Which device runs a graph."""
