"""Text encoders: BERT and those that differ from it in norms, tables, heads or shared weights.

Without ``architectures`` a file is taken as the masked language model (with ``is_decoder``: the causal one), as the
classes for language modelling build it. ``...Model`` has a pooler instead, ``...ForSequenceClassification`` a
classifier on it; other tasks' heads are left out, and named.

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
)
from workloads.transformer.fields import Fields
from workloads.transformer.shape import (
    Attention,
    Decoder,
    FeedForward,
    HeadTransform,
    Layer,
    Norm,
)

__all__ = ["READERS", "TEXT_TASKS", "task_of"]

TEXT_TASKS: Final = ("lm", "model", "classification", "other")


@dataclass(frozen=True, slots=True)
class Traits:
    """What a family has otherwise than BERT."""

    pre_norm: bool = False
    embedding_norm: bool = True
    final_norm: bool = False
    segments: bool = True
    positions: bool = True
    offset: int = 0
    """Rows of the position table that no token uses."""
    transform: bool = True
    always_pooled: bool = False
    """The masked language model has the pooler too, though nothing reads it."""
    extra_bias: bool = True
    """An untied output projection has two biases."""


FAMILIES: Final[dict[str, Traits]] = {
    "bert": Traits(),
    "bert-generation": Traits(segments=False, transform=False),
    "big_bird": Traits(always_pooled=True),
    "camembert": Traits(offset=2),
    "data2vec-text": Traits(offset=2),
    "ernie": Traits(),
    "megatron-bert": Traits(pre_norm=True, embedding_norm=False, final_norm=True),
    "roberta": Traits(offset=2),
    "roberta-prelayernorm": Traits(pre_norm=True, final_norm=True, offset=2),
    "xlm-roberta": Traits(offset=2),
    "xlm-roberta-xl": Traits(pre_norm=True, embedding_norm=False, final_norm=True, offset=2),
    "electra": Traits(extra_bias=False),
    "roc_bert": Traits(),
    "roformer": Traits(positions=False),
    "rembert": Traits(extra_bias=False),
    "xmod": Traits(offset=2),
    "git": Traits(segments=False, transform=False, extra_bias=False),
    "blip_text_model": Traits(segments=False),
    "mpnet": Traits(segments=False, offset=2),
    "deberta": Traits(),
    "deberta-v2": Traits(),
    "albert": Traits(),
}
"""Families whose fields have BERT's names."""


def task_of(f: Fields) -> str:
    """What a file's ``architectures`` ask for: one of :data:`TEXT_TASKS`."""
    names = f.words("architectures") or []
    if not names:
        return "lm"
    name = names[0]
    if name.endswith(("ForMaskedLM", "ForCausalLM", "LMHeadModel", "ForPreTraining", "Decoder")):
        return "lm"
    if name.endswith("ForSequenceClassification"):
        return "classification"
    return "model" if name.endswith("Model") else "other"


def labels_of(f: Fields) -> int:
    """Classes of a classifier."""
    names = f.values.get("id2label")
    return len(names) if isinstance(names, dict) and names else f.integer("num_labels", default=2)


def with_task(f: Fields, decoder: Decoder, pooler: HeadTransform) -> Decoder:
    """The encoder with the head that its task needs."""
    task = task_of(f)
    if task == "lm":
        return decoder
    bare = replace(decoder, headless=True, transform=None, head_bias=False, tied=True, spare=0)
    if task == "other":
        name = (f.words("architectures") or [""])[0]
        return replace(bare, omitted=(*decoder.omitted, f"head of {name}"))
    return replace(
        bare, transform=pooler, pooled=True, labels=labels_of(f) if task == "classification" else 0
    )


