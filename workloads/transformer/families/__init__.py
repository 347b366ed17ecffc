"""Families of decoder-only language models by the ``model_type`` of their config files."""

from __future__ import annotations

from collections.abc import Callable

from workloads.transformer.families.classic import READERS as CLASSIC
from workloads.transformer.families.compressed import READERS as COMPRESSED
from workloads.transformer.families.encoder_decoders import READERS as ENCODER_DECODERS
from workloads.transformer.families.encoders import READERS as ENCODERS
from workloads.transformer.families.extended import READERS as EXTENDED
from workloads.transformer.families.gpt import READERS as GPT_LIKE
from workloads.transformer.families.hybrid import READERS as HYBRID
from workloads.transformer.families.images import READERS as IMAGES
from workloads.transformer.families.inkling import READERS as INKLING
from workloads.transformer.families.latent import READERS as LATENT
from workloads.transformer.families.linear_attention import READERS as LINEAR
from workloads.transformer.families.llama import read_llama_like
from workloads.transformer.families.looped import READERS as LOOPED
from workloads.transformer.families.modern import READERS as MODERN
from workloads.transformer.families.state_space import READERS as STATE_SPACE
from workloads.transformer.families.traits import FAMILIES as LLAMA_LIKE
from workloads.transformer.fields import Fields
from workloads.transformer.shape import Decoder

__all__ = ["READERS"]

Reader = Callable[[Fields, str], Decoder]

READERS: dict[str, Reader] = {
    **dict.fromkeys(LLAMA_LIKE, read_llama_like),
    **GPT_LIKE,
    **CLASSIC,
    **COMPRESSED,
    **EXTENDED,
    **INKLING,
    **LATENT,
    **LOOPED,
    **MODERN,
    **HYBRID,
    **STATE_SPACE,
    **LINEAR,
    **ENCODERS,
    **IMAGES,
    **ENCODER_DECODERS,
}
"""The function that reads a config file of each ``model_type``."""
