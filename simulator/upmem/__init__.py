"""Cores beside DRAM banks that run programs of tasklets (UPMEM), instruction by instruction."""
