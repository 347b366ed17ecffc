"""Which outputs of an operator may be written over the bytes of one of its inputs.

A kernel that reads element i of its operands before it writes element i of its result needs no bytes of its own for
the result, once nobody else wants the operand. A graph file declares such pairs per operator (``in_place``); of the
kinds that are element-wise by their nature the pairs follow from the tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Final

from workloads.graph import PERSISTENT_ROLES, Operator, Tensor
from workloads.operators import Activation, Elementwise

__all__ = ["element_wise_pairs", "may_overwrite", "overwritable", "pair_problems"]

ELEMENT_WISE: Final = (Activation, Elementwise)
"""Kinds whose result at one place depends on the operands at that place alone."""


def element_wise_pairs(operator: Operator, tensors: Mapping[str, Tensor]) -> Mapping[str, tuple[str, ...]]:
    """By kind: output to the inputs that it may take the bytes of; those of as many elements and bytes.

    Only operators of :data:`ELEMENT_WISE` kinds with one output and nothing updated have such pairs: a gated
    activation has none, because its input is twice as wide.
    """
    if not isinstance(operator.work, ELEMENT_WISE) or len(operator.outputs) != 1 or operator.updates:
        return {}
    made = tensors[operator.outputs[0]]
    found = tuple(
        name
        for name in dict.fromkeys(operator.inputs)
        if prod(tensors[name].shape) == prod(made.shape)
        and tensors[name].size_bytes == made.size_bytes
        and tensors[name].role not in PERSISTENT_ROLES
    )
    return {made.name: found} if found else {}


def overwritable(
    operator: Operator, tensors: Mapping[str, Tensor], by_kind: bool
) -> Mapping[str, tuple[str, ...]]:
    """Output to inputs: what the operator declares, else with ``by_kind`` what its kind allows.

    A rewritten operator may still declare tensors that it no longer has; those say nothing.
    """
    if operator.in_place:
        stated = {
            output: tuple(name for name in inputs if name in operator.inputs)
            for output, inputs in operator.in_place
            if output in operator.outputs
        }
        return {output: inputs for output, inputs in stated.items() if inputs}
    return element_wise_pairs(operator, tensors) if by_kind else {}


def may_overwrite(operator: Operator, tensors: Mapping[str, Tensor], output: str, name: str) -> bool:
    """Whether an output may take the bytes of an input, declared or by kind."""
    return name in overwritable(operator, tensors, by_kind=True).get(output, ())


def pair_problems(operator: Operator, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """What is wrong with the declared pairs of an operator whose tensors are known."""
    taken: dict[str, str] = {}
    for output, inputs in operator.in_place:
        if output not in operator.outputs:
            yield f"in_place names {output!r}, which is none of its outputs"
            continue
        for name in inputs:
            if name not in operator.inputs:
                yield f"in_place names {name!r}, which is none of its inputs"
            elif tensors[name].role in PERSISTENT_ROLES:
                yield f"in_place would overwrite {name!r}, a {tensors[name].role}; list it under updates instead"
            elif tensors[output].size_bytes > tensors[name].size_bytes:
                yield (
                    f"in_place puts {output!r} ({tensors[output].size_bytes} bytes) over {name!r}, "
                    f"which has only {tensors[name].size_bytes}"
                )
            elif name in taken:
                yield f"in_place puts both {taken[name]!r} and {output!r} over {name!r}"
            else:
                taken[name] = output
