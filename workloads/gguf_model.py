"""Importer of GGUF files: the language model that a header describes, each weight in the type the file has for it.

The metadata of an architecture are brought to the names of the Hugging Face configuration of the same family, so that
one set of readers serves both (key and tensor names from ggml's ``docs/gguf.md`` and llama.cpp's ``constants.py``).
Weights alone are in the file's types; norms and biases count in the activations' type. llama.cpp's cache is 16 bits
wide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import bad_input, nearest
from workloads.dtypes import BITS
from workloads.gguf_header import GgufArray, GgufHeader, read_gguf
from workloads.transformer import decoder_workload, read_decoder
from workloads.transformer.fields import Fields
from workloads.transformer.formats import PLAIN, FormatRule, Precision
from workloads.transformer.module_names import own_names
from workloads.transformer.named_formats import rules_by_type
from workloads.transformer.phases import count_parameters
from workloads.transformer.shape import Decoder
from workloads.workload import Workload, WorkloadOptions

__all__ = ["ARCHITECTURES", "IMPORTER", "read_gguf_model"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """The family an architecture is read as. ``keys``: its own fields by the hub's name; ``sparse``: with experts."""

    model_type: str
    keys: Mapping[str, str] = field(default_factory=dict)
    sparse: str = ""
    tied: bool = False


