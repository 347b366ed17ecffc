"""Rates by access pattern: the engine's answer, the closed form's distance from it, and the system level."""

import pytest

from hw_configs.library import load_device, load_system
from hw_configs.problems import InputError
from simulator.cost.model import COST_MODELS, DEFAULT_COST_MODEL
from simulator.flash.patterns import DrivePattern, drive_rate, endurance_bytes
from simulator.system.costs import CostTable

DRIVES = ("nvme-pcie4-tlc", "nvme-pcie4-dc-tlc", "nvme-slc-low-latency", "ufs-4", "apple-ssd-1tb", "smartssd")


@pytest.mark.parametrize("name", DRIVES)
def test_a_data_sheets_stream_comes_out(name):
    device = load_device(name)
    engine = drive_rate(device, DrivePattern(), fidelity="event")
    closed = drive_rate(device, DrivePattern())
    assert engine.source == "engine"
    assert engine.bandwidth_bytes_per_s == pytest.approx(device.store.read_bandwidth, rel=0.12)
    assert closed.bandwidth_bytes_per_s == pytest.approx(engine.bandwidth_bytes_per_s, rel=0.1)


@pytest.mark.parametrize("name", DRIVES)
@pytest.mark.parametrize(("chunk", "depth"), [(4096, 1), (8192, 32), (16384, 32)])
def test_the_closed_form_is_near_for_random_reads(name, chunk, depth):
    pattern = DrivePattern(order="random", chunk_bytes=chunk, outstanding=depth)
    device = load_device(name)
    engine, closed = drive_rate(device, pattern, fidelity="event"), drive_rate(device, pattern)
    assert closed.bandwidth_bytes_per_s == pytest.approx(
        engine.bandwidth_bytes_per_s, rel=0.01 if depth == 1 else 0.45
    )


def test_more_in_flight_is_never_slower_and_larger_chunks_carry_more():
    device = load_device("nvme-pcie4-tlc")
    rates = [
        drive_rate(device, DrivePattern(order="random", chunk_bytes=8192, outstanding=n)).iops
        for n in (1, 4, 16, 64, 256)
    ]
    assert rates == sorted(rates)
    carried = [
        drive_rate(device, DrivePattern(order="random", chunk_bytes=c)).bandwidth_bytes_per_s
        for c in (4096, 8192, 16384, 65536)
    ]
    assert carried == sorted(carried)


def test_the_inside_is_faster_than_the_host_link():
    device = load_device("instinfer-csd")
    outside = drive_rate(device, DrivePattern(outstanding=256))
    inside = drive_rate(device, DrivePattern(outstanding=256, path="internal"))
    assert outside.bound_by == "host link"
    assert inside.bandwidth_bytes_per_s > outside.bandwidth_bytes_per_s


def test_a_drive_of_unknown_inside_answers_from_its_data_sheet():
    device = load_device("nvme-cloud-1500gb")
    rate = drive_rate(device, DrivePattern("write"))
    assert (rate.source, rate.bandwidth_bytes_per_s) == ("data sheet", 1e9)
    lone = drive_rate(device, DrivePattern(order="random", chunk_bytes=4096, outstanding=1))
    assert lone.bound_by == "queue depth"
    assert lone.latency_s == pytest.approx(120e-6 + 4096 / 2e9)
    with pytest.raises(InputError, match="rated cycles"):
        endurance_bytes(device)


def test_endurance_is_capacity_times_cycles():
    device = load_device("nvme-pcie4-tlc")
    assert endurance_bytes(device) == 2e12 * 3000
    assert endurance_bytes(device, 2.0) == 1e12 * 3000
    with pytest.raises(InputError):
        endurance_bytes(device, 0.5)


@pytest.mark.parametrize(
    "keys",
    [{"operation": "erase"}, {"order": "zigzag"}, {"path": "out"}, {"chunk_bytes": 0}, {"outstanding": 0}],
)
def test_a_pattern_that_makes_no_sense_is_refused(keys):
    with pytest.raises(InputError):
        DrivePattern(**keys)


def test_a_system_streams_from_a_drive_at_the_engines_rate():
    """Slower programs inside an unchanged data sheet slow a copy to the drive down."""
    system = load_system("desktop")
    (name,) = (node.name for node in system.nodes.values() if node.device.kind == "flash")
    (host,) = (node.memory for node in system.nodes.values() if node.device.kind == "cpu")
    model = COST_MODELS.get(DEFAULT_COST_MODEL)

    def rate(table):
        path = table.path(host, name)
        return min(table.capacity[resource] for resource in path.resources)

    plain = rate(CostTable(system, model))
    store = system.nodes[name].device.store
    assert plain <= store.write_bandwidth
    timing = store.timing.model_copy(update={"program": 2e-3})
    slow_store = store.model_copy(update={"timing": timing})
    device = system.nodes[name].device.model_copy(update={"store": slow_store})
    from dataclasses import replace

    nodes = dict(system.nodes) | {name: replace(system.nodes[name], device=device)}
    slow = replace(system, nodes=nodes)
    assert rate(CostTable(slow, model)) < 0.5 * plain
    assert rate(CostTable(slow, model, drives="closed")) < 0.5 * plain
