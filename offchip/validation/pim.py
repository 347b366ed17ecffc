"""Validation kind ``pim``: cycles and command counts of matrix-vector products against the AiM simulator.

A folder holds ``aim_gemv.csv``, a product per row: its size, channels and variant, and what the AiM simulator
counted. The device is ``gddr6-aim`` under its published rules with as many channels as the row needs; the program
is built from the row's size alone and run by the engine with its leaps, and once more command by command.
"""

from __future__ import annotations

import csv
import fnmatch
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hw_configs.problems import OffchipError, PhysicsError, bad_input
from offchip.validation.registry import Options, RowResult, Verdict, find_file

if TYPE_CHECKING:
    from hw_configs.device import Pim

__all__ = ["run"]

DEVICE: Final = "gddr6-aim"
_INPUTS: Final = ("id", "m", "k", "channels", "variant")
_MEASURED: Final = ("host_cpu_s",)
_SPELLED: Final = {"PREA": "PREab", "PRE": "PREpb"}
"""Commands that the reference names otherwise."""
_LEAST_CHANNELS: Final = 32
_ROWS: Final = 1 << 24
"""The reference does not bound its rows; nor does this device, so that any size of the table runs."""


def run(folder: Path, rows: str, options: Options) -> Iterator[RowResult]:  # noqa: ARG001
    """Every row whose id matches the glob, in file order."""
    table = find_file(folder, "aim_gemv.csv")
    with table.open(encoding="utf-8", newline="") as stream:
        records = list(csv.DictReader(stream))
    lost = [name for name in (*_INPUTS[1:], "cycles") if records and name not in records[0]]
    if lost:
        raise bad_input(f"has no column {', '.join(lost)}", file=str(table))
    devices: dict[int, Pim] = {}
    for record in records:
        name = record.get("id") or "-".join(record[key] for key in _INPUTS[1:])
        if fnmatch.fnmatchcase(name, rows or "*"):
            yield _row(name, record, devices)


def _row(name: str, record: Mapping[str, str], devices: dict[int, Pim]) -> RowResult:
    expected = {key: text for key, text in record.items() if key not in (*_INPUTS, *_MEASURED)}
    try:
        ours, seconds = _one(record, list(expected), devices)
    except OffchipError as error:
        return RowResult(name, expected, {}, 0.0, "failed", None, str(error))
    except ValueError as error:
        return RowResult(name, expected, {}, 0.0, "unsupported", None, f"a size is no number: {error}")
    wrong = [key for key, text in expected.items() if key in ours and str(ours[key]) != text.strip()]
    unknown = [key for key in expected if key not in ours]
    error_of = abs(float(ours["cycles"]) / float(record["cycles"]) - 1)
    verdict: Verdict = "off" if wrong else "ok"
    notes = [f"differs: {', '.join(wrong)}"] if wrong else []
    notes += [f"not compared: {', '.join(unknown)}"] if unknown else []
    groups = {"variant": record["variant"], "channels": f"{record['channels']} channels"}
    return RowResult(name, expected, ours, seconds, verdict, error_of, "; ".join(notes), groups)


def _one(
    record: Mapping[str, str], columns: list[str], devices: dict[int, Pim]
) -> tuple[dict[str, Any], float]:
    from simulator.pim.engine import PimEngine
    from simulator.pim.gemv import gemv_program

    channels = int(record["channels"])
    wanted = max(channels, _LEAST_CHANNELS)
    if wanted not in devices:
        devices[wanted] = _device(wanted)
    engine = PimEngine(devices[wanted])
    program = gemv_program(
        devices[wanted], int(record["m"]), int(record["k"]), (1 << channels) - 1, record["variant"]
    )
    engine.run(program)
    started = time.perf_counter()
    result = engine.run(program)
    seconds = time.perf_counter() - started
    stepped = engine.run(program, leap=False)
    if (stepped.cycles, stepped.groups) != (result.cycles, result.groups):
        raise PhysicsError(f"a leap changed the run: {result.cycles} and {stepped.cycles} cycles")
    (group,) = result.groups
    ours: dict[str, Any] = {
        "instructions": result.instructions,
        "cycles": result.cycles,
        "mac_active_cycles": group.open_cycles,
    }
    known = set(engine.machine.names)
    for column in columns:
        command = column.removeprefix("ch_")
        command = _SPELLED.get(command, command)
        if column.startswith("ch_") and command in known:
            ours[column] = group.commands.get(command, 0)
    return ours, seconds


def _device(channels: int) -> Pim:
    from typing import cast

    from hw_configs.device import Pim
    from hw_configs.library import load_device
    from hw_configs.pim import with_organisation

    return with_organisation(cast(Pim, load_device(DEVICE)), channels=channels, rows=_ROWS)
