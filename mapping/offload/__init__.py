"""Inference beyond a device's memory: weights, KV cache and blocks of batches outside it, and when they move."""
