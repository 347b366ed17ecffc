"""Encoders of images: as models of their own, and as the towers of vision-language models.

A tower's first rows are patches of an image; where a family takes images of any size, ``height`` and ``width`` say
which (a square of 448 pixels otherwise: assumption). Its last rows are merged or averaged and projected to the
language model's width.

Source: the configuration and modelling files of huggingface/transformers (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from workloads.transformer.families.common import (
    LAYER_NORM,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_WIDTH,
    RMS,
    activation,
    grouped_attention,
    read_heads,
)
from workloads.transformer.families.encoders import labels_of, task_of
from workloads.transformer.fields import Fields
from workloads.transformer.shape import (
    Attention,
    Decoder,
    FeedForward,
    HeadTransform,
    Layer,
    Norm,
    PatchStem,
    Projector,
)

__all__ = ["READERS", "TOWERS", "Sides", "read_tower"]

FREE_SIDE: Final = 448
"""Pixels of a side where a family takes any size."""

Sides = tuple[int, int] | None
"""Height and width of an image in pixels; None: the family's own."""


@dataclass(frozen=True, slots=True)
class _Grid:
    """Patches of one image."""

    rows: int
    columns: int
    pixels: int

    @property
    def count(self) -> int:
        return self.rows * self.columns


def _side(f: Fields, name: str) -> int:
    """A side that may be given as a pair of equal ones."""
    value = f.values.get(name)
    if isinstance(value, list):
        sides = f.integers(name, 2, least=1) or [1, 1]
        if sides[0] != sides[1]:
            f.problem(name, f"found {sides}; expected equal sides")
        return sides[0]
    return f.integer(name, most=MAX_WIDTH)


