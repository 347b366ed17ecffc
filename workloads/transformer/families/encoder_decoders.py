"""Encoders with a decoder: BART and its kin, T5 and its kin, Whisper.

Many of these types can be built whole or as the decoder alone. ``architectures`` decides; a file without it is what the
classes for causal language models build where they know the type (BART, Marian, Pegasus, Whisper, ...), and whole
otherwise. A decoder alone keeps its weights of cross attention, which nothing reads.

Source: the configuration and modelling files of huggingface/transformers (Apache-2.0).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from workloads.transformer.families.common import (
    LAYER_NORM,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_VOCABULARY,
    MAX_WIDTH,
    RMS,
    Heads,
    activation,
    grouped_attention,
    read_heads,
    tied,
    window,
)
from workloads.transformer.families.experts import count_and_active
from workloads.transformer.fields import Fields
from workloads.transformer.shape import Attention, Decoder, Experts, FeedForward, FrameStem, Layer, Norm

__all__ = ["READERS"]


@dataclass(frozen=True, slots=True)
class Traits:
    """What a family has otherwise than BART. ``alone``: without ``architectures`` it is the decoder alone."""

    alone: bool = True
    pre_norm: bool = False
    embedding_norm: bool = True
    final_norm: bool = False
    positions: bool = True
    offset: int = 2
    """Rows of the position tables before the first position."""
    attention_bias: bool = True
    key_bias: bool = True
    ever_untied: bool = False
    """The output projection is never the embedding, whatever the file says."""
    sparse_step: bool = False


FAMILIES: Final[dict[str, Traits]] = {
    "bart": Traits(),
    "mbart": Traits(pre_norm=True, final_norm=True),
    "mvp": Traits(),
    "plbart": Traits(),
    "pegasus": Traits(pre_norm=True, embedding_norm=False, final_norm=True, offset=0),
    "marian": Traits(embedding_norm=False, offset=0),
    "blenderbot": Traits(pre_norm=True, embedding_norm=False, final_norm=True, offset=0),
    "blenderbot-small": Traits(offset=0),
    "bigbird_pegasus": Traits(
        pre_norm=True, embedding_norm=False, final_norm=True, offset=0, attention_bias=False, ever_untied=True
    ),
    "trocr": Traits(),
    "m2m_100": Traits(alone=False, pre_norm=True, embedding_norm=False, final_norm=True, positions=False),
    "nllb-moe": Traits(
        alone=False, pre_norm=True, embedding_norm=False, final_norm=True, positions=False, sparse_step=True
    ),
    "fsmt": Traits(alone=False, embedding_norm=False),
    "led": Traits(alone=False, offset=0),
    "pegasus_x": Traits(
        alone=False, pre_norm=True, embedding_norm=False, final_norm=True, positions=False, attention_bias=False
    ),
    "whisper": Traits(
        pre_norm=True, embedding_norm=False, final_norm=True, offset=0, key_bias=False
    ),
}  # fmt: skip
"""Families whose fields have BART's names."""


def _is_whole(f: Fields, alone: bool) -> bool:
    """Whether encoder and decoder are asked for. A nested section is part of a model that has both."""
    names = f.words("architectures") or []
    if names:
        return not names[0].endswith("ForCausalLM")
    return bool(f.path) or not alone


