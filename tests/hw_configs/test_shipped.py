"""Every shipped file loads, says where its figures come from, and agrees with the data-sheet table."""

import csv
import re
from pathlib import Path

import pytest

from hw_configs.library import catalog, load_device, load_link, load_system, read_any
from hw_configs.link import NvLink
from offchip.validation.reference_gpu import architecture_name

HARDWARE = Path(__file__).parents[1] / "reference" / "gpu" / "hardware.csv"
OF = {kind: [e.name for e in catalog().values() if e.kind == kind] for kind in ("device", "link", "system")}
TECHNOLOGY = re.compile(r"(HBM(2[eE]?|3[eE]?)|GDDR(5X?|6X?|7)|LPDDR[45]X?|DDR[345])(-\d+)?(-\w+)?")
SHIPPED = {
    "A100-80GB": "a100-80gb", "A100-SXM4-80GB": "a100-80gb", "A100-PCIe-80GB": "a100-pcie-80gb",
    "A100-PCIe-40GB": "a100-pcie-40gb", "A40": "a40", "A6000": "a6000", "H100-80GB": "h100-sxm",
    "H100-SXM": "h100-sxm", "H200-SXM": "h200", "B200-SXM": "b200", "L40S": "l40s", "L4": "l4",
    "RTX-4090": "rtx-4090", "RTX-PRO-6000-SE": "rtx-pro-6000", "V100-PCIe-32GB": "v100-pcie-32gb",
    "T4": "t4", "P100-PCIe": "p100", "P4": "p4", "MI210": "mi210",
}  # fmt: skip


def rows():
    with HARDWARE.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_gpu_of_the_table_is_shipped():
    assert {row["gpu"] for row in rows()} == set(SHIPPED)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["gpu"])
def test_a_gpu_agrees_with_the_data_sheet_table(row):
    gpu = load_device(SHIPPED[row["gpu"]])
    assert gpu.architecture.name == architecture_name(row["arch"])
    assert gpu.multiprocessors == int(row["sms"])
    assert gpu.clock == int(row["boost_mhz"]) * 1e6
    assert gpu.compute.vector["fp32"] == float(row["fp32_tflops"] + "e12")
    if row["tensor16_tflops"]:
        assert gpu.compute.matrix["fp16"] == float(row["tensor16_tflops"] + "e12")
    else:
        assert not gpu.compute.matrix
    if row["tensor8_tflops"]:
        assert gpu.compute.matrix["fp8"] == float(row["tensor8_tflops"] + "e12")
    stated = float(row["dram_gbs"] + "e9")
    # The table has the announced figure of the B200; boards ship with 7.7 TB/s (the device file's source).
    assert gpu.memory.bandwidth == (7.7e12 if row["gpu"] == "B200-SXM" else stated)
    assert gpu.memory.capacity == int(row["mem_gib"]) * 2**30
    assert gpu.l2.size == int(row["l2_mib"]) * 2**20
    assert gpu.l1_per_multiprocessor.size == int(row["l1_smem_kib_per_sm"]) * 2**10
    assert gpu.power.tdp == float(row["tdp_w"])
    # Pins and rate are given for every one, and carry the stated bandwidth with little to spare.
    assert 1 <= gpu.memory.bus_width * gpu.memory.pin_rate / gpu.memory.bandwidth * 1.02 < 1.06


@pytest.mark.parametrize(
    ("system", "gpu"),
    [
        ("dgx-a100", "A100-SXM4-80GB"),
        ("dgx-h100", "H100-SXM"),
        ("dgx-h200", "H200-SXM"),
        ("dgx-b200", "B200-SXM"),
    ],
)
def test_the_wires_of_a_node_agree_with_the_table(system, gpu):
    (row,) = [row for row in rows() if row["gpu"] == gpu]
    wires = [wire.link for wire in load_system(system).wires.values() if "gpu0" in wire.ends[0]]
    nvlink = next(link for link in wires if isinstance(link, NvLink))
    pcie = next(link for link in wires if link.kind == "pcie")
    assert nvlink.bandwidth == float(row["link_gbs_per_dir"]) * 1e9
    # The table gives the raw rate of the lanes; what carries payload is 0.8 to 1 of it.
    assert 0.8 < pcie.bandwidth / (float(row["pcie_gbs_per_dir"]) * 1e9) < 1


@pytest.mark.parametrize("name", OF["device"])
def test_a_device_loads_and_names_its_source(name):
    device = load_device(name)
    document = read_any(name)
    assert device.source or document.provenance or device.kind == "switch"
    memory = getattr(device, "memory", None)
    technology = memory.technology if memory is not None else getattr(device, "technology", None)
    if technology is not None:
        assert TECHNOLOGY.fullmatch(technology), technology


@pytest.mark.parametrize("name", OF["device"])
def test_every_memory_of_a_device_states_its_ports_and_why(name):
    """DRAM pins and scratchpad banks take turns; NAND drives stand behind interfaces with a path per direction."""
    document = read_any(name)
    kind = document.data["kind"]
    stated = {}
    for path in (("memory",), ("store",), ("scratchpad",), ("dram",), ()):
        holder = document.data
        for part in path:
            holder = holder.get(part, {})
        if "ports" in holder:
            stated[path] = holder["ports"]
            found = document.provenance[(*path, "ports")]
            assert found.text
    whole = "capacity" in document.data.get("memory", {}) and kind != "pim"
    expected = {("memory",): 1} if whole else {}
    expected |= {("store",): 2} if kind in ("flash", "csd") else {}
    expected |= {("scratchpad",): 1} if kind == "accelerator" else {}
    expected |= {("dram",): 1} if kind == "pim" else {(): 1} if kind == "dram" else {}
    assert stated == expected


def test_a_memory_of_a_system_has_the_ports_of_its_file():
    system = load_system("csd-node")
    assert {name: space.ports for name, space in system.memories.items()} == {
        "gpu": 1, "csd0": 2, "csd1": 2, "csd2": 2, "csd3": 2, "host": 1
    }  # fmt: skip
    assert load_system("pim-gpt").memories["pim"].ports == 1
    assert load_system("edge-tpu-board").memories["accelerator"].ports == 1


@pytest.mark.parametrize("name", OF["link"])
def test_a_link_loads_and_bears_the_name_of_its_file(name):
    link = load_link(name)
    assert link.name == name
    assert link.source
    assert link.bandwidth > 0


@pytest.mark.parametrize("name", OF["system"])
def test_a_system_loads_and_every_worker_reaches_every_memory(name):
    system = load_system(name)
    assert system.name == name
    assert system.description
    assert system.workers()
    memories = [node for node in system.memories if node in system.nodes]
    for worker in system.workers():
        assert worker.memory in system.memories
        for memory in memories:
            assert system.route(worker.memory, memory) is not None
            assert system.route(worker.name, memory) is not None


def test_the_machines_that_studies_need_are_there():
    wanted = {
        "dgx-a100", "dgx-h100", "a800-node", "workstation", "desktop", "laptop", "t4-server", "pim-gpt",
        "gpu-pim", "csd-node", "dgx-2", "dgx-a100-x2",
    }  # fmt: skip
    assert wanted <= set(OF["system"])


def test_a_name_is_used_once():
    folder = Path(load_device.__code__.co_filename).parent
    stems = [
        path.stem
        for part in ("devices", "links", "systems", "architectures")
        for path in (folder / part).rglob("*.yaml")
    ]
    assert sorted(stems) == sorted(set(stems))
