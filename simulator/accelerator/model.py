"""What an operator costs on a scratchpad machine: clocks of the arrays, the vector unit and the banks.

Products take the clocks of :mod:`simulator.accelerator.array` at the operator's shape; an element type whose stated
rate is below two operations per cell and clock takes as many times longer, and one that cells take two of (8 bits in
cells for 16) half as long. Everything pointwise runs on the vector unit at its stated rate. Both work from the
scratchpad, whose banks move so many bytes per clock; what streams past the arrays more than once crosses them more
than once. Arithmetic and traffic overlap, so an operator takes the longest of them, and the launch before it.

On a device that works in its DRAM instead, the arrays cost the same, and the traffic takes the roofline's share of
the memory's bandwidth. One that says how its buffer keeps inputs and weights takes the clocks and the bytes of
:mod:`simulator.accelerator.operand_buffer`, all of the bandwidth, and for what runs behind its arrays nothing. Devices
without a dataflow are the roofline's altogether.
"""

from __future__ import annotations

from typing import Final

from hw_configs.device import Accelerator
from hw_configs.system import MemorySpace, Node
from simulator.accelerator.array import ArrayShape, Product, array_clocks, streamed_elements
from simulator.accelerator.lowering import Lowered, lowered
from simulator.accelerator.operand_buffer import buffered, products_share
from simulator.cost.model import FREE_KINDS, OperatorCost, arithmetic_joules, energy_per_operation, peak_rate
from simulator.cost.roofline import COMMUNICATION_KINDS, ROOFLINE
from workloads.dtypes import dtype_bits
from workloads.graph import Operator

__all__ = ["SCRATCHPAD", "ScratchpadModel", "array_shape", "covers"]


def covers(node: Node) -> bool:
    """Whether this model knows a node better than the roofline does."""
    device = node.device
    return isinstance(device, Accelerator) and (node.scratchpad or device.dataflow is not None)


def array_shape(device: Accelerator) -> ArrayShape | None:
    """The arrays of a device; None when it states no dataflow."""
    if device.dataflow is None:
        return None
    return ArrayShape(
        device.array_rows, device.array_columns, device.arrays, device.dataflow, device.prefetch
    )


class ScratchpadModel:
    """The cost model ``scratchpad``; see the module's first lines."""

    name = "scratchpad"

    def cost(self, operator: Operator, node: Node, memory: MemorySpace) -> OperatorCost:
        """The cost of an operator on a node that works in a memory; SI units.

        Raises ``InputError`` for communication and for an element type that the device has no rate for.
        """
        if operator.kind in FREE_KINDS or operator.kind in COMMUNICATION_KINDS or not covers(node):
            return ROOFLINE.cost(operator, node, memory)
        assert isinstance(node.device, Accelerator)
        device = node.device
        work = lowered(operator)
        kept = None if node.scratchpad else buffered(operator, device)
        if kept is not None:
            arithmetic, on_arrays = _slowed(kept.clocks, operator, device), True
        elif work is None:
            arithmetic, on_arrays = (
                operator.flops / peak_rate(device.compute, operator.kind, operator.dtype),
                False,
            )
        else:
            arithmetic, on_arrays = _arithmetic(operator, work, device)
        if node.scratchpad:
            crossed = _crossing_bytes(operator, work if on_arrays else None, device)
            traffic, read = crossed / memory.read_bandwidth + memory.latency_s, crossed - operator.write_bytes
            bound = "scratchpad"
        elif kept is not None:
            traffic, read = memory.traffic_seconds(kept.read_bytes, operator.write_bytes), kept.read_bytes
            bound = "memory"
        else:
            share, read = ROOFLINE.efficiency("other", node).memory, operator.read_bytes
            traffic = memory.traffic_seconds(read, operator.write_bytes) / share
            bound = "memory"
        seconds = max(arithmetic, traffic)
        launch = device.compute.launch
        bound = "launch" if launch > seconds else bound if traffic > arithmetic else "compute"
        per_flop = energy_per_operation(device.compute, operator.dtype)
        moving = (
            read * memory.energy_per_byte_read_j + operator.write_bytes * memory.energy_per_byte_written_j
        )
        done = operator.flops * (products_share(operator, device) if kept is not None else 1.0)
        joules = arithmetic_joules(done * per_flop, moving, seconds + launch, node, memory)
        return OperatorCost(seconds, launch, bound, read, operator.write_bytes, joules, moving)


SCRATCHPAD: Final = ScratchpadModel()


def _arithmetic(operator: Operator, work: Lowered, device: Accelerator) -> tuple[float, bool]:
    """Seconds of arithmetic, and whether the arrays do the products."""
    compute = device.compute
    vector = 0.0
    if work.vector_operations:
        vector = work.vector_operations / _vector_rate(operator, device)
    if not work.products:
        return vector, False
    on_arrays = sum(_array_seconds(product, operator, device) for product in work.products)
    if work.either and compute.vector:
        instead = operator.flops / _vector_rate(operator, device)
        if instead < on_arrays:
            return instead, False
    return on_arrays + vector, True


def _array_seconds(product: Product, operator: Operator, device: Accelerator) -> float:
    shape = array_shape(device)
    if shape is None:
        return 2 * product.multiply_adds / peak_rate(device.compute, operator.kind, operator.dtype)
    return _slowed(array_clocks(product, shape), operator, device)


def _slowed(clocks: float, operator: Operator, device: Accelerator) -> float:
    """Seconds of so many clocks at two operations per cell, at the element type's own rate."""
    rate = peak_rate(device.compute, operator.kind, operator.dtype)
    full = 2 * device.arrays * device.array_rows * device.array_columns * device.clock
    # A cell that takes two narrow operands works down twice the depth in a clock. A rate stated to three digits may lie
    # above the cells' own; the cells decide then.
    packed = max(1.0, float(round(rate / full)))
    return clocks / device.clock * max(full / rate, 1.0 / packed)


def _vector_rate(operator: Operator, device: Accelerator) -> float:
    """Operations per second outside the arrays; the arrays' own rate where no vector unit is stated."""
    return peak_rate(device.compute, "elementwise", operator.dtype)


def _crossing_bytes(operator: Operator, work: Lowered | None, device: Accelerator) -> int:
    """Bytes over the scratchpad's ports: the tensors once, and what streams past the arrays again."""
    once = operator.read_bytes + operator.write_bytes
    shape = array_shape(device)
    if work is None or shape is None or not work.products:
        return once
    elements = sum(sum(streamed_elements(product, shape)) for product in work.products)
    return max(once, int(elements * dtype_bits(operator.dtype) / 8))
