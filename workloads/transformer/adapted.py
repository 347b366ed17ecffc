"""A language model with low-rank adapters: beside its weights or merged into them, and what each adds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import prod
from typing import Final

from hw_configs.problems import bad_input, nearest
from workloads.graph import Attribute
from workloads.trained_parts import AdapterRule
from workloads.transformer.adapters import ALL_LINEAR, LoraAdapter, read_adapter
from workloads.transformer.formats import Precision
from workloads.transformer.layers import write_decoder
from workloads.transformer.shape import Decoder
from workloads.transformer.step import Step
from workloads.transformer.writer import GraphWriter
from workloads.workload import WorkloadOptions

__all__ = ["AdapterFigures", "adapter_figures", "adapters_told", "with_adapters"]


def with_adapters(decoder: Decoder, options: WorkloadOptions) -> Decoder:
    """The decoder with the adapters that the options name, apart or merged, or those that a training step trains."""
    rule = options.trained.adapters
    if options.phase == "train":
        if options.adapters:
            raise bad_input(
                "a training step makes its own adapters: give --train lora or a file", path="--adapter"
            )
        return decoder if rule is None else replace(decoder, adapters=(_trained_adapter(rule),))
    adapters = tuple(read_adapter(path) for path in options.adapters)
    return replace(decoder, adapters=() if options.merge_adapters else adapters)


def _trained_adapter(rule: AdapterRule) -> LoraAdapter:
    everything = rule.targets == (ALL_LINEAR,)
    return LoraAdapter(
        "trained",
        rule.rank,
        rule.alpha,
        () if everything else rule.targets,
        everything=everything,
        dropout=rule.dropout,
    )


def adapters_told(
    bare: Decoder, decoder: Decoder, precision: Precision, options: WorkloadOptions
) -> dict[str, Attribute]:
    """Names and parameters of the adapters; ``InputError`` for one that no module meets."""
    if options.phase == "train" and decoder.adapters:
        figures = adapter_figures(bare, precision, decoder.adapters[0], "--train")
        if figures.unmet:
            target = figures.unmet[0]
            names = [name for name in LINEAR_NAMES if name != target]
            raise bad_input(
                f"target {target!r} stands beside no module of {decoder.model_type}", path="--train",
                suggestion=nearest(target, names),
            )  # fmt: skip
    if not options.adapters:
        return {}
    given = decoder.adapters or tuple(read_adapter(path) for path in options.adapters)
    told = [adapter_figures(bare, precision, adapter) for adapter in given]
    unmet = [f"adapter {one.name}: no module for {', '.join(one.unmet)}" for one in told if one.unmet]
    return {
        "adapters": "; ".join(f"{one.name} (rank {one.rank}, {one.parameters:,} parameters)" for one in told),
        "adapters_are": "merged" if options.merge_adapters else "apart",
        "adapter_parameters": sum(one.parameters for one in told),
        **({"adapter_notes": "; ".join(unmet)} if unmet else {}),
    }


LINEAR_NAMES: Final = (
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "c_attn", "c_proj", "c_fc",
    "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "fc1", "fc2", "out_proj",
)  # fmt: skip
"""The hub's usual names of linear layers, for hints."""


@dataclass(frozen=True, slots=True)
class AdapterFigures:
    """One adapter on a model. ``unmet``: targets that no module of the language model has."""

    name: str
    rank: int
    parameters: int
    unmet: tuple[str, ...]
    products_per_layer: int
    """Modules of one layer that it stands beside, in the layer that has most."""


def adapter_figures(
    decoder: Decoder, precision: Precision, adapter: LoraAdapter, path: str = "--adapter"
) -> AdapterFigures:
    """What an adapter adds to a model; ``InputError`` where it stands beside nothing."""
    # Latent attention in its expanded form has a product for every module.
    step = Step(1, 1, 1, 1)
    writer = GraphWriter(precision)
    write_decoder(writer, step, replace(decoder, adapters=(adapter,)))
    names = [name for name in writer.tensors if ".lora" in name or name.endswith(".saved.weight")]
    if not writer.met:
        raise bad_input(
            f"adapter {adapter.name!r} stands beside no module of {decoder.model_type}; expected targets such as "
            "q_proj or down_proj",
            path=path,
            suggestion=nearest(adapter.targets[0], LINEAR_NAMES) if adapter.targets else None,
        )
    weights = [writer.tensors[name] for name in names if writer.tensors[name].is_weight]
    unmet = tuple(target for target in adapter.targets if target not in writer.met)
    return AdapterFigures(
        adapter.name, adapter.rank, sum(prod(t.shape) for t in weights), unmet, _most(names)
    )


def _most(names: list[str]) -> int:
    """Ways up of the layer that has most."""
    ups = Counter(
        name.split(".")[1] for name in names if name.startswith("layers.") and name.endswith(".up.weight")
    )
    return max(ups.values(), default=0)
