"""AMD Quark: a configuration for the model, others by layer's name or type, and a list of exceptions."""

from __future__ import annotations

from typing import Final

from workloads.transformer.checkpoint.scheme import MAX_GROUP, Scheme, listed, named, scaled
from workloads.transformer.fields import Fields
from workloads.transformer.formats import PLAIN, Format, FormatRule

__all__ = ["read_quark"]

TYPES: Final = {
    "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "fp4": "fp4", "fp6_e2m3": "fp6", "fp6_e3m2": "fp6",
    "int8": "int8", "uint8": "int8", "int4": "int4", "uint4": "int4", "int2": "int2", "int3": "int3",
    "float16": "", "bfloat16": "", "mx": "mxfp4", "mxfp4": "mxfp4",
}  # fmt: skip


def read_quark(q: Fields) -> Scheme:
    """``global_quant_config`` for all, ``layer_quant_config`` by name or glob; ``exclude`` stays plain."""
    overall = q.section("global_quant_config")
    if overall is None:
        q.problem("global_quant_config", "missing field global_quant_config; expected how weights are stored")
        return Scheme()
    rules = []
    layers = q.section("layer_quant_config")
    for name in layers.values if layers is not None else ():
        own = layers.section(name) if layers is not None else None
        if layers is not None and own is not None:
            rules.append(FormatRule(named(layers, name, [name]), _format(own)))
    by_type = q.section("layer_type_quant_config")
    for name in by_type.values if by_type is not None else ():
        if by_type is not None:
            by_type.problem(
                name, f"formats by class of layer ({name}) are not modelled; expected them by name"
            )
    return Scheme(_format(overall), tuple(rules), listed(q, "exclude"), kv=_cache(q))


def _format(f: Fields) -> Format:
    weight = f.section("weight")
    if weight is None:
        return PLAIN
    dtype, group = _type(weight)
    inputs = f.section("input_tensors")
    arithmetic = ""
    if inputs is not None:
        arithmetic = _type(inputs)[0]
    static = (
        inputs is not None and inputs.values.get("is_dynamic") is False and not arithmetic.startswith("mx")
    )
    if not dtype:
        return PLAIN
    scheme = weight.word("qscheme", default="per_tensor", known=("per_tensor", "per_channel", "per_group"))
    rows, columns = {"per_tensor": (0, 0), "per_channel": (1, 0)}.get(scheme, (1, group or 32))
    symmetric = weight.flag("symmetric", default=True)
    zero = 0 if symmetric or not dtype.startswith("int") else int(dtype[3:])
    return scaled(
        dtype, 32 if scheme != "per_group" else 16, zero, rows, columns, arithmetic=arithmetic, static=static
    )


def _type(f: Fields) -> tuple[str, int]:
    """Element type and group; blocks of 32 with a power-of-two scale are the microscaling types."""
    word = f.word("dtype", default="bfloat16", known=TYPES)
    group = max(f.integer("group_size", default=0, least=-1, most=MAX_GROUP), 0)
    dtype = TYPES.get(word, "")
    if f.word("scale_format", default="float32") == "e8m0" and group == 32 and dtype in ("fp4", "fp6", "fp8"):
        dtype = f"mx{dtype}"
    return dtype, group


def _cache(q: Fields) -> str:
    """The type of keys and values where the export names both projections' outputs."""
    found = q.section("kv_cache_quant_config")
    for name in found.values if found is not None else ():
        part = found.section(name) if found is not None else None
        outputs = part.section("output_tensors") if part is not None else None
        if outputs is not None:
            return _type(outputs)[0]
    return ""
