"""Chips as data sheets: rates that follow from units and clocks, prices with dates, names that sources use."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from hw_configs.catalog import catalog, known_name, spelling
from hw_configs.device import Accelerator, Gpu
from hw_configs.library import load_device, load_system, read_any
from hw_configs.problems import InputError
from offchip.validation.reference_gpu import ReferenceGpus, machine_of, same_gpu

KERNELS = Path(__file__).parents[1] / "reference" / "kernels" / "hardware.csv"
DEVICES = [entry.name for entry in catalog().values() if entry.kind == "device"]
GPUS = [name for name in DEVICES if isinstance(load_device(name), Gpu)]
ARRAYS = [name for name in DEVICES if isinstance(load_device(name), Accelerator)]
WIDTH = {"fp16": 16, "bf16": 16, "fp8": 8, "int8": 8, "fp4": 4, "mxfp4": 4, "int4": 4}

# Why a chip's 16-bit rate is below that of its units.
BELOW_ITS_UNITS = {
    "h20": "a quarter of the units' rate, for export rules",
    "l20": "half of an L40S per clock, for export rules",
    "b300": "the 16- and 8-bit rates of Blackwell; 12,288 operations are those of fp4",
    "gb300": "as b300",
    "gb10": "below the boost clock that boards reach",
}
# GeForce boards do half as many products with fp32 sums; tensor rates may be stated below the boost clock.
SHARES = (1.0, 0.5)
STATED_AT = {
    "h100-sxm": 1830e6,
    "h100-sxm-96gb": 1830e6,
    "h200": 1830e6,
    "h800": 1830e6,
    "gh200": 1830e6,
    "h100-nvl": 1545e6,
    "h100-pcie": 1620e6,
    "b200": 1856e6,
}
CLOCKS_ROUND = 0.035


@pytest.mark.parametrize("name", GPUS)
def test_sixteen_bit_rates_are_units_times_operations_times_clock(name: str) -> None:
    gpu = load_device(name)
    assert isinstance(gpu, Gpu)
    per_clock, rate = gpu.architecture.matrix_operations_per_clock, gpu.compute.matrix.get("fp16")
    if not per_clock or rate is None or name in BELOW_ITS_UNITS:
        return
    whole = gpu.multiprocessors * per_clock * STATED_AT.get(name, gpu.clock)
    assert min(abs(rate / (whole * share) - 1) for share in SHARES) < CLOCKS_ROUND


@pytest.mark.parametrize("name", GPUS)
def test_vector_rates_are_lanes_times_clock(name: str) -> None:
    gpu = load_device(name)
    assert isinstance(gpu, Gpu)
    per_clock = gpu.architecture.vector_operations_per_clock
    if per_clock:
        whole = gpu.multiprocessors * per_clock * gpu.clock
        assert gpu.compute.vector["fp32"] == pytest.approx(whole, rel=0.06)


@pytest.mark.parametrize("name", BELOW_ITS_UNITS)
def test_the_chips_that_are_sold_below_their_units_are_so(name: str) -> None:
    gpu = load_device(name)
    assert isinstance(gpu, Gpu)
    per_clock = gpu.architecture.matrix_operations_per_clock
    assert per_clock is not None
    assert gpu.compute.matrix["fp16"] < 1.01 * gpu.multiprocessors * per_clock * gpu.clock


@pytest.mark.parametrize("name", ARRAYS)
def test_rates_of_arrays_are_cells_times_clock(name: str) -> None:
    """The best type of an array runs at two operations per cell and clock; 8 bits may run at twice that."""
    array = load_device(name)
    assert isinstance(array, Accelerator)
    cells = 2 * array.arrays * array.array_rows * array.array_columns * array.clock
    best = max((rate for dtype, rate in array.compute.matrix.items() if dtype in WIDTH), default=None)
    assert best is None or min(abs(best / (cells * pack) - 1) for pack in (1, 2)) < 0.03


@pytest.mark.parametrize("name", DEVICES)
def test_a_price_has_a_source_and_a_date(name: str) -> None:
    document = read_any(name)
    for key in ("price", "price_rate"):
        if isinstance(document.data, dict) and key in document.data:
            origin = document.provenance[(key,)]
            assert origin.text
            assert origin.date >= "2016"


def test_a_price_with_a_source_and_no_date_is_refused(tmp_path: Path) -> None:
    text = catalog()["h200"].path.read_text(encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(", date: 2025-06}", "}"), encoding="utf-8")
    with pytest.raises(InputError, match="price_rate: a price with a source has a date too"):
        load_device(path)
    path.write_text(text.replace("date: 2025-06}", "date: last spring}"), encoding="utf-8")
    with pytest.raises(InputError, match="found 'last spring'; expected a year and month"):
        load_device(path)
    bare = ["price_rate: 2 USD/h" if "price_rate" in line else line for line in text.splitlines()]
    path.write_text("\n".join(bare), encoding="utf-8")
    assert load_device(path).price_rate == pytest.approx(2 / 3600)


def rows() -> list[dict[str, str]]:
    with KERNELS.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


# What the table of aiconfigurator-core states otherwise than the maker's data sheet, which the files keep.
OTHERWISE = {
    ("B300-SXM", "fp4"): "14 PFLOP/s; NVIDIA's HGX B300 page says 108 for eight, 13.5 for one",
    (
        "RTX-PRO-6000-Server",
        "mem_bw",
    ): "1792 is the Workstation Edition's; the Server Edition's sheet says 1597",
    ("L40S", "mem_capacity"): "45 GiB with error correction; the board has 48",
}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["gpu"])
def test_the_chips_of_the_kernel_table_are_found_and_agree(row: dict[str, str]) -> None:
    found = ReferenceGpus().find(row["gpu"])
    assert found is not None, "the table's name leads to a shipped device"
    gpu = found.gpu
    matrix = gpu.compute.matrix
    assert same_gpu(row["gpu"], gpu.name)
    pairs = {
        "mem_bw": (gpu.memory.bandwidth if gpu.memory else 0.0, row["mem_bw_bytes_per_s"]),
        "mem_capacity": (gpu.memory.capacity if gpu.memory else 0.0, row["mem_capacity_bytes"]),
        "bf16": (matrix.get("bf16", 0.0), row["bf16_flops"]),
        "int8": (matrix.get("int8", 0.0), row["int8_ops"]),
        "fp8": (matrix.get("fp8", matrix.get("bf16", 0.0)), row["fp8_flops"]),
        "fp4": (matrix.get("fp4", 0.0), row["fp4_flops"]),
        "power": (gpu.power.tdp if gpu.power else 0.0, row["power_w"]),
    }
    for figure, (ours, theirs) in pairs.items():
        if theirs:
            agrees = ours == pytest.approx(float(theirs), rel=0.03)
            assert agrees == ((row["gpu"], figure) not in OTHERWISE), figure


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("nvidia_a100-pcie-40gb", "a100-pcie-40gb"),
        ("Nvidia H100 GPU", "h100-sxm"),
        ("AMD_Instinct_MI210", "mi210"),
        ("Tesla_P100-PCIE-16GB", "p100"),
        ("Apple M2 Ultra 60-core GPU", "m2-ultra-60core"),
        ("Apple M1 Max", "m1-max"),
        ("DGX Spark", "gb10"),
        ("Arc-Pro-B60", "arc-pro-b60"),
    ],
)
def test_a_board_is_found_however_it_is_written(name: str, device: str) -> None:
    assert known_name(name) == device
    assert load_device(name).name == device


def test_no_two_files_claim_a_name() -> None:
    owners: dict[str, str] = {}
    for entry in catalog().values():
        data = read_any(entry.path).data
        # A GPU that works in its system's unified memory is a file of its own beside the whole chip's.
        unified = ("m1-max-gpu", "m2-ultra-gpu", "m4-max-gpu")
        if entry.kind in ("device", "system") and entry.name not in unified:
            for name in (entry.name, *data.get("aliases", ())):
                assert owners.setdefault(spelling(name), entry.name) == entry.name, name


def test_usual_systems_hold_the_board() -> None:
    for name in GPUS:
        gpu = load_device(name)
        assert isinstance(gpu, Gpu)
        if gpu.usual_system is not None:
            system = load_system(gpu.usual_system)
            assert {node.device.name for node in system.of_kind("gpu")} == {name}
            assert machine_of(name, 2) is not None
    assert machine_of("no such board") is None
    assert machine_of("h100-sxm", 100) is None


def test_a_wire_may_join_single_members(tmp_path: Path) -> None:
    system = load_system("l40s-8x")
    ends = {frozenset(pair) for wire in system.wires.values() for pair in wire.ends}
    assert frozenset(("plx1", "root1")) in ends
    assert frozenset(("plx1", "root0")) not in ends
    text = catalog()["l40s-8x"].path.read_text(encoding="utf-8").replace("plx3, root1", "plx9, root1")
    (tmp_path / "box.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="unknown device group 'plx9'"):
        load_system(tmp_path / "box.yaml")
