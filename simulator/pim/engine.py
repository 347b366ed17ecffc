"""Runs PIM programs on a device, cycle by cycle, under the published rules of its family or the honest ones.

Channels that are given the same stream do the same at the same time, so one of each kind is run and its counts
are multiplied. A run starts with an idle memory (rows closed, timers over) at ``start_cycle`` of an absolute
refresh grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hw_configs.pim import Activation, PimDetail, PimRuleChoice, RefreshPolicy
from hw_configs.problems import NoAnswerError, bad_input
from simulator.pim import kernel
from simulator.pim import state as at
from simulator.pim.energy import dynamic_energy, standby_energy, units_of
from simulator.pim.machine import Machine, Tables, build_machine
from simulator.pim.program import CODE, FlatProgram, Program, flatten
from simulator.pim.result import ChannelGroup, Phase, PimResult
from simulator.pim.state import Log, State

__all__ = ["PimCommands", "PimEngine", "rule_choice"]

BUDGET: Final = 20_000_000
"""Commands between two looks at progress."""
MAX_LOGGED: Final = 20_000_000
MAX_START: Final = 1 << 50
FIRST_LOG: Final = 1 << 14
_PIN_KINDS: Final = ("vector", "bias", "result", "read", "write")

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PimCommands:
    """Every command of a run, of one channel of each group, in order of issue within the group."""

    machine: Machine
    groups: tuple[int, ...]
    log: Log

    def lines(self) -> list[str]:
        """One line per command: ``tick,COMMAND,channel:group:bank:row:column``, -1 for all or none."""
        names, targets = self.machine.names, self.machine.targets
        channel = [(mask & -mask).bit_length() - 1 for mask in self.groups]
        parts = (
            self.log.tick,
            self.log.group,
            self.log.command,
            self.log.target,
            self.log.row,
            self.log.column,
        )
        return [
            f"{tick},{names[c]},{channel[g]}:{targets[t].group}:{targets[t].bank}:{row}:{col}"
            for tick, g, c, t, row, col in zip(*(part.tolist() for part in parts), strict=True)
        ]


def rule_choice(
    device: PimDetail,
    honest: bool = False,
    refresh: RefreshPolicy | None = None,
    activation: Activation | None = None,
    register_io: str | None = None,
) -> PimRuleChoice:
    """The rules of a run: the device's published or honest ones, with single rules chosen otherwise.

    ``register_io``: ``published`` or ``honest``, whose timings of registers and pins count. Raises
    ``InputError`` for a choice that is none.
    """
    base = device.rules.honest if honest else device.rules.published
    for name, value, valid in (
        ("refresh", refresh, ("off", "immediate", "row-boundary")),
        ("activation", activation, ("waived", "honest")),
        ("register_io", register_io, ("published", "honest")),
    ):
        if value is not None and value not in valid:
            raise bad_input(f"found {value!r}; known: {', '.join(valid)}", path=f"--{name.replace('_', '-')}")
    timing = base.timing
    if register_io is not None:
        timing = (device.rules.honest if register_io == "honest" else device.rules.published).timing
    return PimRuleChoice(
        activation=activation or base.activation, refresh=refresh or base.refresh, timing=timing
    )


class PimEngine:
    """A device under a choice of rules; build it once and run any number of programs."""

    def __init__(
        self,
        device: PimDetail,
        honest: bool = False,
        refresh: RefreshPolicy | None = None,
        activation: Activation | None = None,
        register_io: str | None = None,
    ) -> None:
        self.device = device
        self.choice = rule_choice(device, honest, refresh, activation, register_io)
        self.machine = build_machine(device, self.choice)
        self.rules = _name_of(device, self.choice)

    def run(
        self,
        program: Program,
        *,
        start_cycle: int = 0,
        leap: bool = True,
        settle: bool = False,
        commands: Callable[[PimCommands], None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> PimResult:
        """Run a program to its end.

        ``start_cycle``: tick of the absolute refresh grid at which it starts. ``leap``: skip what repeats; the
        result is the same. ``settle``: go on until rows are closed and every timer is over, so that the cycles
        of programs run one after the other add up. ``commands`` is given every command once the run has ended
        (the run then takes no leaps). Raises ``InputError`` for a program the device cannot run. Ctrl-C returns
        what was done so far, marked ``interrupted``.
        """
        if not 0 <= start_cycle <= MAX_START:
            raise bad_input(f"found {start_cycle}; expected 0 to {MAX_START}", path="start_cycle")
        machine = self.machine
        flat = flatten(program, self.device, machine.codes, machine.kinds)
        tables = machine.tables(frozenset(int(code) for code in np.unique(flat.table[:, CODE]) if code >= 0))
        room = FIRST_LOG if commands is not None else 0
        while True:
            state = at.new_state(tables, len(flat.groups), len(flat.labels), start_cycle)
            log = _log(room)
            interrupted = self._go(tables, flat, state, leap, log, progress)
            end = int(kernel.settle(tables, state, settle and not interrupted, log))
            used = int(state.scalar[at.LOGGED])
            if commands is None or used <= room:
                break
            if used > MAX_LOGGED:
                raise NoAnswerError(
                    f"{used} commands are more than the {MAX_LOGGED} that can be written down"
                )
            room = used
        if commands is not None:
            commands(PimCommands(machine, flat.groups, _shortened(log, used)))
        result = self._collect(program, flat, state, end - start_cycle, interrupted)
        result.check()
        return result

    def _go(
        self,
        tables: Tables,
        flat: FlatProgram,
        state: State,
        leap: bool,
        log: Log,
        progress: Callable[[int], None] | None,
    ) -> bool:
        try:
            status = at.PAUSED
            while status == at.PAUSED:
                status = kernel.run_program(tables, flat.table, flat.steps, state, leap, BUDGET, log)
                if progress is not None:
                    progress(int(state.scalar[at.ISSUED]))
        except KeyboardInterrupt:
            return True
        return False

    def _collect(
        self, program: Program, flat: FlatProgram, state: State, cycles: int, interrupted: bool
    ) -> PimResult:
        machine, device = self.machine, self.device
        groups, labels, kinds = len(flat.groups), len(flat.labels), len(machine.names)
        booked = labels * groups * kinds
        counts = state.total[:booked].reshape(labels, groups, kinds)
        ticks = state.total[booked : booked + labels]
        extra = state.total[booked + labels :].reshape(groups, at.TOTALS)
        channels = np.array([mask.bit_count() for mask in flat.groups])
        found = tuple(
            ChannelGroup(mask, self._named(counts[:, g].sum(0)), *(int(extra[g, place]) for place in (
                at.COLUMNS, at.MISSES, at.OPEN_TICKS)))
            for g, mask in enumerate(flat.groups)
        )  # fmt: skip
        by_phase = (counts * channels[None, :, None]).sum(1)
        commands = self._named(by_phase.sum(0))
        phases = {
            label: Phase(int(ticks[i]), int(ticks[i]) * machine.tick_s, named, dynamic_energy(machine, named))
            for i, label in enumerate(flat.labels)
            if (named := self._named(by_phase[i])) or ticks[i]
        }
        open_s = float((extra[:, at.OPEN_TICKS] * channels).sum()) * machine.tick_s
        standby = standby_energy(machine, open_s, cycles * machine.tick_s * device.channels)
        return PimResult(
            device=getattr(device, "name", ""),
            program=program.name,
            rules=self.rules,
            cycles=cycles,
            tick_s=machine.tick_s,
            channels=device.channels,
            instructions=flat.instructions,
            groups=found,
            commands=commands,
            activations=self._sum(
                commands, lambda c: machine.covered[c] * (machine.commands[c].effect == "open")
            ),
            refreshes=self._sum(commands, lambda c: int(machine.commands[c].effect == "refresh")),
            macs=self._sum(
                commands,
                lambda c: units_of(machine, c) * device.elements_per_column * machine.commands[c].multiplies,
            ),
            bytes_in_banks=self._sum(commands, self._bank_bytes),
            bytes_over_pins={kind: self._over_pins(commands, kind) for kind in _PIN_KINDS},
            energy=dynamic_energy(machine, commands).plus(standby),
            phases=phases,
            leapt_commands=int(state.scalar[at.LEAPT]),
            peak_macs_per_s=device.operations_per_s / 2,
            peak_bytes_per_s=device.dram.bandwidth_bytes_per_s,
            interrupted=interrupted,
        )

    def _over_pins(self, commands: dict[str, int], kind: str) -> int:
        burst = self.device.column_bytes
        return self._sum(commands, lambda code: burst * (self.machine.commands[code].pins == kind))

    def _bank_bytes(self, code: int) -> int:
        one = self.machine.commands[code]
        if one.multiplies:
            return units_of(self.machine, code) * self.device.column_bytes
        return self.machine.covered[code] * self.device.column_bytes if one.bank_access else 0

    def _named(self, counts: Ints) -> dict[str, int]:
        return {name: int(n) for name, n in zip(self.machine.names, counts, strict=True) if n}

    def _sum(self, commands: dict[str, int], weight: Callable[[int], int]) -> int:
        return sum(count * weight(self.machine.names.index(name)) for name, count in commands.items())


def _name_of(device: PimDetail, choice: PimRuleChoice) -> str:
    for name, known in (("published", device.rules.published), ("honest", device.rules.honest)):
        if choice == known:
            return name
    io = "honest" if choice.timing == device.rules.honest.timing and choice.timing else "published"
    return f"activation {choice.activation}, refresh {choice.refresh}, register timings {io}"


def _log(room: int) -> Log:
    return Log(
        np.zeros(room, np.int64), np.zeros(room, np.int32), np.zeros(room, np.int16), np.zeros(room, np.int32),
        np.zeros(room, np.int32), np.zeros(room, np.int32),
    )  # fmt: skip


def _shortened(log: Log, used: int) -> Log:
    return Log(
        log.tick[:used],
        log.group[:used],
        log.command[:used],
        log.target[:used],
        log.row[:used],
        log.column[:used],
    )
