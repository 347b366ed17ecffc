"""The attention engine of a computational storage drive: units with stated rates, and how it lays out KV.

A drive has several equal engines. Each multiplies a query with the keys of a head, takes the softmax and
weights the values, from pages that the flash channels deliver. A filter at every channel passes the entries of
a page that sparse attention chose and drops the rest.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hw_configs.config import Bandwidth, Config, Count, Latency, OperationRate

__all__ = ["AttentionEngine"]


class AttentionEngine(Config):
    """Rates of one engine, and how many there are."""

    engines: Count
    """Engines that work side by side, each on a head of its own."""
    product_rate: OperationRate
    """Matrix-vector products of one engine, a multiply-add being two operations."""
    softmax_rate: OperationRate
    """Softmax of one engine, five operations per score."""
    filter_bandwidth: Bandwidth | None = None
    """Page bytes that the filter of one channel looks at; without filters, sparse attention takes whole pages."""
    key_channels_per_page: Annotated[int, Field(ge=1, le=64)] = 4
    """Channels (elements of the head dimension) whose keys share a page of the channel-indexed copy."""
    overlap: bool = True
    """Pages of the next heads are loaded while the engines compute; off: load, then compute."""
    page_time: Latency = 0.0
    """Firmware of the drive per page that is read for attention, one page after another."""
