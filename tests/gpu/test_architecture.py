"""A GPU of a new architecture is two data files, and every figure of an architecture moves some price."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hw_configs.gpu_architecture import AttentionKernel, GpuArchitecture
from hw_configs.library import catalog, load_device, load_system
from offchip.validation.reference_gpu import usual_wires
from simulator.cost.model import peak_rate
from simulator.cost.roofline import ROOFLINE
from simulator.gpu.attention import KERNELS
from simulator.gpu.constants import shipped_constants
from simulator.gpu.request import Request
from simulator.gpu.rows import predict
from simulator.gpu.sheet import GpuSheet, gpu_sheet
from tests.gpu.sheets import attention, product, reference
from tests.typed import operator_of
from workloads.graph import Operator
from workloads.operators import LinearAttention

Price = tuple[float, ...]


def prices(architecture: GpuArchitecture) -> Price:
    """Seconds and joules of operators that between them ask for all that an architecture states."""
    gpu = reference("b200" if architecture.name.startswith("blackwell") else "h100-sxm")
    board = type(gpu.gpu).model_validate(
        {
            **gpu.gpu.model_dump(exclude_unset=True),
            "architecture": architecture.model_dump(exclude_unset=True),
        }
    )
    sheet, constants = gpu_sheet(board, gpu.memory), shipped_constants()
    lone = attention(1, 32, 8, 700, 3000)
    unsplit = replace(lone, work=replace(lone.work, split_kv=False))
    operators = [
        product(8192, 8192, 8192), product(300, 14336, 4096), product(2048, 2048, 2048, "fp32"),
        product(16, 4096, 1024), product(128, 128, 4096, batch=64),
        attention(4, 32, 8, 4096, 4096), attention(2, 32, 32, 1, 3000), attention(64, 32, 8, 1, 3000),
        attention(4, 64, 1, 1, 3000, 64), lone, unsplit, *others().values(),
        operator_of("norm", 1.0, 2 * 100 * 4096, 2 * 100 * 4096, "bf16", m=100, n=4096),
    ]  # fmt: skip
    hot = [replace(op, residency="hot") for op in operators]
    found = predict(
        [Request(op, sheet, constants.setup(t)) for op in operators + hot for t in ("default", "graph-mean")],
        constants,
    )
    return tuple(x for p in found for x in (p.kernel_s, p.launch_s, p.compute_j))


def others() -> dict[str, Operator]:
    """Operators with attention kernels of their own, and linear attention."""
    plain, whole = attention(4, 32, 8, 2048, 2048), attention(4, 16, 16, 2048, 2048, 72, causal=False)
    latent = attention(64, 64, 1, 1, 8192, 576)
    expanded = attention(2, 64, 64, 2048, 2048, 192)
    linear = LinearAttention(batch=2, sequence=4096, heads=32, kv_heads=16, key_dim=128, value_dim=128)
    return {
        "attention_narrow": replace(plain, work=replace(plain.work, kv_dtype="fp8")),  # type: ignore[call-arg]
        "attention_contiguous": whole,
        "attention_latent": replace(latent, work=replace(latent.work, latent=True, v_head_dim=512)),  # type: ignore[call-arg]
        "attention_expanded": replace(expanded, work=replace(expanded.work, v_head_dim=128)),  # type: ignore[call-arg]
        "linear_attention": Operator("linear", linear, ("a",), ("b",), dtype="bf16", beside_read=1 << 20),
    }


def hopper(**changes: Any) -> GpuArchitecture:
    base = load_device("h100-sxm").architecture
    return GpuArchitecture.model_validate({**base.model_dump(exclude_unset=True), **changes})


def kernel(which: str, **changes: Any) -> dict[str, Any]:
    own = getattr(load_device("h100-sxm").architecture, which)
    return {which: {**own.model_dump(), **changes}}


OTHER: dict[str, Any] = {
    "calibrated_as": "Volta", "exponentials_per_clock": 4, "l2_bytes_per_clock": 16, "shared_bytes_per_clock": 16,
    "l1_reserved": "120 KiB", "accumulator_bytes": "16 KiB", "l2_partitions": 1, "operand_sharing": 1,
    "multiprocessors_per_tile": 2, "process_energy": 3.0, "matrix_process_energy": 3.0, "linear_attention": "triton",
}  # fmt: skip
OTHER_KERNEL: dict[str, Any] = {
    "calibrated_as": "blackwell", "query_tile": 256, "grouped_query_tile": 16, "key_block": 32, "instruction_rows": 8,
    "blocks_per_multiprocessor": 4, "splits_only_groups": True, "key_elements": 4096,
    "splits_keys": False, "packs_groups": False, "computes_narrow": True,
}  # fmt: skip
ELSEWHERE = {
    "matrix_operations_per_clock": "what rates are possible (tests/hw_configs/test_possible.py)",
    "vector_operations_per_clock": "the same",
    "relative_rates": "test_a_relative_rate_serves_types_without_their_own",
    "switch_reduces": "test_switches_and_wires_are_the_architecture_s",
    "peer_bandwidth": "the same",
    "host_bandwidth": "the same",
    "memory_path": "access by access: tests/gpu_memory",
    "attention": "its own fields, below",
    "attention_unsplit": "its own fields, below",
    "attention_narrow": "test_a_kernel_for_other_operators_moves_their_price",
    "attention_contiguous": "the same",
    "attention_fallback": "test_a_head_size_that_a_kernel_is_not_built_for_goes_to_another",
    "attention_latent": "test_a_kernel_for_other_operators_moves_their_price",
    "attention_expanded": "the same",
}
ABOUT = {"kind", "name", "description", "source"}


def test_every_field_is_tried() -> None:
    assert set(OTHER) | set(ELSEWHERE) | ABOUT == set(GpuArchitecture.model_fields)
    assert set(OTHER_KERNEL) | {"head_sizes"} == set(AttentionKernel.model_fields)


@pytest.mark.parametrize("field", sorted(OTHER))
def test_a_changed_figure_moves_a_price(field: str) -> None:
    assert prices(hopper(**{field: OTHER[field]})) != prices(hopper())


@pytest.mark.parametrize("field", sorted(OTHER_KERNEL))
def test_a_changed_attention_kernel_moves_a_price(field: str) -> None:
    assert prices(hopper(**kernel("attention", **{field: OTHER_KERNEL[field]}))) != prices(hopper())


def test_the_kernel_without_split_is_one_of_its_own() -> None:
    assert prices(hopper(**kernel("attention_unsplit", query_tile=64))) != prices(hopper())
    sheet: Callable[[bool], AttentionKernel] = sheet_of("h100-sxm").attention_kernel
    assert (sheet(True).calibrated_as, sheet(False).calibrated_as) == ("fa3", "fa2_dense")
    assert sheet_of("a100-80gb").attention_kernel(False).calibrated_as == "fa2_dense"


KINDS = ("attention_narrow", "attention_contiguous", "attention_latent", "attention_expanded")


@pytest.mark.parametrize("which", KINDS)
def test_a_kernel_for_other_operators_moves_their_price(which: str) -> None:
    given = kernel("attention", query_tile=32, grouped_query_tile=32)["attention"]
    changed = sheet_with(hopper(**{which: given}))
    plain = sheet_with(hopper(**{which: None}))
    for name, operator in others().items():
        moved = seconds(operator, changed) != seconds(operator, plain)
        assert moved == (name == which), name


def test_a_head_size_that_a_kernel_is_not_built_for_goes_to_another() -> None:
    slow = kernel("attention", query_tile=32, grouped_query_tile=32)["attention"]
    with_sizes = hopper(**kernel("attention", head_sizes=[64, 128]), attention_fallback=slow)
    for size, elsewhere in ((128, False), (96, True)):
        operator = attention(4, 32, 8, 2048, 2048, size)
        moved = seconds(operator, sheet_with(with_sizes)) != seconds(operator, sheet_with(hopper()))
        assert moved == elsewhere


def seconds(operator: Operator, sheet: GpuSheet) -> float:
    constants = shipped_constants()
    return predict([Request(operator, sheet, constants.setup("default"))], constants)[0].kernel_s


def sheet_with(architecture: GpuArchitecture) -> GpuSheet:
    gpu = reference("h100-sxm")
    return replace(gpu_sheet(gpu.gpu, gpu.memory), architecture=architecture)


def sheet_of(name: str) -> GpuSheet:
    gpu = reference(name)
    return gpu_sheet(gpu.gpu, gpu.memory)


def test_a_relative_rate_serves_types_without_their_own() -> None:
    board = load_device("h20")
    assert "int32" not in board.compute.vector
    assert peak_rate(board.compute, "elementwise", "int32") == 0.5 * board.compute.vector["fp32"]
    halved = hopper(relative_rates={"int32": 0.25})
    slower = type(board).model_validate(
        {**board.model_dump(exclude_unset=True), "architecture": halved.model_dump(exclude_unset=True)}
    )
    assert peak_rate(slower.compute, "elementwise", "int32") == 0.25 * board.compute.vector["fp32"]


def test_switches_and_wires_are_the_architecture_s() -> None:
    assert usual_wires(load_device("h100-sxm")) == (450e9, 64e9)
    assert usual_wires(load_device("t4")) == (16e9, 16e9)
    assert usual_wires(load_device("m1-max-gpu")) == (None, None)


def test_the_roofline_takes_the_architecture_s_tile_and_generation() -> None:
    gpu = reference("h100-sxm")
    operator = attention(1, 8, 8, 200, 200)
    seconds = [
        ROOFLINE.cost(
            operator,
            replace(gpu.node, device=gpu.gpu.model_copy(update={"architecture": changed})),
            gpu.memory,
        ).seconds
        for changed in (
            hopper(),
            hopper(**kernel("attention", query_tile=64)),
            hopper(calibrated_as="Pascal"),
        )
    ]
    assert len(set(seconds)) == 3


def test_shipped_architectures_name_constants_that_were_fitted() -> None:
    measured = {name.split("/")[1] for name in shipped_constants().data["memory_share"] if "/" in name}
    named = {
        load_device(entry.name).architecture.calibrated_as
        for entry in catalog().values()
        if entry.kind == "device" and entry.path.parent.name == "gpu"
    }
    assert named - {None} == measured
    assert all(f"tile_cycles_{name}" in shipped_constants().data["attention_decode"] for name in KERNELS)


def test_a_new_architecture_and_chip_are_two_files_and_run_end_to_end(tmp_path: Path) -> None:
    architecture = catalog()["hopper-sm90"].path.read_text().replace("hopper-sm90", "newton")
    chip = catalog()["h200"].path.read_text().replace("name: h200", "name: principia")
    (tmp_path / "newton.yaml").write_text(architecture)
    (tmp_path / "principia.yaml").write_text(chip.replace("hopper-sm90", "newton"))
    (tmp_path / "my.yaml").write_text("name: my\ndevices:\n  gpu: {use: principia}\n")
    assert simulated(tmp_path / "my.yaml") == simulated(Path("h200"))
    (tmp_path / "newton.yaml").write_text(architecture.replace("key_block: 128", "key_block: 16"))
    assert simulated(tmp_path / "my.yaml") > simulated(Path("h200"))
    assert load_system(tmp_path / "my.yaml").nodes["gpu"].device.architecture.attention.key_block == 16


def simulated(hw: Path) -> float:
    command = [
        "simulate",
        "llama-3.1-8b",
        "--hw",
        str(hw),
        "--phase",
        "decode",
        "--batch",
        "4",
        "--prompt",
        "4096",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "offchip.cli.main", *command, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return float(json.loads(done.stdout)["summary"]["makespan_s"])
