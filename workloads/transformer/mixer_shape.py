"""What mixes a sequence, as numbers: attention of every kind, and recurrences with a state.

Part of the vocabulary of :mod:`workloads.transformer.shape`, which names it all.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "Attention",
    "BlockChoice",
    "CompressedAttention",
    "DeltaMix",
    "GatedLru",
    "Indexer",
    "LatentAttention",
    "Mixer",
    "Norm",
    "Recurrence",
    "RoutedAttention",
    "SelectiveScan",
    "ShortConvolution",
    "TimeMix",
]


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm over the model width: RMS or layer norm; OLMo's has no weight.

    ``gate_rank``: a sigmoid gate on its result, which comes of that result through so many features (A.X K2).
    """

    kind: str = "rms"
    weight: bool = True
    bias: bool = False
    gate_rank: int = 0


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
    taps: int = 0
    """Taps of a causal convolution over each feature of new keys and values, added to them (Inkling); 0: none."""
    profile: tuple[int, int] = (0, 0)
    """Biases by distance that a token makes itself: mixed of so many learned profiles, over so many keys (Inkling)."""


@dataclass(frozen=True, slots=True)
class RoutedAttention:
    """Attention whose queries and outputs are experts': ``active`` of ``count`` per token (JetMoe, arXiv:2404.07413).

    Every chosen expert has a query head for each of the ``kv_heads`` key-value heads, which all experts share.
    """

    count: int
    active: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class Indexer:
    """DeepSeek sparse attention: a small scorer that picks the ``top_k`` cached tokens a query attends to.

    ``of``: the layer whose choice this layer takes over; it then has no scorer and no cache of its own (GLM-5.2).
    ``norm_input``: a layer norm stands before its queries; ``vectors`` are learned numbers beside its products.
    ``pool``: tokens whose keys become one, a weighted mean, so that pools are picked and not tokens (GLM-5-Next).
    """

    heads: int
    head_dim: int
    top_k: int
    of: int | None = None
    norm_input: bool = False
    vectors: int = 0
    pool: int = 1


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1).

    Keys and values are up-projections of one latent of ``kv_rank`` elements per token, cached together with
    one rotary key of ``rope_dim`` elements. ``q_rank`` None: queries come straight from the hidden state.
    ``gate``: width of a gate on the attended values, from the hidden state; ``joint_gate``: it comes with the queries
    of their latent, normed and plain side by side (A.X K2). ``window`` (0: none) bounds what a token
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
    joint_gate: bool = False


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


Mixer = (
    Attention
    | LatentAttention
    | CompressedAttention
    | Recurrence
    | RoutedAttention
    | SelectiveScan
    | GatedLru
    | ShortConvolution
    | TimeMix
    | DeltaMix
)
