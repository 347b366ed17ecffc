"""Families in the line of GPT-2: layer norms with bias, plain feed-forward parts, field names of their own.

Source: the configuration and modelling files of huggingface/transformers (Apache-2.0).
"""

from __future__ import annotations

from workloads.transformer.families.common import (
    LAYER_NORM,
    LAYER_NORM_NO_BIAS,
    MAX_HEADS,
    MAX_WIDTH,
    Heads,
    activation,
    grouped_attention,
    no_cross_attention,
    read_heads,
    read_sizes,
    rotary_dim,
    tied,
)
from workloads.transformer.families.experts import count_and_active
from workloads.transformer.fields import Fields
from workloads.transformer.shape import Attention, Decoder, Experts, FeedForward, Layer, Norm

__all__ = ["READERS"]


def _attention(heads: Heads, rotary: int, bias: bool, out_bias: bool, window: int = 0) -> Attention:
    return grouped_attention(
        heads, rotary, q_bias=bias, k_bias=bias, v_bias=bias, out_bias=out_bias, window=window
    )


def _mlp(f: Fields, name: str, hidden: int, act: str, bias: bool = True) -> FeedForward:
    """A plain feed-forward part; where its width is not given it is four times the model's."""
    size = f.integer(name, default=4 * hidden, most=MAX_WIDTH)
    return FeedForward(size, False, act, bias, bias)


def read_gpt2(f: Fields, model_type: str) -> Decoder:
    """GPT-2, and GPT-BigCode with its one key-value head."""
    sizes = read_sizes(f, "n_embd", "n_layer")
    heads = read_heads(f, sizes.hidden, "n_head", "n_head")
    no_cross_attention(f)
    if model_type == "gpt_bigcode" and f.flag("multi_query", default=True):
        heads = Heads(heads.heads, 1, heads.head_dim)
    act = activation(f, "activation_function", default="gelu_new")
    layer = Layer(
        _attention(heads, 0, bias=True, out_bias=True),
        _mlp(f, "n_inner", sizes.hidden, act),
        mixer_norm=LAYER_NORM,
        mlp_norm=LAYER_NORM,
    )
    positions = f.integer("n_positions", "n_ctx", default=1024)
    return Decoder(
        model_type, sizes.hidden, sizes.vocab, (layer,) * sizes.layers, LAYER_NORM, tied(f, True),
        positions=positions, max_positions=positions,
    )  # fmt: skip


def read_gpt_neo(f: Fields, model_type: str) -> Decoder:
    """GPT-Neo: no bias on queries, keys and values; global and local layers by turns."""
    sizes = read_sizes(f, "hidden_size", "num_layers")
    heads = read_heads(f, sizes.hidden, "num_heads", "num_heads")
    act = activation(f, "activation_function", default="gelu_new")
    span = f.integer("window_size", default=256)
    kinds = _neo_kinds(f, sizes.layers)
    mlp = _mlp(f, "intermediate_size", sizes.hidden, act)
    layers = tuple(
        Layer(
            _attention(heads, 0, bias=False, out_bias=True, window=span if kind == "local" else 0),
            mlp,
            mixer_norm=LAYER_NORM,
            mlp_norm=LAYER_NORM,
        )
        for kind in kinds
    )
    positions = f.integer("max_position_embeddings", default=2048)
    return Decoder(
        model_type, sizes.hidden, sizes.vocab, layers, LAYER_NORM, tied(f, True), positions=positions,
        max_positions=positions,
    )  # fmt: skip


def _neo_kinds(f: Fields, layers: int) -> list[str]:
    given = f.words("attention_layers", layers, ("global", "local"))
    if given:
        return given
    kinds: list[str] = []
    types = f.value("attention_types")
    for entry in types if isinstance(types, list) else []:
        match entry:
            case [[*names], int(times)] if 0 <= times <= layers:
                kinds += [str(name) for name in names] * times
    return kinds if len(kinds) == layers else [("global", "local")[i % 2] for i in range(layers)]


