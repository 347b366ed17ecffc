"""Banks of blocks: sizes by hand, hits against caches kept one by one, times of each place; memories of every token."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import offchip
from hw_configs.library import load_device, load_system
from hw_configs.problems import InfeasibleError, InputError, PhysicsError
from simulator.flash.drive import drive_of
from simulator.memory_bank import bank as bank_module
from simulator.memory_bank.bank import BankOptions, simulate_bank
from simulator.memory_bank.fetch import Fetcher, route_of
from tests.memory_bank.test_stack_distance import kept
from workloads.memory_bank import BankLevel, HierarchicalBank, load_bank, preset_banks
from workloads.memory_bank.contexts import block_trace, leaves_of
from workloads.memory_bank.mlp import mlp_graph

DESKTOP = load_system("desktop")


def bank(**changes):
    fields = {
        "kind": "hierarchical", "name": "b", "anchor_parameters": 1_000_000, "place": "memory", "zipf": 0.8,
        "levels": [{"blocks": 4, "parameters": 3000}, {"blocks": 24, "parameters": 1000}], "cache": 20_000.0,
    }  # fmt: skip
    return HierarchicalBank.model_validate(fields | changes)


def test_sizes_by_hand():
    one = bank()
    assert (one.context_bytes, one.bank_parameters, one.bank_bytes) == (8000, 36_000, 72_000)
    assert one.levels[1] == BankLevel(blocks=24, parameters=1000)


def test_a_context_takes_the_blocks_on_the_way_to_its_leaf():
    trace = block_trace(bank(), np.array([0, 5, 6, 23]))
    assert np.asarray(trace.object).tolist() == [0, 4, 0, 9, 1, 10, 3, 27]
    assert np.asarray(trace.size).tolist() == [6000, 2000] * 4


@pytest.mark.parametrize("cache", [8_000, 20_000, 50_000, 72_000])
def test_hits_by_level_are_those_of_a_cache_that_is_kept(cache):
    one = bank(cache=float(cache))
    found = simulate_bank(one, DESKTOP, BankOptions(contexts=400))
    trace = block_trace(one, leaves_of(one, 400, 1))
    hits = np.array(kept(np.asarray(trace.object).tolist(), np.asarray(trace.size).tolist(), cache)).reshape(
        -1, 2
    )
    assert [level.hit_rate for level in found.levels] == pytest.approx(hits[200:].mean(axis=0).tolist())
    assert found.point.fetched_bytes == pytest.approx(
        float(((1 - hits[200:]) * [6000, 2000]).sum(axis=1).mean())
    )


def test_a_larger_cache_hits_more_and_waits_less():
    found = simulate_bank(bank(place="drive"), DESKTOP, BankOptions(contexts=600)).caches
    assert len(found) > 3
    for smaller, larger in pairwise(found):
        assert larger.cache_bytes > smaller.cache_bytes
        assert larger.hit_rate >= smaller.hit_rate
        assert larger.fetched_bytes <= smaller.fetched_bytes
        assert larger.latency_mean_s <= smaller.latency_mean_s


def test_popular_leaves_come_by_zipf_s_law():
    leaves = leaves_of(bank(zipf=1.0), 200_000, seed=4)
    counts = np.sort(np.bincount(leaves, minlength=24))[::-1] / 200_000
    law = 1 / np.arange(1, 25)
    assert counts == pytest.approx(law / law.sum(), rel=0.06)
    assert np.bincount(leaves_of(bank(zipf=0.0), 240_000, 1)).std() < 150


def test_contexts_from_a_file(tmp_path):
    path = tmp_path / "contexts.txt"
    path.write_text("3\n" * 10)
    found = simulate_bank(bank(zipf=0.0, contexts=str(path)), DESKTOP, BankOptions())
    assert (found.contexts, found.point.hit_rate, found.point.latency_mean_s) == (10, 1.0, 0.0)
    path.write_text("3\n24\n")
    with pytest.raises(InputError, match=r"contexts.txt:2: found '24'; expected a leaf from 0 to 23"):
        simulate_bank(bank(zipf=0.0, contexts=str(path)), DESKTOP, BankOptions())


def test_host_memory_gives_the_wire_s_time():
    one = bank()
    route = route_of(one, DESKTOP, 1)
    fetcher = Fetcher(one, DESKTOP, route, 1, 1)
    assert fetcher.seconds((True, False)) == pytest.approx(
        route.wire_latency_s + 6000 / route.wire_bytes_per_s
    )
    assert fetcher.seconds((False, False)) == 0
    assert Fetcher(bank(place="gpu"), DESKTOP, route, 1, 1).seconds((True, True)) == 0


def test_a_drive_takes_at_least_its_read_latency_and_at_most_a_little_more_than_its_rate():
    one = bank(place="drive", levels=[{"blocks": 8, "parameters": 16_000_000}], cache=0.0, request=131072.0)
    route = route_of(one, DESKTOP, 1)
    took = Fetcher(one, DESKTOP, route, 1, 1).seconds((True,))
    store = load_device("nvme-pcie4-tlc").store
    assert 32e6 / store.read_bandwidth <= took * 1.02
    assert took < 1.5 * 32e6 / store.read_bandwidth + store.read_latency
    halves = Fetcher(one, DESKTOP, route_of(one, DESKTOP, 2), 2, 1).seconds((True,))
    assert 0.45 * took < halves < 0.6 * took
    tiny = bank(place="drive", levels=[{"blocks": 8, "parameters": 512}], cache=0.0)
    alone = Fetcher(tiny, DESKTOP, route, 1, 1).seconds((True,))
    drive = drive_of(load_device("nvme-pcie4-tlc"))
    assert min(drive.read_ns) * 1e-9 < alone < 3 * store.read_latency


def test_flash_is_never_quicker_than_host_memory():
    options = BankOptions(contexts=200)
    flash, host, near = (
        simulate_bank(load_bank("hierarchical-160m").model_copy(update={"place": place}), DESKTOP, options)
        for place in ("drive", "memory", "gpu")
    )
    assert flash.point.latency_mean_s > host.point.latency_mean_s > near.point.latency_mean_s == 0
    assert flash.point.fetched_bytes == host.point.fetched_bytes


def test_what_does_not_fit_says_by_how_much():
    big = bank(levels=[{"blocks": 4096, "parameters": 10_000_000}], cache=0.0)
    with pytest.raises(
        InfeasibleError, match=r"81920000000 bytes do not fit the \d+ bytes of 'host'; \d+ bytes are"
    ):
        simulate_bank(big, DESKTOP, BankOptions())
    near = bank(place="gpu", levels=[{"blocks": 4096, "parameters": 4_000_000}], cache=0.0)
    with pytest.raises(InfeasibleError, match=r"of 'gpu'"):
        simulate_bank(near, DESKTOP, BankOptions())


def test_books_that_disagree_are_seen(monkeypatch):
    right = bank_module._point

    def wrong(*arguments):
        from dataclasses import replace

        return replace(right(*arguments), fetched_bytes=right(*arguments).fetched_bytes + 100)

    monkeypatch.setattr(bank_module, "_point", wrong)
    with pytest.raises(PhysicsError, match="levels fetch"):
        simulate_bank(bank(), DESKTOP, BankOptions(contexts=100))


def test_the_abstract_s_sizes():
    one = load_bank("hierarchical-160m")
    assert one.bank_parameters == pytest.approx(4.6e9, rel=1e-3)
    assert sum(level.parameters for level in one.levels) == pytest.approx(18e6, rel=1e-3)


def test_an_mlp_memory_has_the_parameters_it_states():
    memory = load_bank("mlp-memory-gpt2-large")
    graph = mlp_graph(memory, 3)
    norms = 2 * 1280 * (memory.layers + 1)
    assert memory.parameters == 2 * 54 * 1280 * 5120 + 50257 * 1280
    assert graph.parameters() == memory.parameters + norms
    assert memory.parameters == pytest.approx(774e6, rel=0.01)


def test_a_memory_of_every_token_costs_at_least_its_weights():
    found = offchip.trace_bank("mlp-memory-gpt2-large", "a100-80gb")
    memory = load_system("a100-80gb").memories["a100-80gb"]
    assert found.memory_s > found.memory_bytes / memory.read_bandwidth
    assert found.after_s == found.model_s + found.memory_s
    assert found.together_s == max(found.model_s, found.memory_s)


@pytest.mark.parametrize("name", preset_banks())
def test_presets_are_what_they_are_called(name):
    assert load_bank(name).name == name
