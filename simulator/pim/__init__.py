"""PIM memories: programs of lock-step commands, an engine that runs them clock by clock, and its checker."""
