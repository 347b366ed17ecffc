"""What a block of batches costs, layer by layer, and how much memory it fills at its peak.

The zig-zag block schedule walks a layer over all batches of a block before the next layer, so that weights
are fetched once per block, and moves the batches' KV and hidden states while others compute. Within 2x of the
least possible I/O (FlexGen, arXiv:2303.06865, section 4). Every term below is linear in the shares of a
policy, so that one set of equations serves a fixed policy (floats) and the search (variables of an LP).

``form`` says how terms overlap. ``published`` is the paper's: the slowest of five streams sets the pace.
``released`` is the authors' program: reading from disk and host is one chain in prefill, and in decode the
copy to the GPU precedes everything else. ``serial`` overlaps nothing, the paper's ablation.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from typing import Any, Final, Literal

from mapping.offload.block_policy import BlockPolicy, BlockRates, BlockShape, Capacities

__all__ = [
    "FORMS",
    "BlockCost",
    "Form",
    "Shares",
    "Terms",
    "block_cost",
    "decode_terms",
    "peaks",
    "prefill_terms",
    "stages",
]

Form = Literal["published", "released", "serial"]
FORMS: Final = ("published", "released", "serial")


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares on GPU, host and disk, as floats or as LP variables."""

    weight_gpu: Any
    weight_host: Any
    weight_disk: Any
    cache_gpu: Any
    cache_host: Any
    cache_disk: Any
    hidden_gpu: Any
    hidden_host: Any

    @staticmethod
    def of(policy: BlockPolicy) -> Shares:
        """The shares of a fixed policy."""
        return Shares(
            policy.weight_gpu, policy.weight_host, policy.weight_disk, policy.cache_gpu, policy.cache_host,
            policy.cache_disk, policy.hidden_gpu, policy.hidden_host,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Terms:
    """Seconds of each stream for one layer of one block."""

    host_to_gpu: Any
    gpu_to_host: Any
    disk_to_host: Any
    host_to_disk: Any
    compute: Any


@dataclass(frozen=True, slots=True)
class BlockCost:
    """Seconds per layer and in all, tokens per second, and peak bytes by memory."""

    prefill_layer_s: float
    decode_layer_s: float
    total_s: float
    tokens_per_s: float
    prefill: Terms
    decode: Terms
    peak_bytes: dict[str, float]

    def fits(self, capacities: Capacities) -> bool:
        """Whether every peak stays within its memory."""
        limits = {"gpu": capacities.gpu, "host": capacities.host, "disk": capacities.disk}
        return all(self.peak_bytes[name] <= limit * (1 + 1e-9) for name, limit in limits.items())


def block_cost(
    shape: BlockShape,
    rates: BlockRates,
    policy: BlockPolicy,
    form: Form = "released",
    *,
    host_attention: bool = True,
) -> BlockCost:
    """Time and peak memory of a fixed policy; capacities are not checked here, see :meth:`BlockCost.fits`.

    ``host_attention`` False brings the KV cache to the GPU for every decode step instead of attending where
    the cache is.
    """
    shares = Shares.of(policy)
    prefill = prefill_terms(shape, rates, shares, policy.block)
    decode = decode_terms(shape, rates, shares, policy.block, policy.gpu_batch, host_attention)
    first = max(stages(prefill, form, "prefill"))
    later = max(stages(decode, form, "decode"))
    total = (first + later * (shape.generate - 1)) * shape.layers
    found = peaks(shape, shares, policy.block, policy.gpu_batch)
    at_most = {name: max(values) for name, values in found.items()}
    return BlockCost(first, later, total, policy.block * shape.generate / total, prefill, decode, at_most)


def stages(terms: Terms, form: Form, phase: Literal["prefill", "decode"]) -> list[Any]:
    """Sums of streams of which the slowest sets the pace of a layer."""
    t = terms
    if form == "serial":
        return [t.host_to_gpu + t.gpu_to_host + t.disk_to_host + t.host_to_disk + t.compute]
    if form == "published":
        return [t.host_to_gpu, t.gpu_to_host, t.disk_to_host, t.host_to_disk, t.compute]
    if phase == "prefill":
        return [t.host_to_gpu + t.disk_to_host, t.gpu_to_host + t.host_to_disk, t.compute]
    return [t.host_to_gpu + other for other in (t.gpu_to_host, t.disk_to_host, t.host_to_disk, t.compute)]


def prefill_terms(shape: BlockShape, rates: BlockRates, shares: Shares, block: int) -> Terms:
    """Streams of one layer while the prompt is read; hidden states are never on disk."""
    s, h = shape.prompt, shape.hidden
    weights = shape.layer_bytes
    cache = shape.kv_bytes * block * (s + 1)
    hidden = 2.0 * s * h * block
    off_gpu = shares.weight_host + shares.weight_disk
    product = 2.0 * s * block * shape.layer_parameters
    return Terms(
        host_to_gpu=(weights * off_gpu + hidden * shares.hidden_host) * (1 / rates.host_to_gpu),
        gpu_to_host=cache * (shares.cache_host + shares.cache_disk) * (1 / rates.gpu_to_host_cache)
        + hidden * shares.hidden_host * (1 / rates.gpu_to_host_hidden),
        disk_to_host=weights * shares.weight_disk * (1 / rates.disk_to_host),
        host_to_disk=cache * shares.cache_disk * (1 / rates.host_to_disk_cache),
        compute=product / rates.matmul_prefill + 4.0 * block * s**2 * h / rates.attention_prefill,
    )


def decode_terms(
    shape: BlockShape,
    rates: BlockRates,
    shares: Shares,
    block: int,
    gpu_batch: int,
    host_attention: bool = True,
) -> Terms:
    """Streams of one layer for one token of every sequence, at the mean context of the generation."""
    h = shape.hidden
    context = shape.prompt + shape.generate / 2
    cache = shape.kv_bytes * block * context
    hidden = 2.0 * h * block
    off_gpu = shares.weight_host + shares.weight_disk
    away = shares.cache_host + shares.cache_disk
    # Scores and weighted sum take two operations per element of K and V, for every query head.
    attend = 4.0 * block * context * h
    on_gpu = shares.cache_gpu if host_attention else shares.cache_gpu + away
    on_host = away * (1.0 if host_attention else 0.0)
    brought = cache * away * (0.0 if host_attention else 1.0)
    host_rate = rates.attention_host * host_share(rates, gpu_batch, h)
    return Terms(
        host_to_gpu=(shape.layer_bytes * off_gpu + hidden * shares.hidden_host + brought)
        * (1 / rates.host_to_gpu),
        gpu_to_host=hidden * shares.hidden_host * (1 / rates.gpu_to_host_hidden),
        disk_to_host=cache * shares.cache_disk * (1 / rates.disk_to_host)
        + shape.layer_bytes * shares.weight_disk * (1 / (rates.disk_to_host * rates.disk_weight)),
        host_to_disk=shape.kv_bytes * block * shares.cache_disk * (1 / rates.host_to_disk_decode),
        compute=2.0 * block * shape.layer_parameters / rates.matmul_decode
        + attend * on_gpu * (1 / rates.attention_decode)
        + attend * on_host * (1 / host_rate),
    )


def host_share(rates: BlockRates, gpu_batch: int, hidden: int) -> float:
    """Share of the host's attention rate that a batch and a width reach, by the released model's fit."""
    both, batch, width = rates.cpu_fit
    small, narrow = max(0.0, log2(64 / gpu_batch)), max(0.0, log2(4096 / hidden))
    return max(0.1, 1 + both * small * narrow - batch * small - width * narrow)


def peaks(shape: BlockShape, shares: Shares, block: int, gpu_batch: int) -> dict[str, list[Any]]:
    """Peak bytes of ``gpu``, ``host`` and ``disk`` in prefill and decode: what lives there, and buffers."""
    s, n, h, f = shape.prompt, shape.generate, shape.hidden, shape.ffn
    weights, layers, cache = shape.layer_bytes, shape.layers, shape.kv_bytes
    everything = weights * layers
    away = 1 - shares.weight_gpu
    # Buffers of one batch: q, k, v and scores, context, projections, and both FFN activations.
    prompt_work = gpu_batch * (18.0 * s * h + 2.0 * shape.heads * s**2 + 2.0 * s * f)
    step_work = gpu_batch * (14.0 * h + 2.0 * f) + shares.cache_gpu * gpu_batch * (
        4.0 * h + 4.0 * (s + n) * h + 2.0 * shape.heads * (s + n)
    )
    gpu_cache = cache * (s + n) * block * layers * shares.cache_gpu
    return {
        "gpu": [
            everything * shares.weight_gpu + 2.0 * s * h * block * shares.hidden_gpu + gpu_cache
            + 2 * weights * away + 2.0 * s * h * gpu_batch * (1 - shares.hidden_gpu) + prompt_work,
            everything * shares.weight_gpu + 2.0 * h * block * shares.hidden_gpu + gpu_cache
            + 2 * weights * away + 2.0 * h * gpu_batch * (1 - shares.hidden_gpu)
            + cache * gpu_batch * (s + n) * shares.cache_gpu + step_work,
        ],
        "host": [
            everything * shares.weight_host + 2.0 * s * h * block * shares.hidden_host
            + cache * s * block * layers * shares.cache_host
            + weights * away + 2.0 * s * h * gpu_batch * (1 - shares.hidden_gpu),
            everything * shares.weight_host + 2.0 * h * block * shares.hidden_host
            + cache * (s + n) * block * layers * shares.cache_host
            + weights * shares.weight_disk + 2 * cache * (s + n) * gpu_batch * shares.cache_disk
            + 2.0 * shape.heads * (s + n) * gpu_batch + 2.0 * h * gpu_batch,
        ],
        "disk": [everything * shares.weight_disk + cache * (s + n) * block * layers * shares.cache_disk],
    }  # fmt: skip
