"""What of a model stays in DRAM while the rest lies in flash, and how it is read and kept."""
