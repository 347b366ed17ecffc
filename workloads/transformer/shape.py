"""A decoder-only language model as numbers: what every family's config file is brought to.

One vocabulary for all families. A :class:`Decoder` has layers; a layer has a sequence mixer (grouped-query
or latent attention, or a recurrence), a feed-forward part (dense, experts, or both) and norms. What
a family calls its fields is the business of the family modules; what the numbers cost is the business of
``layers``.
"""

from __future__ import annotations

from dataclasses import dataclass

from workloads.transformer.adapters import LoraAdapter

__all__ = [
    "AlternatingUpdates",
    "Attention",
    "BlockChoice",
    "CompressedAttention",
    "Decoder",
    "Experts",
    "FeedForward",
    "HyperConnection",
    "Indexer",
    "LatentAttention",
    "Layer",
    "Mixer",
    "Norm",
    "Recurrence",
]


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm over the model width: RMS or layer norm; OLMo's has no weight."""

    kind: str = "rms"
    weight: bool = True
    bias: bool = False


@dataclass(frozen=True, slots=True)
class BlockChoice:
    """A small scorer that picks ``blocks`` blocks of ``size`` tokens, to which a query attends (MiniMax-M3)."""

    heads: int
    head_dim: int
    size: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Attention:
    """Multi-head, grouped-query or multi-query attention.

    ``window`` and ``chunk`` (0: none) bound what a token sees: the last ``window`` tokens, or the tokens of
    its own chunk. ``q_norm`` and ``k_norm`` are the elements of the weights that norm queries and keys (0:
    no norm); ``head_norms`` says the norm runs without or with weights anyway. ``gate`` is the width of a
    gate on the output that comes with the query projection. ``cache_of`` names the layer whose keys and
    values this layer reads instead of its own. ``shared_kv``: values are the keys, one projection for both.
    ``out_norm`` says that the attended values are normed before the output projection (BitNet); ``vectors`` are
    learned numbers beside the products: biases of a gate, weights of a difference of two attentions. ``choice``
    picks the blocks of tokens that a query attends to.
    """

    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    rotary_dim: int = 0
    q_bias: bool = False
    k_bias: bool = False
    v_bias: bool = False
    out_bias: bool = False
    q_norm: int = 0
    k_norm: int = 0
    v_norm: bool = False
    plain_norm: bool = False
    norm_bias: bool = False
    window: int = 0
    chunk: int = 0
    sinks: bool = False
    shared_kv: bool = False
    cache_of: int | None = None
    gate: int = 0
    gate_bias: bool = False
    out_norm: Norm | None = None
    vectors: int = 0
    choice: BlockChoice | None = None


@dataclass(frozen=True, slots=True)
class Indexer:
    """DeepSeek sparse attention: a small scorer that picks the ``top_k`` cached tokens a query attends to.

    ``of``: the layer whose choice this layer takes over; it then has no scorer and no cache of its own (GLM-5.2).
    ``norm_input``: a layer norm stands before its queries; ``vectors`` are learned numbers beside its products.
    """

    heads: int
    head_dim: int
    top_k: int
    of: int | None = None
    norm_input: bool = False
    vectors: int = 0


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1).

    Keys and values are up-projections of one latent of ``kv_rank`` elements per token, cached together with
    one rotary key of ``rope_dim`` elements. ``q_rank`` None: queries come straight from the hidden state.
    ``gate``: width of a gate on the attended values, from the hidden state. ``window`` (0: none) bounds what a token
    sees. ``rope_norm``: the rotary key is normed. ``sinks``: one learned sink per head. ``vectors``: further learned
    numbers. ``cache_of`` names the layer whose latents this layer reads instead of its own.
    """

    heads: int
    q_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_head_dim: int
    bias: bool = False
    indexer: Indexer | None = None
    gate: int = 0
    window: int = 0
    rope_norm: bool = False
    sinks: bool = False
    vectors: int = 0
    cache_of: int | None = None


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A layer that carries a state: gated delta rule (linear attention) or Mamba-2.

    The state is ``heads`` matrices of ``key_dim`` x ``value_dim``; keys and queries have ``key_heads`` heads.
    ``conv_channels`` features pass a convolution of ``kernel`` taps; ``gate`` features gate the output;
    ``controls`` steer decay and step size, with ``vectors`` small weights. ``norm`` elements norm the output.
    ``rule``: what a token does to the state (:mod:`workloads.operators.linear_attention`); ``chunk``: tokens that a
    prefill takes at once.
    """

    heads: int
    key_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    conv_channels: int
    gate: int
    controls: int
    vectors: int
    norm: int
    rule: str
    chunk: int
    conv_bias: bool = False
    projection_bias: bool = False


