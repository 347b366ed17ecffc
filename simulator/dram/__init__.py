"""Cycle-accurate DRAM: controllers and devices of DDR3 to HBM3, one kernel, rules as data."""
