"""Deals the requests of a trace to the channels of a memory, and counts what never reaches one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.dram.address import address_map, decode
from simulator.dram.channel_run import Memory, RunOptions
from simulator.dram.state import Chunk
from workloads.memory_trace.trace import Requests

__all__ = ["Dealer", "Tally"]


class Dealer:
    """Decodes requests and deals them to channels; counts addresses that wrapped."""

    def __init__(self, memory: Memory, options: RunOptions, name: str) -> None:
        self.memory = memory
        self.options = options
        self.map = address_map(memory.channel, memory.channels)
        self.decoder = self.map.decoder()
        self.name = name
        self.wrapped = 0

    def outside(self, requests: Requests) -> int:
        """Requests of a chunk beyond the capacity."""
        if requests.address.size == 0 or int(requests.address.max()) < self.capacity:
            return 0
        return int(np.count_nonzero(requests.address >= self.capacity))

    @property
    def capacity(self) -> int:
        """Bytes of the device."""
        return self.map.transactions * self.memory.channel.transaction_bytes

    def deal(self, requests: Requests) -> list[Chunk]:
        """The chunk of every channel; addresses beyond the capacity wrap around."""
        address, count = requests.address, requests.address.size
        if count and int(address.max()) >= self.capacity:
            address = address % self.capacity
        transaction = np.empty(count, np.int64)
        unit, bank, row = np.empty(count, np.int32), np.empty(count, np.int32), np.empty(count, np.int32)
        shift = self.memory.channel.transaction_bytes.bit_length() - 1
        decode(address, shift, self.decoder, transaction, unit, bank, row)
        arrival = requests.arrival if self.options.use_arrivals else requests.arrival[:0]
        if self.memory.channels == 1:
            return [Chunk(transaction, bank, row, requests.write, arrival)]
        # A stable sort of 16-bit numbers takes linear time, whatever the number of channels.
        order = np.argsort(unit.astype(np.uint16), kind="stable")
        ends = np.cumsum(np.bincount(unit, minlength=self.memory.channels))
        chunks = []
        for mine in np.split(order, ends[:-1]):
            when = arrival[mine] if arrival.size else arrival
            chunks.append(Chunk(transaction[mine], bank[mine], row[mine], requests.write[mine], when))
        return chunks


@dataclass
class Tally:
    """What is counted before requests reach a channel."""

    requests: int = 0
    writes: int = 0
    outside: int = 0
    largest: int = 0
    interrupted: bool = False
    leapt: int = 0
