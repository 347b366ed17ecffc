"""The best loop nest for a layer on a spatial accelerator: tile sizes, loop orders and what runs side by side."""
