"""A decoder-only language model as numbers: what every family's config file is brought to.

One vocabulary for all families. A :class:`Decoder` has layers; a layer has a sequence mixer (grouped-query
or latent attention, or a recurrence), a feed-forward part (dense, experts, or both) and norms. What
a family calls its fields is the business of the family modules; what the numbers cost is the business of
``layers``.
"""

from __future__ import annotations

from dataclasses import dataclass

from workloads.transformer.adapters import LoraAdapter
from workloads.transformer.mixer_shape import (
    Attention,
    BlockChoice,
    CompressedAttention,
    DeltaMix,
    GatedLru,
    Indexer,
    LatentAttention,
    Mixer,
    Norm,
    Recurrence,
    RoutedAttention,
    SelectiveScan,
    ShortConvolution,
    TimeMix,
)

__all__ = [
    "AlternatingUpdates",
    "Attention",
    "BlockChoice",
    "BlockResidual",
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
    "RoutedAttention",
    "SelectiveScan",
    "SharedBlock",
    "ShortConvolution",
    "TimeMix",
    "has_experts",
]


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
    latent_bias: bool = False
    latent_norm: Norm | None = None
    """A norm of the experts' sum before the projection up (Kimi K3)."""
    idle: int = 0
    out_norm: Norm | None = None
    """A norm of the sum of experts and shared part (A.X K1)."""
    scored: int = 0
    """Shared experts that the router scores too (Inkling)."""
    out_bias: bool = False
    """One bias on the sum of all experts (JetMoe)."""


@dataclass(frozen=True, slots=True)
class BlockResidual:
    """A residual stream that blocks of ``layers`` layers each add a source to (Attention Residuals, arXiv:2603.15031).

    What a mixer or a feed-forward part reads is a mean of the embedding, of the sums of all blocks before and of the
    present one, weighed by a learned query against the normed sources.
    """

    layers: int


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
    residual: BlockResidual | None = None
    beside_mixer: Mixer | None = None
    """A second mixer on the same input, whose result is added (Falcon-H1)."""
    shared: SharedBlock | None = None
    cross: Attention | None = None
    """Attention of the decoder to the encoder's result, behind the mixer."""
    cross_norm: Norm | None = None
    cross_out_norm: Norm | None = None
    taps: int = 0
    """Taps of a causal convolution over each feature of both blocks' results, added to them (Inkling); 0: none."""
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
    ``merges_streams``: a learned product merges the residual streams at the end (else their mean).

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
    merges_streams: bool = False
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
