"""The cost model ``by-device`` as the system simulator meets it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from hw_configs.problems import InputError
from simulator.cost.model import COST_MODELS, roof_seconds
from simulator.gpu.lowering import lowered
from simulator.gpu.model import GPU
from simulator.gpu.request import Request
from simulator.gpu.rows import predict
from simulator.gpu.sheet import memory_key
from simulator.gpu.simulated_l2 import with_simulated_l2
from tests.gpu.sheets import NAMES, attention, product, reference
from tests.typed import operator_of
from workloads.operators import KINDS, Product

COMMUNICATION = {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send", "receive"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", sorted(set(KINDS) - COMMUNICATION))
def test_every_kind_has_a_cost(name: str, kind: str) -> None:
    gpu = reference(name)
    operator = operator_of(kind, 1000000000.0, 4000000, 1000000, "fp16")
    cost = COST_MODELS.get("by-device").cost(operator, gpu.node, gpu.memory)
    if kind == "view":
        assert cost.seconds == 0
        return
    assert cost.seconds >= max(roof_seconds(operator, gpu.gpu.compute, gpu.memory)) * (1 - 1e-9)
    assert cost.launch_seconds > 0
    assert cost.read_bytes == 4_000_000
    assert cost.compute_energy_j > 0


def test_communication_is_refused() -> None:
    gpu = reference("a100-80gb")
    operator = operator_of("all_reduce", 0.0, 1, 1, "fp16", bytes=1, group=8)
    with pytest.raises(InputError, match="links set its time"):
        COST_MODELS.get("by-device").cost(operator, gpu.node, gpu.memory)


def test_hot_data_stays_off_the_pins() -> None:
    gpu = reference("rtx-4090")
    cold = product(16, 2048, 2048)
    hot = replace(cold, residency="hot")
    model = COST_MODELS.get("by-device")
    first, second = model.cost(cold, gpu.node, gpu.memory), model.cost(hot, gpu.node, gpu.memory)
    assert second.read_bytes < 0.1 * first.read_bytes
    assert second.memory_energy_j < first.memory_energy_j
    assert second.seconds < first.seconds


def test_older_libraries_launched_one_by_one_are_slower() -> None:
    gpu = reference("a100-80gb")
    operator = product(4096, 4096, 4096)
    eager, graph = (
        COST_MODELS.get(name).cost(operator, gpu.node, gpu.memory)
        for name in ("by-device-eager", "by-device")
    )
    assert eager.seconds > 1.1 * graph.seconds


def test_a_batch_of_rows_equals_rows_alone() -> None:
    gpu = reference("h100-sxm")
    operators = [product(8, 4096, 4096), attention(4, 32, 8, 1, 4096), product(512, 512, 512, "fp32")]
    together = GPU.predict_rows(operators, gpu.node, gpu.memory)
    for operator, one in zip(operators, together, strict=True):
        assert GPU.predict_rows([operator], gpu.node, gpu.memory)[0] == one


def test_a_simulated_l2_agrees_where_everything_fits_and_is_near_where_not() -> None:
    gpu = reference("a100-80gb")
    played = GPU.with_simulated_l2()
    fits = product(1024, 1024, 1024)
    assert played.cost(fits, gpu.node, gpu.memory) == GPU.cost(fits, gpu.node, gpu.memory)
    for m, n, k in ((8192, 8192, 8192), (4096, 14336, 4096), (16384, 4096, 12288), (300, 40000, 5000)):
        operator = product(m, n, k)
        closed, simulated = (model.cost(operator, gpu.node, gpu.memory).seconds for model in (GPU, played))
        assert simulated == pytest.approx(closed, rel=0.1)


def test_attention_and_lookups_are_played_too() -> None:
    """Prompts whose keys outgrow the L2 of 4 MiB read them again; rows that end inside a sector bring all of it."""
    gpu, constants = reference("t4"), GPU.constants
    sheet = GPU.sheet(gpu.node, gpu.memory)
    rows = operator_of("embedding", 0.0, 40 * 100000, 40 * 100000, "fp16", m=100000, n=20)
    fits = attention(1, 4, 4, 512, 512)
    found = {}
    for name, operator in (("long", attention(1, 32, 32, 16384, 16384)), ("fits", fits), ("rows", rows)):
        request = Request(operator, sheet, constants.setup("default"))
        closed = predict([request], constants)[0]
        found[name] = closed, with_simulated_l2(request, constants, closed)
    closed, played = found["long"]
    assert 1.5 * closed.dram_bytes < played.dram_bytes < 32 * closed.dram_bytes
    closed, played = found["fits"]
    assert played.dram_bytes == pytest.approx(closed.dram_bytes)
    closed, played = found["rows"]
    # Rows of 40 bytes touch two of a million sectors wherever they begin, each read once; 8 bytes of index a row.
    sectors = 1e6 * -math.expm1(-0.2)
    assert played.dram_bytes - rows.write_bytes == pytest.approx(32 * sectors + 8 * 100000, rel=0.02)
    assert played.kernel_s > 1.2 * closed.kernel_s
    model = GPU.with_simulated_l2()
    assert model.cost(rows, gpu.node, gpu.memory).seconds > GPU.cost(rows, gpu.node, gpu.memory).seconds


def test_an_lstm_runs_step_by_step() -> None:
    operator = operator_of(
        "recurrent",
        2.0 * 8 * 100 * 4 * 512 * 1024,
        4000000,
        800000,
        "fp16",
        name="lstm",
        batch=8,
        sequence=100,
        hidden=512,
        input_size=512,
    )
    as_product = lowered(operator)
    work = as_product.work
    assert isinstance(work, Product)
    assert (work.m, work.n, work.k, work.batch) == (8, 2048, 1024, 100)


def test_a_memory_s_share_stands_under_technology_and_generation() -> None:
    assert memory_key("HBM3", "Hopper") == "HBM3/Hopper"
