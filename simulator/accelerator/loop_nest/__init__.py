"""Loop nests on spatial accelerators: what a mapping moves, how long it takes and what energy it costs."""
