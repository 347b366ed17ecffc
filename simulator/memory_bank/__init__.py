"""Memories beside a model in time: which blocks a cache holds, and what the others take to come."""
