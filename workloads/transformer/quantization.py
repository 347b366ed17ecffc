"""Element types of a checkpoint: its ``torch_dtype``, what it says of its quantisation, and what a user asks for.

What a checkpoint says may stand under ``quantization_config``, ``compression_config`` or MLX's ``quantization`` in its
``config.json``, or in a file beside it. Whatever of it is not understood is a problem that names it, or a note.

A user's element type works so. A 16- or 32-bit float is used for everything. An 8-bit type (fp8, int8, mxfp8)
is the type of the blocks' linear layers, weights and arithmetic; activations between operators, embeddings,
norms, routers and the output projection stay in the model's own type, as deployed 8-bit checkpoints have
it; and so are 4-bit floats (fp4, mxfp4, nvfp4), which a chip without such arithmetic computes in the next wider type
that it has. An integer below 8 bits is storage only: the same layers' weights are kept in it (int4 in groups of 128
with a 16-bit scale and a 4-bit zero point) and computed in the model's own type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from hw_configs.problems import nearest
from workloads.dtypes import GGUF, dtype_bits
from workloads.transformer.checkpoint import integers
from workloads.transformer.checkpoint.groups import read_groups
from workloads.transformer.checkpoint.known_keys import KNOWN
from workloads.transformer.checkpoint.mlx import read_mlx
from workloads.transformer.checkpoint.modelopt import read_fp8_or_mixed, read_modelopt
from workloads.transformer.checkpoint.quark import read_quark
from workloads.transformer.checkpoint.scheme import BLOCKS, Scheme, kv_type
from workloads.transformer.checkpoint.torchao import read_torchao
from workloads.transformer.fields import Fields
from workloads.transformer.formats import Format, FormatRule, Precision
from workloads.transformer.module_names import HEAD, module_set
from workloads.transformer.shape import Decoder

__all__ = ["SIDE_FILES", "read_precision"]

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
    **{
        f"int{bits}": Format(f"int{bits}", "", scale_bits=16, zero_bits=bits, block_rows=1, block_columns=128)
        for bits in (2, 3, 4, 5, 6, 7)
    },
    "fp4": Format("fp4", "fp4", scale_bits=16, block_rows=1, block_columns=128),
    "fp6": Format("fp6", "", scale_bits=16, block_rows=1, block_columns=128),
    "mxfp6": Format("mxfp6"),
    "mxfp4": Format("mxfp4", "mxfp4"),
    "nvfp4": Format("nvfp4", "nvfp4"),
    "nf4": Format("nf4"),
    **{name: Format(name) for name in sorted(GGUF)},
}
"""Storage and arithmetic of linear layers for element types narrower than 16 bits."""

SIDE_FILES: Final = ("hf_quant_config.json", "quantize_config.json")
"""Files beside a ``config.json`` that say how its checkpoint is quantised: ModelOpt's, and GPTQ's older one."""

METHODS: Final[dict[str, Callable[[Fields], Scheme]]] = {
    "fp8": read_fp8_or_mixed,
    "fbgemm_fp8": integers.read_fbgemm,
    "mxfp4": integers.read_mxfp4,
    "gptq": integers.read_gptq,
    "awq": integers.read_awq,
    "auto-round": integers.read_auto_round,
    "hqq": integers.read_hqq,
    "bitsandbytes": integers.read_bitsandbytes,
    "bitnet": integers.read_bitnet,
    "eetq": integers.read_eetq,
    "quanto": integers.read_quanto,
    "compressed-tensors": read_groups,
    "modelopt": read_modelopt,
    "mlx": read_mlx,
    "torchao": read_torchao,
    "quark": read_quark,
}
"""Readers by ``quant_method``."""

ALIASES: Final = {
    "intel/auto-round": "auto-round", "auto_round": "auto-round", "compressed_tensors": "compressed-tensors",
    "modelopt_fp4": "modelopt", "modelopt_mixed": "modelopt", "modelopt_fp8": "modelopt", "gptqmodel": "gptq",
    "gptq_marlin": "gptq", "awq_marlin": "awq", "bitblas": "gptq",
}  # fmt: skip


def read_precision(
    f: Fields, outer: Fields, decoder: Decoder, asked: str | None, kv_dtype: str | None,
    side: Mapping[str, Fields] | None = None,
) -> Precision:  # fmt: skip
    """The element types of a model; problems are noted on ``f``. ``side``: files beside the config, by name."""
    own, note = _own_type(f, outer, decoder)
    for name in (asked, kv_dtype):
        if name is not None:
            dtype_bits(name)
    if asked is not None and asked not in ASKED:
        return Precision(asked, kv=kv_dtype or asked)
    if asked is not None:
        # A GGUF file keeps its output projection in blocks as well.
        covers = BLOCKS | {HEAD} if asked in GGUF else BLOCKS
        return Precision(own, ASKED[asked], covers=covers, kv=kv_dtype or own, note=note)
    found = _scheme(f, outer, side or {})
    notes = "; ".join(text for text in (note, found.note) if text)
    return Precision(
        own, found.linear, (*_expert_type(f, found), *found.rules), found.skipped, found.covers,
        kv_dtype or found.kv or own, notes,
    )  # fmt: skip


def _own_type(f: Fields, outer: Fields, decoder: Decoder) -> tuple[str, str]:
    for fields in (f, outer):
        for name in ("dtype", "torch_dtype"):
            if fields.has(name):
                word = fields.word(name, known=OWN_TYPES)
                if OWN_TYPES.get(word):
                    return OWN_TYPES[word], ""
    assumed = decoder.dtype or "fp16"
    return assumed, f"the file names no element type; {assumed} assumed"


def _expert_type(f: Fields, scheme: Scheme) -> tuple[FormatRule, ...]:
    """DeepSeek-V4's ``expert_dtype``: fp4 experts in blocks of 32 beside an fp8 checkpoint's other layers.

    Where the checkpoint's own lists name its experts, those hold.
    """
    if not f.has("expert_dtype"):
        return ()
    word = f.word("expert_dtype", known=("fp4", "fp8", "bf16"))
    probe = "layers.0.mlp.experts.up_proj"
    if word != "fp4" or any(probe in rule.modules for rule in scheme.rules):
        return ()
    return (FormatRule(module_set(["experts"]), Format("mxfp4", scheme.linear.arithmetic)),)


def _scheme(f: Fields, outer: Fields, side: Mapping[str, Fields]) -> Scheme:
    """What the checkpoint says, wherever it says it; the config's own section goes before a file beside it."""
    section = _section(f, outer)
    beside = side.get("hf_quant_config.json")
    if beside is not None:
        inner = beside.section("quantization")
        if inner is None:
            beside.problem(
                "quantization", "missing field quantization; expected quant_algo and what it leaves out"
            )
        elif section is None:
            return read_modelopt(inner)
        else:
            found = _read_section(section)
            return found if found.kv else replace(found, kv=kv_type(inner, "kv_cache_quant_algo"))
    if section is None and "quantize_config.json" in side:
        return integers.read_gptq(side["quantize_config.json"])
    return Scheme() if section is None else _read_section(section)


