"""Streams over a bank: every element once, and the bound of pipeline and transfers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.upmem.engine import run
from simulator.upmem.kernels import PRIM, Mix, streamed
from simulator.upmem.program import Core
from tests.upmem import oracle


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(PRIM)), st.integers(1, 300), st.integers(1, 16), st.sampled_from([8, 64, 256]))
def test_every_element_is_walked_over_once(name, elements, tasklets, block):
    mix, core = PRIM[name], Core()
    program = streamed(mix, elements, tasklets, core, block)
    found = run(program, core)
    walks = 2 if mix.meets and mix.written else 1
    least = walks * elements * sum(mix.read) + 8 * mix.fetched * elements
    blocks = -(-elements // max(1, block // max((*mix.read, *mix.written), default=8)))
    assert least <= found.read_bytes <= least + walks * 8 * blocks * len(mix.read)
    assert walks * elements * sum(mix.written) <= found.written_bytes
    assert found.instructions >= walks * elements * mix.instructions
    seen = (found.cycles, found.instructions, found.transfer_cycles, found.read_bytes, found.written_bytes)
    assert seen == oracle.run(program, core)


@pytest.mark.parametrize(("name", "bound"), [("GEMV", "pipeline"), ("TRNS", "transfers")])
def test_what_binds(name, bound):
    found = run(streamed(PRIM[name], 20_000, 16, Core()), Core())
    busy = {"pipeline": found.instructions, "transfers": found.transfer_cycles}
    assert max(busy, key=busy.__getitem__) == bound
    assert busy[bound] > 0.9 * found.cycles


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((Mix((8,), (8,), 1), 100, 24, Core(), 2048), "24 tasklets hold 98304 bytes"),
        ((Mix((8,), (), 1), 1 << 24, 1, Core()), "the bank has"),
        ((Mix((8,), (), 1), 0, 1, Core()), "found 0 elements"),
        ((Mix((8,), (), 1), 9, 1, Core(), 4096), "blocks of 4096 bytes"),
    ],
)
def test_what_does_not_fit(asked, message):
    with pytest.raises(InputError, match=message):
        streamed(*asked)
