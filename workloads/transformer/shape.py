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
    "DeltaMix",
    "Experts",
    "FeedForward",
    "FrameStem",
    "GatedLru",
    "HeadTransform",
    "HyperConnection",
    "Indexer",
    "LatentAttention",
    "Layer",
    "Mixer",
    "Norm",
    "PatchStem",
    "Projector",
    "Recurrence",
    "SelectiveScan",
    "SharedBlock",
    "ShortConvolution",
    "TimeMix",
    "has_experts",
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
    causal: bool = True
    """A query sees no keys behind it; False in encoders and where a decoder looks at an encoder's result."""
    relative: int = 0
    """Rows of a learned table of biases by distance, one column per head (T5, arXiv:1910.10683, section 2.1)."""
    relative_shared: bool = False
    """All layers have one such table."""
    out: int = 0
    """Features of the result, where they are not as many as of the input (Zamba); 0: as many."""


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
    prefill takes at once. ``kernel`` 0: no convolution; ``norm`` 0: no norm. ``decay`` features say how much of each
    key channel is kept (Kimi Delta Attention, arXiv:2510.26692); with ``decay_rank`` or ``gate_rank`` they, or the
    gate, come through a narrow product. ``normaliser``: the state keeps a sum of its keys too (mLSTM,
    arXiv:2405.04517).
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
    out_bias: bool = False
    control_bias: bool = False
    gate_rank: int = 0
    decay: int = 0
    decay_rank: int = 0
    normaliser: bool = False


@dataclass(frozen=True, slots=True)
class SelectiveScan:
    """Mamba (arXiv:2312.00752): ``channels`` states of ``state`` elements, whose steps come through ``rank`` features.

    ``heads``: into so many parts the channels are divided before that product (Zamba). ``norms``: step, input and
    output vectors are normed (Jamba).
    """

    channels: int
    state: int
    kernel: int
    rank: int
    heads: int = 1
    conv_bias: bool = True
    projection_bias: bool = False
    norms: bool = False


@dataclass(frozen=True, slots=True)
class GatedLru:
    """Griffin's recurrent block (arXiv:2402.19427, section 2): a convolution and a gated linear recurrence.

    Both gates are products inside each of ``heads`` blocks.
    """

    width: int
    heads: int
    kernel: int


@dataclass(frozen=True, slots=True)
class ShortConvolution:
    """LFM2's operator: a convolution of ``kernel`` taps between two gates (arXiv:2511.23404)."""

    kernel: int
    bias: bool = False


@dataclass(frozen=True, slots=True)
class TimeMix:
    """RWKV-4's time mixing (arXiv:2305.13048, section 3.1) over ``width`` channels."""

    width: int


@dataclass(frozen=True, slots=True)
class DeltaMix:
    """RWKV-7's time mixing (arXiv:2503.14456): ``heads`` square states; widths of the narrow products.

    ``value_rank`` 0: the first layer, whose values the others mix in.
    """

    heads: int
    head_dim: int
    decay_rank: int
    rate_rank: int
    value_rank: int
    gate_rank: int
    chunk: int


@dataclass(frozen=True, slots=True)
class FeedForward:
    """A dense feed-forward part: up (and gate) projection, non-linearity, down projection.

    ``inner_norm`` norms what enters the down projection (BitNet).
    ``token_mix``: RWKV's channel mixing; inputs are mixed with the token before, and where it is gated a gate stands on
    the output.
    """

    intermediate: int
    gated: bool = True
    activation: str = "silu"
    up_bias: bool = False
    down_bias: bool = False
    inner_norm: Norm | None = None
    token_mix: bool = False


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


Mixer = (
    Attention
    | LatentAttention
    | CompressedAttention
    | Recurrence
    | SelectiveScan
    | GatedLru
    | ShortConvolution
    | TimeMix
    | DeltaMix
)


@dataclass(frozen=True, slots=True)
class SharedBlock:
    """A transformer block before the mixer, whose weights all layers of one ``group`` share (Zamba, arXiv:2405.16712).

    It reads the stream beside the embeddings; a product of the layer's own brings its result to the mixer's input.
    ``adapter_rank``: the layer's own low-rank addition to the feed-forward part (Zamba2, arXiv:2411.15242).
    """

    group: int
    attention: Attention
    mlp: FeedForward
    adapter_rank: int = 0


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
    beside_mixer: Mixer | None = None
    """A second mixer on the same input, whose result is added (Falcon-H1)."""
    shared: SharedBlock | None = None
    cross: Attention | None = None
    """Attention of the decoder to the encoder's result, behind the mixer."""
    cross_norm: Norm | None = None
    cross_out_norm: Norm | None = None
    group: int | None = None
    """Layers of one group share all their weights (ALBERT); None: the layer has its own."""


@dataclass(frozen=True, slots=True)
class HeadTransform:
    """What stands before the output projection of a masked language model: a product, a non-linearity, a norm."""

    width: int
    activation: str = "gelu_erf"
    norm: Norm | None = None
    bias: bool = True


@dataclass(frozen=True, slots=True)
class FrameStem:
    """Two convolutions of ``kernel`` taps over ``channels`` bands of sound, the second every ``stride`` frames."""

    channels: int
    kernel: int = 3
    stride: int = 2


@dataclass(frozen=True, slots=True)
class PatchStem:
    """Patches of ``pixels`` values (channels by sides by frames) as rows, behind ``tokens`` learned ones."""

    pixels: int
    tokens: int = 0
    bias: bool = True


@dataclass(frozen=True, slots=True)
class Projector:
    """From a tower's rows to those of a language model.

    ``merge`` neighbouring rows become one, side by side or as their ``mean``, normed before (``norm``) or behind
    (``merged_norm``); then the products of ``steps``. ``dropped`` rows (class tokens) stay behind. ``deep``: so many
    further projectors, normed behind merging, on the results of earlier blocks (Qwen3-VL).
    """

    steps: tuple[HeadTransform, ...]
    merge: int = 1
    mean: bool = False
    norm: Norm | None = None
    merged_norm: Norm | None = None
    dropped: int = 0
    deep: int = 0


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
    segments: int = 0
    """Rows of tables beside that of positions: of segments, languages, tasks."""
    narrow_tables: bool = False
    """Tables and embedding norm have ``embedding_width``, and the projection behind them a bias (ELECTRA)."""
    transform: HeadTransform | None = None
    headless: bool = False
    """No output projection: the result is the last hidden state."""
    pooled: bool = False
    """The head reads the first row of each sequence alone: ``transform``, then ``labels`` classes (0: none)."""
    labels: int = 0
    encodes: bool = False
    """An encoder: all tokens at once, nothing is generated."""
    spare: int = 0
    """Weights of the checkpoint that no operator reads here: in memory, without traffic."""
    own_table: bool = False
    """The token embedding is not that of the other stack."""
    stem: FrameStem | PatchStem | None = None
    """What makes the rows of an encoder of sound or images; None: tokens."""
    rows: int = 0
    """Rows that a patch stem makes of one image, learned tokens included."""
    projector: Projector | None = None
    tower: Decoder | None = None
    """What makes rows of images that stand among this decoder's tokens."""
    tower_trouble: str = ""
    """Why the tower that the file describes is not modelled."""
    encoder: Decoder | None = None
    """What makes the states that this decoder's layers look at."""


def has_experts(decoder: Decoder) -> bool:
    """Whether some layer chooses among experts."""
    return any(layer.experts is not None for layer in decoder.layers)
