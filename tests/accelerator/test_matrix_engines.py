"""Matrix engines with HBM run language models from their memory: no price below the roofs, narrower never slower."""

from __future__ import annotations

import pytest

import offchip
from hw_configs.library import load_system
from simulator.cost.by_device import BY_DEVICE
from simulator.cost.roofline import PEAK
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

CHIPS = ("tpu-v4", "tpu-v5e", "tpu-v5p", "tpu-v6e", "gaudi2", "gaudi3", "trainium2")
NODES = ("tpu-v4-4", "tpu-v5e-8", "tpu-v5p-4", "tpu-v6e-8", "gaudi2-node", "gaudi3-node", "trn2-node")
WEIGHTS = 15.0e9
"""Bytes of Llama-3-8B that a decode step reads: all 16-bit weights but the embedding's rows."""


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("chip", CHIPS)
def test_no_operator_is_below_the_data_sheets_roofs(chip: str, phase: str) -> None:
    node = load_system(chip).nodes[chip]
    memory = load_system(chip).memories[chip]
    options = WorkloadOptions(phase=phase, batch=4, prompt=300)
    for operator in load_workload("llama-3-8b", options).phases[0].graph.operators:
        ours, roof = (model.cost(operator, node, memory) for model in (BY_DEVICE, PEAK))
        assert ours.seconds >= roof.seconds * (1 - 1e-9), operator.name


@pytest.mark.parametrize("chip", CHIPS)
def test_a_decode_step_takes_most_of_the_bandwidth_and_no_more(chip: str) -> None:
    memory = load_system(chip).memories[chip]
    result = offchip.simulate("llama-3-8b", chip, phase="decode")
    share = WEIGHTS / memory.read_bandwidth / result.makespan_s
    assert 0.5 < share < 1


@pytest.mark.parametrize("chip", [chip for chip in CHIPS if chip != "tpu-v4"])
def test_eight_bits_are_never_slower_than_sixteen(chip: str) -> None:
    """In the quicker of the 8-bit types: an engine that widens fp8 passes over the activations for nothing."""
    rates = load_system(chip).nodes[chip].compute.matrix  # type: ignore[union-attr]
    narrow = max(("fp8", "int8"), key=lambda dtype: rates.get(dtype, 0.0))
    for phase in ("prefill", "decode"):
        wide, half = (
            offchip.simulate("llama-3-8b", chip, phase=phase, dtype=dtype).makespan_s
            for dtype in ("bf16", narrow)
        )
        assert half <= wide * (1 + 1e-9)


@pytest.mark.parametrize("node", NODES)
def test_a_model_is_shared_by_the_chips_of_a_node(node: str) -> None:
    chips = load_system(node).of_kind("accelerator")
    alone = offchip.simulate("llama-3-8b", chips[0].device.name, phase="decode")
    several = offchip.simulate("llama-3-8b", node, phase="decode", tp=4)
    assert alone.makespan_s / 4 < several.makespan_s < alone.makespan_s
