"""From the steps of a layout to the program that a PIM memory runs: products, new keys and values, plain reads.

A program covers one channel. Channels work side by side on programs of their own, so a product takes as long
as its longest program. Each program ends with all rows closed, so that programs may follow one another in any
order. Nothing clears the sums: reading them does (assumption; the GDDR6-AiM set could load a bias instead).

Where several banks share a unit, they appear as one bank of as many times the rows; neighbouring rows lie in
different banks, so that one can open while the other is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from hw_configs.device import Pim
from hw_configs.problems import bad_input
from simulator.pim.matrix_layout import Geometry, Step, Write
from simulator.pim.program import Instruction, Program

__all__ = ["ONE_CHANNEL", "Lowering"]

ONE_CHANNEL: Final = 1
"""The mask of the channel that a program is written for."""


class Lowering:
    """Writes programs for one PIM device; ``geometry`` is what layouts need of it.

    ``multiply``, ``vector`` and ``result`` are the device's instructions for what a layout's steps ask.

    Raises ``InputError`` for a device whose units cannot sum over the elements of a column access, or that
    has no way to load a vector or read the sums.
    """

    def __init__(self, device: Pim) -> None:
        if not device.units.adder_tree:
            raise bad_input(
                f"the units of {device.name!r} keep a sum per lane; layouts here need one sum per unit",
                path="units.adder_tree",
            )
        self.device = device
        lanes = device.elements_per_column
        buffer = device.global_buffer_bytes // device.element_bytes // lanes * lanes
        if not buffer:
            raise bad_input(f"{device.name!r} has no buffer for a vector", path="buffers.global_buffer")
        self._shared = device.units.banks_per_unit
        self.geometry = Geometry(
            device.channels,
            device.units_per_channel,
            device.row_bytes // device.element_bytes,
            lanes,
            buffer,
            device.rows * self._shared,
            self._shared,
        )
        self.multiply = device.commands.lockstep
        self.vector = self._carrying("vector")
        self.result = self._carrying("result")

    def _carrying(self, what: str) -> str:
        """The instruction whose command carries something over the pins."""
        commands = self.device.commands
        for name, instruction in commands.instructions.items():
            if commands.all_commands[instruction.command].pins == what:
                return name
        raise bad_input(f"{self.device.name!r} has no instruction for a {what}", path="command_set")

    def product(self, steps: Iterable[Step], name: str = "product") -> Program:
        """The program of a channel's steps."""
        return Program((*self._product(steps), _one("PRE_ALL")), name)

    def _product(self, steps: Iterable[Step]) -> Iterator[Instruction]:
        lanes, shared = self.geometry.lanes, self._shared
        for step in steps:
            if step.kind == "mac":
                row, bank = divmod(step.row, shared)
                yield _one(self.multiply, step.length, row, step.at, bank)
            elif step.kind == "vector":
                yield _one(self.vector, -(-step.length // lanes))
            elif step.kind == "read":
                yield _one(self.result)

    def write(self, writes: Iterable[Write], name: str = "write") -> Program:
        """The program of the host's writes to one channel, bank after bank."""
        body = []
        for write in writes:
            row, inside = divmod(write.row, self._shared)
            for unit in range(write.bank, write.bank + write.banks):
                bank = unit * self._shared + inside
                body.append(_one("WR_SBK", write.length, row, write.at, bank))
        return Program((*body, _one("PRE_ALL")), name)

    def read(self, accesses: int, name: str = "read") -> Program:
        """The program that reads so many bursts in a row from one channel, a row of a bank at a time."""
        g, body = self.geometry, []
        for index, start in enumerate(range(0, accesses, g.accesses)):
            row, bank = divmod(index, self.device.banks)
            body.append(_one("RD_SBK", min(g.accesses, accesses - start), row, 0, bank))
        return Program((*body, _one("PRE_ALL")), name)


def _one(op: str, n: int = 1, row: int = 0, col: int = 0, bank: int = 0) -> Instruction:
    return Instruction(op, n, row, col, bank, ONE_CHANNEL)
