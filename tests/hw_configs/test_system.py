"""Systems: members and wires are counted right, and routes obey what devices pass on."""

from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.device import Cpu, Switch
from hw_configs.library import load_device, load_system
from hw_configs.link import OnChip, Rdma
from hw_configs.problems import InputError
from hw_configs.system import Node, System, Wire

KINDS = {
    "cpu": load_device("epyc-7742"),
    "gpu": load_device("t4"),
    "switch": Switch(kind="switch", name="switch"),
    "dram": load_device("host-ddr4-3200-8ch-128gb"),
    "pim": load_device("hbm-pim"),
}


@st.composite
def systems(draw):
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=2, max_size=9))
    nodes = {f"{kind}{i}": Node(f"{kind}{i}", kind, KINDS[kind], None) for i, kind in enumerate(kinds)}
    names = list(nodes)
    pairs = draw(
        st.lists(
            st.tuples(st.integers(0, len(names) - 1), st.integers(0, len(names) - 1), st.booleans()),
            max_size=16,
        )
    )
    wires = {}
    for number, (one, other, on_chip) in enumerate(pairs):
        if one != other:
            bandwidth = float(draw(st.sampled_from([1e9, 2e9, 4e9])))
            link = (
                OnChip(kind="onchip", name="path", bandwidth=bandwidth, latency=0.0)
                if on_chip
                else Rdma(kind="rdma", name="net", network="roce", bandwidth=bandwidth, latency=0.0)
            )
            wires[f"w{number}"] = Wire(f"w{number}", link, ((names[one], names[other]),))
    return System("random", nodes, wires)


def walk(system, source, route):
    """Nodes along a route; fails when the wires do not join up."""
    here = source
    yield here
    for wire, forward in route:
        one, other = system.wires[wire].ends[0]
        assert here == (one if forward else other)
        here = other if forward else one
        yield here


def states(system):
    """An independent statement of what passes: a graph of (node, arrived on chip), with all its moves."""
    graph = nx.DiGraph()
    for wire in system.wires.values():
        on_chip = wire.link.kind == "onchip"
        for one, other in (*wire.ends, *((b, a) for a, b in wire.ends)):
            graph.add_edge(("start", one), (other, on_chip))
            for arrived in (True, False):
                kind = system.nodes[one].device.kind
                if kind in ("cpu", "switch", "nic") or (kind in ("gpu", "pim") and (on_chip or arrived)):
                    graph.add_edge((one, arrived), (other, on_chip))
    return graph


@settings(max_examples=150, deadline=None)
@given(system=systems())
def test_routes_are_shortest_symmetric_and_pass_only_where_they_may(system):
    graph = states(system)
    for source in system.nodes:
        lengths = {}
        if ("start", source) in graph:
            for state, hops in nx.single_source_shortest_path_length(graph, ("start", source)).items():
                if state[0] != "start":
                    lengths[state[0]] = min(hops, lengths.get(state[0], hops))
        lengths[source] = 0
        assert system.reachable(source) == set(lengths)
        for target in system.nodes:
            if target not in lengths:
                with pytest.raises(InputError, match="no link path"):
                    system.route(source, target)
                continue
            route = system.route(source, target)
            assert len(route) == lengths[target] == len(system.route(target, source))
            nodes = list(walk(system, source, route))
            assert nodes[-1] == target
            for middle, (before, after) in zip(nodes[1:-1], pairwise(route), strict=True):
                kind = system.nodes[middle].device.kind
                on_chip = "onchip" in {system.wires[wire].link.kind for wire, _ in (before, after)}
                assert kind in ("cpu", "switch") or (kind in ("gpu", "pim") and on_chip)


