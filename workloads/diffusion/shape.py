"""Diffusion transformers as numbers, and how long the sequences of one step are."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Flux", "PixArt", "Sizes", "StableDiffusion3", "Wan"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows per sample: patches of latents, text tokens, tokens of a guiding picture."""

    image: int
    text: int
    picture: int = 0


@dataclass(frozen=True, slots=True)
class StableDiffusion3:
    """``patch`` and ``out`` are values of one patch on its way in and out; ``dual``: blocks with a second attention."""

    heads: int
    head_dim: int
    layers: int
    patch: int
    out: int
    text_width: int
    pooled: int
    qk_norm: bool
    dual: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Flux:
    """``layers`` double blocks and ``single`` single ones; ``guided``: the guidance is an input."""

    heads: int
    head_dim: int
    layers: int
    single: int
    patch: int
    out: int
    text_width: int
    pooled: int
    guided: bool


@dataclass(frozen=True, slots=True)
class PixArt:
    """``sized``: resolution and aspect ratio are inputs; ``projects_text``: text comes at a width of its own."""

    heads: int
    head_dim: int
    layers: int
    patch: int
    out: int
    text_width: int
    bias: bool
    sized: bool
    projects_text: bool


@dataclass(frozen=True, slots=True)
class Wan:
    """``image_width``: features of a guiding picture's tokens (0: none)."""

    heads: int
    head_dim: int
    layers: int
    intermediate: int
    patch: int
    out: int
    text_width: int
    frequencies: int
    qk_norm: bool
    cross_norm: bool
    image_width: int
