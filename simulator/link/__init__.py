"""Wires with shared bandwidth."""
