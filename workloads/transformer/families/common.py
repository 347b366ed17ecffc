"""What most families' config files share: sizes, grouped heads, element types, local layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from hw_configs.problems import nearest
from workloads.transformer.fields import Fields
from workloads.transformer.shape import Attention, BlockChoice, Norm

__all__ = [
    "ACTIVATIONS",
    "LAYER_NORM",
    "LAYER_NORM_NO_BIAS",
    "MAX_HEADS",
    "MAX_LAYERS",
    "MAX_VOCABULARY",
    "MAX_WIDTH",
    "RMS",
    "Heads",
    "Sizes",
    "activation",
    "grouped_attention",
    "layer_kinds",
    "no_cross_attention",
    "read_heads",
    "read_sizes",
    "rotary_dim",
    "tied",
    "window",
]

MAX_LAYERS: Final = 2000
MAX_WIDTH: Final = 2**20
MAX_HEADS: Final = 2**14
MAX_VOCABULARY: Final = 2**24

ACTIVATIONS: Final = {
    "silu": "silu", "swish": "silu", "swiglu": "silu", "gelu": "gelu_erf", "gelu_new": "gelu_new",
    "gelu_fast": "gelu_fast",
    "gelu_pytorch_tanh": "gelu", "gelu_python": "gelu_erf", "gelu_10": "gelu", "quick_gelu": "quick_gelu",
    "geglu": "gelu", "relu": "relu", "relu2": "relu2", "relu_squared": "relu2", "sigmoid": "sigmoid",
    "situ": "silu", "xielu": "xielu",
}  # fmt: skip
"""The hub's names of non-linearities, and whose cost each has."""

LAYER_KINDS: Final = ("full_attention", "sliding_attention", "chunked_attention", "linear_attention")
"""Kinds of layers; a family may know fewer or others."""

LEGACY_KINDS: Final = {
    "deepseek_sparse_attention": "indexed_attention", "attention": "full_attention", "mamba": "linear_attention",
}  # fmt: skip
"""Names of kinds in files before transformers 5."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes every decoder has."""

    hidden: int
    layers: int
    vocab: int


@dataclass(frozen=True, slots=True)
class Heads:
    """Query heads, key-value heads and the features of one head."""

    heads: int
    kv_heads: int
    head_dim: int


def read_sizes(f: Fields, hidden: str = "hidden_size", layers: str = "num_hidden_layers") -> Sizes:
    """Model width, layers and vocabulary under the names the family has for them."""
    return Sizes(
        f.integer(hidden, most=MAX_WIDTH),
        f.integer(layers, most=MAX_LAYERS),
        f.integer("vocab_size", most=MAX_VOCABULARY),
    )


def read_heads(
    f: Fields,
    hidden: int,
    heads_name: str = "num_attention_heads",
    kv_name: str = "num_key_value_heads",
    default_head_dim: int | None = None,
    default_kv: int | None = None,
    floors: bool = False,
) -> Heads:
    """Heads of grouped-query attention; checks that they divide (``floors``: the width need not)."""
    heads = f.integer(heads_name, most=MAX_HEADS)
    kv_heads = f.integer(
        kv_name, default=heads if f.says_null(kv_name) else default_kv or heads, most=MAX_HEADS
    )
    if heads % kv_heads and f.sound(heads_name, kv_name):
        f.problem(kv_name, f"found {kv_heads}; expected a divisor of {heads_name} ({heads})")
    if f.has("head_dim"):
        return Heads(heads, kv_heads, f.integer("head_dim", most=MAX_WIDTH))
    if default_head_dim is not None and not f.says_null("head_dim"):
        return Heads(heads, kv_heads, default_head_dim)
    if hidden % heads and not floors and f.sound(heads_name, "hidden_size", "n_embd", "d_model"):
        f.problem(heads_name, f"found {heads}; expected a divisor of the model width {hidden}")
    return Heads(heads, kv_heads, max(hidden // heads, 1))


def no_cross_attention(f: Fields) -> None:
    """Refuse a decoder that attends to an encoder as well."""
    if f.flag("add_cross_attention", default=False):
        f.problem(
            "add_cross_attention", "found true; a decoder beside an encoder is not read from this family"
        )


def tied(f: Fields, default: bool) -> bool:
    """Whether the output projection is the embedding; the family's default when the file does not say."""
    return f.flag("tie_word_embeddings", default=default)


def activation(f: Fields, *names: str, default: str = "silu") -> str:
    """The non-linearity, brought to the name whose cost it has."""
    value = f.word(*(names or ("hidden_act", "hidden_activation")), default=default)
    if value not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        f.problem(
            next((name for name in names if f.has(name)), "hidden_act"),
            f"unknown non-linearity {value!r}; known: {known}",
            nearest(value, ACTIVATIONS),
        )
        return "silu"
    return ACTIVATIONS[value]


def rotary_dim(f: Fields, head_dim: int, *names: str, default: float = 1.0) -> int:
    """Features of a head that the rotary embedding turns, from the family's share of a head."""
    parameters = f.section("rope_parameters")
    share = default
    if parameters is not None and parameters.has("partial_rotary_factor"):
        share = parameters.number("partial_rotary_factor", most=1)
    for name in (*names, "partial_rotary_factor"):
        if f.has(name):
            share = f.number(name, most=1)
            break
    return int(head_dim * share)


def window(f: Fields, default: int = 0, name: str = "sliding_window") -> int:
    """The sliding window, 0 for none; the default holds when the key is missing, null means none."""
    if f.says_null(name):
        return 0
    return f.integer(name, default=default, least=0, most=2**31)


def layer_kinds(
    f: Fields, layers: int, default: list[str] | None = None, known: tuple[str, ...] = LAYER_KINDS
) -> list[str]:
    """What each layer is: ``layer_types`` where the file has it, else the family's own rule."""
    types = f.value("layer_types")
    if isinstance(types, list):
        newer = [LEGACY_KINDS.get(item, item) if isinstance(item, str) else item for item in types]
        f = replace(f, values={**f.values, "layer_types": newer})
    given = f.words("layer_types", layers, known)
    return given or default or ["full_attention"] * layers


def grouped_attention(
    heads: Heads, rotary: int, **kwargs: bool | int | tuple[int, int] | Norm | BlockChoice | None
) -> Attention:
    """Attention whose values are as wide as its keys."""
    return Attention(heads.heads, heads.kv_heads, heads.head_dim, heads.head_dim, rotary, **kwargs)  # type: ignore[arg-type]


RMS: Final = Norm("rms")
LAYER_NORM: Final = Norm("layer", bias=True)
LAYER_NORM_NO_BIAS: Final = Norm("layer")
