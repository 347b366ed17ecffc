"""Mixtures of experts as the families' config files describe them: which layers have them, and how many.

One table of key names. A mixture's shared experts are one wide feed-forward part, as every engine runs them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from workloads.transformer.families.common import MAX_WIDTH
from workloads.transformer.fields import REQUIRED, Fields
from workloads.transformer.shape import Experts, FeedForward, Norm

__all__ = [
    "EXPERT_READERS",
    "MIXTURES",
    "Mixture",
    "count_and_active",
    "deepseek_experts",
    "read_mixture",
    "sparse_layers",
]

ByLayer = dict[int, Experts]


@dataclass(frozen=True, slots=True)
class Mixture:
    """The keys of one family's mixture, and what they mean.

    ``count``, ``active``, ``width``: keys with their defaults; no ``width``: as wide as ``intermediate_size``.
    ``shared_number``: key of a number of shared experts, each as wide as ``shared_width`` says or as one expert;
    without a number ``shared_width`` is the width of the one there is. ``first``: layers at the start that are dense,
    a number or a key; ``types``: ``mlp_layer_types`` says of each layer what it is; ``steps``: every
    ``decoder_sparse_step``-th but ``mlp_only_layers``, which are ``dense`` where the file names none. ``groups``:
    routing picks groups first (keys ``n_group`` and ``topk_group``). ``bias``: the router's correction bias is a
    parameter (elsewhere a buffer, which counts as none).
    """

    count: tuple[str, ...]
    active: tuple[str, ...] = ("num_experts_per_tok",)
    width: tuple[str, ...] = ("moe_intermediate_size",)
    defaults: tuple[object, object, object] = (REQUIRED, REQUIRED, REQUIRED)
    shared_number: str = ""
    shared_width: str = ""
    shared_default: object = 0
    shared_gate: bool = False
    first: int | str = 0
    types: bool = False
    steps: bool = False
    dense: tuple[int, ...] = ()
    groups: bool = False
    bias: bool = False
    router_bias: bool = False
    out_norm: bool = False


_DEEPSEEK: Final = Mixture(
    ("n_routed_experts",), shared_number="n_shared_experts", first="first_k_dense_replace", groups=True
)
_QWEN3: Final = Mixture(("num_experts", "num_local_experts"), defaults=(128, 8, 768), steps=True)

MIXTURES: Final[dict[str, Mixture]] = {
    "mixtral": Mixture(("num_local_experts",), width=(), defaults=(8, 2, 0)),
    "phimoe": Mixture(("num_local_experts",), width=(), defaults=(16, 2, 0)),
    "olmoe": Mixture(("num_experts",), width=(), defaults=(64, 8, 0)),
    "granitemoeshared": Mixture(
        ("num_local_experts",), width=(), defaults=(8, 2, 0), shared_width="shared_intermediate_size"
    ),
    "qwen2_moe": Mixture(
        ("num_experts",), defaults=(60, 4, 1408), shared_width="shared_expert_intermediate_size",
        shared_default=5632, shared_gate=True, steps=True,
    ),
    "qwen3_moe": _QWEN3,
    "mellum": replace(_QWEN3, steps=False, types=True),
    "deepseek": _DEEPSEEK,
    "deepseek_types": replace(_DEEPSEEK, types=True),
    "deepseek_types_1": replace(_DEEPSEEK, types=True, first=1),
    "deepseek_types_3": replace(_DEEPSEEK, types=True, first=3),
    "deepseek_all": replace(_DEEPSEEK, first=0),
    "dots3_note": replace(_DEEPSEEK, types=True, first=1, shared_width="shared_experts_intermediate_size"),
    "axk": replace(_DEEPSEEK, types=True, first=1, out_norm=True),
    "minimax_m2": Mixture(("num_local_experts",), width=(), defaults=(256, 8, 0)),
    "minimax_m3": Mixture(
        ("num_local_experts",), width=("intermediate_size",), shared_width="shared_intermediate_size", types=True
    ),
    "aria": Mixture(
        ("moe_num_experts",), ("moe_topk",), width=(), shared_number="moe_num_shared_experts",
    ),
    "afmoe": Mixture(
        ("num_experts",), shared_number="num_shared_experts", first="num_dense_layers", bias=True,
    ),
    "beam": Mixture(("num_experts",), types=True, first=3, groups=True),
    "exaone_moe": Mixture(
        ("num_experts",), shared_number="num_shared_experts", types=True, first="first_k_dense_replace",
        groups=True,
    ),
    "flint": Mixture(("num_experts",), shared_width="shared_expert_intermediate_size", steps=True, dense=(0, 1)),
    "lara_mini": Mixture(("num_experts",), shared_width="shared_expert_intermediate_size"),
    "laguna": Mixture(
        ("num_experts",), shared_width="shared_expert_intermediate_size", types=True, first=1, bias=True
    ),
    "kolibri1": Mixture(("num_local_experts", "num_experts"), shared_width="shared_expert_intermediate_size"),
    "hy_v3": Mixture(("num_experts",), shared_number="num_shared_experts", types=True, first=1),
    "step3p5": Mixture(
        ("n_routed_experts", "num_experts", "moe_num_experts"), ("num_experts_per_tok", "moe_top_k"),
        shared_width="share_expert_dim", types=True, first=3,
    ),
    "cohere2_moe": Mixture(
        ("num_experts",), width=(), shared_number="num_shared_experts", types=True,
    ),
    "bailing": Mixture(
        ("num_experts",), shared_number="num_shared_experts", shared_width="moe_shared_expert_intermediate_size",
        first="first_k_dense_replace", groups=True,
    ),
}  # fmt: skip
"""By the name a family's traits give."""


