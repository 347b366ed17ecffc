"""Writes a plan in the form that a tool or a firmware takes: chosen by the file's ending or by name.

* ``csv``: the problem with offsets, which Offchip reads again (with banks: id, bank, offset, size; with moves: from).
* ``c``: a header with an offset for each buffer and the bytes of each arena.
* ``tflite``: the model with ``OfflineMemoryAllocation`` metadata, which TensorFlow Lite Micro obeys; ``tflite-json``:
  that metadata's integers (:mod:`mapping.allocation.tflite_plan`).
* ``iree``: the text with ``stream.resource.pack`` replaced by constant offsets.
* ``tvm``: pool allocations by buffer name, as USMP's algorithms return them.

XLA takes no offsets back from a file.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hw_configs.output_file import replacing
from hw_configs.problems import bad_input, nearest
from mapping.allocation.check import peak_of
from mapping.allocation.csv_format import read_text, to_csv, write_text
from mapping.allocation.iree_pack import is_iree, placed_text
from mapping.allocation.problem import AllocationProblem
from mapping.allocation.result import Move
from mapping.allocation.tflite_model import is_tflite
from mapping.allocation.tflite_plan import offline_integers, with_offline_plan

__all__ = ["FORMS", "Plan", "form_of", "write_plan"]

FORMS: Final = ("csv", "c", "tflite", "tflite-json", "iree", "tvm")
_ENDINGS: Final = {".h": "c", ".tflite": "tflite", ".mlir": "iree"}


@dataclass(frozen=True)
class Plan:
    """Offsets of a problem's buffers; ``banks`` names each buffer's memory, empty where there is one arena.

    ``pack_index``: which pack of IREE's text the problem is.
    """

    problem: AllocationProblem
    offsets: tuple[int, ...]
    banks: tuple[str, ...] = ()
    moves: tuple[Move, ...] = ()
    pack_index: int | None = None

    def arenas(self) -> dict[str, int]:
        """Bytes of each arena by name; one without a name where there are no banks."""
        names = self.banks or ("",) * len(self.problem)
        found: dict[str, int] = {}
        for name in dict.fromkeys(names):
            members = [i for i, own in enumerate(names) if own == name]
            part = self.problem.subset(members)
            found[name] = peak_of(part, [self.offsets[i] for i in members])
        for move in self.moves:
            top = move.offset + int(self.problem.size[move.buffer])
            found[move.bank] = max(found.get(move.bank, 0), top)
        return found or {"": 0}


def form_of(path: Path, name: str | None, source: Path) -> str:
    """The form to write, by name or by the file's ending. Raises ``InputError`` where the source has no such form."""
    if name is not None and name.lower() == "xla":
        raise bad_input("XLA takes no offsets back from a file; expected another form", path="--out-format")
    form = name or _ENDINGS.get(path.suffix.lower(), "csv")
    if form not in FORMS:
        told = f"found {form!r}; expected one of {', '.join(FORMS)}"
        raise bad_input(told, path="--out-format", suggestion=nearest(form, FORMS))
    if name is None and path.suffix.lower() == ".json":
        told = f"found the ending '.json'; expected --out-format, one of {', '.join(FORMS)}"
        raise bad_input(told, path="--out")
    if form in ("tflite", "tflite-json") and not is_tflite(source):
        raise bad_input(
            f"{source} is no .tflite model; expected one for the form {form!r}", path="--out-format"
        )
    if form == "iree" and (is_tflite(source) or not is_iree(_text(source))):
        raise bad_input(
            f"{source} holds no 'stream.resource.pack'; expected IREE's text", path="--out-format"
        )
    return form


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return ""


