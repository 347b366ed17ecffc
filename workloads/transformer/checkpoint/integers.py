"""Methods that store integers in groups, and the 8-bit floats of ``fp8``: one format, lists of exceptions.

GPTQ (arXiv:2210.17323), AWQ (arXiv:2306.00978), HQQ, AutoRound, bitsandbytes, BitNet, EETQ, quanto, as the hub's
``quantization_config`` describes each.
"""

from __future__ import annotations

from typing import Final

from workloads.transformer.checkpoint.scheme import BLOCKS, MAX_GROUP, Scheme, integer_format, listed, named
from workloads.transformer.fields import Fields
from workloads.transformer.formats import NO_MODULES, PLAIN, Format, FormatRule
from workloads.transformer.module_names import EXPERTS, HEAD

__all__ = [
    "read_auto_round", "read_awq", "read_bitnet", "read_bitsandbytes", "read_eetq", "read_fbgemm", "read_fp8",
    "read_gptq", "read_hqq", "read_mxfp4", "read_quanto",
]  # fmt: skip

SKIPPED: Final = ("modules_to_not_convert", "ignored_layers")

_BY_ROW: Final = Format("int8", "int8", scale_bits=32, block_rows=1)


def read_fp8(q: Fields) -> Scheme:
    """Blocks with an fp32 scale each (DeepSeek-V3), or one scale for the matrix."""
    block = q.integers("weight_block_size", 2, least=1)
    rows, columns = block or (0, 0)
    static = q.word("activation_scheme", default="dynamic", known=("static", "dynamic")) == "static"
    fmt = Format("fp8", "fp8", scale_bits=32, block_rows=rows, block_columns=columns, static=static)
    return Scheme(fmt, skipped=listed(q, *SKIPPED, "exclude_modules"))


def read_fbgemm(q: Fields) -> Scheme:
    """One fp32 scale per output row."""
    return Scheme(Format("fp8", "fp8", scale_bits=32, block_rows=1), skipped=listed(q, *SKIPPED))


def read_mxfp4(q: Fields) -> Scheme:
    """gpt-oss: experts alone; 32 elements share an 8-bit scale; the products run in 16 bits."""
    return Scheme(Format("mxfp4"), skipped=listed(q, *SKIPPED), covers=frozenset((EXPERTS,)))


def _bits(q: Fields, *names: str, least: int = 2, default: int = 4) -> int:
    return q.integer(*names, default=default, least=least, most=8)


def _group(q: Fields, *names: str, default: int = 128) -> int:
    return max(q.integer(*names, default=default, least=-1, most=MAX_GROUP), 0)


def read_gptq(q: Fields) -> Scheme:
    """16-bit scale and zero point per group of inputs, and a 32-bit group index per input.

    ``dynamic`` has expressions: ``-:`` leaves modules as they are, ``+:`` or none gives them other bits or groups.
    """
    bits, group = _bits(q, "bits"), _group(q, "group_size")
    fmt = integer_format(bits, group, bits, 16, 32)
    rules, skips = [], []
    dynamic = q.section("dynamic")
    for key in dynamic.values if dynamic is not None else ():
        if dynamic is None:
            break
        text = key[2:] if key[:2] in ("+:", "-:") else key
        if key.startswith("-:"):
            skips.append(f"re:{text}")
            continue
        other = dynamic.section(key)
        if other is not None:
            width = _bits(other, "bits", default=bits)
            own = integer_format(width, _group(other, "group_size", default=group), width, 16, 32)
            rules.append(FormatRule(named(dynamic, key, [text], expressions=True), own))
    lists = [pattern for key in SKIPPED for pattern in q.words(key) or []]
    covers = BLOCKS | {HEAD} if q.flag("lm_head", default=False) else BLOCKS
    skipped = named(q, "dynamic" if skips else SKIPPED[0], [*lists, *skips])
    if q.has("modules_in_block_to_quantize"):
        rules.append(FormatRule(named(q, "modules_in_block_to_quantize", _chosen(q)), fmt))
        fmt = PLAIN
    return Scheme(fmt, tuple(rules), skipped, covers)


def _chosen(q: Fields) -> list[str]:
    """The modules of a block that are quantised at all, from a list or a list of lists."""
    key = "modules_in_block_to_quantize"
    value = q.values[key]
    parts = value if isinstance(value, list) else [value]
    flat = [name for part in parts for name in (part if isinstance(part, list) else [part])]
    if not all(isinstance(name, str) for name in flat):
        q.problem(key, "expected a list of names of modules, or lists of them")
        return []
    return flat


def read_awq(q: Fields) -> Scheme:
    """16-bit scale and zero point per group of inputs; ``zero_point`` false: scales alone."""
    bits, group = _bits(q, "bits", "w_bit"), _group(q, "group_size", "q_group_size")
    zero = bits if q.flag("zero_point", default=True) else 0
    return Scheme(integer_format(bits, group, zero), skipped=listed(q, *SKIPPED))


