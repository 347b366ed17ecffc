"""The best pipeline schedule for given stage times and memory: heuristics with a bound, a MIP, an exact search."""
