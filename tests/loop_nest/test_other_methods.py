"""Mappings by integer programming and by chance: legal, priced by the model, never better than what is proven."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import InfeasibleError, InputError, NoAnswerError
from mapping.loop_nest.by_mip import mapping_by_mip, prime_factors
from mapping.loop_nest.sampled import mapping_by_sampling, random_mappings
from mapping.loop_nest.search import METRICS, best_mapping
from offchip import solve_mapping
from simulator.accelerator.loop_nest.evaluate import evaluate
from simulator.accelerator.loop_nest.nest import breach
from tests.loop_nest import strategies
from tests.loop_nest.test_search import _layer, _machine, small_layers
from workloads.einsum import Einsum

LAYER = Path(__file__).parents[2] / "examples" / "conv-layer.json"


@settings(max_examples=25, deadline=None)
@given(
    strategies.accelerators(), small_layers(), st.sampled_from(METRICS), st.sampled_from(("mip", "random"))
)
def test_no_other_method_beats_the_proven_best(
    device: SpatialAccelerator, layer: Einsum, metric: str, method: str
) -> None:
    try:
        proven = best_mapping(device, layer, metric)
    except InfeasibleError:
        return
    try:
        if method == "mip":
            found = mapping_by_mip(device, layer, metric)
        else:
            found = mapping_by_sampling(device, layer, metric, samples=2000)
    except NoAnswerError:
        return
    nest = found.best[0].nest
    assert not breach(nest, device, layer)
    priced = evaluate(nest, device, layer)
    own = {
        "energy": priced.energy_j,
        "latency": priced.latency_cycles,
        "edp": priced.energy_j * priced.latency_cycles,
    }
    assert found.value == pytest.approx(own[metric], rel=1e-9)
    assert found.value >= proven.value * (1 - 1e-9)
    assert found.bound == pytest.approx(min(proven.value, found.value), rel=1e-12)
    assert (found.status == "optimal") == (found.value <= proven.value * (1 + 1e-9))


def test_every_factor_is_placed_and_many_samples_reach_the_best_of_a_small_layer() -> None:
    assert prime_factors(1) == {}
    device, layer = _machine(), _layer(4, 4, 2)
    table = random_mappings(device, layer, 500, np.random.default_rng(0))
    whole = table.temporal.prod(axis=1) * table.spatial.prod(axis=1)
    assert (whole == [4, 4, 2]).all()
    found = mapping_by_sampling(device, layer, "energy", samples=200_000)
    assert found.status == "optimal"
    again = mapping_by_sampling(device, layer, "energy", samples=1000, seed=3)
    assert (
        again.value == mapping_by_sampling(device, layer, "energy", samples=1000, seed=3).value >= found.value
    )


def test_shares_keep_a_word_of_each_where_the_whole_hardly_does() -> None:
    # 4 bytes hold a word of each of three operands (1 + 1 + 2) and nothing else.
    device, layer = _machine(capacity=4), _layer(4, 4, 4)
    found = mapping_by_mip(device, layer)
    assert found.value >= best_mapping(device, layer, "energy").value * (1 - 1e-9)
    assert 0 <= found.gap < 1


def test_pictures_are_the_same_bytes_for_the_same_mapping(tmp_path: Path) -> None:
    for model, name in ((LAYER, "one"), ("alexnet", "many")):
        for suffix in (".svg", ".png"):
            paths = [tmp_path / f"{name}{number}{suffix}" for number in (1, 2)]
            for path in paths:
                solve_mapping(model, "gemmini", plot=path)
            assert paths[0].read_bytes() == paths[1].read_bytes()
    text = (tmp_path / "one1.svg").read_text()
    assert "for k in" in text
    assert "weight-registers" in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "luck"}, "expected proof, mip, random"),
        ({"method": "mip", "top": 3}, "--top go with --method proof"),
        ({"method": "random", "samples": 0}, "expected 1 to"),
        ({"plot": "nest.pdf"}, "ends in .svg or .png"),
        ({"method": "random", "density": ["I=0.5"], "hw": "eyeriss"}, "of operands without zeros"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        solve_mapping(LAYER, options.pop("hw", "gemmini"), **options)
