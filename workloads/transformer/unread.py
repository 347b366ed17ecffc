"""Keys of a config file that nobody read: a slip of the keyboard is an error, the rest is named in a note.

A key is told apart in this order: a reader asked for it; every family may have it and no size depends on it; the
family's published configuration class declares it, and its readers, which are held against that class, need it not;
it is a slip of a key that the family reads and the file lacks; nobody here knows it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Any, Final

from workloads.transformer.fields import Fields

__all__ = ["note_unread"]

LIKE: Final = 0.92
"""Share of equal letters (Ratcliff and Obershelp) from which two keys are one and its misspelling."""

SHOWN: Final = 12
"""Keys that a note lists before it counts the rest."""

_ENDINGS: Final = re.compile(
    r"(_token_id|_token_ids|_token_index|_token|dropout|_dropout_prob|_pdrop|_eps|_epsilon|initializer_range|"
    r"_loss_coef|_coef|_std|_init|_scaling_factor|_softcapping|_multiplier|_theta|_implementation)$"
)
_BEGINNINGS: Final = re.compile(
    r"^(_|rope_|output_|summary_|mtp_|use_cache|is_|task_|tokenizer|transformers)"
)

HARMLESS: Final = frozenset(
    {
        "add_cross_attention", "architectures", "attn_logit_softcapping", "audio_config", "auto_map",
        "aux_loss_alpha", "bad_words_ids", "begin_suppress_tokens", "chunk_size_feed_forward",
        "compression_config", "cross_attention_hidden_size", "diversity_penalty", "do_sample", "dtype",
        "dual_chunk_attention_config", "early_stopping", "encoder_no_repeat_ngram_size", "ep_size",
        "expert_dtype", "exponential_decay_length_penalty", "finetuning_task", "hidden_act", "id2label",
        "ignore_index", "index_share_for_mtp_iteration", "indexer_rope_interleave",
        "initial_context_length", "initializer_factor", "label2id", "language_config", "layer_norm_epsilon",
        "length_penalty", "llm_config", "mamba_ssm_dtype", "max_length", "max_position_embeddings",
        "max_sequence_length", "max_window_layers", "min_length", "model_max_length", "model_type",
        "moe_router_dtype", "mrope_section", "name_or_path", "no_repeat_ngram_size", "norm_topk_prob",
        "num_beam_groups", "num_beams", "num_mtp_modules", "num_nextn_predict_layers",
        "num_return_sequences", "original_max_position_embeddings", "partial_rotary_factor", "prefix",
        "pretraining_tp", "problem_type", "pruned_heads", "qk_head_dim", "quantization_config",
        "query_pre_attn_scalar", "remove_invalid_values", "repetition_penalty", "return_dict",
        "return_dict_in_generate", "routed_scaling_factor", "router_jitter_noise", "scoring_func",
        "seq_aux", "seq_length", "sliding_window", "suppress_tokens", "swiglu_limit", "temperature",
        "text_config", "tf_legacy_loss", "thinker_config", "tie_encoder_decoder", "tie_word_embeddings",
        "top_k", "top_p", "topk_method", "torch_dtype", "torchscript", "typical_p", "unsloth_fixed",
        "unsloth_version", "use_bfloat16", "use_flash_attn", "use_mrope", "use_mtp", "use_sliding_window",
        "vision_config", "vision_soft_tokens_per_image",
    }
)  # fmt: skip
"""Keys of training, generation and bookkeeping that change neither a size nor a cost here."""


def note_unread(f: Fields, known: Mapping[str, Any]) -> str:
    """Note slips as problems of ``f``; returns what is to be said of keys that nobody knows, or "".

    ``known``: the keys that the family's configuration class declares.
    """
    unknown = []
    wanted = sorted((f.asked | known.keys()) - f.values.keys())
    for name in f.values:
        if name in f.asked or name in known or _harmless(name):
            continue
        near = max(wanted, key=lambda other: (_likeness(name, other), other), default="")
        if near and near in f.asked and _likeness(name, near) >= LIKE:
            f.problem(name, f"unknown key {name!r}, and no {near!r}", near)
        else:
            unknown.append(name)
    if not unknown:
        return ""
    where = ".".join(f.path)
    shown = ", ".join(unknown[:SHOWN])
    rest = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
    return f"keys not read{f' in {where}' if where else ''}: {shown}{rest}"


def _harmless(name: str) -> bool:
    return name in HARMLESS or bool(_ENDINGS.search(name) or _BEGINNINGS.search(name))


def _likeness(left: str, right: str) -> float:
    return SequenceMatcher(None, left, right).ratio()
