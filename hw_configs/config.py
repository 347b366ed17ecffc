"""The base of every hardware schema: frozen, strict models whose mistakes come back as lines of a file.

A schema is a pydantic model; its figures are annotated with a quantity type (:data:`Size`,
:data:`Bandwidth`, ...) that reads "80 GiB" into a float of SI units and checks dimension and range.
:func:`parse` turns a :class:`~hw_configs.yaml_file.Document` into such a model, or raises one ``InputError`` that holds all
problems, each with file, line, field, what was found, what is expected and the nearest valid name.
"""

from __future__ import annotations

import math
import types
import typing
from typing import Annotated, Any, Final, TypeVar

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import ErrorDetails

from hw_configs.problems import InputError, Problem, nearest
from hw_configs.units import UnitError, parse_quantity
from hw_configs.yaml_file import Document, Path_

__all__ = [
    "Area",
    "Bandwidth",
    "Config",
    "Count",
    "Current",
    "Efficiency",
    "Energy",
    "EnergyPerByte",
    "EnergyPerOperation",
    "Frequency",
    "Latency",
    "OperationRate",
    "Power",
    "Price",
    "PriceRate",
    "Size",
    "Time",
    "Voltage",
    "parse",
]


class Config(BaseModel):
    """A frozen model that knows all its keys; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, use_attribute_docstrings=True)


def _quantity(dimension: str) -> BeforeValidator:
    def read(value: Any) -> float:
        # A float that did not come from a file is already SI: models can be built from Python as well.
        if isinstance(value, float) and not isinstance(value, bool):
            return value
        try:
            return parse_quantity(value, dimension)
        except UnitError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(read)


def _positive(value: float) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"must be greater than zero, found {value:g}; no machine has it so")
    return value


def _not_negative(value: float) -> float:
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"must not be negative, found {value:g}; no machine has it so")
    return value


_POSITIVE: Final = pydantic.AfterValidator(_positive)
_NOT_NEGATIVE: Final = pydantic.AfterValidator(_not_negative)

Size = Annotated[float, _quantity("size"), _POSITIVE]
Bandwidth = Annotated[float, _quantity("bandwidth"), _POSITIVE]
Time = Annotated[float, _quantity("time"), _POSITIVE]
Latency = Annotated[float, _quantity("time"), _NOT_NEGATIVE]
Frequency = Annotated[float, _quantity("frequency"), _POSITIVE]
Voltage = Annotated[float, _quantity("voltage"), _POSITIVE]
Current = Annotated[float, _quantity("current"), _NOT_NEGATIVE]
Power = Annotated[float, _quantity("power"), _NOT_NEGATIVE]
Energy = Annotated[float, _quantity("energy"), _NOT_NEGATIVE]
EnergyPerByte = Annotated[float, _quantity("energy_per_byte"), _NOT_NEGATIVE]
EnergyPerOperation = Annotated[float, _quantity("energy_per_operation"), _NOT_NEGATIVE]
OperationRate = Annotated[float, _quantity("operation_rate"), _POSITIVE]
Area = Annotated[float, _quantity("area"), _POSITIVE]
Price = Annotated[float, _quantity("price"), _NOT_NEGATIVE]
PriceRate = Annotated[float, _quantity("price_rate"), _NOT_NEGATIVE]
Count = Annotated[int, Field(gt=0, le=2**40)]
Efficiency = Annotated[float, Field(gt=0, le=1)]

Model = TypeVar("Model", bound=BaseModel)


def parse(schema: type[Model], document: Document, at: Path_ = ()) -> Model:
    """The model of the data at a path of a document; all its problems at once as an ``InputError``."""
    data = document.data
    for part in at:
        data = data[part]
    try:
        return schema.model_validate(_with_scalars_as_text(data))
    except pydantic.ValidationError as error:
        raise InputError([_problem(detail, schema, document, at) for detail in error.errors()]) from None


def _with_scalars_as_text(data: Any) -> Any:
    """Bare YAML floats become text, so that a quantity without a unit is refused rather than taken as SI."""
    if isinstance(data, dict):
        return {key: _with_scalars_as_text(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_with_scalars_as_text(value) for value in data]
    return repr(data) if isinstance(data, float) else data


def _problem(detail: ErrorDetails, schema: type[BaseModel], document: Document, at: Path_) -> Problem:
    path = (*at, *_without_union_tags(detail["loc"], document, at))
    kind, suggestion = detail["type"], None
    if kind == "extra_forbidden":
        known = _fields_at(schema, detail["loc"][:-1])
        message = f"unknown key {str(path[-1])!r}; known: {', '.join(known)}"
        suggestion = nearest(str(path[-1]), known)
    elif kind == "missing":
        message = f"missing key {str(path[-1])!r}"
    elif kind in ("value_error", "assertion_error"):
        message = str(detail["ctx"]["error"]) if "ctx" in detail else detail["msg"]
    else:
        message = f"found {_shown(detail['input'])}; {detail['msg'][0].lower()}{detail['msg'][1:]}"
        if kind in ("literal_error", "enum", "union_tag_invalid"):
            expected = detail.get("ctx", {})
            names = str(expected.get("expected") or expected.get("expected_tags") or "")
            valid = [name.strip(" '\"") for name in names.replace(" or ", ", ").split(",")]
            suggestion = nearest(str(expected.get("tag") or detail["input"]), valid)
    dotted = ".".join(str(part) for part in path)
    return Problem(message, document.file, document.line_of(path), dotted or None, suggestion)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _without_union_tags(location: tuple[int | str, ...], document: Document, at: Path_) -> Path_:
    """Pydantic puts the tag of a discriminated union into the path; the file has no such key."""
    data: Any = document.data
    path: list[int | str] = []
    for part in at:
        data = data[part]
    for index, part in enumerate(location):
        if isinstance(data, dict) and part in data:
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):  # noqa: SIM114
            data = data[part]
        elif index < len(location) - 1:
            continue
        path.append(part)
    return tuple(path)


def _fields_at(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that are valid at a location, walking through unions and containers."""
    models: list[type[BaseModel]] = [schema]
    for part in location:
        following: list[type[BaseModel]] = []
        for model in models:
            if isinstance(part, str) and part in model.model_fields:
                following += _models_in(model.model_fields[part].annotation)
        narrowed = [m for m in models if _tag_of(m) == part]
        models = following or narrowed or models
    return sorted({name for model in models for name in model.model_fields})


def _tag_of(model: type[BaseModel]) -> str | None:
    kind = model.model_fields.get("kind")
    choices = typing.get_args(kind.annotation) if kind is not None else ()
    return choices[0] if len(choices) == 1 else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, types.GenericAlias) or typing.get_args(annotation):
        return [model for inner in typing.get_args(annotation) for model in _models_in(inner)]
    return []
