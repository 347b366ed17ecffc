"""Machines of many in-order threads with a scratchpad, and irregular work on them: products of sparse matrices."""
