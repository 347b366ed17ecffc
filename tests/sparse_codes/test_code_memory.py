"""Sparse codes against the plain way, unit by unit; accesses one by one; like items get like codes."""

from __future__ import annotations

from itertools import pairwise
from math import exp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.sparse_codes.memory import (
    Accesses,
    CodeMemory,
    ListMemory,
    MemoryShape,
    apart_accesses,
    code_accesses,
    overlap,
)


class Plain:
    """The memory with a set of (input, module, unit) for weights that are set."""

    def __init__(self, inputs: int, modules: int, units: int, seed: int) -> None:
        self.sides = (inputs, modules, units)
        self.set: set[tuple[int, int, int]] = set()
        self.draws = np.random.default_rng(seed)
        self.read = self.written = 0

    def shares(self, active: list[int]) -> list[list[float]]:
        _, modules, units = self.sides
        found: list[list[float]] = []
        for module in range(modules):
            found.append([])
            for unit in range(units):
                count = 0
                for one in active:
                    self.read += 1
                    count += (one, module, unit) in self.set
                found[-1].append(count / len(active))
        return found

    def learn(self, active: list[int]) -> list[int]:
        shares = self.shares(active)
        draws = self.draws.random(self.sides[1]).tolist()
        familiar = sum(max(row) for row in shares) / len(shares)
        code = []
        for row, drawn in zip(shares, draws, strict=True):
            if familiar == 1:
                code.append(row.index(max(row)))
                continue
            likely = []
            for share in row:
                likely.append(1 + 1000 * familiar**2 / (1 + exp(-20 * (share - 0.5))))
            unit, left = 0, drawn * sum(likely)
            while unit < len(likely) - 1 and left >= likely[unit]:
                left -= likely[unit]
                unit += 1
            code.append(unit)
        for one in active:
            for module, unit in enumerate(code):
                self.set.add((one, module, unit))
                self.written += 1
        return code

    def recall(self, active: list[int]) -> list[int]:
        return [row.index(max(row)) for row in self.shares(active)]


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_codes_and_accesses_are_those_of_the_plain_way(data: st.DataObject) -> None:
    inputs, modules, units = (data.draw(st.integers(1, most)) for most in (10, 5, 5))
    seed = data.draw(st.integers(0, 1000))
    memory, plain = CodeMemory(MemoryShape(inputs, modules, units), seed), Plain(inputs, modules, units, seed)
    apart, items = ListMemory(memory.shape), list[set[int]]()
    counted, bus = [0, 0], 0
    for _ in range(data.draw(st.integers(1, 8))):
        active = sorted(data.draw(st.sets(st.integers(0, inputs - 1), min_size=1)))
        if learns := data.draw(st.booleans()) or not items:
            assert memory.learn(active).tolist() == plain.learn(active)
            bus += apart_accesses(memory.shape, len(items), True).bus_bits
            apart.learn(active)
            items.append(set(active))
        else:
            assert memory.recall(active).tolist() == plain.recall(active)
            shared = [len(item & set(active)) for item in items]
            bus += apart_accesses(memory.shape, len(items), False).bus_bits
            assert apart.recall(active) == shared.index(max(shared))
        found = code_accesses(memory.shape, len(active), learns)
        counted = [counted[0] + found.read_bits, counted[1] + found.written_bits]
    assert [memory.read_bits, memory.written_bits] == [plain.read, plain.written] == counted
    assert apart.bus_bits == bus


def test_accesses_by_hand() -> None:
    shape = MemoryShape(100, 10, 8)
    assert code_accesses(shape, 20, learns=True) == Accesses(1600, 200, 20 * 7 + 10 * 3)
    assert code_accesses(shape, 20, learns=False) == Accesses(1600, 0, 170)
    assert apart_accesses(shape, 50, learns=False) == Accesses(5000, 0, 5000)
    assert apart_accesses(shape, 50, learns=True) == Accesses(0, 100, 100)


def test_a_stored_item_keeps_its_code_and_like_items_get_like_codes() -> None:
    shape = MemoryShape(400, 40, 10)
    shared: dict[int, list[float]] = {kept: [] for kept in (0, 10, 20, 30, 40)}
    for seed in range(12):
        draw = np.random.default_rng(seed)
        item = draw.choice(400, 40, replace=False)
        others = np.setdiff1d(np.arange(400), item)
        for kept, found in shared.items():
            memory = CodeMemory(shape, seed)
            code = memory.learn(item.tolist())
            assert memory.recall(item.tolist()).tolist() == code.tolist()
            like = np.concatenate([item[:kept], draw.choice(others, 40 - kept, replace=False)])
            found.append(overlap(code, memory.learn(like.tolist())))
    means = [float(np.mean(found)) for found in shared.values()]
    assert all(less < more for less, more in pairwise(means))
    assert means[0] == pytest.approx(0.1, abs=0.04), "by chance"
    assert means[-1] == 1.0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="expected 1 or more"):
        MemoryShape(0, 1, 1)
    with pytest.raises(InputError, match="expected up to"):
        MemoryShape(10**6, 1000, 1000)
    memory = CodeMemory(MemoryShape(4, 1, 2))
    for active in ([], [4], [-1], [1, 1]):
        with pytest.raises(InputError, match="different inputs of 0 to 3"):
            memory.learn(active)
    with pytest.raises(InputError, match="found no items"):
        ListMemory(memory.shape).recall([1])
