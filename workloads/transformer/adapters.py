"""Low-rank adapters (LoRA, arXiv:2106.09685): which modules they stand beside, and at which rank.

An ``adapter_config.json`` as PEFT writes it becomes a :class:`LoraAdapter`. Beside a product with a weight of ``n`` x
``k`` stand two of rank ``r``: down to ``r`` features and up from them. DoRA (arXiv:2402.09353) adds a magnitude per
output; rsLoRA (arXiv:2312.03732) scales by the root of the rank, which costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any, Final

from hw_configs.problems import bad_input
from workloads.json_file import read_json
from workloads.transformer.fields import Fields
from workloads.transformer.formats import NO_MODULES
from workloads.transformer.module_names import (
    EMBEDDING,
    LINEAR,
    ModuleSet,
    bounded_expression,
    kind_of,
    module_set,
    own_names,
    spellings,
)  # fmt: skip

__all__ = ["ALL_LINEAR", "CONFIG_NAME", "LoraAdapter", "Ranks", "read_adapter"]

CONFIG_NAME: Final = "adapter_config.json"
MAX_FILE_BYTES: Final = 2**20
MAX_RANK: Final = 2**14

ALL_LINEAR: Final = "all-linear"


@dataclass(frozen=True, slots=True)
class Ranks:
    """Ranks of modules that differ from the adapter's, by name or expression; the first that fits holds."""

    patterns: tuple[tuple[re.Pattern[str], int], ...] = ()

    def of(self, module: str, default: int) -> int:
        """The rank of a module."""
        for pattern, rank in self.patterns:
            if any(pattern.fullmatch(name) for name in spellings(own_names(module)[0])):
                return rank
        return default


@dataclass(frozen=True, eq=False)
class LoraAdapter:
    """One adapter. ``targets`` are names of modules or ends of names; ``expression`` stands for them where it is given.

    ``everything``: all linear layers but the output projection. ``saved``: modules of which the adapter has a copy of
    its own. ``layers``: the only layers it touches, None for all. ``bias``: a bias on the way up.
    """

    name: str
    rank: int
    alpha: float
    targets: tuple[str, ...] = ()
    expression: re.Pattern[str] | None = None
    everything: bool = False
    excluded: ModuleSet = NO_MODULES
    ranks: Ranks = field(default_factory=Ranks)
    saved: ModuleSet = NO_MODULES
    layers: frozenset[int] | None = None
    dora: bool = False
    rslora: bool = False
    bias: bool = False
    dropout: float = 0.0
    """Share of what enters that training drops; only whether there is any matters."""

    @property
    def scaling(self) -> float:
        """The factor on the adapter's part."""
        return self.alpha / (sqrt(self.rank) if self.rslora else self.rank)

    def target_of(self, module: str) -> str:
        """The target that a module is meant by: its name in the list, or the module's own; "" for none."""
        own = own_names(module)[0]
        if not module or own in self.excluded or not self._touches(own):
            return ""
        if self.everything:
            return own if kind_of(own) == LINEAR else ""
        if self.expression is not None:
            return own if any(self.expression.fullmatch(name) for name in spellings(own)) else ""
        ends = _ends(own)
        return next((target for target in self.targets if not ends.isdisjoint(own_names(target))), "")

    def rank_of(self, module: str) -> int:
        """The rank beside a module; 0 where the adapter does not stand beside it."""
        return self.ranks.of(module, self.rank) if self.target_of(module) else 0

    def fuses(self, target: str) -> bool:
        """Whether a target's name stands for several of our modules, which then share one way down."""
        return len(own_names(target)) > 1

    def _touches(self, own: str) -> bool:
        if self.layers is None:
            return True
        index = re.match(r"layers\.(\d+)\.", own)
        return index is not None and int(index[1]) in self.layers


def _ends(own: str) -> set[str]:
    parts = own.split(".")
    return {".".join(parts[at:]) for at in range(len(parts))}


