"""From what a user names to a workload: built-in names and files of every supported format.

An importer has two functions: ``recognises(path, head)``, which looks at the name and the first bytes of a
file, and ``load(path, options)``; a third, ``gathers(path)``, where a folder or a pattern may stand for several
files. Another package can add one under the entry-point group ``offchip.importers``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from hw_configs.problems import bad_input, nearest
from hw_configs.registry import Registry
from workloads.transformer.adapters import CONFIG_NAME
from workloads.workload import Workload, WorkloadOptions

__all__ = ["IMPORTERS", "Importer", "load_workload"]

HEAD_BYTES: Final = 64 * 1024


class Importer(Protocol):
    """What a module under the registry offers."""

    FORMAT: str
    """The format as a person names it, for messages."""

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether the file is of this format, judged by its name and first bytes."""
        ...

    def load(self, path: Path, options: WorkloadOptions) -> Workload:
        """The workload in the file; raises ``InputError`` with all that is wrong with it."""
        ...


IMPORTERS: Final[Registry[Importer]] = Registry(
    "importer",
    "offchip.importers",
    {
        "safetensors": "workloads.safetensors_model:IMPORTER",
        "gguf": "workloads.gguf_model:IMPORTER",
        "kineto": "workloads.recorded.kineto:IMPORTER",
        "diffusers": "workloads.diffusion.config:IMPORTER",
        "huggingface": "workloads.huggingface:IMPORTER",
        "torch-export": "workloads.torch_export.importer:IMPORTER",
        "onnx": "workloads.onnx_file:IMPORTER",
        "graph-json": "workloads.graph_json:IMPORTER",
        "chakra": "workloads.recorded.chakra:IMPORTER",
    },
)


def load_workload(source: str | Path, options: WorkloadOptions | None = None) -> Workload:
    """The workload of a built-in model name or of a file.

    Raises ``InputError`` for an unknown name (with the nearest), a missing file, or a file that no importer
    recognises or that is wrong.
    """
    options = options or WorkloadOptions()
    workload = _loaded(source, options)
    if options.adapters and "adapters" not in workload.metadata:
        raise bad_input("low-rank adapters need a language model: leave this option out", path="--adapter")
    # What states its batch was built for it, and so can be built for another.
    if workload.metadata.get("batch") != options.batch:
        return workload
    return replace(workload, at_batch=partial(_at_batch, source, options))


def _at_batch(source: str | Path, options: WorkloadOptions, batch: int) -> Workload:
    return load_workload(source, replace(options, batch=batch))


def _loaded(source: str | Path, options: WorkloadOptions) -> Workload:
    from workloads import models

    name, path = str(source), Path(source)
    if name in models.names():
        return models.build(name, options)
    if path.is_dir() and (path / "config.json").is_file():
        path = path / "config.json"
    if path.is_dir() and (path / CONFIG_NAME).is_file():
        raise bad_input("an adapter alone: give its base model, and this folder as --adapter", file=name)
    importers = [IMPORTERS.get(entry) for entry in IMPORTERS]
    for importer in importers:
        if not path.is_file() and hasattr(importer, "gathers") and importer.gathers(path):
            return importer.load(path, options)
    if not path.is_file():
        if "/" in name or path.suffix in (".json", ".onnx", ".et", ".pt2", ".gguf", ".safetensors"):
            raise bad_input("not a file" if path.exists() else "no such file", file=name)
        known = models.names()
        raise bad_input(
            f"unknown model {name!r}: neither a built-in name (see 'offchip models list') nor a file",
            suggestion=nearest(name, known),
        )
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise bad_input("the file is empty", file=name)
    for importer in importers:
        if importer.recognises(path, head):
            return importer.load(path, options)
    formats = ", ".join(importer.FORMAT for importer in importers)
    raise bad_input(f"not a format that Offchip reads; it reads {formats}", file=name)
