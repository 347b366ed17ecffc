"""A product of two sparse matrices on a machine of many threads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.typed_fields import wrong_types
from offchip.keywords import from_keywords

if TYPE_CHECKING:
    from hw_configs.many_threads import ManyThreads
    from simulator.threads.result import ProductResult
    from workloads.sparse_matrix import SparseMatrix

__all__ = ["ProductTraceOptions", "trace_product"]


@dataclass(frozen=True, slots=True)
class ProductTraceOptions:
    """How a product is made. ``right``: the other matrix, the same one where it is None.

    ``way``: row-hash, outer or inner. ``load``: share of a hash table that may be filled. ``hashing``: low or mixed.
    ``tasks``: a row or a stored value. ``dealt``: dynamic (a free thread takes the next task) or static.
    """

    right: str | None = None
    way: str = "row-hash"
    load: float = 0.5
    hashing: str = "mixed"
    tasks: str = "value"
    dealt: str = "dynamic"

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        for name, known in (
            ("hashing", ("low", "mixed")),
            ("tasks", ("row", "value")),
            ("dealt", ("dynamic", "static")),
        ):
            value = getattr(self, name)
            if not problems and value not in known:
                problems.append(
                    Problem(f"found {value!r}; known: {', '.join(known)}", path=f"--{name}",
                            suggestion=nearest(value, known))
                )  # fmt: skip
        if problems:
            raise InputError(problems)


class ProductTraceChoices(TypedDict, total=False):
    """The fields of :class:`ProductTraceOptions`, as keywords."""

    right: str | None
    way: str
    load: float
    hashing: str
    tasks: str
    dealt: str


def trace_product(left: str | Path, hw: str | Path, **options: Unpack[ProductTraceChoices]) -> ProductResult:
    """Multiply two sparse matrices on a device of kind ``threads``.

    ``left`` is a graph as ``trace_gather`` takes it (``rmat:NODES:EDGES[:SEED]``, an edge list, ...): its edges are the
    places of values, parallel ones once. Options are the fields of :class:`ProductTraceOptions`. Raises ``InputError``
    for bad input and where a row does not fit the scratchpad.

    >>> result = trace_product("rmat:256:1024", "piuma-like", right="rmat:256:1024:2")
    >>> result.multiplications <= result.probes
    True
    """
    from simulator.threads.engine import run_threads
    from simulator.threads.result import product_result
    from simulator.threads.sparse_product import ProductOptions, product_phases

    chosen = from_keywords(ProductTraceOptions, options)
    asked = ProductOptions(
        chosen.way, chosen.load, chosen.hashing, chosen.tasks, chosen.dealt == "dynamic",  # type: ignore[arg-type]
    )  # fmt: skip
    machine = _machine(str(hw))
    one = _matrix(str(left))
    other = one if chosen.right is None else _matrix(chosen.right)
    made = product_phases(one, other, machine, asked)
    sizes = (one.rows, one.nonzeros, other.nonzeros)
    return product_result(chosen.way, machine.name, sizes, made, run_threads(machine, made.phases))


def _machine(hw: str) -> ManyThreads:
    from hw_configs.library import load_device
    from hw_configs.many_threads import ManyThreads

    device = load_device(hw)
    if not isinstance(device, ManyThreads):
        raise bad_input(
            f"{device.name!r} is a {device.kind}; expected a device of kind 'threads'", path="--hw"
        )
    return device


def _matrix(text: str) -> SparseMatrix:
    from offchip.tracing.gather import graph_of
    from offchip.tracing.gather_spec import GatherSpec
    from workloads.sparse_matrix import from_adjacency

    return from_adjacency(graph_of(GatherSpec(graph=text))[0])
