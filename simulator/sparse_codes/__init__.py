"""Memories of sparse distributed codes, access by access, beside a memory that stands apart."""
