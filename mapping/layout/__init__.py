"""Where a matrix lies in a memory that computes: channels, banks, rows and tiles."""
