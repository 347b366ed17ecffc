"""The last result of every package as a page, and what a reader judged of the survivors.

``judged.toml`` holds, for a survivor that no test can or need kill, one word and the reason. It is found again
by file and by the line before and after, so it holds when lines move.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from .places import Mutant
from .runner import Verdict

__all__ = ["JUDGEMENTS", "read_judged", "share", "summary", "write_page"]

JUDGEMENTS = ("equivalent", "speed alone", "message text")
_HEAD = """# Do the tests notice?

`./dev mutants PACKAGE` changes the source of a package in one place at a time and runs the tests that reach it.
A mutant is *killed* when a test fails or runs past its time. `--sample N --seed S` draws N places at random and
one change at each; `--all` tries every change at every place. The last run of each package (one that is missing
was not run since the list was begun):

| package | places | tried | killed | of these by time | survived | share killed | date | seed |
|---|---|---|---|---|---|---|---|---|
"""
_TAIL = """
The changes are cosmic-ray's: arithmetic and comparison operators exchanged, conditions negated, `and` and `or`
exchanged, numbers one up or down, loops that never run, `break` and `continue` exchanged, exceptions not caught.
Not changed are compiled kernels (functions under `numba.njit`; the brute-force and reference tests hold those),
annotations, decorators and texts. A line that no near test reaches survives at once. The packages, their tests
and usual samples stand in `tests/mutants/packages.toml`, what was judged of a survivor in `tests/mutants/judged.toml`.
"""

Key = tuple[str, str, str]


def read_judged(path: Path) -> dict[Key, str]:
    """What was judged, by file, line before and line after. Raises ``ValueError`` on an unknown word."""
    judged: dict[Key, str] = {}
    for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("mutant", []):
        if entry["judged"] not in JUDGEMENTS:
            raise ValueError(f"{path}: judged {entry['judged']!r}, expected one of {', '.join(JUDGEMENTS)}")
        judged[entry["file"], entry["was"], entry["now"]] = entry["judged"]
    return judged


def share(verdicts: Sequence[Verdict]) -> float:
    """Killed and timed out over all; equivalent mutants count as survivors."""
    fates = Counter(verdict.fate for verdict in verdicts)
    return 1 - fates["survived"] / max(len(verdicts), 1)


def summary(verdicts: Sequence[Verdict]) -> str:
    """One line: how many were killed, survived and timed out."""
    fates = Counter(verdict.fate for verdict in verdicts)
    return (
        f"{len(verdicts)} mutants: {fates['killed']} killed, {fates['timeout']} timeout, "
        f"{fates['survived']} survived; {share(verdicts):.0%} killed"
    )


def _word(mutant: Mutant, tests: int, judged: Mapping[Key, str]) -> str:
    open_word = "not yet killed" if tests else "not yet killed, no near test reaches it"
    return judged.get((mutant.file, mutant.was, mutant.now), open_word)


def _code(text: str) -> str:
    ticks = "``" if "`" in text else "`"
    return f"{ticks}{text}{ticks}".replace("|", "\\|")


def _section(package: str, verdicts: Sequence[Verdict], judged: Mapping[Key, str]) -> str:
    lines = [f"## Survivors in `{package}`", "", "| where | was | became | judged |", "|---|---|---|---|"]
    for verdict in sorted(verdicts, key=lambda v: (v.mutant.file, v.mutant.line, v.mutant.now)):
        mutant = verdict.mutant
        if verdict.fate == "survived":
            word = _word(mutant, verdict.tests, judged)
            where = f"`{mutant.file}:{mutant.line}`"
            lines.append(f"| {where} | {_code(mutant.was)} | {_code(mutant.now)} | {word} |")
    return "\n".join([*lines, ""])


def write_page(
    page: Path,
    package: str,
    verdicts: Sequence[Verdict],
    places: int,
    drawn: str,
    date: str,
    judged: Mapping[Key, str],
) -> None:
    """Put a package's row and survivors into the page; those of other packages stay.

    ``drawn`` says how the mutants were chosen: a seed, or ``all``.
    """
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    rows = dict(re.findall(r"^\| `([^`]+/[^`]+)` (\|.*\|)$", old.split("\n## ")[0], flags=re.MULTILINE))
    sections = {
        name: text.rstrip() + "\n"
        for name, text in re.findall(
            r"^(?=## Survivors in `([^`]+)`$)(.*?)(?=^## |\Z)", old, re.MULTILINE | re.DOTALL
        )
    }
    fates = Counter(verdict.fate for verdict in verdicts)
    gone = fates["killed"] + fates["timeout"]
    rows[package] = (
        f"| {places} | {len(verdicts)} | {gone} | {fates['timeout']} | {fates['survived']} "
        f"| {share(verdicts):.0%} | {date} | {drawn} |"
    )
    sections[package] = _section(package, verdicts, judged)
    table = "".join(f"| `{name}` {rows[name]}\n" for name in sorted(rows))
    page.write_text(
        _HEAD + table + _TAIL + "".join("\n" + sections[n] for n in sorted(sections)), encoding="utf-8"
    )
