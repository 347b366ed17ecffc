"""How a package lists its built-in models: where the builder stands, the family, and what it follows."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from workloads.models.info import ModelInfo
from workloads.workload import Workload, WorkloadOptions

__all__ = ["BuiltIn", "builder_at", "described"]

Builder = Callable[[WorkloadOptions], Workload]


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """One entry: ``location`` is ``file:function`` inside its package, ``source`` what was published."""

    location: str
    family: str
    source: str


def builder_at(location: str) -> Builder:
    """The builder function at ``module:function``, imported now."""
    module, _, function = location.partition(":")
    return cast(Builder, getattr(importlib.import_module(module), function))


def described(name: str, entry: BuiltIn, location: str, modality: str) -> ModelInfo:
    """The facts about one model, with its parameters counted on the built graph."""
    graph = builder_at(location)(WorkloadOptions()).phases[0].graph
    return ModelInfo(name, entry.family, modality, graph.parameters(), entry.source)
