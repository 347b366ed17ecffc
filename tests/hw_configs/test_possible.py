"""Machines that cannot exist are refused in words, on the line of the figure that is wrong."""

import copy

import pytest
import yaml

from hw_configs.config import parse
from hw_configs.device import Accelerator, ComputationalStorage, Cpu, Flash, Gpu, Nic, Pim
from hw_configs.library import catalog, load_device
from hw_configs.link import NvLink, OnChip, Pcie
from hw_configs.problems import InputError
from hw_configs.yaml_file import Document, read_yaml

CASES = [
    # name of a shipped file, changes by path, the field named, what the message says
    (Gpu, "a100-80gb", {"l2.size": "96 GiB"}, "l2.size", "96 GiB is not below the 80 GiB of the memory"),
    (Gpu, "a100-80gb", {"l2.bandwidth": "1 TB/s"}, "l2.bandwidth", "1 TB/s is below the 2.039 TB/s of the"),
    (Gpu, "a100-80gb", {"power.idle": "500 W"}, "power.idle", "500 W is not below the TDP of 400 W"),
    (Gpu, "a100-80gb", {"base_clock": "2 GHz"}, "base_clock", "base clock 2 GHz is above the clock 1.41 GHz"),
    (Gpu, "p4", {"clock": "1063 GHz"}, "clock", "no chip is clocked at"),
    (Gpu, "a100-80gb", {"compute.matrix.fp16": "624 TFLOP/s"}, "compute.matrix.fp16", "with sparsity"),
    (Gpu, "h100-sxm", {"compute.matrix.fp8": "3957.8 TFLOP/s"}, "compute.matrix.fp8", "132 multiprocessors"),
    (Gpu, "mi210", {"compute.matrix.fp16": "18100 TFLOP/s"}, "compute.matrix.fp16", "104 multiprocessors"),
    (Gpu, "t4", {"compute.vector.fp32": "81 TFLOP/s"}, "compute.vector.fp32", "40 multiprocessors"),
    (Gpu, "p100", {"compute.matrix": {"fp16": "1 TFLOP/s"}}, "compute.matrix.fp16", "can do at 1.303 GHz (0 "),
    (Gpu, "t4", {"compute.matrix.fp16": "10 TFLOP/s"}, "compute.matrix.fp16", "below the vector rate"),
    (Gpu, "t4", {"compute.arithmetic_power": "80 W"}, "compute.arithmetic_power", "more than the TDP of 70"),
    (
        Gpu,
        "t4",
        {"compute.energy_per_operation": {"fp16": "3 pJ/FLOP"}},
        "compute.energy_per_operation.fp16",
        "would draw 195 W, more than twice the TDP of 70 W",
    ),
    (
        Gpu,
        "t4",
        {"memory.energy_per_byte": "600 pJ/B"},
        "memory.energy_per_byte",
        "moving bytes at 320 GB/s would draw 192 W, more than the TDP of 70 W",
    ),
    (Gpu, "t4", {"memory.reserved": "16 GiB"}, "memory.reserved", "16 GiB leaves nothing of the capacity"),
    (Gpu, "t4", {"memory.bandwidth": "3200 GB/s"}, "memory.bandwidth", "256 pins carry at 10 Gb/s each"),
    (Gpu, "t4", {"memory.latency": "500 us"}, "memory.latency", "no memory answers after 500 us"),
    (Cpu, "epyc-7742", {"compute.vector.fp32": "532 TFLOP/s"}, "compute.vector.fp32", "64 cores can do"),
    (Cpu, "epyc-7742", {"base_clock": "3 GHz"}, "base_clock", "is above the clock"),
    (
        Flash,
        "nvme-pcie4-tlc",
        {"store.read_bandwidth": "14 GB/s"},
        "store.read_bandwidth",
        "14 GB/s is more than 8 channels carry (9.6 GB/s)",
    ),
    (
        Flash,
        "nvme-pcie4-tlc",
        {"store.read_bandwidth": "9 GB/s"},
        "store.read_bandwidth",
        "9 GB/s is more than PCIe 4.0 x4 carries (7.827 GB/s)",
    ),
    (Flash, "nvme-pcie4-tlc", {"interface": "PCIe 4 x5"}, "interface", "such as 'PCIe 4.0 x4'"),
    (Flash, "nvme-pcie4-tlc", {"store.capacity": "20 TB"}, "store.capacity", "more than the dies hold"),
    (Flash, "nvme-pcie4-tlc", {"store.read_latency": "4 us"}, "store.read_latency", "die's read time 40 us"),
    (Flash, "nvme-pcie4-tlc", {"store.timing.program": "1 us"}, "store.timing.program", "below the read"),
    (Flash, "nvme-pcie4-tlc", {"store.timing.erase": "1 us"}, "store.timing.erase", "below the program time"),
    (
        Flash,
        "nvme-pcie4-tlc",
        {"store.timing.read": "44 us", "store.geometry.page_size": "2 KiB"},
        "store.read_bandwidth",
        "is more than 32 dies read",
    ),
    (ComputationalStorage, "instinfer-csd", {"internal_bandwidth": "20 GB/s"}, "internal_bandwidth", "carry"),
    (ComputationalStorage, "smartssd", {"interface": "PCIe 1.0 x1"}, "store.read_bandwidth", "PCIe 1.0 x1"),
    (Pim, "hbm-pim", {"internal_bandwidth": "200 GB/s"}, "internal_bandwidth", "is below the"),
    (Accelerator, "tpu-v4i", {"compute.matrix.bf16": "275 TFLOP/s"}, "compute.matrix.bf16", "4 x 128 x"),
    (Accelerator, "tpu-v4i", {"scratchpad.size": "16 GiB"}, "scratchpad.size", "is not below the 8 GiB"),
    (Nic, "connectx-6", {"bandwidth": "50 GB/s"}, "bandwidth", "more than PCIe 4.0 x16 carries"),
    (Pcie, "pcie4-x16", {"lanes": 3}, "lanes", "found 3; known: 1, 2, 4, 8, 16"),
    (Pcie, "pcie4-x16", {"sustained_bandwidth": "40 GB/s"}, "sustained_bandwidth", "16 lanes of PCIe 4"),
    (NvLink, "nvlink3-x12", {"links": 19}, "links", "less than or equal to 18"),
    (NvLink, "nvlink3-x12", {"link_rate": "50 GB/s"}, "link_rate", "a link of NVLink 3 carries 25 GB/s"),
    (OnChip, "xgmi2-x4", {"bandwidth": "115 PB/s"}, "bandwidth", "no path carries 115 PB/s"),
]  # fmt: skip


