"""Options of a service: what engines do not know, failures, limits and counts, each refused in one line."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hw_configs.problems import InputError
from offchip.serving.options import ServeOptions, parse_failure


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"engine": "vlm"}, "did you mean 'vllm'"),
        ({"tp": 0}, "--tp: found 0; expected 1 to"),
        ({"tp": "4"}, "expected int"),
        ({"ep": 3, "tp": 4}, "expected a divisor of tp x dp = 4"),
        ({"ep": 2, "tp": 4}, "vllm knows expert parallelism over all of tp x dp = 4 or none"),
        ({"engine": "trtllm", "tp": 2, "dp": 2}, "trtllm knows data-parallel attention over all devices"),
        ({"engine": "sglang", "pp": 2, "dp": 2}, "sglang has no pipeline with data-parallel attention"),
        ({"prefill_workers": 1}, "go together"),
        ({"prefill_workers": 1, "decode_workers": 1, "replicas": 2}, "give the number of each"),
        ({"slo": "ttft=200"}, "a number without a unit"),
        ({"fail": ["1@3s"]}, "found worker 1; expected 0 to 0"),
        ({"fail": "0@3s"}, "expected a list of WORKER@TIME"),
        ({"seed": -1}, "--seed: found -1"),
    ],
)
def test_one_line_for_what_is_wrong(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as found:
        ServeOptions(**given)
    assert told in str(found.value)
    assert len(str(found.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "0", "0@", "@3s", "x@3s", "0@3", "0@5s:4s", "0@-1s", "0@1s:", "-1@1s"])
def test_wrong_failures(text: str) -> None:
    with pytest.raises(InputError):
        parse_failure(text)


def test_what_is_asked_is_read() -> None:
    asked = ServeOptions(engine="sglang", tp=4, ep=2, replicas=3, fail=["2@30s"], slo="ttft=1s")
    assert asked.failures[0].worker == 2
    assert asked.failures[0].back_s == math.inf
    assert asked.limits.ttft_s == 1.0
    assert (asked.layout.moe_tp, asked.layout.moe_ep, asked.layout.devices) == (2, 2, 4)
    assert asked.describe_layout() == "tp 4, ep 2, 3 replicas"
    apart = ServeOptions(prefill_workers=1, decode_workers=3)
    assert apart.workers == 4
    assert apart.describe_layout() == "tp 1, 1 prefill and 3 decode workers"


def test_dollars_follow_from_rent_or_from_a_list_price_over_years(tmp_path):
    from hw_configs.catalog import catalog
    from hw_configs.library import load_device, load_system
    from hw_configs.prices import YEARS_OF_USE, rent
    from offchip.serving.build import rent_of
    from simulator.serving.exchange_time import gpus_of

    rented, bought, neither = (load_device(name) for name in ("h200", "rtx-5090", "a40"))
    assert rent(rented).usd_per_s == rented.price_rate
    assert not rent(rented).written_off
    hours = YEARS_OF_USE * 365.25 * 24
    assert rent(bought).usd_per_s * 3600 == pytest.approx(1999 / hours)
    assert "1,999 USD over 3 years" in rent(bought).basis
    assert rent(neither) is None
    text = catalog()["dgx-h200"].path.read_text(encoding="utf-8")
    path = tmp_path / "box.yaml"
    path.write_text(text + "price_rate: 16 USD/h\n", encoding="utf-8")
    box = load_system(path)
    assert rent_of(box, gpus_of(box)).usd_per_s * 3600 == pytest.approx(2.0)
