"""The scratchpad machine: systolic arrays, a vector unit and a banked scratchpad that a plan fills."""