def _section(f: Fields, outer: Fields) -> Fields | None:
    for fields in (outer, f):
        for name in ("quantization_config", "compression_config", "quantization"):
            if fields.has(name):
                found = fields.section(name)
                if found is not None:
                    return found
    return None


def _read_section(q: Fields) -> Scheme:
    """A section by the reader of its method, which is told by its keys where it does not say."""
    method = q.word("quant_method", default="") or _method_by_keys(q)
    if not method:
        q.problem("quant_method", f"missing field quant_method; expected one of {', '.join(METHODS)}")
        return Scheme()
    reader = METHODS.get(ALIASES.get(method.lower(), method.lower()))
    if reader is None:
        message = f"unknown quant_method {method!r}; known: {', '.join(METHODS)}"
        q.problem("quant_method", message, nearest(method, METHODS))
        return Scheme()
    found = reader(q)
    strange = sorted(set(q.values) - KNOWN) if reader is not read_mlx else []
    if strange:
        note = f"quantization keys that Offchip does not know and leaves out: {', '.join(strange)}"
        found = replace(found, note="; ".join(text for text in (found.note, note) if text))
    return found


def _method_by_keys(q: Fields) -> str:
    producer = q.section("producer") if isinstance(q.values.get("producer"), Mapping) else None
    if producer is not None and producer.word("name", default="") == "modelopt":
        return "modelopt"
    if q.has("quant_algo"):
        return "modelopt"
    if q.has("load_in_4bit") or q.has("load_in_8bit"):
        return "bitsandbytes"
    if q.has("config_groups"):
        return "compressed-tensors"
    if q.has("desc_act") or q.has("damp_percent"):
        return "gptq"
    if q.has("zero_point") or q.has("w_bit"):
        return "awq"
    if q.path[-1:] == ("quantization",) or (q.has("bits") and q.has("group_size")):
        return "mlx"
    return ""
