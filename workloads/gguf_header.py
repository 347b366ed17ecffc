"""The header of a GGUF file: its metadata and its tensors, read without the weights behind it.

Layout from the format's specification (ggml, ``docs/gguf.md``): ``GGUF``, a version, counts of tensors and of
metadata, the metadata as typed keys and values, and for each tensor its name, sides (innermost first), type and offset.
Version 2 and 3 have 64-bit counts. Nothing in the file is trusted: every length is held against a bound and against
what is there.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import IO, Final

from hw_configs.problems import InputError, bad_input
from workloads.stored_tensors import StoredTensor, StoredTensors

__all__ = ["BLOCKS", "GgufArray", "GgufHeader", "read_gguf"]

MAGIC: Final = b"GGUF"
MAX_HEADER_BYTES: Final = 512 * 2**20
MAX_ITEMS: Final = 2**20
"""Tensors, and keys of metadata."""
MAX_ARRAY: Final = 2**26
MAX_NAME: Final = 2**16 - 1
MAX_TEXT: Final = 64 * 2**20
MAX_DEPTH: Final = 4
MAX_SIDES: Final = 4
KEPT: Final = 4096
"""Entries of an array that are kept; of longer ones (vocabularies) only the length is."""
MAX_SHARDS: Final = 1000

BLOCKS: Final[dict[int, tuple[str, int, int]]] = {
    0: ("fp32", 1, 4), 1: ("fp16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34), 10: ("q2_k", 256, 84), 11: ("q3_k", 256, 110), 12: ("q4_k", 256, 144),
    13: ("q5_k", 256, 176), 14: ("q6_k", 256, 210), 15: ("q8_k", 256, 292), 16: ("iq2_xxs", 256, 66),
    17: ("iq2_xs", 256, 74), 18: ("iq3_xxs", 256, 98), 19: ("iq1_s", 256, 50), 20: ("iq4_nl", 32, 18),
    21: ("iq3_s", 256, 110), 22: ("iq2_s", 256, 82), 23: ("iq4_xs", 256, 136), 24: ("int8", 1, 1), 25: ("int16", 1, 2),
    26: ("int32", 1, 4), 27: ("int64", 1, 8), 28: ("fp64", 1, 8), 29: ("iq1_m", 256, 56), 30: ("bf16", 1, 2),
    34: ("tq1_0", 256, 54), 35: ("tq2_0", 256, 66), 39: ("mxfp4", 32, 17), 40: ("nvfp4", 64, 36),
    41: ("q1_0", 128, 18),
}  # fmt: skip
"""Element type, elements and bytes of a block, by the file's number for a type (llama.cpp, ``ggml.h``)."""

_FIXED: Final = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
"""Metadata of fixed size by type number; 8 is a text, 9 an array."""
TEXT: Final = 8
ARRAY: Final = 9


@dataclass(frozen=True, slots=True)
class GgufArray:
    """An array of metadata: its length, and its entries where there are few."""

    length: int
    values: tuple[Scalar, ...] = ()


