"""Design-space exploration: a space of points, run by anything, kept in a store that survives anything."""
