"""Loops of ONNX models: Loop and Scan, whose body runs as often as the file says.

The body is walked once, over placeholders for what an iteration takes from the one before. Its operators are
then written out for every iteration, each on the values of the last: weights are one, what is made is made
anew. A loop of more than :data:`MAX_WRITTEN` operators is written once, every operator with the work and the
bytes of all iterations, and a note says so; so does one for a count that depends on the data, which is taken as
one. The shapes of carried values are taken to stay.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from workloads.graph import Operator
from workloads.onnx_node import Cost, Node, Value, over_rows
from workloads.onnx_walk import Scope, Walk
from workloads.operators import Copy

if TYPE_CHECKING:
    import onnx

__all__ = ["repeated"]

MAX_WRITTEN: Final = 50_000
"""Operators that one loop may write out."""


@dataclass(frozen=True, slots=True)
class _Iterations:
    """How a body is run: ``chains`` one beside the other, each of ``length`` iterations; None where not known.

    ``carried`` and ``sliced`` are the outer values; an iteration sees ``inner_carried`` and ``inner_sliced`` of them.
    ``stacked`` gives the shape of all iterations' results from that of one.
    """

    chains: int
    length: int | None
    skipped_inputs: int
    skipped_outputs: int
    carried: Sequence[Value | None]
    inner_carried: Sequence[tuple[int, ...]]
    sliced: Sequence[Value | None]
    inner_sliced: Sequence[tuple[int, ...]]
    out_axes: Sequence[int]
    batched: bool = False

    @property
    def times(self) -> int | None:
        """Runs of the body."""
        return None if self.length is None else self.chains * self.length


def repeated(walk: Walk, node: onnx.NodeProto, scope: Scope, name: str, depth: int) -> None:
    """Walk a Loop or Scan: add its operators and bind its outputs in ``scope``."""
    body = next(item.g for item in node.attribute if item.name == "body")
    inputs = [scope[item] if item else None for item in node.input]
    if node.op_type == "Loop":
        plan = _of_loop(inputs)
    else:
        plan = _of_first_scan(node, inputs) if walk.opset < 9 else _of_scan(node, inputs)
    _Repeated(walk, node, scope, name, depth, body, plan).run()


def _of_loop(inputs: Sequence[Value | None]) -> _Iterations:
    carried = inputs[2:]
    return _Iterations(
        1, _trips(inputs[0]), 2, 1, carried, [v.shape if v else () for v in carried], [], [], []
    )


def _of_scan(node: onnx.NodeProto, inputs: Sequence[Value | None]) -> _Iterations:
    count = next(item.i for item in node.attribute if item.name == "num_scan_inputs")
    carried, sliced = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
    axes = _axes(node, "scan_input_axes", [len(v.shape) if v else 1 for v in sliced])
    sides = [v.shape[axis] for v, axis in zip(sliced, axes, strict=True) if v is not None and v.shape]
    inner = [_without(v.shape, axis) if v else () for v, axis in zip(sliced, axes, strict=True)]
    outs = len(node.output) - len(carried)
    out_axes = next(
        (list(item.ints) for item in node.attribute if item.name == "scan_output_axes"), [0] * outs
    )
    return _Iterations(
        1, sides[0] if sides else None, 0, 0, carried, [v.shape if v else () for v in carried], sliced, inner, out_axes
    )  # fmt: skip


def _of_first_scan(node: onnx.NodeProto, inputs: Sequence[Value | None]) -> _Iterations:
    """Scan of opset 8: lengths of sequences, then values with the batch in front and slices along the second axis."""
    count = next(item.i for item in node.attribute if item.name == "num_scan_inputs")
    rest = inputs[1:]
    carried, sliced = rest[: len(rest) - count], rest[len(rest) - count :]
    shapes = [v.shape for v in sliced if v is not None and len(v.shape) >= 2]
    chains = shapes[0][0] if shapes else next((v.shape[0] for v in carried if v is not None and v.shape), 1)
    return _Iterations(
        chains, shapes[0][1] if shapes else None, 0, 0, carried, [v.shape[1:] if v else () for v in carried], sliced,
        [v.shape[2:] if v else () for v in sliced], [0] * len(node.output), True,
    )  # fmt: skip


class _Repeated:
    """One Loop or Scan on its way into the graph."""

    def __init__(
        self, walk: Walk, node: onnx.NodeProto, scope: Scope, name: str, depth: int, body: onnx.GraphProto,
        plan: _Iterations,
    ) -> None:  # fmt: skip
        self.walk, self.node, self.scope, self.name, self.depth = walk, node, scope, name, depth
        self.body, self.plan = body, plan
        self.held: dict[str, str] = {}
        """Placeholder to the tensor that the first iteration finds in its place."""

    def run(self) -> None:
        walk, plan = self.walk, self.plan
        start = len(walk.operators)
        bound = self._bound()
        inner = ChainMap(bound, self.scope)
        walk.walk_body(self.body, inner, f"{self.name}/body/", self.depth + 1)
        results = [inner[item.name] for item in self.body.output][plan.skipped_outputs :]
        operators = walk.operators[start:]
        del walk.operators[start:]
        finals = results[: len(plan.carried)]
        times = plan.times
        written = times is not None and times * max(len(operators), 1) <= MAX_WRITTEN
        if times is None:
            self._note("runs an unknown number of times and is counted once")
        elif not written:
            self._note(f"runs {times} times; it is written once, with the work of all of them")
        if written:
            assert times is not None
            last, made = self._written_out(operators, finals, results[len(plan.carried) :], times)
        else:
            last, made = self._written_once(operators, finals, results[len(plan.carried) :], times or 1)
        for placeholder in self.held:
            walk.tensors.pop(placeholder, None)
        self._bind(finals, last, results[len(plan.carried) :], made)

    def _note(self, text: str) -> None:
        self.walk.control[f"{self.node.op_type}: its body {text}"] += 1

    def _bound(self) -> dict[str, Value]:
        """The body's inputs: placeholders of carried values, and slices of the others."""
        plan, bound = self.plan, {}
        names = [item.name for item in self.body.input]
        for item in names[: plan.skipped_inputs]:
            bound[item] = Value(f"{self.name}/{item}", "", (), "int64", constant=True, element=7)
        names = names[plan.skipped_inputs :]
        for item, value, shape in zip(names, plan.carried, plan.inner_carried, strict=False):
            if value is not None:
                self.walk.register(value)
                placeholder = f"{self.name}/carried/{item}"
                self.held[placeholder] = value.tensor
                bound[item] = replace(value, tensor=placeholder, shape=shape, constant=False, array=None)
        for item, value, shape in zip(
            names[len(plan.carried) :], plan.sliced, plan.inner_sliced, strict=False
        ):
            if value is not None:
                self.walk.register(value)
                bound[item] = replace(value, shape=shape, array=None)
        return bound

    def _written_out(
        self, operators: Sequence[Operator], finals: Sequence[Value], each: Sequence[Value], times: int
    ) -> tuple[list[str], list[list[Value]]]:
        """Every iteration's operators; the tensors of carried values after the last, and each result of every one."""
        made = [tensor for op in operators for tensor in op.outputs]
        now = dict(self.held)
        results: list[list[Value]] = [[] for _ in each]
        for number in range(times):
            if number % max(self.plan.length or 1, 1) == 0:
                now = dict(self.held)  # a sequence of its own begins
            names = now | {tensor: tensor if number == 0 else f"{tensor} #{number}" for tensor in made}
            self._copy(operators, names, number)
            for found, value in zip(results, each, strict=True):
                found.append(replace(value, tensor=names.get(value.tensor, value.tensor)))
            now = {
                placeholder: names.get(value.tensor, value.tensor)
                for placeholder, value in zip(self.held, self._of_held(finals), strict=True)
            }
        kept = dict(zip(self.held, self._of_held(finals), strict=True))
        last = [now.get(p, self.held[p]) for p in kept]
        return last, results

    def _of_held(self, finals: Sequence[Value]) -> list[Value]:
        """The body's results for those carried values that are there."""
        return [result for result, value in zip(finals, self.plan.carried, strict=False) if value is not None]

    def _copy(self, operators: Sequence[Operator], names: dict[str, str], number: int) -> None:
        tensors = self.walk.tensors
        for op in operators:
            for tensor in op.outputs:
                if names[tensor] not in tensors:
                    tensors[names[tensor]] = replace(tensors[tensor], name=names[tensor])
            name = op.name if number == 0 else self.walk.unique(f"{op.name} #{number}")
            merged = _merged(op, tuple(names.get(tensor, tensor) for tensor in op.inputs))
            self.walk.operators.append(
                replace(
                    merged, name=name, outputs=tuple(names[tensor] for tensor in op.outputs),
                    updates=tuple(names.get(tensor, tensor) for tensor in op.updates),
                )
            )  # fmt: skip

    def _written_once(
        self, operators: Sequence[Operator], finals: Sequence[Value], each: Sequence[Value], times: int
    ) -> tuple[list[str], list[list[Value]]]:
        """One iteration, whose operators do the work of all."""
        for op in operators:
            merged = _merged(op, tuple(self.held.get(tensor, tensor) for tensor in op.inputs))
            work = replace(op.work, share=op.work.share * times, extra_flops=op.work.extra_flops * times)
            self.walk.operators.append(
                replace(
                    merged, work=work, reads=tuple(size * times for size in merged.reads),
                    writes=tuple(size * times for size in op.writes), beside_read=op.beside_read * times,
                    beside_written=op.beside_written * times,
                )
            )  # fmt: skip
        last = [self.held.get(value.tensor, value.tensor) for value in self._of_held(finals)]
        return last, [[replace(v, tensor=self.held.get(v.tensor, v.tensor))] for v in each]

    def _bind(
        self,
        finals: Sequence[Value],
        last: Sequence[str],
        each: Sequence[Value],
        made: Sequence[Sequence[Value]],
    ) -> None:
        """The node's outputs: carried values after the last iteration, and all iterations' results stacked."""
        plan, count = self.plan, len(self.plan.carried)
        tensors = iter(last)
        for out, value, outer in zip(self.node.output, finals, plan.carried, strict=False):
            tensor = next(tensors) if outer is not None else value.tensor
            shape = (plan.chains, *value.shape) if plan.batched else value.shape
            if out:
                self.scope[out] = replace(value, tensor=tensor, shape=shape, constant=False, array=None)
        for place, (out, value) in enumerate(zip(self.node.output[count:], each, strict=False)):
            if not out:
                continue
            axis = plan.out_axes[place] if place < len(plan.out_axes) else 0
            shape = (plan.length or 1, *value.shape) if plan.length != 0 else (0, *value.shape)
            if axis:
                shape = _moved(value.shape, axis, shape[0])
            if plan.batched:
                shape = (plan.chains, *shape)
            full = f"{self.name}/{out}"
            stacked = Value(full, full, shape, value.dtype, element=value.element)
            node = Node(self.node.op_type, "", {}, tuple(made[place]), (stacked,))
            self.walk.add(self.walk.unique(full), node, Cost(over_rows(Copy, stacked.shape)))
            self.scope[out] = stacked


def _merged(op: Operator, inputs: tuple[str, ...]) -> Operator:
    """The operator on other inputs; two that became one are read once, as much as the larger was."""
    sizes: dict[str, int] = {}
    for tensor, size in zip(inputs, op.reads, strict=False):
        sizes[tensor] = max(sizes.get(tensor, 0), size)
    rest = op.reads[len(inputs) :]
    return replace(op, inputs=tuple(sizes), reads=(*sizes.values(), *rest))


def _axes(node: onnx.NodeProto, name: str, ranks: Sequence[int]) -> list[int]:
    stated = next((list(item.ints) for item in node.attribute if item.name == name), [])
    axes = [*stated, *[0] * (len(ranks) - len(stated))]
    return [axis % max(rank, 1) for axis, rank in zip(axes, ranks, strict=False)]


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


def _moved(shape: tuple[int, ...], axis: int, side: int) -> tuple[int, ...]:
    place = axis % (len(shape) + 1)
    return (*shape[:place], side, *shape[place:])


def _trips(limit: Value | None) -> int | None:
    if limit is None or limit.array is None:
        return None
    return max(0, int(limit.array.reshape(-1)[0]))
