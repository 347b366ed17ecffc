"""Vision networks of the studies: which operators a run leaves out, and what follows from its figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from offchip.studies.network_runs import NetworkRun, without_folded_norms
from offchip.studies.vision_networks import GROWTH, access_elements
from workloads.graph import check_graph
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

RUN = NetworkRun("resnet-50", "rtx-3090", 8)


def test_folding_leaves_out_every_norm_behind_a_convolution_and_no_other() -> None:
    for model, left in (
        ("resnet-50", 0),
        ("densenet-121", 62),
        ("inception-next-tiny", 22),
        ("shvit-s1", 10),
    ):
        whole = load_workload(model, WorkloadOptions(fused=False)).phases[0].graph
        folded = check_graph(without_folded_norms(whole))
        norms = [o.name for o in folded.operators if o.kind == "norm"]
        assert len(norms) == left, (model, norms)
        products = [sum(o.flops for o in g.operators if o.kind == "conv") for g in (whole, folded)]
        assert products[0] == products[1]


def test_rates_follow_from_the_operators() -> None:
    one, folded = RUN.rates(), replace(RUN, folded=True).rates()
    assert folded.images_s > one.images_s
    assert folded.bytes < one.bytes
    assert 12 / one.images_s < one.joules < 350 / one.images_s, "between idle and the board's limit"


def test_accesses_are_those_of_a_hand_count() -> None:
    """h w (ci + co) + k k ci co, summed over the dense network's convolutions."""
    total, parameters, side, channels = 1024 * (3 + 16) + 9 * 3 * 16, 9 * 3 * 16, 32, 16
    for stage in range(3):
        for _ in range(12):
            total += side**2 * (channels + GROWTH) + 9 * channels * GROWTH
            parameters += 9 * channels * GROWTH
            channels += GROWTH
        if stage < 2:
            total += side**2 * 2 * channels + channels**2
            parameters += channels**2
            side //= 2
    assert access_elements("dense", GROWTH) == (total, parameters)
    # A layer that reads the one before it reads and writes as many channels at the least bytes for its products.
    assert access_elements("osa", 20)[0] == pytest.approx(2.9e6, rel=0.2)
