"""Element types of a checkpoint: its ``torch_dtype``, its ``quantization_config``, and what a user asks for.

A user's element type works so. A 16- or 32-bit float is used for everything. An 8-bit type (fp8, int8, mxfp8)
is the type of the blocks' linear layers, weights and arithmetic; activations between operators, embeddings,
norms, routers and the output projection stay in the model's own type, as deployed 8-bit checkpoints have
it; and so are 4-bit floats (fp4, mxfp4, nvfp4), which a chip without such arithmetic computes in the next wider type
that it has. An integer below 8 bits is storage only: the same layers' weights are kept in it (int4 in groups of 128
with a 16-bit scale and a 4-bit zero point) and computed in the model's own type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hw_configs.problems import nearest
from workloads.dtypes import GGUF, dtype_bits
from workloads.transformer.fields import Fields
from workloads.transformer.formats import PLAIN, Format, Precision
from workloads.transformer.shape import Decoder

__all__ = ["read_precision"]

OWN_TYPES: Final = {
    "float32": "fp32", "float": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16",
    "float64": "fp64",
    "fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "auto": "", "torch.float32": "fp32",
    "torch.float16": "fp16", "torch.bfloat16": "bf16", "float8_e4m3fn": "", "float8_e5m2": "",
}  # fmt: skip

ASKED: Final[dict[str, Format]] = {
    "fp8": Format("fp8", "fp8", scale_bits=32),
    "int8": Format("int8", "int8", scale_bits=32, block_rows=1),
    "mxfp8": Format("mxfp8", "mxfp8"),
    "int4": Format("int4", "", scale_bits=16, zero_bits=4, block_rows=1, block_columns=128),
    "int2": Format("int2", "", scale_bits=16, zero_bits=2, block_rows=1, block_columns=128),
    "fp4": Format("fp4", "fp4", scale_bits=16, block_rows=1, block_columns=128),
    "mxfp4": Format("mxfp4", "mxfp4"),
    "nvfp4": Format("nvfp4", "nvfp4"),
    "nf4": Format("nf4"),
    **{name: Format(name) for name in sorted(GGUF)},
}
"""Storage and arithmetic of linear layers for element types narrower than 16 bits."""


def read_precision(
    f: Fields, outer: Fields, decoder: Decoder, asked: str | None, kv_dtype: str | None
) -> Precision:
    """The element types of a model; problems are noted on ``f``."""
    own, note = _own_type(f, outer, decoder)
    for name in (asked, kv_dtype):
        if name is not None:
            dtype_bits(name)
    if asked is not None and asked not in ASKED:
        return Precision(asked, kv=kv_dtype or asked)
    if asked is not None:
        # A GGUF file keeps its output projection in blocks as well.
        return Precision(own, ASKED[asked], kv=kv_dtype or own, head=asked in GGUF, note=note)
    section = f.section("quantization_config") or outer.section("quantization_config")
    if section is None:
        section = f.section("compression_config")
    fmt, skipped, quantised = (PLAIN, (), "") if section is None else _read_scheme(section)
    return Precision(own, fmt, skipped, kv=kv_dtype or own, experts_only=quantised == "mxfp4", note=note)


def _own_type(f: Fields, outer: Fields, decoder: Decoder) -> tuple[str, str]:
    for fields in (f, outer):
        for name in ("dtype", "torch_dtype"):
            if fields.has(name):
                word = fields.word(name, known=OWN_TYPES)
                if OWN_TYPES.get(word):
                    return OWN_TYPES[word], ""
    assumed = decoder.dtype or "fp16"
    return assumed, f"the file names no element type; {assumed} assumed"


Scheme = tuple[Format, tuple[str, ...], str]


def _read_scheme(q: Fields) -> Scheme:
    """Format of linear layers, modules left as they are, and the method's name."""
    method = q.word("quant_method", default="")
    if not method and q.has("load_in_4bit"):
        method = "bitsandbytes"
    if not method:
        q.problem("quant_method", f"missing field quant_method; expected one of {', '.join(METHODS)}")
        return PLAIN, (), ""
    reader = METHODS.get(method)
    if reader is None:
        known = ", ".join(METHODS)
        q.problem(
            "quant_method", f"unknown quant_method {method!r}; known: {known}", nearest(method, METHODS)
        )
        return PLAIN, (), method
    skipped = [
        pattern
        for name in (
            "modules_to_not_convert",
            "llm_int8_skip_modules",
            "ignore",
            "exclude_modules",
            "ignored_layers",
        )
        for pattern in q.words(name) or []
    ]
    return reader(q), tuple(skipped), method


