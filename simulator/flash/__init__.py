"""Flash drives: an event-driven engine, a fast mode, closed forms, and rates by access pattern."""
