"""Clusters: every member and wire is there, routes hold together and take the port nearest to each end."""

from __future__ import annotations

import time
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.library import load_system
from hw_configs.problems import InputError
from hw_configs.system import System

MACHINES = ("dgx-a100", "dgx-h100", "dgx-2", "a800-node", "h800-node", "dgx-b200", "gb200-nvl72")


def walk(system: System, source: str, target: str) -> list[str]:
    """Devices along a route; fails when its wires do not join up."""
    here, seen = source, [source]
    for name, forward in system.route(source, target):
        ends = [pair if forward else pair[::-1] for pair in system.wires[name].ends]
        here = next(there for one, there in ends if one == here)
        seen.append(here)
    assert here == target
    return seen


@pytest.mark.parametrize("name", MACHINES)
def test_any_machine_can_be_counted(name: str) -> None:
    one, three = load_system(name), load_system(f"{name}*3")
    assert load_system(f"3x{name}").digest != one.digest
    for group in {node.group for node in one.nodes.values()}:
        count = sum(node.group == group for node in one.nodes.values())
        assert sum(node.group == group for node in three.nodes.values()) == 3 * count
    assert three.cluster is not None
    switches = [node for node in three.nodes.values() if node.group in ("leaf", "spine")]
    ports = sum(node.group == "nic" for node in one.nodes.values())
    assert len(switches) == ports + 1, "a leaf for each rail, and the spine"
    assert len(three.wires) == 3 * len(one.wires) + 3 * ports + ports
    assert load_system(f"{name}*1").nodes == one.nodes


@given(
    st.sampled_from(MACHINES), st.integers(2, 5), st.integers(0, 10**6), st.integers(0, 10**6), st.booleans()
)
@settings(max_examples=60, deadline=None)
def test_routes_join_up_and_stay_on_their_rail(
    name: str, count: int, one: int, other: int, same: bool
) -> None:
    system = load_system(f"{name}*{count}")
    gpus = [node.name for node in system.nodes.values() if node.group == "gpu"]
    each = len(gpus) // count
    source = gpus[one % len(gpus)]
    target = gpus[(one + each * (1 + other % (count - 1))) % len(gpus)] if same else gpus[other % len(gpus)]
    path = walk(system, source, target)
    assert system.cluster is not None
    groups = [system.nodes[device].group for device in path]
    near = one % len(gpus) // each == gpus.index(target) // each
    assert ("nic" in groups) == (not near)
    if same:
        assert "spine" not in groups, "a device's peers on other machines lie on its own rail"
        assert path[-2 if groups[-2] == "nic" else -3] == system.cluster.port_of(target)
    # No shorter way leads through any port.
    graph = nx.Graph()
    for wire in system.wires.values():
        graph.add_edges_from(wire.ends)
    assert len(path) - 1 >= nx.shortest_path_length(graph, source, target)


def test_two_machines_are_those_of_the_shipped_file() -> None:
    """The pair that is written out by hand has the same members and the same wires inside its machines."""
    counted, written = load_system("dgx-a100*2"), load_system("dgx-a100-x2")
    switches = ("leaf", "spine")
    for system in (counted, written):
        assert sum(node.group == "gpu" for node in system.nodes.values()) == 16
    inside = [
        {
            name: (wire.link.bandwidth, wire.ends)
            for name, wire in system.wires.items()
            if not any(system.nodes[end].group in switches for pair in wire.ends for end in pair)
        }
        for system in (counted, written)
    ]
    assert inside[0] == inside[1]


def test_a_leaf_carries_to_the_spine_what_its_ports_do() -> None:
    system = load_system("dgx-h100*64")
    port = system.wires["rdma:nic0-leaf0"].link.bandwidth
    assert system.wires["rdma:leaf0-spine"].link.bandwidth == 32 * port
    assert sum(node.group == "leaf" for node in system.nodes.values()) == 2 * 8, "32 machines on a leaf"


def test_a_thousand_devices_load_at_once() -> None:
    load_system("dgx-h100*2")
    start = time.perf_counter()
    system = load_system("dgx-h100*128")
    assert system.route("gpu0", "gpu1023")
    assert system.digest
    assert time.perf_counter() - start < 1.0
    assert len(system.workers()) == 1024 + 2 * 128


def test_unlike_networks_meet_at_the_core() -> None:
    system = load_system("hybrid-a100-8")
    assert [system.nodes[name].group for name in walk(system, "gpu0", "gpu8")][2:5] == ["nic", "leaf", "nic"]
    crossing = walk(system, "gpu0", "gpu63")
    assert "core" in crossing
    assert not any(system.nodes[name].group == "nic" for name in crossing)
    rates = {system.wires[name].link.name for name, _ in system.route("gpu32", "gpu40")}
    assert "roce-200" in rates
    assert "ib-hdr" not in rates


CLUSTER = """kind: cluster
name: mine
machines:
  - {use: dgx-a100, count: 2}
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            CLUSTER + "  - {use: dgx-a10, count: 2}\n",
            r"c.yaml:5: machines.1.use: unknown hardware 'dgx-a10'.*did you mean",
        ),
        (CLUSTER + "  - {use: desktop}\n", r"c.yaml:5: machines.1.use: 'desktop' names no network"),
        (CLUSTER + "  - {use: dgx-h100}\n", r"c.yaml:3: machines: the machines' networks differ"),
        (CLUSTER.replace("count: 2", "count: 0"), r"c.yaml:4: machines.0.count: "),
        (
            CLUSTER.replace("count", "counts"),
            r"c.yaml:4: machines.0.counts?: unknown key.*did you mean 'count'",
        ),
        (CLUSTER + "network: {use: ib-hdrr}\n", r"c.yaml:5: network.use: .*did you mean 'ib-hdr'"),
        (
            CLUSTER + "network: {use: nvlink3-x12}\n",
            r"network.use: found a nvlink link; expected an rdma link",
        ),
        (
            CLUSTER + "network: {use: ib-hdr, ports: nics}\n",
            r"network.ports: unknown device group 'nics'.*'nic'",
        ),
        (
            CLUSTER + "network: {use: ib-hdr, switch: a100-80gb}\n",
            r"network.switch: found a gpu; expected a switch",
        ),
        (CLUSTER + "between: {use: ethernet-25, at: gpux}\n", r"between.*unknown device group 'gpux'"),
        (
            CLUSTER.replace("dgx-a100", "hybrid-a100-8"),
            r"machines.0.use: 'hybrid-a100-8' is a cluster itself",
        ),
    ],
)
def test_what_is_wrong_is_told_by_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_system(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dgx-h100*0", "found 0 machines; expected 1 to"), ("dgx-h10*4", "unknown hardware 'dgx-h10'.*did you mean"),
        ("dgx-h100*99999", "found 99999 machines"), ("dgx-2*16384", "devices; expected at most"),
        ("desktop*2", "'desktop' names no network"), ("hybrid-a100-8*2", "is a cluster itself"),
    ],
)  # fmt: skip
def test_counts_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_system(text)
