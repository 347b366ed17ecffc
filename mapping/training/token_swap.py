"""How many tokens' activations to swap to host memory, and how many to recompute: MEMO's alpha.

Of each layer's skeletal activations the input and the attention output always go to host memory: attention is
nearly all of a long sequence's forward time and its output a sixteenth of the bytes. Of the others a share alpha
of the tokens goes too, and what the rest needs is recomputed (arXiv:2407.12117, section 4.1). Alpha is the most
for which a layer's bytes leave while a layer computes, and for which host memory holds all layers but the last
two, whose activations stay in the two rounding buffers:

    (S_input + S_attention + alpha S_others) / B <= T_layer
    (n - 2) (S_input + S_attention + alpha S_others) <= M_host
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LayerBytes", "TokenShare", "token_share"]


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """Skeletal bytes of one layer on one rank."""

    input: int
    attention: int
    others: int

    def swapped(self, alpha: float) -> float:
        """Bytes that go to host memory."""
        return self.input + self.attention + alpha * self.others


@dataclass(frozen=True, slots=True)
class TokenShare:
    """The share of tokens swapped, and what bounds it: ``none`` (all are), ``link``, ``host`` or ``device``.

    ``unbounded`` is what the two inequalities give, which may lie below 0 or above 1. ``fits_host`` is False
    when host memory does not even hold inputs and attention outputs; ``hidden`` is False when not even those
    leave while a layer computes.
    """

    alpha: float
    unbounded: float
    bound_by: str
    fits_host: bool
    hidden: bool


def token_share(
    layer: LayerBytes, layers: int, layer_s: float, out_rate: float, host_bytes: float
) -> TokenShare:
    """Alpha in closed form: ``layers`` layers of ``layer_s`` forward seconds, ``out_rate`` bytes per second to
    host memory of ``host_bytes``.
    """
    always = layer.input + layer.attention
    infinite = float("inf")
    by_link = (out_rate * layer_s - always) / layer.others if layer.others else infinite
    by_host = infinite
    if layers > 2 and layer.others:
        by_host = (host_bytes / (layers - 2) - always) / layer.others
    unbounded = min(by_link, by_host)
    bound = "none" if unbounded >= 1 else "link" if by_link <= by_host else "host"
    fits = layers <= 2 or (layers - 2) * always <= host_bytes
    return TokenShare(
        min(1.0, max(0.0, unbounded)), unbounded, bound, fits, always <= out_rate * layer_s
    )  # fmt: skip
