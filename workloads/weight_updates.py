"""The optimizer's part of a training step: what becomes of one weight's gradient, AdamW's states, and the update."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Final, Protocol

from workloads.graph import Operator, Place, Role, Tensor
from workloads.operators import Elementwise, Optimizer, Product, Work
from workloads.operators.traffic import NO_PARTS
from workloads.step_types import StepTypes
from workloads.trained_parts import WeightMethod
from workloads.weight_methods import Shrunk, shrunk, state_kinds, state_tensor, trained_elements

__all__ = ["ADAM_FLOPS", "Trained", "update_weights"]

ADAM_FLOPS: Final = 14
"""Operations per parameter: two moments, their corrections, a root, a division, decay and the update."""


@dataclass(frozen=True)
class Trained:
    """A weight, how it is trained, its whole gradient and the forward operator that reads it first."""

    weight: Tensor
    method: WeightMethod
    gradient: str
    reader: Operator


class UpdateWriter(Protocol):
    """What a step under construction offers the optimizer."""

    tensors: dict[str, Tensor]

    def new(self, name: str, shape: tuple[int, ...], dtype: str, role: Role) -> str:
        """A new tensor under a free name."""
        ...

    def add(
        self, name: str, work: Work, inputs: Iterable[str], outputs: Iterable[str], dtype: str, place: Place,
        updates: tuple[str, ...] = (), touched: Mapping[str, int] = NO_PARTS,
    ) -> None:  # fmt: skip
        """Append an operator."""
        ...


def update_weights(w: UpdateWriter, one: Trained, types: StepTypes, *, forward_only: bool = False) -> None:
    """AdamW for one weight, with what its method makes of the gradient first."""
    weight, method, name = one.weight, one.method, one.weight.name
    place = replace(one.reader.place, training_pass="optimizer", microbatch=None)
    whole = w.tensors[one.gradient]
    small = None if forward_only else shrunk(method, weight.shape)
    inputs: tuple[str, ...] = (one.gradient,)
    updated = name
    shape = weight.shape if method.method != "columns" or len(weight.shape) != 2 else whole.shape
    if small is not None:
        reduced = _reduced(w, one, small, place)
        # Unless a layer is updated at once, its whole gradient waits for the optimizer.
        waits = method.method == "low-rank" and not method.layerwise
        inputs, shape = ((reduced, one.gradient) if waits else (reduced,)), small.shape
        if method.method != "low-rank":
            updated = w.new(f"{name}.{method.method}", small.shape, whole.dtype, Role.WEIGHT)
    count = trained_elements(method, weight.shape)
    states = []
    for kind in state_kinds(weight, types):
        sides = weight.shape if kind == "master" and method.method == "low-rank" else shape
        state = state_tensor(f"{name}.{kind}", kind, sides, types, weight.dtype)
        w.tensors[state.name] = state
        states.append(state.name)
    if small is not None and small.held:
        states.append(w.new(f"{name}.projection", (small.held,), whole.dtype, Role.OPTIMIZER_STATE))
    read = {state: prod(w.tensors[state].shape) for state in states}
    if "master" not in state_kinds(weight, types):
        # A weight without a master copy is read too.
        read[updated] = min(count, prod(w.tensors[updated].shape))
    if len(inputs) > 1:
        read[one.gradient] = 0
    work = Optimizer(parameters=count, states=len(states), flops_per_parameter=float(ADAM_FLOPS))
    w.add(f"optimizer.{name}", work, inputs, (), "fp32", place, (updated, *states), read)


def _reduced(w: UpdateWriter, one: Trained, small: Shrunk, place: Place) -> str:
    """The part of a gradient that is kept: projected, or summed by group."""
    method, name = one.method, one.weight.name
    whole = w.tensors[one.gradient]
    out = w.new(f"{name}.{method.method}.grad", small.shape, whole.dtype, Role.GRADIENT)
    n, k = one.weight.shape
    work: Work = Elementwise(m=1, n=n * k, flops_per_element=small.flops / (n * k), function="reduce")
    if method.method == "low-rank":
        work = Product(m=method.rank, n=max(n, k), k=min(n, k))
    # Projected at once where layers are updated one by one, and by the optimizer otherwise.
    late = method.method == "low-rank" and not method.layerwise
    at = place if late else replace(place, training_pass="backward")
    w.add(f"{name}.{method.method}", work, (one.gradient,), (out,), "fp32" if late else one.reader.dtype, at)
    return out
