"""Which modules of a language model a checkpoint's lists speak of.

A quantised checkpoint names modules in the spelling of the repository that wrote it:
``model.layers.3.self_attn.q_proj``, ``model.language_model.layers.3.self_attn*``, ``backbone.layers.3.mixer.q_proj``,
``re:.*experts.*``. Offchip's own names are ``layers.N.self_attn|linear_attn|mlp....`` with leaves as Llama's, and
``lm_head`` and ``embed_tokens``. A name is brought to that spelling; a glob or an expression is tried on every
spelling of a module.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import Final

__all__ = [
    "EMBEDDING", "EXPERTS", "HEAD", "LINEAR", "ROUTER", "ModuleSet", "bounded_expression", "kind_of", "module_set",
    "own_names", "spellings",
]  # fmt: skip

LINEAR: Final = "linear layer"
EXPERTS: Final = "experts"
ROUTER: Final = "router"
HEAD: Final = "output projection"
EMBEDDING: Final = "embedding"

MAX_PATTERN: Final = 300
MAX_REPEATS: Final = 6
"""Unbounded repetitions in an expression: each multiplies the time that a mismatch takes by a name's length."""

ROOTS: Final = frozenset(
    (
        "model",
        "language_model",
        "backbone",
        "transformer",
        "text_model",
        "decoder",
        "llm",
        "thinker",
        "gpt_neox",
    )
)
"""Parts in front of the layers that say where in a repository's tree the language model hangs."""
PREFIXES: Final = (
    "model.", "model.language_model.", "language_model.model.", "language_model.", "backbone.", "transformer.",
    "model.decoder.", "thinker.model.", "",
)  # fmt: skip

PARTS: Final[dict[str, tuple[str, ...]]] = {
    "layers": ("layers", "h", "blocks"),
    "self_attn": ("self_attn", "attn", "attention", "self_attention", "mixer"),
    "linear_attn": ("linear_attn", "mixer", "mamba", "temporal_block"),
    "mlp": ("mlp", "ffn", "block_sparse_moe", "feed_forward", "moe", "mixer"),
    "shared_experts": ("shared_experts", "shared_expert", "shared_mlp"),
    "q_proj": ("q_proj", "qkv_proj", "wq", "query_key_value", "c_attn", "W_pack", "Wqkv"),
    "k_proj": ("k_proj", "qkv_proj", "wk", "query_key_value", "c_attn", "W_pack", "Wqkv"),
    "v_proj": ("v_proj", "qkv_proj", "wv", "query_key_value", "c_attn", "W_pack", "Wqkv"),
    "o_proj": ("o_proj", "wo"),
    "q_a_proj": ("q_a_proj", "wq_a"),
    "q_b_proj": ("q_b_proj", "wq_b"),
    "kv_a_proj_with_mqa": ("kv_a_proj_with_mqa", "wkv_a"),
    "kv_b_proj": ("kv_b_proj", "wkv_b"),
    "gate_proj": ("gate_proj", "gate_up_proj", "w1"),
    "up_proj": ("up_proj", "gate_up_proj", "w3", "c_fc", "dense_h_to_4h", "fc1"),
    "down_proj": ("down_proj", "w2", "dense_4h_to_h", "fc2"),
    "gate": ("gate", "router"),
    "in_proj_qkv": ("in_proj_qkv", "in_proj_qkvz", "in_proj"),
    "in_proj_z": ("in_proj_z", "in_proj_qkvz", "in_proj"),
    "in_proj_ba": ("in_proj_ba", "in_proj_b", "in_proj_a", "in_proj"),
    "lm_head": ("lm_head", "head", "embed_out"),
    "embed_tokens": ("embed_tokens", "embeddings", "wte", "embed", "word_embeddings"),
}  # fmt: skip
"""Spellings of a part of a name, Offchip's own first."""

_OWN: Final[dict[str, tuple[str, ...]]] = {
    spelling: tuple(own for own, spellings in PARTS.items() if spelling in spellings)
    for spellings in PARTS.values()
    for spelling in spellings
}
_LAYER: Final = re.compile(r"layers\.\d+")


def kind_of(module: str) -> str:
    """What a module is: a linear layer, experts, router, output projection or embedding."""
    own = own_names(module)[0]
    leaf = own.rpartition(".")[2]
    if leaf in ("lm_head", "embed_tokens"):
        return HEAD if leaf == "lm_head" else EMBEDDING
    if ".experts" in f".{own}":
        return EXPERTS
    return ROUTER if leaf == "gate" else LINEAR


@lru_cache(maxsize=2**15)
def own_names(name: str) -> tuple[str, ...]:
    """A module's name in Offchip's spelling; several where a part stands for several (``qkv_proj``, ``mixer``)."""
    parts = name.removesuffix(".weight").strip(".").split(".")
    while len(parts) > 1 and parts[0] in ROOTS:
        parts = parts[1:]
    kept = [
        part for at, part in enumerate(parts) if not (part.isdigit() and at and parts[at - 1] == "experts")
    ]
    choices = [_own_part(kept, at) for at in range(len(kept))]
    return tuple(".".join(chosen) for chosen in product(*choices))


def _own_part(parts: list[str], at: int) -> tuple[str, ...]:
    part = parts[at]
    if part in PARTS:
        return (part,)
    if len(parts) > 1 and part in ("head", "embed") and at:
        return (part,)
    return _OWN.get(part, (part,))


@dataclass(frozen=True, slots=True)
class _Shape:
    """An expression on whole names. ``free``: it names no layer by number, so one layer stands for all."""

    expression: re.Pattern[str]
    free: bool


