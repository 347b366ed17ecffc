"""torchao: a configuration by the name of its class, for the model or by module."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from hw_configs.problems import nearest
from workloads.transformer.checkpoint.scheme import (
    BLOCKS,
    EVERYTHING,
    MAX_GROUP,
    Scheme,
    integer_format,
    listed,
    named,
)  # fmt: skip
from workloads.transformer.fields import Fields
from workloads.transformer.formats import PLAIN, Format, FormatRule

__all__ = ["read_torchao"]


def _int4(f: Fields) -> Format:
    return integer_format(4, f.integer("group_size", default=128, least=1, most=MAX_GROUP), 16)


def _int8(f: Fields) -> Format:
    return integer_format(8, f.integer("group_size", default=0, least=-1, most=MAX_GROUP), 0)


def _dynamic_int4(f: Fields) -> Format:
    group = f.integer("group_size", default=32, least=1, most=MAX_GROUP)
    return Format("int4", "int8", 32, 0, 1, group)


def _intx(f: Fields) -> Format:
    """Weights of any width; the dtype is written as ``torch.int4`` or as a mapping with ``_data``."""
    bits = _width(f, "weight_dtype", 4)
    granularity = f.section("weight_granularity") or f.section("granularity")
    data = granularity.section("_data") if granularity is not None else None
    group = data.integer("group_size", default=32, least=1, most=MAX_GROUP) if data is not None else 0
    return integer_format(bits, group, 0)


def _width(f: Fields, key: str, default: int) -> int:
    value = f.values.get(key)
    if isinstance(value, dict):
        value = value.get("_data")
    found = re.fullmatch(r"(?:torch\.)?u?int([1-8])", str(value)) if value is not None else None
    if value is not None and found is None:
        f.problem(key, f"found {value!r}; expected int2 to int8")
    bits = int(found[1]) if found else default
    if bits < 2:
        f.problem(key, f"found {bits} bit; expected int2 to int8")
        bits = 2
    return bits


CONFIGS: Final[dict[str, Callable[[Fields], Format]]] = {
    "int4weightonly": _int4,
    "int8weightonly": _int8,
    "int8dynamicactivationint8weight": lambda _: Format("int8", "int8", 32, 0, 1),
    "int8dynamicactivationint4weight": _dynamic_int4,
    "int8dynamicactivationintxweight": _intx,
    "intxweightonly": _intx,
    "float8weightonly": lambda _: Format("fp8", "", 32, 0, 1),
    "float8dynamicactivationfloat8weight": lambda _: Format("fp8", "fp8", 32, 0, 1),
    "float8staticactivationfloat8weight": lambda _: Format("fp8", "fp8", 32, static=True),
    "float8dynamicactivationint4weight": lambda _: Format("int4", "fp8", 16, 16, 1, 128),
    "nvfp4dynamicactivationnvfp4weight": lambda _: Format("nvfp4", "nvfp4"),
    "nvfp4weightonly": lambda _: Format("nvfp4"),
    "mxfp4weightonly": lambda _: Format("mxfp4"),
}  # fmt: skip
"""Formats by the class's name in lower case without underlines and ``Config``."""


def read_torchao(q: Fields) -> Scheme:
    """``quant_type``: a word, a class with its data, or classes by module."""
    covers = EVERYTHING if q.flag("include_input_output_embeddings", default=False) else BLOCKS
    skipped = listed(q, "modules_to_not_convert")
    value = q.values.get("quant_type")
    if isinstance(value, str):
        kwargs = q.section("quant_type_kwargs") or Fields({}, q.file, q.line_of, q.path, q.problems)
        return Scheme(_by_name(q, "quant_type", value, kwargs), (), skipped, covers)
    kind = q.section("quant_type")
    if kind is None:
        q.problem("quant_type", "missing field quant_type; expected the name of a torchao configuration")
        return Scheme()
    config = kind.section("default") or kind
    data = config.section("_data") or Fields({}, q.file, q.line_of, config.path, q.problems)
    name = config.word("_type")
    if _folded(name) not in ("modulefqnto", "fqnto"):
        return Scheme(_by_name(config, "_type", name, data), (), skipped, covers)
    modules = data.section("module_fqn_to_config") or data.section("fqn_to_config")
    rules, linear = [], PLAIN
    for module in modules.values if modules is not None else ():
        if modules is None:
            break
        own = modules.section(module)
        inner = (
            own.section("_data") or Fields({}, q.file, q.line_of, own.path, q.problems)
            if own is not None
            else None
        )
        fmt = (
            _by_name(own, "_type", own.word("_type"), inner)
            if own is not None and inner is not None
            else PLAIN
        )
        if module == "_default":
            linear = fmt
        else:
            rules.append(FormatRule(named(modules, module, [module]), fmt))
    return Scheme(linear, tuple(rules), skipped, covers)


def _folded(name: str) -> str:
    return name.replace("_", "").lower().removesuffix("config")


def _by_name(f: Fields, key: str, name: str, data: Fields) -> Format:
    reader = CONFIGS.get(_folded(name))
    if reader is None:
        if name:
            f.problem(
                key,
                f"unknown torchao configuration {name!r}; known: {', '.join(CONFIGS)}",
                nearest(_folded(name), CONFIGS),
            )
        return PLAIN
    return reader(data)
