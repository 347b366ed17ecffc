"""Runs the rows of reference data folders against Offchip's engines."""
