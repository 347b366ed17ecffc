"""Recorded traces: what every rank of a job really ran, replayed on a machine."""