Scalar = int | float | bool | str
Value = Scalar | GgufArray


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says before its weights."""

    version: int
    metadata: Mapping[str, Value]
    stored: StoredTensors


@dataclass
class _Reader:
    """Bytes of one file from the front, every read bounded."""

    stream: IO[bytes]
    file: str
    size: int
    at: int = 0
    problems: list[str] = field(default_factory=list)

    def take(self, count: int, what: str) -> bytes:
        self._check(count, what)
        self.at += count
        return self.stream.read(count)

    def skip(self, count: int, what: str) -> None:
        self._check(count, what)
        self.at += count
        self.stream.seek(self.at)

    def number(self, form: str, what: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form), what))[0]
        return value

    def count(self, most: int, what: str) -> int:
        value = self.number("<Q", what)
        if value > most:
            raise self.wrong(f"found {value}; expected at most {most}", what)
        return value

    def text(self, most: int, what: str) -> str:
        raw = self.take(self.count(most, f"length of {what}"), what)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            # Vocabularies and templates may hold bytes that are no text; names must be.
            if most == MAX_NAME:
                raise self.wrong("found bytes that are no text", what) from None
            return raw.decode("utf-8", "replace")

    def wrong(self, message: str, what: str) -> InputError:
        return bad_input(f"a damaged GGUF file: {what} at byte {self.at}: {message}", file=self.file)

    def _check(self, count: int, what: str) -> None:
        if self.at + count > self.size:
            missing = self.at + count - self.size
            raise bad_input(
                f"the GGUF header is cut short: {what} at byte {self.at} needs {missing} bytes more",
                file=self.file,
            )
        if self.at + count > MAX_HEADER_BYTES:
            raise self.wrong(f"a header of over {MAX_HEADER_BYTES} bytes", what)


def read_gguf(path: Path) -> GgufHeader:
    """The header of a file, or of all the shards it names; ``InputError`` for one that is damaged or too new.

    A file that ends before its weights do is read and noted: headers are published alone.
    """
    first = _read_one(path)
    shards = first.metadata.get("split.count", 0)
    if not isinstance(shards, int) or isinstance(shards, bool) or shards <= 1:
        return first
    return _joined(path, first, shards)


def _joined(path: Path, first: GgufHeader, shards: int) -> GgufHeader:
    named = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})", path.stem)
    if named is None or int(named[3]) != shards or shards > MAX_SHARDS:
        raise bad_input(
            f"one of {shards} shards; expected a name that ends in -00001-of-{shards:05d}.gguf",
            file=str(path),
        )
    headers = []
    for number in range(1, shards + 1):
        other = path.with_name(f"{named[1]}-{number:05d}-of-{shards:05d}.gguf")
        if not other.is_file():
            raise bad_input(f"one of {shards} shards; {other.name} is not beside it", file=str(path))
        headers.append(first if other == path else _read_one(other))
    tensors = tuple(tensor for header in headers for tensor in header.stored.tensors)
    names = [tensor.name for tensor in tensors]
    if len(set(names)) < len(names):
        raise bad_input("two of its shards hold tensors of one name", file=str(path))
    notes = tuple(dict.fromkeys(note for header in headers for note in header.stored.notes))
    size = sum(header.stored.size_bytes for header in headers)
    # The first shard has the metadata; the others repeat none of the model's.
    metadata = {key: value for header in reversed(headers) for key, value in header.metadata.items()}
    return GgufHeader(first.version, metadata, StoredTensors("GGUF", tensors, size, notes))


def _read_one(path: Path) -> GgufHeader:
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            return _header(_Reader(stream, str(path), size))
    except OSError as error:
        raise bad_input(f"cannot be read: {error.strerror}", file=str(path)) from None


def _header(r: _Reader) -> GgufHeader:
    if r.take(4, "the magic number") != MAGIC:
        raise bad_input("not a GGUF file: it does not begin with GGUF", file=r.file)
    version = r.number("<I", "version")
    if version not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        text = f"big-endian GGUF (version {swapped})" if swapped in (2, 3) else f"GGUF version {version}"
        raise bad_input(f"{text}; expected version 2 or 3, little-endian", file=r.file)
    tensors = r.count(MAX_ITEMS, "number of tensors")
    keys = r.count(MAX_ITEMS, "number of metadata keys")
    metadata: dict[str, Value] = {}
    for _ in range(keys):
        key = r.text(MAX_NAME, "a metadata key")
        if key in metadata:
            raise r.wrong("it stands twice", f"metadata key {key[:80]!r}")
        metadata[key] = _value(r, r.number("<I", f"type of {key[:80]!r}"), key[:80], 0)
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or isinstance(alignment, bool) or alignment < 1 or alignment > 2**20:
        raise r.wrong(f"found {alignment!r}; expected a whole number from 1 to {2**20}", "general.alignment")
    return GgufHeader(version, metadata, _tensors(r, tensors, alignment))


def _value(r: _Reader, kind: int, key: str, depth: int) -> Value:
    if kind == TEXT:
        return r.text(MAX_TEXT, f"text {key!r}")
    if kind == ARRAY:
        return _array(r, key, depth)
    if kind not in _FIXED:
        raise r.wrong(f"found type {kind}; expected 0 to 12", f"metadata {key!r}")
    form = _FIXED[kind]
    value: Scalar = struct.unpack(form, r.take(struct.calcsize(form), f"metadata {key!r}"))[0]
    return value


def _array(r: _Reader, key: str, depth: int) -> GgufArray:
    if depth == MAX_DEPTH:
        raise r.wrong(f"arrays nested deeper than {MAX_DEPTH}", f"metadata {key!r}")
    kind = r.number("<I", f"type of array {key!r}")
    length = r.count(MAX_ARRAY, f"length of array {key!r}")
    if kind in _FIXED and length > KEPT:
        r.skip(length * struct.calcsize(_FIXED[kind]), f"array {key!r}")
        return GgufArray(length)
    if kind == TEXT and length > KEPT:
        for _ in range(length):
            r.skip(r.count(MAX_TEXT, f"a length in array {key!r}"), f"array {key!r}")
        return GgufArray(length)
    kept: list[Scalar] = []
    for _ in range(length):
        value = _value(r, kind, key, depth + 1)
        if not isinstance(value, GgufArray) and len(kept) < KEPT:
            kept.append(value)
    return GgufArray(length, tuple(kept))


def _tensors(r: _Reader, count: int, alignment: int) -> StoredTensors:
    found: dict[str, StoredTensor] = {}
    end = 0
    for _ in range(count):
        name = r.text(MAX_NAME, "name of a tensor")
        if name in found:
            raise r.wrong("it stands twice", f"tensor {name[:80]!r}")
        tensor, offset = _tensor(r, name)
        if offset % alignment:
            raise r.wrong(f"offset {offset}; expected a multiple of {alignment}", f"tensor {name[:80]!r}")
        found[name] = tensor
        end = max(end, offset + tensor.size_bytes)
    data = -(-r.at // alignment) * alignment
    missing = data + end - r.size
    notes = (
        (f"the file ends {missing} bytes before its weights do: a header alone, or cut",)
        if missing > 0
        else ()
    )
    stored = tuple(found.values())
    return StoredTensors("GGUF", stored, sum(tensor.size_bytes for tensor in stored), notes)


def _tensor(r: _Reader, name: str) -> tuple[StoredTensor, int]:
    what = f"tensor {name[:80]!r}"
    sides = r.number("<I", f"sides of {what}")
    if not 1 <= sides <= MAX_SIDES:
        raise r.wrong(f"found {sides} sides; expected 1 to {MAX_SIDES}", what)
    shape = tuple(r.count(2**40, f"a side of {what}") for _ in range(sides))
    kind = r.number("<I", f"type of {what}")
    if kind not in BLOCKS:
        raise r.wrong(f"found element type {kind}; known: {', '.join(map(str, BLOCKS))}", what)
    dtype, elements, size = BLOCKS[kind]
    if shape[0] % elements:
        raise r.wrong(f"rows of {shape[0]} are no whole blocks of {elements} ({dtype})", what)
    if prod(shape) > 2**48:
        raise r.wrong(f"found {prod(shape)} elements; expected at most {2**48}", what)
    offset = r.number("<Q", f"offset of {what}")
    return StoredTensor(name, shape[::-1], dtype, prod(shape) // elements * size), offset
