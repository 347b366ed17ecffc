"""Mixtures of experts as the families' config files describe them: which layers have them, and how many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from workloads.transformer.families.common import MAX_WIDTH
from workloads.transformer.fields import REQUIRED, Fields
from workloads.transformer.shape import Experts, FeedForward

__all__ = ["EXPERT_READERS", "count_and_active", "deepseek_experts"]

ByLayer = dict[int, Experts]


def count_and_active(
    f: Fields, count: tuple[str, ...], active: tuple[str, ...], defaults: tuple[object, object]
) -> tuple[int, int]:
    """Experts of a layer, and how many a token goes to."""
    experts = f.integer(*count, default=defaults[0], most=2**16)
    chosen = f.integer(*active, default=defaults[1], most=2**16)
    if chosen > experts:
        name = next((name for name in active if f.has(name)), active[0])
        f.problem(name, f"found {chosen}; expected at most the number of experts ({experts})")
        return experts, experts
    return experts, chosen


def _width(f: Fields, *names: str, default: object = REQUIRED) -> int:
    return f.integer(*names, default=default, most=MAX_WIDTH)


def _mixtral(f: Fields, layers: int, mlp: FeedForward) -> ByLayer:
    """Every layer; experts as large as ``intermediate_size``."""
    count, active = count_and_active(f, ("num_local_experts",), ("num_experts_per_tok",), (8, 2))
    return dict.fromkeys(range(layers), Experts(count, active, mlp.intermediate, activation=mlp.activation))


def _phimoe(f: Fields, layers: int, mlp: FeedForward) -> ByLayer:
    count, active = count_and_active(f, ("num_local_experts",), ("num_experts_per_tok",), (16, 2))
    return dict.fromkeys(range(layers), Experts(count, active, mlp.intermediate, activation=mlp.activation))


def _olmoe(f: Fields, layers: int, mlp: FeedForward) -> ByLayer:
    count, active = count_and_active(f, ("num_experts",), ("num_experts_per_tok",), (64, 8))
    return dict.fromkeys(range(layers), Experts(count, active, mlp.intermediate, activation=mlp.activation))


def _granitemoeshared(f: Fields, layers: int, mlp: FeedForward) -> ByLayer:
    """As Mixtral, with an ungated shared expert of its own size (0: none)."""
    count, active = count_and_active(f, ("num_local_experts",), ("num_experts_per_tok",), (8, 2))
    size = f.integer("shared_intermediate_size", default=0, least=0, most=MAX_WIDTH)
    shared = FeedForward(size, activation=mlp.activation) if size else None
    experts = Experts(count, active, mlp.intermediate, activation=mlp.activation, shared=shared)
    return dict.fromkeys(range(layers), experts)


def _qwen_layers(f: Fields, layers: int) -> list[int]:
    dense = f.integers("mlp_only_layers") or []
    step = f.integer("decoder_sparse_step", default=1)
    return [index for index in range(layers) if index not in dense and (index + 1) % step == 0]


def _qwen2_moe(f: Fields, layers: int, mlp: FeedForward) -> ByLayer:
    """A gated shared expert of its own size beside the chosen ones."""
    count, active = count_and_active(f, ("num_experts",), ("num_experts_per_tok",), (60, 4))
    shared = FeedForward(
        _width(f, "shared_expert_intermediate_size", default=5632), activation=mlp.activation
    )
    size = _width(f, "moe_intermediate_size", default=1408)
    experts = Experts(count, active, size, activation=mlp.activation, shared=shared, shared_gate=True)
    return dict.fromkeys(_qwen_layers(f, layers), experts)


def _qwen3_moe(f: Fields, layers: int, mlp: FeedForward) -> ByLayer:
    """No shared expert."""
    count, active = count_and_active(
        f, ("num_experts", "num_local_experts"), ("num_experts_per_tok",), (128, 8)
    )
    size = _width(f, "moe_intermediate_size", default=768)
    experts = Experts(count, active, size, activation=mlp.activation)
    return dict.fromkeys(_qwen_layers(f, layers), experts)


def deepseek_experts(f: Fields, layers: int, mlp: FeedForward, biased: bool = True) -> ByLayer:
    """DeepSeek and its heirs: dense first layers, shared experts as one wide one, groups of experts.

    ``biased``: the router has a correction bias per expert (DeepSeek-V3, section 2.1.2).
    """
    if not f.has("n_routed_experts"):
        return {}
    count, active = count_and_active(f, ("n_routed_experts",), ("num_experts_per_tok",), (REQUIRED, REQUIRED))
    size = _width(f, "moe_intermediate_size")
    number = f.integer("n_shared_experts", default=0, least=0, most=2**10)
    groups = f.integer("n_group", default=1)
    top = f.integer("topk_group", default=1)
    if count % groups:
        f.problem("n_group", f"found {groups}; expected a divisor of n_routed_experts ({count})")
    if top > groups:
        f.problem("topk_group", f"found {top}; expected at most n_group ({groups})")
    first = f.integer("first_k_dense_replace", default=0, least=0)
    every = f.values.get("moe_layer_freq")
    sparse = list(range(first, layers))
    if isinstance(every, list):
        flags = f.integers("moe_layer_freq", layers, most=1) or [1] * layers
        sparse = [index for index, flag in enumerate(flags) if flag]
    elif every is not None:
        step = f.integer("moe_layer_freq")
        sparse = [index for index in sparse if index % step == 0]
    shared = FeedForward(size * number, activation=mlp.activation) if number else None
    experts = Experts(
        count, active, size, activation=mlp.activation, groups=groups, top_groups=top, shared=shared,
        vectors=count if biased else 0,
    )  # fmt: skip
    return dict.fromkeys(sparse, experts)


def _minimax_m2(f: Fields, layers: int, mlp: FeedForward) -> ByLayer:
    """Every layer; a correction bias per expert."""
    count, active = count_and_active(f, ("num_local_experts",), ("num_experts_per_tok",), (256, 8))
    experts = Experts(count, active, mlp.intermediate, activation=mlp.activation, vectors=count)
    return dict.fromkeys(range(layers), experts)


def _ernie4_5_moe(f: Fields, layers: int, mlp: FeedForward) -> ByLayer:
    """Experts from one layer to another at an interval; shared experts as one wide one; a routing bias."""
    count, active = count_and_active(f, ("moe_num_experts",), ("moe_k",), (64, 6))
    size = _width(f, "moe_intermediate_size", default=1536)
    number = f.integer("moe_num_shared_experts", default=2, least=0, most=2**10)
    first = f.integer("moe_layer_start_index", default=1, least=0)
    last = f.integer("moe_layer_end_index", default=-1, least=-1)
    step = f.integer("moe_layer_interval", default=1)
    end = layers - 1 if last == -1 else last
    biased = mlp.up_bias
    shared = (
        FeedForward(size * number, activation=mlp.activation, up_bias=biased, down_bias=biased)
        if number
        else None
    )
    experts = Experts(
        count, active, size, activation=mlp.activation, up_bias=biased, down_bias=biased, shared=shared,
        vectors=count,
    )  # fmt: skip
    sparse = [index for index in range(layers) if (index + 1) % step == 0 and first <= index <= end]
    return dict.fromkeys(sparse, experts)


def _hunyuan_v1_moe(f: Fields, layers: int, mlp: FeedForward) -> ByLayer:
    """Every layer, with a shared expert of the same size; per-layer lists of equal numbers are allowed."""
    g = Fields({key: _same(value) for key, value in f.values.items()}, f.file, f.line_of, f.path, f.problems)
    count, active = count_and_active(g, ("num_experts",), ("moe_topk",), (1, 1))
    shared = FeedForward(mlp.intermediate, activation=mlp.activation)
    experts = Experts(count, active, mlp.intermediate, activation=mlp.activation, shared=shared)
    return dict.fromkeys(range(layers), experts)


def _bailing(f: Fields, layers: int, mlp: FeedForward) -> ByLayer:
    """Ling 2: as DeepSeek-V3, under names of its own."""
    count, active = count_and_active(f, ("num_experts",), ("num_experts_per_tok",), (REQUIRED, REQUIRED))
    size = _width(f, "moe_intermediate_size")
    number = f.integer("num_shared_experts", default=0, least=0, most=2**10)
    wide = _width(f, "moe_shared_expert_intermediate_size", default=size) * number
    experts = Experts(
        count, active, size, activation=mlp.activation, groups=f.integer("n_group", default=1),
        top_groups=f.integer("topk_group", default=1), vectors=count,
        shared=FeedForward(wide, activation=mlp.activation) if number else None,
    )  # fmt: skip
    return dict.fromkeys(range(f.integer("first_k_dense_replace", default=0, least=0), layers), experts)


def _same(value: object) -> object:
    """The one value of a list whose entries are all equal; anything else as it is."""
    if isinstance(value, list) and value and all(item == value[0] for item in value):
        return value[0]
    return value


EXPERT_READERS: Final[dict[str, Callable[[Fields, int, FeedForward], ByLayer]]] = {
    "mixtral": _mixtral,
    "phimoe": _phimoe,
    "olmoe": _olmoe,
    "granitemoeshared": _granitemoeshared,
    "qwen2_moe": _qwen2_moe,
    "qwen3_moe": _qwen3_moe,
    "deepseek": deepseek_experts,
    "minimax_m2": _minimax_m2,
    "ernie4_5_moe": _ernie4_5_moe,
    "hunyuan_v1_moe": _hunyuan_v1_moe,
    "bailing": _bailing,
}
"""By the name a family's traits give."""
