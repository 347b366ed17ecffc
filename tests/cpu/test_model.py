"""CPUs: the model against a plain reckoning, against physics, and against what engines were measured to do."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.device import Cpu
from hw_configs.library import catalog, load_device, load_system
from hw_configs.processor import processor_settings
from hw_configs.system import MemorySpace, Node
from simulator.cost.by_device import BY_DEVICE
from simulator.cost.model import OperatorCost, operator_rate
from simulator.cpu.memory import reach
from simulator.cpu.model import barrier_seconds
from simulator.cpu.rates import kernel_rate
from simulator.cpu.work import demand
from tests.cpu.oracle import product_seconds, stream_bytes_per_s
from tests.typed import work_of
from workloads.dtypes import BITS, GGUF, dtype_bits
from workloads.graph import Operator
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

REFERENCE = Path(__file__).parents[1] / "reference" / "cpu"
CPUS = sorted(
    entry.name for entry in catalog().values() if entry.kind == "device" and entry.path.parent.name == "cpu"
)


def cpu_of(name: str, sockets: int = 1, placement: str = "interleaved", threads: int | None = None) -> Cpu:
    device = load_device(name)
    data = device.model_dump(exclude_none=True)
    return Cpu.model_validate(processor_settings(data, sockets, placement, threads))  # type: ignore[arg-type]


def memory_of(bandwidth: float, technology: str = "DDR5-5600") -> MemorySpace:
    return MemorySpace("host", technology, 1 << 40, 1 << 40, bandwidth, bandwidth, 9e-8, 1e-11, 1e-11, 1)


def price(cpu: Cpu, operator: Operator, memory: MemorySpace | None = None) -> OperatorCost:
    return BY_DEVICE.cost(operator, Node("cpu", "cpu", cpu, "host"), memory or memory_of(90e9))


def product(m: int, n: int, k: int, dtype: str = "q4_k") -> Operator:
    weights = int(n * k * dtype_bits(dtype) / 8)
    work = work_of("matmul", m=m, n=n, k=k, weight_dtype=dtype)
    return Operator("x", work, ("a", "w"), ("y",), reads=(2 * m * k, weights), writes=(2 * m * n,))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(CPUS), st.sampled_from(sorted(GGUF)), st.integers(1, 70), st.integers(1, 40), st.integers(1, 16),
    st.integers(1, 40),
)  # fmt: skip
def test_products_of_blocks_equal_a_plain_reckoning(
    name: str, dtype: str, m: int, n: int, k: int, threads: int
) -> None:
    cpu = load_device(name)
    assert isinstance(cpu, Cpu)
    cpu = cpu.model_copy(update={"threads": min(threads, cpu.cores)})
    asked = demand(product(m, 16 * n - 3, 256 * k, dtype), cpu)
    found = asked.clocks * asked.uneven / (asked.cores * cpu.clock)
    assert found == pytest.approx(product_seconds(cpu, dtype, m, 16 * n - 3, 256 * k), rel=1e-9)


@given(
    st.sampled_from(CPUS), st.integers(1, 4), st.sampled_from(["interleaved", "local", "one-socket"]),
    st.integers(1, 256), st.floats(20e9, 2e12), st.sampled_from(["DDR4-3200", "DDR5-4800", "LPDDR5X-8533"]),
)  # fmt: skip
def test_a_stream_takes_the_least_of_its_bounds(
    name: str, sockets: int, placement: str, cores: int, pins: float, technology: str
) -> None:
    device = load_device(name)
    assert isinstance(device, Cpu)
    sockets = sockets if device.socket_link is not None else 1
    cpu = cpu_of(name, sockets, placement)
    cores = min(cores, cpu.cores)
    found = reach(cpu, memory_of(pins, technology), cores)
    assert found.read == pytest.approx(stream_bytes_per_s(cpu, pins, technology, cores), rel=1e-12)
    assert found.read <= pins


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(CPUS), st.sampled_from(sorted(BITS)), st.integers(1, 600), st.integers(1, 5000),
    st.integers(1, 5000), st.integers(1, 64), st.floats(20e9, 1e12),
)  # fmt: skip
def test_no_product_beats_physics(
    name: str, dtype: str, m: int, n: int, k: int, threads: int, pins: float
) -> None:
    cpu = load_device(name)
    assert isinstance(cpu, Cpu)
    cpu = cpu.model_copy(update={"threads": min(threads, cpu.cores)})
    memory, operator = memory_of(pins), product(m, n, k, dtype)
    cost = price(cpu, operator, memory)
    took = cost.seconds * (1 + 1e-9)
    assert took >= operator.flops / operator_rate(cpu.compute, operator)
    assert took >= memory.traffic_seconds(cost.read_bytes, cost.write_bytes)
    assert int(n * k * dtype_bits(dtype) / 8) <= cost.read_bytes <= operator.read_bytes, (
        "weights come from memory"
    )
    assert cost.launch_seconds == pytest.approx(2 * barrier_seconds(cpu))
    assert cost.compute_energy_j >= 0


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(CPUS), st.integers(1, 64), st.integers(256, 9000), st.sampled_from(sorted(GGUF)))
def test_more_threads_and_fewer_rows_take_no_longer(name: str, m: int, n: int, dtype: str) -> None:
    cpu = load_device(name)
    assert isinstance(cpu, Cpu)
    one, all_of_them = (cpu.model_copy(update={"threads": count}) for count in (1, cpu.cores))
    operator = product(m, n, 4096, dtype)
    assert price(all_of_them, operator).seconds <= price(one, operator).seconds * (1 + 1e-9)
    fewer, more = (demand(product(rows, n, 4096, dtype), cpu).clocks for rows in (m, m + 1))
    assert fewer < more, "seconds need not: more blocks of rows keep more cores busy"


@pytest.mark.parametrize("name", CPUS)
def test_every_stored_type_has_a_rate_below_the_sheet(name: str) -> None:
    cpu = load_device(name)
    assert isinstance(cpu, Cpu)
    for dtype in BITS:
        if dtype in ("int64", "int32", "int16", "bool"):
            continue
        rate = kernel_rate(cpu, dtype)
        assert 0 < rate.dot <= rate.gemm


def test_a_slow_core_is_bound_by_arithmetic_and_a_fast_one_by_memory() -> None:
    slow, fast = cpu_of("ryzen-5600x", threads=2), cpu_of("ryzen-9950x")
    decode = product(1, 14336, 4096, "iq3_xxs")
    assert price(slow, decode).bound_by == "compute"
    assert price(fast, product(1, 14336, 4096, "q8_0")).bound_by == "memory"


def test_two_sockets_gain_by_local_weights_and_lose_by_one_memory() -> None:
    weights = product(1, 200_000, 7168, "q4_k")
    one = price(cpu_of("xeon-6454s"), weights, memory_of(307e9, "DDR5-4800")).seconds
    both = {
        where: price(cpu_of("xeon-6454s", 2, where), weights, memory_of(615e9, "DDR5-4800")).seconds
        for where in ("local", "interleaved", "one-socket")
    }
    assert both["local"] < both["interleaved"] < one < both["one-socket"]
    assert 1.6 < one / both["local"] < 2.01


def test_threads_meet_one_after_another_and_farther_across_sockets() -> None:
    """A line goes to 32 cores at 5 us / 32 each; to 64 of two sockets, every second time twice as far."""
    one, both = cpu_of("xeon-6454s"), cpu_of("xeon-6454s", 2, "local")
    ways = [1.0 if thread % 2 else 2.0 for thread in range(64)]
    assert barrier_seconds(one) == pytest.approx(5e-6)
    assert barrier_seconds(both) == pytest.approx(sum(ways) * 5e-6 / 32)
    assert barrier_seconds(cpu_of("xeon-6454s", threads=8)) == pytest.approx(8 * 5e-6 / 32)


def test_small_activations_stay_in_the_cache_and_large_ones_do_not() -> None:
    cpu = cpu_of("ryzen-7950x")
    small = Operator(
        "x",
        work_of("norm", m=64, n=4096, flops_per_element=4.0),
        ("a",),
        ("y",),
        reads=(1 << 19,),
        writes=(1 << 19,),
    )
    large = replace(small, reads=(1 << 29,), writes=(1 << 29,))
    assert price(cpu, small).read_bytes == price(cpu, small).write_bytes == 0
    assert price(cpu, large).read_bytes == price(cpu, large).write_bytes == 1 << 29


def test_a_decode_steps_norm_is_one_cores_work() -> None:
    few, many = cpu_of("epyc-9654", threads=2), cpu_of("epyc-9654")
    norm = Operator(
        "x",
        work_of("norm", m=1, n=8192, flops_per_element=4.0),
        ("a",),
        ("y",),
        reads=(16384,),
        writes=(16384,),
    )
    assert price(few, norm).seconds == price(many, norm).seconds
    assert price(few, norm).launch_seconds < price(many, norm).launch_seconds


def test_experts_touched_cost_and_others_do_not() -> None:
    cpu = cpu_of("ryzen-7950x")

    def experts(touched: float) -> Operator:
        work = work_of(
            "grouped_matmul",
            m=8,
            n=768,
            k=2048,
            groups=128,
            active=8,
            expected_groups=touched,
            weight_dtype="q4_k",
        )
        return Operator(
            "x", work, ("a", "w"), ("y",), reads=(32768, int(touched * 768 * 2048 * 4.5 / 8)), writes=(12288,)
        )

    assert price(cpu, experts(8)).seconds == pytest.approx(2 * price(cpu, experts(4)).seconds, rel=0.1)


def test_attention_pays_for_its_cache_and_its_softmax() -> None:
    cpu = cpu_of("ryzen-5600x")

    def attention(kv_dtype: str, kv_len: int) -> Operator:
        fields = {"batch": 1, "heads": 32, "kv_heads": 8, "head_dim": 128, "q_len": 1, "kv_len": kv_len}
        size = int(2 * 8 * 128 * kv_len * BITS[kv_dtype] / 8)
        return Operator(
            "x",
            work_of("attention", **fields, kv_dtype=kv_dtype),
            ("q", "kv"),
            ("y",),
            reads=(8192, size),
            writes=(8192,),
        )

    assert price(cpu, attention("fp16", 8192)).seconds > 1.8 * price(cpu, attention("fp16", 4096)).seconds
    fields = attention("fp16", 4096)
    clocks = demand(fields, cpu).clocks
    assert clocks == pytest.approx(32 * 4096 * (256 / 8 + 3.0)), (
        "fp16 by eight lanes, three clocks of softmax"
    )


def test_a_system_says_threads_and_sockets() -> None:
    both, one = load_system("rtx-4090-2x-xeon-6454s"), load_system("rtx-4090-xeon-6454s")
    cpu, single = both.nodes["cpu"].device, one.nodes["cpu"].device
    assert isinstance(cpu, Cpu)
    assert isinstance(single, Cpu)
    assert (cpu.cores, cpu.sockets, cpu.placement, cpu.name) == (64, 2, "local", "2 x xeon-6454s")
    assert cpu.compute.matrix["int8"] == 2 * single.compute.matrix["int8"]
    assert cpu.compute.energy_per_operation == single.compute.energy_per_operation
    assert cpu.power is not None
    assert single.power is not None
    assert cpu.power.tdp == 2 * single.power.tdp


def published(phase: str) -> list[dict[str, str]]:
    return list(csv.DictReader((REFERENCE / f"{phase}.csv").open(newline="")))


ROWS = [(phase, row) for phase in ("decode", "prefill") for row in published(phase)]


def rate(phase: str, row: dict[str, str]) -> float:
    """Tokens per second of a decode step, or of a prefill, on a CPU alone."""
    cpu = cpu_of(row["cpu"], threads=int(row["threads"]))
    memory = memory_of(float(row["bandwidth_gbs"]) * 1e9, row["technology"])
    model = str(REFERENCE / row["model"]) if row["model"].endswith(".json") else row["model"]
    tokens = int(row["context"])
    graph = (
        load_workload(model, WorkloadOptions(phase=phase, prompt=tokens, dtype=row["dtype"])).phases[0].graph
    )
    costs = [price(cpu, operator, memory) for operator in graph.operators]
    seconds = sum(cost.seconds + cost.launch_seconds for cost in costs)
    return (1 if phase == "decode" else tokens) / seconds


@pytest.mark.parametrize(
    ("phase", "row"),
    ROWS,
    ids=lambda x: x if isinstance(x, str) else f"{x['cpu']}-{x['threads']}-{x['dtype']}",
)
def test_a_model_comes_as_near_to_what_was_measured_as_the_page_says(phase: str, row: dict[str, str]) -> None:
    """The page's ratios are this model's; which of them are far off stands there too."""
    assert rate(phase, row) / float(row["tokens_per_s"]) == pytest.approx(float(row["ratio"]), abs=0.006)


def test_half_of_the_published_decodes_come_within_a_fifth() -> None:
    off = sorted(max(float(row["ratio"]), 1 / float(row["ratio"])) for row in published("decode"))
    assert off[len(off) // 2] <= 1.2
