"""What operators cost on a scratchpad machine: arrays by shape, the vector unit, the banks, element types."""

import dataclasses

import pytest

from hw_configs.library import load_system
from hw_configs.problems import InputError
from simulator.accelerator.array import Product, array_clocks
from simulator.accelerator.lowering import lowered
from simulator.accelerator.model import SCRATCHPAD, array_shape
from simulator.cost.model import COST_MODELS
from tests.accelerator.machines import machine, text
from tests.typed import operator_of
from workloads.models import build
from workloads.workload import WorkloadOptions


def matmul(m, n, k, dtype="int8", **attributes):
    size = {"int8": 1, "fp16": 2}[dtype]
    return operator_of(
        "matmul",
        2.0 * m * n * k,
        (m * k + k * n) * size,
        m * n * size,
        dtype,
        name="mm",
        inputs=("x", "w"),
        outputs=("y",),
        m=m,
        n=n,
        k=k,
        batch=1,
        **attributes,
    )


@pytest.fixture
def pad(tmp_path):
    system = machine(tmp_path)
    return system.nodes["npu"], system.memories["npu"]


def test_a_product_takes_the_clocks_of_the_arrays(pad):
    node, memory = pad
    cost = SCRATCHPAD.cost(matmul(300, 20, 40), node, memory)
    assert cost.seconds == pytest.approx(array_clocks(Product(300, 40, 20), array_shape(node.device)) * 1e-9)
    assert cost.bound_by == "compute"
    assert cost.compute_energy_j == pytest.approx(2 * 300 * 20 * 40 * 1e-12)


def test_a_type_of_half_the_rate_takes_twice_the_clocks(pad):
    node, memory = pad
    narrow, wide = (SCRATCHPAD.cost(matmul(300, 64, 64, t), node, memory) for t in ("int8", "fp16"))
    assert wide.seconds == pytest.approx(2 * narrow.seconds)


def test_operands_that_stream_past_again_cross_the_ports_again(pad):
    node, memory = pad
    cost = SCRATCHPAD.cost(matmul(64, 48, 16), node, memory)
    assert cost.read_bytes == 3 * 64 * 16 + 16 * 48, "inputs pass once per 16 columns of weights"
    assert cost.write_bytes == 64 * 48
    assert cost.memory_energy_j == pytest.approx((cost.read_bytes + cost.write_bytes) * 2e-12)


def test_pointwise_work_runs_on_the_vector_unit_or_at_the_banks(pad):
    node, memory = pad
    light = operator_of(
        "elementwise", 6400.0, 12800, 6400, "int8", name="add", inputs=("x", "z"), outputs=("y",)
    )
    cost = SCRATCHPAD.cost(light, node, memory)
    assert cost.bound_by == "scratchpad"
    assert cost.seconds == pytest.approx(19200 / 128e9)
    heavy = operator_of("activation", 64000.0, 6400, 6400, "int8", name="act", inputs=("x",), outputs=("y",))
    assert SCRATCHPAD.cost(heavy, node, memory).seconds == pytest.approx(1e-6)


def test_a_depthwise_convolution_goes_where_it_is_faster(pad):
    node, memory = pad
    graph = build("mobilenet-v2", WorkloadOptions(dtype="int8")).phases[0].graph
    depthwise = graph.operator_by_name["group2.1.depthwise"]
    product = lowered(depthwise).products[0]
    on_array = array_clocks(product, array_shape(node.device)) * 1e-9
    assert SCRATCHPAD.cost(depthwise, node, memory).seconds == pytest.approx(
        min(on_array, max(depthwise.flops / 64e9, (depthwise.read_bytes + depthwise.write_bytes) / 128e9))
    )


@pytest.mark.parametrize("name", ["resnet-50", "mobilenet-v2", "unet", "vit-b-32", "s3d"])
def test_every_product_has_the_multiply_adds_of_its_flops(name):
    graph = build(name, WorkloadOptions(dtype="int8")).phases[0].graph
    for op in graph.operators:
        if op.kind in ("conv", "matmul", "attention"):
            assert 2 * sum(product.multiply_adds for product in lowered(op).products) == op.flops, op.name


def test_the_default_model_asks_this_one_for_accelerators(pad):
    node, memory = pad
    assert COST_MODELS.get("by-device").cost(matmul(64, 48, 16), node, memory) == SCRATCHPAD.cost(
        matmul(64, 48, 16), node, memory
    )


def test_an_accelerator_in_its_dram_has_the_same_arrays_behind_a_slower_memory():
    alone, board = load_system("nvdla-large"), load_system("nvdla-board")
    device = alone.nodes["nvdla-large"].device.model_copy(update={"operand_buffer": None})
    node = dataclasses.replace(alone.nodes["nvdla-large"], device=device)
    wide = matmul(4096, 1024, 1024)
    costs = [
        SCRATCHPAD.cost(wide, *node)
        for node in (
            (node, alone.memories["nvdla-large"]),
            (board.nodes["accelerator"], board.memories["accelerator"]),
        )
    ]
    assert costs[0].seconds == pytest.approx(costs[1].seconds)
    thin = matmul(1, 1024, 1024)
    slow = SCRATCHPAD.cost(thin, node, alone.memories["nvdla-large"])
    assert slow.bound_by == "memory"


def test_the_scratchpad_is_the_memory_of_its_node(tmp_path):
    system = machine(tmp_path, size=5000)
    assert system.memories["npu"].usable_bytes == 5000
    assert system.memories["npu"].read_bandwidth == 8 * 16 * 1e9
    assert system.nodes["npu"].scratchpad
    assert system.route("dram", "npu")
    assert machine(tmp_path, size=6000).digest != system.digest


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("memory: scratchpad", "memory: scratchpd", "scratchpd"),
        ("banks: 8, bank_width: 16 B, ", "", "needs 'banks' and 'bank_width'"),
        ("dram: {use: lpddr5-6400}", "dram: {use: lpddr5-6400, memory: scratchpad}", "has no scratchpad"),
        ("dataflow: weight", "dataflow: weights", "dataflow"),
        ("banks: 8", "banks: 0", "banks"),
    ],
)
def test_a_machine_that_cannot_be_is_refused_in_words(tmp_path, old, new, told):
    path = tmp_path / "pad.yaml"
    path.write_text(text().replace(old, new))
    with pytest.raises(InputError, match=told):
        load_system(str(path))
