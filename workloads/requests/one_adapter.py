"""The low-rank adapter of a folder for requests: those that name adapters have one like it, or all have this one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hw_configs.problems import bad_input
from workloads.requests.table import ADAPTER_TARGETS, Requests
from workloads.transformer.adapters import LoraAdapter, read_adapter
from workloads.transformer.module_names import ModuleSet

__all__ = ["OneAdapter", "read_one_adapter"]


@dataclass(frozen=True, slots=True)
class OneAdapter:
    """Rank and targets that every adapter of the requests has."""

    name: str
    rank: int
    targets: tuple[str, ...]

    def on(self, requests: Requests) -> Requests:
        """The requests with it: where they name adapters these become like it, else all have this one."""
        like = replace(requests, adapter_rank=self.rank, adapter_targets=self.targets)
        if requests.adapters:
            return like
        return replace(like, adapter=np.zeros(requests.count, np.int64), adapters=(self.name,))


def read_one_adapter(path: str | Path) -> OneAdapter:
    """The adapter of a folder or an ``adapter_config.json``; ``InputError`` for what serving does not price apart."""
    found = read_adapter(path)
    for wrong, path_of, why in _not_served(found):
        if wrong:
            raise bad_input(
                f"{why} is not served; expected one rank on whole layers", file=str(path), path=path_of
            )
    targets = (
        ADAPTER_TARGETS if found.everything else tuple(name.rpartition(".")[2] for name in found.targets)
    )
    for name in targets:
        if name not in ADAPTER_TARGETS:
            raise bad_input(
                f"found {name!r}; serving knows adapters on {', '.join(ADAPTER_TARGETS)}",
                file=str(path), path="target_modules",
            )  # fmt: skip
    return OneAdapter(found.name, found.rank, tuple(dict.fromkeys(targets)))


def _not_served(found: LoraAdapter) -> list[tuple[bool, str, str]]:
    return [
        (found.expression is not None, "target_modules", "an expression for targets"),
        (bool(found.ranks.patterns), "rank_pattern", "a rank by module"),
        (found.layers is not None, "layers_to_transform", "an adapter on some layers"),
        (_names_any(found.saved), "modules_to_save", "a copy of whole modules"),
        (_names_any(found.excluded), "exclude_modules", "a list of exclusions"),
        (found.dora, "use_dora", "DoRA"),
        (found.bias, "lora_bias", "a bias on the way up"),
    ]


def _names_any(modules: ModuleSet) -> bool:
    return bool(modules.names or modules.starts or modules.shapes)
