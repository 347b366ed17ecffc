"""What sets each pre-norm decoder with rotary embedding apart from Llama: one table.

Source: the configuration and modelling files of huggingface/transformers (Apache-2.0), whose defaults hold where a
config file leaves a key out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from workloads.transformer.families.common import LAYER_NORM, LAYER_NORM_NO_BIAS, RMS
from workloads.transformer.shape import Norm

__all__ = ["BLOCK_SPARSE", "FAMILIES", "Traits"]


@dataclass(frozen=True, slots=True)
class Traits:
    """What sets a family apart from Llama.

    ``qkv_bias``, ``out_bias``, ``mlp_bias``: a constant, or the field that says so with its default.
    ``qk_norm``: none, plain (without weights), head (a weight per feature of a head), heads (a weight per feature of
    every head) or full (a weight per feature of the whole projection). ``sliding``: how local layers are told:
    none, all (every layer has the window), field (``layer_types``, else every ``pattern``-th layer is global; the
    key ``pattern_key`` may say another number), first (as field, the first of every ``pattern`` is global), qwen
    (``use_sliding_window`` and ``max_window_layers``). ``norms``: pre, post (on each block's output) or both, or the
    field that says so with its default. ``no_rope``: none, global (global layers go without rotary embedding) or field
    (``no_rope_layers``, else every fourth). ``parallel`` names the field that says so with its default. ``gate``: a
    gate on the attended values, full or one per head (heads), or the field that says so and which. ``vectors_of``:
    learned numbers of an attention layer, so many per head and so many per feature of a head. ``inner_norms``: a norm
    before each of the two output projections. ``width``: key of the feed-forward width and a number to divide it by.
    ``rows``: rows that the embedding has beyond the vocabulary, a number or a key; ``head_rows``: key of the output
    projection's rows. ``vectors``: learned numbers
    of a non-linearity (xIELU). ``floors``: a head is the width over the heads, rounded down. ``square``: all heads
    together are as wide as the model. ``local_heads``: key of the query heads of local layers; ``heads_by_layer``: of a
    list with those of every layer.
    """

    tied: bool = False
    norm: Norm = RMS
    gated: bool = True
    activation: str = "silu"
    qkv_bias: bool | tuple[str, bool] = False
    out_bias: bool | tuple[str, bool] = False
    mlp_bias: bool | tuple[str, bool] = False
    qk_norm: str | tuple[str, str] = "none"
    qk_norm_bias: bool = False
    rotary: float = 1.0
    head_dim: int | None = None
    kv_heads: int | None = None
    sliding: str = "none"
    default_window: int = 0
    pattern: int = 0
    pattern_key: str = ""
    norms: str | tuple[str, bool] = "pre"
    parallel: tuple[str, bool] = ("", False)
    no_rope: str = "none"
    head_bias: bool | tuple[str, bool] = False
    experts: str = ""
    vectors: int = 0
    gate: str | tuple[str, str] = ""
    sinks: bool = False
    vectors_of: tuple[int, int] = (0, 0)
    inner_norms: bool = False
    width: tuple[str, int] = ("intermediate_size", 1)
    rows: int | str = 0
    head_rows: str = ""
    floors: bool = False
    square: bool = False
    local_heads: str = ""
    heads_by_layer: str = ""
    kinds: tuple[str, ...] = ()


BLOCK_SPARSE: Final = "minimax_m3_sparse"
"""Kind of a layer that attends to chosen blocks of tokens."""

_BIAS: Final = ("attention_bias", False)
_MLP_BIAS: Final = ("mlp_bias", False)

FAMILIES: Final[dict[str, Traits]] = {
    "llama": Traits(qkv_bias=_BIAS, out_bias=_BIAS, mlp_bias=_MLP_BIAS),
    "mistral": Traits(sliding="all", default_window=4096),
    "ministral3": Traits(sliding="all"),
    "mixtral": Traits(sliding="all", experts="mixtral", kv_heads=8),
    "qwen2": Traits(qkv_bias=True, sliding="qwen", default_window=4096),
    "qwen3": Traits(
        qkv_bias=_BIAS, out_bias=_BIAS, qk_norm="head", sliding="qwen", default_window=4096, head_dim=128
    ),
    "qwen2_moe": Traits(
        qkv_bias=("qkv_bias", True), sliding="qwen", default_window=4096, experts="qwen2_moe"
    ),
    "qwen3_moe": Traits(
        qkv_bias=_BIAS, out_bias=_BIAS, qk_norm="head", sliding="qwen", default_window=4096,
        experts="qwen3_moe", kv_heads=4, floors=True,
    ),
    "phi3": Traits(sliding="all"),
    "phimoe": Traits(
        norm=LAYER_NORM, qkv_bias=_BIAS, out_bias=_BIAS, head_bias=("lm_head_bias", False), sliding="all",
        experts="phimoe",
    ),
    "stablelm": Traits(
        norm=LAYER_NORM, qkv_bias=("use_qkv_bias", False), qk_norm=("qk_layernorm", "full"), rotary=0.25,
        parallel=("use_parallel_residual", False),
    ),
    "starcoder2": Traits(
        tied=True, norm=LAYER_NORM, gated=False, activation="gelu_pytorch_tanh", qkv_bias=("use_bias", True),
        out_bias=("use_bias", True), mlp_bias=("use_bias", True), sliding="all", kv_heads=2,
    ),
    "persimmon": Traits(
        norm=LAYER_NORM, gated=False, activation="relu2", qkv_bias=True, out_bias=True, mlp_bias=True,
        qk_norm=("qk_layernorm", "head"), qk_norm_bias=True, rotary=0.5,
    ),
    "olmo": Traits(norm=Norm("layer", weight=False), qkv_bias=_BIAS, out_bias=_BIAS),
    "olmo2": Traits(qkv_bias=_BIAS, out_bias=_BIAS, qk_norm="full", norms="post"),
    "olmo3": Traits(
        qkv_bias=_BIAS, out_bias=_BIAS, qk_norm="full", norms="post", pattern=4,
        sliding="field", default_window=4096,
    ),
    "olmoe": Traits(qkv_bias=_BIAS, out_bias=_BIAS, qk_norm="full", experts="olmoe"),
    "granite": Traits(qkv_bias=_BIAS, out_bias=_BIAS, mlp_bias=_MLP_BIAS),
    "granitemoe": Traits(qkv_bias=_BIAS, out_bias=_BIAS, experts="mixtral"),
    "granitemoeshared": Traits(qkv_bias=_BIAS, out_bias=_BIAS, experts="granitemoeshared"),
    "internlm": Traits(qkv_bias=("bias", True), out_bias=("bias", True)),
    "internlm2": Traits(qkv_bias=("bias", True), out_bias=("bias", True)),
    "internlm3": Traits(qkv_bias=("qkv_bias", False), out_bias=("bias", False), mlp_bias=("bias", False)),
    "baichuan": Traits(),
    "cohere": Traits(
        tied=True, norm=LAYER_NORM_NO_BIAS, qkv_bias=_BIAS, out_bias=_BIAS,
        qk_norm=("use_qk_norm", "full"), parallel=("", True),
    ),
    "cohere2": Traits(
        tied=True, norm=LAYER_NORM_NO_BIAS, qkv_bias=_BIAS, out_bias=_BIAS, parallel=("", True), pattern=4,
        no_rope="global", sliding="field", default_window=4096,
    ),
    "nemotron": Traits(
        norm=LAYER_NORM, gated=False, activation="relu2", qkv_bias=_BIAS, out_bias=_BIAS, mlp_bias=_MLP_BIAS,
        rotary=0.5,
    ),
    "arcee": Traits(gated=False, activation="relu2", qkv_bias=_BIAS, out_bias=_BIAS, mlp_bias=_MLP_BIAS),
    "apertus": Traits(
        gated=False, activation="xielu", qkv_bias=_BIAS, out_bias=_BIAS, qk_norm="head", vectors=2
    ),
    "smollm3": Traits(
        tied=True, qkv_bias=_BIAS, out_bias=_BIAS, mlp_bias=_MLP_BIAS, sliding="field", no_rope="field",
        kv_heads=4,
    ),
    "ernie4_5": Traits(
        tied=True, qkv_bias=("use_bias", False), out_bias=("use_bias", False), mlp_bias=("use_bias", False),
        head_dim=128,
    ),
    "ernie4_5_moe": Traits(
        tied=True, qkv_bias=("use_bias", False), out_bias=("use_bias", False), mlp_bias=("use_bias", False),
        head_bias=("use_bias", False), experts="ernie4_5_moe",
    ),
    "seed_oss": Traits(
        qkv_bias=("attention_bias", True), out_bias=("attention_out_bias", False), mlp_bias=_MLP_BIAS,
        head_dim=128,
    ),
    "hunyuan_v1_dense": Traits(qkv_bias=_BIAS, out_bias=_BIAS, qk_norm="head"),
    "hunyuan_v1_moe": Traits(qkv_bias=_BIAS, out_bias=_BIAS, qk_norm="head", experts="hunyuan_v1_moe"),
    "exaone4": Traits(
        qk_norm="head", norms="post", pattern=4, no_rope="hybrid", sliding="field", default_window=4096
    ),
    "glm": Traits(qkv_bias=("attention_bias", True), rotary=0.5, head_dim=128, kv_heads=2),
    "glm4": Traits(qkv_bias=_BIAS, rotary=0.5, norms="both", kv_heads=2),
    "glm4_moe": Traits(
        qkv_bias=_BIAS, rotary=0.5, qk_norm=("use_qk_norm", "head"), experts="deepseek", floors=True
    ),
    "dots1": Traits(qkv_bias=_BIAS, out_bias=_BIAS, qk_norm="head", experts="deepseek"),
    "bailing_moe_v2": Traits(
        qkv_bias=("use_qkv_bias", False), out_bias=("use_bias", False), qk_norm=("use_qk_norm", "head"),
        rotary=0.5, experts="bailing",
    ),
    "minimax_m2": Traits(qk_norm="full", experts="minimax_m2"),
    "minimax_m3_vl_text": Traits(
        qk_norm="head", experts="minimax_m3", width=("dense_intermediate_size", 1), kinds=(BLOCK_SPARSE,)
    ),
    "afmoe": Traits(
        norms="both", qk_norm="head", gate="full", experts="afmoe", qkv_bias=_BIAS, out_bias=_BIAS, sliding="field",
        pattern=4,
        pattern_key="global_attn_every_n_layers", no_rope="global", default_window=1024,
    ),
    "beam": Traits(
        norms="both", qk_norm="head", gate="full", vectors_of=(1, 0), experts="beam", qkv_bias=_BIAS, out_bias=_BIAS,
        sliding="field", pattern=6, default_window=512, head_dim=128,
    ),
    "exaone_moe": Traits(
        qk_norm="head", experts="exaone_moe", sliding="field", pattern=4, no_rope="hybrid", default_window=4096
    ),
    "flint": Traits(
        qk_norm="head", sinks=True, experts="flint", qkv_bias=_BIAS, out_bias=_BIAS, sliding="field", pattern=4,
        default_window=513, head_dim=128,
    ),
    "laguna": Traits(
        qk_norm="head", gate=("gating", "heads"), heads_by_layer="num_attention_heads_per_layer", experts="laguna",
        qkv_bias=_BIAS, out_bias=_BIAS, sliding="field",
        default_window=512, head_dim=128,
    ),
    "kolibri1": Traits(
        norms="both", qk_norm="head", experts="kolibri1", sliding="field", pattern=5, default_window=513,
        head_dim=128,
    ),
    "hy_v3": Traits(
        qk_norm="head", experts="hy_v3", qkv_bias=_BIAS, out_bias=_BIAS, mlp_bias=_MLP_BIAS, head_dim=128
    ),
    "solar_open": Traits(experts="deepseek_all", qkv_bias=_BIAS, head_dim=128),
    "mellum": Traits(
        qk_norm="head", experts="mellum", qkv_bias=_BIAS, out_bias=_BIAS, sliding="field", default_window=1024,
        head_dim=128,
    ),
    "step3p5": Traits(
        local_heads="num_sliding_attention_heads",
        qk_norm="head", gate="heads", experts="step3p5", qkv_bias=_BIAS, out_bias=_BIAS, mlp_bias=_MLP_BIAS,
        sliding="field", head_dim=128,
    ),
    "cohere2_moe": Traits(
        tied=True, norm=LAYER_NORM_NO_BIAS, qkv_bias=_BIAS, out_bias=_BIAS, parallel=("", True), pattern=4,
        no_rope="global", sliding="field", default_window=4096, experts="cohere2_moe",
    ),
    "flex_olmo": Traits(qkv_bias=_BIAS, out_bias=_BIAS, qk_norm="full", norms="post", experts="olmoe"),
    "granite_swa": Traits(
        tied=True, qkv_bias=_BIAS, out_bias=_BIAS, mlp_bias=_MLP_BIAS, sinks=True, sliding="first", pattern=4,
        default_window=128,
    ),
    "granitemoe_swa": Traits(
        qkv_bias=_BIAS, out_bias=_BIAS, sinks=True, sliding="first", pattern=4, default_window=128,
        experts="granitemoeshared",
    ),
    "granite_docling_text": Traits(tied=True, qkv_bias=_BIAS, out_bias=_BIAS, mlp_bias=_MLP_BIAS),
    "cwm": Traits(mlp_bias=_MLP_BIAS, sliding="first", pattern=4, default_window=8192, head_dim=128),
    "bitnet": Traits(
        activation="relu2", inner_norms=True, qkv_bias=_BIAS, out_bias=_BIAS,
    ),
    "helium": Traits(qkv_bias=_BIAS, mlp_bias=_MLP_BIAS, head_dim=128, square=True),
    "diffllama": Traits(qkv_bias=_BIAS, out_bias=_BIAS, vectors_of=(0, 4)),
    "jais2": Traits(
        norm=LAYER_NORM, gated=False, activation="relu2", qkv_bias=_BIAS, out_bias=_BIAS, mlp_bias=_MLP_BIAS
    ),
    "nanochat": Traits(
        norm=Norm("rms", weight=False), gated=False, activation="relu2", qk_norm="plain", qkv_bias=_BIAS,
        out_bias=_BIAS,
    ),
    "hyperclovax": Traits(
        qkv_bias=_BIAS, out_bias=_BIAS, mlp_bias=_MLP_BIAS, norms=("use_post_norm", False)
    ),
    "vaultgemma": Traits(
        tied=True, qkv_bias=_BIAS, out_bias=_BIAS, activation="gelu_pytorch_tanh", head_dim=256, pattern=2,
        kv_heads=4, sliding="field", default_window=4096,
    ),
    "muse_glimmer_text": Traits(
        norms="both", gate="full", qk_norm="plain", qkv_bias=_BIAS, out_bias=_BIAS, sliding="field", pattern=4,
        default_window=2048, no_rope="global", head_dim=128,
    ),
    "apertus1p5_text": Traits(
        gated=False, activation="xielu", qkv_bias=_BIAS, out_bias=_BIAS, qk_norm="head", vectors=2,
        head_rows="output_vocab_size",
    ),
    "aria_text": Traits(qkv_bias=_BIAS, out_bias=_BIAS, mlp_bias=_MLP_BIAS, experts="aria"),
    "cosmos3_edge_text": Traits(gated=False, activation="relu2", qkv_bias=_BIAS, out_bias=_BIAS, mlp_bias=_MLP_BIAS),
    "sarvam_moe": Traits(qkv_bias=_BIAS, qk_norm=("use_qk_norm", "head"), experts="deepseek", floors=True),
    "unlimited_ocr_text": Traits(
        qkv_bias=_BIAS, out_bias=_BIAS, mlp_bias=_MLP_BIAS, experts="deepseek_types", sliding="all",
        default_window=128, kinds=("reference_sliding_attention",),
    ),
    "molmo2_text": Traits(
        qkv_bias=("qkv_bias", False), qk_norm="head", rows="additional_vocab_size",
    ),
    "moshi": Traits(sliding="all", default_window=3000, width=("ffn_dim", 2), rows=1),
    "glm4v_text": Traits(qkv_bias=True, rotary=0.5, norms="both", kv_heads=2),
    "glm_ocr_text": Traits(rotary=1.0, norms="both"),
    "paddleocr_vl_text": Traits(
        tied=True, qkv_bias=("use_bias", False), out_bias=("use_bias", False), mlp_bias=("use_bias", False),
        head_dim=128,
    ),
    "gemma": Traits(tied=True, qkv_bias=_BIAS, out_bias=_BIAS, activation="gelu_pytorch_tanh", head_dim=256),
    "gemma2": Traits(
        tied=True, qkv_bias=_BIAS, out_bias=_BIAS, activation="gelu_pytorch_tanh", head_dim=256, norms="both",
        pattern=2, kv_heads=4, sliding="field", default_window=4096,
    ),
    "gemma3_text": Traits(
        tied=True, qkv_bias=_BIAS, out_bias=_BIAS, activation="gelu_pytorch_tanh", head_dim=256, norms="both",
        qk_norm="head", pattern=6, kv_heads=4, sliding="field", default_window=4096,
    ),
}  # fmt: skip
