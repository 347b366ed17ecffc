"""Decoder-only language models: config files of every family, and graphs of every phase."""

from workloads.transformer.config import known_families, read_decoder
from workloads.transformer.phases import count_parameters, decoder_workload

__all__ = ["count_parameters", "decoder_workload", "known_families", "read_decoder"]
