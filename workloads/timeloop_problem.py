"""Layers from Timeloop's problem files: dimensions, data spaces with projections, an instance with sizes.

Read of the format (timeloop.csail.mit.edu/v4/input-formats/problem, and the one before it with hyphens in its keys):
``shape`` with ``dimensions``, ``coefficients`` (numbers by which a projection multiplies a dimension) and
``data_spaces``; ``instance`` with a size per dimension, the coefficients that differ from their default, and
``densities`` by data space: a share, or ``{distribution, density}``. ``hypergeometric`` (so many of all words, at
random places) is read as words that are zero by themselves with that chance, which large tensors approach;
``fixed_structured`` as N of M along the first axis that both inputs have and M divides; ``banded`` is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from hw_configs.problems import bad_input
from hw_configs.spatial import Operand
from workloads.einsum import Einsum, read_einsum

__all__ = ["is_problem", "read_problem"]

_SHAPE_KEYS: Final = frozenset({"name", "dimensions", "coefficients", "data_spaces", "version"})
_SPACE_KEYS: Final = frozenset({"name", "projection", "read_write"})
_KNOWN: Final = frozenset({"shape", "instance", "version"})
_WEIGHTS: Final = ("weight", "filter", "kernel")


def is_problem(data: Any) -> bool:
    """Whether a file's content is a problem of Timeloop."""
    return isinstance(data, Mapping) and isinstance(data.get("problem"), Mapping)


def read_problem(data: Mapping[str, Any], file: str) -> Einsum:
    """The layer of a problem file's content. Raises ``InputError`` that names the field."""
    problem = _keys(data["problem"], _KNOWN, file, "problem")
    shape = _keys(problem.get("shape"), _SHAPE_KEYS, file, "problem.shape")
    instance = _mapping(problem.get("instance"), file, "problem.instance")
    dims = [str(dim) for dim in _list(shape.get("dimensions"), file, "problem.shape.dimensions")]
    numbers = {
        str(entry["name"]): instance.get(str(entry["name"]), entry.get("default", 1))
        for entry in _list(shape.get("coefficients", []), file, "problem.shape.coefficients")
    }
    said = _mapping(instance.pop("densities", {}), file, "problem.instance.densities")
    strange = sorted(set(instance) - set(dims) - set(numbers))
    if strange:
        raise bad_input(
            "neither a dimension nor a coefficient of the shape",
            file=file,
            path=f"problem.instance.{strange[0]}",
        )
    absent = [dim for dim in dims if dim not in instance]
    if absent:
        raise bad_input(f"{absent[0]} has no size", file=file, path="problem.instance")
    tensors = {}
    density = {}
    spaces = _list(shape.get("data_spaces"), file, "problem.shape.data_spaces")
    for number, operand in enumerate(_operands(spaces, file)):
        path = f"problem.shape.data_spaces[{number}]"
        space = _keys(spaces[number], _SPACE_KEYS, file, path)
        tensors[operand] = [
            [_term(term, dims, numbers, file, f"{path}.projection") for term in _list(axis, file, path)]
            for axis in _list(space.get("projection"), file, f"{path}.projection")
        ]
        name = str(space.get("name"))
        if name in said:
            density[operand] = (said.pop(name), f"problem.instance.densities.{name}")
    if said:
        raise bad_input("is no data space", file=file, path=f"problem.instance.densities.{min(said)}")
    content = {
        "name": str(shape.get("name", "problem")),
        "dims": {d: instance[d] for d in dims},
        "tensors": tensors,
        "density": {
            o: _density(found, (tensors, instance), o, file, path) for o, (found, path) in density.items()
        },
    }
    return read_einsum(content, file)


def _density(
    found: Any, shape: tuple[Mapping[Operand, Any], Mapping[str, Any]], operand: Operand, file: str, path: str
) -> Any:
    """A density as :func:`~workloads.density.read_density` takes it."""
    if not isinstance(found, Mapping):
        return found
    said = _keys(found, frozenset({"distribution", "density"}), file, path)
    share = said.get("density")
    kind = str(said.get("distribution", "hypergeometric")).replace("-", "_")
    if kind in ("hypergeometric", "uniform"):
        return share
    if kind != "fixed_structured" or not isinstance(share, int | float) or not 0 < share <= 1:
        raise bad_input(
            f"found {kind} {share!r:.20}; expected hypergeometric or fixed_structured with a share",
            file=file, path=path,
        )  # fmt: skip
    ratio = Fraction(share).limit_denominator(64)
    tensors, sizes = shape
    other = {dim for axis in tensors["W" if operand == "I" else "I"] for dim, _ in axis}
    both = [
        axis[0][0]
        for axis in tensors[operand]
        if len(axis) == 1 and axis[0][0] in other and sizes[axis[0][0]] % ratio.denominator == 0
    ]
    if not both or abs(float(ratio) - share) > 1e-9:
        raise bad_input(
            f"found {share!r:.20}; expected N of M, M up to 64, along an axis of both inputs",
            file=file,
            path=path,
        )
    return {"n": ratio.numerator, "of": ratio.denominator, "along": both[0]}


def _operands(spaces: list[Any], file: str) -> list[Operand]:
    """Which data space is which: the written one is O; of the others W is called so, or is the second."""
    path = "problem.shape.data_spaces"
    plain = [
        {str(key).replace("-", "_"): value for key, value in _mapping(s, file, path).items()} for s in spaces
    ]
    written = [number for number, space in enumerate(plain) if space.get("read_write")]
    if len(plain) != 3 or len(written) != 1:
        raise bad_input(
            f"found {len(plain)} data spaces, {len(written)} of them read_write; expected two inputs and one output",
            file=file, path=path,
        )  # fmt: skip
    inputs = [number for number in range(3) if number not in written]
    named = [n for n in inputs if str(plain[n].get("name", "")).lower().startswith(_WEIGHTS)]
    weights = named[0] if len(named) == 1 else inputs[1]
    return ["O" if n in written else "W" if n == weights else "I" for n in range(3)]


def _term(found: Any, dims: list[str], numbers: Mapping[str, Any], file: str, path: str) -> list[Any]:
    parts = [str(part) for part in _list(found, file, path)]
    if not 1 <= len(parts) <= 2 or parts[0] not in dims or any(part not in numbers for part in parts[1:]):
        raise bad_input(
            f"found {found!r:.60}; expected [dimension] or [dimension, coefficient]", file=file, path=path
        )
    return [parts[0], numbers[parts[1]] if len(parts) == 2 else 1]


def _keys(found: Any, known: frozenset[str], file: str, path: str) -> dict[str, Any]:
    """A mapping with hyphens in its keys as underscores; unknown keys are refused."""
    plain = {str(key).replace("-", "_"): value for key, value in _mapping(found, file, path).items()}
    unknown = sorted(set(plain) - known)
    if unknown:
        raise bad_input(
            f"is not read; expected {', '.join(sorted(known))}", file=file, path=f"{path}.{unknown[0]}"
        )
    return plain


def _mapping(found: Any, file: str, path: str) -> dict[str, Any]:
    if not isinstance(found, Mapping):
        raise bad_input("expected names with values", file=file, path=path)
    return dict(found)


def _list(found: Any, file: str, path: str) -> list[Any]:
    if not isinstance(found, list):
        raise bad_input("expected a list", file=file, path=path)
    return found