def _attention(width: int, heads: int, traits: Traits, *, causal: bool) -> Attention:
    dim = max(width // heads, 1)
    bias = traits.attention_bias
    return grouped_attention(
        Heads(heads, heads, dim), 0, q_bias=bias, k_bias=bias and traits.key_bias, v_bias=bias, out_bias=bias,
        causal=causal,
    )  # fmt: skip


def _biased(f: Fields, model_type: str) -> Traits:
    """The family's traits with the biases that the file asks for."""
    traits = FAMILIES[model_type]
    if model_type != "bigbird_pegasus":
        return traits
    return replace(traits, attention_bias=f.flag("use_bias", default=False))


def _cross_weights(attention: Attention, width: int, memory: int, norm: Norm | None) -> int:
    """Elements of one layer's cross attention and its norm."""
    q, k = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
    v = attention.kv_heads * attention.v_head_dim
    out = attention.heads * attention.v_head_dim
    products = q * width + (k + v) * memory + out * width
    biases = attention.q_bias * q + attention.k_bias * k + attention.v_bias * v + attention.out_bias * width
    norms = 0 if norm is None else width * (norm.weight + norm.bias)
    return products + biases + norms


def _alone(decoder: Decoder, memory: int) -> Decoder:
    """A decoder without its encoder: the weights of cross attention are there and nothing reads them."""
    spare = sum(
        _cross_weights(layer.cross, decoder.hidden, memory, layer.cross_norm)
        for layer in decoder.layers
        if layer.cross is not None
    )
    layers = tuple(replace(layer, cross=None, cross_norm=None) for layer in decoder.layers)
    omitted = (*decoder.omitted, "encoder (the file names no architecture that has one)")
    return replace(decoder, layers=layers, spare=decoder.spare + spare, encoder=None, omitted=omitted)


def read_bart_like(f: Fields, model_type: str) -> Decoder:
    """BART's make-up: layers normed before or after, cross attention in the middle of a decoder layer."""
    traits = FAMILIES[model_type]
    hidden = f.integer("d_model", default=1024, most=MAX_WIDTH)
    vocab = f.integer(
        "decoder_vocab_size" if model_type == "marian" else "tgt_vocab_size", "vocab_size", default=50265,
        most=MAX_VOCABULARY,
    )  # fmt: skip
    whole = _is_whole(f, traits.alone)
    is_tied = tied(f, True) and not (traits.ever_untied and not whole)
    act = activation(f, "activation_function", default="gelu")
    if model_type == "mvp" and f.flag("use_prompt", default=False):
        f.problem("use_prompt", "found true; learned prompts are not modelled")
    decoder = _bart_decoder(f, model_type, hidden, vocab, act)
    decoder = replace(decoder, tied=is_tied)
    if model_type == "trocr" or not whole:
        memory = f.integer("cross_attention_hidden_size", default=hidden, most=MAX_WIDTH)
        return _alone(decoder, memory)
    encoder = _bart_encoder(f, model_type, hidden, act)
    apart = model_type == "marian" and not f.flag("share_encoder_decoder_embeddings", default=True)
    if model_type == "fsmt":
        apart = not is_tied
        if is_tied and encoder.vocab != vocab:
            f.problem(
                "src_vocab_size",
                f"found {encoder.vocab}; expected tgt_vocab_size ({vocab}), for tables are tied",
            )
    elif not is_tied and model_type != "whisper" and not apart:
        # Without ties the stacks have tables of their own beside the common one, which nothing reads.
        apart, encoder = True, replace(encoder, spare=encoder.spare + encoder.vocab * hidden)
    if apart:
        encoder, decoder = replace(encoder, own_table=True), replace(decoder, own_table=True)
    return replace(decoder, encoder=encoder)


def _parts(f: Fields, stack: str, act: str) -> tuple[int, FeedForward, int]:
    """Layers, feed-forward part and heads of one stack."""
    mlp = FeedForward(
        f.integer(f"{stack}_ffn_dim", default=4096, most=MAX_WIDTH), False, act, up_bias=True, down_bias=True
    )
    layers = f.integer(f"{stack}_layers", default=12, most=MAX_LAYERS)
    heads = f.integer(f"{stack}_attention_heads", default=16, most=MAX_HEADS)
    width = f.integer("d_model", default=1024, most=MAX_WIDTH)
    if width % heads:
        f.problem(f"{stack}_attention_heads", f"found {heads}; expected a divisor of d_model ({width})")
    return layers, mlp, heads


def _positions(f: Fields, model_type: str, stack: str) -> int:
    """Tokens that a stack has positions for."""
    names = {
        "led": f"max_{stack}_position_embeddings",
        "whisper": "max_target_positions" if stack == "decoder" else "max_source_positions",
    }
    return f.integer(names.get(model_type, "max_position_embeddings"), default=1024)


def _experts(f: Fields, stack: str, layers: int, mlp: FeedForward) -> dict[int, Experts]:
    step = f.integer(f"{stack}_sparse_step", default=4, least=0)
    if f.flag("router_bias", default=False):
        f.problem("router_bias", "found true; a biased router of this family is not modelled")
    count, active = count_and_active(f, ("num_experts",), (), (128, 2))
    experts = Experts(count, active, mlp.intermediate, False, mlp.activation, True, True)
    return {index: experts for index in range(layers) if step and (index + 1) % step == 0}


def _bart_decoder(f: Fields, model_type: str, hidden: int, vocab: int, act: str) -> Decoder:
    traits = FAMILIES[model_type]
    layers, mlp, heads = _parts(f, "decoder", act)
    traits = _biased(f, model_type)
    own = _attention(hidden, heads, traits, causal=True)
    layer = Layer(
        own, mlp, mixer_norm=LAYER_NORM, mlp_norm=LAYER_NORM, post_norm=not traits.pre_norm,
        cross=replace(own, causal=False), cross_norm=LAYER_NORM,
    )  # fmt: skip
    sparse = _experts(f, "decoder", layers, mlp) if traits.sparse_step else {}
    stack = tuple(
        replace(layer, mlp=None, experts=sparse[index]) if index in sparse else layer
        for index in range(layers)
    )
    most = _positions(f, model_type, "decoder")
    learned = traits.positions
    norm = traits.embedding_norm
    if model_type == "trocr":
        learned = f.flag("use_learned_position_embeddings", default=True)
        norm = f.flag("layernorm_embedding", default=True)
    return Decoder(
        model_type, hidden, vocab, stack, LAYER_NORM if traits.final_norm else None, True,
        most + traits.offset if learned else 0, embedding_norm=LAYER_NORM if norm else None, max_positions=most,
    )  # fmt: skip


def _bart_encoder(f: Fields, model_type: str, hidden: int, act: str) -> Decoder:
    traits = FAMILIES[model_type]
    layers, mlp, heads = _parts(f, "encoder", act)
    traits = _biased(f, model_type)
    attention = _attention(hidden, heads, traits, causal=False)
    spare = 0
    if model_type == "led":
        attention = replace(attention, window=_led_window(f))
        spare = layers * 3 * (hidden * hidden + hidden)  # projections of global tokens
    elif model_type == "pegasus_x":
        attention = replace(attention, window=f.integer("block_size", default=512))
        spare = f.integer("num_global_tokens", default=32) * hidden + layers * 2 * hidden
    elif (
        model_type == "bigbird_pegasus" and f.word("attention_type", default="block_sparse") == "block_sparse"
    ):
        seen = 5 + f.integer("num_random_blocks", default=3, least=0)
        attention = replace(attention, window=seen * f.integer("block_size", default=64))
    layer = Layer(attention, mlp, mixer_norm=LAYER_NORM, mlp_norm=LAYER_NORM, post_norm=not traits.pre_norm)
    sparse = _experts(f, "encoder", layers, mlp) if traits.sparse_step else {}
    stack = tuple(
        replace(layer, mlp=None, experts=sparse[index]) if index in sparse else layer
        for index in range(layers)
    )
    most = _positions(f, model_type, "encoder")
    stem = FrameStem(f.integer("num_mel_bins", default=80)) if model_type == "whisper" else None
    return Decoder(
        model_type, hidden, f.integer("src_vocab_size", "vocab_size", default=50265), stack,
        LAYER_NORM if traits.final_norm else None, True, most + traits.offset if traits.positions else 0,
        embedding_norm=LAYER_NORM if traits.embedding_norm else None, max_positions=most, headless=True,
        encodes=True, spare=spare, stem=stem,
    )  # fmt: skip


def _led_window(f: Fields) -> int:
    """Tokens that a token sees on both sides."""
    given = f.values.get("attention_window", 512)
    if isinstance(given, list):
        sizes = f.integers("attention_window") or [512]
        return max(sizes) + 1
    return f.integer("attention_window", default=512) + 1


def read_prophetnet(f: Fields, model_type: str) -> Decoder:
    """ProphetNet's decoder alone: BART's layers, biases by distance from a product, streams for later tokens."""
    if _is_whole(f, True):
        f.problem("architectures", "the encoder of this family is not modelled; ProphetNetForCausalLM is")
    hidden = f.integer("hidden_size", default=1024, most=MAX_WIDTH)
    heads = f.integer("num_decoder_attention_heads", default=16, most=MAX_HEADS)
    if hidden % heads:
        f.problem(
            "num_decoder_attention_heads", f"found {heads}; expected a divisor of hidden_size ({hidden})"
        )
    count = f.integer("num_decoder_layers", default=12, most=MAX_LAYERS)
    act = activation(f, "activation_function", default="gelu")
    mlp = FeedForward(f.integer("decoder_ffn_dim", default=4096, most=MAX_WIDTH), False, act, True, True)
    own = _attention(hidden, heads, Traits(), causal=True)
    crossed = f.flag("add_cross_attention", default=True)
    layer = Layer(
        own, mlp, mixer_norm=LAYER_NORM, mlp_norm=LAYER_NORM, post_norm=True,
        cross=replace(own, causal=False) if crossed else None, cross_norm=LAYER_NORM if crossed else None,
    )  # fmt: skip
    vocab = f.integer("vocab_size", default=30522, most=MAX_VOCABULARY)
    positions = f.integer("max_position_embeddings", default=512)
    is_tied = tied(f, True)
    distances = f.integer("num_buckets", default=32) * heads * (hidden + 1)
    spare = f.integer("ngram", default=2) * hidden + count * distances + (0 if is_tied else vocab * hidden)
    decoder = Decoder(
        model_type, hidden, vocab, (layer,) * count, None, is_tied, positions, embedding_norm=LAYER_NORM,
        max_positions=positions, spare=spare,
        omitted=("scores by distance and streams of later tokens (weights in memory, without traffic)",),
    )  # fmt: skip
    return _alone(decoder, hidden)


T5_LIKE: Final = ("t5", "mt5", "umt5", "longt5", "switch_transformers")


def read_t5_like(f: Fields, model_type: str) -> Decoder:
    """T5's make-up: RMS norms before, attention biases by distance, no biases."""
    hidden = f.integer("d_model", default=512, most=MAX_WIDTH)
    vocab = f.integer("vocab_size", default=32128, most=MAX_VOCABULARY)
    layers = f.integer("num_layers", default=6, most=MAX_LAYERS)
    later = f.integer("num_decoder_layers", default=layers, most=MAX_LAYERS)
    heads = f.integer("num_heads", default=8, most=MAX_HEADS)
    rows = f.integer("relative_attention_num_buckets", default=32)
    both = grouped_attention(
        Heads(heads, heads, f.integer("d_kv", default=64, most=MAX_WIDTH)), 0, causal=False, relative=rows,
        relative_shared=model_type != "umt5",
    )  # fmt: skip
    mlp = _t5_mlp(f, model_type)
    first = both
    spare = 0
    if model_type == "longt5":
        kind = f.word("encoder_attention_type", default="local", known=("local", "transient-global"))
        radius = 2 * f.integer("local_radius", default=127) + 1
        first = replace(both, window=radius)
        if kind == "transient-global":
            # One more token per block of the source, with biases and a norm of its own.
            spare = rows * heads + layers * hidden
    cross = replace(both, relative=0)
    encoder_layers = _t5_layers(
        f, model_type, "encoder", layers, Layer(first, mlp, mixer_norm=RMS, mlp_norm=RMS)
    )
    layer = Layer(replace(both, causal=True), mlp, mixer_norm=RMS, mlp_norm=RMS, cross=cross, cross_norm=RMS)
    decoder_layers = _t5_layers(f, model_type, "decoder", later, layer)
    # T5's checkpoints are tied whatever their files say; there the flag means that the result is scaled.
    apart = model_type == "switch_transformers" and not tied(f, True)
    spare += vocab * hidden if apart else 0
    encoder = Decoder(
        model_type,
        hidden,
        vocab,
        encoder_layers,
        RMS,
        True,
        headless=True,
        encodes=True,
        spare=spare,
        own_table=apart,
    )
    names = f.words("architectures") or []
    if names and names[0].endswith("EncoderModel"):
        return encoder
    return Decoder(
        model_type, hidden, vocab, decoder_layers, RMS, not apart, encoder=encoder, own_table=apart
    )


def _t5_mlp(f: Fields, model_type: str) -> FeedForward:
    """The feed-forward part from a name such as gated-gelu."""
    width = f.integer("d_ff", default=2048, most=MAX_WIDTH)
    if model_type == "switch_transformers":
        return FeedForward(width, False, activation(f, "dense_act_fn", default="relu"))
    name = f.word("feed_forward_proj", default="relu")
    gated, act = name.startswith("gated-"), name.removeprefix("gated-")
    if act not in ("relu", "gelu", "silu"):
        f.problem(
            "feed_forward_proj", f"found {name!r}; expected relu, gelu or silu, alone or behind 'gated-'"
        )
    gated = f.flag("is_gated_act", default=gated)
    return FeedForward(
        width, gated, "gelu" if act == "gelu" and gated else {"gelu": "gelu_erf"}.get(act, act)
    )


def _t5_layers(f: Fields, model_type: str, stack: str, count: int, layer: Layer) -> tuple[Layer, ...]:
    """Layers of one stack; every so many have experts in Switch Transformers."""
    if model_type != "switch_transformers" or layer.mlp is None:
        return (layer,) * count
    sparse = f.integer(f"num_sparse_{stack}_layers", default=3, least=0)
    step = f.integer(f"{stack}_sparse_step", default=count // sparse if sparse else count, least=0)
    number = f.integer("num_experts", default=8, most=2**16)
    bias = f.flag("router_bias", default=False)
    experts = Experts(number, 1, layer.mlp.intermediate, False, layer.mlp.activation, router_bias=bias)
    chosen = [step > 0 and (index % step == 1 or step == 1) for index in range(count)]
    return tuple(replace(layer, mlp=None, experts=experts) if here else layer for here in chosen)


def read_t5gemma(f: Fields, model_type: str) -> Decoder:
    """T5Gemma: Gemma 2's layers as an encoder and as a decoder with cross attention."""
    first, second = f.section("encoder"), f.section("decoder")
    if first is None or second is None:
        raise f.refusal("encoder", "expected the sections encoder and decoder")
    encoder = _gemma_stack(first, model_type, None)
    decoder = _gemma_stack(second, model_type, encoder.hidden)
    is_tied = f.flag("tie_word_embeddings", default=True)
    # Both stacks have a table of their own, whatever their vocabularies.
    return replace(
        decoder, encoder=replace(encoder, own_table=True), tied=is_tied, own_table=True, model_type=model_type
    )


def _gemma_stack(g: Fields, model_type: str, memory: int | None) -> Decoder:
    hidden = g.integer("hidden_size", default=2304, most=MAX_WIDTH)
    heads = read_heads(g, hidden, default_head_dim=256, default_kv=4)
    bias = g.flag("attention_bias", default=False)
    attention = grouped_attention(
        heads, heads.head_dim, q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias, causal=memory is not None
    )
    count = g.integer("num_hidden_layers", default=26, most=MAX_LAYERS)
    kinds = g.words("layer_types", count, ("full_attention", "sliding_attention")) or [
        "full_attention" if index % 2 else "sliding_attention" for index in range(count)
    ]
    local = replace(attention, window=window(g, 4096))
    act = activation(g, "hidden_activation", default="gelu_pytorch_tanh")
    mlp = FeedForward(g.integer("intermediate_size", default=9216, most=MAX_WIDTH), activation=act)
    cross = None
    if memory is not None:
        if g.integer("cross_attention_hidden_size", default=memory) != memory:
            g.problem("cross_attention_hidden_size", f"expected the encoder's hidden_size ({memory})")
        cross = replace(attention, causal=False, rotary_dim=0)
    layers = tuple(
        Layer(
            local if kind == "sliding_attention" else attention, mlp, mixer_norm=RMS, mixer_out_norm=RMS,
            mlp_norm=RMS, mlp_out_norm=RMS, cross=cross, cross_norm=RMS if cross else None,
            cross_out_norm=RMS if cross else None,
        )
        for kind in kinds
    )  # fmt: skip
    vocab = g.integer("vocab_size", default=256000, most=MAX_VOCABULARY)
    return Decoder(
        model_type,
        hidden,
        vocab,
        layers,
        RMS,
        True,
        headless=memory is None,
        encodes=memory is None,
        dtype="bf16",
    )


READERS = {
    **dict.fromkeys(FAMILIES, read_bart_like),
    **dict.fromkeys(T5_LIKE, read_t5_like),
    "prophetnet": read_prophetnet,
    "t5gemma": read_t5gemma,
}
"""Readers by ``model_type``."""
