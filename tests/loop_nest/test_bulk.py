"""Prices of many mappings at once, against the model of one mapping, which counts in another way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.accelerator.loop_nest.bulk import MappingTable, prices, tabled
from simulator.accelerator.loop_nest.evaluate import evaluate
from simulator.accelerator.loop_nest.nest import LoopNest, NestLevel, breach
from tests.loop_nest import strategies
from tests.loop_nest.test_search import _layer, _machine


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_prices_are_those_of_the_model(data: st.DataObject) -> None:
    device, layer = data.draw(strategies.accelerators()), data.draw(strategies.layers())
    nests = [data.draw(strategies.nests(device, layer, exact=True)) for _ in range(4)]
    nests = [nest for nest in nests if all(_once(level) for level in nest.levels)]
    assume(nests)
    found = prices(device, layer, tabled(nests, device, layer))
    for number, nest in enumerate(nests):
        assert found.legal[number] == (not breach(nest, device, layer))
        if found.legal[number]:
            one = evaluate(nest, device, layer)
            assert found.energy_j[number] == pytest.approx(one.energy_j, rel=1e-12)
            assert found.latency_cycles[number] == pytest.approx(one.latency_cycles, rel=1e-12)


def _once(level: NestLevel) -> bool:
    dims = [dim for dim, count in level.temporal if count > 1]
    return len(set(dims)) == len(dims)


def _table(**changed: Any) -> MappingTable:
    nest = LoopNest((NestLevel((("M", 4), ("N", 4))), NestLevel((("K", 4),)), NestLevel()))
    table = tabled([nest], _machine(), _layer(4, 4, 4))
    parts = {"temporal": table.temporal, "order": table.order, "spatial": table.spatial}
    return MappingTable(**(parts | changed))


@pytest.mark.parametrize(
    ("part", "index", "value"),
    [
        ("temporal", (0, 0, 0), 2),  # M is not covered
        ("spatial", (0, 1, 2), 2),  # K along an axis that sums nothing
        ("spatial", (0, 0, 0), 8),  # 8 along an axis of 4
        ("temporal", (0, 2, 2), 16),  # the innermost level overflows
    ],
)
def test_what_is_not_legal_has_no_price(part: str, index: tuple[int, ...], value: int) -> None:
    device, layer = _machine(), _layer(4, 4, 4)
    assert prices(device, layer, _table()).legal.all()
    table = _table()
    getattr(table, part)[index] = value
    found = prices(device, layer, table)
    assert not found.legal.any()
    assert np.isinf(found.latency_cycles).all()


def test_the_order_of_loops_counts() -> None:
    device, layer = _machine(capacity=4), _layer(4, 4, 4)
    turned = _table(order=_table().order[:, :, ::-1])
    before, after = prices(device, layer, _table()), prices(device, layer, turned)
    assert before.energy_j[0] != after.energy_j[0]


def test_arrays_that_do_not_belong_are_refused() -> None:
    device, layer = _machine(), _layer(4, 4, 4)
    with pytest.raises(InputError, match="expected \\(1, 2, 3\\)"):
        prices(device, layer, _table(spatial=np.ones((1, 3, 3), np.int32)))
    with pytest.raises(InputError, match="every dim once"):
        prices(device, layer, _table(order=np.zeros((1, 3, 3), np.int32)))
    twice = LoopNest((NestLevel((("M", 2), ("K", 4), ("M", 2))), NestLevel((("N", 4),)), NestLevel()))
    with pytest.raises(InputError, match="several loops over one dim"):
        tabled([twice], device, layer)
