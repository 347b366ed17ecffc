"""What crosses the pins before adder trees: a buffer that is filled step by step, and the makers' own figures."""

import dataclasses
from math import ceil, isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw_configs.library import load_system
from offchip import api
from simulator.accelerator.operand_buffer import buffered, products_share
from simulator.cost.model import COST_MODELS
from workloads.fusion import behind_arrays
from workloads.graph import Operator, check_graph
from workloads.models import build
from workloads.operators import Convolution, Product
from workloads.workload import WorkloadOptions

DEVICE = load_system("nvdla-large").nodes["nvdla-large"].device
KIB = 1024


def conv(channels, kernels, side, window=1, stride=1, groups=1, batch=1):
    out = -(-side // stride)
    work = Convolution(
        batch=batch, in_channels=channels, out_channels=kernels, height=side, width=side, kernel_h=window,
        kernel_w=window, stride_h=stride, stride_w=stride, out_height=out, out_width=out, groups=groups,
        padding_h=window // 2, padding_w=window // 2,
    )  # fmt: skip
    return Operator("c", work, ("x", "w"), ("y",), dtype="int8", reads=(1, 1))


@pytest.mark.parametrize(
    ("layer", "with_outputs_kib"),
    [
        ((64, 64, 56, 3), 456), ((64, 256, 56), 996), ((256, 512, 56, 1, 2), 2472), ((128, 128, 28, 3), 452),
        ((512, 1024, 28, 1, 2), 2636), ((256, 256, 14, 3), 1122), ((1024, 2048, 14, 1, 2), 8486),
        ((512, 512, 7, 3), 4145),
    ],
)  # fmt: skip
def test_bytes_are_those_of_the_makers_estimator(layer, with_outputs_kib):
    """Column "DRAM Traffic" of the sheet ResNet50 at 512 KiB: inputs, weights and outputs in KiB."""
    operator = conv(*layer)
    outputs = operator.work.out_channels * operator.work.out_height**2
    assert buffered(operator, DEVICE).read_bytes + outputs == with_outputs_kib * KIB


def filled_step_by_step(inputs, weights, beside, size):
    """Bytes over the pins: parts of what stays come in until the room is full, and then all of the other streams by."""
    stays, streams = min(inputs, weights), max(inputs, weights)
    if inputs == weights:
        stays, streams = weights, inputs
    needed = beside[0] if inputs < weights else beside[1]
    room = size - needed if needed < size else size / 2
    moved = 0.0
    while stays > 0:
        part = min(stays, room)
        stays -= part
        moved += part + streams
    return moved


@given(
    st.integers(1, 300), st.integers(1, 300), st.integers(1, 30), st.sampled_from([1, 3, 5]), st.integers(1, 2),
    st.booleans(), st.booleans(), st.sampled_from([1, 4, 32]), st.sampled_from([2**12, 2**15, 2**18]),
    st.sampled_from([1, 2]),
)  # fmt: skip
def test_bytes_and_clocks_are_those_of_a_buffer_filled_step_by_step(
    channels, kernels, side, window, stride, winograd, folds, group, size, batch
):
    operator = conv(channels, kernels, side, window, stride, batch=batch)
    buffer = DEVICE.operand_buffer.model_copy(
        update={"winograd": winograd, "folds_strides": folds, "kernels": group}
    )
    scratchpad = DEVICE.scratchpad.model_copy(update={"size": size})
    device = DEVICE.model_copy(update={"operand_buffer": buffer, "scratchpad": scratchpad})
    step = stride if folds else 1
    deep = -(-channels * step**2 // 16) * 16
    lines = -(-side // step)
    taps = sum(1 for row in range(0, window, step) for column in range(0, window, step))
    fast = winograd and window == 3 and stride == 1
    kernel = deep * taps * (16 / 9 if fast else 1)
    line = deep * lines
    moved = filled_step_by_step(
        batch * lines * line, kernels * kernel, (group * kernel, line * min(len(range(0, window, step)), lines)), size
    )  # fmt: skip
    found = buffered(operator, device)
    assert isclose(found.read_bytes, moved, abs_tol=1.0)
    clocks = 0
    for _ in range(0, channels * step**2, device.array_rows):
        for _ in range(0, kernels, device.array_columns):
            clocks += batch * operator.work.out_height**2
    assert found.clocks == pytest.approx(clocks * window**2 / step**2 * (16 / 36 if fast else 1))
    assert products_share(operator, device) == pytest.approx(16 / 36 if fast else 1)


def test_a_product_streams_its_weights_once_while_its_rows_fit():
    operator = Operator("p", Product(m=4, n=1000, k=2048), ("x", "w"), ("y",), dtype="int8", reads=(1, 1))
    found = buffered(operator, DEVICE)
    assert found.read_bytes == 4 * 2048 + 2048 * 1000
    assert found.clocks == 4 * 2048 / 64 * ceil(1000 / 32)


def test_operands_of_an_epilogue_cross_once_more_and_groups_stand_alone():
    alone = buffered(conv(64, 64, 56), DEVICE).read_bytes
    more = dataclasses.replace(conv(64, 64, 56), inputs=("x", "w", "r"), reads=(1, 1, 5000))
    assert buffered(more, DEVICE).read_bytes == alone + 5000
    half, both = buffered(conv(32, 32, 56), DEVICE), buffered(conv(64, 64, 56, groups=2), DEVICE)
    assert (both.read_bytes, both.clocks) == (2 * half.read_bytes, 2 * half.clocks)


def test_sums_and_pools_run_inside_the_convolution_that_last_makes_an_operand():
    graph = build("resnet-50", WorkloadOptions(dtype="int8")).phases[0].graph
    fused = behind_arrays(graph, ("elementwise", "pool"))
    assert check_graph(fused) is fused
    assert {op.kind for op in fused.operators} == {"conv", "matmul"}
    assert len(fused.operators) == 54
    assert fused.outputs == graph.outputs
    assert fused.parameters() == graph.parameters()
    third = fused.operator_by_name["stage1.1.conv3"]
    assert third.outputs == ("stage1.1.add.out",)
    assert "stage1.0.add.out" in third.inputs


def test_what_two_read_is_not_taken_inside():
    graph = build("resnet-50", WorkloadOptions(dtype="int8")).phases[0].graph
    kept = dataclasses.replace(graph, outputs=(*graph.outputs, "stage1.1.conv3.out"))
    assert "stage1.1.add" in behind_arrays(kept, ("elementwise",)).operator_by_name


def test_a_saved_plan_runs_again_and_is_legal(tmp_path):
    path = tmp_path / "plan.json"
    graph = build("resnet-18", WorkloadOptions(dtype="int8")).phases[0].graph
    first = api.simulate(graph, "nvdla-large", save_plan=path)
    assert api.simulate(graph, "nvdla-large", plan=path).makespan_s == first.makespan_s
    assert not api.check(path, graph, "nvdla-large")
    assert api.solve(graph, "nvdla-large").tasks


def test_what_does_not_fit_is_read_again_at_every_fidelity():
    system = load_system("nvdla-large")
    node, memory = system.nodes["nvdla-large"], system.memories["nvdla-large"]
    cost = COST_MODELS.get("by-device").cost(conv(1024, 2048, 14, 1, 2), node, memory)
    assert cost.bound_by == "memory"
    assert cost.seconds == pytest.approx((cost.read_bytes + cost.write_bytes) / 20e9)