def _grid(f: Fields, sides: Sides, own: int, patch: int, frames: int = 1, merge: int = 1) -> _Grid:
    """Patches of an image of the asked size, or of the family's own."""
    height, width = sides or (own, own)
    channels = f.integer("num_channels", "in_channels", "in_chans", default=3, most=1024)
    step = patch * merge
    if sides is not None and (height % step or width % step):
        f.problem("", f"found an image of {height} x {width} pixels; expected multiples of {step}")
    return _Grid(
        max(height // step, 1) * merge, max(width // step, 1) * merge, channels * frames * patch * patch
    )


def _layer(f: Fields, hidden: int, heads_name: str, gated: bool, act: str, norm: Norm, bias: bool) -> Layer:
    """A block of a vision transformer: norms before, biases everywhere or nowhere."""
    heads = read_heads(f, hidden, heads_name, heads_name)
    attention = grouped_attention(
        heads, 0, q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias, causal=False
    )
    width = f.integer("intermediate_size", default=4 * hidden, most=MAX_WIDTH)
    mlp = FeedForward(width, gated, act, bias, bias)
    return Layer(attention, mlp, mixer_norm=norm, mlp_norm=norm)


def _encoder(
    model_type: str, hidden: int, layers: tuple[Layer, ...], grid: _Grid, final: Norm | None,
    tokens: int = 0, positions: int = 0, bias: bool = True,
) -> Decoder:  # fmt: skip
    return Decoder(
        model_type, hidden, 0, layers, final, True, positions, headless=True, encodes=True,
        stem=PatchStem(grid.pixels, tokens, bias), rows=grid.count + tokens, max_positions=grid.count + tokens,
    )  # fmt: skip


def _count(f: Fields, *names: str) -> int:
    return f.integer(*(names or ("num_hidden_layers",)), most=MAX_LAYERS)


def read_siglip(f: Fields, sides: Sides) -> Decoder:
    """SigLIP and its copies: no class token; a pooling head that towers do not use."""
    kind = f.word("model_type", default="siglip_vision_model")
    hidden = f.integer("hidden_size", default=768, most=MAX_WIDTH)
    patch = _side(f, "patch_size") if f.has("patch_size") else 16
    newer = kind == "siglip2_vision_model"
    own = 0 if newer else (_side(f, "image_size") if f.has("image_size") else 224)
    if newer:
        own = patch * max(int(f.integer("num_patches", default=256) ** 0.5), 1)
    layer = _layer(
        f, hidden, "num_attention_heads", False, activation(f, default="gelu_pytorch_tanh"), LAYER_NORM, True
    )
    grid = _grid(f, sides, own, patch)
    table = f.integer("num_patches", default=256) if newer else (own // patch) ** 2
    pooled = kind.startswith("siglip") and f.flag("vision_use_head", default=True)
    width = f.integer("intermediate_size", default=3072, most=MAX_WIDTH)
    # A learned query, its attention, a norm and a feed-forward part.
    head = hidden + 4 * hidden * hidden + 4 * hidden + 2 * hidden + 2 * hidden * width + width + hidden
    encoder = _encoder(kind, hidden, (layer,) * _count(f), grid, LAYER_NORM, positions=table)
    return replace(encoder, spare=head if pooled else 0)


def read_clip(f: Fields, sides: Sides) -> Decoder:
    """CLIP: a class token, norms before the first and behind the last layer."""
    hidden = f.integer("hidden_size", default=768, most=MAX_WIDTH)
    patch = _side(f, "patch_size") if f.has("patch_size") else 32
    own = _side(f, "image_size") if f.has("image_size") else 224
    layer = _layer(
        f, hidden, "num_attention_heads", False, activation(f, default="quick_gelu"), LAYER_NORM, True
    )
    grid = _grid(f, sides, own, patch)
    encoder = _encoder(
        "clip_vision_model",
        hidden,
        (layer,) * _count(f),
        grid,
        LAYER_NORM,
        1,
        (own // patch) ** 2 + 1,
        False,
    )
    return replace(encoder, embedding_norm=LAYER_NORM)


def read_pixtral(f: Fields, sides: Sides) -> Decoder:
    """Pixtral: RMS norms, gated parts, two-dimensional rotary positions."""
    hidden = f.integer("hidden_size", default=1024, most=MAX_WIDTH)
    patch = _side(f, "patch_size") if f.has("patch_size") else 16
    layer = _layer(f, hidden, "num_attention_heads", True, activation(f, default="gelu"), RMS, False)
    layer = _rotated(layer)
    merge = 2 if FREE_SIDE % (2 * patch) == 0 else 1
    grid = _grid(f, sides, FREE_SIDE, patch, merge=merge)
    encoder = _encoder("pixtral", hidden, (layer,) * _count(f), grid, None, bias=False)
    return replace(encoder, embedding_norm=RMS)


def _attending(layer: Layer) -> Attention:
    """The attention of a block that has one."""
    assert isinstance(layer.mixer, Attention)
    return layer.mixer


def _rotated(layer: Layer, chunk: int = 0) -> Layer:
    attention = _attending(layer)
    return replace(layer, mixer=replace(attention, rotary_dim=attention.head_dim, chunk=chunk))


def read_internvl(f: Fields, sides: Sides) -> Decoder:
    """InternViT: a class token, scales of every block's result, no biases on queries."""
    hidden = f.integer("hidden_size", default=1024, most=MAX_WIDTH)
    patch, own = _side(f, "patch_size"), _side(f, "image_size")
    kind = f.word("norm_type", default="layer_norm", known=("layer_norm", "rms_norm"))
    norm = LAYER_NORM if kind == "layer_norm" else RMS
    layer = _layer(f, hidden, "num_attention_heads", False, activation(f, default="gelu"), norm, True)
    bias, normed = f.flag("attention_bias", default=False), f.flag("use_qk_norm", default=False)
    size = hidden if normed else 0
    attention = replace(_attending(layer), q_bias=bias, k_bias=bias, v_bias=bias, q_norm=size, k_norm=size)
    layer = replace(layer, mixer=attention, vectors=2 * hidden)
    table = (own // patch) ** 2 + 1 if f.flag("use_absolute_position_embeddings", default=True) else 0
    final = None if f.flag("use_mean_pooling", default=True) else LAYER_NORM
    spare = hidden if f.flag("use_mask_token", default=False) else 0
    grid = _grid(f, sides, own, patch)
    encoder = _encoder("internvl_vision", hidden, (layer,) * _count(f), grid, final, 1, table)
    return replace(encoder, spare=spare)


def read_qwen_vision(f: Fields, sides: Sides) -> Decoder:
    """Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5: rotary positions, images of any size, patches of two frames."""
    kind = f.word("model_type", default="qwen2_vl_vision")
    second = kind.startswith("qwen2_vl")
    gated = kind.startswith("qwen2_5")
    hidden = f.integer("embed_dim" if second else "hidden_size", default=1280, most=MAX_WIDTH)
    patch = f.integer("patch_size", "spatial_patch_size", default=14)
    merge = f.integer("spatial_merge_size", default=2, most=64)
    norm = RMS if gated else LAYER_NORM
    act = activation(f, default="quick_gelu" if second else "silu" if gated else "gelu_pytorch_tanh")
    layer = _rotated(_layer(f, hidden, "num_heads", gated, act, norm, True))
    if second:
        width = int(hidden * f.number("mlp_ratio", default=4, most=64))
        layer = replace(layer, mlp=FeedForward(width, False, act, True, True))
    count = _count(f, "depth", "num_hidden_layers")
    layers = (layer,) * count
    if gated:
        side = f.integer("window_size", default=112) // patch
        whole = f.integers("fullatt_block_indexes", most=count - 1) or []
        local = _rotated(layer, chunk=max(side * side, 1))
        layers = tuple(layer if index in whole else local for index in range(count))
    table = f.integer("num_position_embeddings", default=2304) if not (second or gated) else 0
    frames = f.integer("temporal_patch_size", default=2, most=64)
    grid = _grid(f, sides, FREE_SIDE // (patch * merge) * patch * merge, patch, frames, merge)
    bias = not (second or gated)
    return _encoder(kind, hidden, layers, grid, None, positions=table, bias=bias)


def read_gemma4_vision(f: Fields, sides: Sides) -> Decoder:
    """Gemma 4's tower: four norms a block, normed queries and keys, a table of positions per axis."""
    hidden = f.integer("hidden_size", default=768, most=MAX_WIDTH)
    heads = read_heads(f, hidden, default_head_dim=64)
    bias = f.flag("attention_bias", default=False)
    attention = grouped_attention(
        heads, heads.head_dim, q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias, causal=False,
        q_norm=heads.head_dim, k_norm=heads.head_dim, v_norm=True,
    )  # fmt: skip
    act = activation(f, "hidden_activation", default="gelu_pytorch_tanh")
    mlp = FeedForward(f.integer("intermediate_size", default=4 * hidden, most=MAX_WIDTH), True, act)
    layer = Layer(attention, mlp, mixer_norm=RMS, mlp_norm=RMS, mixer_out_norm=RMS, mlp_out_norm=RMS)
    patch = f.integer("patch_size", default=16)
    pool = f.integer("pooling_kernel_size", default=3, most=64)
    if f.flag("use_clipped_linears", default=False):
        f.problem("use_clipped_linears", "found true; bounds on every product are not modelled")
    # The images that come to the stated number of tokens behind the pooling; square.
    made = f.integer("default_output_length", default=256)
    own = int(made**0.5) * pool * patch
    grid = _grid(f, sides, own, patch, merge=pool)
    table = 2 * f.integer("position_embedding_size", default=10240)
    encoder = _encoder("gemma4_vision", hidden, (layer,) * _count(f), grid, None, positions=table, bias=False)
    return replace(encoder, spare=2 * hidden if f.flag("standardize", default=False) else 0)


TOWERS: Final[dict[str, Callable[[Fields, Sides], Decoder]]] = {
    **dict.fromkeys(
        ("siglip_vision_model", "siglip2_vision_model", "idefics3_vision", "smolvlm_vision", "idefics2_vision"),
        read_siglip,
    ),
    "clip_vision_model": read_clip,
    "pixtral": read_pixtral,
    "internvl_vision": read_internvl,
    **dict.fromkeys(
        ("qwen2_vl_vision", "qwen2_vl", "qwen2_5_vl_vision", "qwen2_5_vl", "qwen3_vl_vision", "qwen3_vl",
         "qwen3_vl_moe_vision", "qwen3_vl_moe", "qwen3_5_vision", "qwen3_5", "qwen3_5_moe_vision", "qwen3_5_moe"),
        read_qwen_vision,
    ),
    "gemma4_vision": read_gemma4_vision,
}  # fmt: skip
"""Readers of towers by the ``model_type`` of ``vision_config``."""


def read_tower(outer: Fields, width: int, sides: Sides) -> Decoder | None:
    """The tower of a vision-language model with its projector to ``width`` features; None: none is described.

    What is wrong with it becomes a problem of ``outer``.
    """
    f = outer.section("vision_config")
    if f is None:
        return None
    family = outer.word("model_type", default="")
    kind = f.word("model_type", default={"qwen2_vl": "qwen2_vl_vision"}.get(family, ""))
    reader = TOWERS.get(kind)
    if reader is None:
        f.problem("model_type", f"found {kind!r}; towers that are modelled: {', '.join(sorted(TOWERS))}")
        return None
    tower = reader(f, sides)
    projector = _projector(outer, f, tower, width)
    if projector is None:
        known = "llava, gemma3, paligemma, mistral3, internvl, qwen2_vl to qwen3_5, gemma4, idefics3, lfm2_vl"
        outer.problem("model_type", f"found {family!r}; projectors that are modelled: {known}")
        return None
    if family in ("llava_next", "llava_next_video", "llava_onevision"):
        # A learned row that ends every line of crops; one crop is run.
        tower = replace(tower, spare=tower.spare + width)
    return replace(tower, projector=projector)


def _projector(outer: Fields, f: Fields, tower: Decoder, width: int) -> Projector | None:
    """How a family brings a tower's rows to the language model."""
    family, hidden = outer.word("model_type", default=""), tower.hidden
    if family.startswith("qwen"):
        return _qwen_projector(f, tower, width)
    if family in ("llava", "llava_next", "vipllava", "llava_onevision", "llava_next_video"):
        bias = outer.flag("multimodal_projector_bias", default=True)
        act = activation(outer, "projector_hidden_act", default="gelu")
        keeps_class = outer.word("vision_feature_select_strategy", default="default") == "full"
        chosen = outer.values.get("vision_feature_layer")
        times = len(chosen) if isinstance(chosen, list) else 1
        if family == "vipllava" or times > 1:
            return None
        stem = tower.stem
        dropped = 0 if keeps_class or not isinstance(stem, PatchStem) else stem.tokens
        return Projector(
            (HeadTransform(width, act, None, bias), HeadTransform(width, "", None, bias)), dropped=dropped
        )
    if family in ("gemma3", "shieldgemma2"):
        tokens = outer.integer("mm_tokens_per_image", default=256)
        merge = max(tower.rows // tokens, 1)
        return Projector((HeadTransform(width, "", None, False),), merge=merge, mean=True, merged_norm=RMS)
    if family == "gemma4":
        pool = f.integer("pooling_kernel_size", default=3, most=64)
        plain = Norm("rms", weight=False)
        return Projector(
            (HeadTransform(width, "", None, False),), merge=pool * pool, mean=True, merged_norm=plain
        )
    if family == "paligemma":
        return Projector((HeadTransform(width, "", None, True),))
    if family == "mistral3":
        merge = outer.integer("spatial_merge_size", default=2, most=64)
        bias = outer.flag("multimodal_projector_bias", default=False)
        act = activation(outer, "projector_hidden_act", default="gelu")
        first = HeadTransform(hidden, "", None, False)
        then = (HeadTransform(width, act, None, bias), HeadTransform(width, "", None, bias))
        return Projector((first, *then), merge=merge * merge, norm=RMS)
    if family == "internvl":
        side = round(1 / outer.number("downsample_ratio", default=0.5, least=0.01, most=1))
        act = activation(outer, "projector_hidden_act", default="gelu")
        steps = (HeadTransform(width, act), HeadTransform(width, ""))
        return Projector(steps, merge=side * side, merged_norm=LAYER_NORM, dropped=1)
    if family in ("idefics3", "smolvlm"):
        side = outer.integer("scale_factor", default=2, most=64)
        return Projector((HeadTransform(width, "", None, False),), merge=side * side)
    if family == "lfm2_vl":
        side = outer.integer("downsample_factor", default=2, most=64)
        bias = outer.flag("projector_bias", default=True)
        act = activation(outer, "projector_hidden_act", default="gelu")
        inner = outer.integer("projector_hidden_size", default=2560, most=MAX_WIDTH)
        norm = LAYER_NORM if outer.flag("projector_use_layernorm", default=True) else None
        steps = (HeadTransform(inner, act, None, bias), HeadTransform(width, "", None, bias))
        return Projector(steps, merge=side * side, merged_norm=norm)
    return None


def _qwen_projector(f: Fields, tower: Decoder, width: int) -> Projector:
    """Four neighbours in one row and two products; Qwen3-VL has such mergers behind some blocks too."""
    merge = f.integer("spatial_merge_size", default=2, most=64) ** 2
    out = f.integer("out_hidden_size", "hidden_size", default=width, most=MAX_WIDTH)
    steps = (HeadTransform(tower.hidden * merge, "gelu_erf"), HeadTransform(out, ""))
    older = tower.model_type.startswith(("qwen2_vl", "qwen2_5"))
    norm = RMS if tower.model_type.startswith("qwen2_5") else LAYER_NORM
    deep = 0 if older else len(f.integers("deepstack_visual_indexes") or ())
    return Projector(steps, merge=merge, norm=norm, deep=deep)


def _image_encoder(f: Fields, encoder: Decoder, pooler: bool) -> Decoder:
    """An encoder of images as a model of its own: bare, with a pooler, or with a classifier."""
    task = task_of(f)
    names = f.words("architectures") or [""]
    if names[0].endswith("ForImageClassification"):
        return replace(encoder, pooled=True, labels=labels_of(f))
    if names[0] and task == "other":
        return replace(encoder, omitted=(f"head of {names[0]}",))
    if pooler:
        width = f.integer("pooler_output_size", default=encoder.hidden, most=MAX_WIDTH)
        return replace(encoder, pooled=True, transform=HeadTransform(width, "tanh"))
    return encoder


def read_vit(f: Fields, model_type: str) -> Decoder:
    """ViT and DeiT: a class token (and one of distillation), a pooler."""
    hidden = f.integer("hidden_size", default=768, most=MAX_WIDTH)
    patch = _side(f, "patch_size") if f.has("patch_size") else 16
    own = _side(f, "image_size") if f.has("image_size") else 224
    act = activation(f, default="gelu")
    layer = _layer(f, hidden, "num_attention_heads", False, act, LAYER_NORM, True)
    bias = f.flag("qkv_bias", default=True)
    layer = replace(layer, mixer=replace(_attending(layer), q_bias=bias, k_bias=bias, v_bias=bias))
    tokens = 2 if model_type == "deit" else 1
    grid = _grid(f, None, own, patch)
    encoder = _encoder(
        model_type, hidden, (layer,) * _count(f), grid, LAYER_NORM, tokens, (own // patch) ** 2 + tokens
    )
    return _image_encoder(f, encoder, True)


def read_dinov2(f: Fields, model_type: str) -> Decoder:
    """DINOv2: scales of every block's result, a mask token that only training reads."""
    hidden = f.integer("hidden_size", default=768, most=MAX_WIDTH)
    patch = _side(f, "patch_size") if f.has("patch_size") else 14
    own = _side(f, "image_size") if f.has("image_size") else 224
    act = activation(f, default="gelu")
    layer = _layer(f, hidden, "num_attention_heads", False, act, LAYER_NORM, True)
    wide = int(hidden * f.number("mlp_ratio", default=4, most=64))
    mlp = FeedForward(wide, False, act, True, True)
    if f.flag("use_swiglu_ffn", default=False):
        mlp = FeedForward((int(wide * 2 / 3) + 7) // 8 * 8, True, "silu", True, True)
    bias = f.flag("qkv_bias", default=True)
    attention = replace(_attending(layer), q_bias=bias, k_bias=bias, v_bias=bias)
    layer = replace(layer, mixer=attention, mlp=mlp, vectors=2 * hidden)
    grid = _grid(f, None, own, patch)
    encoder = _encoder(model_type, hidden, (layer,) * _count(f), grid, LAYER_NORM, 1, (own // patch) ** 2 + 1)
    masked = f.flag("use_mask_token", default=True)
    return _image_encoder(f, replace(encoder, spare=hidden if masked else 0), False)


def read_dinov3(f: Fields, model_type: str) -> Decoder:
    """DINOv3: rotary positions, register tokens, biases chosen one by one."""
    hidden = f.integer("hidden_size", default=384, most=MAX_WIDTH)
    patch = _side(f, "patch_size") if f.has("patch_size") else 16
    own = _side(f, "image_size") if f.has("image_size") else 224
    heads = read_heads(f, hidden, "num_attention_heads", "num_attention_heads")
    attention = grouped_attention(
        heads, heads.head_dim, q_bias=f.flag("query_bias", default=True), k_bias=f.flag("key_bias", default=False),
        v_bias=f.flag("value_bias", default=True), out_bias=f.flag("proj_bias", default=True), causal=False,
    )  # fmt: skip
    bias = f.flag("mlp_bias", default=True)
    mlp = FeedForward(
        f.integer("intermediate_size", default=4 * hidden, most=MAX_WIDTH),
        f.flag("use_gated_mlp", default=False), activation(f, default="gelu"), bias, bias,
    )  # fmt: skip
    layer = Layer(attention, mlp, mixer_norm=LAYER_NORM, mlp_norm=LAYER_NORM, vectors=2 * hidden)
    tokens = 1 + f.integer("num_register_tokens", default=0, least=0, most=MAX_HEADS)
    grid = _grid(f, None, own, patch)
    encoder = _encoder(model_type, hidden, (layer,) * _count(f), grid, LAYER_NORM, tokens)
    return _image_encoder(f, replace(encoder, spare=hidden), False)


def read_vision_model(f: Fields, model_type: str) -> Decoder:
    """SigLIP's and CLIP's encoders of images by themselves."""
    return TOWERS[model_type](f, None)


READERS = {
    "vit": read_vit,
    "deit": read_vit,
    "dinov2": read_dinov2,
    "dinov3_vit": read_dinov3,
    "siglip_vision_model": read_vision_model,
    "siglip2_vision_model": read_vision_model,
    "clip_vision_model": read_vision_model,
}
"""Readers by ``model_type``."""
