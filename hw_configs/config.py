"""The base of every hardware schema: frozen, strict models whose mistakes come back as lines of a file.

A schema is a pydantic model; its figures are annotated with a quantity type (:data:`Size`,
:data:`Bandwidth`, ...) that reads "80 GiB" into a float of SI units and checks dimension and range.
:func:`parse` turns a :class:`~hw_configs.yaml_file.Document` into such a model, or raises one ``InputError``
that holds all problems, each with file, line, field, what was found, what is expected and the nearest valid
name.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from hw_configs.problems import InputError, Problem, nearest
from hw_configs.units import DIMENSIONS, UnitError, format_quantity, parse_quantity
from hw_configs.yaml_file import Document, Path_

Fault = tuple[Path_, str]
"""The path of a field inside its model, and what is wrong with it."""

__all__ = [
    "Area",
    "Bandwidth",
    "BrokenReferenceError",
    "Config",
    "Count",
    "Current",
    "Efficiency",
    "Energy",
    "EnergyPerByte",
    "EnergyPerOperation",
    "Fault",
    "Frequency",
    "ImpossibleError",
    "Latency",
    "OperationRate",
    "Ports",
    "Power",
    "Price",
    "PriceRate",
    "Quantity",
    "RateType",
    "Size",
    "SizeOrZero",
    "Time",
    "Voltage",
    "field_quantity",
    "parse",
    "quantity_of",
    "refuse",
]


class Config(BaseModel):
    """A frozen model that knows all its keys; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, use_attribute_docstrings=True)


@dataclass(frozen=True, slots=True)
class Quantity:
    """Reads a figure with its unit and refuses what no machine has; stands in a field's annotation."""

    dimension: str
    may_be_zero: bool = False

    def __call__(self, value: Any) -> float:
        """The SI value of a text from a file; a float is SI already (a model built in Python)."""
        if isinstance(value, float):
            number, shown = value, f"'{format_quantity(value, self.dimension)}'"
        else:
            try:
                number, shown = parse_quantity(value, self.dimension), repr(value)
            except UnitError as error:
                raise ValueError(str(error)) from None
        if not math.isfinite(number) or number < 0 or (number == 0 and not self.may_be_zero):
            bound = "at least zero" if self.may_be_zero else "greater than zero"
            raise ValueError(f"found {shown}; a {self.dimension.replace('_', ' ')} must be {bound}")
        return number


def _not_a_truth_value(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"found {str(value).lower()}; expected a whole number")
    return value


_WHOLE: Final = BeforeValidator(_not_a_truth_value)

Size = Annotated[float, BeforeValidator(Quantity("size"))]
SizeOrZero = Annotated[float, BeforeValidator(Quantity("size", may_be_zero=True))]
Bandwidth = Annotated[float, BeforeValidator(Quantity("bandwidth"))]
Time = Annotated[float, BeforeValidator(Quantity("time"))]
Latency = Annotated[float, BeforeValidator(Quantity("time", may_be_zero=True))]
Frequency = Annotated[float, BeforeValidator(Quantity("frequency"))]
Voltage = Annotated[float, BeforeValidator(Quantity("voltage"))]
Current = Annotated[float, BeforeValidator(Quantity("current", may_be_zero=True))]
Power = Annotated[float, BeforeValidator(Quantity("power", may_be_zero=True))]
Energy = Annotated[float, BeforeValidator(Quantity("energy", may_be_zero=True))]
EnergyPerByte = Annotated[float, BeforeValidator(Quantity("energy_per_byte", may_be_zero=True))]
EnergyPerOperation = Annotated[float, BeforeValidator(Quantity("energy_per_operation", may_be_zero=True))]
OperationRate = Annotated[float, BeforeValidator(Quantity("operation_rate"))]
Area = Annotated[float, BeforeValidator(Quantity("area"))]
Price = Annotated[float, BeforeValidator(Quantity("price", may_be_zero=True))]
PriceRate = Annotated[float, BeforeValidator(Quantity("price_rate", may_be_zero=True))]
Count = Annotated[int, _WHOLE, Field(gt=0, le=2**40)]
Efficiency = Annotated[float, Field(gt=0, le=1)]
Ports = Literal[1, 2]
"""1: bytes read and bytes written share one data path; 2: each direction has its own."""
RateType = Literal[
    "fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "fp4", "mxfp4", "int64", "int32", "int16", "int8", "int4",
    "bool",
]  # fmt: skip
"""Element types that a device may have a rate of."""


class ImpossibleError(ValueError):
    """What a rule across fields refuses: each fault with the path of its field inside the model."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(message for _, message in self.faults))


class BrokenReferenceError(ValueError):
    """A field names another file, and that is wrong or missing: its problems, for a validator to raise."""

    def __init__(self, error: InputError) -> None:
        self.problems = error.problems
        super().__init__(str(error))


def refuse(*faults: Fault | None) -> None:
    """Raise :class:`ImpossibleError` with the faults that are not None; called by a model's validator."""
    found = [fault for fault in faults if fault is not None]
    if found:
        raise ImpossibleError(found)


Model = TypeVar("Model", bound=BaseModel)