def write_plan(path: Path, name: str | None, plan: Plan, source: Path) -> None:
    """Write a plan of the problem in ``source``. Raises ``InputError`` where the form cannot say the plan."""
    form = form_of(path, name, source)
    if plan.banks and form in ("tflite", "tflite-json", "iree"):
        raise bad_input(f"the form {form!r} knows one arena; found a plan in banks", path="--out-format")
    if plan.moves and form != "c" and not (plan.banks and form == "csv"):
        raise bad_input(
            f"the form {form!r} knows one offset per buffer; found a plan with moves", path="--out-format"
        )
    if form == "tflite":
        planned = with_offline_plan(source.read_bytes(), plan.problem, plan.offsets, str(source))
        with replacing(path) as part:
            part.write_bytes(planned)
        return
    if form == "csv":
        text = _bank_csv(plan) if plan.banks else to_csv(plan.problem, plan.offsets)
    elif form == "c":
        text = c_header(plan, path.stem)
    elif form == "tvm":
        text = _tvm(plan)
    elif form == "tflite-json":
        numbers = offline_integers(source.read_bytes(), plan.problem, plan.offsets, str(source))
        text = json.dumps({"metadata": "OfflineMemoryAllocation", "int32": numbers}) + "\n"
    else:
        text = placed_text(read_text(source), plan.offsets, str(source), plan.pack_index)
    write_text(path, text)


def _bank_csv(plan: Plan) -> str:
    """A row for each buffer; where some move, a column says from when on, and a row follows for each move."""
    size = plan.problem.size.tolist()
    rows = [*zip(plan.problem.ids, plan.banks, plan.offsets, size, strict=True)]
    if not plan.moves:
        return "id,bank,offset,size\n" + "".join(f"{a},{b},{c},{d}\n" for a, b, c, d in rows)
    places = [(*row, int(plan.problem.lower[i])) for i, row in enumerate(rows)]
    places += [(rows[m.buffer][0], m.bank, m.offset, size[m.buffer], m.time) for m in plan.moves]
    text = "".join(f"{a},{b},{c},{d},{e}\n" for a, b, c, d, e in places)
    return f"id,bank,offset,size,from\n{text}"


def _tvm(plan: Plan) -> str:
    """Buffer name to pool and byte offset, the fields of USMP's ``PoolAllocation``."""
    named = plan.problem.rules.banks
    rows = {
        str(name): {
            "pool_name": plan.banks[i] if plan.banks else named.get(i, ("workspace",))[0],
            "byte_offset": plan.offsets[i],
        }
        for i, name in enumerate(plan.problem.ids)
    }
    return json.dumps({"pool_allocations": rows}, indent=1) + "\n"


def c_header(plan: Plan, stem: str) -> str:
    """Offsets as macros for firmware: bytes of each arena, then one line for each buffer (and each move)."""
    prefix = _macro(stem)
    lines = [f"#ifndef {prefix}_H", f"#define {prefix}_H", ""]
    arenas = plan.arenas()
    parts = {name: _macro(name) + "_" if name else "" for name in arenas}
    if len(set(parts.values())) < len(parts):
        raise bad_input(f"the banks {', '.join(arenas)} have one name in C", path="--bank")
    lines += [f"#define {prefix}_{parts[name]}ARENA_BYTES {size}u" for name, size in arenas.items()]
    lines.append("")
    taken: set[str] = set()
    names: list[str] = []
    for i, identifier in enumerate(map(str, plan.problem.ids)):
        macro = _unique(_macro(identifier), taken)
        names.append(macro)
        where = f", in {_plain(plan.banks[i])}" if plan.banks else ""
        low, high = int(plan.problem.lower[i]), int(plan.problem.upper[i])
        told = f"/* {_plain(identifier)}: {int(plan.problem.size[i])} bytes, in use [{low}, {high}){where} */"
        lines.append(f"#define {prefix}_OFFSET_{macro} {plan.offsets[i]}u {told}")
    for move in plan.moves:
        time = str(move.time).replace("-", "MINUS_")
        where = f" /* in {_plain(move.bank)} */" if move.bank else ""
        lines.append(f"#define {prefix}_OFFSET_{names[move.buffer]}_FROM_{time} {move.offset}u{where}")
    return "\n".join([*lines, "", "#endif", ""])


def _macro(text: str) -> str:
    """A name of a macro: letters, digits and underscores, in capitals."""
    found = re.sub(r"[^0-9A-Za-z]+", "_", text).strip("_").upper() or "BUFFER"
    return found if not found[0].isdigit() else f"N{found}"


def _unique(name: str, taken: set[str]) -> str:
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}__{count}"
    taken.add(found)
    return found


def _plain(text: str) -> str:
    """Text for a comment, without what would end it."""
    return (
        "".join(c if c.isprintable() else "?" for c in text).replace("*/", "* /").replace("/*", "/ *")[:120]
    )