def read_bert_like(f: Fields, model_type: str) -> Decoder:
    """BERT's make-up: tables added and normed, layers normed after their sums, a transform before the output."""
    traits = FAMILIES[model_type]
    hidden = f.integer("hidden_size", default=768, most=MAX_WIDTH)
    layers = f.integer("num_hidden_layers", default=12, most=MAX_LAYERS)
    vocab = f.integer("vocab_size", default=30522, most=MAX_VOCABULARY)
    heads = read_heads(f, hidden, kv_name="num_attention_heads")
    act = activation(f, default="gelu")
    decodes = model_type == "git" or f.flag("is_decoder", default=model_type == "blip_text_model")
    if f.flag("add_cross_attention", default=False):
        f.problem("add_cross_attention", "found true; cross attention in this family is not modelled")
    mlp = FeedForward(
        f.integer("intermediate_size", default=3072, most=MAX_WIDTH), False, act, up_bias=True, down_bias=True
    )
    attention = _attention(f, model_type, heads, decodes)
    layer = Layer(attention, mlp, mixer_norm=LAYER_NORM, mlp_norm=LAYER_NORM, post_norm=not traits.pre_norm)
    transform = HeadTransform(hidden, act, LAYER_NORM) if traits.transform else None
    is_tied = tied(f, model_type != "rembert")
    learned = traits.positions
    if model_type.startswith("deberta"):
        learned = f.flag("position_biased_input", default=True)
    positions = f.integer("max_position_embeddings", default=512) if learned else 0
    decoder = Decoder(
        model_type, hidden, vocab, _layers(f, model_type, layer, layers),
        LAYER_NORM if traits.final_norm else None, is_tied, positions,
        embedding_norm=LAYER_NORM if traits.embedding_norm else None, head_bias=True,
        max_positions=max(positions - traits.offset, 1) if positions else 0,
        segments=_segments(f, model_type) if traits.segments else 0, transform=transform, encodes=not decodes,
    )  # fmt: skip
    decoder = _own_way(f, model_type, decoder, act)
    spare = decoder.spare + (hidden * hidden + hidden if traits.always_pooled else 0)
    if not decoder.tied and traits.extra_bias:
        spare += vocab
    decoder = replace(decoder, spare=spare)
    return with_task(f, decoder, HeadTransform(hidden, "tanh"))


def _attention(f: Fields, model_type: str, heads: Heads, decodes: bool) -> Attention:
    biased = f.flag("use_bias", default=True) if model_type == "big_bird" else True
    attention = grouped_attention(
        heads, heads.head_dim if model_type == "roformer" else 0, q_bias=biased,
        k_bias=biased and model_type != "deberta", v_bias=biased, out_bias=True, causal=decodes,
    )  # fmt: skip
    if model_type == "big_bird" and f.word("attention_type", default="block_sparse") == "block_sparse":
        # Three neighbouring blocks, two global ones and the random ones (arXiv:2007.14062, section 2).
        seen = 5 + f.integer("num_random_blocks", default=3, least=0)
        attention = replace(attention, window=seen * f.integer("block_size", default=64))
    if model_type == "mpnet":
        rows = f.integer("relative_attention_num_buckets", default=32)
        attention = replace(attention, relative=rows, relative_shared=True)
    if model_type.startswith("deberta") and f.flag("relative_attention", default=False):
        f.problem("relative_attention", "found true; disentangled attention is not modelled")
    return attention


def _segments(f: Fields, model_type: str) -> int:
    rows = f.integer("type_vocab_size", default=0 if model_type.startswith("deberta") else 2, least=0)
    if model_type == "ernie" and f.flag("use_task_id", default=False):
        rows += f.integer("task_type_vocab_size", default=3)
    return rows