def written(tmp_path, gpus, switches, between, islands=1, shared=False):
    path = tmp_path / "box.yaml"
    cpu = "{use: epyc-7742, memory: host}"
    path.write_text(
        f"name: box\ndevices:\n  gpu: {{use: t4, count: {gpus}}}\n"
        f"  sw: {{use: pcie-switch, count: {switches}}}\n"
        f"  cpu: {cpu}\n  host: {{use: host-ddr4-3200-8ch-128gb}}\nlinks:\n"
        f"  - {{use: pcie4-x16, between: {between}, islands: {islands}, shared: {str(shared).lower()}}}\n"
        "  - {use: pcie4-x8, between: [sw, cpu]}\n  - {use: ddr4-3200-8ch-path, between: [cpu, host]}\n"
        "  - {use: nvlink3-x12, between: [gpu, sw]}\n"
    )
    return load_system(path)


@settings(max_examples=25, deadline=None)
@given(runs=st.integers(1, 4), size=st.integers(2, 5))
def test_a_group_with_itself_is_a_mesh_inside_each_island(tmp_path_factory, runs, size):
    system = written(tmp_path_factory.mktemp("s"), runs * size, 1, "[gpu, gpu]", islands=runs)
    mesh = [
        wire for wire in system.wires.values() if wire.name.startswith("pcie:gpu") and "-gpu" in wire.name
    ]
    assert len(mesh) == runs * size * (size - 1) // 2
    for wire in mesh:
        one, other = (int(end.removeprefix("gpu")) for end in wire.ends[0])
        assert one // size == other // size


@settings(max_examples=25, deadline=None)
@given(many=st.integers(1, 20), few=st.integers(1, 6))
def test_two_groups_are_dealt_out_in_order(tmp_path_factory, many, few):
    system = written(tmp_path_factory.mktemp("s"), many, few, "[gpu, sw]")
    dealt = [wire.ends[0] for wire in system.wires.values() if wire.name.startswith("pcie:gpu")]
    assert len(dealt) == max(many, few)
    assert {end for pair in dealt for end in pair} == {
        *(f"gpu{i}" for i in range(many)),
        *(f"sw{i}" for i in range(few)),
    }
    switches = [int(sw.removeprefix("sw")) for _, sw in dealt]
    assert switches == sorted(switches)


def test_a_shared_wire_is_one(tmp_path):
    system = written(tmp_path, 4, 1, "[gpu, cpu]", shared=True)
    (bus,) = [wire for wire in system.wires.values() if wire.name == "pcie:gpu-cpu"]
    assert bus.ends == tuple((f"gpu{i}", "cpu") for i in range(4))


def test_the_widest_of_equally_short_paths_is_taken(tmp_path):
    system = written(tmp_path, 2, 1, "[gpu, cpu]")
    # gpu0 reaches gpu1 over the switch (NVLink, 300 GB/s) or over the CPU (PCIe): both two hops.
    assert [wire for wire, _ in system.route("gpu0", "gpu1")] == ["nvlink:gpu0-sw0", "nvlink:gpu1-sw0"]


def test_bytes_do_not_pass_through_a_gpu_or_a_memory():
    node = load_system("dgx-a100")
    crossed = [wire for wire, _ in node.route("host0", "gpu7")]
    assert not any("gpu0" in wire or "nvlink" in wire for wire in crossed)
    # but they do reach what hangs on the package of a GPU
    assert len(load_system("gpu-pim").route("host", "pim3")) == 3


def test_the_digest_tells_machines_apart_and_is_stable():
    assert load_system("dgx-a100").digest == load_system("dgx-a100").digest
    names = ("dgx-a100", "dgx-h100", "a800-node", "workstation", "t4", "rtx-4090")
    assert len({load_system(name).digest for name in names}) == len(names)


def test_a_device_is_a_system_of_its_own():
    system = load_system("t4")
    assert list(system.nodes) == ["t4"]
    assert system.memories["t4"].usable_bytes == int(14.5 * 2**30)
    cpu = load_system("epyc-7742")
    assert isinstance(cpu.nodes["epyc-7742"].device, Cpu)
    assert cpu.workers() == []


def test_an_unknown_node_gives_the_nearest():
    with pytest.raises(InputError, match=r"no device 'gpu9'.*did you mean 'gpu0'|no device 'gpu9'"):
        load_system("dgx-a100").node("gpu9")
