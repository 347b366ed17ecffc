"""A standard's timing rules as the engine holds them: whole ticks from one command's start to the next one's."""

from __future__ import annotations

import math

from hw_configs.dram_standard import DramStandard, evaluate
from simulator.dram.machine import Constraint

__all__ = ["rules_of"]


def rules_of(standard: DramStandard, ticks: dict[str, int]) -> tuple[Constraint, ...]:
    """The standard's rules in ticks, between the first ticks of commands.

    A standard counts from the end of a command to the end of the next one; the engine counts from start to
    start. So a rule grows by the length of the command before and shrinks by that of the command after, each
    less one tick. A command longer than a tick also keeps its bus for that long.
    """
    length = {name: round(standard.clocks(name) * standard.ticks_per_clock) for name in standard.commands}
    rules: list[Constraint] = []
    for bus in standard.buses or (tuple(standard.commands),):
        for taken in sorted({length[name] for name in bus} - {1}):
            long = tuple(name for name in bus if length[name] == taken)
            rules.append(Constraint("Channel", long, tuple(bus), taken, name="command bus"))
    # Constants in formulas are clocks as well.
    scale = standard.ticks_per_clock
    clocks = {name: value / scale for name, value in ticks.items()}
    for rule in standard.constraints:
        nominal = math.ceil(evaluate(rule.wait, clocks) * scale - 1e-9)
        by_ticks: dict[tuple[int, str], list[str]] = {}
        for before in rule.after:
            for after in rule.before:
                wait = nominal + (length[before] - 1) - (length[after] - 1)
                by_ticks.setdefault((wait, before), []).append(after)
        for (wait, before), following in by_ticks.items():
            rules.append(
                Constraint(rule.at, (before,), tuple(following), wait, rule.window, rule.siblings, rule.rule)
            )
    return tuple(rules)
