"""Which weights of a model are trained, and by which method: the rest is frozen.

A frozen weight has no gradient and no optimizer state, and nothing is kept for a gradient that nobody wants. Rules are
patterns over names of weights (``layers.*.attention.*``, or ``re:`` and an expression); the last that fits holds, and
what none fits is frozen. Files are YAML::

    trainable:
      "layers.*.attention.qkv.weight": {method: columns, rank: 64}
      "layers.*norm*": full
    adapters: {rank: 16, targets: [q_proj, v_proj], dropout: 0.05}
    base: nf4

Methods of a weight:

* ``full``: gradient and state of the whole weight;
* ``columns``: of ``rank`` of its input features, whose activations alone are kept (PaCA, arXiv:2503.01905);
* ``sampled``: a gradient from a ``share`` of the tokens, which alone are kept (WTA-CRS, arXiv:2305.15265);
* ``scales``: of one scale for each ``group`` of a weight in ``bits`` bits (PEQA, arXiv:2305.14152);
* ``low-rank``: moments of a gradient projected to ``rank`` (GaLore, arXiv:2403.03507), with the projected gradients of
  ``history`` steps beside them (Natural GaLore, arXiv:2410.16029); ``layerwise`` updates each weight as soon as its
  gradient is there;
* ``sparse``: a mask from importance scores of low rank, and a low-rank change of the weight (PST, arXiv:2205.11005).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import translate
from typing import Any, Final, Literal, get_args

from hw_configs.problems import InputError, Problem, bad_input, nearest

__all__ = ["ALL_TRAINED", "FROZEN", "METHODS", "AdapterRule", "TrainedParts", "WeightMethod", "without_match"]

MethodName = Literal["full", "frozen", "columns", "sampled", "scales", "low-rank", "sparse"]
METHODS: Final[tuple[MethodName, ...]] = get_args(MethodName)
_USES: Final[Mapping[str, tuple[str, ...]]] = {
    "full": (), "frozen": (), "columns": ("rank",), "sampled": ("share",), "scales": ("bits", "group"),
    "low-rank": ("rank", "history", "layerwise"), "sparse": ("rank",),
}  # fmt: skip
_MOST: Final = 2**20


@dataclass(frozen=True, slots=True)
class WeightMethod:
    """How one weight is trained; see the module's first lines. Fields that a method does not use have no effect."""

    method: MethodName = "full"
    rank: int = 8
    share: float = 0.3
    bits: int = 4
    group: int = 128
    history: int = 0
    layerwise: bool = False

    def __post_init__(self) -> None:
        problems = []
        if self.method not in METHODS:
            message = f"found {self.method!r}; expected one of {', '.join(METHODS)}"
            problems.append(
                Problem(message, path="method", suggestion=nearest(str(self.method), list(METHODS)))
            )
        for name, low, high in (
            ("rank", 1, _MOST),
            ("bits", 2, 16),
            ("group", 1, _MOST),
            ("history", 0, _MOST),
        ):
            if not low <= getattr(self, name) <= high:
                message = f"found {getattr(self, name)}; expected {low} to {high}"
                problems.append(Problem(message, path=name))
        if not 0 < self.share <= 1:
            problems.append(
                Problem(f"found {self.share}; expected a share above 0 and up to 1", path="share")
            )
        if problems:
            raise InputError(problems)

    def words(self) -> str:
        """The method with what it uses, for people."""
        told = ", ".join(f"{name} {getattr(self, name)}" for name in _USES[self.method])
        return f"{self.method} ({told})" if told else self.method


FULL: Final = WeightMethod()
FROZEN: Final = WeightMethod("frozen")


