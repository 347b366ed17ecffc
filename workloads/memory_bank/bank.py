"""What a memory beside a model is: its sizes, where it lies, and which contexts come.

``hierarchical``: a tree of clusters with a block of parameters at each node; a context takes one block of each level
(Pouransari et al., arXiv:2510.02375). ``mlp``: a stack of feed-forward blocks that gives a distribution over tokens
(MLP Memory, arXiv:2508.01832). ``decoder``: a small language model in the same part (Memory Decoder,
arXiv:2508.09874). Accuracy is nowhere worked out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from hw_configs.config import Config, Count, Fault, Size, SizeOrZero, parse, refuse
from hw_configs.problems import bad_input, nearest
from hw_configs.yaml_file import Document, read_yaml
from workloads.dtypes import size_bytes

__all__ = [
    "BankLevel", "DecoderMemory", "HierarchicalBank", "MemoryBank", "MlpMemory", "load_bank", "preset_banks",
]  # fmt: skip

Element = Literal["fp32", "fp16", "bf16", "fp8", "int8", "int4"]
_PRESETS: Final = Path(__file__).parent / "presets"
MOST_BLOCKS: Final = 2**22
MOST_CONTEXTS: Final = 2**22
"""Lines of a file of contexts."""


class BankLevel(Config):
    """A level of the tree."""

    blocks: Annotated[int, Field(ge=1, le=MOST_BLOCKS)]
    """Clusters of the level, each with a block of its own."""
    parameters: Annotated[int, Field(ge=1, le=2**40)]
    """Parameters of a block."""


class _Memory(Config):
    """What every memory says."""

    name: str
    description: str = ""
    source: str = ""
    element: Element = "fp16"


class HierarchicalBank(_Memory):
    """Blocks in a tree of clusters; a context is a leaf and takes the blocks on the way to it."""

    kind: Literal["hierarchical"]
    anchor_parameters: Count
    """Parameters of the model that the memory is added to."""
    levels: Annotated[list[BankLevel], Field(min_length=1, max_length=6)]
    """From the root's children to the leaves; the blocks of a level are a multiple of those above."""
    place: Literal["drive", "memory", "gpu"]
    """Where the bank lies."""
    cache: SizeOrZero = 0.0
    """Bytes beside the model for blocks of all levels, the least recently used going first."""
    zipf: Annotated[float, Field(ge=0, le=4)] = 0.0
    """Exponent of Zipf's law over the leaves; popular leaves lie anywhere in the tree."""
    contexts: str | None = None
    """A file beside this one with the leaf of each context, one number a line, instead of Zipf's law."""
    tokens: Annotated[int, Field(ge=1, le=2**30)] = 1024
    """Tokens made in a context, over which its fetch is spread."""
    request: Size = 131072.0
    """Bytes of a read of the drive."""
    outstanding: Annotated[int, Field(ge=1, le=1024)] = 64
    """Reads of the drive at once."""

    @property
    def leaves(self) -> int:
        """Blocks of the last level."""
        return self.levels[-1].blocks

    def block_bytes(self, level: BankLevel) -> int:
        """Bytes of a block of a level."""
        return size_bytes(level.parameters, self.element)

    @property
    def context_bytes(self) -> int:
        """Bytes that a context takes: a block of each level."""
        return sum(self.block_bytes(level) for level in self.levels)

    @property
    def bank_parameters(self) -> int:
        """Parameters of all blocks."""
        return sum(level.blocks * level.parameters for level in self.levels)

    @property
    def bank_bytes(self) -> int:
        """Bytes of all blocks."""
        return sum(level.blocks * self.block_bytes(level) for level in self.levels)

    @field_validator("contexts")
    @classmethod
    def _beside(cls, value: str | None, info: ValidationInfo) -> str | None:
        folder = (info.context or {}).get("folder")
        return value if value is None or folder is None else str(Path(folder) / value)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        faults: list[Fault] = []
        for number, (upper, lower) in enumerate(zip(self.levels, self.levels[1:], strict=False), start=1):
            if lower.blocks % upper.blocks:
                words = f"{lower.blocks} blocks are no multiple of the {upper.blocks} of the level above"
                faults.append((("levels", number, "blocks"), words))
        if self.cache and self.cache < self.context_bytes:
            words = f"{int(self.cache)} bytes do not hold the {self.context_bytes} bytes of one context"
            faults.append((("cache",), words))
        if not 512 <= self.request <= 2**22:
            faults.append((("request",), "expected 512 B to 4 MiB"))
        if self.contexts is not None and self.zipf:
            faults.append((("zipf",), "the file of contexts says what comes; give one of them"))
        refuse(*faults)
        return self


class _BesideModel(_Memory):
    """A memory that runs for every token beside a model."""

    beside: str
    """The model, by a built-in name or a config.json."""
    context: Annotated[int, Field(ge=1, le=2**20)] = 512
    """Tokens before the one that is timed."""


class MlpMemory(_BesideModel):
    """Feed-forward blocks over the model's hidden state, and an output layer."""

    kind: Literal["mlp"]
    width: Annotated[int, Field(ge=1, le=65536)]
    hidden: Annotated[int, Field(ge=1, le=2**18)]
    layers: Annotated[int, Field(ge=1, le=512)]
    vocabulary: Annotated[int, Field(ge=1, le=2**20)]

    @property
    def parameters(self) -> int:
        """Of the products: two for each block, and the output layer."""
        return 2 * self.layers * self.width * self.hidden + self.vocabulary * self.width


class DecoderMemory(_BesideModel):
    """A language model of the same tokens."""

    kind: Literal["decoder"]
    memory: str
    """The small model, by a built-in name or a config.json."""


MemoryBank = HierarchicalBank | MlpMemory | DecoderMemory
_READERS: Final[dict[str, Callable[[Document], MemoryBank]]] = {
    "hierarchical": lambda document: parse(HierarchicalBank, document),
    "mlp": lambda document: parse(MlpMemory, document),
    "decoder": lambda document: parse(DecoderMemory, document),
}


def preset_banks() -> dict[str, Path]:
    """The shipped memories by name."""
    return {path.stem: path for path in sorted(_PRESETS.glob("*.yaml"))}


def load_bank(source: str | Path) -> MemoryBank:
    """A memory by the name of a preset or from a YAML file; ``InputError`` with every problem of it.

    >>> round(load_bank("hierarchical-160m").bank_parameters / 1e9, 1)
    4.6
    """
    text, presets = str(source), preset_banks()
    if text not in presets and "/" not in text and not text.endswith((".yaml", ".yml")):
        raise bad_input(
            f"unknown memory {text[:80]!r}; presets: {', '.join(presets)}", suggestion=nearest(text, presets)
        )
    document = read_yaml(presets.get(text, Path(text)))
    kind = document.data.get("kind") if isinstance(document.data, dict) else None
    if kind not in _READERS:
        raise bad_input(
            f"found {kind!r}; known: {', '.join(_READERS)}", file=document.file, line=document.line_of(("kind",)),
            path="kind", suggestion=nearest(str(kind), _READERS),
        )  # fmt: skip
    return _READERS[kind](document)
