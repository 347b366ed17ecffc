"""The store of resident neurons against a dictionary, change by change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hw_configs.problems import InputError
from mapping.caching.neuron_store import NeuronStore

CAPACITY, WIDTH = 12, 3


class Store(RuleBasedStateMachine):
    """Random removals and additions; the dictionary knows what each row must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.store = NeuronStore(CAPACITY, WIDTH, np.float32)
        self.known: dict[int, np.ndarray] = {}
        self.bytes = 0
        self.matrix = self.store.matrix

    @rule(neurons=st.lists(st.integers(0, 30), unique=True, max_size=8), value=st.floats(-1e3, 1e3, width=32))
    def append(self, neurons: list[int], value: float) -> None:
        rows = np.array([[value + n] * WIDTH for n in neurons], np.float32).reshape(len(neurons), WIDTH)
        if len(self.known) + len(neurons) > CAPACITY or any(n in self.known for n in neurons):
            with pytest.raises(InputError):
                self.store.append(neurons, rows)
            return
        before = self.store.moved_bytes
        self.store.append(neurons, rows)
        assert self.store.moved_bytes - before == len(neurons) * WIDTH * 4
        self.known.update(zip(neurons, rows, strict=True))

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        gone = data.draw(st.lists(st.sampled_from(sorted(self.known)), unique=True)) if self.known else []
        before = self.store.moved_bytes
        self.store.remove(gone)
        assert self.store.moved_bytes - before <= len(gone) * WIDTH * 4
        for neuron in gone:
            del self.known[neuron]

    @rule(neurons=st.lists(st.integers(0, 30), max_size=10))
    def missing(self, neurons: list[int]) -> None:
        assert self.store.missing(neurons) == [n for n in neurons if n not in self.known]

    @invariant()
    def holds_what_it_should(self) -> None:
        assert self.store.used == len(self.known)
        assert self.store.matrix is self.matrix
        assert set(self.store.neurons[: self.store.used].tolist()) == set(self.known)
        assert (self.store.neurons[self.store.used :] == -1).all()
        for place in range(self.store.used):
            neuron = int(self.store.neurons[place])
            assert (self.store.matrix[place] == self.known[neuron]).all()
            assert (self.store.row(neuron) == self.known[neuron]).all()
            assert neuron in self.store


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_what_cannot_be() -> None:
    with pytest.raises(InputError, match="at least 1 of each"):
        NeuronStore(0, 4)
    store = NeuronStore(2, 4)
    with pytest.raises(KeyError):
        store.remove([3])
    with pytest.raises(InputError, match="shape"):
        store.append([1], np.zeros((1, 3), np.float16))