@dataclass(frozen=True, slots=True)
class AdapterRule:
    """Low-rank adapters beside frozen products (LoRA, arXiv:2106.09685).

    ``targets`` are the hub's names of modules, or ``all-linear``. ``dropout`` above zero keeps a copy of what enters.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    dropout: float = 0.0

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= self.rank <= _MOST:
            problems.append(Problem(f"found {self.rank}; expected 1 to {_MOST}", path="adapters.rank"))
        if not 0 <= self.dropout < 1:
            problems.append(Problem(f"found {self.dropout}; expected 0 to below 1", path="adapters.dropout"))
        if not self.targets:
            problems.append(Problem("found no targets; expected names of modules", path="adapters.targets"))
        if problems:
            raise InputError(problems)


@dataclass(frozen=True, slots=True)
class TrainedParts:
    """Rules by pattern, adapters, the type of the frozen base, and how the step is run.

    ``base``: element type in which frozen matrices are held ("" for the model's own); ``double``: their scales are
    quantised too (QLoRA, arXiv:2305.14314). ``paged``: the optimizer's state lies in host memory unless it is used.
    ``saved_bits``: bits of what the backward pass is left, by operator kind (Mesa, arXiv:2111.11124; ActNN,
    arXiv:2104.14129). ``forward_only``: gradients are estimated from two forward passes (BlackVIP, arXiv:2303.14773).
    ``copies``: frozen copies of the model in the same job, beside the trained one.
    """

    rules: tuple[tuple[str, WeightMethod], ...] = (("*", FULL),)
    adapters: AdapterRule | None = None
    base: str = ""
    double: bool = False
    paged: bool = False
    saved_bits: tuple[tuple[str, float], ...] = ()
    forward_only: bool = False
    copies: int = 0
    name: str = "all"
    expressions: tuple[tuple[re.Pattern[str], WeightMethod], ...] = field(
        init=False, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        compiled = tuple((_expression(pattern), method) for pattern, method in self.rules)
        object.__setattr__(self, "expressions", compiled)

    @property
    def everything(self) -> bool:
        """Whether all weights are trained in full, with nothing else asked."""
        return self == ALL_TRAINED or replace(self, name="all") == replace(ALL_TRAINED, name="all")

    def method_of(self, weight: str) -> WeightMethod:
        """How a weight is trained: by the last rule that fits its name."""
        found = FROZEN
        for expression, method in self.expressions:
            if expression.fullmatch(weight):
                found = method
        return found

    def to_json(self) -> dict[str, Any]:
        """The keys of a file of trained parts (:mod:`workloads.trained_file`), as plain data."""
        rules = {
            pattern: {item.name: getattr(method, item.name) for item in fields(method)}
            for pattern, method in self.rules
        }
        adapters = self.adapters
        return {
            "trainable": rules,
            "adapters": None
            if adapters is None
            else {
                "rank": adapters.rank, "alpha": adapters.alpha, "targets": list(adapters.targets),
                "dropout": adapters.dropout,
            },
            "base": self.base, "double": self.double, "paged": self.paged, "saved": dict(self.saved_bits),
            "forward_only": self.forward_only, "copies": self.copies,
        }  # fmt: skip

    def words(self) -> tuple[str, ...]:
        """The parts, a line each."""
        lines = [f"{pattern}: {method.words()}" for pattern, method in self.rules]
        if self.adapters is not None:
            one = self.adapters
            told = f"adapters of rank {one.rank} beside {', '.join(one.targets)}"
            lines.append(f"{told}, dropout {one.dropout}" if one.dropout else told)
        if self.base:
            lines.append(
                f"frozen matrices in {self.base}" + (", scales quantised too" if self.double else "")
            )
        lines += [f"saved by {kind} in {bits:g} bits" for kind, bits in self.saved_bits]
        lines += ["optimizer state paged to host memory"] if self.paged else []
        lines += ["two forward passes, no backward pass"] if self.forward_only else []
        lines += [f"{self.copies} frozen copies of the model beside it"] if self.copies else []
        return tuple(lines)


def _expression(pattern: str) -> re.Pattern[str]:
    if not pattern.startswith("re:"):
        return re.compile(translate(pattern))
    from workloads.transformer.module_names import bounded_expression

    try:
        return bounded_expression(pattern[3:])
    except ValueError as error:
        raise bad_input(f"found {pattern!r}; {error}", path="trainable") from None


ALL_TRAINED: Final = TrainedParts()


def without_match(parts: TrainedParts, weights: Iterable[str]) -> None:
    """Raise ``InputError`` for a rule that fits no weight, with the nearest names."""
    names = list(weights)
    for (pattern, _), (expression, _) in zip(parts.rules, parts.expressions, strict=True):
        if any(expression.fullmatch(name) for name in names):
            continue
        near = nearest(pattern, names)
        shown = ", ".join(list(dict.fromkeys([near, *names] if near else names))[:3])
        raise bad_input(f"pattern {pattern!r} fits no weight; names are such as {shown}", path="--train")
