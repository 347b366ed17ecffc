"""A picture of a stretch of time: banks down, cycles across, one mark per command, open rows as bars."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hw_configs.output_file import replacing
from hw_configs.problems import bad_input
from simulator.dram.channel_run import Commands
from simulator.dram.machine import Channel

__all__ = ["Timeline", "check_picture", "draw_timeline"]

MAX_COMMANDS: Final = 20_000
MAX_INCHES: Final = 40.0
MAX_NAMES: Final = 128
_LEVELS: Final = {
    "Channel": "channel", "PseudoChannel": "pseudo-channel", "Rank": "rank", "Sid": "stack",
    "BankGroup": "bank group", "Bank": "bank",
}  # fmt: skip
_COLOURS: Final = {
    "ACT": "#2a78b5", "ACT1": "#2a78b5", "ACT2": "#7fb3d8", "RD": "#3f8f4f", "RDA": "#3f8f4f", "WR":
    "#c8553d", "WRA": "#c8553d", "PREpb": "#777777", "PREab": "#777777", "PREsb": "#777777", "REFab":
    "#8a5fb0", "REFpb": "#8a5fb0", "REFsb": "#8a5fb0", "CAS_RD": "#b6a13c", "CAS_WR": "#b6a13c",
}  # fmt: skip


@dataclass
class Timeline:
    """Commands between two ticks (both included), kept as (channel, bank, tick, name, row)."""

    first: int
    last: int
    marks: list[tuple[int, int, int, str, int]] = field(default_factory=list)

    def add(self, batch: Commands) -> None:
        """Keep those commands of a batch that open or close rows before the window's end, or lie in it."""
        for index in ((batch.tick >= 0) & (batch.tick <= self.last)).nonzero()[0]:
            name = batch.names[batch.code[index]]
            tick = int(batch.tick[index])
            if tick < self.first and name[:2] in ("RD", "WR", "CA") and not name.endswith("A"):
                continue
            for bank in batch.targets[batch.target[index]].banks:
                self.marks.append((batch.channel, bank, tick, name, int(batch.row[index])))


def check_picture(path: Path) -> None:
    """Raise ``InputError`` for a file name that is no picture's."""
    if path.suffix not in (".png", ".svg"):
        raise bad_input(f"found {path.suffix or 'no ending'!r}; expected .png or .svg", path="--timeline")


def draw_timeline(timeline: Timeline, channel: Channel, path: Path) -> None:
    """Draw to a .png or .svg file; needs matplotlib. The same commands give the same picture."""
    check_picture(path)
    try:
        import matplotlib
    except ImportError:
        raise bad_input(
            "a timeline needs matplotlib (pip install 'offchip[plots]')", path="--timeline"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = [mark for mark in timeline.marks if mark[2] >= timeline.first]
    if len(shown) > MAX_COMMANDS:
        raise bad_input(
            f"{len(shown)} commands lie in the window; draw a shorter one (at most {MAX_COMMANDS})"
        )
    channels = max((mark[0] for mark in timeline.marks), default=0) + 1
    lines = channels * channel.banks
    with plt.rc_context({"svg.hashsalt": "offchip", "font.size": 8}):
        height = min(max(2.2, 0.22 * lines + 1.1), MAX_INCHES)
        figure, axes = plt.subplots(figsize=(11, height), layout="constrained")
        for line, start, end in _open_rows(timeline, channel):
            axes.barh(line, end - start, left=start, height=0.72, color="#dbe7f2", linewidth=0, zorder=1)
        for name in sorted({mark[3] for mark in shown}):
            at = [(m[2], m[0] * channel.banks + m[1]) for m in shown if m[3] == name]
            axes.scatter(
                [x for x, _ in at], [y for _, y in at], s=26, marker="|", linewidths=1.6, label=name,
                color=_COLOURS.get(name, "black"), zorder=2,
            )  # fmt: skip
        axes.set_xlim(timeline.first, timeline.last)
        axes.set_ylim(lines - 0.5, -0.5)
        axes.set_xlabel(f"cycle ({channel.tick_s * 1e9:.4g} ns)")
        spots, names = _bank_names(channel, channels)
        axes.set_yticks(spots, names, fontsize=min(8.0, 72 * height / len(spots) * 0.7))
        axes.set_ylabel(" : ".join(_shown_levels(channel, channels)))
        axes.spines[["top", "right"]].set_visible(False)
        if shown:
            figure.legend(loc="outside upper center", ncols=9, frameon=False, handlelength=0.8)
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        with replacing(path) as part:
            figure.savefig(part, format=path.suffix[1:], dpi=150, metadata=metadata)
        plt.close(figure)


def _shown_levels(channel: Channel, channels: int) -> list[str]:
    """The levels that tell banks apart: those with more than one node."""
    sizes = [("Channel", channels), *channel.levels[1:]]
    return [_LEVELS.get(name, name) for name, size in sizes if size > 1] or ["bank"]


def _bank_names(channel: Channel, channels: int) -> tuple[list[int], list[str]]:
    """Where to name banks, and their addresses; every bank is named while there is room."""
    sizes = [channels, *(size for _, size in channel.levels[1:])]
    lines = channels * channel.banks
    step = max(1, lines // MAX_NAMES)
    names = []
    for line in range(0, lines, step):
        rest, parts = line, []
        for size in reversed(sizes):
            rest, index = divmod(rest, size)
            if size > 1:
                parts.append(str(index))
        names.append(":".join(reversed(parts)) or "0")
    return list(range(0, lines, step)), names


def _open_rows(timeline: Timeline, channel: Channel) -> list[tuple[int, int, int]]:
    """(line, start, end) of every stretch in which a bank held a row."""
    since: dict[int, int] = {}
    bars = []
    for number, bank, tick, name, _ in timeline.marks:
        line = number * channel.banks + bank
        if name in ("ACT", "ACT2"):
            since[line] = tick
        elif name in ("PREpb", "PREab", "PREsb", "RDA", "WRA") and line in since:
            bars.append((line, max(since.pop(line), timeline.first), tick))
    bars += [(line, max(start, timeline.first), timeline.last) for line, start in since.items()]
    return [bar for bar in bars if bar[2] >= timeline.first]
