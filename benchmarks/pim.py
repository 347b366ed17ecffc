"""Seconds of the PIM engine: whole products beside the AiM simulator, and 1024 tokens of GPT-3 XL by its columns.

    python benchmarks/pim.py [--tokens N]

The first table runs the rows in ``tests/reference/pim`` plainly (``leap=False``) and with leaps; the baseline is
``host_cpu_s``, the CPU seconds the AiM simulator (compiled C++) took for the same run. The second runs the
matrix-vector products of a GPT-3 XL (24 layers, 2048 wide, 24 heads) for N tokens (default 1024) on
``pim-gpt-gddr6``, about 650 million column accesses a channel, as one program; the baseline is the engine
itself without leaps, on one token in 64. CPU seconds of one core, after compilation.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from pathlib import Path

from hw_configs.library import load_device
from hw_configs.pim import with_organisation
from simulator.pim.engine import PimEngine
from simulator.pim.gemv import gemv_program
from simulator.pim.program import Entry, Instruction, Loop, Program

LAYERS, WIDTH, HEADS = 24, 2048, 24
REPEATS = 5


def seconds(engine: PimEngine, program: Program, leap: bool, repeats: int = REPEATS) -> tuple[float, int]:
    """CPU seconds of the quickest run, and its commands in one channel."""
    best = math.inf
    for _ in range(repeats):
        started = time.process_time()
        result = engine.run(program, leap=leap)
        best = min(best, time.process_time() - started)
    return best, sum(result.groups[0].commands.values())


def products() -> None:
    """The reference's rows."""
    device = with_organisation(load_device("gddr6-aim"), channels=32)
    engine = PimEngine(device)
    folder = Path(__file__).parent.parent / "tests" / "reference" / "pim"
    with (folder / "aim_gemv.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    engine.run(gemv_program(device, 16, 16))
    print(f"{'row':28s} {'AiM ms':>8s} {'plain ms':>9s} {'leap ms':>8s} {'ratio plain':>12s} {'leap':>7s}")
    for row in rows:
        mask = (1 << int(row["channels"])) - 1
        program = gemv_program(device, int(row["m"]), int(row["k"]), mask, row["variant"])
        theirs = float(row["host_cpu_s"])
        plain, leap = (seconds(engine, program, choice)[0] for choice in (False, True))
        print(
            f"{row['id']:28s} {theirs * 1e3:8.0f} {plain * 1e3:9.2f} {leap * 1e3:8.2f} {theirs / plain:12.0f} "
            f"{theirs / leap:7.0f}"
        )


def product(rows: int, columns: int, row: int) -> list[Entry]:
    """A product over all 128 banks: tiles of 1024 columns, groups of 128 rows, a DRAM row each."""
    groups, tiles = math.ceil(rows / 128), columns // 1024
    mac = Instruction("MAC_ABK", 64, row=row, row_steps=(1, groups, 320))
    return [
        Loop(
            tiles,
            (Instruction("WR_GB", 64), Loop(groups, (Instruction("WR_BIAS"), mac, Instruction("RD_MAC")))),
        )
    ]


def layer(context: int) -> tuple[Entry, ...]:
    """One layer of one token: projections, attention over the context, feed-forward, K and V written."""
    groups, columns = math.ceil(context / 128), math.ceil(context / 16)
    per_head = math.ceil(WIDTH / HEADS / 16)
    scores = Instruction("MAC_ABK", per_head, row=8000, row_steps=(1, 8))
    values = Instruction("MAC_ABK", columns, row=8400, row_steps=(1,))
    read = Instruction("RD_MAC")
    attention = Loop(
        HEADS,
        (
            Instruction("WR_GB", per_head),
            Loop(groups, (scores, read)),
            Instruction("WR_GB", columns),
            values,
            read,
        ),
    )
    write = [
        Instruction("WR_SBK", 64, row=9000),
        Loop(16, (Instruction("WR_SBK", row=9100, bank_steps=(1,)),)),
    ]
    return (
        *product(3 * WIDTH, WIDTH, 0), attention, *product(WIDTH, WIDTH, 96), *product(4 * WIDTH, WIDTH, 128),
        *product(WIDTH, 4 * WIDTH, 256 - 64), *write,
    )  # fmt: skip


def generation(tokens: int) -> None:
    """All tokens at once, under both rules; a sample without leaps."""
    device = load_device("pim-gpt-gddr6")
    whole = Program(tuple(Loop(LAYERS, layer(t + 1)) for t in range(tokens)), "GPT-3 XL")
    sample = Program(tuple(Loop(LAYERS, layer(t + 1)) for t in range(0, tokens, 64)), "a token in 64")
    print(
        f"\n{'rules':10s} {'program':14s} {'CPU s':>7s} {'commands/channel':>17s} {'per s':>9s} {'ratio':>6s}"
    )
    for honest in (False, True):
        engine = PimEngine(device, honest)
        plain_s, stepped = seconds(engine, sample, False, 1)
        quick, plain = (engine.run(sample, leap=leap) for leap in (True, False))
        if quick.as_json() != plain.as_json():
            raise SystemExit("a leap changed the result")
        leap_s, commands = seconds(engine, whole, True, 1)
        ratio = (commands / leap_s) / (stepped / plain_s)
        for name, took, count, shown in (
            ("sample, plain", plain_s, stepped, 1.0), ("whole, leap", leap_s, commands, ratio)
        ):  # fmt: skip
            print(f"{engine.rules:10s} {name:14s} {took:7.2f} {count:17,} {count / took:9.3g} {shown:6.0f}")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1024)
    chosen = parser.parse_args()
    products()
    generation(chosen.tokens)


if __name__ == "__main__":
    main()