def _fp8(q: Fields) -> Format:
    """Blocks with an fp32 scale each (DeepSeek-V3), or one scale for the matrix."""
    block = q.integers("weight_block_size", 2, least=1)
    rows, columns = block or (0, 0)
    static = q.word("activation_scheme", default="dynamic") == "static"
    return Format("fp8", "fp8", scale_bits=32, block_rows=rows, block_columns=columns, static=static)


def _fbgemm_fp8(_: Fields) -> Format:
    """One fp32 scale per output row."""
    return Format("fp8", "fp8", scale_bits=32, block_rows=1)


def _mxfp4(_: Fields) -> Format:
    """32 elements share an 8-bit scale; the products run in 16 bits."""
    return Format("mxfp4")


def _grouped_integer(q: Fields) -> Format:
    """GPTQ: 16-bit scale and zero point per group of inputs, and a 32-bit group index per input."""
    return _integer(q, q.integer("bits", default=4, most=8), 32)


def _awq(q: Fields) -> Format:
    """AWQ: 16-bit scale and zero point per group of inputs."""
    return _integer(q, q.integer("bits", "w_bit", default=4, most=8), 0)


def _integer(q: Fields, bits: int, column_bits: int) -> Format:
    group = q.integer("group_size", "q_group_size", default=128, least=-1, most=2**20)
    types = {2: "int2", 4: "int4", 8: "int8"}
    if bits not in types:
        q.problem("bits", f"found {bits}; expected 2, 4 or 8")
        bits = 4
    return Format(types[bits], "", 16, bits, 1, max(group, 0), column_bits)


def _bitsandbytes(q: Fields) -> Format:
    """4 bits in blocks of 64 with a 32-bit scale (8-bit if scales are quantised too), or int8 by row."""
    if not q.flag("load_in_4bit", "_load_in_4bit", default=False):
        return Format("int8", "int8", scale_bits=32, block_rows=1)
    double = q.flag("bnb_4bit_use_double_quant", default=False)
    scale = 8 + 32 / 256 if double else 32
    return Format("fp4", "", scale_bits=scale, block_rows=1, block_columns=64)


def _compressed_tensors(q: Fields) -> Format:
    """The first group of layers: its weights' bits, type and strategy, and whether inputs are quantised."""
    groups = q.section("config_groups")
    first = None
    if groups is not None and groups.values:
        first = groups.section(next(iter(groups.values)))
    weights = first.section("weights") if first is not None else None
    if first is None or weights is None:
        q.problem("config_groups", "missing field config_groups; expected a group of layers with weights")
        return PLAIN
    bits = weights.integer("num_bits", default=8, most=16)
    kind = weights.word("type", default="int", known=("int", "float"))
    types = {("int", 4): "int4", ("int", 8): "int8", ("float", 8): "fp8", ("float", 4): "fp4"}
    dtype = types.get((kind, bits))
    if dtype is None:
        weights.problem("num_bits", f"found {bits} bits of type {kind}; expected 4 or 8")
        return PLAIN
    inputs = first.section("input_activations")
    arithmetic = ""
    if inputs is not None and inputs.integer("num_bits", default=16, most=16) <= bits:
        arithmetic = dtype
    strategy = weights.word("strategy", default="tensor")
    symmetric = weights.flag("symmetric", default=True)
    zero = 0 if symmetric else bits
    group = max(weights.integer("group_size", default=0, least=-1, most=2**20), 0)
    if dtype == "fp4":
        return Format("fp4", arithmetic, 8, 0, 1, group or 16)
    if strategy == "block":
        rows, columns = weights.integers("block_structure", 2, least=1) or (128, 128)
        return Format(dtype, arithmetic, 32, zero, rows, columns)
    sides = {"tensor": (0, 0), "channel": (1, 0)}.get(strategy, (1, group))
    return Format(dtype, arithmetic, 16, zero, *sides)


def _modelopt(q: Fields) -> Format:
    """NVIDIA's exports: FP8 with one scale, or NVFP4 in blocks of 16."""
    algorithm = q.word("quant_algo", default="FP8")
    if "NVFP4" in algorithm.upper():
        return Format("nvfp4", "nvfp4")
    return Format("fp8", "fp8", scale_bits=32, static=True)


METHODS: Final[dict[str, Callable[[Fields], Format]]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm_fp8,
    "mxfp4": _mxfp4,
    "gptq": _grouped_integer,
    "awq": _awq,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
}
"""Readers by ``quant_method``."""