def read_auto_round(q: Fields) -> Scheme:
    """Bits and group for all, others in ``extra_config`` by name; 16 bits stand for plain."""
    bits, group = q.integer("bits", default=4, least=2, most=16), _group(q, "group_size")
    kind = q.word("data_type", default="int")
    symmetric = q.flag("sym", default=True)
    fmt = _rounded(q, kind, bits, group, symmetric)
    rules = []
    extra = q.section("extra_config")
    for name in extra.values if extra is not None else ():
        other = extra.section(name) if extra is not None else None
        if extra is None or other is None:
            continue
        own = _rounded(
            other, other.word("data_type", default=kind), other.integer("bits", default=bits, least=2, most=16),
            _group(other, "group_size", default=group), other.flag("sym", default=symmetric),
        )  # fmt: skip
        # Names are written whole, or as an expression on them.
        pattern = f"re:{name}" if any(sign in name for sign in "\\^$()|*+") else name
        rules.append(FormatRule(named(extra, name, [pattern]), own))
    return Scheme(fmt, tuple(rules), listed(q, *SKIPPED))


def _rounded(q: Fields, kind: str, bits: int, group: int, symmetric: bool) -> Format:
    if bits == 16:
        return PLAIN
    floats = {
        "mx_fp": "mxfp",
        "mx_fp_rceil": "mxfp",
        "nv_fp": "nvfp",
        "nv_fp4_with_static_gs": "nvfp",
        "fp8": "fp",
    }
    for word, stem in floats.items():
        if kind == word or (kind.startswith(stem) and not kind.startswith("fp8")):
            return _float(q, f"{stem}{bits}")
    if kind not in ("int", "int_sym", "int_asym"):
        q.problem("data_type", f"found {kind!r}; expected int, {', '.join(floats)}")
        return PLAIN
    if bits > 8:
        q.problem("bits", f"found {bits}; expected 2 to 8, or 16 for a layer left as it is")
        return PLAIN
    return integer_format(bits, group, 0 if symmetric else bits)


def _float(q: Fields, dtype: str) -> Format:
    if dtype not in ("mxfp4", "mxfp6", "mxfp8", "nvfp4", "fp8"):
        q.problem("bits", f"no float type {dtype}; expected mxfp4, mxfp8, nvfp4 or fp8")
        return PLAIN
    return Format(dtype, dtype, scale_bits=32, block_rows=1) if dtype == "fp8" else Format(dtype, dtype)


def read_hqq(q: Fields) -> Scheme:
    """16-bit scale and zero point per group; ``quant_config`` holds them, or each kind of layer its own."""
    config = q.section("quant_config") or q
    skipped = listed(q, "skip_modules", *SKIPPED)
    weights = config.section("weight_quant_params")
    if weights is not None:
        return Scheme(_hqq(weights), skipped=skipped)
    if config.has("nbits"):
        return Scheme(_hqq(config), skipped=skipped)
    rules = []
    for name in config.values:
        other = config.section(name)
        params = other.section("weight_quant_params") or other if other is not None else None
        if params is not None:
            rules.append(FormatRule(named(config, name, [name]), _hqq(params)))
    return Scheme(PLAIN, tuple(rules), skipped)


def _hqq(f: Fields) -> Format:
    bits = f.integer("nbits", least=1, most=8)
    if bits == 1:
        f.problem("nbits", "found 1; expected 2 to 8")
        bits = 2
    return integer_format(bits, _group(f, "group_size", default=64), 16)


def read_bitsandbytes(q: Fields) -> Scheme:
    """4 bits in blocks of 64 with a 32-bit scale (8-bit if scales are quantised too), or int8 by row."""
    skipped = listed(q, "llm_int8_skip_modules", *SKIPPED)
    if not q.flag("load_in_4bit", "_load_in_4bit", default=False):
        return Scheme(_BY_ROW, skipped=skipped)
    double = q.flag("bnb_4bit_use_double_quant", default=False)
    scale = 8 + 32 / 256 if double else 32
    return Scheme(Format("fp4", "", scale_bits=scale, block_rows=1, block_columns=64), skipped=skipped)


def read_bitnet(q: Fields) -> Scheme:
    """Ternary weights (arXiv:2402.17764): four in a byte, one 16-bit scale a matrix; products of 8-bit integers.

    With ``quantization_mode`` online the checkpoint keeps plain weights, which are rounded as they are loaded.
    """
    if q.word("quantization_mode", default="offline", known=("offline", "online")) == "online":
        return Scheme(PLAIN, note="BitNet weights are rounded online: stored in the model's own type")
    return Scheme(Format("int2", "int8", scale_bits=16), skipped=listed(q, *SKIPPED))


def read_eetq(q: Fields) -> Scheme:
    """8-bit integers, one 16-bit scale per output row; the product runs in 16 bits."""
    q.word("weights", default="int8", known=("int8",))
    return Scheme(integer_format(8, 0, 0), skipped=listed(q, *SKIPPED))


def read_quanto(q: Fields) -> Scheme:
    """``weights`` names the type; integers below 8 bits have groups of 128."""
    kinds = ("float8", "int8", "int4", "int2")
    word = q.word("weights", default="int8", known=kinds)
    group = 0 if word in ("float8", "int8") else 128
    fmt = (
        Format("fp8", "", 16, 0, 1)
        if word == "float8"
        else integer_format(int(word[3:] or 8), group, 8 * bool(group))
    )
    q.word("activations", default="", known=("float8", "int8"))
    return Scheme(fmt, skipped=listed(q, *SKIPPED) if q.has(SKIPPED[0]) else NO_MODULES)
