"""Scheduling policies of serving engines, one a file."""
