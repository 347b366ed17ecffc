"""One rule of rates over all shipped devices: a type never runs faster than its device can do its work.

It runs at its own rate, else at its stated share of fp32's, else as a type that holds its values, else, an integer, as
several operations of a narrower one; else it is refused.
"""

from __future__ import annotations

from typing import Any

import pytest

from hw_configs.device import Compute
from hw_configs.library import catalog, load_device, load_system
from hw_configs.problems import InputError
from simulator.cost.model import MATRIX_KINDS, energy_per_operation, peak_rate, runs_as
from simulator.gpu.sheet import gpu_sheet
from workloads.dtypes import BITS

DEVICES = [
    entry.name
    for entry in catalog().values()
    if entry.kind == "device" and getattr(load_device(entry.name), "compute", None) is not None
]
KINDS = ("matmul", "elementwise")


def compute_of(name: str) -> Compute:
    device: Any = load_device(name)
    compute: Compute = device.compute
    return compute


def rate(compute: Compute, kind: str, dtype: str) -> float | None:
    try:
        return peak_rate(compute, kind, dtype)
    except InputError:
        return None


def stated(compute: Compute, kind: str) -> dict[str, float]:
    """Rates by type: the better of vector and matrix units, and shares of fp32's where the vector has none."""
    with_matrix = kind in MATRIX_KINDS or not compute.vector
    rates = {
        str(dtype): share * compute.vector.get("fp32", 0.0) for dtype, share in compute.relative_rates.items()
    }
    rates |= {str(dtype): figure for dtype, figure in compute.vector.items()}
    for dtype, figure in compute.matrix.items() if with_matrix else ():
        rates[dtype] = max(figure, rates.get(dtype, 0.0))
    return {dtype: figure for dtype, figure in rates.items() if figure}


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_type_with_a_rate_runs_at_it(name: str, kind: str) -> None:
    compute = compute_of(name)
    for dtype, figure in stated(compute, kind).items():
        assert rate(compute, kind, dtype) == figure


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
def test_fp64_runs_at_a_stated_rate_or_not_at_all(name: str, kind: str) -> None:
    compute = compute_of(name)
    assert rate(compute, kind, "fp64") == stated(compute, kind).get("fp64")


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
def test_wide_integers_run_in_types_that_hold_them_or_in_several_operations(name: str, kind: str) -> None:
    compute = compute_of(name)
    known = stated(compute, kind)
    int32, int64 = rate(compute, kind, "int32"), rate(compute, kind, "int64")
    exact = next((known[dtype] for dtype in ("int32", "fp64") if dtype in known), None)
    digits = known["fp32"] / 8 if "fp32" in known else None
    assert int32 == (exact if exact is not None else digits)
    if "int64" not in known:
        assert int64 == (None if int32 is None else int32 / 4)


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", sorted(set(BITS) - {"fp64", "int64", "int32"}))
def test_any_other_type_runs_at_the_rate_of_one_as_wide_or_not_at_all(
    name: str, kind: str, dtype: str
) -> None:
    compute = compute_of(name)
    found = rate(compute, kind, dtype)
    wide_enough = [
        figure for other, figure in stated(compute, kind).items() if BITS.get(other, 32) >= int(BITS[dtype])
    ]
    assert found is None or found in wide_enough


@pytest.mark.parametrize("name", [n for n in DEVICES if load_device(n).kind == "gpu"])
def test_the_gpu_model_takes_the_same_rates(name: str) -> None:
    system = load_system(name)
    gpu: Any = load_device(name)
    if gpu.memory is None:
        return
    sheet = gpu_sheet(gpu, system.memories[name])
    for dtype in BITS:
        expected = rate(gpu.compute, "matmul", dtype)
        if expected is None:
            with pytest.raises(InputError, match=f"no rate for {dtype} arithmetic"):
                sheet.rate(dtype)
        else:
            assert sheet.rate(dtype) * sheet.sms * sheet.clock == pytest.approx(expected, rel=1e-12)


def test_what_was_wrong() -> None:
    """fp64 ran at fp32's rate where none was stated, int64 at int32's, and anything on a device of arrays alone."""
    apple, hopper = compute_of("m1-max-gpu"), compute_of("h100-sxm")
    assert rate(apple, "matmul", "fp64") is None
    assert peak_rate(hopper, "elementwise", "int64") == hopper.vector["int32"] / 4
    arrays = Compute(matrix={"int8": 1e12})
    assert rate(arrays, "elementwise", "int8") == 1e12
    assert rate(arrays, "matmul", "fp32") is None
    assert runs_as("fp64") == (("fp64", 1.0),)


def test_several_operations_cost_their_energy() -> None:
    compute = Compute(vector={"fp32": 1e12, "int32": 1e12}, energy_per_operation={"int32": 2e-12})
    assert energy_per_operation(compute, "int32") == 2e-12
    assert energy_per_operation(compute, "int64") == 8e-12
    assert energy_per_operation(compute, "fp32") == 0.0