def read_mixture(mixture: Mixture, f: Fields, layers: int, mlp: FeedForward) -> ByLayer:
    """The experts of every sparse layer, by layer; ``mlp`` is the dense part, whose make they share but for biases."""
    if mixture is _DEEPSEEK and not f.has("n_routed_experts"):
        return {}
    count, active = count_and_active(f, mixture.count, mixture.active, mixture.defaults[:2])
    size = mlp.intermediate
    if mixture.width:
        size = f.integer(*mixture.width, default=mixture.defaults[2], most=MAX_WIDTH)
    groups, top = _groups(f, mixture, count)
    experts = Experts(
        count, active, size, gated=mlp.gated, activation=mlp.activation,
        router_bias=mixture.router_bias, groups=groups, top_groups=top,
        shared=_shared(f, mixture, size, mlp), shared_gate=mixture.shared_gate,
        vectors=count if mixture.bias else 0, out_norm=Norm("rms") if mixture.out_norm else None,
    )  # fmt: skip
    return dict.fromkeys(sparse_layers(f, mixture, layers), experts)


def _shared(f: Fields, mixture: Mixture, size: int, mlp: FeedForward) -> FeedForward | None:
    number = 1
    if mixture.shared_number:
        number = f.integer(mixture.shared_number, default=0, least=0, most=2**10)
        size = f.integer(mixture.shared_width, default=size, most=MAX_WIDTH) if mixture.shared_width else size
    elif mixture.shared_width:
        size = f.integer(mixture.shared_width, default=mixture.shared_default, least=0, most=MAX_WIDTH)
    else:
        return None
    return replace(mlp, intermediate=size * number) if size * number else None


def _groups(f: Fields, mixture: Mixture, count: int) -> tuple[int, int]:
    if not mixture.groups:
        return 1, 1
    groups = f.integer("n_group", default=1)
    top = f.integer("topk_group", default=1)
    if count % groups:
        f.problem("n_group", f"found {groups}; expected a divisor of the number of experts ({count})")
    if top > groups:
        f.problem("topk_group", f"found {top}; expected at most n_group ({groups})")
    return groups, top


