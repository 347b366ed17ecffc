"""GGUF and safetensors files of tests, written and read back in the plainest way: no weights, only headers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

BLOCK_BYTES = {
    "fp32": (0, 1, 4), "fp16": (1, 1, 2), "q4_0": (2, 32, 18), "q8_0": (8, 32, 34), "q4_k": (12, 256, 144),
    "q5_k": (13, 256, 176), "q6_k": (14, 256, 210), "iq2_xs": (17, 256, 74), "bf16": (30, 1, 2),
    "mxfp4": (39, 32, 17), "iq4_xs": (23, 256, 136), "iq3_s": (21, 256, 110), "tq1_0": (34, 256, 54),
}  # fmt: skip
"""Type number, elements and bytes of a block (llama.cpp, ``ggml-common.h``)."""

Tensors = dict[str, tuple[tuple[int, ...], str]]
"""Sides (outermost first) and element type by name."""


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value_bytes(value: Any) -> bytes:
    """A value of metadata with its type in front."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<IQ" if value >= 0 else "<Iq", 10 if value >= 0 else 11, value)
    if isinstance(value, float):
        return struct.pack("<Id", 12, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    kinds = {type(item) for item in value}
    kind = {int: 11, str: 8, float: 12, list: 9}[kinds.pop()] if kinds else 4
    items = b"".join(value_bytes(item)[4:] if kind != 11 else struct.pack("<q", item) for item in value)
    return struct.pack("<IIQ", 9, kind, len(value)) + items


def gguf_bytes(metadata: dict[str, Any], tensors: Tensors, version: int = 3, alignment: int = 32) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(text(key) + value_bytes(value) for key, value in metadata.items())
    offset = 0
    for name, (shape, dtype) in tensors.items():
        kind, elements, size = BLOCK_BYTES[dtype]
        head += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        head += struct.pack("<IQ", kind, offset)
        held = size
        for side in shape:
            held *= side
        offset += -(-held // elements // alignment) * alignment
    return head


def safetensors_bytes(tensors: Tensors, words: dict[str, tuple[str, int]]) -> bytes:
    """A header of these tensors; ``words``: the file's name and bits of each element type."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (shape, dtype) in tensors.items():
        word, bits = words[dtype]
        size = bits
        for side in shape:
            size *= side
        header[name] = {"dtype": word, "shape": list(shape), "data_offsets": [at, at + size // 8]}
        at += size // 8
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw


def llama_tensors(hidden: int, inner: int, layers: int, kv: int, vocab: int, dtype: str) -> Tensors:
    """A small Llama's tensors in llama.cpp's names: products in ``dtype``, values and output in 6 bits."""
    tensors: Tensors = {
        "token_embd.weight": ((vocab, hidden), dtype),
        "output_norm.weight": ((hidden,), "fp32"),
    }
    tensors["output.weight"] = ((vocab, hidden), "q6_k")
    for layer in range(layers):
        for name, shape, kind in (
            ("attn_norm", (hidden,), "fp32"), ("ffn_norm", (hidden,), "fp32"), ("attn_q", (hidden, hidden), dtype),
            ("attn_k", (kv, hidden), dtype), ("attn_v", (kv, hidden), "q6_k"), ("attn_output", (hidden, hidden), dtype),
            ("ffn_gate", (inner, hidden), dtype), ("ffn_up", (inner, hidden), dtype),
            ("ffn_down", (hidden, inner), "q6_k" if layer == 0 else dtype),
        ):  # fmt: skip
            tensors[f"blk.{layer}.{name}.weight"] = (shape, kind)
    return tensors


LLAMA_KEYS = {
    "general.architecture": "llama", "general.name": "small", "llama.block_count": 2, "llama.embedding_length": 512,
    "llama.feed_forward_length": 1024, "llama.attention.head_count": 8, "llama.attention.head_count_kv": 2,
    "llama.context_length": 4096, "llama.rope.dimension_count": 64, "tokenizer.ggml.tokens": ["a"] * 1000,
}  # fmt: skip


def small_llama(folder: Path, dtype: str = "q4_k") -> Path:
    """A header of a Llama of two layers."""
    path = folder / "small.gguf"
    path.write_bytes(gguf_bytes(LLAMA_KEYS, llama_tensors(512, 1024, 2, 128, 1000, dtype)))
    return path
