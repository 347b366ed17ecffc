"""Linear attention of an operator table: rows of a gated delta net, each one kernel, or all of them in turn."""

from __future__ import annotations

from typing import Final

from workloads.operator_table.cells import Built, Cells, Rule, UnfitError
from workloads.operators import Convolution, LinearAttention

__all__ = ["OPS"]

_TAPS: Final = 4
"""Taps of the convolution: ``linear_conv_kernel_dim`` of Qwen3-Next's configuration. Tables leave it out."""
_CHUNK: Final = 64
_STATE: Final = "fp32"


def _context(c: Cells) -> Built:
    return _built(c, c("q_len"), _CHUNK)


def _generation(c: Cells) -> Built:
    return _built(c, c("q_len", 1), 1)


def _built(c: Cells, tokens: int, chunk: int) -> Built:
    """What the column ``kernel`` names; the convolution and then the states where it names nothing."""
    kernel = c.text.get("kernel", "")
    convolution, states = _convolution(c, tokens), _states(c, tokens, chunk)
    if not kernel:
        return Built(convolution.work, convolution.read_bytes, convolution.write_bytes, then=(states,))
    if kernel.startswith("causal_conv1d"):
        return convolution
    if "gated_delta_rule" in kernel:
        return states
    raise UnfitError(f"unknown kernel {kernel!r}; known are causal_conv1d... and ...gated_delta_rule...")


def _convolution(c: Cells, tokens: int) -> Built:
    """Queries, keys and values of every head pass it; the last inputs are kept for the next step."""
    batch = c("batch", 1)
    channels = 2 * c("kv_heads") * c("k") + c("heads") * c("head_dim")
    work = Convolution(
        batch=batch, in_channels=channels, out_channels=channels, height=1, width=tokens, kernel_h=1,
        kernel_w=_TAPS, padding_w=_TAPS - 1, groups=channels, out_height=1, out_width=tokens,
    )  # fmt: skip
    passed, kept = c.size(batch * tokens * channels), c.size(batch * channels * (_TAPS - 1))
    weights = c.size(channels * _TAPS)
    return Built(work, passed + weights + (kept if tokens == 1 else 0), passed + kept)


def _states(c: Cells, tokens: int, chunk: int) -> Built:
    batch, heads, kv_heads = c("batch", 1), c("heads"), c("kv_heads")
    if heads % kv_heads:
        raise UnfitError(f"{heads} heads cannot share {kv_heads} key heads evenly")
    work = LinearAttention(
        batch=batch, sequence=tokens, heads=heads, kv_heads=kv_heads, key_dim=c("k"), value_dim=c("head_dim"),
        rule="delta", chunk=chunk, state_dtype=_STATE,
    )  # fmt: skip
    result = c.size(batch * tokens * heads * work.value_dim)
    operands = c.size(batch * tokens * work.token_elements) - result
    state = c.size(work.state_elements, _STATE)
    return Built(work, operands + state, result + state)


OPS: Final[dict[str, Rule]] = {
    "gated_delta_net_context": _context, "gated_delta_net_generation": _generation,
}  # fmt: skip
