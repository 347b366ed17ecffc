"""The system level: a graph runs under a plan on the nodes, memories and wires of a system."""
