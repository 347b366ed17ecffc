"""Serving: requests on an engine, step by step."""
