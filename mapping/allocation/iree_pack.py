"""Reads IREE's ``stream.resource.pack`` operations from MLIR text: the transient buffers of one execution region.

The operation stands in the compiler's dump before its slices are laid out
(``iree-compile --mlir-print-ir-before=iree-stream-layout-slices``), one line ``[first, last] = %size`` for each slice.
Both ends of a life are in use. Sizes are constants of the same text; one that depends on the input is refused. A slice
is named as the text names its offset, ``%2#1``. Offsets are multiples of 64 bytes, the compiler's default of
``min_buffer_offset_alignment``.

The operation is defined in iree/compiler/Dialect/Stream/IR/StreamOps.td (github.com/iree-org/iree).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hw_configs.problems import InputError, Problem, bad_input
from hw_configs.whole_number import integer
from mapping.allocation.problem import AllocationProblem, Buffer

__all__ = ["is_iree", "parse_iree", "placed_text"]

ALIGNMENT: Final = 64
_CONSTANT: Final = re.compile(r"\s*(%[\w$.-]+)\s*=\s*arith\.constant\s+([0-9]+)\s*:\s*(?:index|i64|i32)\b")
_OTHER: Final = re.compile(r"\s*(%[\w$.-]+)(?::[0-9]+)?\s*=")
_FUNCTION: Final = re.compile(r"\s*(?:util|func)\.(?:func|initializer)\b[^@\n]*?(@[\w$.-]+|$)")
_PACK: Final = re.compile(r"\s*(%[\w$.-]+)(?::([0-9]+))?\s*=\s*stream\.resource\.pack\b(.*)")
_SLICE: Final = re.compile(r"\s*\[\s*([0-9]+)\s*,\s*([0-9]+)\s*\]\s*=\s*(%[\w$.#-]+)\s*,?\s*")
_LARGEST: Final = 2**60
_MOST_TOLD: Final = 20


@dataclass
class _Pack:
    """One operation: where it stands, and its slices as buffers."""

    label: str
    line: int
    results: int
    buffers: list[Buffer]


def is_iree(text: str) -> bool:
    """Whether a text holds such an operation."""
    return "stream.resource.pack" in text


def parse_iree(
    text: str, file: str | None = None, name: str = "", pack_index: int | None = None
) -> AllocationProblem:
    """The problem of one pack operation; ``pack_index`` counts them from 0 and may be left out where there is one.

    Raises ``InputError`` where a size is not a constant, a line is not understood, or the choice is open.
    """
    return AllocationProblem.of(_chosen(text, file, pack_index).buffers, name)


def placed_text(
    text: str, offsets: Sequence[int], file: str | None = None, pack_index: int | None = None
) -> str:
    """The text with a pack operation replaced by constants: the bytes of the whole, and the offset of each slice.

    The whole is rounded up to the alignment of slices, as the compiler's own layout does.
    """
    pack = _chosen(text, file, pack_index)
    value = pack.label.rpartition(" ")[2]
    ends = [offset + buffer.size for offset, buffer in zip(offsets, pack.buffers, strict=True)]
    whole = -(-max(ends, default=0) // ALIGNMENT) * ALIGNMENT
    stem = f"%place_{value[1:]}"
    while f"{stem}_" in text:
        stem += "d"
    lines = text.splitlines(keepends=True)
    begin = pack.line - 1
    end = next(k for k in range(begin, len(lines)) if lines[k].strip().startswith("})"))
    indent = lines[begin][: len(lines[begin]) - len(lines[begin].lstrip())]
    constants = [
        f"{indent}{stem}_{k} = arith.constant {number} : index\n"
        for k, number in enumerate([whole, *offsets])
    ]
    close = next((k for k in range(end + 1, len(lines)) if lines[k].startswith("}")), len(lines))
    use = re.compile(re.escape(value) + r"#([0-9]+)(?![\w$.#-])")
    inside = [use.sub(lambda match: f"{stem}_{match[1]}", line) for line in lines[end + 1 : close]]
    return "".join([*lines[:begin], *constants, *inside, *lines[close:]])


def _chosen(text: str, file: str | None, pack_index: int | None) -> _Pack:
    packs, problems = _packs(text, file)
    if pack_index is None and len(packs) > 1:
        shown = ", ".join(f"{i}: {pack.label} (line {pack.line})" for i, pack in enumerate(packs[:10]))
        raise bad_input(f"holds {len(packs)} packs ({shown}); choose one with --pack-index", file=file)
    if pack_index is not None and pack_index >= len(packs):
        raise bad_input(f"found {pack_index}; {file or 'the text'} holds {len(packs)}", path="--pack-index")
    chosen = pack_index or 0
    if problems.get(chosen):
        raise InputError(problems[chosen][:_MOST_TOLD])
    return packs[chosen]


def _packs(text: str, file: str | None) -> tuple[list[_Pack], dict[int, list[Problem]]]:
    """All packs, and what is wrong with each by its number."""
    packs: list[_Pack] = []
    problems: dict[int, list[Problem]] = {}
    sizes: dict[str, int] = {}
    function, inside = "", False
    for number, line in enumerate(text.splitlines(), 1):
        if inside:
            inside = _slice(line, (file, number), packs[-1], sizes, problems.setdefault(len(packs) - 1, []))
            continue
        constant, pack = _CONSTANT.match(line), _PACK.match(line)
        if "func" in line or "initializer" in line:
            found = _FUNCTION.match(line)
            if found:
                function, sizes = found[1] or "initializer", {}
        if constant:
            value = integer(constant[2], 0, _LARGEST)
            if value is not None:
                sizes[constant[1]] = value
        elif pack:
            packs.append(_Pack(f"{function} {pack[1]}".strip(), number, int((pack[2] or "1")[:9]), []))
            inside = "slices({" in pack[3]
            if not inside:
                told = "expected 'slices({' on the line of the operation"
                problems.setdefault(len(packs) - 1, []).append(Problem(told, file, number))
        elif (other := _OTHER.match(line)) is not None:
            sizes.pop(other[1], None)
    if inside:
        problems[len(packs) - 1].append(Problem("ends inside a pack; expected '})'", file, packs[-1].line))
    return packs, problems


def _slice(
    line: str, where: tuple[str | None, int], pack: _Pack, sizes: dict[str, int], problems: list[Problem]
) -> bool:
    """Take one line of a pack's list; false at its end."""
    if line.strip().startswith("})"):
        if pack.results != len(pack.buffers) + 1 and not problems:
            told = f"has {len(pack.buffers)} slices and {pack.results} results; expected one more result"
            problems.append(Problem(told, where[0], pack.line))
        return False
    row = _SLICE.fullmatch(line)
    value = pack.label.rpartition(" ")[2]
    if row is None:
        told = f"found {line.strip()[:60]!r}; expected a slice '[first, last] = %size'"
        problems.append(Problem(told, *where))
        return True
    first, last = integer(row[1], 0, _LARGEST - 1), integer(row[2], 0, _LARGEST - 1)
    if first is None or last is None or last < first:
        told = f"found the life {row[1][:30]} to {row[2][:30]}; expected moments in order, below 2**60"
        problems.append(Problem(told, *where))
    elif row[3] not in sizes:
        told = f"slice of {row[3][:40]} bytes, which is no constant; expected sizes that do not depend on the input"
        problems.append(Problem(told, *where))
    else:
        label = f"{value}#{len(pack.buffers) + 1}"
        pack.buffers.append(Buffer(label, first, last + 1, sizes[row[3]], ALIGNMENT))
    return True
