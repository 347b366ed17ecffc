"""Transformers small enough to look at, as config files."""

from __future__ import annotations

import json
from pathlib import Path


def gpt_config(folder: Path, layers: int = 4, hidden: int = 256, heads: int = 8, vocab: int = 1000) -> str:
    """A GPT with rotary positions and a feed-forward width of four times its own."""
    path = folder / f"gpt-{layers}-{hidden}-{heads}.json"
    path.write_text(
        json.dumps(
            {
                "model_type": "gpt_neox", "hidden_size": hidden, "intermediate_size": 4 * hidden,
                "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": vocab,
                "max_position_embeddings": 2**20, "rotary_pct": 1.0, "use_parallel_residual": False,
                "hidden_act": "gelu", "torch_dtype": "bfloat16", "tie_word_embeddings": False,
            }
        ),
        encoding="utf-8",
    )  # fmt: skip
    return str(path)