def read_adapter(path: str | Path) -> LoraAdapter:
    """The adapter of a folder or of an ``adapter_config.json``; ``InputError`` for any other method than LoRA."""
    place = Path(path)
    file = place / CONFIG_NAME if place.is_dir() else place
    document = read_json(file, MAX_FILE_BYTES, infinite=True)
    if not isinstance(document.data, dict):
        raise bad_input(
            f"found {type(document.data).__name__}; expected an object", file=document.file, line=1
        )
    f = Fields(document.data, document.file, document.line_of)
    found = _read(f, file.resolve().parent.name)
    f.finish()
    return found


def _read(f: Fields, name: str) -> LoraAdapter:
    method = f.word("peft_type", default="LORA")
    if method.upper() != "LORA":
        f.problem("peft_type", f"found {method!r}; expected LORA: other adapters are not modelled")
    for key in NOT_MODELLED:
        if f.values.get(key):
            f.problem(key, f"{NOT_MODELLED[key]} is not modelled; expected an adapter without it")
    rank = f.integer("r", default=8, most=MAX_RANK)
    targets, expression, everything = _targets(f)
    return LoraAdapter(
        name, rank, f.number("lora_alpha", default=8.0), targets, expression, everything,
        excluded=_modules(f, "exclude_modules"), ranks=_ranks(f), saved=_modules(f, "modules_to_save"),
        layers=_layers(f), dora=f.flag("use_dora", default=False), rslora=f.flag("use_rslora", default=False),
        bias=f.flag("lora_bias", default=False),
    )  # fmt: skip


NOT_MODELLED: Final = {
    "target_parameters": "an adapter on bare parameters", "layer_replication": "repeating layers",
    "trainable_token_indices": "training rows of the embedding", "alora_invocation_tokens": "an activated adapter",
    "use_qalora": "QALoRA", "arrow_config": "Arrow",
}  # fmt: skip


def _targets(f: Fields) -> tuple[tuple[str, ...], re.Pattern[str] | None, bool]:
    """Names, or an expression, or whether all linear layers are meant."""
    value = f.values.get("target_modules")
    if isinstance(value, str):
        if value == ALL_LINEAR:
            return (), None, True
        try:
            return (), bounded_expression(value), False
        except ValueError as error:
            f.problem("target_modules", str(error))
            return (), None, False
    names = f.words("target_modules")
    if not names and f.sound("target_modules"):
        f.problem(
            "target_modules", f"missing field target_modules; expected names, an expression or {ALL_LINEAR}"
        )
    for name in names or []:
        if kind_of(name) == EMBEDDING:
            f.problem("target_modules", f"found {name!r}; an adapter on an embedding's table is not modelled")
    return tuple(names or ()), None, False


def _modules(f: Fields, key: str) -> ModuleSet:
    value = f.values.get(key)
    try:
        if isinstance(value, str):
            return module_set([f"re:{value}"])
        return module_set(f.words(key) or [])
    except ValueError as error:
        f.problem(key, str(error))
        return NO_MODULES


def _ranks(f: Fields) -> Ranks:
    """``rank_pattern``: a name or an expression on the end of a name, and its rank."""
    section = f.section("rank_pattern")
    found = []
    for key in section.values if section is not None else ():
        if section is None:
            break
        try:
            expression = bounded_expression(rf"(.*\.)?({key})")
        except ValueError as error:
            section.problem(key, str(error))
            continue
        found.append((expression, section.integer(key, most=MAX_RANK)))
    return Ranks(tuple(found))


def _layers(f: Fields) -> frozenset[int] | None:
    value: Any = f.values.get("layers_to_transform")
    if value is None:
        return None
    one = isinstance(value, int) and not isinstance(value, bool)
    given: Mapping[str, Any] = {"layers_to_transform": [value]} if one else f.values
    listed = Fields(given, f.file, f.line_of, f.path, f.problems).integers("layers_to_transform")
    return frozenset(listed or ())
