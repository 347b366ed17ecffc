"""Paths, partitions, the pipeline and whole epochs: closed forms, bounds, and what scaling leaves alone."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import offchip
from hw_configs.problems import InputError, PhysicsError
from simulator.gather import epoch
from simulator.gather.epoch import EpochSetup, run_epoch
from simulator.gather.packets import PacketRule
from simulator.gather.partitions import beta_order, partitioned_epoch, within
from simulator.gather.paths import Demand, PathOptions, demand_of, transfer
from simulator.gather.pipeline import run_pipeline
from simulator.gather.stores import StoreOptions
from simulator.gather.table import FeatureTable
from simulator.gather.training import GraphModel, batch_operators, training_cost
from tests.gather import oracle
from workloads.graph_data import NeighbourSampling, training_batches
from workloads.graph_data.batches import LayerSizes, training_nodes
from workloads.graph_data.generators import barabasi_albert


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1, max_size=8), st.integers(1, 3)
)
def test_a_pipeline_keeps_its_rules(times: list[list[int]], queue: int) -> None:
    array = np.array(times, float)
    run = run_pipeline(array, queue)
    alone = run_pipeline(array, 0)
    assert alone.seconds == array.sum()
    assert array.sum(axis=0).max() <= run.seconds <= alone.seconds
    assert run.busy == tuple(array.sum(axis=0))
    assert run_pipeline(array, queue + 1).seconds <= run.seconds
    # The oracle: events in a dictionary, each as late as the latest of what it waits for.
    begun: dict[tuple[int, int], float] = {}
    for b, s in itertools.product(range(len(times)), range(3)):
        waits = [begun[b - 1, s] + times[b - 1][s]] if b else [0.0]
        waits += [begun[b, s - 1] + times[b][s - 1]] if s else []
        waits += [begun[b - queue, s + 1]] if s < 2 and b >= queue else []
        begun[b, s] = max(waits)
    assert run.seconds == max(begun[b, 2] + times[b][2] for b in range(len(times)))


def demand(rows: int, row_bytes: int = 512, base: int = 0) -> tuple[FeatureTable, Demand]:
    table = FeatureTable(1 << 22, row_bytes, base)
    picked = np.random.default_rng(1).choice(table.rows, rows, replace=False)
    return table, demand_of(table, picked, PacketRule())


def test_the_cpu_passes_three_times_over_host_memory() -> None:
    machine = oracle.machine()
    table, asked = demand(100_000)
    found = transfer(machine, table, asked, PathOptions("cpu"))
    assert found.host_bytes == 3 * found.useful_bytes == 3 * 100_000 * 512
    pageable = transfer(machine, table, asked, PathOptions("cpu", pinned=False))
    assert pageable.host_bytes == 5 * found.useful_bytes
    assert pageable.seconds > found.seconds
    # One thread waits for its lines: ten in flight, 64 bytes each, over the memory's latency.
    one = transfer(machine, table, asked, PathOptions("cpu", threads=1))
    assert one.gather_s == pytest.approx(100_000 * 512 / (640 / machine.host_memory.latency_s))
    assert one.gather_s >= found.gather_s


def test_zero_copy_reads_lines_and_headers_at_the_rate_of_the_wire() -> None:
    machine = oracle.machine()
    table, asked = demand(100_000)
    found = transfer(machine, table, asked, PathOptions("zero-copy"))
    assert found.requests == 400_000
    assert found.host_bytes == found.useful_bytes == found.payload_bytes
    assert found.wire_bytes == 400_000 * (128 + 22)
    assert found.copy_s == pytest.approx(found.wire_bytes / machine.pcie.lane_rate + machine.round_trip_s)
    assert found.gather_s == found.core_s == 0
    skewed = transfer(machine, *demand(100_000, base=4), PathOptions("zero-copy"))
    assert skewed.requests == 500_000


def test_migration_moves_pages_and_the_gpu_moves_nothing() -> None:
    machine = oracle.machine()
    table, asked = demand(1000)
    found = transfer(machine, table, replace(asked, misses=900), PathOptions("uvm"))
    assert found.wire_bytes == 900 * 4096
    assert found.core_s == 4 * 30e-6
    here = transfer(machine, table, asked, PathOptions("gpu"))
    assert here.wire_bytes == here.host_bytes == 0
    assert here.seconds < transfer(machine, table, asked, PathOptions("zero-copy")).seconds
    assert transfer(machine, table, asked.times(0), PathOptions("cpu")).seconds == 0


def test_gpus_share_memory_and_wires() -> None:
    table, asked = demand(200_000)
    for path in ("cpu", "zero-copy"):
        seconds = [
            transfer(oracle.machine("dgx-a100", gpus=n), table, asked, PathOptions(path)).seconds
            for n in (1, 2, 8)
        ]
        assert seconds == sorted(seconds)
        assert seconds[2] < 8.01 * seconds[0]
    assert oracle.machine("dgx-a100", gpus=8).link_share <= 1
    with pytest.raises(InputError, match="--gpus"):
        oracle.machine(gpus=2)


@given(st.integers(2, 12), st.data())
def test_beta_brings_every_two_partitions_together(partitions: int, data: st.DataObject) -> None:
    buffer = data.draw(st.integers(2, partitions))
    states = beta_order(partitions, buffer)
    met = {frozenset(pair) for state in states for pair in itertools.combinations(state.held, 2)}
    assert met == {frozenset(pair) for pair in itertools.combinations(range(partitions), 2)}
    assert all(len(state.held) <= buffer for state in states)
    before: tuple[int, ...] = ()
    for state in states:
        assert set(state.read) == set(state.held) - set(before)
        before = state.held
    # Each read after the first fill brings at most buffer - 1 new pairs (Marius, OSDI 2021).
    swaps = sum(len(state.read) for state in states) - buffer
    pairs = partitions * (partitions - 1) // 2 - buffer * (buffer - 1) // 2
    assert swaps >= -(-pairs // (buffer - 1))


@pytest.mark.parametrize("cover", ["training", "pairs"])
def test_a_partition_buffer_samples_inside_itself(cover: str) -> None:
    graph = barabasi_albert(600, 4, seed=1)
    training = training_nodes(graph, 90, seed=2)
    table = FeatureTable(600, 256)
    options = StoreOptions("partition-buffer", partitions=10, buffer=4, cover=cover)
    made = partitioned_epoch(graph, training, 16, NeighbourSampling((4, 4)), table, options)
    assert made.trace.seeds == 90
    assert sum(made.nodes_of) == 600
    read = sum(made.nodes_of[p] for state in made.states for p in state.read) * 256
    assert made.plan.long.bytes == made.plan.read_bytes == read
    if cover == "training":
        assert made.partitions_read == 4
        assert np.unique(made.trace.rows).size <= 240
    whole = training_batches(graph, training, 16, NeighbourSampling((4, 4)))
    assert made.trace.rows.size < whole.rows.size
    full = StoreOptions("partition-buffer", partitions=4, buffer=4, cover=cover)
    free = partitioned_epoch(graph, training, 16, NeighbourSampling((4, 4)), table, full)
    assert free.trace.rows.size == pytest.approx(whole.rows.size, rel=0.05)
    with pytest.raises(InputError, match="--buffer"):
        partitioned_epoch(graph, np.arange(600), 16, NeighbourSampling((4,)), table,
                          StoreOptions("partition-buffer", partitions=10, buffer=4))  # fmt: skip


def test_a_graph_within_keeps_its_inner_edges() -> None:
    graph = barabasi_albert(60, 3, seed=1)
    inside = np.arange(60) % 3 > 0
    part = within(graph, inside)
    for node in range(60):
        expected = [n for n in graph.of(node).tolist() if inside[n]] if inside[node] else []
        assert part.of(node).tolist() == expected


def test_the_operators_of_a_step_do_the_arithmetic_of_its_layers() -> None:
    layers = [LayerSizes(10, 60, 80), LayerSizes(60, 300, 400)]
    model = GraphModel("gcn", features=128, hidden=256, classes=47)
    flops = sum(op.flops for op in batch_operators(model, layers) if op.kind == "matmul")
    # Forward once, weights back once, inputs back for the second layer only.
    first, second = 2 * 60 * 128 * 256, 2 * 10 * 256 * 47
    assert flops == 2 * first + 3 * second
    edges = [op for op in batch_operators(model, layers) if op.name == "aggregate"]
    assert [op.read_bytes for op in edges] == [400 * 128 * 4, 80 * 256 * 4]
    assert [op.write_bytes for op in edges] == [60 * 128 * 4, 10 * 256 * 4]
    sage = sum(
        op.flops for op in batch_operators(replace(model, model="sage"), layers) if op.kind == "matmul"
    )
    assert sage == 2 * flops
    machine = oracle.machine()
    costs = [training_cost(machine, replace(model, model=m), layers) for m in ("gcn", "sage", "gat")]
    assert all(cost.seconds > 0 and cost.energy_j > 0 for cost in costs)
    larger = training_cost(
        machine, model, [LayerSizes(1000, 60_000, 80_000), LayerSizes(60_000, 300_000, 400_000)]
    )
    assert larger.seconds > costs[0].seconds


def setup(**more: object) -> tuple[EpochSetup, object]:
    graph = barabasi_albert(2000, 6, seed=1)
    trace = training_batches(graph, training_nodes(graph, 300, seed=1), 32, NeighbourSampling((5, 5)))
    return EpochSetup(oracle.machine(), FeatureTable(2000, 512), GraphModel(), **more), trace


def test_everything_in_the_gpu_reads_nothing() -> None:
    chosen, trace = setup(path=PathOptions("gpu"), store=StoreOptions("four-level", gpu_cache=2000 * 512))
    result = run_epoch(chosen, trace)
    assert result.bytes == {"drive to host": 0, "host memory": 0, "host to GPU": 0}
    assert result.reads == result.requests == 0
    assert result.hits["GPU cache"] == result.rows


@pytest.mark.parametrize("store", ["host", "four-level", "belady-window", "page-cache"])
@pytest.mark.parametrize("path", ["cpu", "zero-copy", "uvm"])
def test_an_epoch_adds_up(store: str, path: str) -> None:
    chosen, trace = setup(path=PathOptions(path), store=StoreOptions(store, 100 * 512, 300 * 512))
    result = run_epoch(chosen, trace)
    assert sum(result.hits.values()) == result.rows == trace.rows.size
    assert result.useful_bytes == trace.rows.size * 512
    assert max(result.stages.named().values()) <= result.epoch_s <= result.stages.total * (1 + 1e-9)
    serial = run_epoch(replace(chosen, queue=0, copy_share=0), trace)
    assert serial.epoch_s == pytest.approx(serial.stages.total)
    ahead = run_epoch(replace(chosen, overlap="sampling", copy_share=0), trace)
    assert result.epoch_s * 0.85 <= ahead.epoch_s <= serial.epoch_s
    assert ahead.epoch_s >= ahead.stages.total - ahead.stages.sample - 1e-12
    assert result.energy.total == pytest.approx(sum(result.energy.named().values()))
    assert 85 < result.power_w < 800
    assert result.read_amplification >= (1.0 if store in ("four-level", "belady-window") else 0.0)
    wanted = result.hits["drive pages"] + result.hits["drive packed"]
    assert result.bytes["drive to host"] >= wanted * 512 * 0.99
    assert (store == "host") == (wanted == 0)


def test_sampling_and_the_power_of_cores_follow_the_files() -> None:
    chosen, trace = setup(queue=0)
    result = run_epoch(chosen, trace)
    machine = chosen.machine
    edges = sum(layer.edges for layers in trace.layers for layer in layers)
    assert result.edges == edges
    assert result.stages.sample == pytest.approx(edges * 2 * machine.host_memory.latency_s / 24)
    quiet = run_epoch(replace(chosen, sampling="before"), trace)
    assert quiet.stages.sample == 0
    # 24 cores sample at the whole of what lies between idle and TDP; idle power runs for as long as the epoch.
    spent = result.energy.cpu - quiet.energy.cpu
    assert spent == pytest.approx(280 * result.stages.sample, rel=1e-6)
    direct = run_epoch(replace(chosen, path=PathOptions("zero-copy"), sampling="before"), trace)
    assert direct.energy.cpu == pytest.approx(60 * direct.epoch_s)
    assert direct.energy.link == pytest.approx(direct.bytes["host to GPU"] * 40e-12)


def test_zero_copy_beside_training_takes_a_share_of_the_gpu() -> None:
    chosen, trace = setup(path=PathOptions("zero-copy"))
    beside = run_epoch(chosen, trace)
    for alone in (
        replace(chosen, queue=0),
        replace(chosen, overlap="sampling"),
        replace(chosen, copy_share=0),
    ):
        assert beside.stages.train == pytest.approx(run_epoch(alone, trace).stages.train / 0.9)


def test_gpus_share_the_cores_of_a_gather() -> None:
    table, asked = demand(100_000)
    one, two = (
        transfer(oracle.machine("gnn-workstation-x2", gpus=n), table, asked, PathOptions("cpu", threads=2))
        for n in (1, 2)
    )
    assert two.gather_s == pytest.approx(2 * one.gather_s)
    assert two.core_s == pytest.approx(one.core_s)


def test_counts_scale_with_the_batch_and_the_epoch() -> None:
    chosen, trace = setup(store=StoreOptions("belady-window", 0, 300 * 512))
    one = run_epoch(chosen, trace)
    ten = run_epoch(replace(chosen, per_batch=10.0, batches=2 * trace.batches), trace)
    for name, moved in one.bytes.items():
        assert ten.bytes[name] == pytest.approx(20 * moved)
    assert ten.rows == 20 * one.rows
    assert ten.reads == 20 * one.reads
    assert ten.read_amplification == one.read_amplification
    assert ten.batches == 2 * one.batches
    assert ten.epoch_s == pytest.approx(20 * one.epoch_s, rel=0.1)


def test_an_epoch_shorter_than_a_stage_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, trace = setup()

    def hasty(times, queue):
        return replace(run_pipeline(times, queue), seconds=times.sum(axis=0).max() / 2)

    monkeypatch.setattr(epoch, "run_pipeline", hasty)
    with pytest.raises(PhysicsError, match="slowest stage"):
        run_epoch(chosen, trace)


def test_caches_must_fit_the_machine() -> None:
    with pytest.raises(InputError, match="--gpu-cache"):
        setup(store=StoreOptions("four-level", gpu_cache=2**40))
    with pytest.raises(InputError, match="--cpu-cache"):
        setup(store=StoreOptions("four-level", cpu_cache=2**40))
    with pytest.raises(InputError, match="--gpu-cache"):
        setup(path=PathOptions("gpu"), per_batch=1e6)
    with pytest.raises(InputError, match="--overlap"):
        setup(overlap="none")
    with pytest.raises(InputError, match="--sampling"):
        setup(sampling="never")


def test_two_scales_agree_on_what_a_row_costs() -> None:
    """Batches, caches and graph made smaller together leave shares of rows and pages as they were."""
    found = [
        offchip.trace_gather(
            "ogbn-papers100m", "gnn-disk-node", scale=scale, store="belady-window", cpu_cache="5 GB",
            fan_out="5,5", batches=150,
        )
        for scale in ("1/512", "1/1024")
    ]  # fmt: skip
    one, other = found
    assert one.rows == pytest.approx(other.rows, rel=0.05)
    assert one.hits["host memory"] / one.rows == pytest.approx(
        other.hits["host memory"] / other.rows, abs=0.03
    )
    assert one.epoch_s == pytest.approx(other.epoch_s, rel=0.06)
