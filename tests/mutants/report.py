"""The last result of every package as a page, and what a reader judged of the survivors.

``judged.toml`` holds, for a survivor that no test can or need kill, one word and the reason. It is found again
by file and by the line before and after, so it holds when lines move. An entry without the line after speaks of
every change that moves one number of the line by one: a constant that changes speed alone.
``python -m tests.mutants.report`` puts new judgements into the page without a run.
"""

from __future__ import annotations

import re
import tomllib
from ast import literal_eval
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .places import Mutant
from .runner import Verdict

__all__ = ["JUDGEMENTS", "judge_page", "moves_a_number", "read_judged", "share", "summary", "write_page"]

JUDGEMENTS = ("equivalent", "speed alone", "message text")
_HEAD = """# Do the tests notice?

`./dev mutants PACKAGE` changes the source of a package in one place at a time and runs the tests that reach it.
A mutant is *killed* when a test fails or runs past its time. `--sample N --seed S` draws N places at random and
one change at each; `--all` tries every change at every place. A survivor is *judged* where no test can or need
notice it: the program is the same, or speed or the wording of a message alone differs. Shares are of all that were
tried, and of those that can be noticed: tried without the judged. The last run of each package (one that is
missing was not run since the list was begun):

"""
_COLUMNS = (
    "package", "places", "tried", "killed", "of these by time", "survived", "judged", "killed of tried",
    "killed of noticeable", "date", "seed",
)  # fmt: skip
_TAIL = """
The changes are cosmic-ray's: arithmetic and comparison operators exchanged, conditions negated, `and` and `or`
exchanged, numbers one up or down, loops that never run, `break` and `continue` exchanged, exceptions not caught.
Not changed are compiled kernels (functions under `numba.njit`; the brute-force and reference tests hold those),
annotations, decorators and texts. A mutant meets the tests that reach its line; where none does, those of its file.
The packages, their tests and usual samples stand in `tests/mutants/packages.toml`, what was judged of a survivor in
`tests/mutants/judged.toml`.
"""

_NUMBER = re.compile(r"(?<![\w.])[0-9][0-9_]*(?:\.[0-9_]*)?(?:e[+-]?[0-9]+)?(?![\w.])")

Key = tuple[str, str, str | None]


def read_judged(path: Path) -> dict[Key, str]:
    """What was judged, by file, line before and line after (none: every moved number of the line).

    Raises ``ValueError`` on an unknown word, a missing reason, or a whole line judged other than "speed alone".
    """
    judged: dict[Key, str] = {}
    for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("mutant", []):
        word, now = entry["judged"], entry.get("now")
        if word not in JUDGEMENTS:
            raise ValueError(f"{path}: judged {word!r}, expected one of {', '.join(JUDGEMENTS)}")
        if not entry.get("why"):
            raise ValueError(f"{path}: {entry['was']!r} is judged without a reason")
        if now is None and (word != "speed alone" or not _NUMBER.search(entry["was"])):
            raise ValueError(
                f"{path}: {entry['was']!r} needs 'now': only a number can be of speed alone as such"
            )
        judged[entry["file"], entry["was"], now] = word
    return judged


def moves_a_number(was: str, now: str) -> bool:
    """Whether the lines differ in one number alone, which is one more or one less."""
    return "".join(now.split()) in {"".join(line.split()) for line in _moved(was)}


def _moved(line: str) -> Iterator[str]:
    for number in _NUMBER.finditer(line):
        for step in (1, -1):
            yield f"{line[: number.start()]}{literal_eval(number[0]) + step}{line[number.end() :]}"


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


def _judgement(file: str, was: str, now: str, judged: Mapping[Key, str]) -> str | None:
    word = judged.get((file, was, now))
    if word is None and moves_a_number(was, now):
        return judged.get((file, was, None))
    return word


def _word(mutant: Mutant, tests: int, judged: Mapping[Key, str]) -> str:
    open_word = "not yet killed" if tests else "not yet killed, no near test reaches it"
    return _judgement(mutant.file, mutant.was, mutant.now, judged) or open_word


def _code(text: str) -> str:
    ticks = "``" if "`" in text else "`"
    return f"{ticks}{text}{ticks}".replace("|", "\\|")


_SURVIVOR = re.compile(r"^\| `([^`]+):\d+` \| (`+)(.*)\2 \| (`+)(.*)\4 \| [^|]* \|$")


def _judged_anew(section: str, judged: Mapping[Key, str]) -> str:
    """The survivors of a page with what is judged of them now; those without a judgement keep their word."""
    lines = section.splitlines()
    for at, line in enumerate(lines):
        if found := _SURVIVOR.match(line):
            was, now = (found[group].replace("\\|", "|") for group in (3, 5))
            if word := _judgement(found[1], was, now, judged):
                lines[at] = f"{line[:-2].rpartition('| ')[0]}| {word} |"
    return "\n".join([*lines, ""])


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
    sections = _sections(old, judged)
    rows = _rows(old.split("\n## ")[0])
    fates = Counter(verdict.fate for verdict in verdicts)
    rows[package] = {
        "places": str(places),
        "tried": str(len(verdicts)),
        "killed": str(fates["killed"] + fates["timeout"]),
        "of these by time": str(fates["timeout"]),
        "survived": str(fates["survived"]),
        "date": date,
        "seed": drawn,
    }
    sections[package] = _section(package, verdicts, judged)
    _write(page, rows, sections)


def judge_page(page: Path, judged: Mapping[Key, str]) -> None:
    """Put what is judged now into the page, without trying a mutant again."""
    old = page.read_text(encoding="utf-8")
    _write(page, _rows(old.split("\n## ")[0]), _sections(old, judged))


def _sections(old: str, judged: Mapping[Key, str]) -> dict[str, str]:
    """The survivors of each package of a page."""
    found = re.findall(r"^(?=## Survivors in `([^`]+)`$)(.*?)(?=^## |\Z)", old, re.MULTILINE | re.DOTALL)
    return {name: _judged_anew(text.rstrip(), judged) for name, text in found}


def _write(page: Path, rows: Mapping[str, Mapping[str, str]], sections: Mapping[str, str]) -> None:
    table = [_line(_COLUMNS), "|" + "---|" * len(_COLUMNS)]
    table += [_line(_row(name, rows[name], sections.get(name, ""))) for name in sorted(rows)]
    text = _HEAD + "\n".join(table) + "\n" + _TAIL + "".join("\n" + sections[n] for n in sorted(sections))
    page.write_text(text, encoding="utf-8")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rows(text: str) -> dict[str, dict[str, str]]:
    """The rows of the table of packages, by package and by column."""
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:2] == "| "
    ]
    return {row[0].strip("`"): dict(zip(lines[0], row, strict=True)) for row in lines[1:]}


def _row(package: str, known: Mapping[str, str], section: str) -> list[str]:
    """A row of the table; how many were judged is counted in the section of its survivors."""
    judged = sum(line.endswith(tuple(f"| {word} |" for word in JUDGEMENTS)) for line in section.splitlines())
    tried, killed = int(known["tried"]), int(known["killed"])
    counted = {
        "package": f"`{package}`",
        "judged": str(judged),
        "killed of tried": f"{killed / max(tried, 1):.0%}",
        "killed of noticeable": f"{killed / max(tried - judged, 1):.0%}",
    }
    return [counted.get(column) or known[column] for column in _COLUMNS]


if __name__ == "__main__":
    here = Path(__file__).parent
    judge_page(here.parent.parent / "docs" / "mutants.md", read_judged(here / "judged.toml"))