@dataclass(frozen=True, slots=True)
class FeedForward:
    """A dense feed-forward part: up (and gate) projection, non-linearity, down projection.

    ``inner_norm`` norms what enters the down projection (BitNet).
    """

    intermediate: int
    gated: bool = True
    activation: str = "silu"
    up_bias: bool = False
    down_bias: bool = False
    inner_norm: Norm | None = None


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts: ``active`` of ``count`` per token, beside ``shared`` if there is one.

    ``groups`` and ``top_groups``: routing first picks groups of experts (DeepSeek-V2, section 2.2.1).
    ``shared_gate``: a sigmoid gate of one output on the shared expert (Qwen2-MoE). ``idle``: further choices of the
    router that pass a token on unchanged (LongCat-Flash).
    """

    count: int
    active: int
    intermediate: int
    gated: bool = True
    activation: str = "silu"
    up_bias: bool = False
    down_bias: bool = False
    router_bias: bool = False
    groups: int = 1
    top_groups: int = 1
    shared: FeedForward | None = None
    shared_gate: bool = False
    vectors: int = 0
    """Further weights of the router: AFMoE's bias per expert, Gemma 4's scales. DeepSeek-V3's bias is a buffer."""
    latent: int = 0
    """Width the experts work in, between a projection down and one up (0: the model's own)."""
    idle: int = 0
    out_norm: Norm | None = None
    """A norm of the sum of experts and shared part (A.X K1)."""


@dataclass(frozen=True, slots=True)
class CompressedAttention:
    """Attention over a window and over compressed tokens behind it (DeepSeek-V4).

    One key-value head of ``head_dim`` elements, whose keys are its values. ``rate`` tokens become one compressed one
    (0: the window is all), overlapping their neighbours where an indexer picks the ``top_k`` best. Queries come from
    a latent of ``q_rank``; the output is projected in ``out_groups`` groups to ``out_rank`` each, then to the model's
    width.
    """

    heads: int
    head_dim: int
    rotary_dim: int
    q_rank: int
    window: int
    out_groups: int
    out_rank: int
    rate: int = 0
    indexer: Indexer | None = None


@dataclass(frozen=True, slots=True)
class HyperConnection:
    """Several residual streams and how a block reads and writes them (mHC in DeepSeek-V4).

    Of the normed streams, side by side, one small product makes ``outputs`` numbers per token: what the block reads
    of each stream, what it writes to each, and how the streams mix. ``scales`` are learned numbers beside it.
    """

    streams: int
    outputs: int
    scales: int


@dataclass(frozen=True, slots=True)
class AlternatingUpdates:
    """Several residual streams of which a layer computes one and corrects the others (Gemma 3n).

    ``rank``: of the low-rank block beside the attention; ``inputs``: width of the layer's own input; ``scaled``: the
    computed stream is scaled by a learned vector before that input joins.
    """

    streams: int
    rank: int
    inputs: int
    scaled: bool = True


Mixer = Attention | LatentAttention | CompressedAttention | Recurrence


@dataclass(frozen=True, slots=True)
class Layer:
    """One block. A norm that is None is not there.

    ``parallel``: mixer and feed-forward read the same input and are added together (GPT-J). With
    ``parallel`` and no ``mlp_norm`` both read the one normed input. ``post_norm``: the norm follows the
    residual addition and its output is the new residual stream (the original transformer, OPT-350m).
    ``beside``: experts and dense part both read the residual stream, each with norms of its own (Gemma 4);
    otherwise both read the one normed input. ``per_layer_input``: width of an embedding of the token that
    every layer has for itself (Gemma 4). ``vectors``: weights of a learned non-linearity. ``hyper``: mixer and
    feed-forward part each read and write several residual streams.
    """

    mixer: Mixer | None
    mlp: FeedForward | None = None
    experts: Experts | None = None
    mixer_norm: Norm | None = None
    mixer_out_norm: Norm | None = None
    mlp_norm: Norm | None = None
    mlp_out_norm: Norm | None = None
    parallel: bool = False
    post_norm: bool = False
    beside: bool = False
    per_layer_input: int = 0
    vectors: int = 0
    hyper: HyperConnection | AlternatingUpdates | None = None


@dataclass(frozen=True)
class Decoder:
    """A whole model. ``positions``: rows of a learned position table (0: none).

    ``head_vocab``: rows of the output projection, where they are not those of the embedding (0: they are).
    ``head_norm``: a square product, with a bias or without, a non-linearity and this norm stand before the logits.
    ``merges_streams``: a learned product merges the residual streams at the end (else their mean). ``vectors``:
    learned numbers beside the layers.

    ``embedding_width``: where the token embedding is narrower than the model and projected (OPT-350m).
    ``per_layer_rows``: vocabulary of the per-layer embeddings, if the layers have them.
    ``dtype`` is the family's usual element type, for files that name none; ``omitted`` names what the
    config describes beside the language model (a vision tower, multi-token prediction) and the graph
    leaves out. ``notes``: what a user should know of how the file was read.
    ``adapters`` stand beside the weights, not merged into them.
    """

    model_type: str
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    final_norm: Norm | None
    tied: bool
    positions: int = 0
    embedding_width: int = 0
    embedding_norm: Norm | None = None
    head_bias: bool = False
    head_vocab: int = 0
    head_norm: Norm | None = None
    head_norm_bias: bool = False
    merges_streams: bool = False
    vectors: int = 0
    per_layer_rows: int = 0
    dtype: str = ""
    max_positions: int = 0
    omitted: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    adapters: tuple[LoraAdapter, ...] = ()
