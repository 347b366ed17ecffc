"""The text form of PIM programs: one instruction a line, loops as blocks, strides written beside the address.

    # y = W x: 64 groups of rows over two tiles of the vector
    LOOP 2
      WR_GB 64 channels=0-7
      LOOP 64
        WR_BIAS channels=0-7
        MAC_ABK 64 row=0+1+64 channels=0-7
        RD_MAC channels=0-7
      END
    END
    EOC

``row=0+1+64`` begins at row 0 and moves by 1 per iteration of the inner loop and by 64 per iteration of the
outer one; ``col`` and ``bank`` alike, and a stride may be negative. ``channels`` is a list of numbers and ranges
(``0,2-5``), a mask (``0xff``) or ``all``, which is what it is when left out.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from hw_configs.problems import InputError, Problem, bad_input, nearest
from simulator.pim.program import ALL, MAX_DEPTH, Entry, Instruction, Loop, Program

__all__ = ["parse_program", "read_program", "write_program"]

MAX_BYTES: Final = 64 << 20
MAX_PROBLEMS: Final = 20
MAX_CHANNEL: Final = 1 << 12
_KEYS: Final = ("row", "col", "bank", "channels", "label")
_WHOLE: Final = re.compile(r"[0-9]{1,18}")
_STEPPED: Final = re.compile(r"([0-9]{1,12})((?:[+-][0-9]{1,12})*)")
_LABEL: Final = re.compile(r"[\w.:/-]{1,64}")


def read_program(path: Path) -> Program:
    """The program of a text file (``.gz`` may be packed); raises ``InputError`` with the lines that are wrong."""
    opener = gzip.open if path.suffix == ".gz" else open
    if path.exists() and not path.is_file():
        raise bad_input("not a file", file=str(path))
    try:
        with opener(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise bad_input(reason, file=str(path)) from None
    if len(data) > MAX_BYTES:
        raise bad_input(f"larger than {MAX_BYTES} bytes; use loops", file=str(path))
    try:
        text = bytes(data).decode("utf-8")
    except UnicodeDecodeError:
        raise bad_input("not a text file", file=str(path)) from None
    return parse_program(text, str(path))


def parse_program(text: str, name: str = "") -> Program:
    """The program of a text; ``name`` stands in its problems and its result."""
    return _Parser(name).parse(text)


class _Parser:
    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[Problem] = []
        self.bodies: list[list[Entry]] = [[]]
        self.loops: list[tuple[int, int]] = []

    def parse(self, text: str) -> Program:
        for number, raw in enumerate(text.splitlines(), 1):
            words = raw.split("#", 1)[0].split()
            if not words:
                continue
            try:
                self._line(words, number)
            except ValueError as error:
                self.problems.append(Problem(str(error), self.name or None, number))
            if len(self.problems) >= MAX_PROBLEMS:
                break
        else:
            for _, line in self.loops:
                self.problems.append(Problem("LOOP without END", self.name or None, line))
        if not self.problems and not self.bodies[0]:
            self.problems.append(Problem("holds no instruction", self.name or None))
        if self.problems:
            raise InputError(self.problems)
        return Program(tuple(self.bodies[0]), self.name)

    def _line(self, words: list[str], number: int) -> None:
        op = words[0].upper()
        if op == "LOOP":
            if len(words) != 2 or not _WHOLE.fullmatch(words[1]):
                # The block is opened all the same, so that its END is no second problem.
                self._open(1, number)
                raise ValueError(f"found {' '.join(words)!r}; expected LOOP and a count")
            self._open(int(words[1]), number)
        elif op == "END":
            if len(words) > 1:
                raise ValueError(f"found {' '.join(words)!r}; expected END alone")
            if not self.loops:
                raise ValueError("END without LOOP")
            count, line = self.loops.pop()
            body = self.bodies.pop()
            self.bodies[-1].append(Loop(count, tuple(body), line))
        else:
            self.bodies[-1].append(self._instruction(op, words[1:], number))

    def _open(self, count: int, number: int) -> None:
        if len(self.loops) >= 4 * MAX_DEPTH:
            raise ValueError(f"loops nest deeper than {MAX_DEPTH}")
        self.loops.append((count, number))
        self.bodies.append([])

    def _instruction(self, op: str, words: list[str], number: int) -> Instruction:
        n, fields = 1, dict[str, str]()
        if op == "PHASE" and len(words) == 1 and "=" not in words[0]:
            words = [f"label={words[0]}"]
        for index, word in enumerate(words):
            key, equals, value = word.partition("=")
            if index == 0 and not equals:
                if not _WHOLE.fullmatch(word):
                    raise ValueError(
                        f"found {word!r}; expected a whole number of commands, or a key such as row=0"
                    )
                n = int(word)
                continue
            if not equals or key not in _KEYS:
                hint = nearest(key, _KEYS)
                raise ValueError(
                    f"found {word!r}; known keys: {', '.join(_KEYS)}{f' (did you mean {hint!r}?)' if hint else ''}"
                )
            if key in fields:
                raise ValueError(f"{key} is given twice")
            fields[key] = value
        if "label" in fields and not _LABEL.fullmatch(fields["label"]):
            raise ValueError(f"label: found {fields['label']!r}; expected letters, digits and . : / - _")
        if op == "PHASE" and "label" not in fields:
            raise ValueError("PHASE needs a label, such as PHASE attention")
        row, row_steps = _stepped(fields, "row")
        col, col_steps = _stepped(fields, "col")
        bank, bank_steps = _stepped(fields, "bank")
        channels = _mask(fields["channels"]) if "channels" in fields else ALL
        label = fields.get("label", "")
        return Instruction(op, n, row, col, bank, channels, row_steps, col_steps, bank_steps, label, number)


def _stepped(fields: dict[str, str], key: str) -> tuple[int, tuple[int, ...]]:
    text = fields.get(key, "0")
    match = _STEPPED.fullmatch(text)
    if match is None:
        raise ValueError(f"{key}: found {text!r}; expected a number and strides, such as 0+1+64")
    return int(match[1]), tuple(int(step) for step in re.findall(r"[+-][0-9]+", match[2]))


def _mask(text: str) -> int:
    if text == "all":
        return ALL
    if re.fullmatch(r"0x[0-9a-fA-F]{1,1024}", text):
        return int(text, 16)
    mask = 0
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last >= MAX_CHANNEL:
            raise ValueError(
                f"channels: found {text!r}; expected all, a mask such as 0xff, or a list such as 0,2-5"
            )
        mask |= (1 << (last + 1)) - (1 << first)
    return mask


def write_program(program: Program) -> str:
    """The text of a program; reading it gives an equal program but for lines and name."""
    return "\n".join(_lines(program.body, 0)) + "\n"


def _lines(body: Iterable[Entry], depth: int) -> Iterable[str]:
    pad = "  " * depth
    for entry in body:
        if isinstance(entry, Loop):
            yield f"{pad}LOOP {entry.count}"
            yield from _lines(entry.body, depth + 1)
            yield f"{pad}END"
            continue
        words = [entry.op]
        if entry.n != 1:
            words.append(str(entry.n))
        for key, base, steps in (
            ("row", entry.row, entry.row_steps), ("col", entry.col, entry.col_steps),
            ("bank", entry.bank, entry.bank_steps),
        ):  # fmt: skip
            if base or steps:
                words.append(f"{key}={base}" + "".join(f"{step:+d}" for step in steps))
        if entry.channels != ALL:
            words.append(f"channels={entry.channels:#x}")
        if entry.label:
            words.append(f"label={entry.label}")
        yield pad + " ".join(words)