def _layers(f: Fields, model_type: str, layer: Layer, count: int) -> tuple[Layer, ...]:
    """Layers of their own; in ALBERT in groups that share their weights."""
    if model_type != "albert":
        return (layer,) * count
    groups = f.integer("num_hidden_groups", default=1, most=MAX_LAYERS)
    inner = f.integer("inner_group_num", default=1, most=64)
    return tuple(
        replace(layer, group=index * groups // count * inner + part)
        for index in range(count)
        for part in range(inner)
    )


def _own_way(f: Fields, model_type: str, decoder: Decoder, act: str) -> Decoder:
    """What a single family does in its own way."""
    hidden = decoder.hidden
    if model_type in ("electra", "albert"):
        width = f.integer("embedding_size", default=128, most=MAX_WIDTH)
        transform = HeadTransform(width, "gelu_erf" if model_type == "electra" else act, LAYER_NORM)
        if width == hidden and model_type == "electra":
            return replace(decoder, transform=transform)
        return replace(decoder, embedding_width=width, narrow_tables=True, transform=transform)
    if model_type == "rembert":
        width = f.integer("output_embedding_size", default=1664, most=MAX_WIDTH)
        return replace(
            decoder, embedding_width=f.integer("input_embedding_size", default=256, most=MAX_WIDTH),
            narrow_tables=True, transform=HeadTransform(width, act, LAYER_NORM), tied=False,
        )  # fmt: skip
    if model_type == "blip_text_model":
        memory = f.integer("encoder_hidden_size", default=768, most=MAX_WIDTH)
        crossed = 2 * hidden * hidden + 2 * memory * hidden + 4 * hidden + 2 * hidden
        note = "cross attention to the image (weights in memory, without traffic)"
        return replace(decoder, spare=crossed * len(decoder.layers), omitted=(note,))
    if model_type == "git":
        return replace(decoder, omitted=("vision tower",))
    if model_type == "roformer":
        return _roformer(f, decoder, act)
    if model_type == "roc_bert":
        return _roc_bert(f, decoder)
    if model_type == "xmod":
        return _xmod(f, decoder, act)
    return decoder


def _roformer(f: Fields, decoder: Decoder, act: str) -> Decoder:
    """Rotary angles are a stored table, of one head's width."""
    width = f.integer("embedding_size", default=decoder.hidden, most=MAX_WIDTH)
    heads = f.integer("num_attention_heads", most=MAX_HEADS)
    rows = f.integer("max_position_embeddings", default=1536)
    decoder = replace(decoder, spare=rows * (decoder.hidden // heads))
    transform = HeadTransform(width, act, LAYER_NORM)
    if width == decoder.hidden:
        return replace(decoder, transform=transform)
    return replace(decoder, embedding_width=width, narrow_tables=True, transform=transform)


def _roc_bert(f: Fields, decoder: Decoder) -> Decoder:
    """Sound and shape of each character beside it; the parts are brought to the model's width together."""
    inputs, tables = decoder.hidden, 0
    for part, use, width, rows in (
        ("pronunciation", "enable_pronunciation", 768, 910), ("shape", "enable_shape", 512, 24858),
    ):  # fmt: skip
        size = f.integer(f"{part}_embed_dim", default=width, most=MAX_WIDTH)
        tables += size * f.integer(f"{part}_vocab_size", default=rows)
        inputs += size if f.flag(use, default=True) else 0
    mapped = decoder.hidden * (inputs + 1) if f.flag("concat_input", default=True) else 0
    note = "tables of sound and shape and their mapping (in memory, without traffic)"
    return replace(decoder, spare=tables + mapped, omitted=(note,))


def _xmod(f: Fields, decoder: Decoder, act: str) -> Decoder:
    """A small feed-forward part per language behind each layer's own; one language's runs."""
    factor = f.integer("adapter_reduction_factor", default=2)
    width = max(decoder.hidden // factor, 1)
    languages = len(f.words("languages") or ["en_XX"])
    adapter = FeedForward(width, False, act, up_bias=True, down_bias=True)
    own_norm = f.flag("adapter_layer_norm", default=False)
    pre = f.flag("pre_norm", default=False)
    layers = []
    for layer in decoder.layers:
        layers += [
            replace(layer, post_norm=not pre),
            Layer(None, adapter, mlp_norm=LAYER_NORM if own_norm else None),
        ]
    size = 2 * width * decoder.hidden + width + decoder.hidden
    return replace(
        decoder, layers=tuple(layers), spare=(languages - 1) * size * len(decoder.layers),
        final_norm=LAYER_NORM if pre else None,
    )  # fmt: skip


def read_distilbert(f: Fields, model_type: str) -> Decoder:
    """DistilBERT: BERT without segments and pooler."""
    hidden = f.integer("dim", default=768, most=MAX_WIDTH)
    heads = read_heads(f, hidden, "n_heads", "n_heads")
    mlp = FeedForward(
        f.integer("hidden_dim", default=3072, most=MAX_WIDTH), False, activation(f, "activation", default="gelu"),
        True, True,
    )  # fmt: skip
    attention = grouped_attention(
        heads, 0, q_bias=True, k_bias=True, v_bias=True, out_bias=True, causal=False
    )
    layer = Layer(attention, mlp, mixer_norm=LAYER_NORM, mlp_norm=LAYER_NORM, post_norm=True)
    positions = f.integer("max_position_embeddings", default=512)
    decoder = Decoder(
        model_type, hidden, f.integer("vocab_size", default=30522),
        (layer,) * f.integer("n_layers", default=6, most=MAX_LAYERS), None, tied(f, True), positions,
        embedding_norm=LAYER_NORM, head_bias=True, max_positions=positions,
        transform=HeadTransform(hidden, mlp.activation, LAYER_NORM), encodes=True,
    )  # fmt: skip
    if task_of(f) == "model":
        return replace(decoder, headless=True, transform=None, head_bias=False, tied=True)
    return with_task(f, decoder, HeadTransform(hidden, "relu"))


def read_xlm(f: Fields, model_type: str) -> Decoder:
    """XLM: BERT's layers with a table of languages and a plain output projection."""
    hidden = f.integer("emb_dim", default=2048, most=MAX_WIDTH)
    heads = read_heads(f, hidden, "n_heads", "n_heads")
    if f.flag("asm", default=False):
        f.problem("asm", "found true; an adaptive softmax is not modelled")
    if not f.flag("is_encoder", default=True):
        f.problem("is_encoder", "found false; this family encodes only")
    causal = f.flag("causal", default=False)
    act = "gelu_erf" if f.flag("gelu_activation", default=True) else "relu"
    mlp = FeedForward(4 * hidden, False, act, True, True)
    attention = grouped_attention(
        heads, 0, q_bias=True, k_bias=True, v_bias=True, out_bias=True, causal=causal
    )
    layer = Layer(attention, mlp, mixer_norm=LAYER_NORM, mlp_norm=LAYER_NORM, post_norm=True)
    languages = f.integer("n_langs", default=1)
    positions = f.integer("max_position_embeddings", default=512)
    return Decoder(
        model_type, hidden, f.integer("vocab_size", "n_words", default=30145),
        (layer,) * f.integer("n_layers", default=12, most=MAX_LAYERS), None, tied(f, True), positions,
        embedding_norm=LAYER_NORM, head_bias=True, max_positions=positions, encodes=True,
        segments=languages if languages > 1 and f.flag("use_lang_emb", default=True) else 0,
    )  # fmt: skip


def read_xlnet(f: Fields, model_type: str) -> Decoder:
    """XLNet: relative positions through a product of their own, biases per head, a table of segments per layer."""
    hidden = f.integer("d_model", default=1024, most=MAX_WIDTH)
    heads = f.integer("n_head", default=16, most=MAX_HEADS)
    if hidden % heads:
        f.problem("n_head", f"found {heads}; expected a divisor of d_model ({hidden})")
    dim = max(hidden // heads, 1)
    if f.integer("d_head", default=dim) != dim:
        f.problem("d_head", f"found {f.integer('d_head')}; expected d_model / n_head ({dim})")
    layers = f.integer("n_layer", default=24, most=MAX_LAYERS)
    act = activation(f, "ff_activation", default="gelu")
    mlp = FeedForward(f.integer("d_inner", default=4096, most=MAX_WIDTH), False, act, True, True)
    attention = grouped_attention(
        Heads(heads, heads, dim), 0, causal=f.word("attn_type", default="bi") == "uni"
    )
    layer = Layer(attention, mlp, mixer_norm=LAYER_NORM, mlp_norm=LAYER_NORM, post_norm=True)
    relative = layers * (hidden * heads * dim + 5 * heads * dim)
    return Decoder(
        model_type, hidden, f.integer("vocab_size", default=32000), (layer,) * layers, None, tied(f, True),
        head_bias=True, encodes=True, spare=relative + hidden,
        omitted=("scores by relative position and segment (weights in memory, without traffic)",),
    )  # fmt: skip


def read_modernbert(f: Fields, model_type: str) -> Decoder:
    """ModernBERT and its decoder: rotary, gated, local and global layers, no norm before the first attention."""
    hidden = f.integer("hidden_size", default=768, most=MAX_WIDTH)
    count = f.integer("num_hidden_layers", default=22, most=MAX_LAYERS)
    heads = read_heads(f, hidden, kv_name="num_attention_heads")
    causal = model_type == "modernbert-decoder"
    bias, mlp_bias = f.flag("attention_bias", default=False), f.flag("mlp_bias", default=False)
    norm = Norm("layer", bias=f.flag("norm_bias", default=False))
    attention = grouped_attention(
        heads, heads.head_dim, q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias, causal=causal
    )
    wide = f.integer("local_attention", default=128, least=1)
    local = replace(attention, window=wide // 2 if causal else wide)
    act = activation(f, "hidden_activation", default="gelu")
    mlp = FeedForward(
        f.integer("intermediate_size", default=1152, most=MAX_WIDTH), True, act, mlp_bias, mlp_bias
    )
    every = f.integer("global_attn_every_n_layers", default=3)
    kinds = f.words("layer_types", count, ("full_attention", "sliding_attention")) or [
        "sliding_attention" if index % every else "full_attention" for index in range(count)
    ]
    layers = tuple(
        Layer(
            local if kind == "sliding_attention" else attention, mlp, mixer_norm=norm if index else None, mlp_norm=norm
        )
        for index, kind in enumerate(kinds)
    )  # fmt: skip
    head_act = activation(f, "classifier_activation", default="gelu")
    transform = HeadTransform(hidden, head_act, norm, f.flag("classifier_bias", default=False))
    decoder = Decoder(
        model_type, hidden, f.integer("vocab_size", default=50368), layers, norm, tied(f, True),
        embedding_norm=norm, head_bias=f.flag("decoder_bias", default=True), transform=transform,
        encodes=not causal,
    )  # fmt: skip
    if task_of(f) == "model":
        return replace(decoder, headless=True, transform=None, head_bias=False, tied=True)
    return with_task(f, decoder, transform)


def read_eurobert(f: Fields, model_type: str) -> Decoder:
    """EuroBERT: Llama's layers without a causal mask."""
    hidden = f.integer("hidden_size", default=768, most=MAX_WIDTH)
    heads = read_heads(f, hidden)
    bias, mlp_bias = f.flag("attention_bias", default=False), f.flag("mlp_bias", default=False)
    attention = grouped_attention(
        heads, heads.head_dim, q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias, causal=False
    )
    mlp = FeedForward(
        f.integer("intermediate_size", default=3072, most=MAX_WIDTH), True, activation(f), mlp_bias, mlp_bias
    )
    layers = (Layer(attention, mlp, mixer_norm=RMS, mlp_norm=RMS),) * f.integer(
        "num_hidden_layers", default=12, most=MAX_LAYERS
    )
    vocab = f.integer("vocab_size", default=128256)
    decoder = Decoder(
        model_type, hidden, vocab, layers, RMS, tied(f, False), head_bias=mlp_bias, encodes=True
    )
    if task_of(f) == "model":
        return replace(decoder, headless=True, tied=True)
    return with_task(f, decoder, HeadTransform(hidden, "gelu_erf"))


def read_nomic_bert(f: Fields, model_type: str) -> Decoder:
    """NomicBERT: BERT with rotary positions, gated parts and no biases."""
    hidden = f.integer("hidden_size", default=768, most=MAX_WIDTH)
    heads = read_heads(f, hidden, kv_name="num_attention_heads")
    mlp = FeedForward(f.integer("intermediate_size", default=3072, most=MAX_WIDTH), activation=activation(f))
    attention = grouped_attention(heads, heads.head_dim, causal=False)
    layer = Layer(attention, mlp, mixer_norm=LAYER_NORM, mlp_norm=LAYER_NORM, post_norm=True)
    decoder = Decoder(
        model_type, hidden, f.integer("vocab_size", default=30528),
        (layer,) * f.integer("num_hidden_layers", default=12, most=MAX_LAYERS), None, tied(f, True),
        embedding_norm=LAYER_NORM, head_bias=True, segments=f.integer("type_vocab_size", default=2, least=0),
        transform=HeadTransform(hidden, mlp.activation, LAYER_NORM), encodes=True,
    )  # fmt: skip
    return with_task(f, decoder, HeadTransform(hidden, "tanh"))


READERS = {
    **dict.fromkeys(FAMILIES, read_bert_like),
    "distilbert": read_distilbert,
    "xlm": read_xlm,
    "xlnet": read_xlnet,
    "modernbert": read_modernbert,
    "modernbert-decoder": read_modernbert,
    "eurobert": read_eurobert,
    "nomic_bert": read_nomic_bert,
}
"""Readers by ``model_type``."""
