"""Pixel pipelines of FPGA designs: products, a line buffer, windows that may be deformed."""
