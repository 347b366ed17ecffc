"""Importer of safetensors files: the model of the ``config.json`` beside them, in the types that the headers list."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from hw_configs.problems import bad_input
from workloads.huggingface import read_config
from workloads.safetensors_header import INDEX_ENDING, read_safetensors
from workloads.stored_tensors import StoredTensors
from workloads.transformer import decoder_workload
from workloads.transformer.formats import FormatRule, Precision
from workloads.transformer.module_names import own_names
from workloads.transformer.named_formats import rules_by_type
from workloads.workload import Workload, WorkloadOptions

__all__ = ["IMPORTER", "config_beside"]

PLAIN_TYPES: Final = frozenset(("fp64", "fp32", "fp16", "bf16"))
"""Types that a header names in full; packed ones are told by the config alone, and fp8 with its scales."""


class _SafetensorsImporter:
    """Reads safetensors headers; see :class:`workloads.importers.Importer`."""

    FORMAT = "a safetensors checkpoint"

    def recognises(self, path: Path, head: bytes) -> bool:
        """By the name, or a header's length followed by its JSON."""
        named = path.suffix.lower() == ".safetensors" or path.name.endswith(INDEX_ENDING)
        return named or (head[5:8] == bytes(3) and head[8:10] in (b'{"', b"{}"))

    def load(self, path: Path, options: WorkloadOptions) -> Workload:
        """The model of the config beside the file; weights that the header has in plain floats are in those."""
        stored = read_safetensors(path)
        config = config_beside(path)
        if config is None:
            raise bad_input(
                "a checkpoint without its architecture: no config.json beside it ('offchip models show' lists its "
                "tensors)",
                file=str(path),
            )
        decoder, precision = read_config(config, options)
        if options.dtype is None:
            precision = _as_stored(precision, stored)
        notes = "; ".join(note for note in (precision.note, *stored.notes) if note)
        name = path.resolve().parent.name or decoder.model_type
        return decoder_workload(name, decoder, replace(precision, note=notes), options)


def config_beside(path: Path) -> Path | None:
    """The ``config.json`` in the folder of a checkpoint file, if there is one."""
    config = path.with_name("config.json")
    return config if config.is_file() else None


def _as_stored(precision: Precision, stored: StoredTensors) -> Precision:
    """The config's table, but for weights whose type the header states."""
    types: dict[str, str] = {}
    for tensor in stored.tensors:
        if (
            tensor.dtype in PLAIN_TYPES
            and len(tensor.shape) > 1
            and tensor.name.endswith((".weight", "_proj"))
        ):
            for module in own_names(tensor.name.removesuffix(".weight")):
                if precision.format_of(module).dtype != tensor.dtype:
                    types.setdefault(module, tensor.dtype)
    rules: tuple[FormatRule, ...] = rules_by_type(types, precision.own)
    return replace(precision, rules=(*rules, *precision.rules)) if rules else precision


IMPORTER: Final = _SafetensorsImporter()