_LOCAL: Final = {"num_local_experts": "expert_count", "num_experts_per_tok": "expert_used_count"}
_QWEN: Final = {
    "num_experts": "expert_count", "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}  # fmt: skip
_DEEPSEEK: Final = {
    "n_routed_experts": "expert_count", "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length", "n_shared_experts": "expert_shared_count",
    "first_k_dense_replace": "leading_dense_block_count", "n_group": "expert_group_count",
    "topk_group": "expert_group_used_count",
}  # fmt: skip
_LATENT: Final = {
    "q_lora_rank": "attention.q_lora_rank", "kv_lora_rank": "attention.kv_lora_rank",
    "qk_rope_head_dim": "rope.dimension_count",
}  # fmt: skip
_WINDOW: Final = {"sliding_window": "attention.sliding_window"}

ARCHITECTURES: Final[dict[str, Architecture]] = {
    "llama": Architecture("llama", _LOCAL, sparse="mixtral"),
    "mistral3": Architecture("mistral"),
    "llama4": Architecture("llama4_text", {
        **_LOCAL, "intermediate_size": "expert_feed_forward_length", "intermediate_size_mlp": "feed_forward_length",
        "interleave_moe_layer_step": "interleave_moe_layer_step",
    }),
    "qwen2": Architecture("qwen2"),
    "qwen2vl": Architecture("qwen2"),
    "qwen2moe": Architecture(
        "qwen2_moe", {**_QWEN, "shared_expert_intermediate_size": "expert_shared_feed_forward_length"}
    ),
    "qwen3": Architecture("qwen3"),
    "qwen3vl": Architecture("qwen3"),
    "qwen3moe": Architecture("qwen3_moe", _QWEN),
    "qwen3vlmoe": Architecture("qwen3_moe", _QWEN),
    "gemma": Architecture("gemma", tied=True),
    "gemma2": Architecture("gemma2", _WINDOW, tied=True),
    "gemma3": Architecture("gemma3_text", _WINDOW),
    "phi2": Architecture("phi"),
    "phi3": Architecture("phi3", _WINDOW),
    "phimoe": Architecture("phimoe", _LOCAL),
    "deepseek2": Architecture("deepseek_v2", {**_DEEPSEEK, **_LATENT}),
    "glm4": Architecture("glm4"),
    "glm4moe": Architecture("glm4_moe", _DEEPSEEK),
    "gpt-oss": Architecture("gpt_oss", {**_LOCAL, **_WINDOW, "intermediate_size": "expert_feed_forward_length"}),
    "command-r": Architecture("cohere", tied=True),
    "cohere2": Architecture("cohere2", _WINDOW, tied=True),
    "stablelm": Architecture("stablelm"),
    "starcoder2": Architecture("starcoder2"),
    "internlm2": Architecture("internlm2"),
    "olmo": Architecture("olmo"),
    "olmo2": Architecture("olmo2"),
    "olmoe": Architecture("olmoe", {"num_experts": "expert_count", "num_experts_per_tok": "expert_used_count"}),
    "granite": Architecture("granite"),
    "granitemoe": Architecture("granitemoe", _LOCAL),
    "smollm3": Architecture("smollm3"),
    "seed_oss": Architecture("seed_oss"),
    "arcee": Architecture("arcee"),
    "nemotron": Architecture("nemotron"),
    "baichuan": Architecture("baichuan"),
    "ernie4_5": Architecture("ernie4_5"),
    "hunyuan-dense": Architecture("hunyuan_v1_dense"),
    "dots1": Architecture("dots1", _DEEPSEEK),
    "minimax-m2": Architecture("minimax_m2", {**_LOCAL, "intermediate_size": "expert_feed_forward_length"}),
}  # fmt: skip

BASE: Final = {
    "hidden_size": "embedding_length", "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv", "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length", "head_dim": "attention.key_length",
}  # fmt: skip

ABSENT: Final[dict[str, Any]] = {
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 0, "n_shared_experts": 0, "sliding_window": None,
    "q_lora_rank": None,
}  # fmt: skip

MODULES: Final = {
    "attn_q": ("self_attn.q_proj",), "attn_k": ("self_attn.k_proj",), "attn_v": ("self_attn.v_proj",),
    "attn_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "attn_output": ("self_attn.o_proj",),
    "attn_q_a": ("self_attn.q_a_proj",), "attn_q_b": ("self_attn.q_b_proj",),
    "attn_kv_a_mqa": ("self_attn.kv_a_proj_with_mqa",), "attn_kv_b": ("self_attn.kv_b_proj",),
    "attn_k_b": ("self_attn.kv_b_proj",), "attn_v_b": ("self_attn.kv_b_proj",),
    "ffn_gate": ("mlp.gate_proj",), "ffn_up": ("mlp.up_proj",), "ffn_down": ("mlp.down_proj",),
    "ffn_gate_inp": ("mlp.gate",), "ffn_gate_exps": ("mlp.experts.gate_proj",),
    "ffn_up_exps": ("mlp.experts.up_proj",), "ffn_down_exps": ("mlp.experts.down_proj",),
    "ffn_gate_up_exps": ("mlp.experts.gate_proj", "mlp.experts.up_proj"),
    "ffn_gate_shexp": ("mlp.shared_experts.gate_proj",), "ffn_up_shexp": ("mlp.shared_experts.up_proj",),
    "ffn_down_shexp": ("mlp.shared_experts.down_proj",), "ffn_gate_inp_shexp": (),
}  # fmt: skip
"""Modules of a layer's weights by the file's name for them."""

TABLES: Final = {"token_embd": "embed_tokens", "output": "lm_head"}
_BLOCK: Final = re.compile(r"blk\.(\d+)\.([a-z_]+)(?:\.(\d+))?\.weight")
_TABLES_OF_ANGLES: Final = ("rope_freqs", "rope_factors")


class _GgufImporter:
    """Reads GGUF files; see :class:`workloads.importers.Importer`."""

    FORMAT = "a GGUF model"

    def recognises(self, path: Path, head: bytes) -> bool:
        """By the name or the magic number."""
        return path.suffix.lower() == ".gguf" or head[:4] == b"GGUF"

    def load(self, path: Path, options: WorkloadOptions) -> Workload:
        """The language model of a file, with the file's type for every weight unless ``--dtype`` says otherwise."""
        decoder, precision = read_gguf_model(path, options)
        name = re.sub(r"-\d{5}-of-\d{5}$", "", path.stem)
        return decoder_workload(name or decoder.model_type, decoder, precision, options)


def read_gguf_model(path: Path, options: WorkloadOptions) -> tuple[Decoder, Precision]:
    """The decoder that a file's metadata describe, and the types of its tensors."""
    header = read_gguf(path)
    config = _config(header, str(path))
    decoder, asked = read_decoder(Fields(config, str(path)), options.dtype, options.kv_dtype)
    # The fields are ours: what a family does not read of them says nothing about the file.
    decoder = replace(decoder, notes=())
    if not decoder.max_positions and isinstance(config.get("max_position_embeddings"), int):
        decoder = replace(decoder, max_positions=config["max_position_embeddings"])
    notes = [*header.stored.notes, *_differences(header, decoder, asked)]
    if options.dtype is not None:
        return decoder, replace(asked, note="; ".join([asked.note, *notes]).strip("; "))
    rules = _rules(header, str(path), asked.own)
    return decoder, Precision(asked.own, PLAIN, rules, kv=asked.kv, note="; ".join(notes))


def _config(header: GgufHeader, file: str) -> dict[str, Any]:
    """The hub's fields of the model."""
    metadata = header.metadata
    name = metadata.get("general.architecture")
    if not isinstance(name, str):
        raise bad_input("missing metadata general.architecture; expected the model's family", file=file)
    found = ARCHITECTURES.get(name)
    if found is None:
        known = ", ".join(ARCHITECTURES)
        raise bad_input(
            f"unknown architecture {name[:80]!r}; known: {known}", file=file, path="general.architecture",
            suggestion=nearest(name[:80], ARCHITECTURES),
        )  # fmt: skip
    names = {tensor.name for tensor in header.stored.tensors}
    layers = _number(metadata, f"{name}.block_count", file)
    further = metadata.get(f"{name}.nextn_predict_layers", 0)
    config: dict[str, Any] = {
        "model_type": found.model_type,
        "num_hidden_layers": layers - further
        if isinstance(layers, int) and isinstance(further, int)
        else layers,
        "vocab_size": _vocabulary(header, name),
        "tie_word_embeddings": found.tied or (bool(names) and "output.weight" not in names),
        "torch_dtype": _own_type(header),
        **_biases(names),
    }
    # What a header leaves out is not there, whatever the published class of the family has by default.
    config |= {
        ours: value for ours, value in ABSENT.items() if ours in found.keys or ours == "sliding_window"
    }
    for ours, key in {**BASE, **found.keys}.items():
        value = _number(metadata, f"{name}.{key}", file)
        if value is not None:
            config[ours] = value
    if found.sparse and config.get("num_local_experts"):
        config["model_type"] = found.sparse
    if name == "deepseek2":
        _latent_heads(config, metadata, names, file)
    rotary = _number(metadata, f"{name}.rope.dimension_count", file)
    width = config.get("head_dim") or _quotient(config.get("hidden_size"), config.get("num_attention_heads"))
    if isinstance(rotary, int) and isinstance(width, int) and 0 < rotary < width and name != "deepseek2":
        config["partial_rotary_factor"] = rotary / width
    return config


def _quotient(one: Any, other: Any) -> int | None:
    return one // other if isinstance(one, int) and isinstance(other, int) and other > 0 else None


def _number(metadata: Mapping[str, Any], key: str, file: str) -> Any:
    """A figure of the metadata; a list by layer whose entries agree stands for its one value."""
    value = metadata.get(key)
    if isinstance(value, GgufArray):
        kept = set(value.values)
        if value.length != len(value.values) or len(kept) != 1:
            raise bad_input(
                f"found {value.length} figures by layer that differ; expected the same for every layer",
                file=file,
                path=key,
            )
        return kept.pop()
    return value


def _vocabulary(header: GgufHeader, name: str) -> Any:
    """Rows of the embedding: the tensor's, or what the metadata state."""
    for tensor in header.stored.tensors:
        if tensor.name == "token_embd.weight" and len(tensor.shape) == 2:
            return tensor.shape[0]
    stated = header.metadata.get(f"{name}.vocab_size")
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return stated if stated is not None else tokens.length if isinstance(tokens, GgufArray) else None


def _own_type(header: GgufHeader) -> str:
    """Activations run in 16 bits: bf16 where weights are, else fp16."""
    types = {tensor.dtype for tensor in header.stored.tensors if len(tensor.shape) > 1}
    return "bfloat16" if "bf16" in types and "fp16" not in types else "float16"


def _biases(names: set[str]) -> dict[str, bool]:
    attention = any(f"blk.0.{part}.bias" in names for part in ("attn_q", "attn_qkv"))
    feed_forward = "blk.0.ffn_up.bias" in names
    every = attention or feed_forward
    return {
        "attention_bias": attention, "mlp_bias": feed_forward, "use_bias": every, "use_qkv_bias": attention,
        "bias": attention,
    }  # fmt: skip


def _latent_heads(config: dict[str, Any], metadata: Mapping[str, Any], names: set[str], file: str) -> None:
    """Latent attention: sizes of a head without the rotary part; DeepSeek-V3 is told by its router's bias."""
    rope = config.get("qk_rope_head_dim")
    for ours, keys in (
        ("qk_head_dim", ("attention.key_length_mla", "attention.key_length")),
        ("v_head_dim", ("attention.value_length_mla", "attention.value_length")),
    ):
        found = (_number(metadata, f"deepseek2.{key}", file) for key in keys)
        config[ours] = next((value for value in found if value is not None), None)
    whole = config.pop("qk_head_dim")
    config.pop("head_dim", None)
    if isinstance(whole, int) and isinstance(rope, int):
        config["qk_nope_head_dim"] = whole - rope
    # Absorbed files state one key-value head; what is cached is the latent all the same.
    config["num_key_value_heads"] = config.get("num_attention_heads")
    if any(name.endswith("exp_probs_b.bias") for name in names):
        config["model_type"] = "deepseek_v3"


def _rules(header: GgufHeader, file: str, own: str) -> tuple[FormatRule, ...]:
    """A rule per element type of the file's weights."""
    types: dict[str, str] = {}
    gated = {name for tensor in header.stored.tensors if (name := tensor.name).endswith(".ffn_gate.weight")}
    for tensor in header.stored.tensors:
        for module in _modules(tensor.name, gated):
            if tensor.dtype not in BITS:
                raise bad_input(
                    f"tensor {tensor.name!r} has type {tensor.dtype}; expected floats or blocks", file=file
                )
            if types.setdefault(module, tensor.dtype) != tensor.dtype and ".experts" in module:
                raise bad_input(f"the experts of {tensor.name!r} have several types; expected one", file=file)
    return rules_by_type(types, own)


def _modules(name: str, gated: set[str]) -> list[str]:
    """The modules that a tensor is the weight of, in Offchip's names."""
    table = TABLES.get(name.removesuffix(".weight"))
    if table is not None and name.endswith(".weight"):
        return [table]
    block = _BLOCK.fullmatch(name)
    if block is None:
        return []
    layer, part, expert = block.groups()
    key = f"{part}_exps" if expert is not None else part
    parts = list(MODULES.get(key, ()))
    if part == "ffn_up" and expert is None and f"blk.{layer}.ffn_gate.weight" not in gated:
        parts.append("mlp.gate_proj")
    return [own_names(f"layers.{layer}.{inner}")[0] for inner in parts]


def _differences(header: GgufHeader, decoder: Decoder, precision: Precision) -> list[str]:
    """A note where the model that is built has other weights than the file."""
    # Correction biases of routers are buffers of the model, not weights.
    apart = (*_TABLES_OF_ANGLES, "exp_probs_b")
    tensors = [t for t in header.stored.tensors if not any(part in t.name for part in apart)]
    if not tensors:
        return []
    layers = len(decoder.layers)
    blocks = (re.match(r"blk\.(\d+)\.", tensor.name) for tensor in tensors)
    stored = sum(
        tensor.elements
        for tensor, block in zip(tensors, blocks, strict=True)
        if not block or int(block[1]) < layers
    )
    built = count_parameters(decoder, precision)
    if stored == built:
        return []
    return [f"the file's tensors hold {stored:,} weights, the model that its metadata describe {built:,}"]


IMPORTER: Final = _GgufImporter()
