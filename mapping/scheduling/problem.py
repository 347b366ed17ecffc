"""What has to be ordered: operators over tensors that share one scratchpad.

One operator runs per step. At its step all its inputs, its outputs and its workspace lie in the scratchpad.
A tensor that was dropped must be retrieved from off-chip memory before its next use, and written there once
before that, unless a copy is there anyway: graph inputs and weights start off-chip, graph outputs must be
written at the end. Only traffic that is not compulsory counts: the first load of what starts off-chip and the
one write of a graph output are free. This is the problem of COSMA (Li, Gupta, Malik, arXiv:2311.18246).

An output may be allowed to take the bytes of an input whose stay ends with the operator (in place): the input is
read for the last time, or its copy off-chip is fetched again later. Both then lie at one address.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from hw_configs.problems import InputError, Problem, bad_input
from workloads.graph import PERSISTENT_ROLES, Graph, Operator, Role
from workloads.in_place import overwritable
from workloads.operators import Copy

__all__ = [
    "InPlace",
    "ScheduleOperator",
    "ScheduleProblem",
    "ScheduleTensor",
    "Weights",
    "problem_from_graph",
]

Weights = Literal["stream", "resident"]

_LARGEST = 2**60


@dataclass(frozen=True, slots=True)
class InPlace:
    """An output that may be written over one of these inputs, none of which is smaller; tensor indices."""

    output: int
    inputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ScheduleOperator:
    """One operator: indices of the tensors it reads and makes, and of the operators it waits for.

    ``inputs`` names each tensor once, also when the operator reads it twice: it needs its bytes once.
    ``workspace_bytes`` are needed in the scratchpad while the operator runs and hold nothing before or after.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    workspace_bytes: int = 0
    after: tuple[int, ...] = ()
    in_place: tuple[InPlace, ...] = ()


@dataclass(frozen=True, slots=True)
class ScheduleTensor:
    """One tensor. ``producer`` is -1 for what lies off-chip at the start; ``copy_free``: a drop costs no write."""

    name: str
    size_bytes: int
    producer: int
    consumers: tuple[int, ...]
    copy_free: bool
    is_output: bool = False


@dataclass(frozen=True, eq=False)
class ScheduleProblem:
    """Operators in one valid order over tensors; ``views`` maps a reshaped tensor to the one whose bytes it is.

    Raises ``InputError`` when sizes are out of range, names repeat, or an operator stands before what it needs.
    """

    name: str
    operators: tuple[ScheduleOperator, ...]
    tensors: tuple[ScheduleTensor, ...]
    weights: Weights = "stream"
    views: Mapping[str, str] = field(default_factory=dict)
    in_place: bool = False
    """Whether element-wise operators may write over their inputs, beside what operators declare."""

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise InputError(problems)

    @cached_property
    def apart_bytes(self) -> tuple[int, ...]:
        """Per operator, its workspace and all its tensors side by side."""
        size = [tensor.size_bytes for tensor in self.tensors]
        return tuple(
            op.workspace_bytes + sum(size[t] for t in op.inputs) + sum(size[t] for t in op.outputs)
            for op in self.operators
        )

    @cached_property
    def need_bytes(self) -> tuple[int, ...]:
        """Per operator, the least bytes in the scratchpad while it runs: what it may write in place is in place."""
        return tuple(
            apart - sum(self.tensors[pair.output].size_bytes for pair in op.in_place)
            for apart, op in zip(self.apart_bytes, self.operators, strict=True)
        )

    @cached_property
    def has_in_place(self) -> bool:
        """Whether any output may be written over an input."""
        return any(op.in_place for op in self.operators)

    @property
    def least_budget(self) -> int:
        """M_R: the largest need of one operator. Below it there is no schedule, at it there always is one."""
        return max(self.need_bytes, default=0)

    @cached_property
    def operator_index(self) -> dict[str, int]:
        """Operator name to index."""
        return {op.name: index for index, op in enumerate(self.operators)}

    @cached_property
    def tensor_index(self) -> dict[str, int]:
        """Tensor name to index."""
        return {tensor.name: index for index, tensor in enumerate(self.tensors)}

    @cached_property
    def predecessors(self) -> tuple[tuple[int, ...], ...]:
        """Per operator, every operator it waits for: makers of its inputs and what ``after`` names."""
        made = [tensor.producer for tensor in self.tensors]
        return tuple(
            tuple(sorted({*op.after, *(made[t] for t in op.inputs if made[t] >= 0)})) for op in self.operators
        )

    def size_of(self, name: str) -> int:
        """Bytes of a tensor by name."""
        return self.tensors[self.tensor_index[name]].size_bytes


