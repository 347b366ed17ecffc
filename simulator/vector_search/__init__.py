"""Search in vector indexes: what must be in memory, what a query reads, and when its rounds come back."""
