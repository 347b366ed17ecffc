"""Small PIM memories and random programs for tests."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

from hw_configs.device import Pim
from hw_configs.library import load_device
from simulator.pim.program import ALL, Instruction, Loop, Program

FAMILIES = ("gddr6-aim", "pim-gpt-gddr6", "hbm-pim", "attacc-hbm3")


@cache
def small(name: str, interval: int = 600, channels: int = 2, queue: int = 4) -> Pim:
    """A shipped device with few channels, short queues and frequent refresh."""
    data = load_device(name).model_dump(exclude_unset=True)
    dram = data["dram"]
    dram["channels"] = channels
    for key in ("tREFI", "nREFI", "tRFCab", "nRFCab", "tRFC", "nRFC", "nRFCpb"):
        dram["timing"].pop(key, None)
    dram["timing"] |= {"nREFI": interval, "nRFCab" if dram["standard"] == "GDDR6" else "nRFC": 60}
    data["queue"] = queue
    return Pim.model_validate(data)


def programs(device: Pim, loops: bool = True, most: int = 6):
    """Programs of a device's instructions: few rows, short runs, any mask, waits and loops."""
    names = sorted(device.commands.instructions)
    every = (1 << device.channels) - 1
    o = device.dram.organisation
    sizes = {(): device.banks, ("Bank",): o.bank_groups, ("BankGroup",): o.banks, ("BankGroup", "Bank"): 1}

    @st.composite
    def instruction(draw, depth):
        op = draw(
            st.sampled_from([*names, device.commands.lockstep, device.commands.lockstep, "WAIT", "SYNC"])
        )
        if op == "WAIT":
            return Instruction("WAIT", draw(st.integers(0, 900)))
        if op == "SYNC":
            return Instruction("SYNC")
        if op == "PHASE":
            return Instruction("PHASE", label=draw(st.sampled_from(["a", "b"])))
        one = device.commands.all_commands[device.commands.instructions[op].command]
        channels = draw(st.sampled_from([ALL, ALL, ALL, 1, every]))
        room = device.global_buffer_bytes // device.column_bytes if one.pins == "vector" else 9
        n = draw(st.integers(1, 1 if one.effect in ("open", "close") else min(9, room)))
        if one.effect in ("register", "close"):
            return Instruction(op, n, channels=channels)
        stride = (draw(st.sampled_from([0, 0, 1])),) * min(depth, 1)
        bank = draw(st.integers(0, sizes[one.covers] - 1))
        return Instruction(op, n, draw(st.integers(0, 2)), bank=bank, channels=channels, row_steps=stride)

    @st.composite
    def body(draw, depth):
        entries = []
        for _ in range(draw(st.integers(1, most))):
            if loops and depth < 2 and draw(st.integers(0, 3)) == 0:
                entries.append(Loop(draw(st.integers(1, 7 if depth else 12)), draw(body(depth + 1))))
            else:
                entries.append(draw(instruction(depth)))
        return tuple(entries)

    return st.builds(lambda entries, end: Program((*entries, *end)), body(0), st.sampled_from(
        [(), (Instruction("EOC"),)]))  # fmt: skip
