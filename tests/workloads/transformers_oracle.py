"""Counts and cache elements of one-field changes, as an installed ``transformers`` has them on the meta device.

Run by test_transformers_oracle.py with a Python that has torch and transformers: one ``model_type`` per line on
standard input, one JSON object per change on standard output.
"""

import json
import logging
import re
import sys
import warnings

import torch
import transformers

transformers.logging.set_verbosity_error()
warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)

LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "layers")
TOKENS = 40
KEPT = re.compile(
    r"(_token_id|_token_ids|_token_index|dropout|_dropout_prob|_pdrop|_eps|epsilon|initializer_range|_coef|_std)$"
    r"|^(model_type|transformers_version|architectures|dtype|return_dict|output_.*|id2label|label2id|problem_type"
    r"|chunk_size_feed_forward|is_encoder_decoder|_name_or_path|use_cache|rope_theta)$"
)
OTHER_KIND = {
    "full_attention": "sliding_attention", "sliding_attention": "full_attention", "dense": "sparse",
    "sparse": "dense", "full": "shared", "shared": "full", "indexed_attention": "full_attention",
}  # fmt: skip
CACHED = re.compile(r"head|kv|window|layer|pattern|lora|_dim|hidden_size$|n_embd|d_model|_types|^$")


def number(item):
    """transformers writes what JSON has no number for as a mapping."""
    return float(item["__float__"]) if item.keys() == {"__float__"} else item


def plain(config):
    return json.loads(config.to_json_string(use_diff=False), object_hook=number)


def small(model_type):
    """The default config with six layers, where it can have them."""
    made = transformers.CONFIG_MAPPING[model_type]
    for name in LAYERS:
        if name in made.__dataclass_fields__:
            try:
                return plain(made(**{name: 6}))
            except Exception:
                continue
    return plain(made())


def changes(config):
    yield None, None
    for name, value in config.items():
        if KEPT.search(name):
            continue
        if isinstance(value, bool):
            others = [not value, None]
        elif isinstance(value, int):
            others = [max(value // 2, 1), value * 2, value + 1, None]
        elif name in ("hidden_act", "hidden_activation", "activation_function"):
            others = ["gelu", "relu", None]
        elif isinstance(value, list) and value and isinstance(value[0], str) and name.endswith("types"):
            swapped = [OTHER_KIND.get(item, item) for item in value]
            others = [swapped[:1] + value[1:], value[:-1] + swapped[-1:], swapped, None]
        else:
            others = []
        for other in others:
            if other != value:
                yield name, other


def built(config):
    made = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(json.loads(json.dumps(config)))
    made._experts_implementation = "batched_mm"
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(made)


def tensors(found, seen):
    """Every tensor that a cache holds, wherever it keeps it."""
    if id(found) in seen or isinstance(found, transformers.PretrainedConfig):
        return
    seen.add(id(found))
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, dict):
        for item in found.values():
            yield from tensors(item, seen)
    elif isinstance(found, list | tuple):
        for item in found:
            yield from tensors(item, seen)
    elif hasattr(found, "__dict__") and type(found).__module__.startswith("transformers"):
        yield from tensors(vars(found), seen)


def cached(model):
    cache = transformers.DynamicCache(config=model.config)
    tokens = torch.zeros(1, TOKENS, dtype=torch.long, device="meta")
    with torch.no_grad():
        cache = model.eval()(input_ids=tokens, past_key_values=cache, use_cache=True).past_key_values
    return sum(t.numel() for t in tensors(cache, set()) if t.is_floating_point() and t.numel() > 1)


def main():
    for model_type in sys.stdin.read().split():
        try:
            base = small(model_type)
        except Exception as error:
            print(json.dumps({"config": {"model_type": model_type}, "error": str(error)}))
            continue
        for name, value in changes(base):
            config = base if name is None else base | {name: value}
            row = {"config": config, "name": name, "value": value, "count": None, "cached": None}
            try:
                model = built(config)
                row["count"] = sum(parameter.numel() for parameter in model.parameters())
                if CACHED.search(name or ""):
                    row["cached"] = cached(model)
            except Exception as error:
                row["error"] = f"{type(error).__name__}: {error}"[:200]
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