def read_opt(f: Fields, model_type: str) -> Decoder:
    """OPT: two rows more than positions; OPT-350m norms after the addition and projects its embedding."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden, kv_name="num_attention_heads")
    bias = f.flag("enable_bias", default=True)
    affine = f.flag("layer_norm_elementwise_affine", default=True)
    norm = LAYER_NORM if affine else Norm("layer", weight=False)
    before = f.flag("do_layer_norm_before", default=True)
    layer = Layer(
        _attention(heads, 0, bias=bias, out_bias=bias),
        FeedForward(
            f.integer("ffn_dim", most=MAX_WIDTH), False, activation(f, "activation_function", default="relu"),
            bias, bias,
        ),
        mixer_norm=norm,
        mlp_norm=norm,
        post_norm=not before,
    )  # fmt: skip
    final = before and not f.flag("_remove_final_layer_norm", default=False)
    width = f.integer("word_embed_proj_dim", default=sizes.hidden, most=MAX_WIDTH)
    positions = f.integer("max_position_embeddings", default=2048)
    return Decoder(
        model_type, sizes.hidden, sizes.vocab, (layer,) * sizes.layers, norm if final else None,
        tied(f, True), positions=positions + 2, embedding_width=0 if width == sizes.hidden else width,
        max_positions=positions,
    )  # fmt: skip


def read_bloom(f: Fields, model_type: str) -> Decoder:
    """BLOOM: ALiBi instead of positions, a norm right after the embedding."""
    hidden = f.integer("hidden_size", "n_embed", most=MAX_WIDTH)
    layers = f.integer("n_layer", "num_hidden_layers", most=2000)
    vocab = f.integer("vocab_size")
    count = f.integer("n_head", "num_attention_heads", most=MAX_HEADS)
    if hidden % count and f.sound("hidden_size", "n_embed", "n_head", "num_attention_heads"):
        f.problem("n_head", f"found {count}; expected a divisor of the model width {hidden}")
    layer = Layer(
        _attention(Heads(count, count, max(hidden // count, 1)), 0, bias=True, out_bias=True),
        FeedForward(4 * hidden, False, "gelu", True, True),
        mixer_norm=LAYER_NORM,
        mlp_norm=LAYER_NORM,
    )
    return Decoder(
        model_type, hidden, vocab, (layer,) * layers, LAYER_NORM, tied(f, True), embedding_norm=LAYER_NORM
    )


def read_gpt_neox(f: Fields, model_type: str) -> Decoder:
    """GPT-NeoX and Pythia: parallel blocks with a norm each."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden, kv_name="num_attention_heads")
    bias = f.flag("attention_bias", default=True)
    layer = Layer(
        _attention(heads, rotary_dim(f, heads.head_dim, "rotary_pct", default=0.25), bias, bias),
        _mlp(f, "intermediate_size", sizes.hidden, activation(f, default="gelu")),
        mixer_norm=LAYER_NORM,
        mlp_norm=LAYER_NORM,
        parallel=f.flag("use_parallel_residual", default=True),
    )
    return Decoder(model_type, sizes.hidden, sizes.vocab, (layer,) * sizes.layers, LAYER_NORM, tied(f, False))


def read_gptj(f: Fields, model_type: str) -> Decoder:
    """GPT-J and CodeGen: parallel blocks with one norm, biases in the feed-forward part and the head only."""
    sizes = read_sizes(f, "n_embd", "n_layer")
    heads = read_heads(f, sizes.hidden, "n_head", "n_head")
    layer = Layer(
        _attention(heads, f.integer("rotary_dim", default=64, least=0), bias=False, out_bias=False),
        _mlp(f, "n_inner", sizes.hidden, activation(f, "activation_function", default="gelu_new")),
        mixer_norm=LAYER_NORM,
        parallel=True,
    )
    return Decoder(
        model_type,
        sizes.hidden,
        sizes.vocab,
        (layer,) * sizes.layers,
        LAYER_NORM,
        tied(f, False),
        head_bias=True,
    )


