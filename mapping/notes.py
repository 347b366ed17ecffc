"""A plan's notes as the class that its mapper declares, also when the plan was read from a file."""

from __future__ import annotations

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from hw_configs.problems import InputError, Problem
from simulator.plan import NotesOfFile, Plan, PlanNotes

__all__ = ["typed_notes"]

Notes = TypeVar("Notes", bound=PlanNotes)


def typed_notes(plan: Plan, cls: type[Notes]) -> Notes:
    """The notes of a plan as ``cls``; ``InputError`` by field where a file's notes are of another form."""
    if isinstance(plan.notes, cls):
        return plan.notes
    values = plan.notes.to_json()
    if not isinstance(plan.notes, NotesOfFile):
        raise InputError(
            [Problem(f"found {type(plan.notes).__name__}; expected {cls.__name__}", path="notes")]
        )
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        raise InputError(
            Problem(entry["msg"].lower(), path=".".join(("notes", *map(str, entry["loc"]))))
            for entry in error.errors()
        ) from None
