"""Built-in models by short name: config files of language models, builders of vision and encoder models."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final, cast

from hw_configs.problems import bad_input, nearest
from workloads.models.info import ModelInfo
from workloads.workload import Workload, WorkloadOptions

__all__ = ["ModelInfo", "build", "config_of", "describe", "names"]

BUILDER_PACKAGES: Final = ("workloads.vision", "workloads.encoder")
"""Packages that offer ``MODELS`` (name to ``module:function``) and ``describe(name)``."""


def names() -> list[str]:
    """Every built-in model, sorted."""
    return sorted({*_configs(), *_builders()})


def config_of(name: str) -> Path | None:
    """The config file of a built-in language model; None for what is no such name."""
    return _configs().get(name)


@cache
def describe(name: str) -> ModelInfo:
    """What a model is, without its whole graph; an unknown name raises ``InputError``."""
    _check(name)
    if name not in _configs():
        return cast(ModelInfo, importlib.import_module(_builders()[name][0]).describe(name))
    from workloads.huggingface import read_config
    from workloads.models.sources import SOURCES
    from workloads.transformer import count_parameters

    decoder, precision = read_config(_configs()[name], WorkloadOptions())
    parameters = count_parameters(decoder, precision)
    return ModelInfo(name, decoder.model_type, "language", parameters, SOURCES[name])


def build(name: str, options: WorkloadOptions) -> Workload:
    """The workload of a built-in model; an unknown name raises ``InputError``."""
    _check(name)
    if name in _configs():
        from workloads.huggingface import read_config
        from workloads.transformer import decoder_workload

        return decoder_workload(name, *read_config(_configs()[name], options), options)
    module, _, function = _builders()[name][1].partition(":")
    builder = cast(Callable[[WorkloadOptions], Workload], getattr(importlib.import_module(module), function))
    return builder(options)


def _check(name: str) -> None:
    if name not in _configs() and name not in _builders():
        known = names()
        raise bad_input(f"unknown model {name!r}; known: {', '.join(known)}", suggestion=nearest(name, known))


@cache
def _configs() -> dict[str, Path]:
    """Config files by model name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.json"))}


@cache
def _builders() -> dict[str, tuple[str, str]]:
    """Package and location of the function that builds a model, by model name."""
    found: dict[str, tuple[str, str]] = {}
    for package in BUILDER_PACKAGES:
        models = cast(dict[str, str], importlib.import_module(package).MODELS)
        found.update({name: (package, location) for name, location in models.items()})
    return found