def read_phi(f: Fields, model_type: str) -> Decoder:
    """Phi-1, 1.5 and 2: parallel blocks with one norm, biases everywhere, the head too."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden)
    normed = heads.head_dim if f.flag("qk_layernorm", default=False) else 0
    attention = grouped_attention(
        heads, rotary_dim(f, heads.head_dim, default=0.5), q_bias=True, k_bias=True, v_bias=True, out_bias=True,
        q_norm=normed, k_norm=normed, norm_bias=True,
    )  # fmt: skip
    layer = Layer(
        attention,
        _mlp(f, "intermediate_size", sizes.hidden, activation(f, default="gelu_new")),
        mixer_norm=LAYER_NORM,
        parallel=True,
    )
    return Decoder(
        model_type,
        sizes.hidden,
        sizes.vocab,
        (layer,) * sizes.layers,
        LAYER_NORM,
        tied(f, False),
        head_bias=True,
    )


def read_falcon(f: Fields, model_type: str) -> Decoder:
    """Falcon: one key-value head (7B), or grouped heads and two norms in parallel (the new architecture)."""
    hidden = f.integer("hidden_size", most=MAX_WIDTH)
    layers = f.integer("num_hidden_layers", "n_layer", most=2000)
    vocab = f.integer("vocab_size")
    count = f.integer("num_attention_heads", "n_head", most=MAX_HEADS)
    new = f.flag("new_decoder_architecture", default=False) or model_type == "RefinedWeb"
    if new:
        kv_heads = f.integer("num_kv_heads", "n_head_kv", default=count, most=MAX_HEADS)
    else:
        kv_heads = 1 if f.flag("multi_query", default=True) else count
    if hidden % count and f.sound("hidden_size", "num_attention_heads", "n_head"):
        f.problem("num_attention_heads", f"found {count}; expected a divisor of the model width {hidden}")
    if count % kv_heads and f.sound("num_kv_heads", "n_head_kv", "num_attention_heads", "n_head"):
        f.problem("num_kv_heads", f"found {kv_heads}; expected a divisor of the heads ({count})")
    heads = Heads(count, kv_heads, max(hidden // count, 1))
    bias = f.flag("bias", default=False)
    parallel = new or f.flag("parallel_attn", default=True)
    norms = f.integer("num_ln_in_parallel_attn", default=2 if new else 1, most=2)
    layer = Layer(
        _attention(heads, 0 if f.flag("alibi", default=False) else heads.head_dim, bias, bias),
        _mlp(f, "ffn_hidden_size", hidden, activation(f, "activation", default="gelu"), bias),
        mixer_norm=LAYER_NORM,
        mlp_norm=LAYER_NORM if norms == 2 or not parallel else None,
        parallel=parallel,
    )
    return Decoder(model_type, hidden, vocab, (layer,) * layers, LAYER_NORM, tied(f, True))


def read_mpt(f: Fields, model_type: str) -> Decoder:
    """MPT: ALiBi, no bias anywhere."""
    sizes = read_sizes(f, "d_model", "n_layers")
    inner = f.section("attn_config") or Fields({}, f.file, f.line_of, f.path, f.problems)
    heads = read_heads(f, sizes.hidden, "n_heads", "n_heads")
    kv_heads = inner.integer("kv_n_heads", default=heads.heads, most=MAX_HEADS)
    if inner.value("attn_type") == "multiquery_attention":
        kv_heads = 1
    ratio = f.integer("expansion_ratio", default=4, most=64)
    if ratio != 4:
        f.problem(
            "expansion_ratio", f"found {ratio}; expected 4, which is all that the family's published code has"
        )
    normed = sizes.hidden if inner.flag("qk_ln", default=False) else 0
    layer = Layer(
        grouped_attention(
            Heads(heads.heads, kv_heads, heads.head_dim), 0, q_norm=normed,
            k_norm=kv_heads * heads.head_dim if normed else 0,
        ),
        FeedForward(ratio * sizes.hidden, False, "gelu_erf"),
        mixer_norm=LAYER_NORM_NO_BIAS,
        mlp_norm=LAYER_NORM_NO_BIAS,
    )  # fmt: skip
    return Decoder(
        model_type, sizes.hidden, sizes.vocab, (layer,) * sizes.layers, LAYER_NORM_NO_BIAS, tied(f, True)
    )


def read_dbrx(f: Fields, model_type: str) -> Decoder:
    """DBRX: nested sections for attention and experts."""
    sizes = read_sizes(f, "d_model", "n_layers")
    empty = Fields({}, f.file, f.line_of, f.path, f.problems)
    attention, ffn = f.section("attn_config") or empty, f.section("ffn_config") or empty
    heads = read_heads(f, sizes.hidden, "n_heads", "n_heads")
    kv_heads = attention.integer("kv_n_heads", default=1, most=MAX_HEADS)
    count, active = count_and_active(ffn, ("moe_num_experts",), ("moe_top_k",), (4, 1))
    layer = Layer(
        _attention(Heads(heads.heads, kv_heads, heads.head_dim), heads.head_dim, bias=False, out_bias=False),
        None,
        Experts(count, active, ffn.integer("ffn_hidden_size", default=3584, most=MAX_WIDTH)),
        mixer_norm=LAYER_NORM_NO_BIAS,
        mlp_norm=LAYER_NORM_NO_BIAS,
    )
    return Decoder(
        model_type, sizes.hidden, sizes.vocab, (layer,) * sizes.layers, LAYER_NORM_NO_BIAS, tied(f, False)
    )


def read_chatglm(f: Fields, model_type: str) -> Decoder:
    """ChatGLM2, ChatGLM3 and GLM-4 with their original code: grouped heads, bias where the file says so."""
    hidden = f.integer("hidden_size", most=MAX_WIDTH)
    layers = f.integer("num_layers", most=2000)
    vocab = f.integer("padded_vocab_size", "vocab_size")
    count = f.integer("num_attention_heads", most=MAX_HEADS)
    grouped = f.flag("multi_query_attention", default=False)
    kv_heads = f.integer("multi_query_group_num", default=1, most=MAX_HEADS) if grouped else count
    head_dim = f.integer("kv_channels", default=max(hidden // count, 1), most=MAX_WIDTH)
    linear = f.flag("add_bias_linear", default=True)
    norm = Norm("rms") if f.flag("rmsnorm", default=True) else LAYER_NORM
    layer = Layer(
        _attention(
            Heads(count, kv_heads, head_dim), head_dim // 2,
            linear or f.flag("add_qkv_bias", default=False), linear,
        ),
        FeedForward(f.integer("ffn_hidden_size", most=MAX_WIDTH), True, "silu", linear, linear),
        mixer_norm=norm,
        mlp_norm=norm,
    )  # fmt: skip
    final = norm if f.flag("post_layer_norm", default=True) else None
    return Decoder(model_type, hidden, vocab, (layer,) * layers, final, tied(f, False))


def read_qwen1(f: Fields, model_type: str) -> Decoder:
    """The first Qwen: its ``intermediate_size`` counts gate and up projection together."""
    sizes = read_sizes(f)
    heads = read_heads(f, sizes.hidden, kv_name="num_attention_heads")
    plain = not f.flag("no_bias", default=True)
    norm = Norm("rms")
    layer = Layer(
        _attention(heads, heads.head_dim, bias=True, out_bias=plain),
        FeedForward(f.integer("intermediate_size", most=MAX_WIDTH) // 2, True, "silu", plain, plain),
        mixer_norm=norm,
        mlp_norm=norm,
    )
    return Decoder(model_type, sizes.hidden, sizes.vocab, (layer,) * sizes.layers, norm, tied(f, False))


READERS = {
    "gpt2": read_gpt2,
    "gpt_bigcode": read_gpt2,
    "gpt_neo": read_gpt_neo,
    "opt": read_opt,
    "bloom": read_bloom,
    "gpt_neox": read_gpt_neox,
    "gptj": read_gptj,
    "codegen": read_gptj,
    "phi": read_phi,
    "falcon": read_falcon,
    "RefinedWeb": read_falcon,
    "RefinedWebModel": read_falcon,
    "mpt": read_mpt,
    "dbrx": read_dbrx,
    "chatglm": read_chatglm,
    "qwen": read_qwen1,
}
"""Readers by ``model_type``."""