def parse(schema: type[Model], document: Document, at: Path_ = ()) -> Model:
    """The model of the data at a path of a document; all its problems at once as an ``InputError``.

    Fields that name another file find it beside the document first: validators get its ``folder`` as context.
    """
    data = document.data
    for part in at:
        data = data[part]
    try:
        return schema.model_validate(
            _with_scalars_as_text(data), context={"folder": Path(document.file).parent}
        )
    except pydantic.ValidationError as error:
        # A default that follows from other figures is not worked out when one of them is wrong; that is no fault.
        faults = [detail for detail in error.errors() if detail["type"] != "default_factory_not_called"]
        problems = [p for detail in faults for p in _problems(detail, schema, document, at)]
        raise InputError(sorted(problems, key=lambda problem: problem.line or 0)) from None


def _with_scalars_as_text(data: Any) -> Any:
    """Bare YAML floats become text, so that a quantity without a unit is refused rather than taken as SI."""
    if isinstance(data, dict):
        return {key: _with_scalars_as_text(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_with_scalars_as_text(value) for value in data]
    return repr(data) if isinstance(data, float) else data


def _problems(
    detail: ErrorDetails, schema: type[BaseModel], document: Document, at: Path_
) -> Iterator[Problem]:
    # Pydantic marks a wrong key of a table by a last part that the file doesn't have.
    location = tuple(part for part in detail["loc"] if part != "[key]")
    path = (*at, *_without_union_tags(location, document, at))
    fault = detail.get("ctx", {}).get("error")
    if isinstance(fault, ImpossibleError):
        for inner, message in fault.faults:
            whole = (*path, *inner)
            yield Problem(message, document.file, document.line_of(whole), _dotted(whole))
        return
    if isinstance(fault, BrokenReferenceError):
        for problem in fault.problems:
            if problem.file is not None:
                yield problem
            else:
                line = document.line_of(path)
                yield Problem(problem.message, document.file, line, _dotted(path), problem.suggestion)
        return
    message, suggestion = _message(detail, path, schema)
    yield Problem(message, document.file, document.line_of(path), _dotted(path), suggestion)


def _dotted(path: Path_) -> str | None:
    return ".".join(str(part) for part in path) or None


def _message(detail: ErrorDetails, path: Path_, schema: type[BaseModel]) -> tuple[str, str | None]:
    """What is wrong in words, and the nearest valid name."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        known = _fields_at(schema, detail["loc"][:-1])
        key = str(path[-1])
        return f"unknown key {key!r}; known: {', '.join(known)}", nearest(key, known)
    if kind == "missing":
        return f"missing key {str(path[-1])!r}{_expected(schema, detail['loc'])}", None
    if kind in ("value_error", "assertion_error"):
        return str(context["error"]) if "error" in context else detail["msg"], None
    if kind == "union_tag_not_found":
        return f"missing key {str(context['discriminator']).strip(chr(39))!r}", None
    if kind in ("literal_error", "enum", "union_tag_invalid"):
        names = str(context.get("expected") or context.get("expected_tags") or "")
        valid = [name.strip(" '\"") for name in names.replace(" or ", ", ").split(",")]
        found = context.get("tag", detail["input"])
        return f"found {_shown(found)}; known: {', '.join(valid)}", nearest(str(found), valid)
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"found {_shown(detail['input'])}; expected keys with values", None
    if kind.startswith(("int_", "float_")):
        whole = "whole number" if kind.startswith("int_") else "number"
        return f"found {_shown(detail['input'])}; expected a {whole}", None
    return f"found {_shown(detail['input'])}; {detail['msg'][0].lower()}{detail['msg'][1:]}", None


def quantity_of(annotation: Any) -> Quantity | None:
    """The quantity inside an annotation: of a figure, an optional figure, or a table of figures."""
    if isinstance(annotation, BeforeValidator) and isinstance(annotation.func, Quantity):
        return annotation.func
    found = (quantity_of(inner) for inner in typing.get_args(annotation))
    return next((quantity for quantity in found if quantity is not None), None)


def field_quantity(field: FieldInfo) -> Quantity | None:
    """The quantity that a model's field holds, or None when it holds something else."""
    found = (quantity_of(item) for item in (*field.metadata, field.annotation))
    return next((quantity for quantity in found if quantity is not None), None)


def _expected(schema: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """What a missing field would hold, for figures: the dimension and an example."""
    for model in _models_at(schema, location[:-1]):
        field = model.model_fields.get(str(location[-1]))
        quantity = field_quantity(field) if field is not None else None
        if quantity is not None:
            dimension = DIMENSIONS[quantity.dimension]
            name = dimension.name.replace("_", " ")
            return f"; expected a {name} with its unit, such as '{dimension.example}'"
    return ""


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
        in_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if in_list or (isinstance(data, dict) and part in data):
            data = data[part]
        elif index < len(location) - 1 or (isinstance(data, dict) and part == data.get("kind")):
            continue
        path.append(part)
    return tuple(path)


def _fields_at(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that are valid at a location."""
    return sorted({name for model in _models_at(schema, location) for name in model.model_fields})


def _models_at(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[type[BaseModel]]:
    """The models that may stand at a location, walking through unions and containers."""
    models: list[type[BaseModel]] = [schema]
    for part in location:
        following: list[type[BaseModel]] = []
        for model in models:
            if isinstance(part, str) and part in model.model_fields:
                following += _models_in(model.model_fields[part].annotation)
        narrowed = [m for m in models if _tag_of(m) == part]
        models = following or narrowed or models
    return models


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