def _problems(problem: ScheduleProblem) -> list[Problem]:
    found: list[Problem] = []
    for label, names in (
        ("operators", [op.name for op in problem.operators]),
        ("tensors", [tensor.name for tensor in problem.tensors]),
    ):
        twice = {name for name in names if names.count(name) > 1} if len(set(names)) != len(names) else set()
        found += [Problem(f"two {label} have this name", path=name) for name in sorted(twice)]
    for tensor in problem.tensors:
        if not 0 <= tensor.size_bytes <= _LARGEST:
            found.append(Problem(f"found {tensor.size_bytes} bytes; expected 0 to 2**60", path=tensor.name))
    if sum(tensor.size_bytes for tensor in problem.tensors) > _LARGEST:
        found.append(Problem("the tensors sum to more than 2**60 bytes", path=problem.name))
    for index, op in enumerate(problem.operators):
        if not 0 <= op.workspace_bytes <= _LARGEST:
            found.append(Problem(f"found a workspace of {op.workspace_bytes} bytes", path=op.name))
        found += [Problem(message, path=op.name) for message in _wrong_pairs(problem, op)]
        late = [p for p in (*op.after, *(problem.tensors[t].producer for t in op.inputs)) if p >= index]
        if late:
            found.append(
                Problem(f"stands before {problem.operators[late[0]].name!r}, which it needs", path=op.name)
            )
    return found


def _wrong_pairs(problem: ScheduleProblem, op: ScheduleOperator) -> list[str]:
    named = [t for pair in op.in_place for t in (pair.output, *pair.inputs)]
    if len(set(named)) < len(named) or any(not pair.inputs for pair in op.in_place):
        return ["its in-place pairs name a tensor twice, or an output without inputs"]
    found = []
    for pair in op.in_place:
        if pair.output not in op.outputs or any(t not in op.inputs for t in pair.inputs):
            found.append("its in-place pairs name tensors that it does not have")
        elif any(
            problem.tensors[t].size_bytes < problem.tensors[pair.output].size_bytes for t in pair.inputs
        ):
            found.append(f"{problem.tensors[pair.output].name!r} is larger than what it may be written over")
    return found


def problem_from_graph(
    graph: Graph, weights: Weights = "stream", file: str | None = None, *, in_place: bool = False
) -> ScheduleProblem:
    """The scheduling problem of a graph.

    Outputs that an operator declares (``in_place`` in its row) may be written over its inputs; with ``in_place``
    those of element-wise kinds as well (:func:`workloads.in_place.element_wise_pairs`).

    ``weights="stream"``: weights pass through without a place in the scratchpad (budgets of activations only).
    ``"resident"``: an operator's weights lie whole in the scratchpad while it runs; those that several operators
    use may stay or be loaded again. KV caches and optimizer states are streamed in both, and tensors that are
    updated in place with them. A ``view`` takes no step and no bytes. Raises ``InputError`` for a graph without
    operators, or with an unknown ``weights``.
    """
    if weights not in ("stream", "resident"):
        raise bad_input(f"found {weights!r}; expected 'stream' or 'resident'", path="--weights")
    if not graph.operators:
        raise bad_input("the graph has no operators", file=file)
    return _Builder(graph, weights, in_place).problem()


