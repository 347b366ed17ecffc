"""Importer of a Hugging Face ``config.json``: the shape of a language model, as the hub ships it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import Problem, bad_input
from workloads.json_file import read_json
from workloads.transformer import decoder_workload, read_decoder
from workloads.transformer.adapters import CONFIG_NAME
from workloads.transformer.fields import Fields
from workloads.transformer.formats import Precision
from workloads.transformer.quantization import SIDE_FILES
from workloads.transformer.shape import Decoder
from workloads.workload import Workload, WorkloadOptions

__all__ = ["IMPORTER", "HuggingFaceConfig", "read_config"]

MAX_FILE_BYTES: Final = 4 * 2**20
"""The largest configs on the hub list tens of thousands of labels and stay below 2 MiB."""

_SIGNS: Final = (
    b'"model_type"',
    b'"architectures"',
    b'"num_hidden_layers"',
    b'"hidden_size"',
    b'"transformers_version"',
)


class HuggingFaceConfig:
    """The importer; see :class:`workloads.importers.Importer`."""

    FORMAT = "Hugging Face config.json"

    def recognises(self, path: Path, head: bytes) -> bool:
        """A file named config.json, or JSON that has the hub's keys near its start."""
        if path.suffix.lower() != ".json":
            return False
        if path.name == "config.json":
            return True
        text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
        return text.startswith(b"{") and any(sign in head for sign in _SIGNS)

    def load(self, path: Path, options: WorkloadOptions) -> Workload:
        """The language model in the file; raises ``InputError`` with all that is wrong with it."""
        beside = path.with_name(CONFIG_NAME)
        if path.name == "config.json" and beside.is_file() and not options.adapters:
            options = replace(options, adapters=(str(beside),))
        decoder, precision = read_config(path, options)
        name = path.resolve().parent.name if path.name == "config.json" else path.stem
        return decoder_workload(name or decoder.model_type, decoder, precision, options)


def read_config(path: Path, options: WorkloadOptions) -> tuple[Decoder, Precision]:
    """The decoder in a file, and the element types it runs in."""
    fields = _read_fields(path)
    beside = (path.with_name(name) for name in SIDE_FILES if path.name == "config.json")
    side = {file.name: _read_fields(file, fields.problems) for file in beside if file.is_file()}
    return read_decoder(fields, options.dtype, options.kv_dtype, side, _image_sides(options))


def _read_fields(path: Path, problems: list[Problem] | None = None) -> Fields:
    """An object of a JSON file; what is wrong with it is noted among ``problems``."""
    document = read_json(path, MAX_FILE_BYTES, infinite=True)
    data: Any = document.data
    if not isinstance(data, dict):
        raise bad_input(f"found {type(data).__name__}; expected an object", file=document.file, line=1)
    noted = problems if problems is not None else []
    return Fields(data, document.file, document.line_of, problems=noted)


def _image_sides(options: WorkloadOptions) -> tuple[int, int] | None:
    """Height and width of images, where the user gives both."""
    if not options.images or not {"height", "width"} <= set(options.dims):
        return None
    return options.dims["height"], options.dims["width"]


IMPORTER: Final = HuggingFaceConfig()