def changed(name, changes):
    data = copy.deepcopy(read_yaml(catalog()[name].path).data)
    for path, value in changes.items():
        holder = data
        *parents, last = path.split(".")
        for part in parents:
            holder = holder[part]
        holder[last] = value
    return data


@pytest.mark.parametrize(("schema", "name", "changes", "field", "words"), CASES)
def test_an_impossible_machine_is_refused(schema, name, changes, field, words):
    data = changed(name, changes)
    parse(schema, Document("good.yaml", changed(name, {}), {}, {}))
    with pytest.raises(InputError) as error:
        parse(schema, Document("bad.yaml", data, {}, {}))
    assert any(p.path == field and words in p.message for p in error.value.problems), str(error.value)


def test_each_fault_stands_on_its_own_line(tmp_path):
    data = changed("t4", {"l2.size": "32 GiB", "base_clock": "2 GHz", "power.idle": "80 W"})
    path = tmp_path / "t4.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    with pytest.raises(InputError) as error:
        load_device(path)
    lines = path.read_text().splitlines()
    for problem in error.value.problems:
        assert problem.path.split(".")[-1] in lines[problem.line - 1]


def test_energy_per_operation_follows_from_the_power_unless_stated():
    gpu = load_device("a100-80gb")
    assert gpu.compute.energy_per_operation["fp16"] == gpu.compute.arithmetic_power / 312e12
    # fp64 on the T4 has few units: its energy is bounded by what the fp32 lanes draw for twice the width.
    t4 = load_device("t4").compute
    assert t4.energy_per_operation["fp64"] == t4.arithmetic_power / (8.1e12 / 2)
    stated = changed("t4", {"compute.energy_per_operation": {"fp16": "1 pJ/FLOP"}})
    assert parse(Gpu, Document("x", stated, {}, {})).compute.energy_per_operation["fp16"] == 1e-12
