"""Headers of safetensors files: one file, or an index with the shards that it names, read without the weights.

A file begins with the length of its header as 64 bits and the header as JSON: for each tensor its element type, shape
and the span of its bytes (format of the safetensors library, version 0.x). An index (``*.safetensors.index.json``) says
which shard holds which tensor and how many bytes there are in all.
"""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import InputError, bad_input
from workloads.json_file import JsonDocument, read_json, read_json_text
from workloads.stored_tensors import StoredTensor, StoredTensors

__all__ = ["INDEX_ENDING", "read_safetensors"]

INDEX_ENDING: Final = ".safetensors.index.json"
MAX_HEADER_BYTES: Final = 100_000_000
"""The bound of the library itself."""
MAX_TENSORS: Final = 2**20
MAX_SHARDS: Final = 4096

TYPES: Final = {
    "F64": ("fp64", 64), "F32": ("fp32", 32), "F16": ("fp16", 16), "BF16": ("bf16", 16), "F8_E4M3": ("fp8", 8),
    "F8_E5M2": ("fp8", 8), "F8_E8M0": ("scale8", 8), "F8_E4M3FNUZ": ("fp8", 8), "F8_E5M2FNUZ": ("fp8", 8),
    "F6_E2M3": ("fp6", 6), "F6_E3M2": ("fp6", 6), "F4": ("fp4", 4), "I64": ("int64", 64), "I32": ("int32", 32),
    "I16": ("int16", 16), "I8": ("int8", 8), "U64": ("uint64", 64), "U32": ("uint32", 32), "U16": ("uint16", 16),
    "U8": ("uint8", 8), "BOOL": ("bool", 8), "C64": ("complex64", 64),
}  # fmt: skip
"""Our word and the bits of an element, by the file's word."""


def read_safetensors(path: Path) -> StoredTensors:
    """The tensors of a file or of an index; ``InputError`` for one that is damaged."""
    return _read_index(path) if path.name.endswith(INDEX_ENDING) else _read_file(path)


def _read_file(path: Path) -> StoredTensors:
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            front = stream.read(8)
            if len(front) < 8:
                raise bad_input("not a safetensors file: shorter than the length of a header", file=str(path))
            length = struct.unpack("<Q", front)[0]
            if length > MAX_HEADER_BYTES:
                raise bad_input(
                    f"not a safetensors file: a header of {length} bytes; expected at most {MAX_HEADER_BYTES}",
                    file=str(path),
                )
            text = stream.read(length)
    except OSError as error:
        raise bad_input(f"cannot be read: {error.strerror}", file=str(path)) from None
    if len(text) < length:
        raise bad_input(f"the header is cut short: {length - len(text)} bytes are missing", file=str(path))
    try:
        document = read_json_text(text.decode("utf-8"), f"{path}: header")
    except UnicodeDecodeError:
        raise bad_input("not a safetensors file: its header is no text", file=str(path)) from None
    return _tensors(document, path, size - 8 - length)


def _tensors(document: JsonDocument, path: Path, held: int) -> StoredTensors:
    """Tensors of a header; their spans must cover the data without holes, as the library demands."""
    if not isinstance(document.data, dict):
        raise bad_input("found a header that is no object", file=str(path))
    entries = {name: value for name, value in document.data.items() if name != "__metadata__"}
    if len(entries) > MAX_TENSORS:
        raise bad_input(f"found {len(entries)} tensors; expected at most {MAX_TENSORS}", file=str(path))
    found = [(_span(path, name, entry), _tensor(path, name, entry)) for name, entry in entries.items()]
    end = 0
    for (first, last), tensor in sorted(found, key=lambda pair: pair[0]):
        if first != end or last - first != tensor.size_bytes:
            raise bad_input(
                f"tensor {tensor.name[:80]!r} spans bytes {first} to {last}; expected {tensor.size_bytes} bytes "
                f"from {end}",
                file=str(path),
            )
        end = last
    notes: tuple[str, ...] = ()
    if end > held:
        notes = (f"{path.name} ends {end - held} bytes before its weights do: a header alone, or cut",)
    tensors = tuple(tensor for _, tensor in found)
    return StoredTensors("safetensors", tensors, end, notes)


def _span(path: Path, name: str, entry: Any) -> tuple[int, int]:
    wanted = {"dtype", "shape", "data_offsets"}
    if not isinstance(entry, dict) or set(entry) != wanted:
        raise _wrong(path, name, f"expected {', '.join(sorted(wanted))}")
    span = entry["data_offsets"]
    if not _whole(span) or len(span) != 2 or span[0] > span[1]:
        raise _wrong(path, name, "data_offsets: expected where its bytes begin and end")
    return span[0], span[1]


def _tensor(path: Path, name: str, entry: dict[str, Any]) -> StoredTensor:
    word, shape = entry["dtype"], entry["shape"]
    if not isinstance(word, str) or word not in TYPES:
        raise _wrong(path, name, f"unknown dtype {str(word)[:40]!r}; known: {', '.join(TYPES)}")
    if not _whole(shape) or len(shape) > 32 or prod(shape) > 2**48:
        raise _wrong(path, name, "shape: expected a list of sides, of at most 2^48 elements in all")
    dtype, bits = TYPES[word]
    return StoredTensor(name, tuple(shape), dtype, -(-prod(shape) * bits // 8))


def _whole(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _wrong(path: Path, name: str, message: str) -> InputError:
    return bad_input(f"tensor {name[:80]!r}: {message}", file=str(path))


def _read_index(path: Path) -> StoredTensors:
    """The shards' headers where all are there; else the names and the total of the index, with a note."""
    document = read_json(path, MAX_HEADER_BYTES)
    data = document.data
    where = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(where, dict) or not all(isinstance(file, str) for file in where.values()):
        raise bad_input(
            "missing field weight_map; expected the shard of every tensor", file=document.file, line=1
        )
    shards = sorted(set(where.values()))
    if len(shards) > MAX_SHARDS or len(where) > MAX_TENSORS:
        raise bad_input(
            f"found {len(where)} tensors in {len(shards)} shards; expected fewer", file=document.file
        )
    strange = [shard for shard in shards if "/" in shard or "\\" in shard or shard in ("", ".", "..")]
    if strange:
        raise bad_input(f"found shard {strange[0]!r}; expected a file beside the index", file=document.file)
    there = [path.with_name(shard) for shard in shards if path.with_name(shard).is_file()]
    if len(there) == len(shards):
        return _joined(path, where, [_read_file(shard) for shard in there])
    stated = data.get("metadata")
    total = stated.get("total_size") if isinstance(stated, dict) else None
    if isinstance(total, float) and total.is_integer():
        total = int(total)
    if type(total) is not int or total < 0:
        raise bad_input(
            "missing field metadata.total_size; expected it where shards are not beside the index",
            file=document.file,
        )
    note = f"{len(shards) - len(there)} of {len(shards)} shards are not beside the index: its total is taken"
    return StoredTensors("safetensors index", (), total, (f"{note}, and no tensor's type is known",))


def _joined(path: Path, where: dict[str, str], headers: list[StoredTensors]) -> StoredTensors:
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    names = {tensor.name for tensor in tensors}
    lost = sorted(set(where) - names)
    if lost:
        raise bad_input(
            f"{len(lost)} tensors of the index are in no shard, {lost[0]!r} first", file=str(path)
        )
    if len(names) < len(tensors):
        raise bad_input("two shards hold tensors of one name", file=str(path))
    notes = tuple(note for header in headers for note in header.notes)
    return StoredTensors("safetensors", tensors, sum(header.size_bytes for header in headers), notes)
