"""From a device file to what the engine runs: formulas become ticks, names become levels."""

from __future__ import annotations

from dataclasses import replace

from hw_configs.dram import DramDevice, DramSupply
from hw_configs.dram_standard import dram_standard as find_standard
from hw_configs.dram_standard import evaluate
from simulator.dram.channel_run import Memory
from simulator.dram.energy import Currents
from simulator.dram.machine import Channel, Controller
from simulator.dram.rules import rules_of

__all__ = ["channel_of", "currents_of", "memory_of"]


def memory_of(device: DramDevice) -> Memory:
    """All channels of a device, ready to run."""
    return Memory(channel_of(device), device.channels, currents_of(device), device.name)


def channel_of(device: DramDevice) -> Channel:
    """One channel of a device, in ticks."""
    standard = find_standard(device.standard)
    per_clock = standard.ticks_per_clock
    ticks = {name: value * per_clock for name, value in device.clocks.items()}
    if device.controller.refresh == "paired-per-bank":
        # A pair is one bank of each pseudo-channel: two commands, sent together.
        ticks["nREFIpb"] *= device.organisation.pseudo_channels
    tick_s = device.clock_period / per_clock
    organisation = device.organisation
    chosen = device.controller
    controller = Controller(
        kind=standard.controller,
        read_queue=chosen.read_queue,
        write_queue=chosen.write_queue,
        low_watermark=chosen.low_watermark,
        high_watermark=chosen.high_watermark,
        scheduler=chosen.scheduler,
        row_policy=chosen.row_policy,
        cap=chosen.cap,
        timeout=max(round(chosen.timeout / tick_s), 1),
        refresh=chosen.refresh,
        clock_sync=not chosen.clock_always_on,
    )
    return Channel(
        standard=standard.standard,
        levels=tuple((level, organisation.level_size(level)) for level in standard.levels),
        rows=organisation.rows,
        columns=organisation.columns // standard.beats,
        transaction_bytes=device.transaction_bytes,
        tick_s=tick_s,
        read_latency=int(evaluate(standard.read_latency, ticks)),
        write_latency=int(evaluate(standard.write_latency, ticks)),
        burst=int(evaluate(standard.burst, ticks)),
        timing=ticks,
        constraints=rules_of(standard, ticks),
        refresh_level=standard.refresh_level,
        refresh_pairs=standard.refresh_pairs
        if organisation.level_size(standard.refresh_pairs or "Channel") > 1
        else "",
        mapping=device.mapping,
        controller=controller,
        command_ticks={name: round(standard.clocks(name) * per_clock) for name in standard.commands},
        ticks_per_clock=per_clock,
    )


def _pairs(device: DramDevice) -> str:
    """The level whose halves a per-bank refresh joins, if there are halves."""
    level = find_standard(device.standard).refresh_pairs
    return level if level and device.organisation.level_size(level) > 1 else ""


def currents_of(device: DramDevice) -> Currents | None:
    """What the energy model needs, in SI units; None when the file states no currents."""
    c = device.currents
    if c is None:
        return None
    by_name = {name: _of_supply(device, supply, device.rho) for name, supply in c.supplies.items()}
    core = by_name.pop("VDD")
    return replace(core, io_per_bit_j=c.io / 8, others=tuple(by_name.items()))


def _of_supply(device: DramDevice, c: DramSupply, rho: float) -> Currents:
    t, period, o = device.clocks, device.clock_period, device.organisation
    standard = find_standard(device.standard)
    together = {"same-bank": o.bank_groups}.get(device.controller.refresh, 2 if standard.refresh_pairs else 1)
    return Currents(
        voltage=c.voltage, idd0=c.idd0, idd2n=c.idd2n, idd3n=c.idd3n, idd4r=c.idd4r, idd4w=c.idd4w,
        idd5ab=c.idd5ab, idd2p=c.idd2p, idd3p=c.idd3p, idd6=c.idd6, dies=o.dies,
        row_active_s=t["nRAS"] * period, row_cycle_s=t["nRC"] * period, burst_s=evaluate(standard.burst, t) *
        period, refresh_s=t.get("nRFC", t.get("nRFCab", 0)) * period, idd5pb=c.idd5pb,
        refresh_bank_s=t.get("nRFCpb", t.get("nRFCsb", 0)) * period, rho=rho,
        banks=o.stacks * o.bank_groups * o.banks, refreshed_banks=together,
    )  # fmt: skip
