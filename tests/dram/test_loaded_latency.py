"""Latency under load: idle at little, the queues' at full, and never more bandwidth than was offered."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

import offchip
from hw_configs.library import load_device
from hw_configs.problems import InputError


@pytest.mark.parametrize("device", ["ddr5-4800b", "hbm2-2000", "lpddr5-6400"])
def test_the_curve_rises_from_the_idle_latency(device: str) -> None:
    result = offchip.trace_dram("rand_read:6000", device, refresh="off", latency_curve=True)
    curve = result.latency_curve
    idle = load_device(device).latency_s
    tick = result.tick_s
    # LPDDR5 saves the start of its data clock where requests follow each other; rows conflict with those left open.
    assert idle - 3 * tick < curve[0].latency_p50_s < idle + 60e-9
    assert all(point.bandwidth_bytes_per_s < 1.02 * point.offered_bytes_per_s for point in curve)
    assert curve[-1].bandwidth_bytes_per_s == pytest.approx(result.bandwidth_bytes_per_s, rel=0.03)
    assert curve[-1].latency_mean_s > curve[0].latency_mean_s
    rates = [point.bandwidth_bytes_per_s for point in curve]
    assert all(later > 0.97 * sooner for sooner, later in itertools.pairwise(rates))


def test_a_file_is_paced_whatever_its_cycles(cli, tmp_path: Path) -> None:
    (tmp_path / "t").write_text("".join(f"{64 * i:#x} READ {i * 100_000}\n" for i in range(300)))
    outcome = cli("trace", "dram", tmp_path / "t", "--hw", "hbm3-6400", "--latency-curve", "--json")
    found = json.loads(outcome.out)
    assert found["trace_requests"] == 300
    assert found["latency_curve"][-1]["bandwidth_bytes_per_s"] > 100 * found["bandwidth_bytes_per_s"]
    text = cli("trace", "dram", tmp_path / "t", "--hw", "hbm3-6400", "--latency-curve").out
    assert "latency under load" in text
    assert text.count("%") > 13


def test_caches_pace_requests_themselves() -> None:
    with pytest.raises(InputError, match="--latency-curve"):
        offchip.trace_dram("copy:100", "ddr4-2400r", cache="core-i7-12700k-caches", latency_curve=True)
