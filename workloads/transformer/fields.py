"""Fields of a config file, read one by one, with everything that is wrong collected on the way.

A reader asks for a field by the names it may have and says what it expects. A value that is missing or wrong
becomes a :class:`Problem` and the reader goes on with a harmless stand-in, so that a user sees all problems
of a file at once. :meth:`Fields.finish` raises them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hw_configs.problems import InputError, Problem, nearest

__all__ = ["REQUIRED", "Fields"]

REQUIRED: Final = object()
"""The default of a field that must be there."""

ESSENTIAL: Final = frozenset(
    {
        "d_model", "embed_dim", "hidden_size", "intermediate_size", "n_embd", "n_head", "n_heads", "n_layer",
        "n_layers", "num_attention_heads", "num_heads", "num_hidden_layers", "num_layers", "vocab_size",
    }
)  # fmt: skip
"""Sizes that a file must state: a model without them is not the one that its family's defaults describe."""


@dataclass
class Fields:
    """The fields of one (possibly nested) mapping; ``path`` is where it stands in the file.

    ``defaults`` hold where a key is not there at all (a null is a value of its own: the family's rule decides);
    those of :data:`ESSENTIAL` keys only where the section is ``partial``, written as a difference from its family's
    defaults. ``asked`` collects the names that a reader has asked for, so that what nobody read can be told.
    """

    values: Mapping[str, Any]
    file: str | None = None
    line_of: Callable[[tuple[str | int, ...]], int | None] = lambda _: None
    path: tuple[str, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    partial: bool = False
    asked: set[str] = field(default_factory=set)

    def value(self, name: str) -> Any:
        """The bare value of a field or of its default; None when there is neither."""
        self.asked.add(name)
        return self.values.get(name) if name in self.values else self.defaults.get(name)

    def has(self, name: str) -> bool:
        """Whether the field is there, or its default, and not null."""
        return self.value(name) is not None

    def says_null(self, name: str) -> bool:
        """Whether the file has the field and its value is null."""
        self.asked.add(name)
        return name in self.values and self.values[name] is None

    def section(self, name: str) -> Fields | None:
        """The fields of a nested mapping, sharing this one's problems; None when it is not there."""
        self.asked.add(name)
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.problem(name, f"found {_shown(value)}; expected a mapping")
            return None
        return Fields(value, self.file, self.line_of, (*self.path, name), self.problems)

    def integer(self, *names: str, default: Any = REQUIRED, least: int = 1, most: int = 2**24) -> int:
        """A whole number in a range, under the first of ``names`` that is there."""
        wanted = f"a whole number from {least} to {most}"
        name, value = self._find(names, default, wanted)
        if name is None:
            return least if value is REQUIRED else value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.problem(name, f"found {_shown(value)}; expected {wanted}")
            return least if default is REQUIRED else default
        return value

    def number(self, *names: str, default: Any = REQUIRED, least: float = 0, most: float = 1e9) -> float:
        """A number in a range."""
        wanted = f"a number from {least:g} to {most:g}"
        name, value = self._find(names, default, wanted)
        if name is None:
            return least if value is REQUIRED else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            self.problem(name, f"found {_shown(value)}; expected {wanted}")
            return least if default is REQUIRED else default
        return value

    def flag(self, *names: str, default: Any = REQUIRED) -> bool:
        """True or false; a null is false, as it is where Python asks."""
        if any(map(self.says_null, names)) and not any(self.values.get(name) is not None for name in names):
            return False
        name, value = self._find(names, default, "true or false")
        if name is None:
            return value is not REQUIRED and bool(value)
        if not isinstance(value, bool):
            self.problem(name, f"found {_shown(value)}; expected true or false")
            return default is not REQUIRED and bool(default)
        return value

    def word(self, *names: str, default: Any = REQUIRED, known: Iterable[str] | None = None) -> str:
        """A string, one of ``known`` if given."""
        choices = list(known) if known is not None else None
        wanted = f"one of {', '.join(choices)}" if choices else "a string"
        name, value = self._find(names, default, wanted)
        if name is None:
            return "" if value is REQUIRED else value
        if not isinstance(value, str) or (choices is not None and value not in choices):
            suggestion = nearest(value, choices) if choices and isinstance(value, str) else None
            self.problem(name, f"found {_shown(value)}; expected {wanted}", suggestion)
            return "" if default is REQUIRED else default
        return value

    def words(self, name: str, length: int | None = None, known: Iterable[str] = ()) -> list[str] | None:
        """A list of strings, of a given length and from ``known`` if given; None when it is not there."""
        choices = list(known)
        items = self._items(name, length, str, "strings")
        wrong = [item for item in items or [] if choices and item not in choices]
        if wrong:
            self.problem(
                name, f"found {wrong[0]!r}; expected {', '.join(choices)}", nearest(wrong[0], choices)
            )
            return None
        return items

    def integers(
        self, name: str, length: int | None = None, least: int = 0, most: int = 2**24
    ) -> list[int] | None:
        """A list of whole numbers in a range; None when it is not there."""
        items = self._items(name, length, int, "whole numbers")
        wrong = [item for item in items or [] if not least <= item <= most]
        if wrong:
            self.problem(name, f"found {wrong[0]}; expected whole numbers from {least} to {most}")
            return None
        return items

    def problem(
        self, name: str, message: str, suggestion: str | None = None, known: Iterable[str] = ()
    ) -> None:
        """Note that something is wrong with a field."""
        where = (*self.path, name) if name else self.path
        path = ".".join(where) or None
        self.problems.append(Problem(message, self.file, self.line_of(where), path, suggestion, tuple(known)))

    def refusal(
        self, name: str, message: str, suggestion: str | None = None, known: Iterable[str] = ()
    ) -> InputError:
        """An error to raise at once, where nothing more can be read: this problem and those before it."""
        self.problem(name, message, suggestion, known)
        return InputError(dict.fromkeys(self.problems))

    def sound(self, *names: str) -> bool:
        """Whether nothing is wrong with these fields so far, so that it makes sense to compare them."""
        paths = {".".join((*self.path, name)) for name in names}
        return not any(problem.path in paths for problem in self.problems)

    def finish(self) -> None:
        """Raise everything noted so far, if there is anything."""
        if self.problems:
            raise InputError(dict.fromkeys(self.problems))

    def _find(self, names: tuple[str, ...], default: Any, wanted: str) -> tuple[str | None, Any]:
        self.asked.update(names)
        for name in names:
            if self.values.get(name) is not None:
                return name, self.values[name]
        if not any(name in self.values for name in names):
            for name in names:
                if self.defaults.get(name) is not None and (self.partial or name not in ESSENTIAL):
                    return name, self.defaults[name]
        if default is REQUIRED:
            shown = " or ".join(names)
            # A file has many keys of like words (num_attention_heads, attention_bias): only a slip is a hint.
            near = nearest(names[0], [key for key in self.values if key not in names], cutoff=0.85)
            self.problem(names[0], f"missing field {shown}; expected {wanted}", near)
        return None, default

    def _items(self, name: str, length: int | None, kind: type, noun: str) -> list[Any] | None:
        self.asked.add(name)
        value = self.values.get(name)
        if value is None:
            return None
        ok = isinstance(value, list) and all(type(item) is kind for item in value)
        if not ok:
            self.problem(name, f"found {_shown(value)}; expected a list of {noun}")
            return None
        if length is not None and len(value) != length:
            self.problem(name, f"found {len(value)} entries; expected {length}, one per layer")
            return None
        return list(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
