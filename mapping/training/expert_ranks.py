"""Expert parallelism: each rank holds a share of the experts, and tokens travel to them and back.

Ranks that hold equal weights divide the experts of a layer (GShard, arXiv:2006.16668; DeepSpeed-MoE,
arXiv:2201.05596). An all-to-all brings each token's row to the ranks of its experts, another brings the results back;
the backward pass sends gradients the same ways. Rows spread evenly: every rank computes as many as before, on fewer
experts. The rows that arrived are kept for the weights' gradients, as any input of a product is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil, prod

from hw_configs.problems import bad_input
from mapping.training.tensor_ranks import beside
from simulator.rewrite.operands import in_proportion, itemised, reduced
from workloads.dtypes import size_bytes
from workloads.graph import Graph, Operator, Role, Tensor
from workloads.operators import Activation, AllToAll, GroupedProduct, Optimizer

__all__ = ["divide_experts"]


def divide_experts(graph: Graph, ranks: int) -> Graph:
    """The graph of a rank that holds ``1 / ranks`` of the experts of every layer.

    Raises ``InputError`` where there are none, or where their number does not divide.
    """
    counts = {op.work.groups for op in graph.operators if isinstance(op.work, GroupedProduct)}
    if not counts:
        raise bad_input(f"{graph.name} has no experts to divide", path="expert")
    odd = next((count for count in sorted(counts) if count % ranks), None)
    if odd is not None:
        raise bad_input(f"{odd} experts cannot be divided over {ranks} ranks", path="expert")
    return _Divider(graph, ranks).run()


@dataclass
class _Divider:
    graph: Graph
    ranks: int
    operators: list[Operator] = field(default_factory=list)
    inside: set[str] = field(default_factory=set)
    """Tensors of rows that lie where their expert is."""
    arrived: dict[str, str] = field(default_factory=dict)

    def run(self) -> Graph:
        self.tensors = dict(self.graph.tensors)
        self._divide_weights()
        for op in self.graph.operators:
            if isinstance(op.work, GroupedProduct):
                self._product(op, op.work)
            elif isinstance(op.work, Optimizer) and set(op.updates) & self.weights:
                self._optimizer(op)
            else:
                if isinstance(op.work, Activation) and op.inputs and op.inputs[0] in self.inside:
                    self.inside.update(op.outputs)
                self.operators.append(op)
        return replace(self.graph, tensors=self.tensors, operators=tuple(self.operators))

    def _divide_weights(self) -> None:
        """Weights of experts, their gradients and the optimizer's state of them: a share of each."""
        graph = self.graph
        self.weights = {
            name
            for op in graph.operators
            if isinstance(op.work, GroupedProduct)
            for name in op.inputs
            if graph.tensors[name].role is Role.WEIGHT
        }
        divided = set(self.weights)
        for op in graph.operators:
            if isinstance(op.work, Optimizer) and set(op.updates) & self.weights:
                divided.update((*op.inputs, *op.updates))
        for name in divided:
            tensor = graph.tensors[name]
            shape = (ceil(prod(tensor.shape) / self.ranks),)
            self.tensors[name] = Tensor(
                name, shape, tensor.dtype, tensor.role, ceil(tensor.size_bytes / self.ranks)
            )

    def _product(self, op: Operator, work: GroupedProduct) -> None:
        """A product over the rank's own experts, with rows brought to it and taken away where they come and go."""
        op = itemised(op, self.graph.tensors)
        weight_gradient = all(self._is_gradient_of_weight(name) for name in op.outputs)
        inputs = list(op.inputs)
        for place, name in enumerate(inputs):
            if self._comes_from_outside(op, name):
                inputs[place] = self._bring(op, name, work)
        outputs, sent = list(op.outputs), list[tuple[str, str]]()
        if not weight_gradient:
            self.inside.update(op.outputs)
            for place, name in enumerate(outputs):
                if self._leaves(name):
                    outputs[place] = f"{name}.at_experts"
                    self.tensors[outputs[place]] = self._rows(outputs[place], op, work.m * work.n)
                    sent.append((outputs[place], name))
        reads = [
            in_proportion(count, self.tensors[name].size_bytes, self.graph.tensors[name].size_bytes)
            if name in self.weights else count
            for name, count in zip((*op.inputs, *op.updates), op.reads, strict=True)
        ]  # fmt: skip
        writes = [
            in_proportion(count, self.tensors[name].size_bytes, self.graph.tensors[name].size_bytes)
            if self._is_gradient_of_weight(name) else count
            for name, count in zip((*op.outputs, *op.updates), op.writes, strict=True)
        ]  # fmt: skip
        own = replace(work, groups=work.groups // self.ranks, active=0, expected_groups=0.0)
        self.operators.append(
            replace(
                op,
                work=own,
                inputs=tuple(inputs),
                outputs=tuple(outputs),
                reads=tuple(reads),
                writes=tuple(writes),
            )
        )
        for source, target in sent:
            self.operators.append(self._exchange(op, source, target, self.tensors[source].size_bytes))

    def _bring(self, op: Operator, name: str, work: GroupedProduct) -> str:
        """The rows of a tensor at the ranks of their experts, sent once."""
        if name not in self.arrived:
            target = f"{name}.to_experts"
            self.tensors[target] = self._rows(target, op, work.m * self._width(op, name, work))
            self.operators.append(self._exchange(op, name, target, self.tensors[target].size_bytes))
            self.arrived[name] = target
        return self.arrived[name]

    def _width(self, op: Operator, name: str, work: GroupedProduct) -> int:
        """Elements of a row: of what is summed over, or in a weight's gradient of either side."""
        elements = prod(self.graph.tensors[name].shape)
        sides = sorted((work.k, work.n), key=lambda side: elements % side)
        weight = any(self._is_gradient_of_weight(output) for output in op.outputs)
        return sides[0] if weight else work.k

    def _rows(self, name: str, op: Operator, elements: int) -> Tensor:
        return Tensor(name, (elements,), op.dtype, Role.ACTIVATION, size_bytes(elements, op.dtype))

    def _exchange(self, op: Operator, source: str, target: str, size: int) -> Operator:
        work = AllToAll(bytes=size, group=self.ranks, parallel="expert")
        return Operator(f"{target}.all_to_all", work, (source,), (target,), dtype=op.dtype, place=beside(op))

    def _comes_from_outside(self, op: Operator, name: str) -> bool:
        """Whether a product's operand are rows that lie with their tokens: neither weights nor the order of rows."""
        tensor = self.graph.tensors[name]
        if tensor.role is Role.WEIGHT or name in self.inside:
            return False
        maker = self.graph.producer.get(name)
        if maker is not None and self.graph.operator_by_name[maker].kind in ("sort", "topk"):
            return False
        return name in op.inputs and tensor.dtype == op.dtype

    def _leaves(self, name: str) -> bool:
        """Whether anything but experts and their activation reads a tensor."""
        readers = (self.graph.operator_by_name[reader] for reader in self.graph.consumers[name])
        return any(not isinstance(reader.work, GroupedProduct | Activation) for reader in readers)

    def _is_gradient_of_weight(self, name: str) -> bool:
        if self.graph.tensors[name].role is not Role.GRADIENT:
            return False
        readers = (self.graph.operator_by_name[reader] for reader in self.graph.consumers[name])
        return any(isinstance(reader.work, Optimizer) for reader in readers)

    def _optimizer(self, op: Operator) -> None:
        op = itemised(op, self.graph.tensors)
        share = 1 / self.ranks
        self.operators.append(
            replace(
                op, work=reduced(op.work, share, ("m", "parameters")),
                reads=tuple(ceil(count * share) for count in op.reads),
                writes=tuple(ceil(count * share) for count in op.writes),
                beside_read=round(op.beside_read * share), beside_written=round(op.beside_written * share),
            )
        )  # fmt: skip