def sparse_layers(f: Fields, mixture: Mixture, layers: int) -> list[int]:
    """The layers that have experts."""
    if mixture.types:
        types = f.words("mlp_layer_types", layers, ("dense", "sparse"))
        if types is not None:
            return [index for index, kind in enumerate(types) if kind == "sparse"]
    every = f.value("moe_layer_freq") if mixture.types or mixture is _DEEPSEEK else None
    if isinstance(every, list):
        flags = f.integers("moe_layer_freq", layers, most=1) or [1] * layers
        return [index for index, flag in enumerate(flags) if flag]
    if mixture.steps:
        dense = f.integers("mlp_only_layers")
        dense = list(mixture.dense) if dense is None else dense
        step = f.integer("decoder_sparse_step", default=1)
        return [index for index in range(layers) if index not in dense and (index + 1) % step == 0]
    first = mixture.first
    if isinstance(first, str):
        first = f.integer(first, default=0, least=0)
    sparse = list(range(first, layers))
    if mixture is not _DEEPSEEK or every is None:
        return sparse
    step = f.integer("moe_layer_freq")
    return [index for index in sparse if index % step == 0]


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


def deepseek_experts(f: Fields, layers: int, mlp: FeedForward) -> ByLayer:
    """DeepSeek and its heirs: dense first layers, shared experts as one wide one, groups of experts."""
    return read_mixture(_DEEPSEEK, f, layers, mlp)


def _ernie4_5_moe(f: Fields, layers: int, mlp: FeedForward) -> ByLayer:
    """Experts from one layer to another at an interval; shared experts as one wide one; a routing bias."""
    count, active = count_and_active(f, ("moe_num_experts",), ("moe_k",), (64, 6))
    given = f.value("moe_intermediate_size")
    if isinstance(given, list):
        # Sizes of the experts for text and for images; text goes to the first.
        sizes = f.integers("moe_intermediate_size", 2, least=1, most=MAX_WIDTH) or [1]
        size = sizes[0]
    else:
        size = f.integer("moe_intermediate_size", default=1536, most=MAX_WIDTH)
    number = f.integer("moe_num_shared_experts", default=2, least=0, most=2**10)
    experts = Experts(
        count, active, size, activation=mlp.activation,
        shared=replace(mlp, intermediate=size * number) if number else None, vectors=count,
    )  # fmt: skip
    types = f.words("mlp_layer_types", layers, ("dense", "sparse"))
    if types is not None:
        return dict.fromkeys((index for index, kind in enumerate(types) if kind == "sparse"), experts)
    first = f.integer("moe_layer_start_index", default=1, least=0)
    last = f.integer("moe_layer_end_index", default=-1, least=-1)
    step = f.integer("moe_layer_interval", default=1)
    end = layers - 1 if last == -1 else last
    sparse = [index for index in range(layers) if (index + 1) % step == 0 and first <= index <= end]
    return dict.fromkeys(sparse, experts)


def _hunyuan_v1_moe(f: Fields, layers: int, mlp: FeedForward) -> ByLayer:
    """Every layer, with a shared expert of the same size; per-layer lists of equal numbers are allowed."""
    g = replace(f, values={key: _same(value) for key, value in f.values.items()})
    count, active = count_and_active(g, ("num_experts",), ("moe_topk",), (1, 1))
    experts = Experts(count, active, mlp.intermediate, activation=mlp.activation, shared=mlp)
    return dict.fromkeys(range(layers), experts)


def _same(value: object) -> object:
    """The one value of a list whose entries are all equal; anything else as it is."""
    if isinstance(value, list) and value and all(item == value[0] for item in value):
        return value[0]
    return value


EXPERT_READERS: Final[dict[str, Callable[[Fields, int, FeedForward], ByLayer]]] = {
    **{name: partial(read_mixture, mixture) for name, mixture in MIXTURES.items()},
    "ernie4_5_moe": _ernie4_5_moe,
    "hunyuan_v1_moe": _hunyuan_v1_moe,
}
"""What reads a mixture, by the name a family's traits give."""