@dataclass(frozen=True, eq=False)
class ModuleSet:
    """Modules by name, by the start of a name, and by expression; :func:`module_set` makes one."""

    names: frozenset[str] = frozenset()
    starts: frozenset[str] = frozenset()
    shapes: tuple[_Shape, ...] = ()
    _known: dict[str, bool] = field(default_factory=dict, repr=False)

    def __contains__(self, module: object) -> bool:
        """Whether the module, or one that it is part of, is meant."""
        if not isinstance(module, str):
            return False
        if module not in self._known:
            self._known[module] = self._find(own_names(module)[0])
        return self._known[module]

    def __bool__(self) -> bool:
        return bool(self.names or self.starts or self.shapes)

    def _find(self, own: str) -> bool:
        if self.names and not self.names.isdisjoint(_stretches(own)):
            return True
        if self.starts and not self.starts.isdisjoint(_beginnings(own)):
            return True
        return any(
            _fits(shape.expression, _LAYER.sub("layers.0", own) if shape.free else own)
            for shape in self.shapes
        )


def module_set(patterns: Iterable[str], expressions: bool = False) -> ModuleSet:
    """Modules that a list names: names and parts of names, globs with ``*``, ``re:`` and an expression.

    With ``expressions`` every entry is an expression, ``re:`` or not. ``ValueError`` names an expression that is not
    one, or that could take too long.
    """
    names: set[str] = set()
    starts: set[str] = set()
    shapes: list[_Shape] = []
    for pattern in patterns:
        if pattern.startswith("re:") or expressions:
            text = pattern.removeprefix("re:")
            shapes.append(_Shape(bounded_expression(text), not re.search(r"\d|\\d|\[", text)))
            continue
        text = pattern.removeprefix("*.").strip(".")
        whole = text.removesuffix(".*")
        if not _is_glob(whole):
            names.update(own_names(whole))
        elif not _is_glob(text.removesuffix("*")):
            starts.update(own_names(text.removesuffix("*")))
        else:
            free = not re.search(r"\d|\[", text)
            shapes += [_Shape(re.compile(shape), free) for shape in _glob(text)]
    return ModuleSet(frozenset(names), frozenset(starts), tuple(shapes))


def _is_glob(text: str) -> bool:
    return any(sign in text for sign in "*?[")


def _stretches(own: str) -> set[str]:
    """Every run of whole parts of a name: what a shorter name may mean."""
    parts = own.split(".")
    return {".".join(parts[a:b]) for a in range(len(parts)) for b in range(a + 1, len(parts) + 1)}


def _beginnings(own: str) -> set[str]:
    """Everything that a name, from any part on, begins with."""
    parts = own.split(".")
    tails = (".".join(parts[at:]) for at in range(len(parts)))
    return {tail[:end] for tail in tails for end in range(1, len(tail) + 1)}


def _glob(text: str) -> list[str]:
    """Expressions of a glob: it matches a module and all that is in it, from any part on."""
    return [
        fnmatch.translate(start + end)
        for start in ({text, f"*.{text}"} if not text.startswith("*") else {text})
        for end in ("", ".*")
    ]


@lru_cache(maxsize=2**15)
def _fits(expression: re.Pattern[str], own: str) -> bool:
    return any(expression.match(name) for name in spellings(own))


@lru_cache(maxsize=2**13)
def spellings(own: str) -> tuple[str, ...]:
    """What repositories call a module."""
    parts = own.split(".")
    inner = [PARTS.get(part, (part,)) for part in parts]
    if "mlp" in parts and parts[-1] in ("gate_proj", "up_proj", "down_proj") and parts[-2] == "mlp":
        # Names of a mixture of experts are not those of a dense part: ``block_sparse_moe.gate*`` is a router.
        inner[-2] = tuple(name for name in PARTS["mlp"] if "moe" not in name)
    names = {".".join(chosen) for chosen in product(*inner)}
    if "experts" in parts:
        names |= {name.replace("experts.", "experts.0.", 1) for name in names if ".experts." in name}
    return tuple(prefix + name for prefix in PREFIXES for name in sorted(names))


def bounded_expression(text: str) -> re.Pattern[str]:
    """An expression from a file; ``ValueError`` for one that is none or that could take too long."""
    if len(text) > MAX_PATTERN:
        raise ValueError(f"expression of {len(text)} characters; expected at most {MAX_PATTERN}")
    if _repeats(text) > MAX_REPEATS:
        raise ValueError(
            f"expression {text!r} repeats a repetition or has more than {MAX_REPEATS} of them, which can take "
            "for ever"
        )
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None


def _repeats(text: str) -> int:
    """Unbounded repetitions in an expression; one inside another counts as too many."""
    depth_has: list[int] = [0]
    total, at = 0, 0
    while at < len(text):
        sign = text[at]
        if sign == "\\":
            at += 2
            continue
        if sign == "[":
            at = _class_end(text, at)
        elif sign == "(":
            depth_has.append(0)
        elif sign == ")" and len(depth_has) > 1:
            inside = depth_has.pop()
            if inside and text[at + 1 : at + 2] in ("*", "+", "{"):
                return MAX_REPEATS + 1
            depth_has[-1] += inside
        elif sign in "*+{":
            total += 1
            depth_has[-1] += 1
        at += 1
    return total


def _class_end(text: str, at: int) -> int:
    """Where a character class ends; the end of the text for one that does not."""
    at += 2 if text[at + 1 : at + 2] in ("]", "^") else 1
    while at < len(text) and text[at] != "]":
        at += 2 if text[at] == "\\" else 1
    return at
