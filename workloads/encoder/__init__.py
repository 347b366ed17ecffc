"""Transformer encoders as built-in models: text (BERT, RoBERTa), images (ViT), and translation with a decoder.

``MODELS`` maps a name to the function that builds it.
"""

from __future__ import annotations

from typing import Final

from workloads.builtin import BuiltIn, described
from workloads.models.info import ModelInfo

__all__ = ["MODELS", "describe"]

_BERT = "Devlin et al., NAACL 2019, section 3; with pooler"
_ROBERTA = "Liu et al., arXiv:1907.11692; with pooler"
_VIT = "Dosovitskiy et al., ICLR 2021, table 1; ImageNet-1k head"

_ENTRIES: Final[dict[str, BuiltIn]] = {
    "bert-base-uncased": BuiltIn("bert:bert_base", "BERT", _BERT),
    "bert-large-uncased": BuiltIn("bert:bert_large", "BERT", _BERT),
    "roberta-base": BuiltIn("bert:roberta_base", "RoBERTa", _ROBERTA),
    "roberta-large": BuiltIn("bert:roberta_large", "RoBERTa", _ROBERTA),
    "distilbert-base-uncased": BuiltIn(
        "bert:distilbert_base", "BERT", "Sanh et al., arXiv:1910.01108; without a head"
    ),
    "transformer-base": BuiltIn(
        "translation:transformer_base", "Transformer", "Vaswani et al., NeurIPS 2017, table 3, base"
    ),
    "vit-b-16": BuiltIn("vit:vit_b_16", "ViT", _VIT),
    "vit-b-32": BuiltIn("vit:vit_b_32", "ViT", _VIT),
    "vit-l-16": BuiltIn("vit:vit_l_16", "ViT", _VIT),
    "vit-l-32": BuiltIn("vit:vit_l_32", "ViT", _VIT),
    "vit-h-14": BuiltIn("vit:vit_h_14", "ViT", _VIT),
}

MODELS: Final[dict[str, str]] = {name: f"{__name__}.{entry.location}" for name, entry in _ENTRIES.items()}
"""Model name to ``module:function``; the function takes ``WorkloadOptions`` and returns a ``Workload``."""


def describe(name: str) -> ModelInfo:
    """What a person wants to know of a model; its parameters are counted on the built graph."""
    return described(name, _ENTRIES[name], MODELS[name], "encoder")