class _Builder:
    """Walks a graph once: aliases of views, then operators, then tensors."""

    def __init__(self, graph: Graph, weights: Weights, in_place: bool = False) -> None:
        self.graph, self.in_place = graph, in_place
        self.weights: Weights = weights
        self.alias = _aliases(graph)
        updated = {tensor for op in graph.operators for tensor in op.updates}
        roles = PERSISTENT_ROLES if weights == "stream" else PERSISTENT_ROLES - {Role.WEIGHT}
        self.streamed = {
            name for name, tensor in graph.tensors.items() if tensor.role in roles or name in updated
        }
        self.operators = [op for op in graph.operators if not self.is_view(op)]

    def is_view(self, op: Operator) -> bool:
        return op.kind == "view" and bool(op.outputs) and all(name in self.alias for name in op.outputs)

    def root(self, name: str) -> str:
        while name in self.alias:
            name = self.alias[name]
        return name

    def placed(self, names: tuple[str, ...]) -> list[str]:
        """The tensors of a list that take scratchpad bytes, views resolved, each once."""
        roots = (self.root(name) for name in names)
        return [name for name in dict.fromkeys(roots) if name not in self.streamed]

    def problem(self) -> ScheduleProblem:
        graph = self.graph
        index: dict[str, int] = {}
        for op in self.operators:
            for name in (*self.placed(op.inputs), *self.placed(op.outputs)):
                index.setdefault(name, len(index))
        position = {op.name: i for i, op in enumerate(self.operators)}
        operators = []
        consumers: list[list[int]] = [[] for _ in index]
        producer = [-1] * len(index)
        for i, op in enumerate(self.operators):
            outputs = tuple(index[name] for name in self.placed(op.outputs))
            inputs = tuple(t for t in (index[name] for name in self.placed(op.inputs)) if t not in outputs)
            for t in inputs:
                consumers[t].append(i)
            for t in outputs:
                producer[t] = i
            waits = self.waits(op, position)
            pairs = self.pairs(op, index, set(inputs), set(outputs))
            operators.append(ScheduleOperator(op.name, inputs, outputs, op.workspace_bytes, waits, pairs))
        # A scratchpad instance loads its inputs by operators of their own; those tensors start off-chip too.
        loaded = {
            self.root(name)
            for op in graph.operators
            if not op.inputs and isinstance(op.work, Copy) and op.work.function == "load"
            for name in op.outputs
        }
        outputs_of_graph = {self.root(name) for name in graph.outputs}
        tensors = tuple(
            ScheduleTensor(
                name,
                graph.tensors[name].size_bytes,
                producer[t],
                tuple(consumers[t]),
                producer[t] < 0 or name in loaded or name in outputs_of_graph,
                name in outputs_of_graph,
            )
            for name, t in index.items()
        )
        views = {name: self.root(name) for name in self.alias if self.root(name) in index}
        return ScheduleProblem(graph.name, tuple(operators), tensors, self.weights, views, self.in_place)

    def pairs(
        self, op: Operator, index: Mapping[str, int], inputs: set[int], outputs: set[int]
    ) -> tuple[InPlace, ...]:
        """Outputs that the operator may write over inputs, views resolved; each input under one output."""
        found: list[InPlace] = []
        taken: set[int] = set()
        for output, names in overwritable(op, self.graph.tensors, self.in_place).items():
            made = index.get(self.root(output))
            over = dict.fromkeys(index[root] for root in map(self.root, names) if root in index)
            free = tuple(t for t in over if t in inputs and t not in taken)
            if made in outputs and free and self.graph.tensors[output].size_bytes:
                found.append(InPlace(int(made), free))
                taken.update(free)
        return tuple(found)

    def waits(self, op: Operator, position: dict[str, int]) -> tuple[int, ...]:
        """Operators to wait for; a view stands for whatever made what it reshapes."""
        found: set[int] = set()
        stack = list(self.graph.dependencies[op.name])
        while stack:
            name = stack.pop()
            if name in position:
                found.add(position[name])
            else:
                stack.extend(self.graph.dependencies[name])
        return tuple(sorted(found))


def _aliases(graph: Graph) -> dict[str, str]:
    """Output of a view to its one activation input, where both have the same bytes."""
    found: dict[str, str] = {}
    for op in graph.operators:
        inputs = [
            name for name in dict.fromkeys(op.inputs) if graph.tensors[name].role not in PERSISTENT_ROLES
        ]
        if op.kind != "view" or len(inputs) != 1 or len(op.outputs) != 1 or op.updates:
            continue
        if graph.tensors[inputs[0]].size_bytes == graph.tensors[op.outputs[0]].size_bytes:
            found[op.outputs[0]] = inputs[0]
    return found
